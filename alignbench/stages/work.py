"""The live `Work`: what a stage may touch while it is computed. See `alignbench.api.Work` for the contract.

Every stage's key hashes the code of this file and of what it imports, so what one kind alone needs stands in its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from alignbench.api import AlignmentMethod, HumanModel, RewardSource, Rollout, SourceRoom, Work
from alignbench.engine.checkpoint import Checkpoints
from alignbench.engine.device import resolve_device
from alignbench.engine.meter import Meter
from alignbench.engine.resident import POLICY, Engine, Resident
from alignbench.engine.sampling import sample_texts
from alignbench.errors import UserError
from alignbench.feedback.checked import Checked
from alignbench.stages.source import Source
from alignbench.stages.view import TrainingView
from alignbench.store import read_json, read_rows, write_rows
from alignbench.suite.plan import Plan, PlannedStage

ROWS = "rows.jsonl"
HISTORY = "history.jsonl"  # numbers along a fit, a row per step


class Maker(Protocol):
    """What is asked of the kind of an input."""

    @property
    def is_start(self) -> bool:
        """Whether its adapter is merged below those of the stages on it."""

    def opened(self, folder: Path, resident: Resident) -> RewardSource:
        """What was made in `folder`, as a reward source on its start point."""


def stage_seed(kind: str, seed: int) -> int:
    """A seed for each kind of stage, lest the adapters of a supervised start and of its policy begin with the same
    numbers. Stages of one kind share theirs: rows are compared on the same draws."""
    return int.from_bytes(hashlib.sha256(f"{kind} {seed}".encode()).digest()[:4])


class LiveWork(Work):
    """One stage at work in `folder`, with its finished inputs: what a plugin's own stage is handed. None of its public
    attributes leads to the plan or to what scores a row."""

    def __init__(
        self,
        plan: Plan,
        stage: PlannedStage,
        folder: Path,
        scratch: Path,
        engine: Callable[[], Engine],
        place: Callable[[str], Path],
        progress: Callable[..., None],
        kinds: Mapping[str, Maker],
    ) -> None:
        self._plan = plan
        self.stage = stage
        self.options: Mapping[str, Any] = stage.options
        self.folder = folder
        self.scratch = scratch  # for what outlives a kill, and is no part of the stage
        drawn_by = int(stage.options.get("seed", plan.suite.data_seed))
        is_whole = stage.run is None or stage.view == "scoring"
        self.task: Any = plan.task if is_whole else TrainingView(plan.task, drawn_by)
        self.seed = stage_seed(stage.kind, drawn_by)
        self._engine = engine
        self._place = place
        self._kinds = kinds
        self.meter = Meter(resolve_device(plan.suite.device))
        self._progress = progress
        self._generator = torch.Generator().manual_seed(self.seed)

    def place(self, name: str) -> Path:
        """The folder of input `name`, every byte of it checked."""
        return self._place(self.stage.inputs[name])

    def rows(self, name: str) -> list[dict[str, Any]]:
        return read_rows(self.place(name) / ROWS)

    def save_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        write_rows(self.folder / ROWS, rows)

    @contextmanager
    def resident(self, start: str | None = None) -> Iterator[Resident]:
        chain = [] if start is None else self._chain(self.stage.inputs.get(start))
        with self._engine().resident(chain) as resident:  # a stage that runs no model loads none
            yield resident

    def _chain(self, key: str | None) -> list[Path]:
        """Folders of the adapters that make the start point of stage `key`: its own if it is a supervised start."""
        if key is None:
            return []
        stage = self._plan.stages[key]
        if stage.run is None and self._kinds[stage.kind].is_start:
            return [*self._chain(stage.inputs.get("on")), self._place(key)]
        return self._chain(stage.inputs.get("start"))

    def sample(
        self, resident: Any, prompts: Sequence[str], max_new_tokens: int, temperature: float | None = None
    ) -> Rollout:
        heat = float(self.options.get("temperature", 1.0)) if temperature is None else temperature
        rollout = sample_texts(resident, prompts, max_new_tokens, heat, self._generator, progress=self.progress)
        self.meter.add(tokens_generated=int(rollout.tokens.is_response.sum()))
        return rollout

    def count(self, **counts: int) -> None:
        self.meter.add(**counts)

    def progress(self, done: int, total: int, **numbers: float) -> None:
        self._progress(done, total, **numbers)


class HarnessWork(LiveWork):
    """What the harness's own kinds may do besides: resume, open rewards, read held-out prompts."""

    @cached_property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.scratch / "checkpoint", self._plan.suite.checkpoint_seconds, owner=self.stage.key)

    def residents(self) -> list[Resident]:
        """Every model in memory."""
        return list(self._engine().kept.values())

    def save_history(self, history: Sequence[Mapping[str, float]]) -> None:
        write_rows(self.folder / HISTORY, history)

    def method(self, name: str) -> type[AlignmentMethod]:
        return self._plan.catalog.method(name).cls

    def held_out_prompts(self, count: int) -> list[str]:
        return self.first(self.task.prompts("eval"), count, "evaluation.prompts", "eval")

    def first(self, items: list[Any], count: int, option: str, split: str) -> list[Any]:
        """UserError if there are fewer than `count` of them."""
        if len(items) < count:
            problem = f"{count} asked for, the task's {split} split has {len(items)}; lower it or enlarge the split"
            raise UserError(f"{option}: {problem}")
        return items[:count]

    def save_policy(self, resident: Resident, folder: Path) -> None:
        resident.save_adapter(POLICY, folder)

    def load_policy(self, resident: Resident) -> str | None:
        """The trained adapter of input `policy`, under its name; None for the bare start point."""
        folder = self.place("policy")
        if read_json(folder / "policy.json")["is_start"]:
            return None
        resident.load_adapter(POLICY, folder)
        return POLICY

    def rewards(self, name: str) -> torch.Tensor:
        """(N,) float64, of each completion."""
        return torch.tensor([row["reward"] for row in self.rows(name)], dtype=torch.float64)

    def save_rewards(self, source: RewardSource) -> None:
        """Of each of the input's completions."""
        rows = self.rows("completions")
        scores = source.score([r["prompt"] for r in rows], [r["completion"] for r in rows])
        self.save_rows([{"reward": score} for score in scores.tolist()])

    def open_source(self, stack: ExitStack, named: Source) -> RewardSource:
        """An unfitted source, prepared, checked and metered."""
        plugin = self._plan.catalog.source(named.name)
        source = plugin.cls(plugin.cls.Config(**named.options))
        is_human = plugin.cls.simulates_humans
        with self.meter.unbilled() if is_human else nullcontext():
            base = stack.enter_context(self._engine().resident())
            human: HumanModel | None = self.open_gold(stack) if is_human else None  # type: ignore[assignment]
            checked = Checked(source, plugin.distribution, self.meter)
            checked.prepare(SourceRoom(self.task.rubric, base, human, self.seed))
        return checked

    def open_reward(self, stack: ExitStack, name: str, unfitted: Source | None) -> RewardSource:
        """The fitted reward model that is input `name`, or else the unfitted source."""
        if unfitted is not None:
            return self.open_source(stack, unfitted)
        key = self.stage.inputs[name]
        resident = stack.enter_context(self._engine().resident(self._chain(key)))
        model = self._kinds[self._plan.stages[key].kind].opened(self._place(key), resident)
        return Checked(model, "alignbench", self.meter)

    def open_gold(self, stack: ExitStack) -> RewardSource:
        """For the scorer, and for simulated raters; no method is ever handed it."""
        base = stack.enter_context(self._engine().resident())
        return self.task.load_gold(self.place("gold"), base)
