"""What it takes to return one completion, by hand."""

from __future__ import annotations

from alignbench.scoring.deployment import Deployment, deployment

SAMPLING, JUDGING = {"tokens": 80, "flops": 800}, {"tokens": 120, "flops": 60}  # of eight samples


def test_a_plain_policy_samples_once_and_asks_nobody() -> None:
    assert deployment(1, False, 8, SAMPLING, JUDGING) == Deployment(10.0, 0.0, 100.0)


def test_a_rule_pays_for_the_samples_it_uses_and_not_for_those_evaluation_drew() -> None:
    assert deployment(2, True, 8, SAMPLING, JUDGING) == Deployment(20.0, 30.0, 215.0)
    assert deployment(8, True, 8, SAMPLING, JUDGING) == Deployment(80.0, 120.0, 860.0)
