"""The judge's labels are the model's own probabilities: against transformers, text by text, and antisymmetric."""

import pytest
import torch

from alignbench.api import Rubric, SourceRoom
from alignbench.errors import UserError
from alignbench.feedback.judge import Judge

RUBRIC = Rubric("Is the film good?", "Review", "Sentiment", "Positive", "Negative")
P = ["the film is", "a", "", "the plot of the long film", "one"]
A = [" good", " bad one and a long dull plot", " a", "", " film"]
B = [" bad", " good", " the long film is a good one", " dull", " plot and a film"]
MODELS = ["gpt2", "llama", "granite", "gemma2"]


@pytest.fixture
def judge(resident):
    """`judge(name, ...)`: a prepared judge on a tiny model."""

    def make(name, rubric=RUBRIC, **options):
        made = Judge(Judge.Config(**options))
        made.prepare(SourceRoom(rubric, resident(name), None, 0))
        return made

    return make


@torch.no_grad()
def label_logprobs(model, codec, text, labels, prefix):
    """Normalised over the two labels, from one full pass over prefix + text."""
    ids = codec.prompt(prefix) + codec.plain(text)
    logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    return logits[[codec.plain(label)[0] for label in labels]].log_softmax(-1)


@pytest.mark.parametrize("name", MODELS)
def test_pointwise_is_the_gap_of_the_two_labels_after_the_text(judge, plain, name):
    made, model = judge(name), plain(name)
    scores = made.score(P, A)
    for prompt, completion, score in zip(P, A, scores.tolist(), strict=True):
        log_p = label_logprobs(
            model, made.base.codec, f"{prompt}{completion}\nSentiment:", (" Positive", " Negative"),
            "Is the film good?\n\nReview: ",
        )  # fmt: skip
        assert score == pytest.approx(float(log_p[0] - log_p[1]), abs=5e-5)


@pytest.mark.parametrize("name", MODELS)
def test_pairwise_averages_the_two_orders(judge, plain, name):
    made, model = judge(name, format="pairwise"), plain(name)
    shares = made.prefer(P, A, B)
    for p, a, b, share in zip(P, A, B, shares.tolist(), strict=True):
        first, second = (
            label_logprobs(
                model, made.base.codec, f"A: {p}{x}\nReview B: {p}{y}\nThe review that is more positive is",
                (" A", " B"), "Is the film good?\n\nReview ",
            ).exp()
            for x, y in ((a, b), (b, a))
        )  # fmt: skip
        assert share == pytest.approx(float((first[0] + second[1]) / 2), abs=5e-5)


def test_asked_once_it_shows_the_order_that_prefer_averages_away(judge):
    made = judge("llama", format="pairwise")
    forth, back = made.prefer_once(P, A, B), made.prefer_once(P, B, A)
    assert (forth + back - 1).abs().max() > 1e-3
    torch.testing.assert_close((forth + 1 - back) / 2, made.prefer(P, A, B))
    pointwise = judge("llama")
    torch.testing.assert_close(pointwise.prefer_once(P, A, B), pointwise.prefer(P, A, B))


@pytest.mark.parametrize("form", ["pointwise", "pairwise"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_preferring_a_to_b_and_b_to_a_sum_to_one(judge, name, form):
    made = judge(name, format=form)
    forth = made.prefer(P, A, B)
    torch.testing.assert_close(forth + made.prefer(P, B, A), torch.ones(5), atol=1e-6, rtol=0)
    assert (forth - 0.5).abs().max() > 1e-3
    torch.testing.assert_close(made.prefer(P, A, A), torch.full((5,), 0.5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", ["pointwise", "pairwise"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_batch_says_what_single_calls_say(judge, name, form):
    made = judge(name, format=form)
    singles = torch.cat([made.prefer([p], [a], [b]) for p, a, b in zip(P, A, B, strict=True)])
    torch.testing.assert_close(made.prefer(P, A, B), singles, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.prefer(P * 15, A * 15, B * 15), singles.repeat(15), atol=1e-5, rtol=0)


def test_each_prompt_keeps_its_guideline_whatever_stands_beside_it(judge):
    made = judge("llama", guidelines=("Is it good?", "Is the plot long?", "Is it dull?"))
    singles = torch.cat([made.score([p], [a]) for p, a in zip(P, A, strict=True)])
    torch.testing.assert_close(made.score(P, A), singles, atol=1e-5, rtol=0)
    alone = [judge("llama", guidelines=(g,)).score(P, A) for g in made.guidelines]
    nearest = torch.stack([(row - singles).abs() for row in alone])
    assert (nearest.min(0).values < 1e-5).all()
    assert len(set(nearest.argmin(0).tolist())) > 1


def test_the_judge_reads_through_the_bare_model(judge, shake):
    made = judge("llama")
    before = made.score(P, A)
    shake(made.base.add_adapter("policy", 0))
    torch.testing.assert_close(made.score(P, A), before, atol=1e-6, rtol=0)


def test_tokens_read_are_counted(judge):
    made = judge("llama")
    made.score(P, A)
    codec = made.base.codec
    rests = sum(len(codec.plain(f"{p}{a}\nSentiment:")) for p, a in zip(P, A, strict=True))
    assert made.tokens_judged == rests + len(codec.prompt(f"{made.guidelines[0]}\n\n{made.rubric.subject}: "))


def test_labels_that_begin_alike_are_refused(judge):
    with pytest.raises(UserError, match="cannot tell ' A' from ' A B': the tokenizer begins both with the same token"):
        judge("llama", rubric=RUBRIC._replace(best="A", worst="A B")).score(P, A)


@pytest.mark.parametrize("options", [{}, {"format": "pairwise"}])
def test_labels_the_tokenizer_has_no_token_for_are_refused(judge, options, monkeypatch):
    made = judge("llama", **options)
    missing = {"pointwise": " Negative", "pairwise": " B"}[made.config.format]
    plain = made.base.codec.plain
    monkeypatch.setattr(made.base.codec, "plain", lambda text: [] if text == missing else plain(text))
    with pytest.raises(UserError, match=f"the judge cannot answer '{missing}': the model's tokenizer has no token for"):
        made.prefer(P, A, B)


def test_a_text_longer_than_the_window_is_one_line(judge):
    with pytest.raises(UserError, match=r"a judge's question of \d+ tokens exceeds the model's window of 256"):
        judge("llama").score(["x"], [" \u00e9" * 200])
