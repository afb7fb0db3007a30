"""The formulas that methods share, against definitions and hand-derived numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from alignbench.rl import adapted, clipped_policy_loss, clipped_value_loss, exact_kl, gae, k1, k3, token_rewards, whiten

RESPONSES = ((2, 5), (1, 2), (0, 6))  # first and last column, exclusive, of three rows


def spans(*ends: tuple[int, int], columns: int = 6) -> Tensor:
    """(B, T) True from each first column to before each last one."""
    is_response = torch.zeros(len(ends), columns, dtype=torch.bool)
    for row, (first, last) in enumerate(ends):
        is_response[row, first:last] = True
    return is_response


# ---------------------------------------------------------------------------------------------------------- advantages


def test_advantages_by_hand() -> None:
    """gamma 1, lam 0.95: delta = (0.5, 0.5, 0.5), A_2 = 0.5, A_1 = 0.5 + 0.95 * 0.5, A_0 = 0.5 + 0.95 * 0.975."""
    rewards, values = torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.5, 1.0, 1.5]])
    advantages, returns = gae(rewards, values, spans((0, 3), columns=3), 1.0, 0.95)
    torch.testing.assert_close(advantages, torch.tensor([[1.42625, 0.975, 0.5]]))
    torch.testing.assert_close(returns, torch.tensor([[1.92625, 1.975, 2.0]]))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_advantages_equal_the_double_sum_that_defines_them(gamma: float, lam: float) -> None:
    torch.manual_seed(0)
    is_response = spans(*RESPONSES)
    rewards, values = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    expected = torch.zeros(3, 6, dtype=torch.float64)
    for row, (first, last) in enumerate(RESPONSES):
        v = [*values[row, first:last].tolist(), 0.0]  # nothing is worth anything once the episode is over
        r = rewards[row, first:last].tolist()
        for t in range(last - first):
            expected[row, first + t] = sum(
                (gamma * lam) ** (k - t) * (r[k] + gamma * v[k + 1] - v[k]) for k in range(t, last - first)
            )
    advantages, returns = gae(rewards * is_response, values, is_response, gamma, lam)
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, (expected + values) * is_response)


def test_lam_1_leaves_the_reward_to_go_as_return() -> None:
    torch.manual_seed(1)
    is_response = spans(*RESPONSES)
    rewards = torch.randn(3, 6, dtype=torch.float64) * is_response
    _, returns = gae(rewards, torch.randn(3, 6, dtype=torch.float64), is_response, 1.0, 1.0)
    torch.testing.assert_close(returns, rewards.flip(1).cumsum(1).flip(1) * is_response)


def test_values_at_padded_places_change_nothing() -> None:
    torch.manual_seed(2)
    is_response = spans(*RESPONSES)
    rewards, values = torch.randn(3, 6) * is_response, torch.randn(3, 6)
    garbage = torch.where(is_response, values, torch.full_like(values, 1e6))
    for clean, dirty in zip(
        gae(rewards, values, is_response, 1.0, 0.95), gae(rewards, garbage, is_response, 1.0, 0.95), strict=True
    ):
        assert torch.equal(clean, dirty)


# ------------------------------------------------------------------------------------------------------------- rewards


def test_the_score_falls_on_each_rows_last_real_token() -> None:
    scores, zeros = torch.tensor([1.0, 0.0, -2.0]), torch.zeros(3, 6)
    rewards = token_rewards(scores, zeros, zeros, spans(*RESPONSES), 0.1)
    expected = torch.zeros(3, 6)
    expected[0, 4], expected[2, 5] = 1.0, -2.0
    assert torch.equal(rewards, expected)


def test_a_token_the_policy_likes_more_than_the_reference_costs_reward() -> None:
    """kl_coef 0.5, log p - log p_ref = (+2, -1): rewards (-1, +0.5), and the score 3 on the last: (-1, 3.5)."""
    logprobs, reference = torch.tensor([[9.0, -1.0, -3.0]]), torch.tensor([[0.0, -3.0, -2.0]])
    rewards = token_rewards(torch.tensor([3.0]), logprobs, reference, spans((1, 3), columns=3), 0.5)
    torch.testing.assert_close(rewards, torch.tensor([[0.0, -1.0, 3.5]]))


def trl_masked_whiten(values: Tensor, is_counted: Tensor, shift_mean: bool) -> Tensor:
    """What TRL's PPO did: gather, take the unbiased variance, rescale, give the mean back if it is to stay."""
    counted = values[is_counted]
    mean, var = counted.mean(), counted.var(unbiased=True)
    white = (values - mean) * torch.rsqrt(var + 1e-8)
    return torch.where(is_counted, white if shift_mean else white + mean, torch.zeros_like(values))


