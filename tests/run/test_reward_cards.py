"""A reward model that learned noise by heart is warned of, a sound one is not, and rows share their proxy's card."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.report.reward_models import warnings
from alignbench.run.here import run_here
from alignbench.scoring.record import Record
from alignbench.store import Store, read_json
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite

PAIRS = 16


@pytest.fixture
def ran(suite_file, tmp_path: Path):
    def run(methods: list[Any], pairs: int = PAIRS, **keys: Any) -> tuple[Plan, Store, list[Record]]:
        evaluation = {"prompts": 4, "held_out_pairs": 40, "bootstrap": 50, "samples_per_prompt": 4}
        comparisons = {"source": "human", "pairs": pairs}
        file = suite_file(methods, **{"evaluation": evaluation, "comparisons": comparisons, **keys})
        plan, store = make_plan(load_suite(file), load_catalog()), Store(tmp_path / "store")
        return plan, store, run_here(plan, store, is_strict=True).records

    return run


def noise(folder: Path) -> dict[str, Any]:
    """Pairs of which neither has anything that the other lacks: whoever orders them has learned them by heart."""
    rng = random.Random(0)
    words = [f"{a}{b}" for a in "abcdefgh" for b in "aeiou"]
    rows = [
        {"prompt": f"\n\nHuman: Question {i}?\n\nAssistant:",
         **{side: f" {' '.join(rng.choices(words, k=4))}" for side in ("chosen", "rejected")}}
        for i in range(160)
    ]  # fmt: skip
    path = folder / "noise.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"name": "hh", "options": {"source": str(path), "max_new_tokens": 12}}


def test_a_model_that_learned_its_pairs_by_heart_is_warned_of(ran, tmp_path: Path) -> None:
    overfitted = {"num_train_epochs": 20, "learning_rate": 0.01, "per_device_train_batch_size": 8}
    _, _, records = ran(["best_of_n"], pairs=32, task=noise(tmp_path), reward_model=overfitted)
    (record,) = records
    hits, trials = record.counts["reward_model_train_accuracy"]
    assert hits / trials > 0.95
    assert 0.25 < record.metrics["reward_model_accuracy"] < 0.75
    said = warnings(records)
    assert any("more than 95% of the pairs that it was fitted to" in line for line in said)
    assert any("training pairs are more than 15 points of accuracy above held-out ones" in line for line in said)
    assert any("it is surer than it is right by more than 10 points" in line for line in said)


def test_a_sound_one_is_not(ran) -> None:
    _, _, records = ran(["best_of_n"], reward_model={"per_device_train_batch_size": 8, "learning_rate": 0.001})
    assert warnings(records) == []
    assert "reward_model_train_accuracy" in records[0].metrics


def test_rows_on_one_proxy_share_its_card_and_a_policy_has_one_of_its_own(ran) -> None:
    plan, store, records = ran(
        [
            "best_of_n",
            {"method": "ppo", "sweep": [0.1, 0.3]},
            {"method": "dpo", "sweep": [0.1, 1.0]},
            {"method": "dpo", "label": "ipo", "config": {"loss_type": "ipo"}},
        ]
    )
    cards = [plan.stage(cell.score).inputs["reward_card"] for cell in plan.cells]
    assert cards[0] == cards[1] == cards[2]
    assert len({*cards}) == 4
    scales = [plan.stages[card].options["implicit_scale"] for card in cards]
    assert scales == [None, None, None, 0.1, 1.0, None]  # IPO's margins claim no probability
    for record, card in zip(records, cards, strict=True):
        told = read_json(store.get(card) / "card.json")
        assert record.metrics.get("reward_model_brier") == told["brier"]
        assert told["train"]["pairs"] == PAIRS
    assert len(records[1].per_prompt["reward_model_own_accuracy"]) == 4
    fits = [[record.metrics.get(name) for name in ("fitted_pairs", "reward_model_steps")] for record in records]
    assert fits == [[PAIRS, -(-PAIRS // 6)]] * 3 + [[PAIRS, None]] * 3
