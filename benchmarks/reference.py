"""Does a change move numbers? Fresh replicates of a small suite, held against twenty committed ones.

python -m benchmarks.reference [--replicates N] [--records FILE]

A change of engine, library or machine that rounds otherwise gives other numbers, and that is no harm; one after which a
row's numbers come from another distribution has changed what is measured, and belongs into the log. Each row's mean of
each number over the fresh replicates, whose seeds no reference run had, is held against the reference's by a t-test of
two samples with one variance (Student, 1908), Holm's procedure over all rows and numbers at 1 %. Where the reference
does not vary at all, any other value leaves it. What leaves is named, and the exit code is 1.

With three replicates against twenty a shift of some five standard deviations of one row's number is found four times in
five: this tells a wrong sign or temperature, not a percent of reward.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from scipy import stats

from alignbench.errors import UserError
from alignbench.scoring.paired import holm
from alignbench.scoring.record import Record, read_records

ROOT = Path(__file__).parents[1]
SUITE, REFERENCE = ROOT / "benchmarks/reference.yaml", ROOT / "results/reference/records.jsonl"
NUMBERS = (
    "reward_gold", "reward_gold_enumerated", "kl_nats_exact", "kl_nats_k1", "kl_nats_k3", "kl_nats_enumerated",
    "optimum_tv", "reward_proxy", "reward_model_accuracy", "completion_tokens",
)  # fmt: skip
SIZE = 0.01  # of the whole test
FIRST_FRESH = 1000  # seeds from here on


class Held(NamedTuple):
    """One row's number, then and now."""

    row: str
    number: str
    reference: float  # mean
    sd: float  # over the reference's replicates
    now: float
    p: float  # by Holm over all that is held

    @property
    def leaves(self) -> bool:
        return self.p <= SIZE


def held(reference: Iterable[Record], fresh: Iterable[Record]) -> list[Held]:
    """Every number of every row. ValueError if a row failed, is not in both, or has a seed of the reference's."""
    then, now = _by_row(reference), _by_row(fresh)
    seeds = [{record.seed for records in rows.values() for record in records} for rows in (then, now)]
    if common := seeds[0] & seeds[1]:
        raise ValueError(f"seed {min(common)} is of the reference itself; run the suite on others")
    if then.keys() != now.keys():
        raise ValueError(f"rows differ: {sorted(then)} in the reference, {sorted(now)} now")
    found = []
    for row, records in then.items():
        for number in NUMBERS:
            old, new = _values(records, number), _values(now[row], number)
            if bool(old) != bool(new):
                raise ValueError(f"'{row}' has {number} only {'in the reference' if old else 'now'}")
            if old:
                found.append((row, number, old, new))
    adjusted = holm([_p(old, new) for _, _, old, new in found])
    return [
        Held(row, number, float(np.mean(old)), float(np.std(old, ddof=1)), float(np.mean(new)), p)
        for (row, number, old, new), p in zip(found, adjusted, strict=True)
    ]


def _by_row(records: Iterable[Record]) -> dict[str, list[Record]]:
    rows: dict[str, list[Record]] = {}
    for record in records:
        if record.status != "ok":
            raise ValueError(f"'{record.label}' seed {record.seed} failed: {record.cause}")
        rows.setdefault(record.label, []).append(record)
    return rows


def _values(records: Sequence[Record], number: str) -> list[float]:
    values = [record.metrics.get(number) for record in records]
    return [value for value in values if value is not None]


def _p(old: Sequence[float], new: Sequence[float]) -> float:
    if np.ptp([*old, *new]) == 0:
        return 1.0
    if np.ptp(old) == 0:
        return 0.0
    return float(stats.ttest_ind(old, new).pvalue)


def run(replicates: int) -> list[Record]:
    """The suite on seeds of its own, by the command that users run."""
    with TemporaryDirectory() as folder:
        text = SUITE.read_text(encoding="utf-8")
        seeds = ", ".join(str(FIRST_FRESH + i) for i in range(replicates))
        lines = [f"seeds: [{seeds}]" if line.startswith("seeds:") else line for line in text.splitlines()]
        suite = Path(folder, SUITE.name)
        suite.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "alignbench.cli", "run", str(suite), "--results", folder]
        ran = subprocess.run(command, check=False, capture_output=True, text=True)
        if ran.returncode:
            raise UserError(f"the suite did not run: {(ran.stderr or ran.stdout).strip()}")
        return list(read_records(Path(folder, SUITE.stem, "records.jsonl")))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reference", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--replicates", type=int, default=5, help="fresh ones; default 5")
    parser.add_argument("--records", type=Path, help="records of a run of the suite, in place of fresh ones")
    asked = parser.parse_args()
    try:
        reference = list(read_records(REFERENCE))  # before minutes are spent on what is held against it
        fresh = list(read_records(asked.records)) if asked.records else run(asked.replicates)
        found = held(reference, fresh)
    except (OSError, ValueError, UserError) as error:
        print(f"benchmarks.reference: {error}", file=sys.stderr)
        return 2
    for each in sorted(found, key=lambda each: each.p):
        print(
            f"{'LEAVES' if each.leaves else 'within'}  {each.row:16} {each.number:24} {each.reference:+.4f} "
            f"(SD {each.sd:.4f}), now {each.now:+.4f}, p {each.p:.3g}"
        )
    left = list(dict.fromkeys(each.row for each in found if each.leaves))
    print(f"numbers have moved: {', '.join(left)}" if left else f"no row of {len({h.row for h in found})} has moved")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
