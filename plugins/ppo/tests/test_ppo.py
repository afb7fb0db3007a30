"""PPO's formulas against definitions and hand-derived numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alignbench_ppo import (
    adapted,
    clipped_policy_loss,
    clipped_value_loss,
    gae,
    token_rewards,
    whiten,
)

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
