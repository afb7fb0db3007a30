"""Keeps the weights that did best on pairs a fit does not see, and says when to stop looking for better ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from alignbench.engine.checkpoint import Saved


class Best:
    """Of the looks so far: the most pairs ordered rightly, then the least loss. `patience`: looks without a better one
    after which the fit is over; None: never."""

    def __init__(self, weights: Sequence[Tensor], patience: int | None) -> None:
        self._weights = weights
        self._patience = patience
        self._kept: list[Tensor] = []
        self._rank: tuple[float, float] | None = None  # accuracy, minus loss
        self._since = 0  # looks

    def look(self, accuracy: float, loss: float) -> None:
        if self._rank is not None and (accuracy, -loss) <= self._rank:
            self._since += 1
            return
        self._rank, self._since = (accuracy, -loss), 0
        self._kept = [weight.detach().clone() for weight in self._weights]

    @property
    def is_over(self) -> bool:
        return self._patience is not None and self._since >= self._patience

    def put_back(self) -> None:
        """The best look's weights take the place of the last ones."""
        with torch.no_grad():
            for weight, best in zip(self._weights, self._kept, strict=True):
                weight.copy_(best)

    def tensors(self) -> dict[str, Tensor]:
        return {f"best.{i}": weight for i, weight in enumerate(self._kept)}

    def values(self) -> Mapping[str, Any]:
        return {"best": {"rank": self._rank, "since": self._since}}

    def restore(self, saved: Saved) -> None:
        """Take back what `tensors` and `values` gave to a checkpoint."""
        facts = saved.values["best"]
        self._rank, self._since = None if facts["rank"] is None else tuple(facts["rank"]), facts["since"]
        if self._rank is not None:
            self._kept = [saved.tensors[f"best.{i}"].to(w.device) for i, w in enumerate(self._weights)]
