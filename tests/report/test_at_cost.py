"""Rows are told beside each other at a cost only where both were measured, and at the best of what costs no more."""

from __future__ import annotations

import pytest

from alignbench.report.at_cost import RULE, section
from alignbench.report.table import to_markdown
from alignbench.scoring.record import Record

PROMPTS = 6


def cell(label: str, tflops: float, labels: int, gain: float, step: float | None = None, seed: int = 0) -> Record:
    name, _, value = label.partition(" ")[2].partition("=")
    return Record.model_validate(
        {"suite": "s", "label": label, "method": "m", "distribution": "d", "version": "0", "seed": seed, "key": "k",
         "status": "ok", "knob": {"name": name, "value": float(value)} if value else None,
         "snapshot": None if step is None else {"name": "step", "value": step},
         "metrics": {"reward_gold": gain, "kl_nats_exact": gain**2}, "context": {"start_gold_sd": 1.0},
         "cost": {"total": {"flops": tflops * 1e12, "labels_human": labels}},
         "per_prompt": {"reward_gold_gain": [gain] * PROMPTS, "reward_gold": [gain] * PROMPTS}}
    )  # fmt: skip


def cells(lines: list[str]) -> dict[str, dict[str, str]]:
    table = [[each.strip() for each in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: dict(zip(table[0][1:], row[1:], strict=True)) for row in table[2:]}


def test_a_gain_is_read_between_two_measured_costs_and_not_beyond_them() -> None:
    records = [
        cell("ppo", 8, 100, 0.6), cell("ppo", 4, 100, 0.2, step=8),
        cell("dpo", 5.5, 100, 0.9), cell("dpo", 2.5, 100, 0.3, step=8),
    ]  # fmt: skip
    told = cells(section(records))
    assert told["ppo"] == {"Gain for 5 TFLOPs": "+0.30", "Gain for 100 human labels": "+0.60"}
    assert told["dpo"] == {"Gain for 5 TFLOPs": "+0.80", "Gain for 100 human labels": "+0.90"}


def test_what_gains_less_for_more_is_beaten_by_what_came_before() -> None:
    records = [
        cell("ppo", 8, 0, 0.2), cell("ppo", 4, 0, 0.6, step=8), cell("dpo", 9, 0, 0.5), cell("dpo", 1, 0, 0.1, step=8)
    ]  # fmt: skip
    assert cells(section(records))["ppo"]["Gain for 7 TFLOPs"] == "+0.60"


def test_rows_that_ask_for_other_numbers_of_labels_stand_in_columns_of_their_own() -> None:
    records = [
        *(cell(f"dpo beta={i}", 3, 256, 0.5 / i) for i in (1, 2)), cell("ppo", 3, 256, 0.4), cell("rlaif", 3, 0, 0.3),
        cell("prompted", 1, 0, 0.1), cell("sft", 1, 0, 0.0),
    ]  # fmt: skip
    told = cells(section(records))
    labels = ("Gain for 0 human labels", "Gain for 256 human labels")
    assert {row: tuple(found[title] for title in labels) for row, found in told.items()} == {
        "dpo": ("not reached", "+0.50"),
        "ppo": ("not reached", "+0.40"),
        "rlaif": ("+0.30", "not reached"),
        "prompted": ("+0.10", "not reached"),
    }


def test_a_cost_that_one_replicate_did_not_meet_is_no_common_one() -> None:
    def rows(last: float) -> list[Record]:
        costs = {"ppo": (4.0, 4.0, 4.0), "dpo": (4.0, 4.0, last)}
        return [
            cell(row, tflops + more, seed, 0.5 + more, step, seed)
            for row, at in costs.items()
            for seed, tflops in enumerate(at)
            for more, step in ((0.0, 8), (2.0, None))
        ]

    assert set(next(iter(cells(section(rows(4.0))).values()))) == {"Gain for 5 TFLOPs"}
    assert section(rows(5.5)) == []


@pytest.mark.parametrize("records", [[], [cell("ppo", 3, 0, 0.5), cell("dpo", 3, 0, 0.5)]])
def test_nothing_is_told_where_nothing_was_swept(records: list[Record]) -> None:
    assert section(records) == []
    assert RULE not in to_markdown(records)
