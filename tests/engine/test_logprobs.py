"""Log-probabilities and entropies against autograd, torch.distributions and numbers by hand."""

import math

import pytest
import torch

from alignbench.engine import logprobs as by_autograd
from alignbench.engine.fast import nats as pulled_back
from alignbench.engine.fast.nats import Logits
from alignbench.engine.fast.products import Plain
from alignbench.engine.logprobs import before, spread


@pytest.fixture(params=[by_autograd, pulled_back], ids=["plain", "fast"])
def logprobs_and_entropies(request):
    return request.param.logprobs_and_entropies


@pytest.fixture
def logits():
    return torch.randn(7, 50, generator=torch.Generator().manual_seed(0)) * 3


LABELS = torch.tensor([0, 49, 3, 3, 17, 8, 20])


@pytest.fixture
def projection():
    """From 12 states to 50 logits."""
    generator = torch.Generator().manual_seed(2)
    return Plain(torch.randn(50, 12, generator=generator), torch.randn(50, generator=generator))


@pytest.fixture
def states():
    return torch.randn(7, 12, generator=torch.Generator().manual_seed(3))


WEIGHTS = torch.randn(2, 7, generator=torch.Generator().manual_seed(1))  # what a loss makes of either output


def in_double(logits, temperature):
    """Both by their definitions, differentiable."""
    log_p = torch.log_softmax(logits / temperature, -1)
    return log_p[range(7), LABELS], -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
def test_values_and_gradients_are_those_of_plain_autograd_in_double(logprobs_and_entropies, logits, temperature):
    ours = logits.clone().requires_grad_()
    nats = logprobs_and_entropies(ours, LABELS, Logits(), temperature)
    (WEIGHTS[0] * nats.logprobs + WEIGHTS[1] * nats.entropies).sum().backward()

    exact = logits.double().requires_grad_()
    logprobs, entropies = in_double(exact, temperature)
    (WEIGHTS[0] * logprobs + WEIGHTS[1] * entropies).sum().backward()

    torch.testing.assert_close(nats.logprobs.double(), logprobs, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(nats.entropies.double(), entropies, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(ours.grad.double(), exact.grad, atol=2e-6, rtol=1e-5)
    assert not torch.allclose(nats.logprobs, torch.log_softmax(logits, -1)[range(7), LABELS]) or temperature == 1.0


@pytest.mark.parametrize("rows", [1, 3, 256])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_of_the_states_goes_through_the_projection(
    logprobs_and_entropies, states, projection, temperature, rows, monkeypatch
):
    """In one block and in several, each read a few rows at a time."""
    for way in (by_autograd, pulled_back):
        monkeypatch.setattr(way, "ROWS_PER_BLOCK", rows)
    monkeypatch.setattr(pulled_back, "FLOAT_ROWS", 2)
    ours, exact = states.clone().requires_grad_(), states.double().requires_grad_()
    nats = logprobs_and_entropies(ours, LABELS, projection, temperature)
    values = in_double(exact @ projection.weight.double().T + projection.bias.double(), temperature)
    for weights in (WEIGHTS, WEIGHTS * torch.tensor([[1.0], [0.0]]), WEIGHTS * torch.tensor([[0.0], [1.0]])):
        (grad,) = torch.autograd.grad(sum((w * v).sum() for w, v in zip(weights, nats, strict=True)), ours,
                                      retain_graph=True)  # fmt: skip
        (expected,) = torch.autograd.grad(sum((w * v).sum() for w, v in zip(weights, values, strict=True)), exact,
                                          retain_graph=True)  # fmt: skip
        torch.testing.assert_close(grad.double(), expected, atol=1e-5, rtol=1e-5)
    for value, expected in zip(nats, values, strict=True):
        torch.testing.assert_close(value.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropies_without_a_gradient_are_the_same_and_leave_the_log_probabilities_theirs(
    logprobs_and_entropies, states, projection, temperature
):
    leaf, seen = states.clone().requires_grad_(), []
    for has_gradient in (True, False):
        nats = logprobs_and_entropies(leaf, LABELS, projection, temperature, has_entropy_gradient=has_gradient)
        assert nats.logprobs.requires_grad
        assert nats.entropies.requires_grad == has_gradient
        seen.append([*nats, *torch.autograd.grad((WEIGHTS[0] * nats.logprobs).sum(), leaf)])
    for both, alone in zip(*seen, strict=True):
        assert torch.equal(both, alone)


def test_a_second_backward_pass_gives_the_same_gradient(logprobs_and_entropies, logits):
    leaf = logits.clone().requires_grad_()
    total = logprobs_and_entropies(leaf, LABELS, Logits()).logprobs.sum()
    first, second = (torch.autograd.grad(total, leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_handed_over_is_not_written_to(logprobs_and_entropies, logits, states, projection, dtype):
    for given, product in ((logits, Logits()), (states, Plain(*(t.to(dtype) for t in projection)))):
        leaf = given.to(dtype).clone().requires_grad_()
        before = leaf.detach().clone()
        logprobs_and_entropies(leaf, LABELS, product, 0.7).logprobs.sum().backward()
        assert torch.equal(leaf, before)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_ten_thousand_either_way_stay_finite(logprobs_and_entropies, dtype, temperature):
    """The likeliest token has log-probability 0, the least -2e4 / temperature; nothing is left to pull on but the
    latter, towards the former."""
    logits = torch.tensor([[1e4, 0.0, -1e4]] * 2).to(dtype).requires_grad_()
    nats = logprobs_and_entropies(logits, torch.tensor([0, 2]), Logits(), temperature)
    assert nats.logprobs.tolist() == pytest.approx([0, -2e4 / temperature], rel=1e-2)
    assert nats.entropies.tolist() == [0, 0]
    (nats.logprobs + nats.entropies).sum().backward()
    assert logits.grad.tolist() == [[0, 0, 0], [-1 / temperature, 0, 1 / temperature]]


def test_odds_of_one_to_three_by_hand(logprobs_and_entropies):
    logits = torch.tensor([[0.0, 2 * math.log(3)]]).expand(2, 2)
    nats = logprobs_and_entropies(logits, torch.tensor([0, 1]), Logits(), temperature=2.0)
    assert nats.logprobs.tolist() == pytest.approx([math.log(1 / 4), math.log(3 / 4)])
    assert nats.entropies.tolist() == pytest.approx([math.log(4) - 0.75 * math.log(3)] * 2)


def test_bfloat16_logits_are_read_in_float32_and_get_their_own_dtype_back(logprobs_and_entropies, logits):
    leaf = logits.bfloat16().requires_grad_()
    nats = logprobs_and_entropies(leaf, LABELS, Logits())
    nats.logprobs.sum().backward()
    assert nats.logprobs.dtype == torch.float32
    assert leaf.grad.dtype == torch.bfloat16
    torch.testing.assert_close(nats.logprobs, torch.log_softmax(leaf.detach().float(), -1)[range(7), LABELS])


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
