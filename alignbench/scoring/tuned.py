"""The best-tuned view: each method's knob is chosen on some held-out prompts and told on the others.

    best_tuned(records)["dpo"][0].gain

Whoever takes the best of several settings and quotes the numbers it was the best by flatters, the more the more
settings there were. So every method gets the same number of trials, and half of the prompts choose: they come in one
order for all records, and every second one, from the first on, is of the validation half, so that the halves are alike.
Each replicate is a study of its own: it chooses on its own, and pays for its own trials.

Equal trials: the smallest number of knob values that any swept row has. A row with more gets that many of them, evenly
spread over its sorted values, both ends included. A row with one value only was not tuned: it is told as it stands, and
does not bring the others down to one trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from alignbench.errors import UserError
from alignbench.scoring.record import Ledger, Record, parted
from alignbench.scoring.traces import fault_of, prompts_of, row_of

VALIDATION, TEST = slice(0, None, 2), slice(1, None, 2)

Setting = tuple[float, str]  # the knob's value, and the label, which parts settings of one value


class Tuned(NamedTuple):
    """A row's best setting in one replicate. `label`, `values` and `gain` are None where every trial failed."""

    label: str | None  # of the setting that was chosen, "dpo beta=0.1"
    values: tuple[float, ...] | None  # (P told,) its gold gain over the start, on the prompts that did not choose
    gain: float | None  # their mean, in gold points
    trials: tuple[str, ...]  # labels of the settings it was chosen from
    failed: tuple[str, ...]  # those of them that failed, each with its cause: trials like the others, and paid for
    cost: Ledger  # of tuning: the trials' marginal costs added up, their highest peak; None where one is unknown


def best_tuned(
    records: Iterable[Record], chosen_on: slice = VALIDATION, told_on: slice = TEST
) -> dict[str, dict[int, Tuned]]:
    """By row and seed, from the rows' ends: snapshots are no trials of their own and are left out.

    Of settings that tie, the one of the smallest knob value is taken. UserError if a prompt would both choose and be
    told, if there is none to do either, or if the records differ in their number of prompts.
    """
    ends, _ = parted(records)
    _check_halves(prompts_of(ends), chosen_on, told_on)
    rows: dict[str, dict[Setting, dict[int, Record]]] = {}
    for record in ends:
        by_seed = rows.setdefault(row_of(record), {}).setdefault(_setting(record), {})
        if record.seed in by_seed:
            raise UserError(f"'{record.label}' seed {record.seed} is there twice; give each record once")
        by_seed[record.seed] = record
    fewest = min((len(settings) for settings in rows.values() if len(settings) > 1), default=1)
    seeds = sorted({record.seed for record in ends})
    found: dict[str, dict[int, Tuned]] = {}
    for row, settings in rows.items():
        allowed = _spread(sorted(settings), fewest)
        for seed in seeds:
            trials = {setting[1]: settings[setting].get(seed) for setting in allowed}
            found.setdefault(row, {})[seed] = _chosen(trials, chosen_on, told_on)
    return found


def _setting(record: Record) -> Setting:
    return (0.0 if record.knob is None else float(record.knob.value), record.label)


def _spread(settings: Sequence[Setting], count: int) -> list[Setting]:
    """`count` of the settings, evenly over their order, ends included."""
    if len(settings) <= count:
        return list(settings)
    return [settings[round(place)] for place in np.linspace(0, len(settings) - 1, count)]


def _check_halves(prompts: int, chosen_on: slice, told_on: slice) -> None:
    choosing, telling = set(range(prompts)[chosen_on]), set(range(prompts)[told_on])
    if not choosing or not telling:
        raise UserError(f"{prompts} held-out prompts leave none to choose on or none to tell; score at least two")
    if choosing & telling:
        raise UserError(f"prompt {min(choosing & telling)} would both choose the knob and be told; part the two")


def _chosen(trials: dict[str, Record | None], chosen_on: slice, told_on: slice) -> Tuned:
    """`trials`: by label; None where a replicate has no such record."""
    faults = {label: "no record" if record is None else fault_of(record) for label, record in trials.items()}
    failed = tuple(f"{label}: {fault}" for label, fault in faults.items() if fault)
    gains = {
        label: record.per_prompt["reward_gold_gain"]
        for label, record in trials.items()
        if record is not None and not faults[label]
    }
    cost = tuning_cost(list(trials.values()))
    if not gains:
        return Tuned(None, None, None, tuple(trials), failed, cost)
    best = max(gains, key=lambda label: np.mean(gains[label][chosen_on]))
    told = tuple(gains[best][told_on])
    return Tuned(best, told, float(np.mean(told)), tuple(trials), failed, cost)


def tuning_cost(trials: Sequence[Record | None]) -> Ledger:
    """What all trials cost on top of the stages that rows share. Settings that share samples, as best-of-n's do, are
    charged for them once a trial."""
    spent = [Ledger() if record is None else record.cost.marginal for record in trials]
    columns = {name: [getattr(ledger, name) for ledger in spent] for name in Ledger.model_fields}
    totals = {
        name: None if None in column else (max if name == "peak_bytes" else sum)(column)
        for name, column in columns.items()
    }
    return Ledger(**totals)
