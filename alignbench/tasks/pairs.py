"""Preference pairs in any of TRL's formats, from the Hub or a local file, as (prompt, chosen, rejected) strings.

Read are standard and conversational rows, with an explicit prompt or with one that both completions share. Messages are
rendered in the transcript form of Anthropic's HH data (Bai et al. 2022, arXiv:2204.05862), which needs no chat template
and so suits a base model too. Texts are data: control characters stay as they are.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from alignbench.api import Pair
from alignbench.errors import UserError, nearest
from alignbench.store.paths import is_hub_id

ASSISTANT = "\n\nAssistant:"
TURNS = {"system": "\n\nSystem:", "user": "\n\nHuman:", "assistant": ASSISTANT}
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
WANTED = "wanted: chosen, rejected and, unless they share it, prompt"

Row = Mapping[str, Any]


class Loaded(NamedTuple):
    pairs: list[Pair]
    dropped: int  # rows whose completions are equal, or of which one is empty


class Shares(NamedTuple):
    """Fractions of the prompts, in sum at most 1."""

    train: float
    label: float
    eval: float
    gold: float
    held_out: float


class PairSplits(NamedTuple):
    """No prompt, and no dialogue that opens alike, is in two of them."""

    train: list[Pair]
    label: list[Pair]
    eval: list[Pair]
    gold: list[Pair]
    held_out: list[Pair]


def load_pairs(source: str, split: str = "train", data_dir: str | None = None) -> Loaded:
    """All pairs of a local file, or of a split of a data set on the Hub (there `data_dir` is a folder in it)."""
    path = Path(source).expanduser()
    if path.exists() or source.endswith(SUFFIXES) or not is_hub_id(source):
        rows = _local_rows(path)
    else:
        rows = _hub_rows(source, split, data_dir)
    pairs, dropped = [], 0
    for where, row in rows:
        pair = _pair(row, where)
        if pair.chosen == pair.rejected or not pair.chosen.strip() or not pair.rejected.strip():
            dropped += 1
        else:
            pairs.append(pair)
    if not pairs:
        raise UserError(f"{source}: no preference pair in it ({dropped} rows with equal or empty completions)")
    return Loaded(pairs, dropped)


def pair_splits(pairs: Sequence[Pair], seed: int, shares: Shares) -> PairSplits:
    """Deal whole dialogues, told by the text up to the first answer, in the order of their hash."""
    if min(shares) <= 0 or sum(shares) > 1 + 1e-9:
        raise UserError(f"shares {tuple(shares)}: each must be above 0, and their sum at most 1")
    openings = {pair.prompt.split(ASSISTANT, 1)[0] for pair in pairs}
    order = sorted(openings, key=lambda opening: hashlib.sha256(f"{seed}\n{opening}".encode()).digest())
    bounds = [round(share * len(order)) for share in accumulate(shares)]
    part_of = {
        opening: part
        for part, (start, end) in enumerate(zip([0, *bounds], bounds, strict=False))
        for opening in order[start:end]
    }
    parts = PairSplits([], [], [], [], [])
    for pair in pairs:
        part = part_of.get(pair.prompt.split(ASSISTANT, 1)[0])
        if part is not None:
            parts[part].append(pair)
    empty = [name for name, part in zip(PairSplits._fields, parts, strict=True) if not part]
    if empty:
        raise UserError(
            f"{len(order)} different prompts leave {', '.join(empty)} empty: bring more data, or other shares"
        )
    return parts


# -------------------------------------------------------------------------------------------------------------- reading


def _local_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows, each with the words that locate it in an error."""
    if not path.is_file():
        parent = path.parent
        names = [other.name for other in parent.iterdir() if other.is_file()] if parent.is_dir() else []
        near = nearest(path.name, [name for name in names if name.endswith(SUFFIXES)])
        raise UserError(f"{path}: no such file, and not a Hub id `owner/name`; in its folder: {near}")
    if path.name.endswith(".parquet"):
        return _parquet_rows(path)
    if path.name.endswith(SUFFIXES):
        return _jsonl_rows(path)
    raise UserError(f"{path}: unknown kind of file; allowed: {', '.join(SUFFIXES)}")


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    raise UserError(f"{path}, line {number}: not JSON; one object a line is wanted") from None
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {number}: a JSON {type(row).__name__}, not an object; {WANTED}")
                yield f"{path}, line {number}", row
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{path}: damaged gzip file: copy or download it again") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, UnicodeDecodeError):
        raise UserError(f"{path}: not a readable parquet file: copy or download it again") from None
    return ((f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))


