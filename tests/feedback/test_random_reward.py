"""Noise as a reward: fixed for each text, spread as it says, and related to nothing."""

import pytest
import torch

from alignbench.feedback.random_reward import RandomReward

PROMPTS = [f"prompt {i % 7}" for i in range(4000)]
TEXTS = [f" text {i}" + " and more" * (i % 5) for i in range(4000)]


def scores(seed=0, prompts=PROMPTS, texts=TEXTS):
    return RandomReward(RandomReward.Config(seed=seed)).score(prompts, texts)


def test_a_text_keeps_its_number_and_prompt_completion_and_seed_each_decide_it():
    again = scores(prompts=PROMPTS[::-1], texts=TEXTS[::-1]).flip(0)
    assert torch.equal(scores(), again)
    for other in (scores(seed=1), scores(prompts=["other"] * 4000), scores(texts=[t + "." for t in TEXTS])):
        assert abs(float(torch.corrcoef(torch.stack([scores(), other]))[0, 1])) < 4 / 4000**0.5
    assert float(scores(prompts=["a"], texts=["bc"])) != float(scores(prompts=["ab"], texts=["c"]))


def test_numbers_are_uniform_with_mean_0_and_sd_1():
    values = scores().double().sort().values
    edge = 3**0.5
    assert -edge <= float(values[0]) < float(values[-1]) <= edge
    expected = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    gap = float(((values + edge) / (2 * edge) - expected).abs().max())
    assert gap < 1.95 / 4000**0.5  # Kolmogorov's, p = 0.001
    assert float(values.mean()) == pytest.approx(0, abs=4 / 4000**0.5)
    assert float(values.std()) == pytest.approx(1, abs=0.05)


def test_length_and_number_are_unrelated():
    lengths = torch.tensor([float(len(text)) for text in TEXTS])
    assert abs(float(torch.corrcoef(torch.stack([scores(), lengths]))[0, 1])) < 4 / 4000**0.5