def test_whitened_values_have_mean_0_and_unbiased_variance_1_and_are_0_elsewhere() -> None:
    torch.manual_seed(3)
    is_counted, values = spans(*RESPONSES), torch.randn(3, 6, dtype=torch.float64) * 7 + 5
    white = whiten(values, is_counted)
    assert float(white[is_counted].mean()) == pytest.approx(0, abs=1e-12)
    assert float(white[is_counted].var(unbiased=True)) == pytest.approx(1, abs=1e-8)
    assert not white[~is_counted].any()
    assert float(whiten(values, is_counted, keep_mean=True)[is_counted].mean()) == pytest.approx(
        float(values[is_counted].mean())
    )


@pytest.mark.parametrize("keep_mean", [False, True])
def test_whitening_equals_trls_and_reads_no_padding(keep_mean: bool) -> None:
    torch.manual_seed(4)
    is_counted, values = spans(*RESPONSES), torch.randn(3, 6) * 3 + 1
    expected = trl_masked_whiten(values, is_counted, shift_mean=not keep_mean)
    torch.testing.assert_close(whiten(values, is_counted, keep_mean), expected)
    garbage = torch.where(is_counted, values, torch.full_like(values, -1e4))
    torch.testing.assert_close(whiten(garbage, is_counted, keep_mean), expected)


@pytest.mark.parametrize(("keep_mean", "expected"), [(False, 0.0), (True, -3.7)])
def test_a_lone_value_whitens_to_its_mean_or_to_0_and_never_to_nan(keep_mean: bool, expected: float) -> None:
    """As in a round of one episode of one token: an unbiased variance would divide by no degree of freedom."""
    is_counted = spans((2, 3))
    values = torch.where(is_counted, torch.tensor(-3.7), torch.tensor(1e6))
    torch.testing.assert_close(whiten(values, is_counted, keep_mean), expected * is_counted.float())


# -------------------------------------------------------------------------------------------------------------- losses

ONE = torch.ones(1, 1, dtype=torch.bool)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, 2.0, -2.4, 0.0),  # good and already likelier: clipped at 1.2, no pull further
        (0.5, 2.0, -1.0, -2.0),  # good and less likely: pulled back up
        (1.5, -2.0, 3.0, 2.0),  # bad and likelier: pushed down
        (0.5, -2.0, 1.6, 0.0),  # bad and already less likely: clipped at 0.8
        (1.1, 2.0, -2.2, -2.0),  # inside the range nothing is clipped
    ],
)
def test_policy_loss_by_hand_on_either_side_of_the_clip(
    ratio: float, advantage: float, loss: float, slope: float
) -> None:
    r = torch.tensor([[ratio]], requires_grad=True)
    got = clipped_policy_loss(r, torch.tensor([[advantage]]), ONE, 0.2)
    got.backward()
    assert float(got.detach()) == pytest.approx(loss)
    assert float(r.grad) == pytest.approx(slope)


