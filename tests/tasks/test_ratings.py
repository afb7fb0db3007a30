"""Splits never overlap, and the human ceiling is what the definition says."""

import itertools
import json
import random
import statistics

import pytest

from alignbench.api import Pair
from alignbench.assets.fetch import asset_folder
from alignbench.errors import UserError
from alignbench.tasks.ratings import (
    Sentence,
    SplitSizes,
    demonstrations,
    human_accuracy,
    human_pairs,
    load_sentences,
    rating_dispersion,
    split,
)

SIZES = SplitSizes(rating=60, held_out=40, train=30, label=20, eval=10)


@pytest.fixture(params=["made-up", "real"])
def sentences(request):
    if request.param == "real":
        try:
            return load_sentences(asset_folder("movie-ratings") / "movie_ratings.jsonl")
        except UserError as error:
            pytest.skip(str(error))
    rng = random.Random(0)
    words = ["a", "fine", "dull", "long", "film", "with", "some", "actors", "and", "plot", "that", "never", "ends"]
    texts = {" ".join(rng.choices(words, k=rng.randint(6, 20))) for _ in range(400)}
    return [Sentence(text, tuple(rng.randint(-4, 4) for _ in range(5))) for text in sorted(texts)]


def test_no_text_and_no_opening_is_in_two_splits(sentences):
    splits = split(sentences, 0, SIZES)
    assert SplitSizes(*map(len, splits)) == SIZES
    prompts = [prompt.casefold() for prompt in (*splits.train, *splits.label, *splits.eval)]
    assert len(set(prompts)) == len(prompts)
    assert all(len(prompt.split()) == 5 for prompt in prompts)
    rating, held_out = ({sentence.text.casefold() for sentence in part} for part in (splits.rating, splits.held_out))
    assert not rating & held_out
    assert not any(text.startswith(prompt + " ") for text in rating for prompt in prompts)


def test_no_prompt_opens_a_sentence_of_the_rating_split():
    made = [Sentence(f"{i // 2} is how two such sentences open, number {i}", (0,)) for i in range(100)]
    splits = split(made, 0, SplitSizes(rating=50, held_out=0, train=5, label=3, eval=2))
    prompts = {*splits.train, *splits.label, *splits.eval}
    assert len(prompts) == 10
    assert not prompts & {" ".join(sentence.text.split()[:5]) for sentence in splits.rating}


def test_the_splits_follow_from_the_seed_not_from_the_order_of_the_file(sentences):
    shuffled = random.Random(1).sample(sentences, len(sentences))
    assert split(sentences, 0, SIZES) == split(shuffled, 0, SIZES)
    assert split(sentences, 0, SIZES) != split(sentences, 1, SIZES)


def test_more_training_prompts_leave_the_other_splits_as_they_are(sentences):
    small, large = (split(sentences, 0, SIZES._replace(train=train)) for train in (30, 60))
    assert small._replace(train=large.train) == large
    assert large.train[:30] == small.train


def test_duplicates_by_case_are_dropped_whatever_their_order():
    twins = [Sentence("One two THREE", (1,)), Sentence("one two three", (2,)), Sentence("other", (3,))]
    sizes = SplitSizes(rating=1, held_out=1, train=0, label=0, eval=0)
    assert split(twins, 0, sizes) == split(twins[::-1], 0, sizes)
    with pytest.raises(UserError, match=r"2 different sentences are too few for 1 held-out ones, 2 rating ones"):
        split(twins, 0, sizes._replace(rating=2))


def test_too_few_prompts_is_one_line_with_the_numbers(sentences):
    with pytest.raises(UserError, match=r"and 100030 prompts of 5 words \(\d+ are left\): lower a split's size"):
        split(sentences, 0, SIZES._replace(train=100_000))


def test_demonstrations_are_whole_sentences_of_the_rating_split(sentences):
    rating = split(sentences, 0, SIZES).rating
    shown = demonstrations(rating)
    assert len(shown) == sum(len(sentence.text.split()) >= 9 for sentence in rating) > 0
    assert {prompt + completion for prompt, completion in shown} <= {sentence.text for sentence in rating}
    assert all(len(prompt.split()) == 5 and completion[0] == " " != completion[1] for prompt, completion in shown)
    assert all(len(completion.split()) >= 4 for _, completion in shown)


