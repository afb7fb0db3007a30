"""Computes one stage of a plan in this process: an idempotent command over the store.

Given the plan and the store, `Bench.compute(key)` publishes the stage, or finds it there. Every other way to run a
plan, in child processes or on other machines, ends in this call.
"""

from __future__ import annotations

import gc
import os
import platform
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.errors import UserError
from alignbench.run.gate import refuse_at_chance
from alignbench.stages.registry import KINDS
from alignbench.store import Store
from alignbench.suite.plan import Plan, PlannedStage

if TYPE_CHECKING:  # torch is imported when the first stage has to be computed
    from alignbench.engine.resident import Engine
    from alignbench.stages.work import LiveWork

TOY_BYTES = 32 << 20  # of weights


class Bench:
    """Where stages are computed. The engine is made when the first stage asks for a model, and kept for the next."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.store = store
        # Whom the stage at work tells how far it is, and that another process holds it.
        self.progress: Callable[..., None] = lambda done, total, **numbers: None
        self.waiting: Callable[[], None] = lambda: None
        self._engine: Engine | None = None

    def compute(self, key: str) -> bool:
        """Publish stage `key`. False if it is there already. UserError if one it rests on is not, or if its reward
        is at chance."""
        stage = self.plan.stages[key]
        with self.store.lock(key, self.waiting):
            if self.store.get(key) is not None:
                return False
            if stage.gate is not None:
                refuse_at_chance(self._place(stage.gate), self.plan.stages[stage.gate].title)
            self._make(stage)
        if self.store.get(key) is None:
            raise OSError(f"stage {key} was published and cannot be read back; check the disk under {self.store.root}")
        return True

    def work(self, stage: PlannedStage, folder: Path, scratch: Path) -> LiveWork:
        """The stage's own work in `folder`, not begun. What it rests on is in the store. `scratch` outlives it."""
        import_engine()
        from alignbench.stages.work import HarnessWork, LiveWork

        cls = HarnessWork if stage.run is None else LiveWork
        return cls(self.plan, stage, folder, scratch, lambda: self.engine, self._place, self.progress, KINDS)

    def _make(self, stage: PlannedStage) -> None:
        import_engine()
        from alignbench.engine.device import isolated

        meta: dict[str, Any] = {
            "kind": stage.kind, "method": stage.options.get("method"), "title": stage.title
        }  # fmt: skip
        with self.store.publish(stage.key, meta) as folder:
            work = self.work(stage, folder, self.store.scratch(stage.key))
            run: Callable[[Any], None] = KINDS[stage.kind].make if stage.run is None else function_of(stage)
            with isolated(work.seed), self._threads():
                meta["machine"] = self.machine()  # here, where the number of threads is the stage's
                run(work)
            meta["cost"], meta["marks"] = work.meter.reading(), work.meter.marks
            meta["when"] = datetime.now(UTC).isoformat(timespec="seconds")
            meta["machine"]["kernels"] = self._kernels()

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """One thread for a toy: a second only waits there, and would make its bits depend on the machine."""
        import torch

        from alignbench.assets.models import weight_bytes

        before = torch.get_num_threads()
        if 0 < weight_bytes(self.plan.suite.model) < TOY_BYTES:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _place(self, key: str) -> Path:
        """The folder of a finished stage, every byte of it checked."""
        folder = self.store.get(key)
        if folder is None:
            title = self.plan.stages[key].title
            raise UserError(f"it rests on stage {key[:12]} ({title}), which is not in the store; compute that first")
        return folder

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            import_engine()
            from alignbench.assets.models import resolve_model
            from alignbench.engine.device import resolve_device, resolve_dtype
            from alignbench.engine.resident import Engine

            suite = self.plan.suite
            device = resolve_device(suite.device)
            self._engine = Engine(
                resolve_model(suite.model), suite.lora, device, resolve_dtype(suite.dtype, device), OrderedDict(),
                kernels=suite.kernels,
            )  # fmt: skip
        return self._engine

    def _kernels(self) -> str:
        """Which kernels the model used last runs by; where none was loaded, which were asked for."""
        loaded = None if self._engine is None else self._engine.active
        return self.plan.suite.kernels if loaded is None else str(loaded)

    def machine(self) -> dict[str, str]:
        """What computes here: it stands in every stage, and in every record."""
        import torch

        from alignbench.engine.device import resolve_device, resolve_dtype

        device = resolve_device(self.plan.suite.device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
        return {
            "device": f"{device.type}: {name}",
            "cores": str(os.cpu_count()),
            "threads": str(torch.get_num_threads()),
            "thread_wait": os.environ.get("OMP_WAIT_POLICY") or f"spin {os.environ.get('GOMP_SPINCOUNT', 'unset')}",
            "dtype": str(resolve_dtype(self.plan.suite.dtype, device)).removeprefix("torch."),
            "torch": torch.__version__,
            "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        }


def import_engine() -> None:
    """Import torch, transformers, peft and datasets with the garbage collector paused: they make objects by the hundred
    thousand and no garbage, and its rounds over them were a fifth of the time, 1.0 s of 4.7 (3 runs each)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        import alignbench.engine.trial
        import alignbench.feedback.reward_model
        import alignbench.scoring.closed_form
        import alignbench.scoring.evaluate
        import alignbench.stages.work  # noqa: F401
    finally:
        if was_on:
            gc.enable()


def function_of(stage: PlannedStage) -> Callable[[Any], None]:
    """What a plugin's own stage runs."""
    module, _, name = str(stage.run).partition(":")
    function: Callable[[Any], None] = getattr(import_module(module), name)
    return function


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
