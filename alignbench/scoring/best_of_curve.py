"""What a reward is worth as a chooser among samples that nothing was trained on yet."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from alignbench.best_of import best_of_weights


class BestOf(NamedTuple):
    """Points of gold over the mean of the same samples, of the best of n as one reward or another chooses."""

    n: int
    gain: Tensor  # (P,) the proxy chooses
    ceiling: Tensor  # (P,) the gold itself does


def best_of_curve(proxy: Tensor, gold: Tensor) -> list[BestOf]:
    """(P, N) rewards of N samples a prompt -> n = 2, 4, 8 ... up to N. A proxy that the gold agrees with nears the
    ceiling; one that can be hacked falls behind it, and at last below 0, as n grows (Gao et al. 2022, sec. 3)."""
    at = (2**power for power in range(1, proxy.shape[1].bit_length()))
    return [BestOf(n, _chosen(gold, proxy, n), _chosen(gold, gold, n)) for n in at]


def _chosen(gold: Tensor, chooser: Tensor, n: int) -> Tensor:
    return (gold.double() * best_of_weights(chooser.double(), n)).sum(1) - gold.double().mean(1)
