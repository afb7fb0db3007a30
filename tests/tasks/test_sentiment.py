"""The sentiment task: splits that never meet, and a gold rater that is the ridge regression it says it is."""

import json
import random

import numpy as np
import pytest
import torch

from alignbench.assets.fetch import asset_folder
from alignbench.errors import UserError
from alignbench.tasks import other_ratings, sentiment
from alignbench.tasks.ngrams import NgramRater
from alignbench.tasks.ratings import Sentence
from alignbench.tasks.reach import Reach
from alignbench.tasks.sentiment import Rater, Sentiment

SMALL = {"rating": 120, "held_out": 60, "train": 50, "label": 40, "eval": 30}
GOOD, BAD = ["good", "one", "long", "plot"], ["bad", "dull", "and", "film"]


def planted(text):
    """The rating a text deserves, -3 to 3."""
    words = text.split()[1:]
    return 6 * (sum(w in GOOD for w in words) / len(words) - 0.5)


def sentences(count, seed, words=(4, 12)):
    """Texts whose rating rises with the share of their good words; five ratings around it."""
    rng, made = random.Random(seed), {}
    while len(made) < count:
        chosen = [rng.choice(GOOD if rng.random() < 0.5 else BAD) for _ in range(rng.randint(*words))]
        text = "the " + " ".join(chosen)
        made[text] = tuple(max(-4, min(4, round(planted(text) + rng.gauss(0, 0.7)))) for _ in range(5))
    return [Sentence(text, ratings) for text, ratings in made.items()]


@pytest.fixture(params=["made-up", "real"])
def task(request, tmp_path, monkeypatch):
    if request.param == "real":
        try:
            asset_folder("movie-ratings"), asset_folder("other-ratings")
        except UserError as error:
            pytest.skip(str(error))
        return Sentiment(Sentiment.Config())
    file = tmp_path / "movie_ratings.jsonl"
    rows = [{"text": s.text, "ratings": s.ratings} for s in sentences(600, 0, (10, 16))]
    file.write_text("\n".join(map(json.dumps, rows)))
    for module in (sentiment, other_ratings):
        monkeypatch.setattr(module, "asset_folder", lambda name: tmp_path)
    for kind in other_ratings.KINDS:
        (tmp_path / f"{kind}.jsonl").write_text(json.dumps(rows[0]))
    return Sentiment(Sentiment.Config(**SMALL))


def test_no_prompt_is_in_two_sets_and_none_opens_a_sentence_the_gold_was_fitted_to(task):
    sets = {name: task.prompts(name) for name in ("train", "label", "eval")}
    assert {name: len(prompts) for name, prompts in sets.items()} == {name: getattr(task.config, name) for name in sets}
    folded = [prompt.casefold() for prompts in sets.values() for prompt in prompts]
    assert len(set(folded)) == len(folded)
    fitted = {" ".join(s.text.split()[: task.config.prompt_words]).casefold() for s in task.splits.rating}
    assert not fitted & set(folded)


def test_demonstrations_and_human_pairs_come_from_the_rating_split_and_the_card_from_the_held_out_one(task):
    rating, held_out = ({s.text for s in part} for part in (task.splits.rating, task.splits.held_out))
    assert not rating & held_out
    assert {d.prompt + d.completion for d in task.demonstrations()} <= rating
    assert {text for p in task.human_pairs(40, 0) for text in (p.chosen, p.rejected)} <= rating
    found = task.held_out_pairs()
    assert {text for p in found.pairs for text in (p.chosen, p.rejected)} <= held_out
    assert 0.5 < found.human_accuracy <= 1


def test_another_data_seed_cuts_other_splits_of_the_same_digest(task):
    other = type(task)(task.config)
    other.data_seed = 1
    assert other.prompts("eval") != task.prompts("eval")
    assert other.digest() == task.digest()


# ------------------------------------------------------------------------------------------------ the rater


@pytest.fixture
def base(resident):
    return resident("llama")


