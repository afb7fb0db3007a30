"""What a table tells of tuning: each row at its best setting, what finding that took, and the cost of a target.

    found = tunings(ends_and_snapshots)         # None: no row has two settings, so nothing was tuned
    section(found)

Numbers are `scoring.tuned`'s and `scoring.frontier.to_target`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from alignbench.report import verdicts
from alignbench.report.columns import NONE
from alignbench.report.escape import for_markdown
from alignbench.scoring.crossed import FEWEST_REPLICATES, estimate
from alignbench.scoring.frontier import Target, to_target
from alignbench.scoring.record import Record, parted
from alignbench.scoring.stats import CONFIDENCE
from alignbench.scoring.tuned import Tuned, best_tuned

HEADING = "Best tuned"
TARGET = 0.5  # standard deviations of the start's gold
AXES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("seconds", "Seconds", "{:,.0f}".format),
    ("flops", "TFLOPs", lambda count: f"{count / 1e12:,.3g}"),
    ("labels_human", "Human labels", "{:,.0f}".format),
)


class Tunings(NamedTuple):
    """Rows that were tuned, and those that had nothing to tune beside them."""

    rows: dict[str, dict[int, Tuned]]  # by row and seed
    target: float | None  # points of gain; None where records don't tell the start's spread
    to_target: dict[str, dict[str, dict[int, Target]]]  # by axis, row and seed
    said: verdicts.Claims  # of whole rows, on the prompts that did not choose


def tunings(records: Sequence[Record], confidence: float = CONFIDENCE) -> Tunings | None:
    """`records`: a suite's ends and snapshots. UserError as `best_tuned`."""
    ends, _ = parted(records)
    scored = max((len(r.per_prompt.get("reward_gold_gain", ())) for r in ends), default=0)
    labels = {(r.label, r.knob.name) for r in ends if r.knob is not None}
    if scored < 2 or len(labels) < 2:
        return None
    rows = best_tuned(ends)
    if all(len(tuned.trials) < 2 for by_seed in rows.values() for tuned in by_seed.values()):
        return None
    spreads = [r.context.start_gold_sd for r in ends if r.context.start_gold_sd]
    target = TARGET * fmean(spreads) if spreads else None
    allowed = {(label, seed) for by_seed in rows.values() for seed, tuned in by_seed.items() for label in tuned.trials}
    trials = [record for record in records if (record.label, record.seed) in allowed]
    told = [axis for axis, _, _ in AXES if any(getattr(r.cost.total, axis) is not None for r in ends)]
    reached = {} if target is None else {axis: to_target(trials, target, axis) for axis in told}
    return Tunings(rows, target, reached, _claims(ends, rows, confidence))


def _untuned(rows: dict[str, dict[int, Tuned]]) -> tuple[str, ...]:
    """Beside two tuned rows or more, those of one setting but the start, which gains nothing by definition."""
    one = [row for row, by_seed in rows.items() if all(len(tuned.trials) < 2 for tuned in by_seed.values())]
    moved = [row for row in one if any(any(tuned.values or ()) for tuned in rows[row].values())]
    return tuple(moved) if len(rows) - len(one) > 1 else ()


def _claims(ends: Sequence[Record], rows: dict[str, dict[int, Tuned]], confidence: float) -> verdicts.Claims:
    alone = _untuned(rows)
    values = {row: {seed: t.values for seed, t in by_seed.items() if t.values} for row, by_seed in rows.items()}
    whole = {row: by_seed for row, by_seed in values.items() if len(by_seed) == len(rows[row]) and row not in alone}
    return verdicts.judged(whole, verdicts.delta_of(ends), confidence, on="gain of the best setting")


