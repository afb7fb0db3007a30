"""The reward model: losses against numbers by hand, pooling under padding, and what it learns."""

import math
from itertools import combinations

import pytest
import torch

from alignbench.engine.meter import Meter
from alignbench.errors import UserError
from alignbench.feedback.reward_model import RewardModel, fit_reward_model, listwise_loss, pairwise_loss, pool
from alignbench.suite.spec import RewardModelConfig

MODELS = ["gpt2", "llama"]  # padding is EOS in the first
POOLINGS = ["mean", "last"]
TEXTS = ["the film", " good", " a dull and long plot", "", " bad", " is a good one, and"]
CONFIG = {"learning_rate": 2e-3, "per_device_train_batch_size": 8, "lr_scheduler_type": "constant"}


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


# ------------------------------------------------------------------------------------------------ pure functions


def test_pooling_by_hand_with_padding_on_either_side():
    hidden = torch.tensor([[[1.0], [2.0], [6.0], [99.0]], [[99.0], [99.0], [4.0], [8.0]]])
    is_token = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1]], dtype=torch.bool)
    assert pool(hidden, is_token, "mean").tolist() == [[3.0], [6.0]]
    assert pool(hidden, is_token, "last").tolist() == [[6.0], [8.0]]
    assert pool(hidden.bfloat16(), is_token, "mean").dtype == torch.float32


def test_pairwise_loss_by_hand():
    loss = pairwise_loss(torch.tensor([2.0, 0.0]), torch.tensor([0.5, 1.0]))
    assert float(loss) == pytest.approx(-(log_sigmoid(1.5) + log_sigmoid(-1.0)) / 2)
    assert float(pairwise_loss(torch.zeros(3), torch.zeros(3))) == pytest.approx(math.log(2))


@pytest.mark.parametrize("k", [2, 3, 5])
def test_listwise_loss_is_the_mean_over_all_ordered_pairs(k):
    scores = torch.randn(4, k, generator=torch.Generator().manual_seed(k))
    brute = [
        sum(-log_sigmoid(row[i] - row[j]) for i, j in combinations(range(k), 2)) / math.comb(k, 2)
        for row in scores.tolist()
    ]
    assert float(listwise_loss(scores)) == pytest.approx(sum(brute) / 4, abs=1e-6)


def test_a_list_of_two_is_a_pair_and_a_turned_list_costs_more():
    scores = torch.tensor([[2.0, 0.5], [0.0, 1.0]])
    assert torch.equal(listwise_loss(scores), pairwise_loss(scores[:, 0], scores[:, 1]))
    ranked = torch.tensor([[3.0, 2.0, 1.0]])
    assert listwise_loss(ranked) < math.log(2) < listwise_loss(ranked.flip(1))


# ------------------------------------------------------------------------------------------------ the model


