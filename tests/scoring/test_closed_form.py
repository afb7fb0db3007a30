"""The closed form against numbers by hand, a numerical maximum, and the estimators that stand for it elsewhere."""

from __future__ import annotations

import math

import pytest
import torch

from alignbench.assets.toys import TOYS, build_toy
from alignbench.engine.resident import Resident
from alignbench.engine.sampling import sample_texts
from alignbench.errors import UserError
from alignbench.scoring import closed_form as exact
from alignbench.scoring.evaluate import measure_kl
from alignbench.suite.spec import Lora
from alignbench.tasks.oracle import COMPLETIONS, MAX_NEW_TOKENS, PROMPTS, OracleReward, RewardConfig

BETA = 0.5


def log(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


@pytest.fixture
def random_world():
    """(4, 7) log-probabilities of a policy and a reference, and rewards."""
    generator = torch.Generator().manual_seed(0)
    policy, reference, rewards = (torch.randn(4, 7, generator=generator, dtype=torch.float64) for _ in range(3))
    return policy.log_softmax(-1), reference.log_softmax(-1), 2 * rewards


def test_two_completions_by_hand():
    """q = (1/2, 1/2), r = (0, -beta log 3): pi* = (3/4, 1/4), J(q) = -beta log(3) / 2, J(pi*) = beta log(2/3)."""
    start, rewards = log([0.5, 0.5]), torch.tensor([[0.0, -BETA * math.log(3)]], dtype=torch.float64)
    torch.testing.assert_close(exact.optimum(start, rewards, BETA).exp(), torch.tensor([[0.75, 0.25]]).double())
    assert float(exact.objective(start, start, rewards, BETA)) == pytest.approx(-BETA * math.log(3) / 2)
    assert float(exact.objective(log([0.75, 0.25]), start, rewards, BETA)) == pytest.approx(BETA * math.log(2 / 3))
    tv, kl, share = exact.distance(start, start, rewards, BETA)
    assert (tv, kl, share) == pytest.approx((0.25, 0.5 * math.log(4 / 3), 0.0))
    assert exact.distance(log([0.75, 0.25]), start, rewards, BETA) == pytest.approx((0.0, 0.0, 1.0))


def test_a_policy_past_its_optimum_or_against_it_is_told():
    """As far beyond as the start is short of it, and the optimum of the negative reward (a KL or a label swapped)."""
    start, rewards = log([0.5, 0.5]), torch.tensor([[0.0, -BETA * math.log(3)]], dtype=torch.float64)
    beyond = exact.distance(log([0.95, 0.05]), start, rewards, BETA)
    assert beyond.optimum_tv == pytest.approx(0.2)
    assert beyond.objective_share < 1
    against = exact.distance(exact.optimum(start, -rewards, BETA), start, rewards, BETA)
    assert against.optimum_tv == pytest.approx(0.5)
    assert against.objective_share < 0


def test_what_the_objective_lacks_is_beta_times_the_kl_to_the_optimum(random_world):
    policy, reference, rewards = random_world
    best = exact.optimum(reference, rewards, BETA)
    lacking = exact.objective(best, reference, rewards, BETA) - exact.objective(policy, reference, rewards, BETA)
    torch.testing.assert_close(lacking, BETA * exact.kl(policy, best))
    at_best = BETA * (reference + rewards / BETA).logsumexp(-1)  # beta log E_q exp(r / beta)
    torch.testing.assert_close(exact.objective(best, reference, rewards, BETA), at_best)


@pytest.mark.parametrize("beta", [0.7, 1.0, 4.0])
def test_no_policy_found_by_climbing_the_objective_beats_the_optimum(random_world, beta):
    _, reference, rewards = random_world
    free = torch.zeros(4, 7, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [free], max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def loss():
        solver.zero_grad()
        p = free.softmax(-1)
        value = -(p * (rewards - beta * (p.log() - reference))).sum()
        value.backward()
        return value

    solver.step(loss)
    found = free.detach().log_softmax(-1)
    assert exact.total_variation(found, exact.optimum(reference, rewards, beta)).max() < 1e-4


def test_the_share_is_of_the_mean_objective_so_that_a_prompt_with_nothing_to_gain_has_no_say():
    start = log([0.5, 0.5], [0.5, 0.5])
    rewards = torch.tensor([[0.0, -1.0], [0.3, 0.3]], dtype=torch.float64)
    best = exact.optimum(start, rewards, BETA)
    assert exact.distance(best, start, rewards, BETA).objective_share == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------------ through the engine


@pytest.fixture(params=TOYS)
def policy(request, tmp_path, shake):
    build_toy(request.param, tmp_path)
    resident = Resident(tmp_path, [], Lora(r=4, alpha=8), torch.device("cpu"), torch.float32)
    shake(resident.add_adapter("policy", 0), scale=0.2)
    return resident


def logprobs(resident, adapter):
    return exact.completion_logprobs(resident, adapter, PROMPTS, [COMPLETIONS] * len(PROMPTS), MAX_NEW_TOKENS)


def test_the_estimators_used_elsewhere_agree_with_the_enumerated_values(policy):
    """Each mean over 6000 samples lies within four of its standard errors of the sum over all completions."""
    ours, theirs = logprobs(policy, "policy"), logprobs(policy, None)
    reward = OracleReward(RewardConfig())
    table = torch.stack([reward.score([p] * len(COMPLETIONS), COMPLETIONS) for p in PROMPTS]).double()
    kl, gold = float(exact.kl(ours, theirs).mean()), float(exact.mean_reward(ours, table).mean())
    with policy.using("policy"):
        rollout = sample_texts(policy, PROMPTS * 2000, MAX_NEW_TOKENS, 1.0, torch.Generator().manual_seed(1))
    seen = measure_kl(policy, "policy", policy, rollout.tokens)
    scores = reward.score(rollout.prompts, rollout.completions).double()
    assert kl > 0.05
    for name, values, expected in (
        ("exact", seen.exact, kl), ("k1", seen.k1, kl), ("k3", seen.k3, kl), ("gold", scores, gold)
    ):  # fmt: skip
        error = float(values.std()) / len(values) ** 0.5
        assert abs(float(values.mean()) - expected) < 4 * error, name
        assert error < 0.1 * abs(expected), name  # so that the line above says something
    shares = [rollout.completions[i::3].count(text) / 2000 for i in range(3) for text in COMPLETIONS]
    p = ours.exp().flatten()
    assert ((torch.tensor(shares).double() - p).abs() < 4.5 * (p * (1 - p) / 2000).sqrt() + 1e-9).all()


def test_the_bare_start_is_read_beside_an_adapter_and_the_adapter_is_back_afterwards(policy):
    assert not torch.allclose(logprobs(policy, None), logprobs(policy, "policy"))
    assert torch.equal(logprobs(policy, "policy"), logprobs(policy, "policy"))


def test_a_model_of_another_language_is_refused(resident):
    with pytest.raises(
        UserError, match=r"13 completions the task lists for 'a' have probability .* not 1: set `model`"
    ):
        exact.completion_logprobs(resident("llama"), None, PROMPTS, [COMPLETIONS] * 3, MAX_NEW_TOKENS)
