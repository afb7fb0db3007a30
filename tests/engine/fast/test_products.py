"""Prepacked products against float64 and the plain ones: alone, in a layer, in a model; and where plain ones run."""

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from alignbench.engine.fast.lora import merged
from alignbench.engine.fast.products import (
    CLASSES,
    LINEAR_LAYERS,
    WORTH_PREPACKING,
    Plain,
    Prepacked,
    can_prepack,
    plain_of,
    prepack,
    prepacked_of,
    product_of,
    unpack,
    why_not,
)
from alignbench.engine.sampling import sample

CPU = torch.device("cpu")
EVERY_MODEL = ["llama", "gpt2", "granite", "gemma2"]
PROMPTS, COMPLETIONS = ["the film is", "a", "the film is"], [" a good one", " bad", ""]
LAYERS = {
    "linear": lambda: nn.Linear(48, 80),
    "linear_without_bias": lambda: nn.Linear(48, 80, bias=False),
    "conv1d": lambda: Conv1D(80, 48),
}
close = {torch.float32: {"atol": 1e-5, "rtol": 1e-5}, torch.bfloat16: {"atol": 1e-2, "rtol": 2e-2}}


def skip_unless_prepackable(dtype):
    if not can_prepack(CPU, dtype):
        pytest.skip(f"no prepacked product of {dtype} on this machine")


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request):
    skip_unless_prepackable(request.param)
    return request.param


@pytest.fixture
def single():
    skip_unless_prepackable(torch.float32)


def randn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def layer_of(dtype):
    """`layer_of(kind)`: a frozen layer of random weights."""

    def make(kind):
        layer = LAYERS[kind]()
        for seed, p in enumerate(layer.parameters()):
            p.data = randn(*p.shape, seed=seed)
        return layer.to(dtype).requires_grad_(False)

    return make


def linear_layers(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear | Conv1D)]


# ------------------------------------------------------------------------------------------------ products


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_a_product_and_its_pull_are_those_of_float64(dtype, rows, has_bias):
    x, grad, weight, bias = (randn(*size).to(dtype) for size in ((rows, 48), (rows, 80), (80, 48), (80,)))
    plain = Plain(weight, bias if has_bias else None)
    expected = x.double() @ weight.double().T + (bias.double() if has_bias else 0)
    for product in (Prepacked(plain), plain):
        assert product(x).dtype == product.pull(grad).dtype == dtype
        for _ in range(2):  # the second pull finds its layout made
            torch.testing.assert_close(product(x).double(), expected, **close[dtype])
            torch.testing.assert_close(product.pull(grad).double(), grad.double() @ weight.double(), **close[dtype])


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_gives_the_same_output_and_input_gradient(layer_of, dtype, kind):
    layer, x, weights = layer_of(kind), randn(2, 5, 48).to(dtype).requires_grad_(), randn(2, 5, 80, seed=1)
    seen = []
    for pack in (unpack, lambda layer: prepack(layer, least=0)):
        pack(layer)
        out = layer(x)
        with torch.no_grad():
            assert torch.equal(layer(x), out)
        seen.append((out, torch.autograd.grad((out * weights).sum(), x)[0]))
    assert type(layer) is CLASSES[type(LAYERS[kind]())]
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs, **close[dtype])


@pytest.mark.parametrize("kind", LAYERS)
def test_no_rows_in_give_no_rows_out(layer_of, dtype, kind):
    layer = layer_of(kind)
    prepack(layer, least=0)
    assert layer(torch.empty(2, 0, 48, dtype=dtype)).shape == (2, 0, 80)


