"""A planted change per nat is found, with intervals that hold it."""

import numpy as np
import pytest

from alignbench.scoring.record import Record
from alignbench.scoring.taken_over import ratio, taken_over


def records(change, kl, label="rlaif"):
    return [
        Record(
            suite="s", label=label, method="rlaif", distribution="d", version="0", seed=seed, key=f"{label}{seed}",
            status="ok", per_prompt={"length_change": change[seed].tolist(), "kl_nats_exact": kl[seed].tolist()},
            metrics={"length_change": float(change[seed].mean()), "kl_nats_exact": float(kl[seed].mean())},
        )
        for seed in range(len(change))
    ]  # fmt: skip


def test_by_hand():
    kl = np.full((3, 4), 2.0)
    (told,) = taken_over(records(np.full((3, 4), 5.0), kl))["rlaif"]
    assert told.change == pytest.approx((5.0, 5.0, 5.0))
    assert told.per_nat == pytest.approx((2.5, 2.5, 2.5))


def test_a_row_at_the_start_has_no_rate_and_a_decoding_rule_is_left_out():
    near = records(np.ones((3, 4)), np.full((3, 4), 0.05))
    assert taken_over(near)["rlaif"][0].per_nat is None
    bounded = [r.model_copy(update={"metrics": {**r.metrics, "kl_nats_bound": 1.0}}) for r in near]
    assert taken_over(bounded) == {}


def test_intervals_hold_the_planted_rate():
    """Five replicates, each with its own way of overdoing it, over forty prompts."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        kl = 4 + rng.normal(0, 0.5, (5, 1)) + rng.normal(0, 1, (1, 40)) + rng.normal(0, 1, (5, 40))
        change = 1.5 * kl + rng.normal(0, 0.5, (5, 1)) + rng.normal(0, 1, (1, 40)) + rng.normal(0, 3, (5, 40))
        found = ratio(change, kl, 0.95)
        held += found.low <= 1.5 <= found.high
    assert held >= 185
