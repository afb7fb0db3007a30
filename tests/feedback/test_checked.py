"""A source that breaks its contract is named with its distribution, and what is right is billed."""

import pytest
import torch

from alignbench.api import Config, RewardSource, Rubric, SourceRoom
from alignbench.engine.meter import Meter
from alignbench.errors import PluginError
from alignbench.feedback.checked import Checked
from alignbench.feedback.length import Length

NAN = float("nan")


class Odd(RewardSource):
    """Returns whatever it is told to."""

    name = "odd"
    labels = "ai"
    answer = None

    def prepare(self, room):
        self.labels_per_comparison = 3

    def score(self, prompts, completions):
        self.tokens_judged += 10
        return self.answer

    def prefer(self, prompts, a, b):
        return self.score(prompts, a)


def odd(answer, labels="ai"):
    source = Odd(Config())
    source.answer, source.labels = answer, labels
    return Checked(source, "some-dist", Meter(torch.device("cpu")))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ([1.0, 2.0], r"score\(\) returned a list; return a float32 tensor of shape \(2,\)"),
        (None, r"score\(\) returned a NoneType; return a float32 tensor"),
        (torch.zeros(3), r"score\(\) returned shape \(3,\) for 2 texts; return \(2,\)"),
        (torch.zeros(2, 1), r"score\(\) returned shape \(2, 1\) for 2 texts"),
        (torch.tensor(1.0), r"score\(\) returned shape \(\) for 2 texts"),
        (torch.tensor([0.0, NAN]), r"score\(\) returned nan for text 1 of 2; return finite numbers"),
        (torch.tensor([-torch.inf, 0.0]), r"score\(\) returned -inf for text 0 of 2"),
    ],
)
def test_a_wrong_score_is_a_plugin_error(answer, problem):
    made = odd(answer)
    with pytest.raises(PluginError, match=rf"plugin 'odd' \(from some-dist\): {problem}"):
        made.score(["", ""], ["a", "b"])
    with pytest.raises(PluginError, match=problem.replace("score", "prefer")):
        made.prefer(["", ""], ["a", "b"], ["c", "d"])
    assert made._meter.counts["labels_ai"] == 0


@pytest.mark.parametrize("share", [-0.25, 1.5])
def test_a_share_outside_0_to_1_is_a_plugin_error(share):
    low, high = sorted([share, 0.5])
    with pytest.raises(PluginError, match=rf"prefer\(\) returned {low:.3g} to {high:.3g}; allowed: 0 to 1"):
        odd(torch.tensor([share, 0.5])).prefer(["", ""], ["a", "b"], ["c", "d"])
    assert odd(torch.tensor([0.0, 1.0])).prefer(["", ""], ["a", "b"], ["c", "d"]).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("labels", "billed"), [("ai", (0, 12)), ("human", (12, 0)), ("free", (0, 0))])
def test_labels_and_tokens_are_billed_per_judgement(labels, billed):
    made = odd(torch.tensor([0.5, 1.0]), labels)
    made.prepare(SourceRoom(Rubric("", "", "", "", ""), None, None, 0))
    made.prefer(["", ""], ["a", "b"], ["c", "d"])
    made.score(["", ""], ["a", "b"])
    counts = made._meter.counts
    assert (counts["labels_human"], counts["labels_ai"]) == billed
    assert counts["tokens_judged"] == 20


def test_other_number_types_become_float32():
    scores = odd(torch.tensor([1, 2])).score(["", ""], ["a", "b"])
    assert scores.dtype == torch.float32
    assert odd(torch.tensor([1.0, 2.0], dtype=torch.bfloat16)).score(["", ""], ["a", "b"]).dtype == torch.float32


def test_the_length_reward_counts_words():
    made = Checked(Length(Length.Config(words_per_point=2.0)), "alignbench", Meter(torch.device("cpu")))
    texts = ["one two three", "", "  four   five "]
    assert made.score(["p q r"] * 3, texts).tolist() == [1.5, 0.0, 1.0]
    assert made.prefer([""] * 3, texts, texts[::-1]).tolist() == pytest.approx([0.62246, 0.5, 0.37754], abs=1e-5)
    assert sum(made._meter.counts.values()) == 0
