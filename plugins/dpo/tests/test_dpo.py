"""DPO's losses against TRL's own code and float64 formulas, and the identities at step 0; the control beside it."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from alignbench.engine.meter import Meter
from alignbench.engine.resident import Resident
from alignbench.engine.trial import LiveTrial
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.run.here import run_here
from alignbench.store import Store
from alignbench.suite.spec import Lora, load_suite
from alignbench_dpo import DPO, dpo_loss, permute

MARGINS = torch.tensor([-30.0, -2.5, -0.1, 0.0, 0.3, 4.0, 80.0])


def trl_loss(policy: torch.Tensor, reference: torch.Tensor, is_completion: torch.Tensor, **options) -> float:
    """TRL's own `DPOTrainer._compute_loss`, handed log-probabilities in place of a model's output.

    (2B, T - 1) per-token log-probabilities, zero on the prompt, chosen rows first; (2B,) reference sums.
    """
    trl = pytest.importorskip("trl")
    trainer = object.__new__(trl.DPOTrainer)
    keep = {"gather": lambda value: value, "gather_for_metrics": lambda value: value}
    everyone = SimpleNamespace(device=torch.device("cpu"), **keep)
    vars(trainer).update(
        model=SimpleNamespace(training=True), accelerator=everyone, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_weights=[1.0], label_smoothing=0.0,
        use_weighting=False, _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    vars(trainer).update(options)
    zeros = torch.zeros_like(policy)
    outputs = SimpleNamespace(log_probs=policy, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    chosen, rejected = reference.chunk(2)
    inputs = {
        "input_ids": torch.zeros(is_completion.shape, dtype=torch.long),
        "attention_mask": torch.ones(is_completion.shape, dtype=torch.long),
        "completion_mask": is_completion.long(), "ref_chosen_logps": chosen, "ref_rejected_logps": rejected,
    }  # fmt: skip
    return float(trainer._compute_loss(lambda **_: outputs, inputs, return_outputs=False))


@pytest.mark.parametrize(
    ("loss_type", "label_smoothing"), [("sigmoid", 0.0), ("ipo", 0.0), ("robust", 0.1), ("robust", 0.3)]
)
@pytest.mark.parametrize("beta", [0.05, 0.5])
def test_each_loss_equals_trls(loss_type: str, label_smoothing: float, beta: float) -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([5, 3, 4, 2, 5, 1])  # chosen then rejected
    is_completion = torch.arange(9) >= (9 - lengths)[:, None]
    policy = torch.randn(6, 8) * is_completion[:, 1:] - 1.0 * is_completion[:, 1:]
    reference = torch.randn(6) * 2 - 4
    ratio = policy.sum(1) - reference
    if loss_type == "ipo":
        ratio = ratio / lengths
    chosen, rejected = ratio.chunk(2)
    ours = dpo_loss(chosen - rejected, beta, loss_type, label_smoothing)
    theirs = trl_loss(
        policy, reference, is_completion, loss_types=[loss_type], beta=beta, label_smoothing=label_smoothing
    )
    assert float(ours) == pytest.approx(theirs, rel=1e-5)


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_conservative_dpo_equals_its_formula_in_float64(label_smoothing: float) -> None:
    """TRL 1.16 leaves label_smoothing unread in its sigmoid loss, so the formula stands here: Mitchell 2023, eq. 3."""
    beta = 0.3
    expected = [
        (1 - label_smoothing) * softplus(-beta * m) + label_smoothing * softplus(beta * m) for m in MARGINS.tolist()
    ]
    got = dpo_loss(MARGINS, beta, "sigmoid", label_smoothing)
    assert float(got) == pytest.approx(sum(expected) / len(expected), rel=1e-6)


@pytest.mark.parametrize(("loss_type", "label_smoothing"), [("sigmoid", 0.0), ("sigmoid", 0.3), ("robust", 0.3)])
def test_the_loss_is_log_2_where_policy_and_reference_agree(loss_type: str, label_smoothing: float) -> None:
    assert float(dpo_loss(torch.zeros(3), 0.1, loss_type, label_smoothing)) == pytest.approx(math.log(2))


def test_the_robust_loss_over_flipped_labels_is_the_clean_loss_on_average() -> None:
    flips = 0.25
    clean = dpo_loss(MARGINS, 0.1)
    as_is, flipped = (dpo_loss(sign * MARGINS, 0.1, "robust", flips) for sign in (1, -1))
    torch.testing.assert_close((1 - flips) * as_is + flips * flipped, clean)
    conservative = (1 - flips) * dpo_loss(MARGINS, 0.1, "sigmoid", flips) + flips * dpo_loss(
        -MARGINS, 0.1, "sigmoid", flips
    )
    assert abs(float(conservative - clean)) > 0.1  # the conservative loss is not unbiased


def test_ipo_is_least_at_one_over_two_beta_and_does_not_push_past_it() -> None:
    margin = torch.tensor([5.0, 8.0], requires_grad=True)
    dpo_loss(margin, 0.1, "ipo").backward()
    assert margin.grad.tolist() == pytest.approx([0.0, 3.0])


def test_ipo_refuses_a_label_smoothing_it_would_not_read() -> None:
    with pytest.raises(ValidationError, match="loss_type ipo reads no label_smoothing; remove it, or use sigmoid or"):
        DPO.Config(loss_type="ipo", label_smoothing=0.1)


@pytest.mark.parametrize("value", [-0.1, 0.5])
def test_a_label_smoothing_outside_its_range_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="label_smoothing"):
        DPO.Config(label_smoothing=value)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "robust"])
def test_training_starts_at_margin_0_and_learns_the_preference(
    loss_type: str, dialogue_model: Path, tmp_path: Path
) -> None:
    device = torch.device("cpu")
    config = DPO.Config(loss_type=loss_type, per_device_train_batch_size=8, learning_rate=3e-3)
    rows = [
        {"prompt": f"Human: {i}?", "chosen": f" Yes door {i}", "rejected": f" No glass stone {i}"} for i in range(16)
    ]
    trial = LiveTrial(
        Resident(dialogue_model, (), Lora(r=4, alpha=8), device, torch.float32), config, seed=0, max_steps=8,
        max_new_tokens=12, prompts=["Human:"], preferences=rows, meter=Meter(device), workdir=tmp_path,
    )  # fmt: skip
    DPO().train(trial, config)
    first, last = trial.history[0], trial.history[-1]
    assert len(trial.history) == 8
    assert first["margin_nats"] == pytest.approx(0, abs=1e-5)
    assert first["loss"] == pytest.approx(25.0 if loss_type == "ipo" else math.log(2), rel=1e-4)
    assert last["loss"] < first["loss"]
    assert last["margin_nats"] > 0.1
    assert last["accuracy"] == 1


@pytest.mark.parametrize("options", [{"loss_type": "ipo"}, {"loss_type": "robust"}, {"label_smoothing": 0.1}])
def test_the_closed_form_is_claimed_for_the_sigmoid_loss_on_labels_as_they_are(options):
    assert DPO().beta(DPO.Config(beta=0.3)) == 0.3
    assert DPO().beta(DPO.Config(beta=0.3, **options)) is None


# ------------------------------------------------------------------------------------------------ permuted


LARGE = {"beta": 0.5, "per_device_train_batch_size": 234, "learning_rate": 5e-3}


class Pairs:
    """The part of a `Work` that a stage on comparisons uses."""

    def __init__(self, rows: list[dict[str, Any]], seed: int) -> None:
        self.given, self.seed, self.saved = rows, seed, []

    def rows(self, name: str) -> list[dict[str, Any]]:
        return self.given

    def save_rows(self, rows: list[dict[str, Any]]) -> None:
        self.saved = rows


def permuted(count: int, seed: int) -> list[dict[str, Any]]:
    """Of pairs (better, worse) and, in every third, what is known of a sample's end."""
    ends = {"chosen_ended": True, "rejected_ended": False}
    rows = [
        {"prompt": f"{i}", "chosen": f"better {i}", "rejected": f"worse {i}", "ranked": [f"better {i}", f"worse {i}"]}
        | (ends if i % 3 == 0 else {})
        for i in range(count)
    ]
    work = Pairs(rows, seed)
    permute(work)  # type: ignore[arg-type]
    return work.saved


