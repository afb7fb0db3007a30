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


def opening_of(pair: Pair) -> str:
    """What tells a dialogue from others: its prompt up to the first answer."""
    return pair.prompt.split(ASSISTANT, 1)[0]


def pair_splits(pairs: Sequence[Pair], seed: int, shares: Shares, test: Sequence[Pair] | None = None) -> PairSplits:
    """Deal whole dialogues in the order of their hash. `test`: what `eval` and `held_out` are dealt from in place of
    `pairs`, all of it, in the proportion of their shares; a dialogue of it is not
    trained on, and the others are dealt in the proportion of the remaining three. UserError if a part is empty."""
    if min(shares) <= 0 or sum(shares) > 1 + 1e-9:
        raise UserError(f"shares {tuple(shares)}: each must be above 0, and their sum at most 1")
    if test is None:
        return PairSplits(**_dealt(pairs, seed, shares._asdict()))
    kept = {opening_of(pair) for pair in test}
    scoring = {name: share for name, share in shares._asdict().items() if name in ("eval", "held_out")}
    training = {name: share for name, share in shares._asdict().items() if name not in scoring}
    others = [pair for pair in pairs if opening_of(pair) not in kept]
    return PairSplits(**_dealt(others, seed, _whole(training)), **_dealt(test, seed, _whole(scoring)))


def _whole(shares: Mapping[str, float]) -> dict[str, float]:
    return {name: share / sum(shares.values()) for name, share in shares.items()}


def _dealt(pairs: Sequence[Pair], seed: int, shares: Mapping[str, float]) -> dict[str, list[Pair]]:
    openings = {opening_of(pair) for pair in pairs}
    order = sorted(openings, key=lambda opening: hashlib.sha256(f"{seed}\n{opening}".encode()).digest())
    bounds = [round(share * len(order)) for share in accumulate(shares.values())]
    part_of = {
        opening: part
        for part, start, end in zip(shares, [0, *bounds], bounds, strict=False)
        for opening in order[start:end]
    }
    parts: dict[str, list[Pair]] = {name: [] for name in shares}
    for pair in pairs:
        if (part := part_of.get(opening_of(pair))) is not None:
            parts[part].append(pair)
    if empty := [name for name, part in parts.items() if not part]:
        raise UserError(
            f"{len(order)} different prompts leave {', '.join(empty)} empty: bring more data, or other shares"
        )
    return parts
