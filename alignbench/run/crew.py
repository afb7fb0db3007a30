"""Child processes that compute stages, and may die. The parent imports no torch and runs no plugin's training.

Stages of the harness's own share a warm worker. A stage that runs plugin code gets a fresh one, so that no plugin can
change what another row computes: global settings, patched functions, left-over hooks and threads end with its process.
Children are forked from a server that has imported torch, which makes a fresh one cost a fraction of a second.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from alignbench.run.failure import LOWER, Failure, failure_from
from alignbench.run.lines import Lines
from alignbench.run.logs import Log
from alignbench.run.schedule import Ended, Watcher
from alignbench.run.worker import serve
from alignbench.store import Store
from alignbench.suite.plan import Plan, PlannedStage

POLL = 0.2  # seconds between two looks at time and memory
DYING = 5.0  # seconds that a process may take to end once its pipe is closed
LONGEST_MESSAGE = 1 << 20  # bytes
PRELOAD = "alignbench.run.preload"  # of the server that children are forked from
QUIET = "ignore::UserWarning:multiprocessing.resource_tracker"
MOST = 10**12  # steps, texts: whatever a stage counts
TRIES = 2  # of a stage whose process died


class Child:
    """One worker process, and the stage it is at."""

    def __init__(self, crew: ProcessCrew, plugins: Sequence[str], gpu: str | None) -> None:
        """`gpu`: the only one it may see; None: all that this process may."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([PRELOAD])
        if QUIET not in sys.warnoptions:  # a worker that is killed leaves its locks to the tracker, which says so
            sys.warnoptions.append(QUIET)
        self.plugins = tuple(plugins)
        self.orders, theirs = context.Pipe()
        self.printed, log = context.Pipe(duplex=False)
        self.gpu = gpu
        # as it is now; the server began with what it was then
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES") if gpu is None else gpu
        arguments = (theirs, log, crew.plan_text, str(crew.store.root), crew.threads, gpus)
        self.process = context.Process(target=serve, args=arguments, daemon=False)
        with _without_script():
            self.process.start()
        theirs.close()
        log.close()
        self.lines = Lines(self.orders.fileno(), LONGEST_MESSAGE)
        os.set_blocking(self.printed.fileno(), False)
        self.is_mute = False  # nothing more will be printed
        self.stage: PlannedStage | None = None
        self.watcher: Watcher | None = None
        self.log = Log()
        self.began = 0.0

    def begin(self, stage: PlannedStage, watcher: Watcher) -> None:
        self.stage, self.watcher, self.log, self.began = stage, watcher, Log(), time.monotonic()
        order = {"key": stage.key, "plugins": list(self.plugins), "owner": stage.owner}
        with suppress(OSError):  # a process that is dead already is found by its exit code
            self.orders.send_bytes(json.dumps(order).encode())

    def listen(self) -> None:
        """Take some of what it printed: a pipe that nobody reads would stop it, and no flood may keep the parent."""
        with suppress(OSError):
            for _ in range(64):
                if not (text := os.read(self.printed.fileno(), 1 << 16)):
                    self.is_mute = True
                    return
                self.log.add(text)

    def kill(self) -> None:
        """End it, and whatever it started."""
        if self.process.pid:
            with suppress(psutil.Error):  # also those of another group
                for below in psutil.Process(self.process.pid).children(recursive=True):
                    below.kill()
            with suppress(OSError):  # it has no group of its own yet
                os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(OSError):
            self.process.kill()
        self.process.join()
        self.listen()
        self.orders.close()
        self.printed.close()


