"""What a pass hands on: rows that sequences share, and whether logits are a plain product of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from alignbench.engine.passes import States
from alignbench.engine.resident import Resident
from alignbench.suite.spec import Lora

ROWS, WIDTH, HIDDEN = 400, 60, 576  # enough numbers that torch parts them among threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def shared_states() -> States:
    """Each row lent to some forty tokens."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, HIDDEN, generator=generator).requires_grad_()
    return States(rows, torch.randint(0, ROWS // 20, (16, WIDTH), generator=generator))


def gradients(states: States, picked: Tensor, times: int = 20) -> list[Tensor]:
    grad = torch.randn(picked.shape, generator=torch.Generator().manual_seed(1)) * 100
    return [torch.autograd.grad(picked, states.rows, grad, retain_graph=True)[0] for _ in range(times)]


@pytest.mark.parametrize("way", ["padded", "at"])
def test_the_gradient_of_a_shared_row_has_the_same_bits_every_time(two_threads, way):
    states = shared_states()
    wanted = torch.ones_like(states.place, dtype=torch.bool)
    picked = states.padded() if way == "padded" else states.at(wanted)
    first, *others = gradients(states, picked)
    assert all(torch.equal(first, other) for other in others)
    # by hand, in double precision: each row's gradient is the sum over the tokens that read it
    grad = (torch.randn(picked.shape, generator=torch.Generator().manual_seed(1)) * 100).double().view(-1, HIDDEN)
    expected = torch.zeros(ROWS, HIDDEN, dtype=torch.float64).index_add_(0, states.place.flatten(), grad)
    torch.testing.assert_close(first.double(), expected, rtol=1e-5, atol=1e-2)


def test_states_are_picked_by_place():
    states = shared_states()
    assert torch.equal(states.padded(), states.rows[states.place])
    wanted = torch.rand(states.place.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    assert torch.equal(states.at(wanted), states.rows[states.place[wanted]])


def test_a_cap_on_the_logits_is_seen_in_bfloat16_too(tiny_models):
    """A cap of 30 moves small logits by less than bfloat16's rounding; on large ones it moves log-probabilities."""
    model = AutoModelForCausalLM.from_pretrained(tiny_models["gemma2"], dtype=torch.bfloat16)
    model.config.final_logit_softcapping = 30.0
    folder = tiny_models["gemma2"].parent / "capped"
    model.save_pretrained(folder)
    for file in tiny_models["gemma2"].glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    assert not Resident(folder, [], Lora(), torch.device("cpu"), torch.bfloat16).passes.has_plain_head
