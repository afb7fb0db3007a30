"""A packed row gives a padded batch's numbers and gradients, without padding and with shared prompts run once."""

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconConfig, MistralConfig, PhimoeConfig

from alignbench.api import TokenBatch
from alignbench.engine.fast import install
from alignbench.engine.fast.packing import Layout
from alignbench.engine.tokens import stacked

EVERY_MODEL = ["llama", "gpt2", "granite", "gemma2"]
PROMPTS = ["the film is", "the film is", "", "a bad one", "the film is"]
COMPLETIONS = [" a good one", "", " the plot", " a dull long plot.", " bad"]


def batch_of(made):
    return made.codec.encode(PROMPTS, COMPLETIONS, max_new_tokens=12)


def test_a_row_holds_every_token_once_and_a_shared_prompt_once(resident):
    made = resident("llama")
    batch = batch_of(made)
    layout = Layout(batch)
    shared = len(made.codec.prompt(PROMPTS[0]))
    assert layout.ids.shape[1] == int(batch.is_token.sum()) - 2 * shared
    assert torch.equal(layout.ids[0, layout.place][batch.is_token], batch.ids[batch.is_token])
    ranks = (batch.is_token.cumsum(-1) - 1)[batch.is_token]
    assert torch.equal(layout.positions[0, layout.place][batch.is_token], ranks)
    assert layout.own == [0, shared, 0, 0, shared]


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_log_probabilities_and_gradients_are_those_of_the_padded_batch(resident, shake, name):
    made = resident(name)
    weights = made.add_adapter("policy", 0)
    shake(weights)
    batch, seen = batch_of(made), []
    assert made.passes.packs == (name != "gemma2")  # which caps its attention scores
    for packs in (made.passes.packs, False):
        made.passes.packs = packs
        logprobs = made.logprobs(batch)
        seen.append([logprobs, *torch.autograd.grad((logprobs * logprobs.detach()).sum(), weights)])
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_padding_on_the_left_and_wider_padding_give_the_same_row(resident, name):
    made = resident(name)
    batch = batch_of(made)
    wide = stacked(batch, TokenBatch(*(torch.zeros(0, batch.ids.shape[1] + 5).to(t.dtype) for t in batch)))
    count = batch.is_token.sum(-1)
    left = TokenBatch(*(torch.stack([row.roll(-int(n)) for row, n in zip(t, count, strict=True)]) for t in batch))
    rows = [Layout(b) for b in (batch, wide, left)]
    assert all(torch.equal(r.ids, rows[0].ids) and torch.equal(r.positions, rows[0].positions) for r in rows)
    with torch.no_grad():
        states = [made.passes.states(b, 3).at(b.is_token) for b in (batch, wide, left)]
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_a_window_hides_what_lies_further_back(resident):
    """Against a mask written by rank: a token sees itself and the two before it."""
    batch = batch_of(resident("llama"))
    layout = Layout(batch)
    is_seen = layout.bias(3, torch.float32, 1, 1) == 0
    for row, (own, length) in enumerate(zip(layout.own, layout.lengths, strict=True)):
        for query, rank in enumerate(range(own, length)):
            assert is_seen[row, query].nonzero().flatten().tolist() == list(range(max(0, rank - 2), rank + 1))


def active(model):
    return install(model, "fast").active.names


def test_a_model_with_more_in_its_attention_runs_padded(plain):
    assert "packing" not in active(plain("gemma2"))
    assert "packing" in active(plain("llama"))


def tiny(config):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


SMALL = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "initializer_range": 0.3,
}  # fmt: skip


def test_a_window_the_attention_is_told_of_is_kept_and_one_in_the_mask_alone_is_not_packed():
    batch = TokenBatch(torch.arange(24)[None] + 3, torch.ones(1, 24).bool(), torch.ones(1, 24).bool())
    told = install(tiny(MistralConfig(**SMALL, sliding_window=5)), "fast").passes
    assert told.packs
    with torch.no_grad():
        states = []
        for told.packs in (True, False):
            states.append(told.states(batch, 2).at(batch.is_token))
    torch.testing.assert_close(*states, atol=1e-5, rtol=1e-4)
    assert "packing" not in active(tiny(PhimoeConfig(**SMALL, sliding_window=8, num_local_experts=2)))


def test_a_model_whose_code_cannot_take_a_row_loads_and_runs_padded():
    config = FalconConfig(
        vocab_size=40, hidden_size=32, num_attention_heads=4, num_hidden_layers=2, alibi=True,
        new_decoder_architecture=False,
    )  # fmt: skip
    assert "packing" not in active(tiny(config))


def test_the_second_pass_over_a_kept_prompt_computes_nothing_below_the_adapters(resident, shake):
    made = resident("llama", layers=1)
    shake(made.add_adapter("policy", 0))
    batch, passed = batch_of(made), []
    made.passes.blocks[0].register_forward_hook(lambda *args: passed.append(1))
    with torch.no_grad():
        first = made.logprobs(batch)
        assert (len(passed), torch.equal(made.logprobs(batch), first), len(passed)) == (1, True, 1)
