"""Two processes on one work, a round of one after a round of the other, and what is read off them."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Reading(NamedTuple):
    """What one side did, medians over its rounds."""

    seconds: float
    cpu_seconds: float
    tokens: float  # that count for this work: non-padding tokens trained, or tokens generated
    losses: list[float]  # per timed round, or one for all
    peak_bytes: int


class Side:
    """A process of its own: `python -m benchmarks.perf.MODULE FILE`, where FILE describes the work."""

    def __init__(self, module: str, work: dict[str, Any], folder: Path, python: str = sys.executable) -> None:
        file = folder / f"{module}.json"
        file.write_text(json.dumps(work))
        self._rounds: list[dict[str, float]] = []
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self._name = f"{module} ({work['work']})"
        self._process = subprocess.Popen(
            [python, "-m", f"benchmarks.perf.{module}", str(file)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        self._answer()

    def round(self) -> None:
        self._rounds.append(self._ask())

    def reading(self) -> Reading:
        """After the last round."""
        last = self._ask()
        self.close()
        seconds, cpu = (statistics.median(r[name] for r in self._rounds) for name in ("seconds", "cpu_seconds"))
        return Reading(seconds, cpu, statistics.median(last["tokens"]), last["losses"], last["peak_bytes"])

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        if self._process.stdout:
            self._process.stdout.close()
        self._process.wait()
        self._log.close()

    def _ask(self) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise RuntimeError(f"{self._name} ended with {self._process.returncode}:\n{self._log.read()[-4000:]}")
        return json.loads(line)


def alternate(benchmark: Any, ours: Side, *others: Side, rounds: int) -> list[Reading]:
    """`rounds` rounds of each side in turn, ours under pytest-benchmark. Readings in the order of the sides."""

    def before() -> None:
        for side in others:
            side.round()

    benchmark.pedantic(ours.round, setup=before, rounds=rounds)
    readings = [side.reading() for side in (ours, *others)]
    benchmark.extra_info.update(sides=[reading._asdict() for reading in readings])
    return readings


def farthest(a: Reading, b: Reading) -> float:
    """The largest difference of two losses on the same batch."""
    return max(abs(x - y) for x, y in zip(a.losses, b.losses, strict=True))
