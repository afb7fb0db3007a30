"""What the finished rows of a suite wrote on the held-out prompts, read from the store. Nothing is computed.

A row that decodes, such as best-of-n, wrote what its rule picks: each of its samples comes with the probability that it
is the one returned. The supervised start that gains are measured against is a row too, in the suite or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignbench.errors import UserError, in_words, nearest
from alignbench.run.gate import refusal
from alignbench.run.records import record_of
from alignbench.scoring.audit import Answers
from alignbench.scoring.record import Record
from alignbench.store import Store, read_rows
from alignbench.suite.plan import Plan, PlannedCell, PlannedStage

ROWS = "rows.jsonl"  # as `stages.work` names it, whose import takes torch
START = "the supervised start"  # where no row of the suite is that


class Finished(NamedTuple):
    start: str  # label
    answers: list[Answers]
    records: list[Record]  # of the finished rows
    left_out: dict[str, str]  # by row and replicate: why


class _LeftOut(Exception):  # noqa: N818  # no error: it says why
    """Why a row cannot be shown in a replicate."""


def finished(plan: Plan, store: Store) -> Finished:
    """Every row in every replicate whose score and completions are in the store, the start among them."""
    ends = [cell for cell in plan.cells if cell.snapshot is None]
    start = next((cell.label for cell in ends if _is_start(plan, cell)), START)
    starts: dict[int, Answers] = {}
    answers: list[Answers] = []
    records: list[Record] = []
    left_out: dict[str, str] = {}
    for cell in ends:
        try:
            score = _score(plan, cell, store)
            baseline = plan.stage(score.key, "baseline_gold")
            if cell.seed not in starts:
                starts[cell.seed] = _answers(plan, store, start, cell.seed, baseline, None)
            records.append(record_of(plan, cell, store, None))
            if not _is_start(plan, cell):
                rewards = plan.stage(score.key, "gold")
                answers.append(_answers(plan, store, cell.label, cell.seed, rewards, score))
        except _LeftOut as why:
            left_out[f"{cell.label} (seed {cell.seed})"] = str(why)
    return Finished(start, [*starts.values(), *answers], records, left_out)


def chosen(found: Finished, rows: Sequence[str] | None) -> tuple[str, list[Answers]]:
    """The row that others are held against, and what is to be drawn from: the start and all, or those named, of which
    the first is held against. UserError if there are not two of them."""
    have = dict.fromkeys(one.label for one in found.answers)
    for row in rows or ():
        if row not in have:
            why = next((f": {why}" for name, why in found.left_out.items() if name.startswith(f"{row} (seed ")), "")
            raise UserError(f"--rows {row}: no finished row of that name{why or f'; {nearest(row, have)}'}")
    wanted = dict.fromkeys(rows or [found.start, *have])
    against = next(iter(wanted))
    seeds = {one.seed for one in found.answers if one.label == against}
    answers = [one for one in found.answers if one.label in wanted and one.seed in seeds]
    if len({one.label for one in answers}) < 2:
        there = f"'{against}' alone is" if answers else "none is"
        why = next((f"; {name}: {why}" for name, why in found.left_out.items()), "")
        raise UserError(f"a pair needs two finished rows, and {there} there{why or '; name another with --rows'}")
    return against, answers


def _is_start(plan: Plan, cell: PlannedCell) -> bool:
    if cell.score is None or plan.stage(cell.score).options["decoding"] is not None:
        return False
    return plan.stage(cell.score, "completions").key == plan.stage(cell.score, "baseline_gold", "completions").key


def _score(plan: Plan, cell: PlannedCell, store: Store) -> PlannedStage:
    if cell.score is None:
        raise _LeftOut(str(cell.cause))
    if problem := refusal(plan, cell, store):
        raise _LeftOut(problem)
    if store.get(cell.score) is None:
        raise _LeftOut("not finished; `alignbench run` goes on with it")
    return plan.stage(cell.score)


def _answers(
    plan: Plan, store: Store, label: str, seed: int, rewards: PlannedStage, score: PlannedStage | None
) -> Answers:
    """`rewards`: the stage of its gold rewards. `score`: whose decoding rule picks, if any does."""
    written = plan.stage(rewards.key, "completions")
    rows = read_rows(_place(store, written) / ROWS)
    each = int(written.options["per_prompt"])
    gold = _rewards(store, rewards).reshape(-1, each)
    texts = [[str(row["completion"]) for row in rows[at : at + each]] for at in range(0, len(rows), each)]
    chances = np.full(gold.shape, 1 / each)
    if score is not None and score.options["decoding"] is not None:
        chances = _decoded(plan, score, _rewards(store, plan.stage(score.key, "proxy")).reshape(gold.shape))
    return Answers(label, seed, [str(row["prompt"]) for row in rows[::each]], texts, chances, gold)


def _decoded(plan: Plan, score: PlannedStage, proxy: np.ndarray) -> np.ndarray:
    """(P, N) proxy rewards -> (P, N) probability that the row's rule returns each sample."""
    import torch  # here: a rule takes and gives tensors, and no other row needs it

    from alignbench.scoring.evaluate import decoding_weights

    rule = score.options["decoding"]
    plugin = plan.catalog.method(rule["method"])
    try:
        decoding = plugin.cls().decoding(plugin.cls.Config(**rule["config"]))
        return np.asarray(decoding_weights(decoding, torch.tensor(proxy)).double())
    except (Exception, SystemExit) as error:  # a plugin's code
        raise _LeftOut(f"its decoding rule failed: {in_words(error)}") from error


def _rewards(store: Store, stage: PlannedStage) -> np.ndarray:
    """(P * N,) of each completion."""
    return np.array([row["reward"] for row in read_rows(_place(store, stage) / ROWS)], dtype=float)


def _place(store: Store, stage: PlannedStage) -> Path:
    folder = store.get(stage.key)
    if folder is None:
        raise _LeftOut(f"{stage.title} went out of the store; run the suite again")
    return folder
