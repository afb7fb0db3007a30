"""What a method may learn from: a task's data, without what scores a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

Split = Literal["train", "label", "eval"]
SPLITS: tuple[Split, ...] = ("train", "label", "eval")


class Rubric(NamedTuple):
    """One guideline for every rater, human or model, in the words a rater reads."""

    guideline: str  # what to look at
    subject: str  # what a text is called: "Review"
    quality: str  # what is asked of it: "Sentiment"
    best: str  # the label of a good text: "Positive"
    worst: str  # the label of a bad one: "Negative"
    is_continuation: bool = False  # True: a completion goes on with its prompt's own sentence


class Demonstration(NamedTuple):
    prompt: str
    completion: str


class Pair(NamedTuple):
    prompt: str
    chosen: str
    rejected: str


def turned(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of comparisons the other way round: `chosen` and `rejected` change places, each with what is known of it,
    and `ranked` runs backwards."""
    sides = {"chosen": "rejected", "rejected": "chosen"}
    names = {f"{side}{end}": f"{other}{end}" for side, other in sides.items() for end in ("", "_ended")}
    return {**{names.get(name, name): value for name, value in row.items()}, "ranked": row["ranked"][::-1]}


class TrainingData(ABC):
    """The part of a task that training may read: of its prompts, `train` and `label`."""

    name: ClassVar[str]
    rubric: Rubric  # of the class, or an instance's own
    data_seed: int = 0  # draws the splits; the harness sets it to the suite's
    max_new_tokens: int

    @property
    def max_completion_tokens(self) -> int:
        """Tokens read of a completion from the task's data; the rest is cut. Samples end at `max_new_tokens`."""
        return self.max_new_tokens

    @abstractmethod
    def prompts(self, split: Split) -> list[str]:
        """`train` for rollouts, `label` for comparisons, `eval` for scoring; no text is in two of them."""

    @abstractmethod
    def demonstrations(self) -> list[Demonstration]:
        """Data of the supervised start."""

    @abstractmethod
    def human_pairs(self, count: int, seed: int) -> list[Pair]:
        """Real human preferences of the training split."""
