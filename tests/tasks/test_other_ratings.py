"""Texts of other kinds: each once, in the seed's order, and pairs that people ordered."""

import json

import pytest

from alignbench.assets.fetch import asset_folder
from alignbench.errors import UserError
from alignbench.tasks import other_ratings
from alignbench.tasks.sentiment import Sentiment


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """Twelve texts a kind, rated -1 to 4, of which one comes again in capitals."""
    for kind in other_ratings.KINDS:
        rows = [{"text": f"{kind} {i}", "ratings": [i % 6 - 1] * 3} for i in range(12)]
        rows.append({"text": f"{kind} 3".upper(), "ratings": [0, 0, 0]})
        (tmp_path / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(other_ratings, "asset_folder", lambda name: tmp_path)
    return tmp_path


@pytest.fixture
def real():
    try:
        asset_folder("other-ratings"), asset_folder("movie-ratings")
    except UserError as absent:
        pytest.skip(str(absent))


def test_a_text_comes_once_and_the_seed_draws_the_order(made_up):
    drawn = {seed: [s.text for s in other_ratings.sentences("tweets", seed)] for seed in (0, 1)}
    assert len(drawn[0]) == len({text.casefold() for text in drawn[0]}) == 12
    assert sorted(drawn[0]) == sorted(drawn[1])
    assert drawn[0] != drawn[1]
    assert drawn[0] == [s.text for s in other_ratings.sentences("tweets", 0)]


def test_pairs_are_of_one_kind_and_far_enough_apart(made_up):
    found = other_ratings.held_out_pairs(20, 0, 2.0)
    assert list(found) == ["tweets", "products", "editorials"]
    for kind, (pairs, human_accuracy) in found.items():
        assert len({(p.chosen, p.rejected) for p in pairs}) == 20
        for p in pairs:
            assert p.prompt == ""
            better, worse = (int(text.removeprefix(f"{kind} ")) % 6 for text in (p.chosen.lower(), p.rejected.lower()))
            assert better - worse >= 2 or "3" in (p.chosen + p.rejected)  # of the text in capitals either may be kept
        assert human_accuracy == 1  # all three raters of a text agree
    with pytest.raises(UserError, match=r"tweets: 5000 pairs with a gap of at least 2.0 asked for, there are \d+"):
        other_ratings.held_out_pairs(5000, 0, 2.0)


def test_a_changed_file_is_another_digest(made_up):
    before = other_ratings.digest()
    (made_up / "editorials.jsonl").write_text("{}")
    assert other_ratings.digest() != before


def test_the_real_sets_have_the_sizes_that_are_told(real):
    counts = {kind: len(other_ratings.sentences(kind, 0)) for kind in other_ratings.KINDS}
    assert counts == {"tweets": 4_140, "products": 3_697, "editorials": 5_119}
    task = Sentiment(Sentiment.Config())
    movies = {s.text.casefold() for part in (task.splits.rating, task.splits.held_out) for s in part}
    assert not movies & {text.casefold() for text in task.other_texts()}
    found = task.other_pairs(200)
    assert {kind: len(held_out.pairs) for kind, held_out in found.items()} == dict.fromkeys(counts, 200)
    assert all(0.7 < held_out.human_accuracy < 0.95 for held_out in found.values())
