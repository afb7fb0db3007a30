"""How a process that does one work lets itself be timed: a round each time it is asked, so that two sides alternate.

The parent writes a line, the side runs one round and answers with a line of JSON: wall and CPU seconds. Asked once more
after its last round, it reports losses, tokens and its peak memory. Standard library only, so that it runs in any
environment.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Gate:
    """Holds a training loop between rounds. A round is `steps` calls of `lap`; the first `warm` rounds are not timed.

    What libraries print to stdout goes to stderr, so that stdout carries answers alone.
    """

    def __init__(self, warm: int, rounds: int, steps: int = 1) -> None:
        self._warm, self._all, self._steps = warm * steps, (warm + rounds) * steps, steps
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._done = 0
        self._began = self._began_cpu = 0.0

    def open(self) -> None:
        """The first round is about to begin."""
        if not self._warm:
            self._answer({"ready": True})
            self._hold()

    def lap(self) -> None:
        """A step has ended."""
        self._done += 1
        if self._done < self._warm or self._done % self._steps or self._done > self._all:
            return
        wait_for_gpu()
        wall, cpu = time.perf_counter(), time.process_time()
        if self._done == self._warm:
            self._answer({"ready": True})
        else:
            self._answer({"seconds": wall - self._began, "cpu_seconds": cpu - self._began_cpu})
        self._hold()  # after the last round too: what is left to do would run beside the other side's last

    def report(self, **facts: Any) -> None:
        """The last answer."""
        self._answer(facts)

    def rounds(self, run: Callable[[], Any]) -> list[Any]:
        """`run` once a round. Returns what the timed ones gave."""
        self.open()
        out = []
        while self._done < self._all:
            out.append(run())
            self.lap()
        return out[self._warm :]

    def _hold(self) -> None:
        if not sys.stdin.readline():
            sys.exit(0)  # nobody asks any more
        wait_for_gpu()
        self._began, self._began_cpu = time.perf_counter(), time.process_time()

    def _answer(self, facts: dict[str, Any]) -> None:
        print(json.dumps(facts), file=self._answers, flush=True)


def wait_for_gpu() -> None:
    """For the kernels that a GPU, if one was used, has still before it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def peak_bytes() -> int:
    """The process's highest resident memory, or a GPU's highest allocation if one was used."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:  # ru_maxrss of a child begins at its parent's
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def work_file() -> dict[str, Any]:
    """The work this process was started for."""
    return json.loads(Path(sys.argv[1]).read_text())
