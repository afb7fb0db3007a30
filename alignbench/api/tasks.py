"""A task and a reward source: what is asked of a policy, and who judges it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from alignbench.api.config import Config
from alignbench.api.data import SPLITS, Pair, Rubric, TrainingData
from alignbench.api.stages import RecipeBuilder, Stage

if TYPE_CHECKING:  # torch takes seconds to import; only annotations need it here
    from torch import Tensor

Labels = Literal["human", "ai", "free"]


class SourceRoom(NamedTuple):
    """What a reward source may use to get ready."""

    rubric: Rubric
    base: Any  # the base model on its device (engine.Resident), adapters off
    human_model: HumanModel | None  # the fitted rater model; None unless the source declares `simulates_humans`
    seed: int


class RewardSource(ABC):
    """Scores or compares completions. Higher is better."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    labels: ClassVar[Labels] = "free"  # what one call costs: a human label, an AI label, nothing
    is_trainable_signal: ClassVar[bool] = True  # False: it may label data, but no method may optimise it directly
    simulates_humans: ClassVar[bool] = False  # True: it is handed the task's rater model
    Config: ClassVar[type[Config]] = Config
    labels_per_comparison: int = 1  # judgements one comparison takes
    tokens_judged: int = 0  # a source that runs a model adds the tokens it read

    def __init__(self, config: Any) -> None:
        self.config = config

    def digest(self) -> str:
        """sha256 over what this source reads beside its options and its package's files, such as weights in a folder an
        option names; part of the key of every stage that uses it. Called before `prepare`, at every plan."""
        return ""

    def prepare(self, room: SourceRoom) -> None:  # noqa: B027
        """Load what is needed. Called once, before the first score."""

    @abstractmethod
    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        """(B,) float32, finite."""

    def extrapolates(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor | None:
        """(B,) bool: whether prompt + completion lies beyond what a gold reward was fitted to, asked right after its
        score. None where the source cannot tell."""
        return None

    def prefer(self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> Tensor:
        """(B,) probability that `a` beats `b`; by default the Bradley-Terry sigmoid of the score difference."""
        return (self.score(prompts, a) - self.score(prompts, b)).sigmoid()

    def prefer_once(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """(B,) probability that `first` beats `second`, asked in this one order, where `prefer` asks in both to cancel
        a liking for a place. NaN: it gave no answer. `alignbench judge` reads it; no method does."""
        return self.prefer(prompts, first, second)


class HumanModel(RewardSource):
    """A gold reward fitted to human ratings: it predicts the mean rating of a text."""

    rating_sd: float  # SD of single ratings around the mean of their text, on the rating scale


class RatedText(Protocol):
    """A text and what each of its raters said of it."""

    @property
    def text(self) -> str: ...

    @property
    def ratings(self) -> Sequence[float]: ...  # one per rater, in no order


class HeldOutPairs(NamedTuple):
    """Real human preferences no training stage saw, and how well one human does on them."""

    pairs: list[Pair]
    human_accuracy: float | None  # agreement of one rater with the others, the ceiling; None if unknown


class Task(TrainingData):
    """Prompts, demonstrations, human preferences and the gold reward of one setting."""

    summary: ClassVar[str] = ""
    Config: ClassVar[type[Config]] = Config

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def digest(self) -> str:
        """sha256 over the data this task reads; part of every stage's key. UserError names a missing or wrong file."""

    def completions(self, prompt: str) -> list[str] | None:
        """Every completion the prompt can have, for a task so small that they can be listed: rows are then held against
        the closed-form optimum. The task's human pairs must follow its gold reward by Bradley-Terry."""
        return None

    def every_prompt(self) -> Collection[str]:
        """All prompts that a stage may read, each once: a run is refused before its first stage where one of them does
        not fit the model."""
        own = (prompt for split in SPLITS for prompt in self.prompts(split))
        return dict.fromkeys([*own, *(pair.prompt for pair in self.held_out_pairs().pairs)])

    @abstractmethod
    def held_out_pairs(self) -> HeldOutPairs:
        """Real human preferences of the held-out split."""

    def other_pairs(self, count: int) -> Mapping[str, HeldOutPairs]:
        """Real human preferences over texts of other kinds than the task's, `count` of each kind, by its name: what a
        reward model is worth outside its domain. Empty: the task has none."""
        return {}

    def single_ratings(self) -> Mapping[str, Sequence[RatedText]]:
        """All rated texts of the task's data, each once, with their single ratings, by domain: what `alignbench
        agreement` reads. Empty: its data are no ratings."""
        return {}

    def other_texts(self) -> Sequence[str]:
        """Texts of another kind than the task's, in a fixed order: what a policy may forget. Empty: it has none."""
        return ()

    @abstractmethod
    def gold(self, build: RecipeBuilder) -> Stage:
        """The stage that fits the gold reward: `build.stage(...)` of the task's own, or a reward model."""

    @abstractmethod
    def load_gold(self, folder: Path, base: Any) -> RewardSource:
        """The fitted gold reward from its stage's folder; `base` is the base model (engine.Resident)."""

    def second_gold(self, build: RecipeBuilder) -> Stage | None:
        """The stage that fits a second gold reward of another kind: every completion is scored by both, and a table
        says of which rows they disagree. None: the task has none."""
        return None

    def load_second_gold(self, folder: Path) -> RewardSource:
        """The second gold from its stage's folder. It rests on no weight of the base model, so it is handed none."""
        raise NotImplementedError(f"task '{self.name}' brings a second gold's stage and does not load it")

    def gold_card(self, gold: RewardSource, second: RewardSource | None = None) -> dict[str, float]:
        """The gold's own validity on held-out human data, each figure by name, and that of the second gold. A task
        without a second is called with the gold alone."""
        return {}

    def describe(self) -> str:
        """One line for the foot of a table: the data and how much of it."""
        return self.name
