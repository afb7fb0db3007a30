"""The guard around every reward source: shape, dtype and finiteness on each call, and what each call costs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from alignbench.api import RewardSource, SourceRoom
from alignbench.engine.meter import Meter
from alignbench.errors import PluginError


class Checked(RewardSource):
    """Passes calls through to a source of some distribution; PluginError if what comes back breaks the contract."""

    def __init__(self, source: RewardSource, distribution: str, meter: Meter) -> None:
        super().__init__(source.config)
        self.name = source.name  # type: ignore[misc]
        self.labels = source.labels  # type: ignore[misc]
        self._source = source
        self._distribution = distribution
        self._meter = meter

    def prepare(self, room: SourceRoom) -> None:
        self._source.prepare(room)
        self.labels_per_comparison = self._source.labels_per_comparison

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        before = self._source.tokens_judged
        with self._billed():
            answer = self._source.score(prompts, completions)
        scores = self._sound(answer, len(prompts), "score")
        self._bill(before, len(prompts))
        return scores

    def prefer(self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> Tensor:
        before = self._source.tokens_judged
        with self._billed():
            answer = self._source.prefer(prompts, a, b)
        shares = self._sound(answer, len(prompts), "prefer")
        if not ((shares >= 0) & (shares <= 1)).all():
            raise self._broken(
                f"prefer() returned {float(shares.min()):.3g} to {float(shares.max()):.3g}; allowed: 0 to 1"
            )
        self._bill(before, len(prompts))
        return shares

    def _sound(self, values: Tensor, count: int, call: str) -> Tensor:
        if not isinstance(values, Tensor):
            raise self._broken(
                f"{call}() returned a {type(values).__name__}; return a float32 tensor of shape ({count},)"
            )
        if tuple(values.shape) != (count,):
            raise self._broken(f"{call}() returned shape {tuple(values.shape)} for {count} texts; return ({count},)")
        bad = (~torch.isfinite(values.float())).nonzero().flatten().tolist()
        if bad:
            raise self._broken(
                f"{call}() returned {float(values[bad[0]])} for text {bad[0]} of {count}; return finite numbers"
            )
        return values.float()

    def _bill(self, tokens_before: int, comparisons: int) -> None:
        if not self._source.simulates_humans:
            self._meter.add(tokens_judged=self._source.tokens_judged - tokens_before)
        labels = comparisons * self.labels_per_comparison
        if self.labels != "free":
            self._meter.add(**{f"labels_{self.labels}": labels})

    def _billed(self) -> AbstractContextManager[None]:
        """People cost their labels, whatever it takes to simulate them."""
        return self._meter.unbilled() if self._source.simulates_humans else nullcontext()

    def _broken(self, problem: str) -> PluginError:
        return PluginError(self.name, self._distribution, problem)
