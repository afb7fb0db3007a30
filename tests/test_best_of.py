"""Which of N samples a reward would return, against every subset written out."""

from __future__ import annotations

from itertools import combinations
from statistics import fmean

import pytest
import torch

from alignbench.best_of import best_of_weights
from alignbench.report.best_of import section
from alignbench.scoring.best_of_curve import best_of_curve
from alignbench.scoring.record import BestOfN, Record


def by_enumeration(chooser: list[float], gold: list[float], n: int) -> float:
    """Mean gold of the best of each n-subset, ties shared."""
    found = []
    for subset in combinations(range(len(gold)), n):
        best = max(chooser[i] for i in subset)
        found.append(fmean(gold[i] for i in subset if chooser[i] == best))
    return fmean(found)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_estimate_is_the_mean_over_every_subset(n: int) -> None:
    chooser, gold = [0.3, -1.0, 2.0, 0.7, 0.1], [1.0, 5.0, -2.0, 0.5, 3.0]
    weights = best_of_weights(torch.tensor([chooser], dtype=torch.float64), n)
    assert float(weights.sum()) == pytest.approx(1)
    assert float((weights * torch.tensor([gold])).sum()) == pytest.approx(by_enumeration(chooser, gold, n))


def test_the_curve_is_told_over_the_mean_of_the_same_samples_and_beside_the_golds_own() -> None:
    proxy = [[0.1, 0.9, 0.4, 0.2, 0.8], [3.0, 1.0, 2.0, 5.0, 4.0]]
    gold = [[1.0, 2.0, 4.0, -1.0, 0.0], [0.0, 0.5, -0.5, 1.0, 0.25]]
    curve = best_of_curve(torch.tensor(proxy), torch.tensor(gold))
    assert [each.n for each in curve] == [2, 4]
    for n, gain, ceiling in curve:
        told = [by_enumeration(p, g, n) - fmean(g) for p, g in zip(proxy, gold, strict=True)]
        best = [by_enumeration(g, g, n) - fmean(g) for g in gold]
        assert gain.tolist() == pytest.approx(told, abs=1e-6)
        assert ceiling.tolist() == pytest.approx(best, abs=1e-6)


def test_a_reward_against_the_gold_falls_as_n_grows_and_one_that_says_nothing_stays_at_0() -> None:
    gold = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    against = [float(each.gain.mean()) for each in best_of_curve(-gold, gold)]
    assert against[0] > against[1] > against[2]
    assert against[0] < -0.4  # two of a normal distribution: 1 / sqrt(pi) below its mean
    assert against[0] == pytest.approx(-0.5642, abs=0.03)
    assert all(float(each.gain.abs().max()) < 1e-6 for each in best_of_curve(torch.zeros(2000, 8), gold))


def test_one_sample_has_no_curve() -> None:
    assert best_of_curve(torch.zeros(3, 1), torch.ones(3, 1)) == []


def record(label: str, seed: int, *curve: tuple[int, float, float]) -> Record:
    best = tuple(BestOfN(n=n, gain=gain, ceiling=ceiling) for n, gain, ceiling in curve)
    told = {"suite": "s", "method": "m", "distribution": "d", "version": "1", "status": "ok", "key": f"{label}{seed}"}
    return Record.model_validate({**told, "label": label, "seed": seed, "best_of": best})


def test_rows_of_one_proxy_are_one_line_and_replicates_their_mean() -> None:
    records = [
        record(label, seed, (2, gain * (seed + 1), 0.5), (4, 2 * gain, 1.0 + seed))
        for label, gain in (("ppo", 0.1), ("ppo|b", 0.1), ("dpo", -0.2))
        for seed in (0, 1)
    ]
    lines = section(records)
    assert lines[2].split(" | ")[1:] == ["best of 2", "best of 4", "the gold's own |"]
    assert lines[4:6] == ["| ppo, ppo&#124;b | +0.15 | +0.20 | +1.50 |", "| dpo | -0.30 | -0.40 | +1.50 |"]
    assert section([record("a", 0)]) == []
