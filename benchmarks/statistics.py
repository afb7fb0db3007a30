"""Do intervals and verdicts keep their word? Tables are simulated whose truth is known, and judged as a suite's are.

python -m benchmarks.statistics [--quick] [--table FILE]

Six rows, 128 prompts, gold in points with a standard deviation of 1.5 for the start; a value is the mean over 8
completions (16 for the start, the first row) whose variance within a prompt is 1.5. A value of row l, replicate s,
prompt p is

    truth_l + common_s + own_ls + easy_p + taste_lp + drawn_lsp

common_s (variance .05) and easy_p (variance 1) are what pairing must remove; own_ls has the cell's replicate variance,
taste_lp its prompt variance. In some cells rows do not vary alike, or come in families that share a replicate effect,
as rows with one reward model do. Exit code 1 if a cell misses its target or a control keeps to it everywhere.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import special

from alignbench.scoring.crossed import MeanSquares, estimate, mean_squares
from alignbench.scoring.paired import Rows, Verdict, compare, holm
from alignbench.scoring.stats import interval_of_mean

ROWS, PROMPTS, SD = 6, 128, 1.5
PAIRS = ROWS * (ROWS - 1) // 2
COMPLETIONS = np.array([16] + [8] * (ROWS - 1))
WITHIN, COMMON, EASY = 1.5, 0.05, 1.0  # variances
DELTA = 0.2 * SD
ALPHA = 0.05
MOST_FALSE, COVERAGE = 0.07, (0.93, 0.99)
SAMPLING = {f"row {i}": WITHIN / n for i, n in enumerate(COMPLETIONS.tolist())}


class World(NamedTuple):
    """What varies, and by how much."""

    name: str
    replicates: int
    own: tuple[float, ...]  # (ROWS,)
    taste: float
    family: float = 0.0  # replicate variance that the first three rows share, and the last three


class Line(NamedTuple):
    """What one world showed. Shares of tables, unless said otherwise."""

    world: World
    false: float  # name a winner between equal rows
    covered: float  # share of differences inside their interval
    covered_least: float  # the same, of the pair that fares worst
    rows_covered: float  # share of single rows inside theirs
    pooled: float  # share of differences
    power_sd: float  # find a difference of one standard deviation
    power_delta: float  # find a difference of delta
    equivalent: float  # share of equal pairs that are called so
    false_equivalent: float  # call rows that are delta apart equivalent
    one_level: float  # control: false winners by Satterthwaite's degrees of freedom, not pooled
    prompts_only: float  # control: false winners by the bootstrap over prompts

    @property
    def holds(self) -> bool:
        is_covered = all(COVERAGE[0] <= share <= COVERAGE[1] for share in (self.covered, self.rows_covered))
        return is_covered and max(self.false, self.false_equivalent) <= MOST_FALSE


def worlds(is_quick: bool) -> Iterator[World]:
    for replicates in (3, 5) if is_quick else (3, 5, 10):
        for own in (0.02,) if is_quick else (0.0, 0.02, 0.1):
            for taste in (0.0, 0.3):
                yield World(f"{own:g}", replicates, (own,) * ROWS, taste)
    for replicates in (3,) if is_quick else (3, 4):
        yield World("five .01, one .2", replicates, (0.01,) * 5 + (0.2,), 0.0)
        if not is_quick:
            yield World(".005", replicates, (0.005,) * ROWS, 0.0)
            yield World("start 0, others .1", replicates, (0.0,) + (0.1,) * 5, 0.0)
            yield World("own .02, family .1", replicates, (0.02,) * ROWS, 0.0, 0.1)


def draw(world: World, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One table: (ROWS, S, PROMPTS)."""
    s = world.replicates
    own = rng.normal(size=(ROWS, s, 1)) * np.sqrt(world.own)[:, None, None]
    family = np.repeat(rng.normal(size=(2, s, 1)), ROWS // 2, axis=0) * world.family**0.5
    taste = rng.normal(size=(ROWS, 1, PROMPTS)) * world.taste**0.5
    drawn = rng.normal(size=(ROWS, s, PROMPTS)) * np.sqrt(WITHIN / COMPLETIONS)[:, None, None]
    common = rng.normal(size=(s, 1)) * COMMON**0.5 + rng.normal(size=PROMPTS) * EASY**0.5
    return truth[:, None, None] + common + own + family + taste + drawn


def judged(table: np.ndarray) -> list[Verdict]:
    rows: Rows = {f"row {i}": dict(enumerate(row)) for i, row in enumerate(table)}
    return compare(rows, DELTA, 1 - ALPHA, SAMPLING)


def measured(world: World, tables: int, rng: np.random.Generator) -> Line:
    """Of `tables` tables with equal rows; fewer for power, for rows that are delta apart and for the controls."""
    null, covered, rows_covered, one_level, prompts_only = [], [], [], [], []
    for i in range(tables):
        table = draw(world, np.zeros(ROWS), rng)
        null.append(judged(table))
        found = [v.difference for v in null[-1] if v.difference is not None]
        covered.append([x.low <= 0 <= x.high for x in found])
        rows_covered.append([x.low <= 0 <= x.high for x in map(estimate, table)])
        differences = [table[a] - table[b] for a in range(ROWS) for b in range(a + 1, ROWS)]
        if i < tables // 4:  # slow
            one_level.append(min(holm([satterthwaite_p(values) for values in differences])) <= ALPHA)
        if i < tables // 40:  # slower
            prompts_only.append(any(map(_is_parted_over_prompts, differences)))
    far = [judged(draw(world, np.array([0, 0, 0, 0, DELTA, SD]), rng)) for _ in range(tables // 8)]
    halves = np.repeat([0.0, DELTA], ROWS // 2)
    apart = [judged(draw(world, halves, rng)) for _ in range(tables // 8)]
    return Line(
        world,
        float(np.mean([any(v.winner for v in table) for table in null])),
        float(np.mean(covered)),
        float(np.mean(covered, axis=0).min()),
        float(np.mean(rows_covered)),
        float(np.mean([[v.is_pooled for v in table] for table in null])),
        *(
            float(np.mean([any(v.winner == best and v.a == "row 0" and v.b == best for v in t) for t in far]))
            for best in ("row 5", "row 4")
        ),
        float(np.mean([[v.verdict == "equivalent" for v in table] for table in null])),
        float(np.mean([any(v.verdict == "equivalent" and _truly_apart(v) for v in table) for table in apart])),
        float(np.mean(one_level)),
        float(np.mean(prompts_only)),
    )


def _truly_apart(v: Verdict) -> bool:
    return (int(v.a[-1]) < ROWS // 2) != (int(v.b[-1]) < ROWS // 2)


def satterthwaite_p(values: np.ndarray) -> float:
    """The control: one t with the degrees of freedom of the whole variance, or of the floor that it rests on."""
    squares = mean_squares(values)
    variance, df = _satterthwaite(squares)
    t = abs(float(values.mean())) / (variance / values.size) ** 0.5
    return 2 * float(special.stdtr(df, -t))


def _satterthwaite(squares: MeanSquares) -> tuple[float, float]:
    r, p, e, replicates, prompts = squares
    whole = r + p - e
    if whole < max(r, p):
        return (r, replicates - 1) if r >= p else (p, prompts - 1)
    parts = r**2 / (replicates - 1) + p**2 / (prompts - 1) + e**2 / ((replicates - 1) * (prompts - 1))
    return whole, whole**2 / parts


def _is_parted_over_prompts(values: np.ndarray) -> bool:
    """The control: the percentile bootstrap over prompts leaves 0 out, at Holm's first step."""
    interval = interval_of_mean(values, 1 - ALPHA / PAIRS)
    return not interval.low <= 0 <= interval.high


HEAD = (
    "replicates", "replicate variance", "prompt variance", "false winner", "coverage, differences", "worst pair",
    "coverage, rows", "pooled", "power, 1 SD", "power, 0.2 SD", "equal called equivalent", "false equivalent", "holds",
    "false winner: Satterthwaite", "false winner: prompts only",
)  # fmt: skip


def render(lines: list[Line], tables: int, command: str) -> str:
    """Markdown: a claim, how to run it, a row for each world."""
    text = f"""# Do intervals and verdicts keep their word?

{datetime.now(UTC).date().isoformat()}, `{command}`, numpy {version("numpy")}, scipy {version("scipy")}, Python {platform.python_version()}.
Each line is {tables:,} simulated tables of six equal rows ({tables // 8:,} for power and for rows that are delta apart; {tables // 4:,} and
{tables // 40:,} for the controls), judged by `alignbench.scoring.paired` as a suite's table is; `benchmarks/statistics.py` says what varies.

- Targets: a table names any false winner, or calls rows equivalent that are delta apart, in at most 7 % of cases; 95 % intervals of
  differences and of rows cover 93 to 99 %.
- Power is that of the pair of the start and one row, with Holm over all 15 pairs: a true difference of 1.5 points (1 SD of the start's
  gold) and of 0.3 points (delta).
- The last two columns are controls, with Holm too: one t over the whole variance with Satterthwaite's degrees of freedom, never pooled; and
  the bootstrap over prompts of each prompt's mean over replicates.

"""  # noqa: E501
    rows = [HEAD, ("---",) * len(HEAD), *map(_cells, lines)]
    return text + "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _cells(line: Line) -> tuple[str, ...]:
    shares = [f"{100 * share:.1f}" for share in line[1:]]
    world = line.world
    held = "yes" if line.holds else "NO"
    return (str(world.replicates), world.name, f"{world.taste:g}", *shares[:-2], held, *shares[-2:])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.statistics", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer worlds and tables: the form that a test runs")
    parser.add_argument("--table", type=Path, help="write the lines to this file too")
    asked = parser.parse_args()
    lines, tables = [], 100 if asked.quick else 2000
    for i, world in enumerate(worlds(asked.quick)):
        lines.append(measured(world, tables, np.random.default_rng(i)))
        print(" | ".join(_cells(lines[-1])), flush=True)
    text = render(lines, tables, " ".join(["python -m benchmarks.statistics", *sys.argv[1:]]))
    if asked.table is not None:
        asked.table.write_text(text, encoding="utf-8")
    fails = all(max(share) > MOST_FALSE for share in zip(*((x.one_level, x.prompts_only) for x in lines), strict=True))
    return 0 if all(line.holds for line in lines) and fails else 1


if __name__ == "__main__":
    sys.exit(main())
