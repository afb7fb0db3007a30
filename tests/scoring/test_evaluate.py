"""Scores of a policy against brute force through transformers and numbers by hand."""

import pytest
import torch
from peft import PeftModel

from alignbench.api import Decoding
from alignbench.engine.sampling import sample_texts
from alignbench.scoring.evaluate import (
    TEXT_TOKENS_MAX,
    after,
    decoding_weights,
    expected,
    measure_kl,
    repetition,
    share_distinct,
    text_nats,
    uniform,
    win_rate,
)

MODELS = ["gpt2", "llama", "granite", "gemma2"]
PROMPTS = ["the film is", "a", "", "the plot of the long film"]


@pytest.fixture
def policy(resident, shake):
    """A resident under a randomised adapter, and a rollout of it."""

    def make(name):
        made = resident(name)
        shake(made.add_adapter("policy", 0))
        return made, sample_texts(made, PROMPTS, 6, 1.0, torch.Generator().manual_seed(0)).tokens

    return make


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", MODELS)
def test_kl_is_the_sum_over_the_whole_vocabulary_at_every_sampled_state(policy, plain, tmp_path, name, temperature):
    made, tokens = policy(name)
    made.save_adapter("policy", tmp_path)
    reference, ours = plain(name), PeftModel.from_pretrained(plain(name), tmp_path).eval()
    exact, k1, k3 = ([0.0] * len(PROMPTS) for _ in range(3))
    for row, (ids, is_token, is_response) in enumerate(zip(*tokens, strict=True)):
        with torch.no_grad():
            log_p, log_q = (
                (model(input_ids=ids[is_token][None]).logits[0].double() / temperature).log_softmax(-1)
                for model in (ours, reference)
            )
        for t in is_response.nonzero().flatten().tolist():
            exact[row] += float((log_p[t - 1].exp() * (log_p[t - 1] - log_q[t - 1])).sum())
            ratio = float(log_q[t - 1, ids[t]] - log_p[t - 1, ids[t]])
            k1[row] -= ratio
            k3[row] += float(torch.tensor(ratio).exp()) - 1 - ratio
    kl = measure_kl(made, "policy", made, tokens, temperature)
    assert kl.exact.tolist() == pytest.approx(exact, rel=1e-4, abs=1e-5)
    assert kl.k1.tolist() == pytest.approx(k1, rel=1e-4, abs=1e-4)
    assert kl.k3.tolist() == pytest.approx(k3, rel=1e-4, abs=1e-4)
    assert min(exact) > 0.01


