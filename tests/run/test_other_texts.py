"""What a row is worth on texts of another kind: the reward model's accuracy there, and what the policy forgot. And how
likely its own texts are beside people's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignbench.assets.models import resolve_model
from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.run.here import run_here
from alignbench.store import Store, read_json, read_rows
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite

TASK = """
import alignbench
from alignbench import HeldOutPairs, Pair, Task
from alignbench.tasks.oracle import Oracle


class Wide(Oracle):
    name = "wide"

    def other_texts(self):
        return ["abcabc", "cc", "bbbbbbb", "a"]

    def other_pairs(self, count):
        longer = [Pair("", "a " * n, "b " * (n - 1)) for n in range(2, 2 + count)]
        shorter = [Pair("", p.rejected, p.chosen) for p in longer[:-1]] + [Pair("", "a a", "b b")]
        return {"long": HeldOutPairs(longer, 1.0), "short": HeldOutPairs(shorter, None), "none": HeldOutPairs([], None)}


class Worded(Oracle):
    name = "worded"
    completions = Task.completions  # lists none, as a task of language


@alignbench.hookimpl
def alignbench_tasks():
    return [Wide, Worded]
"""
ROWS = ["sft", {"method": "dpo", "config": {"learning_rate": 0.01}}, {"method": "ppo", "reward": "length"}]


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    (tmp_path / "zz_wide.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)

    def make(task: str = "wide", **evaluation: Any) -> Plan:
        suite = {
            "model": "oracle-llama", "device": "cpu", "dtype": "float32", "max_steps": 6, "task": task,
            "lora": {"r": 4, "alpha": 8}, "sft": {"max_steps": 0}, "comparisons": {"source": "human", "pairs": 48},
            "evaluation": {"prompts": 6, "held_out_pairs": 8, "other_texts": 3, "other_pairs": 3, **evaluation},
            "methods": ROWS,
        }  # fmt: skip
        path = tmp_path / "toy.yaml"
        path.write_text(json.dumps(suite))
        return make_plan(load_suite(path), load_catalog(["zz_wide"]))

    return make


def loss(model: Any, tokenizer: Any, texts: Iterable[str] = ("abcabc", "cc", "bbbbbbb")) -> float:
    """Nats per token of the texts, by default the first three of `other_texts`, each alone after the opening token."""
    nats, count = 0.0, 0
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([[tokenizer.bos_token_id, *ids]])).logits[0].double().log_softmax(-1)
        nats -= float(log_p[:-1].gather(1, torch.tensor(ids)[:, None]).sum())
        count += len(ids)
    return nats / count


def test_forgetting_is_the_policys_loss_less_the_starts_by_transformers_and_peft_alone(planned) -> None:
    plan, store = planned(), Store()
    start, dpo, ppo = run_here(plan, store, is_strict=True).records
    folder = resolve_model("oracle-llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before = loss(AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer)
    for cell, record in zip(plan.cells[1:], (dpo, ppo), strict=True):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), store.get(cell.train)).eval()
        expected = loss(model, tokenizer) - before
        assert record.metrics["forgetting_nats"] == pytest.approx(expected, abs=1e-5)
        assert abs(expected) > 1e-3
    assert start.metrics["forgetting_nats"] == 0


def test_surprise_is_the_starts_loss_on_a_rows_texts_less_that_on_peoples(planned) -> None:
    plan, store = planned("worded"), Store()
    records = run_here(plan, store, is_strict=True).records
    folder = resolve_model("oracle-llama")
    start, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pairs = plan.task.held_out_pairs().pairs[:8]
    people = loss(start, tokenizer, {p.prompt + text for p in pairs for text in (p.chosen, p.rejected)})
    found = []
    for cell, record in zip(plan.cells, records, strict=True):
        rows = read_rows(store.get(plan.stage(cell.score).inputs["completions"]) / "rows.jsonl")
        expected = loss(start, tokenizer, [row["prompt"] + row["completion"] for row in rows]) - people
        assert record.metrics["surprise_nats"] == pytest.approx(expected, abs=1e-5)
        found.append(expected)
    assert len(set(found)) == 3
    assert len([stage for stage in plan.stages.values() if stage.kind == "lm_loss"]) == 1


def test_the_starts_loss_is_computed_once(planned) -> None:
    stages = [stage for stage in planned().stages.values() if stage.kind == "lm_loss"]
    assert len(stages) == 3  # the start's, and those of two policies
    assert len({stage.title for stage in stages}) == 3


def test_accuracy_elsewhere_is_told_together_and_by_kind(planned) -> None:
    """By words: all of the longer ones are right, and of the shorter ones none but the tie, by half."""
    plan, store = planned(), Store()
    with pytest.warns(UserWarning, match="the task has no pairs of none"):
        record = run_here(plan, store, is_strict=True).records[2]
    texts = {f"reward_model_accuracy_other{kind}": record.counts[f"reward_model_accuracy_other{kind}"] for kind in
             ("", ":long", ":short")}  # fmt: skip
    card = read_json(store.get(plan.stage(plan.cells[2].score).inputs["reward_card"]) / "card.json")["other"]
    told = {kind: (of["hits"], of["pairs"], of["human_accuracy"]) for kind, of in card.items()}
    assert told == {"long": (3, 3, 1.0), "short": (0.5, 3, None)}
    assert texts == {
        "reward_model_accuracy_other": (3.5, 6),
        "reward_model_accuracy_other:long": (3, 3),
        "reward_model_accuracy_other:short": (0.5, 3),
    }
    assert record.metrics["reward_model_accuracy_other"] == 3.5 / 6


def test_a_task_without_them_and_a_suite_that_asks_for_none_have_no_such_number(planned) -> None:
    for plan in (planned("oracle"), planned(other_texts=0, other_pairs=0)):
        assert not any(stage.kind == "lm_loss" for stage in plan.stages.values())
        record = run_here(plan, Store(), is_strict=True).records[1]
        assert not {"forgetting_nats", "reward_model_accuracy_other"} & set(record.metrics)
        assert not any(name.startswith("reward_model_accuracy_other") for name in record.counts)


def test_more_texts_than_there_are_is_said_before_the_work(planned) -> None:
    with pytest.raises(UserError, match=r"evaluation.other_texts: 5 asked for, the task's other split has 4"):
        planned(other_texts=5)
