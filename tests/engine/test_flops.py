"""Operations counted from a block's shapes, held against torch's counter of every product, and against sums by hand."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, mm_flop, sdpa_backward_flop_count, sdpa_flop_count

from alignbench.api import Rubric, SourceRoom
from alignbench.engine import tally
from alignbench.engine.flops import Cost, Layer, cost_of
from alignbench.engine.meter import Meter
from alignbench.engine.resident import Resident
from alignbench.engine.sampling import sample_texts
from alignbench.feedback.judge import Judge
from alignbench.feedback.reward_model import RewardModel
from alignbench.store import store_home
from alignbench.suite.spec import Lora

PROMPTS = ["the film", "a good one:", "the film", "a dull long plot"]
TEXTS = [" is a good one, long", " is bad", " is a dull one", " of a film"]
CLOSE = 0.01  # a head of one output, rotations: torch's counter sees products that are not counted here
MODELS = ("llama", "gpt2", "gemma2")


def counted(work: Callable[[], object]) -> tuple[int, int]:
    """Ours, and torch's with the products it has no formula for: in place, and those of CPU kernels."""
    aten, mkldnn = torch.ops.aten, torch.ops.mkldnn

    def linear(x, weight, *args, out_shape=None, **kwargs):  # type: ignore[no-untyped-def]
        return 2 * out_shape.numel() * x[-1]

    def addmm(out, a, b, *args, **kwargs):  # type: ignore[no-untyped-def]
        return mm_flop(a, b)

    def attention(q, k, v, *args, **kwargs):  # type: ignore[no-untyped-def]
        return sdpa_flop_count(q, k, v)

    def attention_back(grad, q, k, v, *args, **kwargs):  # type: ignore[no-untyped-def]
        return sdpa_backward_flop_count(grad, q, k, v)

    mapping = {
        mkldnn._linear_pointwise: linear, aten.addmm_: addmm,
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_back,
    }  # fmt: skip
    before = tally.done()
    with FlopCounterMode(display=False, custom_mapping=mapping) as theirs:
        work()
    return tally.done() - before, theirs.get_total_flops()


def agrees(work: Callable[[], object]) -> None:
    ours, theirs = counted(work)
    assert theirs > 0
    assert ours == pytest.approx(theirs, rel=CLOSE)


