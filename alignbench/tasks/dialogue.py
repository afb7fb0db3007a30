"""Messages to text: the transcript form of Anthropic's HH data (Bai et al. 2022, arXiv:2204.05862).

It needs no chat template and so suits a base model too. Calls of tools are told as JSON, answers of tools as turns of
their own. Texts are data: control characters stay as they are.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from alignbench.errors import UserError, nearest, printable

ASSISTANT = "\n\nAssistant:"
TURNS = {
    "system": "\n\nSystem:",
    "developer": "\n\nSystem:",  # OpenAI's later name for it
    "user": "\n\nHuman:",
    "assistant": ASSISTANT,
    "tool": "\n\nTool:",
}
TOOLS = "\n\nTools:"  # what may be called, before the first turn


class Turn(NamedTuple):
    role: str
    text: str


def turns_of(value: object, where: str) -> list[Turn] | None:
    """Messages, also as the JSON or Python text that a CSV holds them as. None: it is another kind of value."""
    if isinstance(value, str):
        value = _messages_in(value)
    if not isinstance(value, list):
        return None
    return [_turn(message, where) for message in value]


def render(turns: Sequence[Turn]) -> str:
    return "".join(f"{TURNS[turn.role]} {turn.text}" if turn.text else TURNS[turn.role] for turn in turns)


def tools_in_words(tools: object) -> str:
    """What a row's column `tools` says may be called; nothing where it says nothing."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            return f"{TOOLS} {whole_characters(tools)}" if isinstance(tools, str) and tools.strip() else ""
    return f"{TOOLS} {_as_json(tools)}" if tools else ""


def whole_characters(text: str) -> str:
    """JSON may hold half a surrogate pair, which no tokenizer or file can encode."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _messages_in(text: str) -> object:
    """What `[{"role": ...}]` or `[{'role': ...}]` says; any other text is None."""
    if not re.match(r"\s*\[\s*\{\s*['\"](role|content)['\"]\s*:", text):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and all(isinstance(message, dict) and "role" in message for message in found):
            return found
    return None


def _turn(message: object, where: str) -> Turn:
    if not isinstance(message, dict):
        raise UserError(
            f'{where}: a message must be {{"role": ..., "content": text}}, not {printable(repr(message), 60)}'
        )
    role = message.get("role")
    if not isinstance(role, str) or role not in TURNS:
        raise UserError(f"{where}: unknown role {printable(repr(role), 40)}; {nearest('', TURNS)}")
    calls = [_call(call, where) for call in message.get("tool_calls") or ()]
    return Turn(role, "\n".join(part for part in (_content(message.get("content"), where), *calls) if part))


def _content(content: object, where: str) -> str:
    """A text, none, or parts that are text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return whole_characters(content)
    if not isinstance(content, list):
        problem = f"content is {type(content).__name__}; a text, null or a list of text parts is wanted"
        raise UserError(f"{where}: a message's {problem}")
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise UserError(
                f"{where}: a part of type {printable(repr(kind), 40)} in a message; parts of text alone are read"
            )
    return "".join(whole_characters(part["text"]) for part in content)


def _call(call: object, where: str) -> str:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UserError(f"{where}: a tool call without a function's name: {printable(repr(call), 60)}")
    return _as_json({"name": function["name"], "arguments": _plain(function.get("arguments"))})


def _plain(arguments: object) -> object:
    """Arguments are often JSON in a text; parquet gives all calls the union of their fields, absent ones as null."""
    if isinstance(arguments, str):
        try:
            return json.loads(arguments)
        except (ValueError, RecursionError):
            return arguments
    if isinstance(arguments, Mapping):
        return {name: value for name, value in arguments.items() if value is not None}
    return arguments


def _as_json(value: object) -> str:
    return whole_characters(json.dumps(value, ensure_ascii=False, default=str))