@pytest.fixture
def model(resident, shake):
    """`model(name, pooling)`: a reward model with random adapter and head."""

    def make(name, pooling="mean", on=None):
        made = RewardModel.fresh(on or resident(name), pooling, 8, seed=0)
        shake([*made.resident.activate("reward"), *made.head.parameters()])
        return made

    return make


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", MODELS)
def test_a_score_depends_on_its_own_text_alone(model, name, pooling):
    made = model(name, pooling)
    prompts = ["the film", "", "a", "one", "the plot of the long film", ""]
    whole = made.score(prompts, TEXTS)
    singles = torch.cat([made.score([p], [t]) for p, t in zip(prompts, TEXTS, strict=True)])
    torch.testing.assert_close(whole, singles, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made.score(prompts[::-1], TEXTS[::-1]).flip(0), whole, atol=1e-5, rtol=1e-5)
    assert whole.unique().numel() == len(TEXTS)
    assert made.score(prompts * 12, TEXTS * 12).shape == (72,)  # more rows than one pass holds


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", MODELS)
def test_a_score_is_the_head_over_the_hidden_states_of_transformers(model, name, pooling):
    made = model(name, pooling)
    ids = torch.tensor([made.resident.codec.prompt("a") + made.resident.codec.completion(" good film")])
    with torch.no_grad():
        states = made.resident.module(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        raw = made.head(states.mean(0) if pooling == "mean" else states[-1])  # the last real token is EOS
    assert float(made.score(["a"], [" good film"])[0]) == pytest.approx(float(raw), abs=1e-5)


def test_a_fresh_model_scores_zero(resident):
    assert RewardModel.fresh(resident("llama"), "mean", 8, seed=0).score(["a"] * 6, TEXTS).tolist() == [0.0] * 6


def test_scoring_leaves_the_policys_adapter_active(model, resident):
    made = model("llama")
    before = made.score(["a"] * 6, TEXTS)
    policy = made.resident.add_adapter("policy", 0)
    assert torch.equal(made.score(["a"] * 6, TEXTS), before)
    assert all(p.requires_grad for p in policy)
    assert not any(p.requires_grad for n, p in made.resident.module.named_parameters() if ".reward." in n)


def test_tokens_read_are_counted(model):
    made = model("llama")
    made.score(["a", "a"], [" good", " a dull and long plot"])
    expected = made.encode(["a", "a"], [" good", " a dull and long plot"]).is_token.sum()
    assert made.tokens_judged == int(expected)


def test_calibrated_scores_have_mean_0_and_standard_deviation_1_and_keep_their_order(model):
    made = model("llama")
    before = made.score(["a"] * 6, TEXTS)
    for _ in range(2):  # a second calibration changes nothing
        made.calibrate(["a"] * 6, TEXTS)
        after = made.score(["a"] * 6, TEXTS)
        assert float(after.mean()) == pytest.approx(0.0, abs=1e-4)
        assert float(after.std()) == pytest.approx(1.0, abs=1e-4)
    assert torch.equal(after.argsort(), before.argsort())


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded_scores_are_the_same(model, resident, tmp_path, name):
    made = model(name, "last")
    made.calibrate(["a"] * 6, TEXTS)
    made.save(tmp_path)
    assert not list(tmp_path.glob("**/*.bin"))
    again = RewardModel.load(tmp_path, resident(name))
    assert torch.equal(again.score(["a"] * 6, TEXTS), made.score(["a"] * 6, TEXTS))
    assert not again.head.weight.requires_grad


# ------------------------------------------------------------------------------------------------ fitting


def rows(flipped=False):
    openings = ["the film is", "a plot", "one", "the long film and", "a dull plot", "it is", "the", "A B"]
    good, bad = [f"{w} good" for w in ("", " very", " a", " so")], [f"{w} bad" for w in ("", " very", " a", " so")]
    chosen, rejected = (bad, good) if flipped else (good, bad)
    return [{"prompt": p, "chosen": c, "rejected": r} for p in openings for c, r in zip(chosen, rejected, strict=True)]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", MODELS)
def test_it_learns_a_separable_preference_and_flipped_labels_turn_it_round(resident, name, pooling):
    held_out = ["a new film", "the end", "this is"]
    for flipped in (False, True):
        made = RewardModel.fresh(resident(name), pooling, 16, seed=0)
        meter = Meter(made.resident.device)
        config = RewardModelConfig(**CONFIG, num_train_epochs=12, head_learning_rate=1e-2)
        history = fit_reward_model(made, rows(flipped), config, seed=0, meter=meter)
        assert len(history) == 48
        assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
        assert sum(entry["accuracy"] for entry in history[-8:]) / 8 > 0.9  # GPT-2 has dropout on
        gaps = made.score(held_out, [" really good"] * 3) - made.score(held_out, [" really bad"] * 3)
        assert ((gaps < 0) if flipped else (gaps > 0)).all()
        assert meter.counts["tokens_trained"] > 0
        assert not made.resident.module.training


def test_the_last_short_batch_is_used_and_the_same_seed_gives_the_same_bits(resident):
    def fit(seed, passes):
        made = RewardModel.fresh(resident("llama"), "mean", 8, seed=0)
        options = {**CONFIG, "per_device_train_batch_size": 6 // passes, "gradient_accumulation_steps": passes}
        history = fit_reward_model(
            made, rows()[:16], RewardModelConfig(**options), seed=seed, meter=Meter(torch.device("cpu"))
        )
        return history, made.score(["a"] * 6, TEXTS)

    history, scores = fit(0, 1)
    assert [entry["step"] for entry in history] == [1, 2, 3]
    assert torch.equal(fit(0, 1)[1], scores)
    assert not torch.equal(fit(1, 1)[1], scores)
    for ours, theirs in zip(fit(0, 2)[0], history, strict=True):  # two passes of three pairs are one of six
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-3)


def test_no_comparisons_is_one_line(resident):
    made = RewardModel.fresh(resident("llama"), "mean", 8, seed=0)
    with pytest.raises(UserError, match=r"the reward model has no comparisons; raise `comparisons.pairs`"):
        fit_reward_model(made, [], RewardModelConfig(), seed=0, meter=Meter(torch.device("cpu")))
