"""The second gold: the TF-IDF ridge it says it is, and no weight of a model in it."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest

from alignbench.tasks.ngrams import NUMBERS, PENALTIES, TERMS, NgramRater
from alignbench.tasks.ratings import Sentence

WORDS = {"good": 1, "fine": 1, "bad": -1, "dull": -1, "plot": 0, "film": 0, "long": 0}


def sentences(count, seed):
    """Rated by the sum of their words."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(list(WORDS), k=rng.randint(4, 9))) for _ in range(count)]
    return [Sentence(text, (deserved(text),)) for text in texts]


def deserved(text):
    return max(-4, min(4, sum(WORDS[word] for word in text.split())))


def tfidf(texts, fitted):
    """Rows of unit length over word 1-2-grams that two fitted texts have: (1 + ln tf) (1 + ln (1 + n) / (1 + df))."""

    def grams(text):
        words = text.split()
        return words + [" ".join(pair) for pair in pairwise(words)]

    df = {}
    for text in fitted:
        for gram in set(grams(text)):
            df[gram] = df.get(gram, 0) + 1
    terms = sorted(gram for gram, n in df.items() if n > 1)
    rows = []
    for text in texts:
        counts = [grams(text).count(term) for term in terms]
        row = [
            (1 + math.log(tf)) * (1 + math.log((1 + len(fitted)) / (1 + df[term]))) if tf else 0.0
            for tf, term in zip(counts, terms, strict=True)
        ]
        rows.append(np.array(row) / np.linalg.norm(row))
    return np.array(rows)


def test_it_is_a_ridge_on_word_and_letter_grams_with_the_penalty_of_least_leave_one_out_error():
    rated, others = sentences(60, 0), [s.text for s in sentences(20, 1)]
    rater = NgramRater.fit(rated)
    fitted, y = [s.text for s in rated], np.array([s.mean for s in rated])
    words = tfidf(fitted, fitted)
    x = rater._features(fitted).toarray()
    np.testing.assert_allclose(x[:, : words.shape[1]], words, atol=1e-12)
    np.testing.assert_allclose(
        rater._features(others).toarray()[:, : words.shape[1]], tfidf(others, fitted), atol=1e-12
    )

    def ridge(x, y, penalty):
        """The dual form; the intercept is not penalised."""
        z = x - x.mean(0)
        weight = z.T @ np.linalg.solve(z @ z.T + penalty * np.eye(len(y)), y - y.mean())
        return weight, y.mean() - x.mean(0) @ weight

    def error(penalty):
        left_out = (ridge(np.delete(x, i, 0), np.delete(y, i), penalty) for i in range(len(y)))
        return np.mean([(y[i] - x[i] @ weight - bias) ** 2 for i, (weight, bias) in enumerate(left_out)])

    weight, bias = ridge(x, y, min(PENALTIES, key=error))
    expected = rater._features(others) @ weight + bias
    np.testing.assert_allclose(rater.score([""] * 20, others), expected, atol=1e-5)


def test_it_recovers_a_planted_signal_on_sentences_it_has_not_seen():
    rater, fresh = NgramRater.fit(sentences(400, 1)), [s.text for s in sentences(100, 2)]
    scores, right = rater.score([""] * 100, fresh), [deserved(text) for text in fresh]
    assert np.corrcoef(scores, right)[0, 1] > 0.9
    assert abs(np.corrcoef(scores, np.roll(right, 1))[0, 1]) < 0.4


def test_saved_and_loaded_scores_have_the_same_bits_and_nothing_is_pickled(tmp_path):
    rater = NgramRater.fit(sentences(80, 3))
    rater.save(tmp_path)
    texts = [*(s.text for s in sentences(10, 4)), "", "words nobody has rated", "\ud800 na\u00efve \x00"]
    again = NgramRater.load(tmp_path)
    assert again.score([""] * 13, texts).tolist() == rater.score([""] * 13, texts).tolist()
    assert {file.name for file in tmp_path.iterdir()} == {TERMS, NUMBERS}


def test_prompt_and_completion_are_read_as_one_text():
    rater = NgramRater.fit(sentences(80, 3))
    assert rater.score(["a go"], ["od film"]).tolist() == rater.score([""], ["a good film"]).tolist()


def test_a_text_without_a_known_gram_gets_the_intercept():
    rater = NgramRater.fit(sentences(80, 3))
    assert rater.score([""], ["123 456"]).item() == pytest.approx(rater.bias, abs=1e-6)