@pytest.mark.parametrize("count", [1, 2, 7, 300])
def test_exactly_half_of_the_pairs_are_turned_and_each_text_keeps_its_end(count: int) -> None:
    rows = permuted(count, 0)
    turned = [row for row in rows if row["chosen"].startswith("worse")]
    assert len(turned) == count // 2
    assert [row["prompt"] for row in rows] == [str(i) for i in range(count)]
    for row in rows:
        assert row["ranked"] == [row["chosen"], row["rejected"]]
        assert {row["chosen"], row["rejected"]} == {f"better {row['prompt']}", f"worse {row['prompt']}"}
        has_ends = int(row["prompt"]) % 3 == 0
        known = {row[side]: row.get(f"{side}_ended") for side in ("chosen", "rejected")}
        i = row["prompt"]
        assert known == {f"better {i}": True if has_ends else None, f"worse {i}": False if has_ends else None}
        assert ("chosen_ended" in row) == ("rejected_ended" in row) == has_ends


def test_the_seed_alone_says_which_pairs_are_turned() -> None:
    assert permuted(60, 1) == permuted(60, 1)
    assert permuted(60, 1) != permuted(60, 2)


def test_labels_that_carry_nothing_gain_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expected gold is a sum over all completions here; four draws of which pairs are turned."""
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    gains: dict[str, list[float]] = {"dpo": [], "dpo_permuted": []}
    for seed in range(4):
        suite = {
            "model": "oracle-llama", "device": "cpu", "dtype": "float32", "max_steps": 30, "task": "oracle",
            "lora": {"r": 8, "alpha": 16}, "sft": {"max_steps": 4}, "data_seed": seed,
            "comparisons": {"source": "human", "pairs": 1170}, "evaluation": {"prompts": 3, "held_out_pairs": 8},
            "methods": ["sft", *({"method": name, "config": LARGE} for name in gains)],
        }  # fmt: skip
        path = tmp_path / "toy.yaml"
        path.write_text(json.dumps(suite))
        plan = make_plan(load_suite(path), load_catalog())
        records = {record.label: record for record in run_here(plan, Store(), is_strict=True).records}
        for name, found in gains.items():
            ours, start = (records[label].metrics["reward_gold_enumerated"] for label in (name, "sft"))
            found.append(ours - start)
        assert records["dpo_permuted"].cost.total.labels_human == records["dpo"].cost.total.labels_human == 1170
        assert "optimum_tv" not in records["dpo_permuted"].metrics
    assert min(gains["dpo"]) > 0.2
    assert abs(fmean(gains["dpo_permuted"])) < max(0.05, 3 * stdev(gains["dpo_permuted"]) / 2), gains
    assert max(map(abs, gains["dpo_permuted"])) < min(gains["dpo"]) / 2, gains
