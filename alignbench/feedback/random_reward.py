"""A reward that says nothing: the control for what a method gains by being optimised at all.

Each text's number is drawn from a hash of seed, prompt and completion. So it stays the same wherever the text is read,
as a reward must, and no two texts have anything in common that a policy could learn, but for texts it has seen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import NonNegativeInt

from alignbench import api
from alignbench.api import RewardSource

if TYPE_CHECKING:
    from torch import Tensor


class RandomReward(RewardSource):
    """Uniform, of mean 0 and standard deviation 1 over texts, so that `kl_coef` weighs as it does beside a fitted
    reward model's scores."""

    name = "random"
    summary = "a number drawn from the text's hash; a control"

    class Config(api.Config):
        seed: NonNegativeInt = 0  # another seed, other numbers. Not the run's: training and scoring must read the same

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        import torch

        shares = [_uniform(f"{self.config.seed}\0{p}\0{c}") for p, c in zip(prompts, completions, strict=True)]
        return (torch.tensor(shares, dtype=torch.float64) - 0.5).mul(math.sqrt(12)).float()


def _uniform(text: str) -> float:
    """In [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6]) / 2**48
