"""A plan made in a child process, so that no plugin's code runs in the parent: it may exit, crash, hang or patch.

The child is a fork from before any plugin was loaded, which costs milliseconds. It says where it is before each step
that runs a plugin's code. Where it dies or has to be ended, the parent knows whose code ran, and plans again without.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, cast

from alignbench.errors import Interrupted, UserError, printable
from alignbench.plugins import Catalog, Step, Steps
from alignbench.run.lines import Lines
from alignbench.run.logs import Log
from alignbench.run.plan_worker import work
from alignbench.suite.plan import Plan, plan_of

LONGEST_MESSAGE = 1 << 28  # bytes; a plan of a thousand cells takes some ten million
NOTHING = Catalog({}, {}, {}, ())


class _Lost(NamedTuple):
    """A planner that ended without a plan."""

    step: Step | None
    how: str


def plan_apart(make: Callable[[Steps], Plan], *, timeout: float | None = None, memory: int | None = None) -> Plan:
    """What `make` plans, as data alone: the plan has no catalog and no task. `timeout`: seconds one plugin's step may
    take; `memory`: bytes the planner may hold, by default as many as a stage. UserError for a mistake that `make` found
    and where the planner was lost and nobody is to blame; Interrupted by a signal."""
    refused: dict[Step, str] = {}
    while True:
        planner = _Planner(make, refused, memory)
        try:
            ended = planner.wait(timeout)
        except Interrupted as end:
            raise Interrupted("interrupted while it planned; nothing was computed", end.exit_code) from None
        finally:
            planner.kill()
        if not isinstance(ended, _Lost):
            return plan_of(ended, NOTHING, cast(Any, None))
        if ended.step is None or ended.step in refused:
            raise UserError(f"no plan was made: {ended.how}{planner.last_words()}")
        refused[ended.step] = ended.how + planner.last_words()


class _Planner:
    """The child, as the parent sees it."""

    def __init__(self, make: Callable[[Steps], Plan], refused: dict[Step, str], memory: int | None) -> None:
        self.memory = memory
        self.log, self.step, self.began = Log(), cast(Step | None, None), time.monotonic()
        self.told, tells = os.pipe()
        self.printed, prints = os.pipe()
        ends_with, self.life = os.pipe()  # the child ends when the parent's end of it is gone
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or the child would hold a copy of what is not written yet
        self.pid, self.code = os.fork(), cast(int | None, None)
        if self.pid == 0:
            for descriptor in (self.told, self.printed, self.life):
                os.close(descriptor)
            work(make, refused, tells, prints, ends_with)
        for descriptor in (tells, prints, ends_with):
            os.close(descriptor)
        os.set_blocking(self.printed, False)
        self.lines = Lines(self.told, LONGEST_MESSAGE)

    def wait(self, timeout: float | None) -> dict[str, Any] | _Lost:
        """The plan's JSON values, or how the planner was lost. UserError that the child raised."""
        from alignbench.run.crew import POLL, death, held_by, memory_limit  # while the child plans: 0.03 s

        sources = [self.told, self.printed]
        limit = memory_limit() if self.memory is None else self.memory
        while True:
            select.select(sources, [], [], POLL if timeout is None else min(POLL, timeout))
            is_dead = self._is_dead()  # before the pipes are emptied: what it said last counts
            if self._log_from(self.printed):
                sources = [self.told]
            try:
                is_over = self.lines.take()
                while (said := self.lines.next()) is not None:
                    if (plan := self._hear(said)) is not None:
                        return plan
            except (ValueError, KeyError, TypeError, RecursionError):
                return _Lost(self.step, "it wrote rubbish into the harness's own pipe")
            if is_dead or (is_over and self._is_dead(within=POLL)):
                return _Lost(self.step, death(cast(int, self.code)))
            if is_over:
                return _Lost(self.step, "it closed the harness's own pipe")
            if timeout is not None and self.step is not None and time.monotonic() - self.began > timeout:
                return _Lost(self.step, f"it took longer than --timeout {timeout:g} s")
            if (held := held_by(self.pid)) > limit:
                have = f"{held / 2**30:.1f} GiB of the {limit / 2**30:.1f} it may hold"
                return _Lost(self.step, f"out of memory: it took {have}")

    def _hear(self, said: dict[str, Any]) -> dict[str, Any] | None:
        """The plan, if the message is one."""
        if "step" in said:
            self.step = None if said["step"] is None else Step(*map(str, said["step"]))  # type: ignore[arg-type]
            self.began = time.monotonic()
        elif "warning" in said:
            warnings.showwarning(UserWarning(str(said["warning"])), UserWarning, "alignbench", 0)
        elif "mistake" in said:
            raise UserError(str(said["mistake"]))
        elif "errno" in said:
            raise OSError(int(said["errno"]), str(said["bug"]))
        elif "bug" in said:
            raise RuntimeError(f"planning failed in its own process:\n{said['bug']}")
        else:
            return dict(said["plan"])
        return None

    def _log_from(self, pipe: int) -> bool:
        """Take some of what was printed: a pipe that nobody reads would stop it. True at the pipe's end."""
        with suppress(BlockingIOError):
            for _ in range(64):  # no flood may keep the parent from its clock
                if not (text := os.read(pipe, 1 << 16)):
                    return True
                self.log.add(text)
        return False

    def _is_dead(self, within: float = 0.0) -> bool:
        end = time.monotonic() + within
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= end:
                return False
            else:
                time.sleep(0.005)
        return True

    def last_words(self) -> str:
        lines = [line for line in self.log.text().splitlines() if line.strip()]
        return f"; it printed last: {printable(lines[-1], 200)}" if lines else ""

    def kill(self) -> None:
        """End it, and whatever it started."""
        with suppress(OSError):  # nothing is left of its group
            os.killpg(self.pid, signal.SIGKILL)
        if not self._is_dead():
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self._log_from(self.printed)
        for descriptor in (self.told, self.printed, self.life):
            os.close(descriptor)
