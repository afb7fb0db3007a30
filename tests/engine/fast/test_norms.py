"""The short backward pass of RMS norms against the library's own and the formula in float64; and which norms get it."""

import pytest
import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from alignbench.engine.fast.norms import lengthen, shorten

SIZE, EPS = 48, 1e-5
PROMPTS, COMPLETIONS = ["the film is", "a", "the film is"], [" a good one", " bad", ""]


def randn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def frozen(kind=LlamaRMSNorm, dtype=torch.float32):
    norm = kind(SIZE, EPS)
    norm.weight.data = randn(SIZE, seed=1)
    return norm.to(dtype).requires_grad_(False)


def is_short(module):
    return type(module).__name__.startswith("Short")


def pulled(norm, x, grad):
    """Output, and gradient of the input for that of the output."""
    x = x.detach().requires_grad_()
    out = norm(x)
    return out.detach(), torch.autograd.grad(out, x, grad)[0]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])  # at the first, eps is a tenth of the mean square
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_the_librarys_to_the_bit_and_gradients_those_of_the_formula_in_float64(dtype, scale):
    norm, x, grad = frozen(dtype=dtype), (randn(2, 5, SIZE) * scale * 10).to(dtype), randn(2, 5, SIZE, seed=2).to(dtype)
    theirs, their_grad = pulled(norm, x, grad)
    shorten(norm)
    assert is_short(norm)
    ours, our_grad = pulled(norm, x, grad)
    assert torch.equal(ours, theirs)
    assert our_grad.dtype == dtype

    weight = norm.weight.double()
    _, exact = pulled(
        lambda x: weight * x / (x.square().mean(-1, keepdim=True) + EPS).sqrt(), x.double(), grad.double()
    )
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    for gradient in (our_grad, their_grad):
        assert float((gradient.double() - exact).norm() / exact.norm()) < tolerance
    torch.testing.assert_close(our_grad, their_grad, atol=tolerance * float(exact.abs().max()), rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_second_backward_pass_gives_the_same_gradient_and_the_input_is_not_touched(dtype):
    norm, x = frozen(dtype=dtype), randn(3, SIZE).to(dtype).requires_grad_()
    before = x.detach().clone()
    shorten(norm)
    total = norm(x).square().sum()
    first, second = (torch.autograd.grad(total, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["llama", "granite"])
def test_log_probabilities_and_adapter_gradients_are_those_of_the_long_norms(resident, shake, name):
    made = resident(name)
    weights = made.add_adapter("policy", 0)
    shake(weights)
    batch = made.codec.encode(PROMPTS, COMPLETIONS, max_new_tokens=12)
    norms = [m for m in made.base.modules() if type(m).__name__.endswith("RMSNorm")]
    assert len(norms) == 2 * len(made.passes.blocks) + 1
    seen = []
    for change, expected in ((shorten, True), (lengthen, False), (shorten, True)):
        if seen:  # a resident's are short from the start
            change(made.base)
        assert all(is_short(norm) == expected for norm in norms)
        logprobs = made.logprobs(batch)
        seen.append([logprobs, *torch.autograd.grad((logprobs * logprobs.detach()).sum(), weights)])
    for short, long, again in zip(*seen, strict=True):
        torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-4)
        assert torch.equal(short, again)


def test_lengthening_restores_the_librarys_class_and_shortening_twice_is_shortening_once():
    norm = frozen()
    shorten(norm)
    once = type(norm)
    shorten(norm)
    assert type(norm) is once
    lengthen(norm)
    assert type(norm) is LlamaRMSNorm


def saved_bytes(norm, x):
    """What autograd keeps of one pass; what two steps keep alike counts once."""
    sizes = {}

    def note(kept):
        sizes[kept.data_ptr()] = kept.numel() * kept.element_size()
        return kept

    with torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept):
        norm(x.detach().requires_grad_())
    return sum(sizes.values())


def test_only_the_input_the_weight_and_a_number_a_row_are_kept():
    norm, rows = frozen(dtype=torch.bfloat16), 64
    x = randn(rows, SIZE).bfloat16()
    long = saved_bytes(norm, x)
    shorten(norm)
    assert saved_bytes(norm, x) == 2 * rows * SIZE + 2 * SIZE + 4 * rows
    assert long > 1.9 * saved_bytes(norm, x)


def last_step(norm, x):
    return type(norm(x.detach().requires_grad_()).grad_fn).__name__


def test_a_trainer_under_autocast_gets_the_librarys_forward():
    norm, x = frozen(), randn(3, SIZE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs, their_grad = pulled(norm, x, torch.ones_like(x))
    shorten(norm)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, our_grad = pulled(norm, x, torch.ones_like(x))
        assert last_step(norm, x) != "_RmsNormBackward"
    assert torch.equal(ours, theirs)
    assert torch.equal(our_grad, their_grad)
    assert last_step(norm, x) == "_RmsNormBackward"


def test_an_input_of_another_dtype_gets_the_librarys_forward():
    norm, x = frozen(dtype=torch.bfloat16), randn(3, SIZE)
    expected = norm(x)
    shorten(norm)
    assert torch.equal(norm(x), expected)


# ------------------------------------------------------------------------------------------------ left alone


class PlusOneRMSNorm(LlamaRMSNorm):
    """Gemma's formula under Llama's attribute names."""

    def forward(self, x):
        return (1 + self.weight) * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


class CentredRMSNorm(LlamaRMSNorm):
    def forward(self, x):
        return super().forward(x - x.mean(-1, keepdim=True))


LEFT_ALONE = [Gemma2RMSNorm, PlusOneRMSNorm, CentredRMSNorm, nn.LayerNorm, nn.RMSNorm]


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_norms_of_another_formula_are_left_alone(kind):
    norm = frozen(kind)
    shorten(norm)
    assert type(norm) is kind


def test_a_norm_that_is_trained_is_left_alone_and_gets_its_gradient():
    norm = frozen().requires_grad_()
    shorten(norm)
    assert type(norm) is LlamaRMSNorm
    norm(randn(3, SIZE)).sum().backward()
    assert norm.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_models_without_plain_root_mean_square_norms_keep_their_own(resident, plain, name):
    ours, theirs = ([type(m) for m in model.modules() if "Norm" in type(m).__name__] for model in (
        resident(name).base, plain(name)))  # fmt: skip
    assert ours == theirs
    assert ours


def test_a_norm_that_is_trained_after_all_gets_its_gradient():
    norm, x = frozen(), randn(3, SIZE)
    shorten(norm)
    norm.weight.requires_grad_(True)
    norm(x).sum().backward()
    torch.testing.assert_close(norm.weight.grad, (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)).sum(0))
