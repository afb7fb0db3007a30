"""A reward's card against numbers by hand, brute force and simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PeftModel

from alignbench.api import Config, Pair, RewardSource
from alignbench.scoring.reward_card import (
    calibration_error,
    card_of,
    effective_pairs,
    implicit_scores,
    own_accuracy,
    pair_scores,
)

PROMPTS = ["the film is", "a", "", "the plot of the long film"]


class FirstLetter(RewardSource):
    name = "first-letter"

    def score(self, prompts, completions):
        return torch.tensor([float(ord(c[0])) for c in completions])


def card(pairs: list[Pair], scale: float | None = None):
    return card_of(pair_scores(FirstLetter(Config()), pairs), pairs, scale)


def implicit(made, pairs: list[Pair], limit: int):
    return card_of(implicit_scores(made, "policy", pairs, limit), pairs, None)


# ------------------------------------------------------------------------------------------------------------- accuracy


def test_a_tied_pair_counts_half():
    pairs = [Pair("", "b", "a"), Pair("", "c", "a"), Pair("", "a", "b"), Pair("", "ax", "ay"), Pair("", "by", "bx")]
    assert card(pairs)[:2] == (3.0, 5)


def test_implicit_accuracy_of_a_fresh_policy_is_one_half(resident):
    made = resident("llama")
    made.add_adapter("policy", 0)
    pairs = [Pair("the film is", " good", " bad"), Pair("a", " plot", " long film"), Pair("", "one", "a")]
    assert implicit(made, pairs, 6)[:2] == (1.5, 3)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_implicit_accuracy_counts_the_pairs_whose_log_ratio_grew_more_for_the_chosen(
    resident, shake, plain, tmp_path, name
):
    made = resident(name)
    shake(made.add_adapter("policy", 0))
    made.save_adapter("policy", tmp_path)
    models = plain(name), PeftModel.from_pretrained(plain(name), tmp_path).eval()
    words = [" good", " bad", " a plot", " long film", " one", ""]
    pairs = [Pair(p, a, b) for p in PROMPTS for a in words for b in words if a != b]

    @torch.no_grad()
    def reward(prompt, completion):
        head, tail = made.codec.prompt(prompt), made.codec.completion(completion)
        reference, ours = (
            m(input_ids=torch.tensor([head + tail])).logits[0, len(head) - 1 : -1].log_softmax(-1) for m in models
        )
        return float((ours - reference)[range(len(tail)), tail].sum())

    rewards = {(p, w): reward(p, w) for p in PROMPTS for w in words}
    hits = sum(rewards[p.prompt, p.chosen] > rewards[p.prompt, p.rejected] for p in pairs)
    assert implicit(made, pairs, 8)[:2] == (hits, len(pairs))
    assert hits == len(pairs) / 2  # every pair is there in both orders
    winners = [p for p in pairs if rewards[p.prompt, p.chosen] > rewards[p.prompt, p.rejected]]
    assert implicit(made, winners, 8)[:2] == (len(winners), len(winners))


def test_own_accuracy_is_the_share_of_a_prompts_pairs_in_the_golds_order():
    gold = torch.tensor([[1.0, 3.0, 2.0], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
    proxy = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [5.0, 5.0, 1.0]])
    assert own_accuracy(proxy, gold).tolist() == pytest.approx([2 / 3, 1 / 2, 1 / 6])


# ----------------------------------------------------------------------------------------------- pairs that share texts


def pairs_over(texts: int, count: int, rng: np.random.Generator) -> tuple[list[Pair], np.ndarray]:
    ends = np.array([rng.choice(texts, 2, replace=False) for _ in range(count)])
    return [Pair("", f"t{a}", f"t{b}") for a, b in ends], ends


def test_pairs_without_a_common_text_are_as_many_as_they_are():
    pairs = [Pair("", f"a{i}", f"b{i}") for i in range(50)]
    assert effective_pairs(np.arange(50) % 3 > 0, pairs) == 50
    same_words = [Pair(f"prompt {i}", "yes", "no") for i in range(50)]  # a text is what stands behind its prompt
    assert effective_pairs(np.arange(50) % 3 > 0, same_words) == 50


def test_variance_adds_products_of_residuals_over_pairs_with_a_common_text():
    rng = np.random.default_rng(0)
    pairs, _ = pairs_over(25, 60, rng)
    hits = (rng.random(60) < 0.7).astype(float)
    residuals = hits - hits.mean()
    variance = sum(
        residuals[i] * residuals[j]
        for i, one in enumerate(pairs)
        for j, other in enumerate(pairs)
        if {one.chosen, one.rejected} & {other.chosen, other.rejected}
    )
    expected = 60 if variance <= residuals @ residuals else 60 * (residuals @ residuals) / variance
    assert effective_pairs(hits, pairs) == pytest.approx(expected)


def test_the_standard_error_is_the_real_spread_where_wilsons_is_too_small():
    """Texts whose scores are off drag all of their pairs with them: 60 texts in 120 pairs, drawn 400 times."""
    rng = np.random.default_rng(1)
    shares, told, binomial = [], [], []
    for _ in range(400):
        pairs, ends = pairs_over(60, 120, rng)
        true, error = rng.normal(size=60), 1.5 * rng.normal(size=60)
        hits = (
            ((true + error)[ends[:, 0]] > (true + error)[ends[:, 1]]) == (true[ends[:, 0]] > true[ends[:, 1]])
        ) * 1.0
        share = hits.mean()
        shares.append(share)
        told.append(share * (1 - share) / effective_pairs(hits, pairs))
        binomial.append(share * (1 - share) / 120)
    real = np.var(shares)
    assert np.mean(binomial) < 0.75 * real
    assert np.mean(told) == pytest.approx(real, rel=0.2)


# ----------------------------------------------------------------------------------------------- calibration and length


def test_calibration_by_hand():
    chance = np.array([0.9, 0.9, 0.6, 0.3])  # confident by .9, .9, .6 and .7; the last is wrong
    assert calibration_error(chance) == pytest.approx((2 * 0.1 + 0.4 + 0.7) / 4)
    margins = np.log(chance / (1 - chance))
    pairs = [Pair("", f"a{i}", f"b{i}") for i in range(4)]
    found = card_of(torch.tensor(np.stack([margins, np.zeros(4)])), pairs, 1.0)
    assert found.ece == pytest.approx(calibration_error(chance))
    assert found.overconfidence == pytest.approx((0.9 + 0.9 + 0.6 + 0.7 - 3) / 4)
    assert found.brier == pytest.approx((0.01 + 0.01 + 0.16 + 0.49) / 4)
    assert card(pairs).ece is None  # scores that claim no probability


def test_a_calibrated_reward_has_no_error_and_one_that_is_too_sure_has_its_excess():
    rng = np.random.default_rng(2)
    margins = rng.normal(size=20_000)
    is_chosen = rng.random(20_000) < 1 / (1 + np.exp(-margins))
    oriented = np.where(is_chosen, margins, -margins)  # of the text that people preferred
    assert calibration_error(1 / (1 + np.exp(-oriented))) < 0.015
    sure = 1 / (1 + np.exp(-5 * oriented))
    excess = np.maximum(sure, 1 - sure).mean() - (oriented > 0).mean()
    assert calibration_error(sure) == pytest.approx(excess, abs=0.015)
    assert excess > 0.15


def test_correlation_with_length_is_over_single_texts():
    pairs = [Pair("", "z one two", "b"), Pair("", "y one", "a b"), Pair("", "c", "x one two three")]
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 4.0]])
    assert card_of(scores, pairs, None).length == pytest.approx(1.0)
    assert card_of(-scores, pairs, None).length == pytest.approx(-1.0)
    assert card_of(torch.ones(2, 3), pairs, None).length is None
