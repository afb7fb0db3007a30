"""What may be said of two rows: the verdict of every pair, and where the spread of a gain comes from.

Gold of the same prompt under the same replicate is compared, so what a replicate or a prompt does to both rows alike
falls out. Statistics are `scoring.paired`'s; here are its inputs from records, and its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import sqrt
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from alignbench.errors import UserError
from alignbench.report.escape import for_csv, one_line
from alignbench.scoring.crossed import FEWEST_REPLICATES, estimate
from alignbench.scoring.paired import Purchase, Rows, Verdict, Word, compare
from alignbench.scoring.record import Record
from alignbench.scoring.stats import CONFIDENCE

VALUE = "reward_gold"  # compared, per prompt
SECOND = "reward_gold_second_gain"  # so is this
ORDER: tuple[Word, ...] = ("better", "equivalent", "undecided", "not compared")
MOST_PAIRS = 45  # of ten rows: more are in verdicts.csv alone
ONE_RUN = (
    "This run only: {count} replicate{s}. Intervals are over prompts, and another draw of labels, start and samples "
    "may end elsewhere: no comparison of rows is claimed. `seeds` of at least {fewest} replicates allow it."
)


class Claims(NamedTuple):
    """What a table says of its rows, as far as its replicates allow."""

    verdicts: list[Verdict]  # of every pair; empty below three replicates
    delta: float | None = None  # points of gold
    why_not: str | None = None  # why there are none
    on: str = "gold reward"  # what was compared


def claims(records: Sequence[Record], confidence: float = CONFIDENCE) -> Claims:
    """Verdicts on all pairs of rows that ended well in at least one replicate."""
    done = [record for record in records if record.status == "ok" and record.per_prompt.get(VALUE)]
    rows: dict[str, dict[int, Sequence[float]]] = {}
    for record in done:
        rows.setdefault(record.label, {})[record.seed] = record.per_prompt[VALUE]
    return judged(rows, delta_of(done), confidence, _sampling(done))


def judged(
    rows: Rows,
    delta: float | None,
    confidence: float = CONFIDENCE,
    sampling: Mapping[str, float] | None = None,  # as `paired.compare`
    on: str = Claims([]).on,
) -> Claims:
    """Verdicts on all pairs of rows of any value per prompt, or why there are none."""
    most = max((len(row) for row in rows.values()), default=0)
    if len(rows) < 2:
        return Claims([])
    if most < FEWEST_REPLICATES:
        said = ONE_RUN.format(count=most, s="" if most == 1 else "s", fewest=FEWEST_REPLICATES)
        return Claims([], why_not=said)
    if delta is None:
        return Claims([], why_not="These records state no smallest difference that matters (`evaluation.delta`).")
    try:
        return Claims(compare(rows, delta, confidence, sampling), delta, on=on)
    except ValueError as error:
        raise UserError(f"the records cannot be compared: {error}; run the suite again") from None


def delta_of(records: Sequence[Record]) -> float | None:
    """The suite's share of the start's standard deviation, the mean over replicates."""
    return _delta((r.context.delta, r.context.start_gold_sd) for r in records)


def _delta(of: Iterable[tuple[float | None, float | None]]) -> float | None:
    """`of`: share and standard deviation of each replicate's row."""
    points = [share * sd for share, sd in of if share and sd]
    return fmean(points) if points else None


def _sampling(records: Sequence[Record]) -> dict[str, float]:
    """Of each row: the variance of a prompt's mean that is due to the drawing of its completions, the mean over
    replicates. A decoding rule's is not known."""
    found: dict[str, list[float]] = {}
    for record in records:
        variance, count = record.metrics.get("reward_gold_variance"), record.context.samples_per_prompt
        if variance is not None and count:
            found.setdefault(record.label, []).append(variance / count)
    return {label: sum(values) / len(values) for label, values in found.items()}


def by_the_second_gold(records: Sequence[Record], confidence: float = CONFIDENCE) -> Claims:
    """The same verdicts on the second gold's reward, where rows have one."""
    done = [record for record in records if record.status == "ok" and record.per_prompt.get(SECOND)]
    rows: dict[str, dict[int, Sequence[float]]] = {}
    for record in done:
        rows.setdefault(record.label, {})[record.seed] = record.per_prompt[SECOND]
    delta = _delta((r.context.delta, r.context.start_gold_second_sd) for r in done)
    found = judged(rows, delta, confidence, on="second gold")
    return found if found.verdicts else Claims([])


def agreement(first: Claims, second: Claims) -> list[str]:
    """Lines of plain text: how many of the gold's winners the second gold confirms, and each pair it turns round."""
    other = {frozenset((verdict.a, verdict.b)): verdict for verdict in second.verdicts}
    pairs = [(verdict, other.get(frozenset((verdict.a, verdict.b)))) for verdict in first.verdicts if verdict.winner]
    judged_by_both = [(mine, its) for mine, its in pairs if its is not None]
    if not judged_by_both:
        return []
    confirmed = sum(mine.winner == its.winner for mine, its in judged_by_both)
    turned = [(mine, its) for mine, its in judged_by_both if its.winner not in (None, mine.winner)]
    said = f"The second gold names the same winner in {confirmed} of {len(judged_by_both)} pairs"
    rest = len(judged_by_both) - confirmed - len(turned)
    return [
        f"{said}, the other one in {len(turned)}, and none in {rest}.",
        *(f"The golds disagree. By the second, {in_words(its)}" for _, its in turned),
    ]