def _hub_rows(hub_id: str, split: str, data_dir: str | None) -> Iterator[tuple[str, Row]]:
    import datasets  # seconds to import

    try:
        rows = datasets.load_dataset(hub_id, split=split, data_dir=data_dir)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # offline, unknown id, unknown split
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"data set '{hub_id}', split '{split}', data_dir '{data_dir or ''}': {reason}; "
            "check the three names and the network, or name a local file"
        ) from None
    return ((f"{hub_id}, row {number}", row) for number, row in enumerate(rows, start=1))


# -------------------------------------------------------------------------------------------------------------- formats


def _pair(row: Row, where: str) -> Pair:
    for column in ("chosen", "rejected"):
        if column not in row:
            seen = ", ".join(repr(str(name)[:40]) for name in list(row)[:12])  # names are hostile text too
            raise UserError(f"{where}: no column '{column}'; seen: {seen or 'none'}; {WANTED}")
    values = [row[column] for column in ("prompt", "chosen", "rejected") if row.get(column) is not None]
    has_prompt = row.get("prompt") is not None
    if len(values) == 2 + has_prompt and all(isinstance(value, str) for value in values):
        texts = [_without_surrogates(value) for value in values]
        return Pair(*texts) if has_prompt else _cut_text(*texts)
    if len(values) == 2 + has_prompt and all(isinstance(value, list) for value in values):
        dialogues = [[_turn(message, where) for message in value] for value in values]
        prompt, chosen, rejected = dialogues if has_prompt else _share(*dialogues)
        return _cut_dialogue(prompt, chosen, rejected, where)
    kinds = ", ".join(f"{name} {type(row[name]).__name__}" for name in Pair._fields if name in row)
    raise UserError(
        f"{where}: columns must be all texts or all lists of messages, not {kinds}: mend or drop the odd one"
    )


def _equal_items(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Length of the shared start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _cut_text(chosen: str, rejected: str) -> Pair:
    """Split off the shared start: a transcript ends it with "Assistant:", any other text before a word's space."""
    common = chosen[: _equal_items(chosen, rejected)]
    cut = common.rfind(ASSISTANT)
    if cut >= 0:
        cut += len(ASSISTANT)
    else:
        spaces = [place for place, letter in enumerate(common) if letter.isspace()]
        cut = len(common[: spaces[-1]].rstrip()) if spaces else 0
    return Pair(common[:cut], chosen[cut:], rejected[cut:])


class _Turn(NamedTuple):
    role: str
    text: str


def _share(chosen: list[_Turn], rejected: list[_Turn]) -> tuple[list[_Turn], list[_Turn], list[_Turn]]:
    """Prompt and completions of two dialogues: they part at the last assistant's turn before which all is equal."""
    for cut in range(min(_equal_items(chosen, rejected), len(chosen) - 1, len(rejected) - 1), 0, -1):
        if chosen[cut].role == rejected[cut].role == "assistant":
            return chosen[:cut], chosen[cut:], rejected[cut:]
    return [], chosen, rejected


def _cut_dialogue(prompt: list[_Turn], chosen: list[_Turn], rejected: list[_Turn], where: str) -> Pair:
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns and turns[0].role != "assistant":
            seen = f"{name} opens with role '{turns[0].role}'"
            raise UserError(f"{where}: after the prompt, {seen}; a message of role 'assistant' is wanted")
    completions = [_render(turns).removeprefix(ASSISTANT) for turns in (chosen, rejected)]
    return Pair(_render(prompt) + ASSISTANT, *completions)


def _turn(message: Any, where: str) -> _Turn:
    if not isinstance(message, dict) or not isinstance(message.get("content"), str):
        raise UserError(f'{where}: a message must be {{"role": ..., "content": text}}, not {str(message)[:60]!r}')
    if message.get("role") not in TURNS:
        raise UserError(f"{where}: unknown role {str(message.get('role'))[:40]!r}; {nearest('', TURNS)}")
    return _Turn(message["role"], _without_surrogates(message["content"]))


def _render(turns: Sequence[_Turn]) -> str:
    return "".join(f"{TURNS[turn.role]} {turn.text}" if turn.text else TURNS[turn.role] for turn in turns)


def _without_surrogates(text: str) -> str:
    """JSON may hold half a surrogate pair, which no tokenizer or file can encode."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
