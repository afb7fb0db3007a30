"""Stages as Ray tasks, on this machine or on a cluster's: the protocol of `ProcessCrew`, one task a stage.

What a task does on its machine is in `ray_task.py`. Plan and settings travel as plain values, what stages make through
the store's folder, which every machine must see; Ray's own object store holds the plan and nothing else, and is small.
`ray_cluster.py` starts Ray, or joins it.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from alignbench.errors import UserError, in_words
from alignbench.run.crew import POLL, TRIES, blamed, pass_on, share_of_cores
from alignbench.run.failure import Failure, failure_from
from alignbench.run.logs import Log
from alignbench.run.ray_cluster import check_ray, joined
from alignbench.run.ray_task import compute, progress_file
from alignbench.run.schedule import Ended, Watcher
from alignbench.store import Store
from alignbench.suite.plan import Plan, PlannedStage

SHARING_LAG = 60.0  # seconds after which a network folder shows what another machine has put there


class Running(NamedTuple):
    stage: PlannedStage
    watcher: Watcher
    began: float
    task: Any  # Ray's reference to what it will return


class RayCrew:
    """`slots` tasks at once. `timeout`: seconds a stage may take; `memory`: bytes its process may hold, by default most
    of what its machine has free. UserError where Ray is missing, cannot be reached, or has not what the plan needs."""

    def __init__(
        self, plan: Plan, store: Store, *, slots: int | None = None, address: str | None = None,
        timeout: float | None = None, memory: int | None = None,
    ) -> None:  # fmt: skip
        path = list(sys.path)  # before Ray adds its own
        check_ray()
        self.store = store
        self._running: dict[Future[str], Running] = {}
        self._open = ExitStack()
        needs_gpu = any(stage.resources.get("gpus") for stage in plan.stages.values())
        try:
            mark = self._open.enter_context(_marked(store))
            self._ray = joined(self._open, address, slots, needs_gpu)
            self.slots = slots or self._places(needs_gpu)
            settings = {
                "mark": str(mark), "home": str(store.root), "path": path, "folder": str(Path.cwd()),
                "omp": os.environ.get("OMP_NUM_THREADS"), "timeout": timeout, "memory": memory,
                # On a cluster Ray gives a stage one core; here they share what there is.
                "threads": share_of_cores(self.slots) if address is None else 1, "is_elsewhere": address is not None,
            }  # fmt: skip
            self._shared = self._ray.put(json.dumps(plan.to_dict())), json.dumps(settings)
            # A task's process is used again: what it computes runs in a child of its own, and leaves nothing in it.
            self._task = self._ray.remote(max_calls=0, max_retries=TRIES - 1)(compute)
        except BaseException:
            self.close()
            raise

    def start(self, stage: PlannedStage, watcher: Watcher) -> None:
        needs = {"num_cpus": stage.resources.get("cpus", 1), "num_gpus": stage.resources.get("gpus", 0)}
        task = self._task.options(name=f"alignbench {stage.key[:12]}", **needs).remote(stage.key, *self._shared)
        self._running[task.future()] = Running(stage, watcher, time.monotonic(), task)

    def wait(self) -> list[Ended]:
        """Every stage that ended meanwhile; a fraction of a second at most."""
        ready = wait(self._running, POLL, FIRST_COMPLETED).done  # a signal would break off Ray's own wait as an error
        for running in self._running.values():
            self._hear(running)
        return [self._ended(future) for future in ready]

    def _hear(self, running: Running) -> None:
        with suppress(OSError, ValueError, KeyError, TypeError, OverflowError):  # nothing was said yet, or half of it
            said = json.loads(progress_file(self.store.root, running.stage.key).read_text())
            for text in said["warnings"]:
                running.watcher.stage_warns(running.stage, str(text))
            pass_on(said, running.stage, running.watcher)

    def close(self) -> None:
        """Cancel what runs, and end what was started here."""
        for running in self._running.values():
            self._ray.cancel(running.task, force=True)
            progress_file(self.store.root, running.stage.key).unlink(missing_ok=True)
        self._running = {}
        self._open.close()

    def _places(self, needs_gpu: bool) -> int:
        """How many stages the cluster can hold at once."""
        have = self._ray.cluster_resources()
        if needs_gpu and not have.get("GPU"):
            raise UserError("the suite's device is a GPU and the Ray cluster has none; set `device: cpu`")
        return max(1, int(have.get("GPU" if needs_gpu else "CPU", 1)))

    def _ended(self, future: Future[str]) -> Ended:
        running = self._running.pop(future)
        self._hear(running)
        stage, began, is_new = running.stage, running.began, True
        try:
            said = json.loads(future.result())
            failure, is_new = said["failure"] and failure_from(said["failure"]), said["is_new"]
        except self._ray.exceptions.RayError as error:
            failure = _broken(stage, error)
            Log().keep(self.store, stage.key, failure)
        if failure is None and not self._sees(stage.key):
            failure = Failure(f"it was computed elsewhere and is not in {self.store.root}; share that folder", "user")
        progress_file(self.store.root, stage.key).unlink(missing_ok=True)
        return Ended(stage.key, time.monotonic() - began, failure, is_new)

    def _sees(self, key: str) -> bool:
        began = time.monotonic()
        while not (is_there := self.store.has(key)) and time.monotonic() - began < SHARING_LAG:
            time.sleep(POLL)
        return is_there


def _broken(stage: PlannedStage, error: Exception) -> Failure:
    """A task that could not say how its stage ended."""
    if type(error).__name__ in ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError"):
        return Failure(blamed(stage, "its Ray worker died, twice"), "plugin", str(error))
    return Failure(f"Ray: {in_words(error)}", "bug", str(error))


@contextmanager
def _marked(store: Store) -> Iterator[Path]:
    """A file in the store that tells it from a folder of the same name on another machine."""
    mark = store.root / "logs" / f"ray-{uuid.uuid4().hex}"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)
