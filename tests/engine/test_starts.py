"""A supervised start may be of another size than the policies trained on it."""

import pytest
import torch


def encoded(resident):
    prompts, completions = ["the film is", "a", ""], [" good", " dull long plot, and a bad one", " a"]
    return resident.codec.encode(prompts, completions, max_new_tokens=12)


@pytest.mark.parametrize("name", ["gpt2", "llama", "granite", "gemma2"])
@pytest.mark.parametrize(("start", "policy"), [(None, 1), (2, 1), (1, None)])
def test_a_start_may_be_on_other_layers_than_the_policies_on_it(resident, shake, tmp_path, name, start, policy):
    """The start alone is the measure: a merge that drops a layer of it gives other outputs."""
    alone = resident(name)
    shake(alone.add_adapter("sft", 0, start))
    alone.save_adapter("sft", tmp_path)
    with torch.no_grad():
        logprobs, bare = alone.logprobs(encoded(alone)), resident(name).logprobs(encoded(alone))
    assert not torch.allclose(logprobs, bare, atol=1e-2)
    merged = resident(name, starts=[tmp_path], layers=policy)
    with torch.no_grad():
        torch.testing.assert_close(merged.logprobs(encoded(merged)), logprobs, atol=1e-5, rtol=1e-5)
        shake(merged.add_adapter("policy", 0))
        with merged.using(None):
            torch.testing.assert_close(merged.logprobs(encoded(merged)), logprobs, atol=1e-5, rtol=1e-5)
    adapted = {n.split(".lora_")[0] for n, p in merged.module.named_parameters() if "lora_A" in n}
    assert len(adapted) == sum(len(block) for block in merged._targets[-(policy or 0) :])
