"""The one optimisation step: accumulation, masters, schedule, and AdamW's arithmetic by hand."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from alignbench.api import OptimizerConfig
from alignbench.engine.optim import Optimizer, checked
from alignbench.engine.supervised import supervised_loss, supervised_step

PROMPTS = ["the film is", "a", "", "the plot of the long film", "the", "a bad", "one and", "the dull film"]
COMPLETIONS = [" good", " dull long plot, and a bad one", " a", "", " film is a good one", " one", " a", " is bad"]


class Recording(Optimizer):
    """Keeps the gradient each step was taken with."""

    def step(self) -> float:
        self.seen = [p.grad.clone() for p in self.trained]
        return super().step()


def walk(config, max_steps, steps):
    """Where a weight under the constant gradient 1 goes: AdamW then moves it by exactly the learning rate."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = Optimizer([([weight], config.learning_rate)], config, max_steps)
    places = [float(weight)]
    for _ in range(steps):
        optimizer.backward(weight.sum())
        optimizer.step()
        places.append(float(weight))
    return [before - after for before, after in pairwise(places)]


def test_the_linear_schedule_starts_at_the_peak_and_is_zero_after_the_last_step():
    config = OptimizerConfig(learning_rate=0.1, lr_scheduler_type="linear")
    assert walk(config, 4, 5) == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0], abs=1e-6)


def test_the_constant_schedule_stays():
    config = OptimizerConfig(learning_rate=0.1, lr_scheduler_type="constant")
    assert walk(config, 2, 3) == pytest.approx([0.1] * 3, abs=1e-6)


def test_warm_up_climbs_in_equal_steps_to_the_peak():
    config = OptimizerConfig(learning_rate=0.3, lr_scheduler_type="linear", warmup_steps=2)
    assert walk(config, 4, 5) == pytest.approx([0.1, 0.2, 0.3, 0.15, 0.0], abs=1e-6)


def test_bfloat16_weights_take_updates_below_their_own_resolution():
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    config = OptimizerConfig(learning_rate=1e-4, lr_scheduler_type="constant")
    assert float(weight[0] - 1e-4) == 1.0  # one update alone is lost in bfloat16
    optimizer = Optimizer([([weight], 1e-4)], config, 100)
    for _ in range(100):
        optimizer.backward(weight.sum())
        optimizer.step()
    assert weight.dtype == torch.bfloat16
    assert weight.tolist() == [float(torch.tensor(0.99).bfloat16())] * 3


def test_each_group_has_its_own_rate():
    slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    config = OptimizerConfig(learning_rate=1.0, lr_scheduler_type="constant")
    optimizer = Optimizer([([slow], 0.01), ([fast], 0.1)], config, 3)
    optimizer.backward(slow.sum() + fast.sum())
    optimizer.step()
    assert [float(slow), float(fast)] == pytest.approx([-0.01, -0.1], abs=1e-6)


def test_the_norm_is_reported_before_clipping_and_the_gradient_is_gone_after():
    weight = nn.Parameter(torch.zeros(2))
    optimizer = Optimizer([([weight], 0.1)], OptimizerConfig(max_grad_norm=1.0), 2)
    optimizer.backward(weight @ torch.tensor([3.0, 4.0]))
    assert optimizer.step() == pytest.approx(5.0)
    assert weight.grad is None
    assert optimizer.steps == 1


def test_clipping_bounds_what_a_wild_step_leaves_in_the_moments():
    def after(wild):
        weight = nn.Parameter(torch.zeros(1))
        optimizer = Optimizer([([weight], 0.1)], OptimizerConfig(max_grad_norm=1.0, lr_scheduler_type="constant"), 9)
        for scale in (wild, 1.0):
            optimizer.backward(scale * weight.sum())
            optimizer.step()
        return float(weight)

    assert after(1e6) == pytest.approx(after(1.0), abs=1e-6)  # without clipping the second step is far smaller


def test_a_gradient_that_is_not_finite_stops_the_run():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = Optimizer([([weight], 0.1)], OptimizerConfig(), 2)
    optimizer.backward((weight - 0).sqrt().sum())  # d sqrt(x) / dx at 0
    with pytest.raises(RuntimeError, match="non-finite"):
        optimizer.step()
    assert float(weight) == 0.0


@pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf")])
def test_a_loss_that_is_not_finite_is_an_error_that_names_the_metrics(value, shown):
    with pytest.raises(FloatingPointError, match=f"the loss is {shown}; reward=1.5, kl_nats=12.35"):
        checked(torch.tensor(value), {"reward": 1.5, "kl_nats": 12.3456})
    with pytest.raises(FloatingPointError, match="no metrics logged"):
        checked(torch.tensor(value), {})
    assert checked(torch.tensor(0.25, requires_grad=True), {}) == 0.25


# ------------------------------------------------------------------------------------------------ accumulation


@pytest.fixture
def gradient(resident, shake):
    """`gradient(name, size)`: the loss and the gradient of one supervised step over 8 texts, `size` at a time."""

    def make(name, size):
        made = resident(name)
        weights = made.add_adapter("sft", 0)
        shake(weights)
        optimizer = Recording([(weights, 1e-3)], OptimizerConfig(), 4)
        batches = [
            made.codec.encode(PROMPTS[i : i + size], COMPLETIONS[i : i + size], max_new_tokens=12)
            for i in range(0, 8, size)
        ]
        loss = supervised_step(made, batches, optimizer)
        return loss, torch.cat([g.flatten() for g in optimizer.seen]), made, batches

    return make


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_one_batch_of_eight_and_eight_batches_of_one_give_the_same_step(gradient, name):
    loss, whole, made, _ = gradient(name, 8)
    for size in (1, 2):
        other_loss, other, _, parts = gradient(name, size)
        assert other_loss == pytest.approx(loss, abs=1e-6)
        torch.testing.assert_close(other, whole, atol=1e-6, rtol=1e-4)
    # the planted bug, a mean of the batches' own means, is another gradient
    means = torch.stack([supervised_loss(made, part) / part.is_response.sum() for part in parts]).mean()
    assert abs(float(means) - loss) > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_loss_is_that_of_transformers_with_prompt_and_padding_ignored(plain, resident, name):
    made = resident(name)
    made.add_adapter("sft", 0)
    batch = made.codec.encode(PROMPTS, COMPLETIONS, max_new_tokens=12)
    theirs = plain(name)(
        input_ids=batch.ids,
        attention_mask=batch.is_token.long(),
        labels=batch.ids.masked_fill(~batch.is_response, -100),
    ).loss
    assert float(supervised_loss(made, batch) / batch.is_response.sum()) == pytest.approx(float(theirs), abs=1e-5)


def test_only_the_states_before_response_tokens_get_a_gradient_from_the_head(resident):
    made = resident("llama", without=["packing"])  # a padded batch, so that states and tokens share their places
    made.add_adapter("sft", 0)
    batch = made.codec.encode(PROMPTS, COMPLETIONS, max_new_tokens=12)
    seen = []
    made.base.base_model.register_forward_hook(lambda module, args, out: seen.append(out.last_hidden_state))
    loss = supervised_loss(made, batch)
    has_gradient = torch.autograd.grad(loss, seen[0])[0].abs().sum(-1) > 0
    assert torch.equal(has_gradient[:, :-1], batch.is_response[:, 1:])
    assert not has_gradient[:, -1].any()