def ridge(x, y, penalty):
    """Weights and intercept of a ridge that does not penalise the intercept, by the normal equations."""
    centre = x.mean(0)
    weight = np.linalg.solve(
        (x - centre).T @ (x - centre) + penalty * np.eye(x.shape[1]), (x - centre).T @ (y - y.mean())
    )
    return weight, y.mean() - centre @ weight


def test_the_leave_one_out_error_is_that_of_refitting_without_each_sentence(base, monkeypatch):
    errors, smallest = {}, min

    def spy(candidates, key=None):  # the rater takes the `min` over penalties
        penalties = list(candidates)
        errors.update({penalty: key(penalty) for penalty in penalties})
        return smallest(penalties, key=key)

    rated = sentences(24, 0)
    monkeypatch.setattr(sentiment, "min", spy, raising=False)
    rater = Rater.fit(base, rated, [0.34, 1.0], lambda done, total: None)

    raw = rater.features([s.text for s in rated]).double().numpy()
    x, y = raw / raw.std(0, ddof=1), np.array([s.mean for s in rated])
    assert x.shape == (24, 64)
    for penalty, error in errors.items():
        if penalty < 1:
            continue  # with more features than sentences, the normal equations themselves are too rough below
        held_out = []
        for i in range(len(y)):
            weight, bias = ridge(np.delete(x, i, 0), np.delete(y, i), penalty)
            held_out.append((y[i] - x[i] @ weight - bias) ** 2)
        assert error == pytest.approx(np.mean(held_out), rel=1e-6)
    best = smallest(errors, key=errors.get)
    weight, bias = ridge(x, y, best)
    np.testing.assert_allclose(rater.score([""] * 24, [s.text for s in rated]), x @ weight + bias, atol=1e-4)


def test_it_recovers_a_planted_signal_on_sentences_it_has_not_seen(base):
    rater = Rater.fit(base, sentences(600, 1), sentiment.DEPTHS, lambda done, total: None)
    texts = [s.text for s in sentences(100, 2)]
    scores, deserved = rater.score([""] * 100, texts), [planted(text) for text in texts]
    assert np.corrcoef(scores.numpy(), deserved)[0, 1] > 0.9
    assert abs(np.corrcoef(scores.numpy(), np.roll(deserved, 1))[0, 1]) < 0.4
    assert rater.rating_sd == pytest.approx(0.7, abs=0.15)


def test_a_score_depends_on_prompt_and_completion_read_as_one_text_alone(base, shake):
    rater = Rater.fit(base, sentences(60, 1), sentiment.DEPTHS, lambda done, total: None)
    texts = [s.text for s in sentences(10, 3)]
    whole = rater.score([""] * 10, texts)
    singles = torch.cat([rater.score([text[:5]], [text[5:]]) for text in texts])
    torch.testing.assert_close(whole, singles, atol=1e-4, rtol=0)
    shake(base.add_adapter("policy", 0))  # the gold reads through the frozen base model
    torch.testing.assert_close(rater.score([""] * 10, texts), whole, atol=1e-4, rtol=0)


def test_saved_and_loaded_scores_are_the_same(base, tmp_path):
    rater = Rater.fit(base, sentences(60, 1), sentiment.DEPTHS, lambda done, total: None)
    rater.calibrate([s.text for s in sentences(50, 2)])
    rater.save(tmp_path)
    again = Rater.load(tmp_path, base)
    texts = [s.text for s in sentences(10, 3)]
    assert torch.equal(again.leverage(texts), rater.leverage(texts))
    assert torch.equal(again.extrapolates([""] * 10, texts), rater.extrapolates([""] * 10, texts))
    assert torch.equal(again.score([""] * 10, texts), rater.score([""] * 10, texts))
    assert again.rating_sd == rater.rating_sd


# --------------------------------------------------------------------------------------- how far a text lies, the card


