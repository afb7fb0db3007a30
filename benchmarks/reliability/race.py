"""Several runs of one suite at once on one store: each stage is computed once, and all tables are the same."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

from benchmarks.reliability.point import Control, Measured
from benchmarks.reliability.runs import ORACLE, Bench

METHODS = ["sft", "dpo"]


def measure(is_quick: bool, folder: Path) -> Measured:
    runs = 2 if is_quick else 6
    alone = Bench(folder / "alone", {**ORACLE, "methods": METHODS}, plant=("spy",))
    alone.run()
    begun, same, codes = _race(folder / "race", runs, alone)
    stages = len(alone.stages())
    twice = sum(count > 1 for count in begun.values())
    planted, _, _ = _race(folder / "control", 2, alone, "lock-nothing")
    again = sum(count > 1 for count in planted.values())
    return Measured(
        f"{runs} runs at once, exit codes {sorted(set(codes))}: {len(begun)} stages begun of {stages}, {twice} of them "
        f"more than once; {same} of {runs} tables are those of a run alone",
        "each stage once, the same records",
        len(begun) == stages > 0 and twice == 0 and same == runs and set(codes) == {0},
        Control(f"without the lock two runs begin {again} stages twice", again > 0),
    )


def _race(folder: Path, runs: int, alone: Bench, *plant: str) -> tuple[Counter[str], int, list[int]]:
    """How often each stage was begun, how many runs have the records of the one alone, and the exit codes."""
    spy = folder / "spy"
    shared = {"ALIGNBENCH_HOME": str(folder / "home"), "RELIABILITY_SPY": str(spy)}
    benches = [Bench(folder / str(i), alone.suite, plant=("spy", *plant), environment=shared) for i in range(runs)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    codes = [process.wait() for process in [bench.start(**quiet) for bench in benches]]
    begun = Counter(words[3] for line in spy.read_text().splitlines() if (words := line.split())[2] == "begin")
    return begun, sum(bench.records() == alone.records() != [] for bench in benches), codes