def in_words(verdict: Verdict) -> str:
    """One line of plain text."""
    a, b = one_line(verdict.a), one_line(verdict.b)
    if verdict.difference is None or verdict.p_holm is None:
        return f"{a} and {b}: not compared, {verdict.reason}"
    mean, low, high = verdict.difference[:3]
    if verdict.winner == verdict.b:
        a, b, mean, low, high = b, a, -mean, -high, -low
    numbers = f"{mean:+z.2f} [{low:z.2f}, {high:z.2f}] over {verdict.replicates} replicates"
    numbers += f", p {_p(verdict.p_holm)}" + (", variance pooled over rows" if verdict.is_pooled else "")
    if verdict.verdict == "better":
        return f"{a} is better than {b}: {numbers}"
    if verdict.verdict == "equivalent":
        surely = f", though {a} is surely ahead" if verdict.winner else ""
        return f"{a} and {b} are equivalent{surely}: {numbers}"
    return f"{a} against {b} is undecided: {numbers}; {_would_take(verdict)}"


def _would_take(verdict: Verdict) -> str:
    found = f"a difference of {verdict.detectable:.2f} would be found"
    return found if verdict.next is None else f"{found}, and {_bought(verdict.next)}"


def _bought(buy: Purchase) -> str:
    if buy.number is None:
        return f"more {buy.what} would not do by themselves"
    return (
        f"{buy.number} times the samples a prompt would decide"
        if buy.what == "samples"
        else (f"some {buy.number} {buy.what} would decide")
    )


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def lines(said: Claims, confidence: float = CONFIDENCE, *, is_brief: bool = False) -> list[str]:
    """Plain text for below a table: the rule of reading, then what is decided, then what is not. `is_brief`: of what
    is not, how many pairs."""
    if said.why_not:
        return [said.why_not]
    if not said.verdicts or said.delta is None:
        return []
    ordered = sorted(said.verdicts, key=lambda verdict: ORDER.index(verdict.verdict))  # stable: rows stay in order
    if is_brief:
        decided = [verdict for verdict in ordered if verdict.verdict in ("better", "equivalent")]
        counts = {word: sum(v.verdict == word for v in ordered) for word in ("undecided", "not compared")}
        ends = {"undecided": "table.md says what would decide them", "not compared": "table.md says why"}
        rest = [f"{n} of {len(ordered)} pairs are {word}; {ends[word]}" for word, n in counts.items() if n]
        return [*map(in_words, decided), *rest]
    shown, left = ordered[:MOST_PAIRS], len(ordered) - MOST_PAIRS
    rule = (
        f"Every pair of rows, on {said.on}: better, p by Holm over {len(said.verdicts)} pairs at "
        f"{1 - confidence:.2g}; equivalent within +- {said.delta:.2f} points; or undecided. [low, high]: "
        f"{100 * confidence:g} % interval of that pair alone, over other replicates and other prompts."
    )
    if any(verdict.is_pooled for verdict in said.verdicts):
        rule += " Pooled over rows: so few replicates tell the variance between them better from all rows together."
    return [rule, *map(in_words, shown), *([f"{left} more pairs are in verdicts.csv"] if left > 0 else [])]


def to_csv(*claims: Claims) -> str:
    """Every verdict, unrounded."""
    cells = [(said.on, *_cells(verdict)) for said in claims for verdict in said.verdicts]
    return pd.DataFrame(cells, columns=["on", *_CELLS]).to_csv(index=False, lineterminator="\n")


_CELLS = (
    "a", "b", "verdict", "winner", "replicates", "difference", "low", "high", "p", "p_holm", "p_equivalent",
    "is_pooled", "detectable", "next", "next_number", "reason",
)  # fmt: skip


def _cells(v: Verdict) -> tuple[object, ...]:
    mean, low, high = (None, None, None) if v.difference is None else v.difference[:3]
    bought = (None, None) if v.next is None else v.next
    winner = None if v.winner is None else for_csv(v.winner)
    return (
        for_csv(v.a), for_csv(v.b), v.verdict, winner, v.replicates, mean, low, high, v.p, v.p_holm, v.p_equivalent,
        v.is_pooled, v.detectable, *bought, v.reason,
    )  # fmt: skip


def spread(records: Sequence[Record]) -> Iterator[str]:
    """Where each row's spread of the gain comes from, as standard deviations of a replicate's value for a prompt."""
    rows: dict[str, list[Sequence[float]]] = {}
    done = [record for record in records if record.status == "ok"]
    for record in done:
        if values := record.per_prompt.get("reward_gold_gain"):
            rows.setdefault(record.label, []).append(values)
    drawn = _sampling(done)
    for label, table in rows.items():
        if len(table) >= FEWEST_REPLICATES and any(any(each) for each in table):
            split = estimate(table, sampling=drawn.get(label)).split
            parts = {"replicates": split.replicate, "prompts": split.prompt}
            if split.sampling is None:
                parts["the rest"] = split.rest
            else:  # the start's own samples are within the gain, and told of with the rest
                parts |= {"drawing completions": split.sampling, "the rest": split.interaction}
            yield f"{one_line(label)}: " + ", ".join(f"{name} {sqrt(part):.2f}" for name, part in parts.items())