@pytest.mark.parametrize("count", [24, 200])  # fewer and more sentences than the 96 features
def test_a_texts_leverage_is_the_diagonal_of_the_ridges_hat_matrix(base, count):
    """Of a fitted text it is how far its prediction moves with its own rating, less what all move with the mean."""
    rated = sentences(count, 0)
    rater = Rater.fit(base, rated, sentiment.DEPTHS, lambda done, total: None)
    texts = [s.text for s in rated]
    raw = rater.features(texts).double().numpy()
    z = (raw - raw.mean(0)) / np.maximum(raw.std(0, ddof=1), 1e-8)
    penalty = float(rater.reach.parts["penalty"])
    hat = z @ np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T) + 1 / count
    np.testing.assert_allclose(rater.leverage(texts), np.diag(hat), rtol=1e-4)


def test_one_in_a_hundred_held_out_sentences_is_beyond_and_text_of_another_kind_is(base):
    rater = Rater.fit(base, sentences(300, 1), sentiment.DEPTHS, lambda done, total: None)
    held_out = [s.text for s in sentences(400, 2)]
    rater.calibrate(held_out)
    assert rater.extrapolates([""] * 400, held_out).double().mean() == pytest.approx(0.01, abs=0.003)
    fresh, rng = [s.text for s in sentences(200, 3)], random.Random(0)
    noise = ["".join(rng.choice("#%&XQJZ0123456789{}") for _ in range(40)) for _ in range(50)]
    assert rater.extrapolates([""] * 200, fresh).double().mean() < 0.06
    assert rater.extrapolates([text[:9] for text in noise], [text[9:] for text in noise]).all()


def test_the_bound_is_beside_what_is_usual_at_a_texts_length():
    """Leverages planted as (1 + 8 / T) * u: u alone decides, so that short texts are no likelier beyond."""
    number = torch.ones(1, dtype=torch.float64)
    parts = {"centre": 0 * number, "scale": number, "directions": number[None], "squares": 0 * number}
    reach = Reach({**parts, "penalty": number[0], "count": 1e12 * number[0]})
    lengths, u = [2, 4, 8, 16, 32] * 200, torch.linspace(0.5, 1.5, 1000).double()[torch.randperm(1000)]
    reach.calibrate((((1 + 8 / torch.tensor(lengths)) * u) ** 0.5)[:, None], lengths)
    for length in (2, 32):
        at = ((1 + 8 / length) * torch.tensor([1.4, 1.6])).sqrt()[:, None]
        assert reach.is_beyond(at, [length, length]).tolist() == [False, True]


def test_a_text_that_is_scored_and_asked_how_far_it_lies_is_read_once(base):
    rater = Rater.fit(base, sentences(60, 1), sentiment.DEPTHS, lambda done, total: None)
    rater.calibrate([s.text for s in sentences(50, 2)])
    before, texts = rater.tokens_judged, [s.text for s in sentences(10, 3)]
    rater.score([""] * 10, texts)
    rater.extrapolates([text[:4] for text in texts], [text[4:] for text in texts])
    assert rater.tokens_judged - before == sum(rater._lengths(texts))


def test_the_card_tells_of_both_golds_of_whole_sentences_and_of_cut_ones(task, base):
    if task.config.rating != SMALL["rating"]:
        pytest.skip("the real sentences take minutes")
    task = Sentiment(task.config.model_copy(update={"max_new_tokens": 4}))
    split = task.splits
    rater = Rater.fit(base, split.rating, sentiment.DEPTHS, lambda done, total: None)
    rater.calibrate([s.text for s in split.held_out])
    card = task.gold_card(rater, NgramRater.fit(split.rating))
    assert {"gold_extrapolates_cut", "n"} < card.keys()
    for prefix in ("", "second_"):
        assert card[f"{prefix}gold_pearson"] > card[f"{prefix}gold_pearson_cut"] > 0.3  # 9 of some 14 words are left
        assert card[f"{prefix}gold_pair_accuracy"] > 0.75
    means = [s.mean for s in split.held_out]
    whole = rater.score([""] * len(means), [s.text for s in split.held_out])
    assert card["gold_pearson"] == pytest.approx(np.corrcoef(whole.numpy(), means)[0, 1])
    opening, rest = (part[0] for part in task.as_completions([split.held_out[0].text], base.codec))
    assert split.held_out[0].text.startswith(opening + rest)
    assert (len(opening.split()), len(base.codec.plain(rest))) == (5, 4)
