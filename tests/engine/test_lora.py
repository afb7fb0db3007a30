"""The short LoRA forward against PEFT's own, numbers and gradients, and where it steps aside."""

import copy

import pytest
import torch
from peft.tuners.lora import Linear as PeftLinear

PROMPTS, COMPLETIONS = ["the film is", "a"], [" a good one", " bad"]


def layers(made):
    return [m for m in made.module.modules() if isinstance(m, PeftLinear)]


def use_pefts_own(made):
    for layer in layers(made):
        del layer.forward


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
