"""A knob is chosen on prompts that are not told, from as many trials as every other method had."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alignbench.errors import UserError
from alignbench.scoring.record import Knob, Record
from alignbench.scoring.tuned import best_tuned


def record(row: str, value: float | None, gains: list[float], seed: int = 0, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "suite": "planted", "label": row if value is None else f"{row} beta={value}", "method": row, "seed": seed,
        "distribution": "d", "version": "1", "knob": None if value is None else Knob(name="beta", value=value),
        "status": "ok", "key": "ab12", "per_prompt": {"reward_gold_gain": gains},
        "cost": {"marginal": {"seconds": 10.0, "peak_bytes": 5}, "total": {"seconds": 99.0}},
    }  # fmt: skip
    return Record.model_validate({**values, **changes})


def test_the_knob_is_chosen_on_every_second_prompt_and_told_on_the_others() -> None:
    """By all prompts beta=0.1 would win, and by those that are told as well."""
    found = best_tuned([record("dpo", 0.1, [0, 9, 0, 7]), record("dpo", 1.0, [1, 2, 1, 4])])["dpo"][0]
    assert (found.label, found.values, found.gain) == ("dpo beta=1.0", (2.0, 4.0), 3.0)


def test_choosing_among_equal_settings_does_not_flatter() -> None:
    """Ten settings of no true gain. Best of ten by the told numbers is expected at 1.54 standard errors above 0."""
    rng = np.random.default_rng(0)
    records = [
        record("dpo", float(i), rng.normal(0, 1, 64).tolist(), seed) for seed in range(200) for i in range(1, 11)
    ]
    told = [tuned.gain or 0.0 for tuned in best_tuned(records)["dpo"].values()]
    error = 1 / np.sqrt(32 * 200)  # of the mean of 200 means over 32 prompts
    assert abs(np.mean(told)) < 4 * error
    by_seed = np.array([np.mean(record.per_prompt["reward_gold_gain"][1::2]) for record in records]).reshape(200, 10)
    assert by_seed.max(axis=1).mean() > 1.3 / np.sqrt(32)


def test_every_swept_method_has_the_trials_of_the_one_with_the_fewest() -> None:
    records = [record("dpo", beta, [beta, beta]) for beta in (0.1, 0.2, 0.4, 0.8, 1.6)]
    records += [record("ppo", beta, [beta, beta]) for beta in (3.0, 1.0, 2.0)]
    records += [record("sft", None, [0.0, 0.0]), record("one", 0.5, [0.3, 0.3])]
    records.append(record("dpo", 1.6, [9.0, 9.0], snapshot=Knob(name="step", value=4)))
    found = {row: by_seed[0] for row, by_seed in best_tuned(records).items()}
    assert found["dpo"].trials == ("dpo beta=0.1", "dpo beta=0.4", "dpo beta=1.6")
    assert found["ppo"].trials == ("ppo beta=1.0", "ppo beta=2.0", "ppo beta=3.0")
    assert (found["sft"].trials, found["one"].trials) == (("sft",), ("one beta=0.5",))
    assert found["dpo"].gain == 1.6


def test_tuning_costs_what_all_trials_did_the_failed_ones_too() -> None:
    lost = record("dpo", 0.5, [], status="failed", cause="out of memory", per_prompt={})
    found = best_tuned([record("dpo", 0.1, [1, 1]), lost, record("dpo", 1.0, [2, 2])])["dpo"][0]
    assert (found.cost.seconds, found.cost.peak_bytes, found.cost.labels_human) == (30.0, 5, None)
    assert found.failed == ("dpo beta=0.5: failed: out of memory",)
    assert (len(found.trials), found.label) == (3, "dpo beta=1.0")


def test_each_replicate_chooses_on_its_own_and_one_without_records_is_named() -> None:
    records = [record("dpo", 0.1, [1, 1]), record("dpo", 1.0, [2, 2]), record("dpo", 0.1, [3, 3], seed=1)]
    records.append(record("sft", None, [0, 0], seed=2))
    found = best_tuned(records)["dpo"]
    assert [found[seed].label for seed in range(3)] == ["dpo beta=1.0", "dpo beta=0.1", None]
    assert (found[1].failed, found[1].cost.seconds) == (("dpo beta=1.0: no record",), None)
    assert (found[2].values, len(found[2].failed)) == (None, 2)


@pytest.mark.parametrize(
    ("gains", "told_on", "said"),
    [
        ([1.0], slice(1, None, 2), "1 held-out prompts leave none to choose on or none to tell"),
        ([1.0, 2.0], slice(None), "prompt 0 would both choose the knob and be told"),
    ],
)
def test_a_prompt_does_not_both_choose_and_tell(gains: list[float], told_on: slice, said: str) -> None:
    with pytest.raises(UserError, match=said):
        best_tuned([record("dpo", 0.1, gains)], told_on=told_on)


def test_a_record_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"'dpo beta=0.1' seed 0 is there twice"):
        best_tuned([record("dpo", 0.1, [1, 1])] * 2)