class ProcessCrew:
    """`slots` workers at once. `timeout`: seconds a stage may take; `memory`: bytes its process may hold; `threads`: of
    each, by default their share of the cores. Beside others each has a GPU of its own, as far as they go. `plan` may be
    its JSON."""

    def __init__(
        self, plan: Plan | str, store: Store, *, slots: int = 1, timeout: float | None = None,
        memory: int | None = None, threads: int | None = None,
    ) -> None:  # fmt: skip
        self.plan_text = plan if isinstance(plan, str) else json.dumps(plan.to_dict())
        self.store = store
        self.slots = slots
        self.timeout = timeout
        self.memory = memory
        self.threads = threads or share_of_cores(slots)
        is_named = ":" in json.loads(self.plan_text)["suite"]["device"]  # cuda:1 is the suite's own choice
        self._gpus = [] if slots == 1 or is_named else visible_gpus()
        self._busy: list[Child] = []
        self._warm: list[Child] = []  # idle, of the harness's own code
        self._tries: dict[str, int] = {}

    def start(self, stage: PlannedStage, watcher: Watcher) -> None:
        self._tries[stage.key] = 1
        self._begin(stage, watcher)

    def _begin(self, stage: PlannedStage, watcher: Watcher) -> None:
        taken = [child.gpu for child in self._busy]
        idle = [child for child in self._warm if child.gpu is None or child.gpu not in taken]
        if stage.plugins or not idle:
            free = sorted(self._gpus, key=taken.count) if stage.resources.get("gpus") else []
            child = Child(self, stage.plugins, free[0] if free else None)
        else:
            child = idle[-1]
            self._warm.remove(child)
        self._busy.append(child)
        child.begin(stage, watcher)

    def wait(self) -> list[Ended]:
        """Every stage that ended meanwhile; a fraction of a second at most."""
        sources: list[Any] = [x for child in self._busy for x in (child.orders, child.process.sentinel)]
        sources += [child.printed for child in self._busy if not child.is_mute]
        wait(sources, timeout=POLL)
        return [ended for child in list(self._busy) for ended in self._look(child)]

    def close(self) -> None:
        for child in [*self._busy, *self._warm]:
            child.kill()
        self._busy, self._warm = [], []

    def _look(self, child: Child) -> list[Ended]:
        assert child.stage is not None
        assert child.watcher is not None
        child.listen()
        try:
            is_over = child.lines.take()
            while (said := child.lines.next()) is not None:
                if "ended" in said:
                    failure = None if said["failure"] is None else failure_from(said["failure"])
                    return self._done(child, failure, is_new=bool(said.get("is_new", True)))
                pass_on(said, child.stage, child.watcher)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return self._lost(child, "its process wrote rubbish into the harness's own pipe", may_retry=False)
        if is_over:  # it is dying, or nobody can be heard on that pipe again
            child.process.join(DYING)
            if child.process.exitcode is None:
                return self._lost(child, "its process closed the harness's own pipe", may_retry=False)
        if child.process.exitcode is not None:
            return self._lost(child, death(child.process.exitcode), may_retry=True)
        if self.timeout is not None and time.monotonic() - child.began > self.timeout:
            return self._lost(child, f"it took longer than --timeout {self.timeout:g} s", may_retry=False)
        if self.memory is not None and (held := held_by(child.process.pid)) > self.memory:
            have = f"{held / 2**30:.1f} GiB of the {self.memory / 2**30:.1f} it may hold"
            return self._lost(child, f"out of memory: it took {have}; {LOWER}", may_retry=False)
        return []

    def _done(self, child: Child, failure: Failure | None, *, is_new: bool) -> list[Ended]:
        """The stage is over, the process lives."""
        stage = child.stage
        assert stage is not None
        if failure is None and not self.store.has(stage.key):
            failure = Failure(blamed(stage, "its process said that it was done, and the stage is not there"), "plugin")
        elif failure is None and not is_sound(self.store, stage.key):
            aside = self.store.put_aside(stage.key)
            failure = Failure(blamed(stage, f"its process made up what it cost; {aside}"), "plugin")
        ended = Ended(stage.key, time.monotonic() - child.began, failure, is_new)
        self._busy.remove(child)
        if child.plugins or failure is not None:
            child.kill()
        else:
            self._warm.append(child)
        child.log.keep(self.store, stage.key, failure)
        return [ended]

    def _lost(self, child: Child, how: str, *, may_retry: bool) -> list[Ended]:
        """The process is dead, or has to die."""
        stage, watcher = child.stage, child.watcher
        assert stage is not None
        assert watcher is not None
        self._busy.remove(child)
        child.kill()
        if may_retry and self._tries[stage.key] < TRIES:
            self._tries[stage.key] += 1
            self._begin(stage, watcher)
            return []
        times = ", twice" if may_retry else ""
        failure = Failure(
            blamed(stage, f"{how}{times}; `alignbench log {stage.key[:12]}` has what it printed"), "plugin"
        )
        child.log.keep(self.store, stage.key, failure)
        return [Ended(stage.key, time.monotonic() - child.began, failure)]


def is_sound(store: Store, key: str) -> bool:
    """Whether a stage tells its costs in numbers that can be: plugins' code ran where they were counted."""
    try:
        meta = store.meta(key)
        counts = [n for cost in (meta["cost"], *meta.get("marks", {}).values()) for n in cost.values()]
        return all(type(n) in (int, float) and 0 <= n < 1e18 for n in counts)  # NaN is not
    except (KeyError, AttributeError):
        return False


def pass_on(said: dict[str, Any], stage: PlannedStage, watcher: Watcher) -> None:
    """What a child says on the way. ValueError, KeyError, TypeError or OverflowError where it is rubbish."""
    if "waits" in said:
        watcher.stage_waits(stage)
    elif "warning" in said:
        watcher.stage_warns(stage, str(said["warning"]))
    else:
        numbers = {str(name): float(value) for name, value in dict(said["numbers"]).items()}
        done, total = int(said["done"]), int(said["total"])
        if max(abs(done), abs(total)) > MOST:
            raise ValueError("no count of anything")
        watcher.stage_advances(stage, done, total, numbers)


@contextmanager
def _without_script() -> Iterator[None]:
    """Python would run the parent's script in every child again: a tenth of a second of imports that none needs."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def blamed(stage: PlannedStage, how: str) -> str:
    return f"{stage.owner or 'the harness'}: {how}"


def death(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = f", as the kernel does where memory runs out ({LOWER})" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"


def held_by(pid: int | None) -> int:
    """Bytes resident in a process."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def visible_gpus() -> list[str]:
    """The GPUs this process may use, by the names that CUDA knows them under, without asking torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(i) for i in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]


def share_of_cores(slots: int) -> int | None:
    """Threads of a stage beside others. None: torch's own choice."""
    return None if slots == 1 else max(1, (os.cpu_count() or 1) // slots)


def memory_limit() -> int:
    """Bytes one stage may hold by default: nine tenths of what is free for us, so that the run outlives a stage that
    asks for more."""
    limits = [psutil.virtual_memory().available]
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max": no limit
            limits.append(int(Path(place).read_text()))
    return int(0.9 * min(limits))
