"""How far a text lies from those a ridge regression was fitted to, and what is farther than people's sentences go.

The leverage of features x is h(x) = 1/n + z' (Z'Z + penalty I)^-1 z, with z = (x - centre) / scale and Z the n fitted
rows: the variance of the prediction at x, in units of the noise's. A fitted sentence has a lower one than a fresh one,
so the bound comes from sentences that were not fitted.

Features that are means over a text's T tokens spread as a + b / T, so that the sentences of highest leverage are the
shortest: "Wishy washy.", "Fantastic!". A bound on h itself is theirs, and lets nearly every text of 20 tokens pass.
Hence h is divided by what a sentence of as many tokens has. Measured figures stand in benchmarks/README.md, with what
it can't tell: words in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FILE = "reach.safetensors"
SHARE_WITHIN = 0.99  # of people's sentences


class Reach:
    """The leverage of a ridge, and the bound on it."""

    def __init__(self, parts: dict[str, Tensor]) -> None:
        """`centre`, `scale` (F,); `directions` (R, F), the right singular vectors of Z, and `squares` (R,), of its
        singular values; `penalty`, `count` (); after `calibrate`: `spread` (2,), a and b, and `bound` ()."""
        self.parts = parts

    def leverage(self, features: Tensor) -> Tensor:
        """(B, F) -> (B,) float64."""
        p = self.parts
        z = (features.double() - p["centre"]) / p["scale"]
        along = (z @ p["directions"].double().T) ** 2  # (B, R)
        beside = ((z**2).sum(1) - along.sum(1)).clamp_min(0)  # directions in which no fitted row lies
        return 1 / p["count"] + (along / (p["squares"] + p["penalty"])).sum(1) + beside / p["penalty"]

    def calibrate(self, features: Tensor, lengths: Sequence[int]) -> None:
        """Set the bound from texts that were not fitted, of these lengths in tokens."""
        import torch
        from scipy.optimize import nnls

        found = self.leverage(features)
        columns = torch.stack([torch.ones(len(lengths)), 1 / torch.tensor(lengths)], dim=1).double()
        self.parts["spread"] = torch.from_numpy(nnls(columns.numpy(), found.numpy())[0])
        self.parts["bound"] = torch.quantile(found / (columns @ self.parts["spread"]), SHARE_WITHIN)

    def is_beyond(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """(B,) bool: whether a text has a higher leverage than 99 % of people's sentences, each beside its length."""
        import torch

        a, b = self.parts["spread"]
        return self.leverage(features) / (a + b / torch.tensor(lengths).double()) > self.parts["bound"]

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        save_file({name: part.contiguous() for name, part in self.parts.items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Reach:
        from safetensors.torch import load_file

        return cls(load_file(folder / FILE))
