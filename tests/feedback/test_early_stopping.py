"""The weights that are kept are those of the best look, on pairs that no step saw."""

import random

import pytest
import torch

from alignbench.engine.meter import Meter
from alignbench.errors import UserError
from alignbench.feedback.early_stopping import Best
from alignbench.feedback.reward_model import RewardModel, fit_reward_model, pairwise_loss
from alignbench.suite.spec import RewardModelConfig

WORDS = ["good", "bad", "dull", "long", "film", "plot", "new", "end", "very", "so", "really", "one"]


def noise(count=20):
    """Pairs whose labels say nothing: who learns them gets surer of nothing."""
    rng = random.Random(1)
    texts = [" " + " ".join(rng.choices(WORDS, k=4)) for _ in range(2 * count)]
    return [{"prompt": "the film", "chosen": texts[2 * i], "rejected": texts[2 * i + 1]} for i in range(count)]


def test_more_pairs_right_is_better_then_less_loss_and_patience_counts_looks_without():
    weight = torch.zeros(1)
    best = Best([weight], patience=2)
    for value, look in enumerate([(0.5, 1.0), (0.6, 2.0), (0.6, 1.5), (0.6, 1.5)]):
        weight.fill_(value)
        best.look(*look)
        assert not best.is_over
    weight.fill_(9)
    best.look(0.55, 0.1)
    assert best.is_over
    best.put_back()
    assert weight.tolist() == [2.0]


@pytest.fixture
def fit(resident):
    def run(rows, **options):
        model = RewardModel.fresh(resident("llama"), "mean", 8, seed=0)
        config = RewardModelConfig(
            learning_rate=1e-2, head_learning_rate=2e-2, per_device_train_batch_size=4, num_train_epochs=10, **options
        )
        meter = Meter(torch.device("cpu"))
        return model, fit_reward_model(model, rows, config, seed=3, meter=meter), meter

    return run


def test_the_fit_ends_with_the_weights_of_its_best_look(fit):
    rows = noise()
    model, history, _ = fit(rows, validation_share=0.4, eval_steps=1)
    looks = [(entry["validation_accuracy"], -entry["validation_loss"]) for entry in history]
    assert len(looks) == 30  # 12 of 20 rows in batches of 4, ten times over
    assert max(looks) > looks[-1]  # else nothing was put back
    unseen = random.Random(3).sample(range(20), 8)
    scores = [model.score(["the film"] * 8, [rows[i][side] for i in sorted(unseen)]) for side in ("chosen", "rejected")]
    assert float((scores[0] > scores[1]).double().mean()) == max(looks)[0]
    assert float(pairwise_loss(*scores)) == pytest.approx(-max(looks)[1], abs=1e-5)


def test_no_step_sees_the_pairs_that_are_looked_at(fit):
    rows = noise()
    _, history, meter = fit(rows, validation_share=0.4)
    _, alone, shorter = fit([row for i, row in enumerate(rows) if i not in random.Random(3).sample(range(20), 8)])
    assert [entry["step"] for entry in history if "validation_accuracy" in entry] == list(range(3, 31, 3))  # an epoch
    assert len(history) == len(alone)
    assert meter.counts["tokens_trained"] == shorter.counts["tokens_trained"]
    assert meter.counts["tokens_judged"] > 0


def test_patience_ends_the_fit(fit):
    _, history, _ = fit(noise(), validation_share=0.4, eval_steps=1, early_stopping_patience=3)
    looks = [(entry["validation_accuracy"], -entry["validation_loss"]) for entry in history]
    assert len(history) < 30
    assert looks.index(max(looks)) == len(looks) - 4


def test_a_share_that_leaves_nothing_to_fit_to_is_one_line(fit):
    with pytest.raises(UserError, match=r"validation_share: 0\.9 of 1 comparisons leaves none to fit to"):
        fit(noise(1), validation_share=0.9)