@pytest.mark.parametrize(
    ("value", "target", "loss", "slope"),
    [
        (0.5, 1.0, 0.32, 0.0),  # moved towards the return past the clip: (1 - 0.2)^2 / 2, no pull further
        (0.5, -1.0, 1.125, 1.5),  # moved away from it: (0.5 + 1)^2 / 2
        (-0.5, 1.0, 1.125, -1.5),
        (-0.5, -1.0, 0.32, 0.0),
        (0.1, 1.0, 0.405, -0.9),  # inside the range: 0.9^2 / 2
    ],
)
def test_value_loss_by_hand_on_either_side_of_the_clip(value: float, target: float, loss: float, slope: float) -> None:
    v = torch.tensor([[value]], requires_grad=True)
    got = clipped_value_loss(v, torch.zeros(1, 1), torch.tensor([[target]]), ONE, 0.2)
    got.backward()
    assert float(got.detach()) == pytest.approx(loss)
    assert float(v.grad) == pytest.approx(slope)


def test_losses_are_means_over_response_tokens_alone() -> None:
    is_response = spans((1, 3), columns=4)
    ratio = torch.tensor([[99.0, 1.0, 1.0, 99.0]])
    advantages = torch.tensor([[99.0, 1.0, 3.0, 99.0]])
    assert float(clipped_policy_loss(ratio, advantages, is_response, 0.2)) == pytest.approx(-2.0)
    loss = clipped_value_loss(ratio, torch.ones(1, 4), torch.tensor([[0.0, 2.0, 3.0, 0.0]]), is_response, 0.2)
    assert float(loss) == pytest.approx(0.5 * (1 + 4) / 2)


def test_the_controller_moves_in_proportion_and_its_error_is_clipped_at_a_fifth() -> None:
    """kl 6.6 of 6: error 0.1, 64 of 640 episodes: factor 1.01. kl 60: error 0.2. kl 0: error -0.2."""
    assert adapted(0.2, 6.6, 6.0, 64, 640) == pytest.approx(0.202)
    assert adapted(0.2, 60.0, 6.0, 64, 640) == pytest.approx(0.204)
    assert adapted(0.2, 0.0, 6.0, 64, 640) == pytest.approx(0.196)
    assert adapted(0.2, 6.0, 6.0, 64, 640) == 0.2


# ------------------------------------------------------------------------------------------------------------------ KL

LOGITS = torch.randn(7, 50, generator=torch.Generator().manual_seed(0)) * 3


def test_exact_kl_is_that_of_torch_distributions_and_has_a_direction() -> None:
    logits = LOGITS
    other = logits.flip(0)
    p, q = (
        torch.distributions.Categorical(logits=logits.double()),
        torch.distributions.Categorical(logits=other.double()),
    )
    ours = exact_kl(logits.log_softmax(-1), other.log_softmax(-1)).double()
    torch.testing.assert_close(ours, torch.distributions.kl_divergence(p, q), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, torch.distributions.kl_divergence(q, p), rtol=0.01)


def test_exact_kl_of_a_distribution_from_itself_is_exactly_zero() -> None:
    assert exact_kl(LOGITS.log_softmax(-1), LOGITS.log_softmax(-1)).tolist() == [0.0] * 7


def test_the_estimators_by_hand() -> None:
    """p = 1/2 and 1/4, q = 1/4 and 1/2: log p - log q = +-log 2, and q/p - 1 - log(q/p) = -1/2 + log 2, 1 - log 2."""
    log_p, log_q = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.25, 0.5]).log()
    assert k1(log_p, log_q).tolist() == pytest.approx([math.log(2), -math.log(2)])
    assert k3(log_p, log_q).tolist() == pytest.approx([math.log(2) - 0.5, 1 - math.log(2)])


@pytest.mark.parametrize("estimator", [k1, k3])
def test_an_estimators_expectation_over_the_policy_is_the_exact_kl(
    estimator: Callable[[Tensor, Tensor], Tensor],
) -> None:
    log_p, log_q = (logits.double().log_softmax(-1) for logits in (LOGITS, LOGITS.flip(0)))
    torch.testing.assert_close((log_p.exp() * estimator(log_p, log_q)).sum(-1), exact_kl(log_p, log_q))
