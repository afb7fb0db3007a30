"""Stages as Ray tasks, on this machine or on a cluster's: the protocol of `ProcessCrew`, one task a stage.

What a task does on its machine is in `ray_task.py`. Plan and settings travel as plain values, what stages make through
the store's folder, which every machine must see; Ray's own object store holds the plan and nothing else, and is small.

A cluster started here answers only to whoever has this run's token, has no dashboard, reports to nobody and leaves no
file behind. Of a cluster that is there already, the user's own settings (`RAY_AUTH_MODE`, `RAY_AUTH_TOKEN`) are used.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, chdir, contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from alignbench.errors import UserError, in_words
from alignbench.run.crew import POLL, TRIES, blamed, share_of_cores
from alignbench.run.failure import Failure
from alignbench.run.logs import Log
from alignbench.run.ray_task import compute, progress_file
from alignbench.run.schedule import Ended, Watcher
from alignbench.store import Store
from alignbench.suite.plan import Plan, PlannedStage

INSTALL = "pip install 'alignbench[ray]'"
OLDEST = (2, 52)  # the first with token authentication
OBJECT_STORE = 128 << 20  # bytes; Ray asks for 75 MiB at least
GRACE = 0.4  # seconds that a cluster started here has for its own end
SHARING_LAG = 60.0  # seconds after which a network folder shows what another machine has put there
PRIVATE = {  # of a cluster started here
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it prints advice about a change to come
    "RAY_memory_monitor_refresh_ms": "0",  # it would end what it likes; `--memory` ends the stage that asks too much
}


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
            self._ray = self._connected(address, slots, needs_gpu)
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
        for stage, watcher, *_ in self._running.values():
            with suppress(OSError, ValueError):  # nothing was said yet, or half of it
                done, total = progress_file(self.store.root, stage.key).read_text().split()
                watcher.stage_advances(stage, int(done), int(total))
        return [self._ended(future) for future in ready]

    def close(self) -> None:
        """Cancel what runs, and end what was started here."""
        for running in self._running.values():
            self._ray.cancel(running.task, force=True)
            progress_file(self.store.root, running.stage.key).unlink(missing_ok=True)
        self._running = {}
        self._open.close()

    def _connected(self, address: str | None, slots: int | None, needs_gpu: bool) -> Any:
        """The module ray, once it has a cluster."""
        # Sockets lie in it, and a socket's path has at most 107 bytes. Ray's workers import from the folder where they
        # are started first of all, which is not to be the user's.
        folder = self._open.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp"))
        if address is None:
            token = {} if "RAY_AUTH_TOKEN" in os.environ else {"RAY_AUTH_TOKEN": _token()}
            self._open.enter_context(_environment(PRIVATE | token))
        ray = importlib.import_module("ray")
        self._open.callback(ray.shutdown)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        with chdir(folder), _kept_handler():
            if address is None:
                self._open.enter_context(_ended_soon())
                ray.init(
                    address="local", num_cpus=slots, num_gpus=None if needs_gpu else 0, include_dashboard=False,
                    object_store_memory=OBJECT_STORE, _temp_dir=folder, **quiet,
                )  # fmt: skip
                return ray
            try:
                ray.init(address=address, **quiet)
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise UserError(
                    f"--address {address}: no Ray cluster can be joined there ({in_words(error)}); "
                    "`ray start --head` starts one and says its address"
                ) from None
        return ray

    def _places(self, needs_gpu: bool) -> int:
        """How many stages the cluster can hold at once."""
        have = self._ray.cluster_resources()
        if needs_gpu and not have.get("GPU"):
            raise UserError("the suite's device is a GPU and the Ray cluster has none; set `device: cpu`")
        return max(1, int(have.get("GPU" if needs_gpu else "CPU", 1)))

    def _ended(self, future: Future[str]) -> Ended:
        stage, _, began, _ = self._running.pop(future)
        try:
            said = json.loads(future.result())
            failure = None if said is None else Failure(**said)
        except self._ray.exceptions.RayError as error:
            failure = _broken(stage, error)
            Log().keep(self.store, stage.key, failure)
        if failure is None and not self._sees(stage.key):
            failure = Failure(f"it was computed elsewhere and is not in {self.store.root}; share that folder", "user")
        progress_file(self.store.root, stage.key).unlink(missing_ok=True)
        return Ended(stage.key, time.monotonic() - began, failure)

    def _sees(self, key: str) -> bool:
        began = time.monotonic()
        while not (is_there := self.store.has(key)) and time.monotonic() - began < SHARING_LAG:
            time.sleep(POLL)
        return is_there


def check_ray() -> None:
    """UserError if Ray is not installed, or too old. It is not imported: it reads its settings then."""
    try:
        have = version("ray")
    except PackageNotFoundError:
        raise UserError(f"--engine ray needs Ray, which is not installed: {INSTALL}") from None
    if tuple(int(part) for part in have.split(".")[:2]) < OLDEST:
        raise UserError(f"--engine ray needs Ray 2.52 or newer, and this is {have}: {INSTALL}")


@cache
def _token() -> str:
    """Ray reads it once in a process."""
    return secrets.token_hex(32)


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


@contextmanager
def _ended_soon() -> Iterator[None]:
    """What is started from here on is killed soon after the end begins: Ray would wait a second for each of its
    servers, and nothing in them is worth keeping."""
    others = set(psutil.Process().children())
    yield
    servers = [child for child in psutil.Process().children() if child not in others]
    started = [process for server in servers for process in [server, *server.children(recursive=True)]]
    threading.Timer(GRACE, _kill, [started]).start()


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


@contextmanager
def _kept_handler() -> Iterator[None]:
    """Ray puts a handler of its own in the place of ours."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
