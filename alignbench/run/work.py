"""The live `Work`: what a stage may touch while it is computed. See `alignbench.api.Work` for the contract."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from alignbench.api import HumanModel, RewardSource, Rollout, SourceRoom, Work
from alignbench.engine.checkpoint import Checkpoints
from alignbench.engine.device import resolve_device
from alignbench.engine.meter import Meter
from alignbench.engine.resident import Engine, Resident
from alignbench.engine.trial import sample_texts
from alignbench.feedback.checked import Checked
from alignbench.feedback.reward_model import RewardModel
from alignbench.run.view import TrainingView
from alignbench.store import read_rows, write_rows
from alignbench.suite.plan import Plan, PlannedStage

ROWS = "rows.jsonl"


def stage_seed(kind: str, seed: int) -> int:
    """A seed for each kind of stage, lest the adapters of a supervised start and of its policy begin with the same
    numbers. Stages of one kind share theirs: rows are compared on the same draws."""
    return int.from_bytes(hashlib.sha256(f"{kind} {seed}".encode()).digest()[:4])


class LiveWork(Work):
    """One stage at work in `folder`, with its finished inputs."""

    def __init__(
        self,
        plan: Plan,
        stage: PlannedStage,
        folder: Path,
        scratch: Path,
        engine: Callable[[], Engine],
        place: Callable[[str], Path],
        progress: Callable[[int, int], None],
    ) -> None:
        self.plan = plan
        self.stage = stage
        self.options: Mapping[str, Any] = stage.options
        self.folder = folder
        self.scratch = scratch  # for what outlives a kill, and is no part of the stage
        self.task: Any = plan.task if stage.run is None or stage.view == "scoring" else TrainingView(plan.task)
        self.seed = stage_seed(stage.kind, int(stage.options.get("seed", plan.suite.data_seed)))
        self._engine = engine
        self.place = place
        self.meter = Meter(resolve_device(plan.suite.device))
        self._progress = progress
        self._generator = torch.Generator().manual_seed(self.seed)

    def rows(self, name: str) -> list[dict[str, Any]]:
        return read_rows(self.place(self.stage.inputs[name]) / ROWS)

    def save_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        write_rows(self.folder / ROWS, rows)

    @contextmanager
    def resident(self, start: str | None = None) -> Iterator[Resident]:
        chain = [] if start is None else self.chain(self.stage.inputs.get(start))
        with self.engine.resident(chain) as resident:
            yield resident

    @property
    def engine(self) -> Engine:
        """Made at the first need: a stage that runs no model loads none."""
        return self._engine()

    def chain(self, key: str | None) -> list[Path]:
        """Folders of the adapters that make the start point of stage `key`: its own if it is a supervised start."""
        if key is None:
            return []
        stage = self.plan.stages[key]
        if stage.kind == "sft":
            return [*self.chain(stage.inputs.get("on")), self.place(key)]
        return self.chain(stage.inputs.get("start"))

    def sample(self, resident: Any, prompts: Sequence[str], max_new_tokens: int, temperature: float = 1.0) -> Rollout:
        rollout = sample_texts(resident, prompts, max_new_tokens, temperature, self._generator, progress=self.progress)
        self.meter.add(tokens_generated=int(rollout.tokens.is_response.sum()))
        return rollout

    @cached_property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.scratch / "checkpoint", self.plan.suite.checkpoint_seconds)

    def count(self, **counts: int) -> None:
        self.meter.add(**counts)

    def progress(self, done: int, total: int) -> None:
        self._progress(done, total)

    # ------------------------------------------------------------------------------- reward sources, for the harness

    def open_source(self, stack: ExitStack, name: str, options: Mapping[str, Any]) -> RewardSource:
        """An unfitted source by name, prepared, checked and metered."""
        plugin = self.plan.catalog.source(name)
        source = plugin.cls(plugin.cls.Config(**options))
        base = stack.enter_context(self.engine.resident())
        human: HumanModel | None = None
        if plugin.cls.simulates_humans:
            human = self.open_gold(stack)  # type: ignore[assignment]
        checked = Checked(source, plugin.distribution, self.meter)
        checked.prepare(SourceRoom(self.task.rubric, base, human, self.seed))
        return checked

    def open_reward_model(self, stack: ExitStack, key: str) -> RewardSource:
        resident = stack.enter_context(self.engine.resident(self.chain(key)))
        return Checked(RewardModel.load(self.place(key), resident), "alignbench", self.meter)

    def open_gold(self, stack: ExitStack) -> RewardSource:
        """For the scorer, and for simulated raters; no method is ever handed it."""
        base = stack.enter_context(self.engine.resident())
        return self.task.load_gold(self.place(self.stage.inputs["gold"]), base)
