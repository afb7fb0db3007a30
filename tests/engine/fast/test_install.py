"""The door: fast and plain give the same numbers, and a kernel that is wrong on the way back is found at load."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from alignbench.api import OptimizerConfig
from alignbench.engine.fast import KERNELS, Active, install, norms, packing, products
from alignbench.engine.fast import lora as adapters
from alignbench.engine.fast import nats as logprobs
from alignbench.engine.meter import Meter
from alignbench.engine.passes import Passes
from alignbench.engine.trial import LiveTrial
from alignbench.feedback.reward_model import RewardModel, pairwise_loss

PROMPTS = ["the film is", "a", "the film is", ""]
CHOSEN, REJECTED = [" a good one", " dull long plot", " bad", " good"], [" bad", "", " a dull long plot", " a"]
ROWS = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in zip(PROMPTS, CHOSEN, REJECTED, strict=True)]


@pytest.fixture(params=["llama", "gpt2", "granite", "gemma2"])
def both(request, resident):
    """The same model twice: fast, with every weight prepacked, and plain."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "WORTH_PREPACKING", 0)
        return [resident(request.param, kernels=kernels) for kernels in ("fast", "plain")]


def assert_alike(seen):
    for fast, plain in zip(*seen, strict=True):
        torch.testing.assert_close(fast, plain, atol=2e-5, rtol=2e-4)


def test_a_policys_log_probabilities_loss_and_gradients_are_those_of_the_plain_modules(both, shake):
    seen = []
    for made in both:
        weights = made.add_adapter("policy", 0)
        shake(weights)
        chosen, rejected = (made.codec.encode(PROMPTS, texts, max_new_tokens=12) for texts in (CHOSEN, REJECTED))
        gap = made.logprobs(chosen).sum(-1) - made.logprobs(rejected).sum(-1)
        loss = -nn.functional.logsigmoid(0.1 * gap).mean()
        nats, entropies, _ = made.logprobs_and_entropies(chosen, 0.7)
        bonus = torch.autograd.grad(entropies.sum(), weights, retain_graph=True)
        seen.append([made.logprobs(rejected), nats, entropies, loss, *torch.autograd.grad(loss, weights), *bonus])
    assert_alike(seen)


@pytest.mark.parametrize("has_own", [True, False])
def test_a_critics_values_and_gradients_are_those_of_the_plain_modules(both, shake, tmp_path: Path, has_own):
    seen = []
    for made in both:
        trial = LiveTrial(
            made, OptimizerConfig(), seed=0, max_steps=1, max_new_tokens=12, prompts=PROMPTS,
            meter=Meter(made.device), workdir=tmp_path,
        )  # fmt: skip
        head = trial.add_trainable(nn.Linear(made.hidden_size, 1))
        shake(head.parameters(), seed=5)
        if has_own:
            trial.add_critic()
        name = "critic" if has_own else "policy"
        weights = made.activate(name)
        shake(weights)
        tokens = made.codec.encode(PROMPTS, CHOSEN, max_new_tokens=12)
        values = trial.critic(tokens, head) if has_own else trial.actor_critic(tokens, head).values
        made.activate(name)
        seen.append([values, *torch.autograd.grad(values.square().sum(), [*weights, *head.parameters()])])
    assert_alike(seen)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_reward_models_scores_loss_and_gradients_are_those_of_the_plain_modules(both, shake, pooling):
    seen = []
    for made in both:
        model = RewardModel.fresh(made, pooling, 12, 0)
        weights = [*made.activate("reward"), *model.head.parameters()]
        shake(weights)
        chosen, rejected = (model.forward(model.encode(PROMPTS, texts)) for texts in (CHOSEN, REJECTED))
        loss = pairwise_loss(chosen, rejected)
        seen.append([chosen, loss, *torch.autograd.grad(loss, weights)])
    assert_alike(seen)


# ------------------------------------------------------------------------------------------------ a planted bug


def a_hundredth_off(function):
    """The same autograd function with a backward pass that is off by one part in a hundred."""
    backward = function.backward

    def wrong(ctx, *grads):
        out = backward(ctx, *grads)
        return tuple(g * 1.01 if isinstance(g, torch.Tensor) else g for g in out)

    return staticmethod(wrong)


BACKWARDS = {
    "packing": packing._Attention,
    "logprobs": logprobs._Nats,
    "norms": norms._RmsNorm,
    "products": products._Through,
    "adapters": adapters._LoraProduct,
}


@pytest.fixture
def unprobed():
    products.why_not.cache_clear()
    yield
    products.why_not.cache_clear()


@pytest.mark.parametrize("name", BACKWARDS)
def test_a_kernel_whose_gradient_is_a_hundredth_off_falls_back_and_says_so(name, plain, monkeypatch, unprobed):
    """Its output is right: a probe of outputs alone would let it train."""
    monkeypatch.setattr(products, "WORTH_PREPACKING", 0)
    monkeypatch.setattr(BACKWARDS[name], "backward", a_hundredth_off(BACKWARDS[name]))
    with pytest.warns(UserWarning, match=f"kernel '{name}' is not used, the plain module runs: its gradient") as said:
        active = install(plain("llama"), "fast").active
    assert len([one for one in said if "kernel" in str(one.message)]) == 1
    assert [fallen for fallen, _ in active.fallen] == [name]
    lost = {name, "sampling"} if name == "packing" else {name}  # a sample begins with a packed row of prompts
    assert set(active.names) == KERNELS.keys() - lost - {"frozen_blocks"}
    assert f"; not {name}: its gradient" in str(active)


def test_frozen_blocks_that_are_not_the_models_fall_back(plain, monkeypatch):
    """An upper stack one block short."""
    from alignbench.engine.fast import passes

    of = passes.stack_of
    monkeypatch.setattr(passes, "stack_of", lambda model, blocks, count: of(model, blocks, count - 1))
    with pytest.warns(UserWarning, match="kernel 'frozen_blocks' is not used"):
        active = install(plain("llama"), "fast", adapted=2).active
    assert "frozen_blocks" not in active.names


def test_what_is_active_is_named_and_without_leaves_a_kernel_out(plain, monkeypatch):
    monkeypatch.setattr(products, "WORTH_PREPACKING", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        every = install(plain("llama"), "fast", adapted=1).active
        assert every == Active(False, tuple(KERNELS))
        assert str(every) == "fast: " + ", ".join(KERNELS)
        for name in KERNELS:
            names = install(plain("llama"), "fast", adapted=1, without=[name]).active.names
            assert set(names) == KERNELS.keys() - ({name, "sampling"} if name == "packing" else {name})


def test_plain_is_the_librarys_own_modules_to_the_class(plain):
    model, untouched = plain("llama"), plain("llama")
    passes, active = install(model, "plain")
    assert (type(passes), str(active)) == (Passes, "plain")
    assert [type(m) for m in model.modules()] == [type(m) for m in untouched.modules()]


def test_an_unknown_kernel_is_an_error(plain):
    for kernels, without in (("quick", []), ("fast", ["norm"])):
        with pytest.raises(ValueError, match="kernels are 'fast' or 'plain', without some of packing, "):
            install(plain("llama"), kernels, without=without)
