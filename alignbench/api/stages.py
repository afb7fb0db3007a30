"""What a row starts from: a small graph of stages, which the harness caches and shares by content."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from alignbench.api.config import MethodConfig
from alignbench.api.data import Rubric, TrainingData

if TYPE_CHECKING:  # torch takes seconds to import; only annotations need it here
    from alignbench.api.tensors import Rollout

View = Literal["training", "scoring"]


@dataclass(frozen=True)
class Stage:
    """One cached step of a plan. Its content key hashes kind, options, inputs, and the code of `run`."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)  # JSON values only
    inputs: Mapping[str, Stage] = field(default_factory=dict)  # named upstream stages
    run: Callable[[Work], None] | None = None  # a plugin's own stage; None for the harness's kinds
    view: View = "training"  # of a plugin's own stage: whether it may read held-out data; a method's never may


class SourceRef(NamedTuple):
    """A reward source by name, with its options: the torch-free description of a `RewardSource`."""

    name: str
    options: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Inputs:
    """What one training run starts from. `reward` is a fitted reward model's stage or an unfitted source."""

    start: Stage | None  # None: the base model
    preferences: Stage | None = None
    reward: Stage | SourceRef | None = None


class Work(ABC):
    """What the function behind a stage may touch."""

    options: Mapping[str, Any]
    folder: Path  # what is written here is the stage
    task: TrainingData  # a task's own stages are handed all of it
    seed: int

    @abstractmethod
    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows an upstream stage saved."""

    @abstractmethod
    def save_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Save rows of JSON values as this stage's result."""

    @abstractmethod
    def resident(self, start: str | None = None) -> AbstractContextManager[Any]:
        """The start point that input `start` made, or the base model: an engine.Resident without adapters."""

    @abstractmethod
    def sample(
        self, resident: Any, prompts: Sequence[str], max_new_tokens: int, temperature: float | None = None
    ) -> Rollout:
        """One completion per prompt, metered and seeded; None: at the suite's temperature."""

    @abstractmethod
    def count(self, **counts: int) -> None:
        """Add to the cost ledger: tokens_trained, tokens_judged, labels_human, labels_ai."""

    @abstractmethod
    def progress(self, done: int, total: int, **numbers: float) -> None:
        """Tell whoever watches, with numbers of the moment, such as a loss."""


class RecipeBuilder(ABC):
    """Builds a recipe's stages. Equal calls give equal stages, so two methods that ask for the same thing share it."""

    @abstractmethod
    def sft(self, data: Stage | None = None, on: Stage | None = None, num_train_epochs: float | None = None) -> Stage:
        """Supervised start on the task's demonstrations, or on `data` (rows of prompt, completion), on top of `on`. It
        takes `sft.max_steps`; with `num_train_epochs` so many passes over the data, if that is less."""

    @abstractmethod
    def samples(self, start: Stage | None, policy: Stage | None = None) -> Stage:
        """`samples.per_prompt` completions of each label prompt, sampled from `start`, or from `policy`, trained on
        it."""

    @abstractmethod
    def compare(self, samples: Stage, source: SourceRef) -> Stage:
        """Preferences: `samples` labelled by a reward source."""

    @abstractmethod
    def comparisons(self, start: Stage | None, policies: Sequence[Stage] = ()) -> Stage:
        """The human comparisons the suite names: the task's real pairs, or the start's samples labelled by a panel.
        With as many samples of each of `policies` beside them, labelled alike; UserError where people's own pairs are
        all there is."""

    @abstractmethod
    def reward_model(self, start: Stage | None, comparisons: Stage) -> Stage:
        """A Bradley-Terry reward model, an adapter and a head on `start`, fitted to `comparisons`."""

    @abstractmethod
    def trained(self, method: str, config: MethodConfig, inputs: Inputs) -> Stage:
        """A policy: what a row of this method would train from these inputs, with this row's allowance of steps."""

    @abstractmethod
    def reward(self, start: Stage | None) -> Stage | SourceRef:
        """The row's own `reward:` if the suite names one, else the reward model on the human comparisons."""

    @abstractmethod
    def stage(self, kind: str, run: Callable[[Work], None], inputs: Mapping[str, Stage], **options: Any) -> Stage:
        """A plugin's own stage, made by a module-level function `run(work)`; cached and metered like the rest."""

    @property
    @abstractmethod
    def rubric(self) -> Rubric:
        """The task's guidelines for whoever rates a completion, human or model."""
