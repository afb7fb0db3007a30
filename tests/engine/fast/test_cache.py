"""A sample through the roomy cache, grouped attention and merged weights is the one that transformers and PEFT draw."""

import pytest
import torch

from alignbench.engine.fast.cache import RoomyCache
from alignbench.engine.sampling import WORTH_MERGING, sample

PROMPTS = ["the film is", "a", "the plot of the long film", "", "a bad one and"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["gpt2", "llama", "granite"])
def test_the_roomy_cache_and_grouped_attention_sample_what_transformers_own_do(resident, name):
    made, seen = resident(name), []
    prompts = [made.codec.prompt(p) for p in PROMPTS * 4]
    sampled = [token for answer in sample(made, prompts, 24, 1.0, generator()) for token in answer]
    made.codec.eos = max(set(sampled), key=sampled.count)  # the commonest token ends a row, so that many leave
    has_room = made.passes.makes_room
    for made.passes.makes_room in (has_room, False):
        seen.append(sample(made, prompts, 24, 1.0, generator()))
    assert seen[0] == seen[1]
    assert len({len(answer) for answer in seen[0]}) > 4


def test_room_is_made_where_every_layer_keeps_all_it_has_seen(resident):
    def is_roomy(made, prompts):
        return type(made.passes.start(made.codec.padded(prompts, [[]] * len(prompts)), 1).cache) is RoomyCache

    with torch.no_grad():
        assert is_roomy(resident("llama"), [[1, 2], [3]])
        assert not is_roomy(resident("gemma2"), [[1, 2], [3]])  # slides
        assert not is_roomy(resident("granite"), [[1, 2], [3]])  # scales its logits
        assert not is_roomy(resident("llama"), [[1] * 600])


def test_equal_prompts_pass_once(resident):
    made, seen = resident("llama"), []
    made.base.base_model.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    prompts = [made.codec.prompt(p) for p in ("the film is", "the film is", "a", "the film is")]
    sample(made, prompts, 1, 1.0, generator())
    assert seen == [(1, len(prompts[0]) + len(prompts[2]) + 2)]  # and each copy's last token, which asks for the next


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_a_merged_adapter_samples_the_same_and_leaves_every_bit_of_the_weights(resident, shake, name):
    made, seen = resident(name), []
    shake(made.add_adapter("policy", 0), scale=0.3)
    prompts = [made.codec.prompt(p) for p in PROMPTS * 3]
    before = {n: p.detach().clone() for n, p in made.module.named_parameters()}
    with torch.no_grad():
        logprobs = made.logprobs(made.codec.encode(PROMPTS, PROMPTS, max_new_tokens=9))
    for made.passes.merges in (True, False):
        seen.append(sample(made, prompts, WORTH_MERGING, 1.0, generator()))
    assert seen[0] == seen[1]
    with made.using(None):
        assert sample(made, prompts, WORTH_MERGING, 1.0, generator()) != seen[0]
    assert all(torch.equal(p, before[n]) for n, p in made.module.named_parameters())
    with torch.no_grad():
        assert torch.equal(made.logprobs(made.codec.encode(PROMPTS, PROMPTS, max_new_tokens=9)), logprobs)


def test_weights_are_put_back_where_a_sample_fails(resident, shake):
    made = resident("llama")
    shake(made.add_adapter("policy", 0))
    before = {n: p.detach().clone() for n, p in made.module.named_parameters()}
    with pytest.raises(ZeroDivisionError), made.merged():
        1 / 0  # noqa: B018
    assert all(torch.equal(p, before[n]) for n, p in made.module.named_parameters())
    assert not made._is_off
