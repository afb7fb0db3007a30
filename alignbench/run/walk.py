"""Walk a plan: take each stage from the store or make it, and turn every cell into a record.

The only try/except around plugin code is here. A stage that fails takes the cells that rest on it with it, each as a
record with its cause; the others go on.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from alignbench.api import Stage
from alignbench.errors import PluginError, UserError
from alignbench.scoring.record import Record
from alignbench.store import Store
from alignbench.suite.plan import Plan, PlannedCell

if TYPE_CHECKING:
    from alignbench.run.work import LiveWork

ADDED_UP = ("seconds", "tokens_generated", "tokens_trained", "tokens_judged", "labels_human", "labels_ai")


class Watcher(Protocol):
    """Whoever shows how a run is getting on."""

    def stage_begins(self, stage: Stage, key: str) -> None: ...
    def stage_advances(self, done: int, total: int) -> None: ...
    def stage_ends(self, stage: Stage, key: str, seconds: float, is_cached: bool, cause: str | None) -> None: ...
    def cell_ends(self, record: Record) -> None: ...


@dataclass
class Outcome:
    records: list[Record] = field(default_factory=list)
    failures: dict[str, BaseException] = field(default_factory=dict)  # by stage key
    computed: int = 0
    cached: int = 0

    @property
    def mistake(self) -> UserError | None:
        """What to mend if mistakes in what was given, and nothing else, left no cell standing: the first of them."""
        is_barren = all(record.status == "failed" for record in self.records)
        if not (self.failures and is_barren and all(isinstance(e, UserError) for e in self.failures.values())):
            return None
        first, *others = dict.fromkeys(str(error) for error in self.failures.values())
        return UserError(first + (f" (and {len(others)} more)" if others else ""))

    @property
    def exit_code(self) -> int:
        """0; 2 where every failure is a mistake in what was given, a plugin included; 1 where one is a bug."""
        if not self.failures:
            return 0
        return 2 if all(isinstance(e, UserError | PluginError) for e in self.failures.values()) else 1


class Walk:
    """One run of a plan against a store. The engine is made when the first stage has to be computed."""

    def __init__(self, plan: Plan, store: Store, watcher: Watcher, *, is_strict: bool = False) -> None:
        self.plan = plan
        self.store = store
        self.watcher = watcher
        self.is_strict = is_strict  # raise a plugin's exception instead of recording it
        self.outcome = Outcome()
        self._places: dict[str, Path] = {}
        self._engine: Any = None

    def run(self) -> Outcome:
        done: set[str] = set()
        for cell in self.plan.cells:
            for key, stage in self._in_order(cell.score):
                if key not in done:
                    done.add(key)
                    self._settle(stage, key)
            record = self._record(cell)
            self.outcome.records.append(record)
            self.watcher.cell_ends(record)
        return self.outcome

    def before(self, stage: Stage, folder: Path) -> LiveWork:
        """The stage's own work in `folder`, not begun, with everything it rests on made or taken from the store."""
        from alignbench.run.work import LiveWork

        for key, below in self._in_order(stage):
            if key != self.plan.key(stage):
                self._settle(below, key)
        return LiveWork(self.plan, stage, folder, self.engine, self._place, self.watcher.stage_advances)

    def _in_order(self, last: Stage) -> list[tuple[str, Stage]]:
        needed = self.plan.upstream(last)
        return [(key, stage) for key, stage in self.plan.stages.items() if key in needed]

    def _settle(self, stage: Stage, key: str) -> None:
        """Put the finished stage's folder into `_places`, or its cause into `failures`."""
        broken = [
            self.plan.key(below) for below in stage.inputs.values() if self.plan.key(below) in self.outcome.failures
        ]
        if broken:
            self.outcome.failures[key] = self.outcome.failures[broken[0]]
            return
        with self.store.lock(key):
            folder = self.store.get(key)
            if folder is not None:
                self._places[key] = folder
                self.outcome.cached += 1
                self.watcher.stage_ends(stage, key, 0.0, True, None)
                return
            _ = self.engine  # outside the try: without a model no stage can be made, and none is to blame
            self.watcher.stage_begins(stage, key)
            began, cause = time.perf_counter(), None
            try:
                self._make(stage, key)
                self.outcome.computed += 1
            except Exception as error:
                if self.is_strict:
                    raise
                self.outcome.failures[key] = error
                cause = in_one_line(error)
            self.watcher.stage_ends(stage, key, time.perf_counter() - began, False, cause)

    def _make(self, stage: Stage, key: str) -> None:
        from alignbench.engine.device import isolated  # torch is imported when the first stage has to be made
        from alignbench.run.stages import STAGES
        from alignbench.run.work import LiveWork

        meta: dict[str, Any] = {"kind": stage.kind, "method": stage.options.get("method"), "machine": self.machine()}
        with self.store.publish(key, meta) as folder:
            work = LiveWork(self.plan, stage, folder, self.engine, self._place, self.watcher.stage_advances)
            run: Callable[[Any], None] = stage.run or STAGES[stage.kind]
            with isolated(work.seed):
                run(work)
            meta["cost"] = work.meter.reading()
        folder_now = self.store.get(key)
        if folder_now is None:
            raise OSError(f"stage {key} was published and cannot be read back; check the disk under {self.store.root}")
        self._places[key] = folder_now

    @property
    def engine(self) -> Any:
        if self._engine is None:
            import_engine()
            from alignbench.assets.models import resolve_model
            from alignbench.engine.device import resolve_device, resolve_dtype
            from alignbench.engine.resident import Engine

            suite = self.plan.suite
            device = resolve_device(suite.device)
            engine = Engine(
                resolve_model(suite.model), suite.lora, device, resolve_dtype(suite.dtype, device), OrderedDict()
            )
            with engine.resident():  # a model that does not load is found once, before the first stage
                self._engine = engine
        return self._engine

    def machine(self) -> dict[str, str]:
        import torch

        device = self.engine.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
        return {
            "device": f"{device.type}: {name}",
            "cores": str(os.cpu_count()),
            "dtype": str(self.engine.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        }

    def _place(self, stage: Stage) -> Path:
        return self._places[self.plan.key(stage)]

    def _record(self, cell: PlannedCell) -> Record:
        suite, key = self.plan.suite, self.plan.key(cell.score)
        knob = cell.method.cls.kl_knob
        error = self.outcome.failures.get(key)
        scores: dict[str, Any] = {"metrics": {}, "per_prompt": {}, "counts": {}, "context": {}}
        if error is None:
            scores = json.loads((self._places[key] / "scores.json").read_text())
        return Record.model_validate(
            {
                "format": 1, "suite": suite.name, "label": cell.cell.label, "method": cell.method.name,
                "distribution": cell.method.distribution, "version": cell.method.version, "seed": cell.seed, "key": key,
                "knob": None if knob is None else {"name": knob, "value": getattr(cell.config, knob)},
                "status": "ok" if error is None else "failed", "cause": None if error is None else in_one_line(error),
                "metrics": scores["metrics"], "per_prompt": scores["per_prompt"], "counts": scores["counts"],
                "proxy": cell.proxy, "cost": self._cost(cell),
                "context": {
                    "human_accuracy": None, "gold_card": {}, **scores["context"], "machine": self._machine_of(key),
                    "model": suite.model, "task": self.plan.task.describe(), "comparisons": self._comparisons(),
                },
            }
        )  # fmt: skip

    def _cost(self, cell: PlannedCell) -> dict[str, dict[str, float]]:
        """Marginal: the row's own stages. Total: with every stage they rest on. Scoring, and the gold reward that
        stands in for people, are nobody's cost. A decoding rule is charged for the samples it draws and ranks."""
        inputs = cell.score.inputs
        own = [inputs["completions"], inputs["proxy"]] if self.plan.method_decodes(cell) else [cell.train]
        total = {key for stage in own for key in self.plan.upstream(stage, without="gold")}
        return {"marginal": self._sum([self.plan.key(stage) for stage in own]), "total": self._sum(sorted(total))}

    def _sum(self, keys: list[str]) -> dict[str, float]:
        costs = [self.store.meta(key)["cost"] for key in keys if key in self._places]
        added = {name: sum(cost[name] for cost in costs) for name in ADDED_UP}
        return {**added, "peak_bytes": max((cost["peak_bytes"] for cost in costs), default=0)}

    def _machine_of(self, key: str) -> dict[str, str]:
        return self.store.meta(key)["machine"] if key in self._places else {}

    def _comparisons(self) -> str:
        wanted = self.plan.suite.comparisons
        beside = f", and {wanted.human_pairs} real human pairs" if wanted.human_pairs else ""
        return f"{wanted.pairs} pairs, labelled by {wanted.source}{beside}"


def import_engine() -> None:
    """Import torch, transformers, peft and datasets with the garbage collector paused: they make objects by the hundred
    thousand and no garbage, and its rounds over them were a fifth of the time, 1.0 s of 4.7 (3 runs each)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        import alignbench.run.stages  # noqa: F401
    finally:
        if was_on:
            gc.enable()


def in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError | PluginError) else f"{type(error).__name__}: {text}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
