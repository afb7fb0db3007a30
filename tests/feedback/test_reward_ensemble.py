"""Several reward models as one: the three ways against numbers by hand, and members that stay who they are."""

import pytest
import torch

from alignbench.engine.meter import Meter
from alignbench.feedback.reward_ensemble import Ensemble, combined
from alignbench.feedback.reward_model import RewardModel, fit_reward_model
from alignbench.suite.spec import RewardModelConfig

PROMPTS = ["the film is", "a plot", "one", "it is"]
TEXTS = [" good", " bad", " so good", " a long bad plot"]
ROWS = [{"prompt": prompt, "chosen": " good", "rejected": " bad"} for prompt in PROMPTS]


@pytest.mark.parametrize(
    ("how", "expected"),
    [("mean", [2.0, 0.0]), ("worst", [1.0, -3.0]), ("uncertainty", [2.0 - 0.5 * 2 / 3, 0.0 - 0.5 * 6])],
)
def test_members_scores_by_hand(how, expected):
    scores = torch.tensor([[1.0, -3.0], [2.0, 0.0], [3.0, 3.0]])
    assert combined(scores, how, 0.5).tolist() == pytest.approx(expected)


@pytest.fixture
def folders(resident, tmp_path):
    """Three fitted members, the last on fewer layers."""
    made = []
    for i in range(3):
        model = RewardModel.fresh(resident("llama"), "mean", 8, seed=i, layers=1 if i == 2 else None)
        config = RewardModelConfig(learning_rate=5e-3, per_device_train_batch_size=2)
        fit_reward_model(model, ROWS, config, seed=i, meter=Meter(torch.device("cpu")))
        model.calibrate(PROMPTS, TEXTS)
        made.append(tmp_path / f"member_{i}")
        model.save(made[-1])
    return made


@pytest.mark.parametrize("how", ["mean", "worst", "uncertainty"])
def test_it_scores_as_its_members_do_alone_and_again_when_loaded(resident, folders, tmp_path, how):
    alone = torch.stack([RewardModel.load(folder, resident("llama")).score(PROMPTS, TEXTS) for folder in folders])
    together = Ensemble.of(resident("llama"), folders, how, 0.5)
    scores = together.score(PROMPTS, TEXTS)
    assert torch.allclose(scores, combined(alone, how, 0.5), atol=1e-5)
    together.calibrate(PROMPTS, TEXTS)
    scaled = together.score(PROMPTS, TEXTS)
    assert float(scaled.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(scaled.std()) == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(scaled.argsort(), scores.argsort())
    together.save(tmp_path)
    assert torch.equal(Ensemble.load(tmp_path, resident("llama")).score(PROMPTS, TEXTS), scaled)


def test_the_tokens_of_every_member_are_counted_and_the_policy_stays_active(resident, folders):
    model = resident("llama")
    one = RewardModel.load(folders[0], model, "alone")
    one.score(PROMPTS, TEXTS)
    together = Ensemble.of(model, folders, "mean", 0.5)
    policy = model.add_adapter("policy", 0)
    together.score(PROMPTS, TEXTS)
    together.score(PROMPTS, TEXTS)
    assert together.tokens_judged == 2 * 3 * one.tokens_judged
    assert all(p.requires_grad for p in policy)
