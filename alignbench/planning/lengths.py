"""Holds a task's texts against the model's tokenizer before anything is computed.

    refuse_too_long(suite, task)        # UserError: prompts that the window cannot hold
    alike_once_cut(suite, task)         # human pairs that training could not tell apart

A byte-level tokenizer makes no more tokens of a text than it has bytes, so few texts have to be tokenised at all.
"""

from __future__ import annotations

import json
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from alignbench.api import Pair, Task
from alignbench.assets.models import resolve_model
from alignbench.stages.human_comparisons import HUMAN
from alignbench.suite.spec import Suite

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Reader(NamedTuple):
    tokenizer: Tokenizer
    window: int  # tokens

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def first(self, text: str, most: int) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids[:most]


def reader_of(model: str) -> Reader | None:
    """None: the model is on the Hub, or its tokenizer is no tokenizer.json; its stages will say what does not fit."""
    folder = resolve_model(model)
    if isinstance(folder, str) or not (folder / "tokenizer.json").is_file():
        return None
    from tokenizers import Tokenizer

    try:
        window = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
        return Reader(Tokenizer.from_file(str(folder / "tokenizer.json")), window or 10**9)
    except Exception:  # whatever a broken folder raises: the model does not load either, which says more
        return None


def refuse_too_long(suite: Suite, task: Task, reader: Reader) -> None:
    """UserError that names the longest prompt and the options to turn."""
    room = reader.window - max(task.max_new_tokens, task.max_completion_tokens) - 1  # of BOS
    prompts = task.every_prompt()
    counts = {text: reader.count(text) for text in prompts if len(text.encode(errors="replace")) > room}
    long = {text: count for text, count in counts.items() if count > room}
    if long:
        chars = min(map(len, long)) - 1
        is_option = "max_prompt_chars" in type(task.config).model_fields
        or_fewer = f", or set max_prompt_chars to {chars}," if is_option and len(long) < len(prompts) else ""
        raise suite.error(
            f"{len(long)} of {len(prompts)} prompts do not fit the model's window of {reader.window} tokens beside "
            f"{reader.window - room - 1} of an answer (the longest has {max(long.values())}); lower max_new_tokens"
            f"{or_fewer} in task.options",
            "task",
        )


def alike_once_cut(suite: Suite, task: Task, reader: Reader) -> str:
    """How many of the human pairs that are learned from have answers alike as far as they are read, in words; nothing
    where there is none. UserError where all are: nothing could be learned."""
    most = task.max_completion_tokens
    counts = [each.pairs if each.source == HUMAN else each.human_pairs for each in suite.all_comparisons]
    pairs = task.human_pairs(max(counts), suite.data_seed) if max(counts) else []
    alike = sum(_is_alike(pair, most, reader) for pair in pairs)
    if alike and alike == len(pairs):
        raise suite.error(
            f"all of {alike} human pairs have answers that are alike in the {most} tokens that are read of one; "
            "raise max_new_tokens in task.options",
            "task",
        )
    return f"{alike} of {len(pairs)} human pairs have answers alike in the {most} tokens read" if alike else ""


def _is_alike(pair: Pair, most: int, reader: Reader) -> bool:
    sides = zip(pair.chosen, pair.rejected, strict=False)
    shared = "".join(one for one, _ in takewhile(lambda both: both[0] == both[1], sides))
    if len(shared.encode(errors="replace")) < most:
        return False
    return reader.first(pair.chosen, most) == reader.first(pair.rejected, most)
