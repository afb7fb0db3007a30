"""What moves numbers is named: a fresh sample is held against the reference distribution, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alignbench.scoring.record import Record, read_records
from benchmarks.reference import NUMBERS, REFERENCE, held, run

rng = np.random.default_rng(0)


def records(row: str, count: int, first: int = 0, shift: float = 0.0, **changes: Any) -> list[Record]:
    def one(seed: int) -> Record:
        metrics = {"kl_nats_exact": 1 + shift + 0.1 * rng.normal(), "reward_gold": 2 + 0.3 * rng.normal()}
        values: dict[str, Any] = {
            "suite": "reference", "label": row, "method": row, "distribution": "d", "version": "1", "seed": seed,
            "status": "ok", "key": "ab", "metrics": metrics,
        }  # fmt: skip
        return Record.model_validate({**values, **changes})

    return [one(first + i) for i in range(count)]


def test_replicates_of_the_same_distribution_stay_within_it() -> None:
    """Two rows and two numbers, 500 times: the whole test is wrong once in a hundred."""
    left = [
        any(
            each.leaves
            for each in held(records("ppo", 20) + records("dpo", 20), records("ppo", 3, 1000) + records("dpo", 3, 1000))
        )
        for _ in range(500)
    ]
    assert sum(left) <= 14  # 5 expected; more than 14 once in four thousand


def test_a_row_whose_numbers_moved_is_named_with_the_number_that_did() -> None:
    found = held(records("ppo", 20) + records("dpo", 20), records("ppo", 3, 1000, shift=0.8) + records("dpo", 3, 1000))
    assert [(each.row, each.number) for each in found if each.leaves] == [("ppo", "kl_nats_exact")]
    assert {each.number for each in found} == {"kl_nats_exact", "reward_gold"} <= set(NUMBERS)


@pytest.mark.parametrize(("now", "leaves"), [(0.0, False), (1e-6, True)])
def test_what_never_varied_may_not_begin_to(now: float, leaves: bool) -> None:
    still = records("sft", 20, metrics={"kl_nats_exact": 0.0})
    (each,) = held(still, records("sft", 3, 1000, metrics={"kl_nats_exact": now}))
    assert each.leaves is leaves


def test_a_row_that_failed_or_is_missing_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match=r"rows differ: \['dpo', 'ppo'\] in the reference, \['ppo'\] now"):
        held(records("ppo", 3) + records("dpo", 3), records("ppo", 3, 9))
    with pytest.raises(ValueError, match="'ppo' seed 9 failed: boom"):
        held(records("ppo", 3), records("ppo", 1, 9, status="failed", cause="boom", metrics={}))
    with pytest.raises(ValueError, match="'ppo' has reward_gold only in the reference"):
        held(records("ppo", 3), records("ppo", 3, 9, metrics={"kl_nats_exact": 1.0}))
    with pytest.raises(ValueError, match="seed 2 is of the reference itself"):
        held(records("ppo", 3), records("ppo", 3, 2))


def test_the_engine_as_it_is_stays_within_the_committed_reference() -> None:
    found = held(read_records(REFERENCE), run(2))
    assert [(each.row, each.number) for each in found if each.leaves] == []
    assert {each.row for each in found} >= {"ppo", "dpo", "rlaif", "constitutional"}
