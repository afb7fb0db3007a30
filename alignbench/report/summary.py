"""Records to one row of numbers per label: means over replicates, intervals, costs. All of it goes into table.csv.

From three replicates on an interval holds over other replicates and other prompts (`scoring.crossed`); with fewer it
is a percentile bootstrap over prompts, speaks of this run alone, and no rows are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from alignbench.errors import UserError
from alignbench.scoring.crossed import FEWEST_REPLICATES, estimate
from alignbench.scoring.record import COUNTS, ENUMERATED, METRICS, PER_PROMPT, Ledger, Record
from alignbench.scoring.stats import CONFIDENCE, RESAMPLES, interval_of_mean, wilson

TEXT = ("label", "method", "distribution", "version", "knob", "proxy", "seeds")
LEDGER = tuple(Ledger.model_fields)


def summarise(records: Sequence[Record], confidence: float = CONFIDENCE, resamples: int = RESAMPLES) -> pd.DataFrame:
    """One row per label in first-seen order: means over the seeds that ended well, with `_low` and `_high` where there
    is an interval; costs as `_marginal` and `_total`; what was enumerated, if anything was, with the `_min` and `_max`
    of its seeds. What does not exist is NaN."""
    names = ENUMERATED if any(set(ENUMERATED) & set(record.metrics) for record in records) else ()
    rows = [_summary(label, group, confidence, resamples, names) for label, group in _by_label(records).items()]
    columns = list(rows[0] if rows else _summary("", [], confidence, resamples, names))
    frame = pd.DataFrame(rows, columns=columns, dtype=object)  # hostile text may not fit pandas' own text type
    return frame.astype({name: int if name == "seeds_failed" else float for name in columns if name not in TEXT})


def _by_label(records: Iterable[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        group = groups.setdefault(record.label, [])
        if twin := next((other for other in group if other.seed == record.seed), None):
            suites = " and ".join(dict.fromkeys((twin.suite, record.suite)))
            raise UserError(f"'{record.label}' seed {record.seed} is there twice (suite {suites}); keep one of them")
        group.append(record)
    return groups


def _summary(
    label: str, group: Sequence[Record], confidence: float, resamples: int, enumerated: Sequence[str]
) -> dict[str, Any]:
    done = [record for record in group if record.status == "ok"]
    first = group[0].model_dump(include={"method", "distribution", "version"}) if group else {}
    knob = group[0].knob if group else None
    row: dict[str, Any] = {"label": label} | {
        name: first.get(name, "") for name in ("method", "distribution", "version")
    }
    row |= {"knob": knob.name if knob else "", "knob_value": knob.value if knob else None}
    row["proxy"] = next((record.proxy for record in done if record.proxy), "")
    row["seeds"] = " ".join(str(record.seed) for record in done)
    row["seeds_failed"] = len(group) - len(done)
    for name in dict.fromkeys((*METRICS, *PER_PROMPT)):
        row[name] = _mean(record.metrics.get(name) for record in done)
        if name in PER_PROMPT:
            row |= _prompt_interval(name, row[name], done, confidence, resamples)
        elif name in COUNTS:
            row |= _count_interval(name, row[name], done, confidence)
    for name in enumerated:
        values = [record.metrics.get(name) for record in done]
        row |= {name: _mean(values), f"{name}_min": _min(values), f"{name}_max": _max(values)}
    for name in LEDGER:
        for scope in ("marginal", "total"):
            spent = [getattr(getattr(record.cost, scope), name) for record in done]
            row[f"{name}_{scope}"] = _max(spent) if name == "peak_bytes" else _mean(spent)
    return row


def _prompt_interval(
    name: str, mean: float | None, done: Sequence[Record], confidence: float, resamples: int
) -> dict[str, Any]:
    values = [record.per_prompt[name] for record in done if record.per_prompt.get(name)]
    if len({len(prompts) for prompts in values}) > 1:
        raise UserError(f"the seeds of '{done[0].label}' were scored on different numbers of prompts; run them again")
    if len(values) >= FEWEST_REPLICATES:
        return _with_ends(name, *estimate(values, confidence)[:3])
    if not values or len(values[0]) < 2:
        return _with_ends(name, _mean(prompts[0] for prompts in values) if values else mean)
    return _with_ends(name, *interval_of_mean(values, confidence, resamples))


def _count_interval(name: str, mean: float | None, done: Sequence[Record], confidence: float) -> dict[str, Any]:
    """Every replicate judges the same held-out pairs, so they are averaged and do not add to the number of trials.
    Wilson's interval takes whole hits; the share itself keeps its halves. From three replicates on it is the interval
    over them, if that is the wider one: there are other pairs and other replicates."""
    counts = [record.counts[name] for record in done if record.counts.get(name, (0, 0))[1]]
    if not counts:
        return _with_ends(name, mean)
    shares = [hits / n for hits, n in counts]
    share, fewest = sum(shares) / len(shares), min(n for _, n in counts)
    ends = wilson(round(share * fewest), fewest, confidence)[1:]
    if len(shares) >= FEWEST_REPLICATES:
        over = estimate([[each] for each in shares], confidence)
        ends = max(ends, (max(0.0, over.low), min(1.0, over.high)), key=lambda both: both[1] - both[0])
    return _with_ends(name, share, *ends)


def _with_ends(name: str, mean: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def _min(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _max(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
