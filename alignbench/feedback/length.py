"""Reward for length alone: the control that shows what a policy gains by optimising nothing of value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from alignbench import api
from alignbench.api import RewardSource

if TYPE_CHECKING:
    from torch import Tensor


class Length(RewardSource):
    """Words of the completion, in units of `words_per_point`."""

    name = "length"
    summary = "number of words; a control"

    class Config(api.Config):
        words_per_point: PositiveFloat = 4.0  # about one standard deviation of an untrained policy's samples

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        import torch

        return torch.tensor([len(text.split()) / self.config.words_per_point for text in completions])
