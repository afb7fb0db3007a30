"""Preference pairs from files or the Hub, and their splits: whole dialogues, in the order of a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from alignbench.api import Pair
from alignbench.errors import UserError
from alignbench.tasks.dialogue import ASSISTANT
from alignbench.tasks.files import rows_of
from alignbench.tasks.formats import COLUMNS, Loaded, pairs_of


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


def load_pairs(
    source: str | Sequence[str], split: str = "train", data_dir: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Loaded:  # fmt: skip
    """All pairs of local files, as `files.rows_of` finds them, or of a split of a data set on the Hub (there `data_dir`
    is a folder in it). `columns`: what the data calls our columns."""
    named = dict(columns or {})
    loaded = pairs_of(rows_of(source, {*COLUMNS, *named.values()}, split, data_dir), named)
    if not loaded.pairs:
        what = source if isinstance(source, str) else ", ".join(source)
        raise UserError(f"{what}: no preference pair in it ({in_words(loaded.left_out) or '0 rows'})")
    return loaded


def in_words(counts: Mapping[str, int]) -> str:
    """'3 rows with equal answers, 160 prompts over 600 characters'."""
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


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
