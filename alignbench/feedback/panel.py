"""A panel of simulated raters: the rater model's mean plus noise of the dispersion measured among real raters.

Each rater's noise on a text is drawn from a hash of seed, rater and text: a rater who reads a text twice gives the same
rating, whatever stands beside it in a batch, and prefer(a, b) = 1 - prefer(b, a).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveInt

from alignbench import api
from alignbench.api import HumanModel, RewardSource, SourceRoom
from alignbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

STANDARD_NORMAL = NormalDist()


class Panel(RewardSource):
    name = "panel"
    summary = "simulated human raters with the measured dispersion; majority vote"
    labels = "human"
    is_trainable_signal = False  # it is made of the gold reward
    simulates_humans = True

    class Config(api.Config):
        raters: PositiveInt = 5  # odd numbers leave no ties
        rating_sd: NonNegativeFloat | None = None  # rating points; None: as measured in the task's ratings

    def prepare(self, room: SourceRoom) -> None:
        if room.human_model is None or not hasattr(room.human_model, "rating_sd"):
            raise UserError("the `panel` source needs a task with single human ratings; use `source: human` or `judge`")
        self.human: HumanModel = room.human_model
        self.seed = room.seed
        self.rating_sd = room.human_model.rating_sd if self.config.rating_sd is None else self.config.rating_sd
        self.labels_per_comparison = self.config.raters

    def ratings(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        """(B, raters) single ratings."""
        import torch

        noise = torch.tensor(
            [
                [_standard_normal(f"{self.seed}\0{rater}\0{p}\0{c}") for rater in range(self.config.raters)]
                for p, c in zip(prompts, completions, strict=True)
            ]
        )
        return self.human.score(prompts, completions).cpu()[:, None] + self.rating_sd * noise

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        return self.ratings(prompts, completions).mean(1)

    def prefer(self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> Tensor:
        """(B,) share of the raters who rate `a` higher, equal ratings half."""
        first, second = self.ratings(prompts, a), self.ratings(prompts, b)
        return ((first > second).float() + 0.5 * (first == second).float()).mean(1)


def _standard_normal(text: str) -> float:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return STANDARD_NORMAL.inv_cdf((int.from_bytes(digest[:7]) + 0.5) / 2**56)
