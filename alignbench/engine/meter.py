"""What a stage costs: seconds, CPU seconds, peak memory, floating-point operations, tokens, labels."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from alignbench.engine import tally
from alignbench.engine.device import give_back_memory


class Meter:
    """Counts while a stage runs. `reading` gives the ledger's entries; each name ends in its unit."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.counts: dict[str, int] = dict.fromkeys(
            ("tokens_generated", "tokens_trained", "tokens_judged", "labels_human", "labels_ai"), 0
        )
        self.marks: dict[str, dict[str, float]] = {}  # readings on the way, by name
        self._began = time.perf_counter()
        self._cpu_began = _cpu_seconds()
        self._flops_began = tally.done()
        self._peak_before = 0  # bytes, of the process that a resumed stage began in
        self._reset_peak()

    def add(self, **counts: int) -> None:
        """ValueError for a negative count: nothing is unspent."""
        for name, count in counts.items():
            if count < 0:
                raise ValueError(f"{name}: {count} were counted; a count is 0 or more")
            self.counts[name] += int(count)

    def reading(self) -> dict[str, float]:
        peak = max(self._peak_before, self._peak())
        spent = {"seconds": self.seconds, "cpu_seconds": _cpu_seconds() - self._cpu_began}
        return {**spent, "peak_bytes": peak, "flops": self.flops, **self.counts}

    @property
    def seconds(self) -> float:
        """Of the clock, so far."""
        return time.perf_counter() - self._began

    @property
    def flops(self) -> int:
        """Floating-point operations so far."""
        return tally.done() - self._flops_began

    @contextmanager
    def unbilled(self) -> Iterator[None]:
        """Time and operations inside are nobody's cost: what stands in for people costs their labels."""
        began, cpu_began, flops_began = time.perf_counter(), _cpu_seconds(), tally.done()
        try:
            yield
        finally:
            self._began += time.perf_counter() - began
            self._cpu_began += _cpu_seconds() - cpu_began
            self._flops_began += tally.done() - flops_began

    def mark(self, name: str) -> None:
        """Keep the reading of this moment."""
        self.marks[name] = self.reading()

    def state(self) -> dict[str, Any]:
        """JSON values, for `resume`."""
        return {**self.reading(), "marks": self.marks}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from an earlier process's counts. Its seconds are added to those of this one, which were spent too;
        what this one has counted so far, getting ready, the other counted before it."""
        self.counts = {name: int(state[name]) for name in self.counts}
        self.marks = dict(state["marks"])
        self._began -= state["seconds"]
        self._cpu_began -= state["cpu_seconds"]
        self._flops_began = tally.done() - int(state["flops"])
        self._peak_before = int(state["peak_bytes"])

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        give_back_memory()
        with suppress(OSError):  # Linux: forget the process's high-water mark
            Path("/proc/self/clear_refs").write_text("5")

    def _peak(self) -> int:
        """Bytes at the highest point of the stage: of the GPU if there is one, else resident in the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        except (OSError, IndexError):
            return psutil.Process().memory_info().rss


def _cpu_seconds() -> float:
    """User and system time of this process, all threads, and of the children it has waited for."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)
