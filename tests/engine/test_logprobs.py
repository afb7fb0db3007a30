"""Log-probabilities, entropies and KL against autograd, torch.distributions and numbers by hand."""

import math

import pytest
import torch

from alignbench.engine.logprobs import before, exact_kl, logprobs_and_entropies, spread, token_logprobs


@pytest.fixture
def logits():
    return torch.randn(7, 50, generator=torch.Generator().manual_seed(0)) * 3


LABELS = torch.tensor([0, 49, 3, 3, 17, 8, 20])


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
def test_values_and_gradients_are_those_of_plain_autograd_in_double(logits, temperature):
    weights = torch.randn(2, 7, generator=torch.Generator().manual_seed(1))
    ours = logits.clone().requires_grad_()
    nats = logprobs_and_entropies(ours, LABELS, temperature)
    (weights[0] * nats.logprobs + weights[1] * nats.entropies).sum().backward()

    exact = logits.double().requires_grad_()
    log_p = torch.log_softmax(exact / temperature, -1)
    logprobs, entropies = log_p[range(7), LABELS], -(log_p.exp() * log_p).sum(-1)
    (weights[0] * logprobs + weights[1] * entropies).sum().backward()

    torch.testing.assert_close(nats.logprobs.double(), logprobs, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(nats.entropies.double(), entropies, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(ours.grad.double(), exact.grad, atol=2e-6, rtol=1e-5)
    assert not torch.allclose(nats.logprobs, torch.log_softmax(logits, -1)[range(7), LABELS]) or temperature == 1.0


def test_a_second_backward_pass_gives_the_same_gradient(logits):
    leaf = logits.clone().requires_grad_()
    total = logprobs_and_entropies(leaf, LABELS).logprobs.sum()
    first, second = (torch.autograd.grad(total, leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_odds_of_one_to_three_by_hand():
    logits = torch.tensor([[0.0, 2 * math.log(3)]]).expand(2, 2)
    nats = logprobs_and_entropies(logits, torch.tensor([0, 1]), temperature=2.0)
    assert nats.logprobs.tolist() == pytest.approx([math.log(1 / 4), math.log(3 / 4)])
    assert nats.entropies.tolist() == pytest.approx([math.log(4) - 0.75 * math.log(3)] * 2)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_two_ways_to_a_log_probability_agree(logits, temperature):
    both = logprobs_and_entropies(logits, LABELS, temperature).logprobs
    torch.testing.assert_close(token_logprobs(logits, LABELS, temperature), both, atol=1e-6, rtol=1e-6)


def test_bfloat16_logits_are_read_in_float32_and_get_their_own_dtype_back(logits):
    leaf = logits.bfloat16().requires_grad_()
    nats = logprobs_and_entropies(leaf, LABELS)
    nats.logprobs.sum().backward()
    assert nats.logprobs.dtype == torch.float32
    assert leaf.grad.dtype == torch.bfloat16
    torch.testing.assert_close(nats.logprobs, torch.log_softmax(leaf.detach().float(), -1)[range(7), LABELS])


def test_exact_kl_is_that_of_torch_distributions_and_has_a_direction(logits):
    other = logits.flip(0)
    p, q = (
        torch.distributions.Categorical(logits=logits.double()),
        torch.distributions.Categorical(logits=other.double()),
    )
    ours = exact_kl(logits.log_softmax(-1), other.log_softmax(-1)).double()
    torch.testing.assert_close(ours, torch.distributions.kl_divergence(p, q), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, torch.distributions.kl_divergence(q, p), rtol=0.01)


def test_exact_kl_of_a_distribution_from_itself_is_exactly_zero(logits):
    assert exact_kl(logits.log_softmax(-1), logits.log_softmax(-1)).tolist() == [0.0] * 7


IS_RESPONSE = torch.tensor([[False, False, True, True, False], [False, True, True, True, True]])


def test_before_takes_the_state_one_place_to_the_left_of_each_response_token():
    hidden = torch.tensor([[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]])[..., None]
    assert before(hidden, IS_RESPONSE).flatten().tolist() == [1, 2, 10, 11, 12, 13]


def test_spread_puts_each_value_at_its_own_token_and_passes_gradients_back():
    values = torch.tensor([1.0, 2, 3, 4, 5, 6], requires_grad=True)
    out = spread(values, IS_RESPONSE)
    assert out.tolist() == [[0, 0, 1, 2, 0], [0, 3, 4, 5, 6]]
    (out * torch.arange(10).view(2, 5)).sum().backward()
    assert values.grad.tolist() == [2, 3, 6, 7, 8, 9]
