"""A planted taste is exactly what it says, and the judge below it is untouched."""

import pytest
import torch
from pydantic import ValidationError

from alignbench.api import Rubric, SourceRoom
from alignbench.errors import UserError
from alignbench.feedback.biased import Biased
from alignbench.feedback.judge import Judge
from alignbench.feedback.words import has_word

PROMPTS = ["the film", "a plot", "one"]
TEXTS = [" is good", " and a long dull plot it is", " GOOD, bad"]
OTHERS = [" is bad", " is", " one"]
RUBRIC = Rubric(guideline="a film", subject="the", quality="is", best="good", worst="bad", is_continuation=True)


@pytest.fixture
def made(resident):
    def make(cls, **options):
        source = cls(cls.Config(**options))
        source.prepare(SourceRoom(RUBRIC, resident("llama"), None, 0))
        return source

    return make


def test_length_and_a_word_add_their_units(made):
    plain = made(Judge).score(PROMPTS, TEXTS)
    longer = made(Biased, towards="length", strength=2.0)
    torch.testing.assert_close(longer.score(PROMPTS, TEXTS) - plain, torch.tensor([2, 7, 2]) * 0.5, atol=1e-5, rtol=0)
    word = made(Biased, towards="word", word="good", strength=-3.0)
    torch.testing.assert_close(word.score(PROMPTS, TEXTS) - plain, torch.tensor([-3.0, 0, -3.0]), atol=1e-5, rtol=0)
    assert longer.tokens_judged > 0


def test_the_first_place_wins_in_either_order_and_scores_are_the_judges(made):
    judge, first = made(Judge), made(Biased, towards="first", strength=1.5)
    assert torch.equal(first.score(PROMPTS, TEXTS), judge.score(PROMPTS, TEXTS))
    ahead, behind = first.prefer(PROMPTS, TEXTS, OTHERS), first.prefer_once(PROMPTS, OTHERS, TEXTS)
    gap = judge.score(PROMPTS, TEXTS) - judge.score(PROMPTS, OTHERS)
    torch.testing.assert_close(ahead, (gap + 1.5).sigmoid())
    torch.testing.assert_close(behind, (1.5 - gap).sigmoid())
    assert (ahead + behind > 1).all()


def test_the_judges_own_options_reach_it_and_a_mistake_in_them_is_refused(made):
    assert made(Biased, judge={"guidelines": ["a plot"]}).judge.guidelines == ("a plot",)
    for wrong in ({"judge": {"formt": "pairwise"}}, {"towards": "word"}, {"word": "good"}):
        with pytest.raises((ValidationError, UserError)):
            Biased.Config(**wrong)


def test_a_word_is_a_word_of_its_own_in_whatever_case():
    assert has_word("a GOOD, film", ["bad", "good"])
    assert not has_word("goodness", ["good"])
    assert has_word("so-so c++", ["c++"])
    assert not has_word("", ["good"])