def test_pairs_are_different_and_exactly_the_ones_with_the_gap():
    made = [Sentence(letter, (value,)) for letter, value in zip("abcd", (0, 0, 1, 3), strict=True)]
    every = human_pairs(made, 5, seed=0, min_gap=1.0)
    assert {(pair.chosen, pair.rejected) for pair in every} == {
        ("c", "a"),
        ("c", "b"),
        ("d", "a"),
        ("d", "b"),
        ("d", "c"),
    }
    assert {pair.prompt for pair in every} == {""}
    with pytest.raises(UserError, match=r"6 pairs with a gap of at least 1.0 asked for, there are 5"):
        human_pairs(made, 6, seed=0, min_gap=1.0)


def test_pairs_have_the_higher_mean_chosen(sentences):
    mean = {sentence.text: sentence.mean for sentence in sentences}
    pairs = human_pairs(sentences, 200, seed=3)
    assert len(set(pairs)) == 200
    assert all(mean[pair.chosen] - mean[pair.rejected] >= 0.3 - 1e-9 for pair in pairs)
    assert pairs == human_pairs(sentences[::-1], 200, seed=3)
    assert pairs != human_pairs(sentences, 200, seed=4)


def test_human_accuracy_by_hand():
    made = [Sentence("up", (2, 2)), Sentence("mixed", (3, -1)), Sentence("down", (-2, -2))]
    # up/down: every rater and every rest agree: 1.
    # up/mixed: drawn (2, 3): the rater prefers mixed, the others (2, -1) prefer up: 0. Drawn (2, -1): the others are
    # (2, 3), the rater prefers up: 0 again. Each draw occurs twice: 0.
    # mixed/down: drawn 3 or -1, both above -2; the others' -1 or 3 are above too: 1.
    assert human_accuracy(made, [Pair("", "up", "down")]) == 1.0
    assert human_accuracy(made, [Pair("", "up", "mixed")]) == 0.0
    assert human_accuracy(made, [Pair("", "mixed", "down"), Pair("", "up", "mixed")]) == 0.5
    # ties count half: against (2, 0) the draws (2, 2) tie, and the others (2, 0) do not; (2, 0) ties among the others
    assert human_accuracy([Sentence("x", (2, 2)), Sentence("y", (2, 0))], [Pair("", "x", "y")]) == 0.5


def test_human_accuracy_is_the_mean_of_a_plain_simulation():
    rng = random.Random(0)
    made = [Sentence(str(i), tuple(rng.choices(range(-4, 5), k=4 + i))) for i in range(3)]
    pairs = [Pair("", one.text, two.text) for one, two in itertools.permutations(made, 2)]
    by_text = {sentence.text: list(sentence.ratings) for sentence in made}

    def draw(pair):
        drawn, rests = [], []
        for text in (pair.chosen, pair.rejected):
            others = by_text[text].copy()
            drawn.append(others.pop(rng.randrange(len(others))))
            rests.append(statistics.mean(others))
        product = (drawn[0] - drawn[1]) * (rests[0] - rests[1])
        return 0.5 if abs(product) < 1e-12 else float(product > 0)

    simulated = statistics.fmean(draw(rng.choice(pairs)) for _ in range(20_000))
    assert human_accuracy(made, pairs) == pytest.approx(simulated, abs=0.015)


def test_dispersion_is_the_pooled_unbiased_one():
    made = [Sentence("a", (0, 2)), Sentence("b", (1, 1, 1)), Sentence("c", (4,))]
    assert rating_dispersion(made) == pytest.approx((2 / 3) ** 0.5)  # squares 1 + 1 over (2 - 1) + (3 - 1)
    with pytest.raises(UserError, match="two ratings"):
        rating_dispersion(made[2:])


def test_the_real_raters_agree_as_documented():
    try:
        real = load_sentences(asset_folder("movie-ratings") / "movie_ratings.jsonl")
    except UserError as error:
        pytest.skip(str(error))
    assert len(real) == 10_605
    assert human_accuracy(real, human_pairs(real, 2_000, seed=0)) == pytest.approx(0.88, abs=0.01)
    assert rating_dispersion(real) == pytest.approx(0.961, abs=0.001)
    assert statistics.fmean(statistics.pstdev(sentence.ratings) for sentence in real) == pytest.approx(0.893, abs=1e-3)


@pytest.mark.parametrize("content", [None, "{", "[]\n", json.dumps({"text": "no ratings"})])
def test_a_missing_or_odd_file_is_answered_with_the_command(tmp_path, content):
    path = tmp_path / "movie_ratings.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(
        UserError, match=r"movie_ratings.jsonl is missing or not a file of ratings: run `alignbench fetch`"
    ):
        load_sentences(path)