@pytest.mark.parametrize("name", MODELS)
def test_the_reference_may_be_another_resident_and_rows_may_be_cut_into_blocks(policy, resident, name, monkeypatch):
    made, tokens = policy(name)
    once = measure_kl(made, "policy", made, tokens)
    monkeypatch.setattr("alignbench.scoring.evaluate.ROWS_PER_BLOCK", 5)
    twice = measure_kl(made, "policy", resident(name), tokens)
    torch.testing.assert_close(once.exact, twice.exact, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_the_kl_of_an_unchanged_policy_is_exactly_zero(resident, name):
    made = resident(name)
    made.add_adapter("policy", 0)
    tokens = sample_texts(made, PROMPTS, 6, 1.0, torch.Generator().manual_seed(0)).tokens
    for adapter, reference in (("policy", made), (None, made), ("policy", resident(name))):
        kl = measure_kl(made, adapter, reference, tokens)
        assert [part.abs().sum().item() for part in kl] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("is_trained", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_a_prefix_is_read_by_the_policy_alone(resident, shake, plain, tmp_path, name, is_trained):
    made = resident(name)
    shake(made.add_adapter("policy", 0))
    made.save_adapter("policy", tmp_path)
    adapter = "policy" if is_trained else None
    ours = PeftModel.from_pretrained(plain(name), tmp_path).eval() if is_trained else plain(name)
    with made.using(adapter):
        prefixed = ["a good plot: " + prompt for prompt in PROMPTS]
        tokens = sample_texts(made, prefixed, 6, 1.0, torch.Generator().manual_seed(0)).tokens
    bare = after(made.codec, PROMPTS, tokens)
    exact, k1 = [0.0] * len(PROMPTS), [0.0] * len(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        response = tokens.ids[row][tokens.is_response[row]].tolist()
        assert bare.ids[row][bare.is_token[row]].tolist() == made.codec.prompt(prompt) + response
        log_p, log_q = (
            log_probs(model, made.codec.prompt(text) + response)[-len(response) - 1 : -1]
            for model, text in ((ours, prefixed[row]), (plain(name), prompt))
        )
        exact[row] = float((log_p.exp() * (log_p - log_q)).sum())
        k1[row] = sum(float(log_p[t, label] - log_q[t, label]) for t, label in enumerate(response))
    kl = measure_kl(made, adapter, resident(name), tokens, reference_tokens=bare)
    assert kl.exact.tolist() == pytest.approx(exact, rel=1e-4, abs=1e-5)
    assert kl.k1.tolist() == pytest.approx(k1, rel=1e-4, abs=1e-4)
    torch.testing.assert_close(
        measure_kl(made, adapter, made, tokens, reference_tokens=bare).exact, kl.exact, atol=1e-6, rtol=1e-6
    )
    assert min(exact) > 0.001


@torch.no_grad()
def log_probs(model, ids):
    """(T, V) of one sequence alone, float64."""
    return model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_texts_nats_are_those_of_its_own_tokens_from_the_first_to_the_last(resident, shake, plain, tmp_path, name):
    made = resident(name)
    shake(made.add_adapter("policy", 0))
    made.save_adapter("policy", tmp_path)
    ours = PeftModel.from_pretrained(plain(name), tmp_path).eval()
    texts = ["the film is a good one", "a", "dull " * 300]
    for adapter, model in (("policy", ours), (None, plain(name))):
        found = text_nats(made, adapter, texts)
        for text, nats, count in zip(texts, found.nats.tolist(), found.tokens.tolist(), strict=True):
            ids = made.codec.plain(text)[: min(TEXT_TOKENS_MAX, made.codec.window - 1)]
            log_p = log_probs(model, [made.codec.bos, *ids])[:-1]
            assert count == len(ids)
            assert nats == pytest.approx(-float(log_p.gather(1, torch.tensor(ids)[:, None]).sum()), rel=1e-4)


# ------------------------------------------------------------------------------------------------ by hand


def test_win_rate_by_hand():
    """The second sample of the start counts as much as its first: of the last prompt's four pairs one is a tie."""
    ours, theirs = torch.tensor([[1.0, 0.0], [2.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.5], [2.0], [1.0]])
    assert win_rate(ours, theirs, uniform(3, 2)).tolist() == pytest.approx([0.5, 0.5, 0.0])
    weights = torch.tensor([[0.9, 0.1], [0.5, 0.5], [1.0, 0.0]])
    assert win_rate(ours, theirs, weights).tolist() == pytest.approx([0.9, 0.5, 0.0])
    two = torch.tensor([[0.5, -1.0], [2.0, 1.0], [1.0, 0.0]])
    assert win_rate(ours, two, uniform(3, 2)).tolist() == pytest.approx([0.75, 0.75, 0.25])
    assert win_rate(ours, two, weights).tolist() == pytest.approx([(0.9 * 2 + 0.1) / 2, 0.75, 0.25])


def test_expectation_by_hand():
    assert expected(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.25, 0.75]])).tolist() == [2.5]


class Greedy(Decoding):
    samples_per_prompt = 2

    def __init__(self, scale=1.0):
        self.scale = scale

    def weights(self, proxy):
        return self.scale * (proxy == proxy.max(1, keepdim=True).values).float()

    def kl_nats_bound(self):
        return 0.0


def test_decoding_weights_are_uniform_unless_a_rule_says_otherwise_and_must_sum_to_1():
    proxy = torch.tensor([[1.0, 2.0], [5.0, 3.0]])
    assert decoding_weights(None, proxy).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert decoding_weights(Greedy(), proxy).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    with pytest.raises(ValueError, match=r"decoding weights of shape \(2, 2\) do not sum to 1 over 2 samples"):
        decoding_weights(Greedy(0.5), proxy)


def test_text_statistics_by_hand():
    texts = ["a b a b", "A b", "", "word", "a a a"]  # pairs: ab ba ab | ab | - | - | aa aa
    assert share_distinct(texts) == pytest.approx(3 / 6)
    assert [repetition(text) for text in texts] == pytest.approx([1 / 3, 0, 0, 0, 1 / 2])
    assert share_distinct([""]) == 0.0
