"""Simulated raters: deterministic, antisymmetric, and as dispersed as the theory says."""

from statistics import NormalDist

import pytest
import torch

from alignbench.api import Config, HumanModel, Rubric, SourceRoom
from alignbench.errors import UserError
from alignbench.feedback.panel import Panel

RUBRIC = Rubric("Read it.", "Review", "Sentiment", "Positive", "Negative")


class Digits(HumanModel):
    """The mean rating of a text is the number it ends in."""

    name = "digits"
    rating_sd = 0.9

    def score(self, prompts, completions):
        return torch.tensor([float(c.split()[-1]) for c in completions])


def panel(seed=0, human=None, **options):
    made = Panel(Panel.Config(**options))
    made.prepare(SourceRoom(RUBRIC, None, Digits(Config()) if human is None else human, seed))
    return made


A = [f"text {i} is {i % 5 / 2}" for i in range(60)]
B = [f"other {i} is {i % 7 / 3}" for i in range(60)]
P = [f"prompt {i % 3}" for i in range(60)]


@pytest.mark.parametrize("raters", [1, 4, 5])
def test_preferring_a_to_b_and_b_to_a_sum_to_one(raters):
    made = panel(raters=raters)
    forth, back = made.prefer(P, A, B), made.prefer(P, B, A)
    torch.testing.assert_close(forth + back, torch.ones(60))
    assert ((forth * raters).round() == forth * raters).all()
    assert made.prefer(P, A, A).tolist() == [0.5] * 60


def test_a_batch_says_what_single_calls_say():
    made = panel()
    assert made.prefer(P, A, B).tolist() == [float(made.prefer([p], [a], [b])) for p, a, b in zip(P, A, B, strict=True)]
    assert made.score(P, A).tolist() == [float(made.score([p], [a])) for p, a in zip(P, A, strict=True)]


@pytest.mark.parametrize("raters", [1, 5])
def test_the_vote_share_is_the_normal_theorys_probability(raters):
    made, n, gap = panel(raters=raters), 3000, 0.7
    texts = ([f"first {i} 1.7" for i in range(n)], [f"second {i} 1.0" for i in range(n)])
    share = float(made.prefer([""] * n, *texts).mean())
    theory = NormalDist().cdf(gap / (0.9 * 2**0.5))
    assert share == pytest.approx(theory, abs=4 * (theory * (1 - theory) / (n * raters)) ** 0.5)


def test_ratings_scatter_as_measured_and_raters_are_independent():
    ratings = panel(raters=4).ratings([""] * 3000, [f"text {i} 2" for i in range(3000)])
    assert ratings.mean().item() == pytest.approx(2.0, abs=4 * 0.9 / 12000**0.5)
    assert ratings.std().item() == pytest.approx(0.9, abs=0.025)
    assert (torch.corrcoef(ratings.T) - torch.eye(4)).abs().max() < 0.08
    assert panel(raters=4).score([""], ["text 2"]).item() == pytest.approx(
        panel(raters=4).ratings([""], ["text 2"]).mean().item()
    )


def test_raters_without_noise_follow_the_mean():
    made = panel(rating_sd=0.0)
    means = torch.tensor([[float(t.split()[-1]) for t in side] for side in (A, B)])
    expected = (means[0] > means[1]).float() + 0.5 * (means[0] == means[1]).float()
    assert torch.equal(made.prefer(P, A, B), expected)


def test_another_seed_seats_another_panel():
    assert torch.equal(panel(seed=3).prefer(P, A, B), panel(seed=3).prefer(P, A, B))
    assert not torch.equal(panel(seed=3).ratings(P, A), panel(seed=4).ratings(P, A))


def test_a_task_without_single_ratings_has_no_panel():
    with pytest.raises(UserError, match="the `panel` source needs a task with single human ratings"):
        Panel(Panel.Config()).prepare(SourceRoom(RUBRIC, None, None, 0))


def test_a_comparison_takes_as_many_judgements_as_raters():
    assert panel(raters=7).labels_per_comparison == 7
