"""A method: one row of the table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from alignbench.api.config import MethodConfig
from alignbench.api.data import Rubric
from alignbench.api.stages import Inputs, RecipeBuilder
from alignbench.api.trial import Trial

if TYPE_CHECKING:  # torch takes seconds to import; only annotations need it here
    from torch import Tensor

NEEDS = frozenset({"prompts", "preferences", "reward"})


class AlignmentMethod(ABC):
    """One row of the table. Subclass it, name what it needs, train."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()  # of NEEDS; shapes the default recipe
    kl_knob: ClassVar[str | None] = None  # the option a sweep turns; larger trains nearer the reference
    is_control: ClassVar[bool] = False  # what it trains on carries nothing: that it learns nothing is what it is for
    Config: ClassVar[type[MethodConfig]] = MethodConfig

    def recipe(self, config: Any, build: RecipeBuilder) -> Inputs:
        """What the run starts from. Override it when the row differs from the others in more than its loss."""
        start = build.sft()
        return Inputs(
            start=start,
            preferences=build.comparisons(start) if "preferences" in self.needs else None,
            reward=build.reward(start) if "reward" in self.needs else None,
        )

    def train(self, trial: Trial, config: Any) -> None:  # noqa: B027
        """Change `trial.policy` until `trial.budget` is spent. Scoring is the harness's. A method that does not
        override this leaves the policy at its start."""

    def prefix(self, config: Any, rubric: Rubric) -> str:
        """Text put before every prompt when the policy is sampled and measured; its KL is from a reference that reads
        the prompt alone. Training sees prompts as they are."""
        return ""

    def decoding(self, config: Any) -> Decoding | None:
        """How completions are chosen at test time. None: one plain sample."""
        return None

    def along(self, config: Any, count: int) -> Sequence[MethodConfig]:
        """At most `count` options whose decoding rules are on the way to that of `config`, and pick from as many
        samples: the suite's `snapshots` of a row that decodes."""
        return ()

    def beta(self, config: Any) -> float | None:
        """Reward points per nat if training maximises E[r] - beta KL(policy || reference), whose optimum is known in
        closed form; None for any other objective."""
        return None

    def loss_at_start(self, config: Any) -> float | None:
        """The first loss, where policy and reference are one, if it is the same on any data; None if not."""
        return None


class Decoding(ABC):
    """A rule that picks among several samples of the policy by the proxy reward."""

    samples_per_prompt: int  # that evaluation draws

    @property
    def samples_used(self) -> int:
        """Samples drawn and judged in use for one returned completion: fewer, where evaluation draws more than the rule
        needs to be told well."""
        return self.samples_per_prompt

    @abstractmethod
    def weights(self, proxy: Tensor) -> Tensor:
        """(P, N) proxy scores -> (P, N) probability that each sample is the one returned; rows sum to 1."""

    @abstractmethod
    def kl_nats_bound(self) -> float:
        """An upper bound on the KL from the policy that was sampled, in nats."""
