"""The rows every comparison needs: the start point itself, the start told what is wanted, and best-of-n sampling.

`prompted` trains nothing: before each prompt stand the task's guideline and the label of a good text, as an example of
the rubric's own form. Its KL is what the words move: the start with them before the prompt, from the start without.

Best-of-n returns, of n samples, the one the proxy reward likes best. Its KL from the start point is at most
log n - (n-1)/n nats (Stiennon et al. 2020; Beirami et al. 2024, arXiv:2401.01879, show it is a bound).
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from pydantic import PositiveInt, model_validator

import alignbench
from alignbench import AlignmentMethod, Decoding, MethodConfig, Rubric
from alignbench.best_of import best_of_weights

if TYPE_CHECKING:
    from torch import Tensor


class SFT(AlignmentMethod):
    name = "sft"
    summary = "the supervised start, where every other row begins"


class Prompted(AlignmentMethod):
    name = "prompted"
    summary = "the start with the task's rubric before every prompt, nothing trained"

    def prefix(self, config: MethodConfig, rubric: Rubric) -> str:
        """As the judge is asked, but with the label first: what follows it is then a text that deserves it."""
        return f"{rubric.guideline}\n\n{rubric.quality}: {rubric.best}\n{rubric.subject}: "


class BestOfN(AlignmentMethod):
    name = "best_of_n"
    summary = "the sample the reward model likes best, of n"
    needs = frozenset({"reward"})
    kl_knob = "n"

    class Config(MethodConfig):
        n: PositiveInt = 4  # a larger n goes further from the reference
        num_samples: PositiveInt = 8  # drawn per prompt; the estimate for every n comes from the same ones

        @model_validator(mode="after")
        def _enough_samples(self) -> BestOfN.Config:
            if self.n > self.num_samples:
                raise ValueError(f"n: {self.n} needs num_samples of at least {self.n}, got {self.num_samples}")
            return self

    def decoding(self, config: Config) -> Decoding:
        return BestOf(config.n, config.num_samples)

    def along(self, config: Config, count: int) -> list[Config]:
        """Powers of two below n, spread evenly over them."""
        powers = [2**i for i in range(1, config.n.bit_length()) if 2**i < config.n]
        places = [powers[(i + 1) * len(powers) // (count + 1)] for i in range(count)] if powers else []
        return [config.model_copy(update={"n": n}) for n in dict.fromkeys(places)]


class BestOf(Decoding):
    def __init__(self, n: int, samples_per_prompt: int) -> None:
        self.n = n
        self.samples_per_prompt = samples_per_prompt

    @property
    def samples_used(self) -> int:
        return self.n

    def weights(self, proxy: Tensor) -> Tensor:
        return best_of_weights(proxy, self.n)

    def kl_nats_bound(self) -> float:
        return log(self.n) - (self.n - 1) / self.n


@alignbench.hookimpl
def alignbench_methods() -> list[type[AlignmentMethod]]:
    return [SFT, Prompted, BestOfN]