@pytest.mark.parametrize("kind", LAYERS)
def test_unpacking_restores_the_class_and_every_bit(layer_of, dtype, kind):
    layer, x = layer_of(kind), randn(3, 48).to(dtype)
    before, attributes = layer(x), set(vars(layer))
    prepack(layer, least=0)
    assert product_of(layer) is layer.prepacked
    unpack(layer)
    assert type(layer) is type(LAYERS[kind]())
    assert set(vars(layer)) == attributes
    assert isinstance(product_of(layer), Plain)
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_trainer_under_autocast_gets_the_layers_own_forward(layer_of, kind):
    skip_unless_prepackable(torch.float32)
    layer, x = layer_of(kind).float(), randn(3, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = layer(x)
        prepack(layer, least=0)
        assert prepacked_of(layer) is not None
        assert torch.equal(layer(x), expected)
    assert expected.dtype == torch.bfloat16
    assert layer(x).dtype == torch.float32


# ------------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_a_models_logits_and_gradients_are_those_of_the_unpacked(single, plain, name):
    seen = []
    for is_packed in (True, False):
        model = plain(name)
        if is_packed:
            prepack(model, least=0)
        assert all((prepacked_of(layer) is not None) == is_packed for layer in linear_layers(model))
        embeds = randn(2, 7, 32).requires_grad_()
        logits = model(inputs_embeds=embeds).logits
        seen.append((logits, torch.autograd.grad(logits.square().sum(), embeds)[0] / logits.numel()))
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.fixture
def adapted(resident, shake):
    """`adapted(name, is_packed)`: a resident under a randomised adapter, the adapter's weights, and a batch."""

    def make(name, is_packed=True):
        made = resident(name)
        if is_packed:
            prepack(made.base, least=0)
        weights = made.add_adapter("policy", 0)
        shake(weights)
        return made, weights, made.codec.encode(PROMPTS, COMPLETIONS, max_new_tokens=12)

    return make


def numbers(made, weights, batch):
    """Log-probabilities, entropies, and the gradient of both."""
    logprobs, entropies, _ = made.logprobs_and_entropies(batch, 0.7)
    return [logprobs, entropies, *torch.autograd.grad((logprobs + 0.3 * entropies).sum(), weights)]


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_an_adapters_numbers_and_gradients_are_those_on_the_unpacked_model(single, adapted, name):
    (made, *rest), plain = adapted(name), adapted(name, is_packed=False)
    layers = linear_layers(made.base)
    assert all(prepacked_of(m.base_layer) is not None for m in layers if hasattr(m, "base_layer"))
    for ours, theirs in zip(numbers(made, *rest), numbers(*plain), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    made.drop_adapters()
    plain[0].drop_adapters()
    with torch.no_grad():
        torch.testing.assert_close(made.logprobs(rest[-1]), plain[0].logprobs(rest[-1]), atol=1e-5, rtol=1e-5)


def test_under_autocast_an_adapter_trains_on_a_prepacked_model(single, adapted):
    seen = []
    for is_packed in (True, False):
        made, weights, batch = adapted("llama", is_packed)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen.append(numbers(made, weights, batch))
    torch.testing.assert_close(seen[0][0], seen[1][0], atol=0.1, rtol=0.02)
    for ours, theirs in zip(*seen, strict=True):
        assert float((ours - theirs).detach().norm() / theirs.detach().norm()) < 0.05


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_merged_weights_act_while_they_are_merged_and_the_old_ones_to_the_bit_after(single, adapted, name):
    seen = []
    for is_packed in (True, False):
        made, weights, batch = adapted(name, is_packed)
        heads = [made.codec.prompt(p) for p in PROMPTS]
        before = numbers(made, weights, batch)
        old = [prepacked_of(layer) for layer in linear_layers(made.base)]
        with made.merged(), torch.no_grad():
            tails = sample(made, heads, 8, 1.0, torch.Generator().manual_seed(3))
            seen.append((made.logprobs(batch), tails))
        assert all(a is b for a, b in zip(old, map(prepacked_of, linear_layers(made.base)), strict=True))
        for was, now in zip(before, numbers(made, weights, batch), strict=True):
            assert torch.equal(was, now)
    (ours, our_tails), (theirs, their_tails) = seen
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert our_tails == their_tails


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("is_packed", [True, False])
def test_a_gradient_pulled_while_weights_are_merged_is_of_the_weights_it_was_built_on(single, adapted, name, is_packed):
    """A product lays its weight out for the way back at its first pull, which here falls into the merged block."""
    expected = numbers(*adapted(name, is_packed=False))[2:]
    made, weights, batch = adapted(name, is_packed)
    logprobs, entropies, _ = made.logprobs_and_entropies(batch, 0.7)
    with merged(made.module, "policy"):
        late = torch.autograd.grad((logprobs + 0.3 * entropies).sum(), weights)
    for grads in (late, numbers(made, weights, batch)[2:]):
        for ours, theirs in zip(grads, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_first_pull_of_merged_weights_is_theirs_and_leaves_nothing_behind(single, adapted):
    made, _, _ = adapted("llama")
    layer = made.passes.blocks[0].mlp.up_proj.base_layer
    x, usual = randn(1, 32).requires_grad_(), layer.weight.detach().clone()
    with made.merged():
        lent = layer.weight.detach().clone()
        (inside,) = torch.autograd.grad(layer(x).sum(), x)
    (after,) = torch.autograd.grad(layer(x).sum(), x)
    assert not torch.allclose(lent, usual, atol=1e-2)
    torch.testing.assert_close(inside[0], lent.sum(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after[0], usual.sum(0), atol=1e-5, rtol=1e-5)


def test_a_plugin_that_merges_as_peft_does_gets_the_merged_weights(single, adapted):
    made, _, batch = adapted("llama")
    with torch.no_grad():
        before = made.logprobs(batch)
        with made.using(None):
            bare = made.logprobs(batch)
        made.module.merge_adapter()
        merged_in = made.logprobs(batch)
        made.module.unmerge_adapter()
        torch.testing.assert_close(merged_in, before, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(made.logprobs(batch), before, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, bare, atol=1e-3)


def test_a_layer_that_is_cast_or_trained_after_all_is_the_librarys_own(single):
    layer, x = nn.Linear(48, 80).requires_grad_(False), randn(3, 48)
    expected = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    prepack(layer, least=0)
    assert prepacked_of(layer) is not None
    assert layer.double()(x.double()).dtype == torch.float64
    torch.testing.assert_close(layer(x.double()), expected)
    layer.float().weight.requires_grad_(True)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(80, 48))


def test_a_prepacked_model_can_be_copied(single, adapted):
    made, _, _ = adapted("llama")
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        theirs = copy.deepcopy(made.module)(input_ids=ids).logits
        assert torch.equal(theirs, made.module(input_ids=ids).logits)


# ------------------------------------------------------------------------------------------------ plain ones run


def test_a_weight_is_prepacked_from_16384_numbers_on(single):
    model = nn.Sequential(nn.Linear(127, 128), nn.Linear(128, 128)).requires_grad_(False)
    prepack(model)
    assert [prepacked_of(layer) is not None for layer in model] == [False, True]
    assert model[1].weight.numel() == WORTH_PREPACKING


@pytest.mark.parametrize("options", [{"device": "meta"}, {"dtype": torch.float64}])
def test_other_devices_and_dtypes_stay_plain(options):
    layer = nn.Linear(200, 200, **options)
    prepack(layer)
    assert type(layer) is nn.Linear


def test_a_gpu_is_not_even_asked():
    assert not can_prepack(torch.device("cuda"), torch.bfloat16)


def test_a_layer_that_is_more_than_linear_stays_itself():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    layer = Doubled(8, 8)
    prepack(layer, least=0)
    assert type(layer) is Doubled
    assert Doubled not in LINEAR_LAYERS


@pytest.fixture
def unprobed():
    """The probe's answer is forgotten before and after."""
    why_not.cache_clear()
    yield
    why_not.cache_clear()


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
@pytest.mark.parametrize("call", ["_reorder_linear_weight", "_linear_pointwise"])
def test_a_machine_without_the_call_runs_plain(unprobed, monkeypatch, call, error):
    def missing(*args):
        raise error(call)

    monkeypatch.setattr(torch.ops.mkldnn, call, missing)
    layer = nn.Linear(200, 200)
    prepack(layer)
    assert type(layer) is nn.Linear
    assert product_of(layer)(randn(3, 200)).shape == (3, 200)


@pytest.mark.parametrize("error", [1e-2, float("nan")])
def test_a_machine_whose_call_ends_elsewhere_runs_plain(unprobed, monkeypatch, error):
    def off(x, blocks, bias, *rest):
        return x.new_full((len(x), 160 if bias is not None else 96), error)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda weight: weight)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", off)
    assert not can_prepack(CPU, torch.float32)


def test_a_call_that_ends_where_the_plain_product_does_is_used(unprobed, monkeypatch):
    """The probe above fails by what the call gives, not by being replaced."""
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda weight: weight)
    monkeypatch.setattr(
        torch.ops.mkldnn, "_linear_pointwise", lambda x, w, bias, *rest: nn.functional.linear(x, w, bias)
    )
    assert can_prepack(CPU, torch.float64)


def test_the_probe_draws_nothing_from_the_global_generator(unprobed):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    can_prepack(CPU, torch.float32)
    assert torch.equal(torch.get_rng_state(), before)


def test_conv1d_keeps_its_weight_the_other_way_round():
    layer = Conv1D(80, 48)
    assert plain_of(layer).weight.shape == (80, 48)
    torch.testing.assert_close(plain_of(layer)(randn(3, 48)), layer(randn(3, 48)))
