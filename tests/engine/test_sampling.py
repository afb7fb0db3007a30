"""What is sampled is the model's own distribution: against the exact CDF, and step by step through transformers."""

import numpy as np
import pytest
import torch

from alignbench.engine.sampling import draw, next_logits, sample, sample_texts

MODELS = ["gpt2", "llama", "granite", "gemma2"]
PROMPTS = ["the film is", "a", "the plot of the long film", "", "a bad one and"]
BELOW_ONE = 1 - 2**-24  # the largest number torch.rand returns


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------------------ draw


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocabulary", [5, 256, 600])
def test_an_even_grid_of_uniforms_meets_every_token_in_its_exact_share(vocabulary, temperature):
    logits = torch.randn(vocabulary, generator=generator()) * 2
    points = 20_000
    uniforms = ((torch.arange(points, dtype=torch.float64) + 0.5) / points).float()
    ids = draw(logits.expand(points, -1), uniforms, temperature)
    shares = (logits.double() / temperature).softmax(-1)
    assert (torch.bincount(ids, minlength=vocabulary) - points * shares).abs().max() <= 1.02  # rounding at both edges
    assert (ids.diff() >= 0).all()


@pytest.mark.parametrize("uniform", [0.0, 1e-8, 0.5, BELOW_ONE])
@pytest.mark.parametrize("vocabulary", [3, 300, 1000])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_token_without_probability_is_never_drawn(vocabulary, uniform, where):
    only = {"first": 0, "middle": vocabulary // 2, "last": vocabulary - 1}[where]
    for nothing in (-torch.inf, -1e4):
        logits = torch.full((1, vocabulary), nothing)
        logits[0, only] = 3.0
        assert draw(logits, torch.tensor([uniform]), 1.0).tolist() == [only]


def test_tokens_masked_at_random_are_never_drawn():
    rows, vocabulary = 4000, 700
    logits = torch.randn(rows, vocabulary, generator=generator()) * 20
    logits[torch.rand(rows, vocabulary, generator=generator(1)) < 0.9] = -torch.inf
    logits[:, 3] = -20.0
    uniforms = torch.rand(rows, generator=generator(2))
    uniforms[:200], uniforms[200:400] = 0.0, BELOW_ONE
    ids = draw(logits, uniforms, 1.0)
    assert (logits.softmax(-1)[range(rows), ids] > 0).all()


def test_the_ends_of_the_unit_interval_are_the_first_and_the_last_token():
    logits = torch.zeros(2, 600)
    assert draw(logits, torch.tensor([0.0, BELOW_ONE]), 1.0).tolist() == [0, 599]


# ------------------------------------------------------------------------------------------------ sample


@pytest.mark.parametrize("name", MODELS)
def test_every_token_is_the_inverse_cdf_of_the_logits_transformers_gives(resident, plain, shake, tmp_path, name):
    from peft import PeftModel

    made = resident(name)
    shake(made.add_adapter("policy", 0))
    made.save_adapter("policy", tmp_path)
    policy = PeftModel.from_pretrained(plain(name), tmp_path).eval()
    heads = [made.codec.prompt(p) for p in PROMPTS]
    tails = sample(made, heads, 6, 0.7, generator(3))
    uniforms = torch.rand(len(heads), 6, generator=generator(3)).double().numpy()
    for head, tail, row in zip(heads, tails, uniforms, strict=True):
        for step, token in enumerate(tail):  # no cache, no padding, no batch
            with torch.no_grad():
                logits = policy(input_ids=torch.tensor([[*head, *tail[:step]]])).logits[0, -1]
            edges = np.cumsum((logits.double() / 0.7).softmax(-1).numpy())
            below = edges[token - 1] if token else 0.0
            assert below - 1e-5 <= row[step] <= edges[token] + 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_a_row_does_not_depend_on_the_rows_beside_it(resident, name):
    made = resident(name)
    heads = [made.codec.prompt(p) for p in PROMPTS]
    together = sample(made, heads, 8, 1.0, generator())
    one_by_one = generator()  # torch.rand fills row by row, so row i meets the same numbers
    assert [sample(made, [head], 8, 1.0, one_by_one)[0] for head in heads] == together


@pytest.mark.parametrize("name", MODELS)
def test_rows_that_end_early_leave_without_a_trace(resident, name):
    made = resident(name)
    heads = [made.codec.prompt(p) for p in PROMPTS * 6]
    made.codec.eos = -1  # nothing ends a row
    free = sample(made, heads, 24, 0.4, generator())
    ids = [t for tail in free for t in tail]
    made.codec.eos = max(set(ids), key=ids.count)  # let the commonest token end a row, so that many do
    together = sample(made, heads, 24, 0.4, generator())
    ended = sum(tail[-1] == made.codec.eos for tail in together)
    assert ended >= len(heads) / 4  # the batch was compacted
    cut = [tail[: tail.index(made.codec.eos) + 1] if made.codec.eos in tail else tail for tail in free]
    assert together == cut


def test_batches_of_prompts_draw_what_one_batch_draws(resident):
    made = resident("llama")
    whole = sample_texts(made, PROMPTS, 8, 1.0, generator())
    parts = sample_texts(made, PROMPTS, 8, 1.0, generator(), rows=2)
    assert parts.completions == whole.completions
    assert torch.equal(parts.tokens.ids, whole.tokens.ids)


def test_a_rollout_says_which_rows_ended_and_holds_eos_once(resident):
    made = resident("gpt2")  # padding is EOS here
    prompts = PROMPTS * 12
    rollout = sample_texts(made, prompts, 16, 1.5, generator())
    responses = [ids[is_on].tolist() for ids, _, is_on in zip(*rollout.tokens, strict=True)]
    assert 0 < rollout.is_ended.sum() < len(prompts)
    assert rollout.is_ended.tolist() == [r[-1] == made.codec.eos for r in responses]
    assert [r.count(made.codec.eos) for r in responses] == rollout.is_ended.long().tolist()
    assert all(len(r) == 16 for r, ended in zip(responses, rollout.is_ended, strict=True) if not ended)
    assert rollout.completions == [made.codec.text(r) for r in responses]
    assert not any("<|endoftext|>" in text for text in rollout.completions)
    assert rollout.prompts == prompts


# ------------------------------------------------------------------------------------------------ next_logits


@pytest.mark.parametrize("name", MODELS)
def test_logits_after_a_shared_prefix_are_those_of_a_full_pass(resident, plain, name):
    made, model = resident(name), plain(name)
    prefix = made.codec.prompt("Review Sentiment: ")
    rests = [made.codec.plain(text) for text in ("the long film is", "a", "the plot of the film is a bad one")]
    for head, tails in ((prefix, rests), (prefix, [[], *rests]), (prefix, [[]]), (prefix[:1], [[], *rests])):
        ours = next_logits(made, head, tails)
        with torch.no_grad():
            theirs = torch.stack([model(input_ids=torch.tensor([head + tail])).logits[0, -1] for tail in tails])
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
