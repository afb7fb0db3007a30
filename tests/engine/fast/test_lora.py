"""The short LoRA forward against PEFT's own, numbers and gradients, and where it steps aside."""

import copy
import gc
import weakref

import pytest
import torch
from peft.tuners.lora import Linear as PeftLinear

from alignbench.engine.fast.lora import Quick

PROMPTS, COMPLETIONS = ["the film is", "a"], [" a good one", " bad"]


def layers(made):
    return [m for m in made.module.modules() if isinstance(m, PeftLinear)]


def use_pefts_own(made):
    for layer in layers(made):
        assert type(layer) is Quick
        layer.__class__ = PeftLinear


@pytest.mark.parametrize("name", ["llama", "gpt2", "granite", "gemma2"])
def test_numbers_and_gradients_are_pefts(resident, shake, name):
    made = resident(name, r=3, alpha=7)
    weights = made.add_adapter("policy", 0)
    shake(weights)
    batch = made.codec.encode(PROMPTS, COMPLETIONS, max_new_tokens=12)
    seen = []
    for _ in range(2):
        logprobs = made.logprobs(batch)
        seen.append([logprobs, *torch.autograd.grad(logprobs.sum(), weights)])
        if len(seen) == 1:
            use_pefts_own(made)
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_an_input_without_a_gradient_gets_none_and_the_weights_theirs(resident, shake):
    made = resident("llama")
    shake(made.add_adapter("policy", 0))
    layer = copy.copy(layers(made)[0])
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    layer(x).sum().backward()
    assert x.grad is None
    assert layer.lora_B["policy"].weight.grad.abs().sum() > 0
    assert layer.base_layer.weight.grad is None


def test_no_rows_in_give_no_rows_out(resident):
    made = resident("llama")
    made.add_adapter("policy", 0)
    assert layers(made)[0](torch.empty(2, 0, 32)).shape == (2, 0, 32)


def test_dropout_in_training_is_pefts_own(resident, shake):
    made = resident("llama", dropout=0.5)
    shake(made.add_adapter("policy", 0))
    layer, x = layers(made)[0], torch.ones(1, 4, 32)
    still = layer(x)
    made.module.train()
    assert not torch.equal(layer(x), layer(x))
    made.module.eval()
    assert torch.equal(layer(x), still)


def test_the_adapter_that_is_active_is_the_one_that_acts(resident, shake):
    made = resident("llama")
    for name, seed in (("one", 1), ("two", 2)):
        shake(made.add_adapter(name, 0), seed=seed)
    batch = made.codec.encode(PROMPTS, COMPLETIONS, max_new_tokens=12)
    with torch.no_grad():
        ours = {}
        for name in ("one", "two", None):
            with made.using(name):
                ours[name] = made.logprobs(batch)
        use_pefts_own(made)
        for name, seen in ours.items():
            with made.using(name):
                torch.testing.assert_close(made.logprobs(batch), seen, atol=1e-5, rtol=1e-5)


def test_a_model_that_is_let_go_leaves_memory_at_once(resident):
    """Without the cycle collector, which may not come for minutes."""
    made = resident("llama")
    made.add_adapter("policy", 0)
    weight = weakref.ref(layers(made)[0].base_layer.weight)
    made.drop_adapters()
    gc.collect()  # of transformers' and PEFT's own cycles
    made.add_adapter("again", 0)
    quick = weakref.ref(layers(made)[0])
    gc.disable()
    try:
        made.drop_adapters()
        assert quick() is None
    finally:
        gc.enable()
    del made
    gc.collect()
    assert weight() is None


def test_a_trainer_under_autocast_gets_pefts_forward(resident, shake):
    made = resident("llama")
    shake(made.add_adapter("policy", 0))
    batch = made.codec.encode(PROMPTS, COMPLETIONS, max_new_tokens=12)
    plain = made.logprobs(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = made.logprobs(batch)
        half.sum().backward()
    assert not torch.equal(half, plain)
    torch.testing.assert_close(half, plain, atol=0.3, rtol=0.1)


def test_a_second_derivative_is_refused_and_not_wrong(resident, shake):
    made = resident("llama")
    weights = made.add_adapter("policy", 0)
    shake(weights)
    states = made.hidden(made.codec.encode(PROMPTS, COMPLETIONS, max_new_tokens=12))
    first = torch.autograd.grad(states.square().sum(), weights, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        sum(g.square().sum() for g in first).backward()
