"""The best setting of each row is told on prompts that did not choose it, with what finding it took."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alignbench.report.columns import NONE
from alignbench.report.table import to_markdown
from alignbench.report.tunings import section, tunings
from alignbench.scoring.crossed import estimate
from alignbench.scoring.record import Knob, Record

PROMPTS = 40


def record(row: str, value: float | None, shift: float, seed: int, seconds: float = 10.0, **changes: Any) -> Record:
    noise = np.random.default_rng([seed, *row.encode(), round(10 * (value or 0))]).normal(0, 0.05, PROMPTS)
    gains = [0.0] * PROMPTS if row == "sft" else (shift + noise).tolist()
    values: dict[str, Any] = {
        "suite": "planted", "label": row if value is None else f"{row} beta={value}", "method": row, "seed": seed,
        "distribution": "d", "version": "1", "knob": None if value is None else Knob(name="beta", value=value),
        "status": "ok", "key": "ab12", "per_prompt": {"reward_gold": gains, "reward_gold_gain": gains},
        "metrics": {"kl_nats_exact": 1.0 if shift else 0.0},
        "cost": {"marginal": {"seconds": seconds, "flops": 2e12}, "total": {"seconds": 2 * seconds, "flops": 5e12}},
        "context": {"start_gold_sd": 1.0, "delta": 0.2},
    }  # fmt: skip
    return Record.model_validate({**values, **changes})


def suite(replicates: int = 4) -> list[Record]:
    return [
        made
        for seed in range(replicates)
        for made in (
            record("sft", None, 0, seed),
            record("dpo", 0.1, 1.0, seed, seconds=30.0),
            record("dpo", 1.0, 0.2, seed),
            record("ppo", 0.1, 0.3, seed),
            record("ppo", 1.0, 0.1, seed),
        )
    ]


def cells(lines: list[str], row: str) -> list[str]:
    (found,) = (line for line in lines if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_best_setting_is_told_on_the_prompts_that_did_not_choose() -> None:
    records = suite()
    found = tunings(records)
    assert found is not None
    told = [r.per_prompt["reward_gold_gain"][1::2] for r in records if r.label == "dpo beta=0.1"]
    mean, low, high = estimate(told)[:3]
    row = cells(section(found), "dpo")
    assert row[1:4] == ["2", f"{mean:+.2f} [{low:.2f}, {high:.2f}]", "beta=0.1 (4)"]
    assert row[-1] == "160 / 16"  # four replicates of 30 and 10 seconds, 8 trials of 2 TFLOPs


def test_a_target_costs_what_the_cheapest_place_at_it_took_with_all_it_rests_on() -> None:
    found = tunings(suite())
    assert found is not None
    lines = section(found)
    heads = cells(lines, "Method")
    assert heads[4:6] == ["Seconds to +0.50", "TFLOPs to +0.50"]  # half of the start's standard deviation
    assert cells(lines, "dpo")[4:6] == ["60", "5"]
    assert cells(lines, "ppo")[4:6] == ["not reached", "not reached"]


def test_a_target_is_looked_for_among_the_trials_that_count_alone() -> None:
    """Of three values the two ends are trials, as the other row has two; the cheap one between them is none."""
    records = [*suite(), *(record("dpo", 0.5, 1.0, seed, seconds=1.0) for seed in range(4))]
    found = tunings(records)
    assert found is not None
    assert cells(section(found), "dpo")[1:5:3] == ["2", "60"]


@pytest.mark.parametrize("lost", [{"cost": {}}, {"status": "failed", "cause": "boom", "per_prompt": {}, "metrics": {}}])
def test_a_target_of_what_was_not_measured_is_not_called_missed(lost: dict[str, Any]) -> None:
    records = [r for r in suite() if r.method != "ppo"]
    records += [record("ppo", value, 0.3, seed, **lost) for value in (0.1, 1.0) for seed in range(4)]
    found = tunings(records)
    assert found is not None
    assert set(cells(section(found), "ppo")[4:6]) == {NONE}
    assert cells(section(found), "dpo")[4] == "60"


def test_a_target_that_some_replicates_miss_says_how_many_got_there() -> None:
    records = [r for r in suite() if (r.label, r.seed) != ("dpo beta=0.1", 3)]
    records.append(record("dpo", 0.1, 0.1, 3))
    found = tunings(records)
    assert found is not None
    assert cells(section(found), "dpo")[4] == "60 (3 of 4)"


def test_best_settings_are_compared_and_no_pair_below_three_replicates() -> None:
    found = tunings(suite())
    assert found is not None
    assert {(v.a, v.b): v.winner for v in found.said.verdicts} == {
        ("sft", "dpo"): "dpo", ("sft", "ppo"): "ppo", ("dpo", "ppo"): "dpo",
    }  # fmt: skip
    few = tunings(suite(2))
    assert few is not None
    assert few.said.verdicts == []
    assert "is better than" not in "".join(section(few))


def test_beside_tuned_rows_one_of_a_single_setting_is_told_and_not_compared() -> None:
    control = [record("permuted", None, 0.02, seed) for seed in range(4)]
    found, alone = tunings([*suite(), *control]), tunings(suite())
    assert found is not None
    assert alone is not None
    assert found.said.verdicts == alone.said.verdicts
    lines = section(found)
    assert cells(lines, "permuted")[1] == "1"
    assert any("Nothing was tuned of permuted:" in line for line in lines)
    one_tuned = tunings([r for r in [*suite(), *control] if r.method != "ppo"])  # nothing else to be tuned against
    assert one_tuned is not None
    assert ("dpo", "permuted") in {(v.a, v.b) for v in one_tuned.said.verdicts}


def test_a_row_without_a_score_in_some_replicate_is_not_compared_and_its_failures_are_named() -> None:
    lost = {"status": "failed", "cause": "out of memory", "per_prompt": {}, "metrics": {}}
    records = [r for r in suite() if not (r.label.startswith("ppo") and r.seed == 2)]
    records += [record("ppo", value, 0, 2, **lost) for value in (0.1, 1.0)]
    found = tunings(records)
    assert found is not None
    assert [(v.a, v.b) for v in found.said.verdicts] == [("sft", "dpo")]
    assert "ppo, seed 2: a trial without a score, ppo beta=0.1: failed: out of memory" in "\n".join(section(found))


@pytest.mark.parametrize("labels", [("sft", "dpo beta=0.1"), ("sft",)])
def test_where_nothing_was_swept_there_is_no_such_table(labels: tuple[str, ...]) -> None:
    records = [r for r in suite() if r.label in labels]
    assert tunings(records) is None
    assert "Best tuned" not in to_markdown(records)


def test_the_table_holds_the_section() -> None:
    assert "Best tuned:\n\n| Method | Trials | Gain |" in to_markdown(suite())
