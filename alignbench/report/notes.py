"""What stands below a table, beside its legend: failures, remarks on single rows, and the context of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from alignbench.report.escape import for_markdown
from alignbench.scoring.record import Context, Record, spent

# Of every reward model that is fitted here: it is the start, or the base, with an adapter and a head of its own.
FAMILY = "fitted reward models grow from the policy's own base model, so the two may be wrong about the same texts"


def failures(records: Sequence[Record]) -> list[str]:
    """One line of Markdown for each cell that failed."""
    return [for_markdown(f"{r.label}, seed {r.seed}: {r.cause}") for r in records if r.status == "failed"]


def remarks(records: Sequence[Record]) -> list[str]:
    """A line of plain text for each cell whose policy was not trained as far as the suite allows, or not at all, or
    about which the two golds disagree."""
    found = ((record, [*_remarks(record), *_disagreement(record)]) for record in records)
    return [
        *_allowances(records),
        *_labels(records),
        *(f"{r.label}, seed {r.seed}: {'; '.join(said)}" for r, said in found if said),
    ]


def _allowances(records: Sequence[Record]) -> list[str]:
    """Where rows were not allowed the same steps."""
    rows: dict[int, dict[str, None]] = {}
    for record in records:
        if record.training is not None and record.snapshot is None:
            rows.setdefault(record.training.max_steps, {})[record.label] = None
    if len(rows) < 2:
        return []
    allowed = "; ".join(f"{steps}: {', '.join(labels)}" for steps, labels in sorted(rows.items()))
    return [f"Rows were allowed different numbers of optimiser steps ({allowed}), and what parts them may be that"]


def _labels(records: Sequence[Record]) -> list[str]:
    """Where rows did not learn from the same comparisons."""
    rows: dict[str, dict[str, None]] = {}
    for record in records:
        if record.context.comparisons and record.snapshot is None:
            rows.setdefault(record.context.comparisons, {})[record.label] = None
    if len(rows) < 2:
        return []
    learned = "; ".join(f"{words}: {', '.join(labels)}" for words, labels in rows.items())
    return [f"Rows had different human comparisons ({learned}), and what parts them may be that"]


def whole_suite(records: Sequence[Record]) -> list[str]:
    """A line of plain text: what all stages took together, each once. None where no record says."""
    cost = spent(records)
    shown: tuple[tuple[float | None, str], ...] = (
        (cost.seconds, "{:,.0f} seconds"),
        (cost.cpu_seconds, "{:,.0f} CPU seconds"),
        (cost.flops, "{:.3g} FLOPs"),
        (cost.labels_human, "{:,} human labels"),
        (cost.labels_ai, "{:,} AI labels"),
        (cost.dollars, "{:,.2f} dollars"),
    )
    parts = [words.format(value) for value, words in shown if value]
    if not parts:
        return []
    priced_by = {r.provenance.run.prices.name for r in records if r.provenance and r.provenance.run.prices}
    unknown = cost.dollars is None and priced_by
    why = f"; no dollars: {' and '.join(sorted(priced_by))} has no price for a part of it" if unknown else ""
    return [f"Whole suite, each stage once, scoring included: {', '.join(parts)}{why}"]


def _remarks(record: Record) -> list[str]:
    done = record.training
    if record.status == "failed" or done is None:
        return []
    said = []
    if done.budget_share is not None and done.budget_share >= 1:
        said.append(f"{done.steps} optimiser steps spent the budget")
    elif done.budget_share is not None:
        said.append(f"{done.steps} optimiser steps ended it at {done.budget_share:.0%} of the budget")
    elif done.steps != done.max_steps:
        said.append(f"{done.steps} of {done.max_steps} optimiser steps were used")
    if not done.moved:
        said.append("the adapter did not move from its start")
    return said


def _disagreement(record: Record) -> list[str]:
    """Whether one gold sees a gain over the start where the other sees a loss. A difference within two standard errors
    over prompts has no sign to speak of."""
    golds = [record.per_prompt.get(name, ()) for name in ("reward_gold_gain", "reward_gold_second_gain")]
    if any(len(gains) < 2 for gains in golds):
        return []
    means = [fmean(gains) for gains in golds]
    signs = {
        mean > 0 for mean, gains in zip(means, golds, strict=True) if abs(mean) > 2 * stdev(gains) / sqrt(len(gains))
    }
    if len(signs) < 2:
        return []
    return [f"the golds disagree: gain over the start {means[0]:+.2f} by the first, {means[1]:+.2f} by the second"]


def context(records: Sequence[Record]) -> list[str]:
    """What a reader must know to judge the table, as lines of Markdown."""
    contexts = [record.context for record in records]
    labels_by_proxy: dict[str, dict[str, None]] = {}
    for record in records:
        if record.proxy:
            labels_by_proxy.setdefault(record.proxy, {})[record.label] = None
    ceilings = (each.human_accuracy for each in contexts)
    found: dict[str, Iterable[str]] = {
        "Suite": (record.suite for record in records),
        "Seeds": [", ".join(str(seed) for seed in sorted({record.seed for record in records}))],
        "Replicates share": [
            f"{', '.join(part.replace('_', ' ') for part in shared)}: intervals leave out how these vary"
            for shared in _shared(contexts)
        ],
        "Model": (each.model for each in contexts),
        "Task": (each.task for each in contexts),
        "Human comparisons": (each.comparisons for each in contexts),
        "Proxy reward": (f"{proxy}: {', '.join(labels)}" for proxy, labels in labels_by_proxy.items()),
        "Family": [FAMILY] if any(record.metrics.get("reward_model_steps") for record in records) else [],
        "Gold reward against held-out humans": (_facts(each.gold_card) for each in contexts),
        "One human against the others": (f"{share:.1%} of pairs" for share in ceilings if share is not None),
        "Machine": (_facts(each.machine) for each in contexts),
    }
    distinct = {name: [value for value in dict.fromkeys(values) if value] for name, values in found.items()}
    return [f"{name}: {for_markdown('; '.join(values))}" for name, values in distinct.items() if values]


def _shared(contexts: Sequence[Context]) -> list[Sequence[str]]:
    """What the intervals leave out: the parts that were drawn once for all replicates."""
    return [each.share for each in contexts if each.share]


def _facts(card: Mapping[str, Any]) -> str:
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in card.items()}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items() if value is not None)