def section(found: Tunings, confidence: float = CONFIDENCE, *, is_brief: bool = False) -> list[str]:
    """Lines of Markdown: a heading, the table, and below it the rule and what is claimed; `is_brief` as in
    `verdicts.lines`."""
    by_target = [f"{name} to {found.target:+.2f}" for axis, name, _ in AXES if axis in found.to_target]
    heads = ["Method", "Trials", "Gain", "Chosen", *by_target, "Tuning: seconds / TFLOPs"]
    table = [heads, ["---", *("---:" for _ in heads[1:])]]
    for row, by_seed in found.rows.items():
        costs = [
            _reached(found.to_target[axis].get(row, {}), shown) for axis, _, shown in AXES if axis in found.to_target
        ]
        trials = max(len(tuned.trials) for tuned in by_seed.values())
        table.append(
            [for_markdown(row), str(trials), _gain(by_seed, confidence), for_markdown(_chosen(row, by_seed)), *costs,
             _spent(by_seed)]
        )  # fmt: skip
    return [
        f"{HEADING}:", "",
        *(f"| {' | '.join(cells)} |" for cells in table), "",
        *(f"- {for_markdown(note)}" for note in _notes(found, confidence, is_brief)), "",
    ]  # fmt: skip


def _gain(by_seed: dict[int, Tuned], confidence: float) -> str:
    values = [tuned.values for tuned in by_seed.values() if tuned.values is not None]
    if len(values) < len(by_seed):
        return NONE
    mean = f"{float(np.mean(values)):+z.2f}"
    if len(values) < FEWEST_REPLICATES or not np.any(values):
        return mean
    ends = estimate(values, confidence)
    return f"{mean} [{ends.low:z.2f}, {ends.high:z.2f}]"


def _chosen(row: str, by_seed: dict[int, Tuned]) -> str:
    """`beta=0.1 (4), beta=0.3 (1)`: how many replicates chose it."""
    counted = Counter(t.label.removeprefix(row).strip() for t in by_seed.values() if t.label and len(t.trials) > 1)
    return ", ".join(f"{label} ({count})" for label, count in counted.most_common()) or NONE


def _reached(targets: dict[int, Target], shown: Callable[[float], str]) -> str:
    places = [target.x for target in targets.values() if target.x is not None]
    if not places:
        return "not reached" if any(target.why.startswith("not reached") for target in targets.values()) else NONE
    return shown(fmean(places)) + ("" if len(places) == len(targets) else f" ({len(places)} of {len(targets)})")


def _spent(by_seed: dict[int, Tuned]) -> str:
    """Of all replicates' trials: each is a study of its own."""
    parts: list[str] = []
    for axis, _, shown in AXES[:2]:
        spent = [getattr(tuned.cost, axis) for tuned in by_seed.values() if len(tuned.trials) > 1]
        parts.append(NONE if not spent or None in spent else shown(sum(spent)))
    return NONE if set(parts) == {NONE} else " / ".join(parts)


def _notes(found: Tunings, confidence: float, is_brief: bool) -> Iterator[str]:
    most = max(len(tuned.trials) for by_seed in found.rows.values() for tuned in by_seed.values())
    yield (
        "Each replicate chooses a row's setting on every second held-out prompt, and the gain is told on the others; "
        f"every row that was swept over two values or more has the same number of trials, {most}. Tuning: the trials' "
        "own stages, all replicates together."
    )
    if found.target is not None:
        yield (
            f"{found.target:+.2f} is half a standard deviation of the start's gold. The cost of it is the least at "
            "which one of these trials, or a snapshot of it, was measured there, with every stage it rests on, the "
            "mean over the replicates that got there."
        )
    if alone := _untuned(found.rows):
        yield f"Nothing was tuned of {', '.join(alone)}: they are compared at their one setting, above, and not here."
    if found.said.verdicts:
        yield from verdicts.lines(found.said, confidence, is_brief=is_brief)
    for row, by_seed in found.rows.items():
        for seed, tuned in by_seed.items():
            for failure in tuned.failed:
                yield f"{row}, seed {seed}: a trial without a score, {failure}"