@pytest.fixture(params=["fast", "plain"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def batch(made: Resident):  # type: ignore[no-untyped-def]
    return made.codec.encode(PROMPTS, TEXTS, max_new_tokens=16)


def train(made: Resident, temperature: float = 1.0) -> None:
    """A pass with gradient and one of the reference without, as DPO has them."""
    tokens = batch(made)
    ours = made.logprobs(tokens, temperature).sum(-1)
    with torch.no_grad(), made.using(None):
        theirs = made.logprobs(tokens, temperature).sum(-1)
    (ours - theirs).mean().backward()


@pytest.mark.parametrize("layers", [None, 1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_there_and_back(resident, name: str, layers: int | None, way: str) -> None:
    made = resident(name, kernels=way, layers=layers)
    made.add_adapter("policy", 0)
    agrees(lambda: train(made))
    agrees(lambda: train(made))  # frozen states are kept now


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["o_proj"], ["down_proj"], ["gate_proj", "k_proj"]])
def test_adapters_on_some_layers(resident, targets: list[str], way: str) -> None:
    made = resident("llama", kernels=way, layers=2, target_modules=targets)
    made.add_adapter("policy", 0)
    agrees(lambda: train(made))


def test_an_actor_and_a_critic(resident, way: str) -> None:
    made = resident("llama", kernels=way, layers=2)
    policy, critic = made.add_adapter("policy", 0), made.add_adapter("critic", 1)
    made.activate("policy")
    tokens = batch(made)

    def both() -> None:
        logprobs, entropies, _ = made.logprobs_and_entropies(tokens)
        with made.using("critic"):
            values = made.states_before(tokens).sum()
        for weight in (*policy, *critic):
            weight.requires_grad_(True)
        (logprobs.sum() + entropies.sum()).backward()
        values.backward()

    agrees(both)


def test_a_loss_that_is_never_pulled_back_costs_its_way_there_alone(resident) -> None:
    made = resident("llama")
    made.add_adapter("policy", 0)
    tokens = batch(made)
    with torch.no_grad():
        there, _ = counted(lambda: made.hidden(tokens))
    assert counted(lambda: made.hidden(tokens))[0] == there


@pytest.mark.parametrize("new_tokens", [4, 20])  # the longer ones from merged weights
@pytest.mark.parametrize("name", MODELS)
def test_a_sample_as_it_grows(resident, shake, name: str, new_tokens: int, way: str) -> None:
    made = resident(name, kernels=way, layers=2)
    shake(made.add_adapter("policy", 0))

    def grow() -> None:
        with made.using("policy"):
            sample_texts(made, PROMPTS, new_tokens, 1.0, torch.Generator().manual_seed(0))

    agrees(grow)


def test_a_reward_model_reads(resident, way: str) -> None:
    made = resident("llama", kernels=way, layers=2)
    reward = RewardModel.fresh(made, "mean", 16, seed=0, layers=1)
    agrees(lambda: reward.score(PROMPTS, TEXTS))


def test_a_judge_reads(resident, way: str) -> None:
    made = resident("llama", kernels=way)
    judge = Judge(Judge.Config())
    judge.prepare(SourceRoom(Rubric("Is the film good?", "Review", "Sentiment", "Positive", "Negative"), made, None, 0))
    agrees(lambda: judge.score(PROMPTS, TEXTS))


def test_a_pass_that_ends_early_costs_the_blocks_it_went_through(resident, way: str) -> None:
    made = resident("llama", kernels=way)
    tokens = batch(made)
    one, _ = counted(lambda: made.block_states(tokens, [0]))
    assert counted(lambda: made.block_states(tokens, [0, 1]))[0] == 2 * one
    agrees(lambda: made.block_states(tokens, [1]))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_librarys_own_loop_is_counted(resident, attention: str) -> None:
    """A trainer that a method brings calls the model itself; fused attention hands blocks no mask."""
    made = resident("llama", kernels="plain")
    made.add_adapter("policy", 0)
    made.base.config._attn_implementation = attention
    ids = torch.arange(24).view(2, 12)
    agrees(lambda: made.module(input_ids=ids, labels=ids).loss.backward())
    agrees(lambda: made.module.generate(input_ids=ids, max_new_tokens=6, do_sample=False))


def test_smollm2(way: str) -> None:
    folder = store_home() / "assets" / "smollm2-135m"
    if not folder.is_dir():
        pytest.skip("not fetched")
    made = Resident(folder, [], Lora(r=16, alpha=32, layers=10), torch.device("cpu"), torch.float32, kernels=way)
    made.add_adapter("policy", 0)
    agrees(lambda: train(made))


# -------------------------------------------------------------------------------------------------------------- by hand

SQUARE = [Layer(8, 8, 0, True), Layer(8, 8, 0, False)]


def test_a_block_without_adapters_costs_two_a_weight_and_token() -> None:
    assert cost_of(SQUARE, 8, is_trained=False, has_input_gradient=False) == Cost(2 * 128, 0, 4 * 8, 0)


def test_a_gradient_that_passes_through_costs_as_much_again() -> None:
    assert cost_of(SQUARE, 8, is_trained=False, has_input_gradient=True) == Cost(256, 256, 32, 64)


def test_the_lowest_adapter_takes_its_factors_gradients_and_no_inputs() -> None:
    """Of x (8), A (8 to 1), B (1 to 8): dB 16, d(A x) 16, dA 16; the layer above pulls 128 through W and A's image."""
    layers = [Layer(8, 8, 1, True), Layer(8, 8, 1, False)]
    forward = 2 * (128 + 2 * 16)
    lowest, above = 3 * 16, 3 * 16 + 128 + 16
    assert cost_of(layers, 8, is_trained=True, has_input_gradient=False) == Cost(forward, lowest + above, 32, 64)


def test_a_toys_pass_by_hand(resident) -> None:
    """Llama's three blocks of hidden size 32: q, o 32 x 32, k, v 32 x 16, three of 32 x 64; 4 heads of size 8. One row
    of T tokens, without adapter; no vocabulary meets a state that nobody projects."""
    made = resident("llama")
    tokens = made.codec.encode(["the film"], [" is good"], max_new_tokens=8)
    length = int(tokens.is_token.sum())
    block = 2 * length * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 4 * length**2 * 4 * 8
    assert counted(lambda: made.hidden(tokens))[0] == 3 * block


# ------------------------------------------------------------------------------------------------------------- in use


def test_a_meter_counts_what_is_its_own_and_goes_on_where_another_was() -> None:
    meter = Meter(torch.device("cpu"))
    tally.add(5)
    with meter.unbilled():
        tally.add(100)
    meter.mark("half")
    tally.add(2)
    assert (meter.marks["half"]["flops"], meter.reading()["flops"]) == (5, 7)
    state, later = meter.state(), Meter(torch.device("cpu"))
    tally.add(9)  # getting ready, which the first had counted
    later.resume(state)
    tally.add(1)
    assert later.reading()["flops"] == 8


def test_kernels_that_are_tried_cost_nobody(resident, way: str) -> None:
    before = tally.done()
    resident("llama", kernels=way, layers=2)
    assert tally.done() == before


def test_an_adapter_dropped_is_an_adapter_not_counted(resident) -> None:
    made = resident("llama")
    tokens = batch(made)
    bare, _ = counted(lambda: made.hidden(tokens))
    made.add_adapter("policy", 0)
    with torch.no_grad():
        adapted, _ = counted(lambda: made.hidden(tokens))
    made.drop_adapters()
    assert counted(lambda: made.hidden(tokens))[0] == bare < adapted


def test_a_resident_that_is_let_go_is_freed_at_once(tiny_models: dict[str, Path]) -> None:
    made = Resident(tiny_models["llama"], [], Lora(r=4, alpha=8), torch.device("cpu"), torch.float32)
    made.add_adapter("policy", 0)
    train(made)
    made.drop_adapters()
    block = weakref.ref(made.passes.blocks[0])
    gc.collect()
    gc.disable()
    try:
        del made
        assert block() is None
    finally:
        gc.enable()
