"""What every number of a record means: its definition, unit and direction, written once and quoted under each table.

p is the policy, q the reference (the supervised start, for every row), r = q / p on one token.
"""

from __future__ import annotations

from alignbench.scoring.cost_glossary import COSTS
from alignbench.scoring.metric import Metric

_METRICS = (
    Metric(
        "reward_gold",
        "Gold reward of the policy's completion, mean over held-out prompts. Only the scorer can reach it.",
        "points of the task's scale",
        "higher",
        "Gold reward",
    ),
    Metric(
        "reward_gold_gain",
        "Gold reward minus the mean of the SFT samples of the same prompt, mean over held-out prompts.",
        "points of the task's scale",
        "higher",
        "Gain over SFT",
    ),
    Metric(
        "reward_gold_sd",
        "The gain over SFT divided by the standard deviation of the SFT samples' gold reward.",
        "SFT standard deviations",
        "higher",
        "Gain, SD",
    ),
    Metric(
        "reward_gold_variance",
        "Variance of the gold reward between completions of one prompt, mean over held-out prompts.",
        "squared points of the task's scale",
        "neither",
        "Gold variance",
    ),
    Metric(
        "reward_gold_second",
        "Reward by a second gold of another kind, which reads no weight of the base model, mean over held-out prompts.",
        "points of the task's scale",
        "higher",
        "Second gold",
    ),
    Metric(
        "reward_gold_second_gain",
        "The second gold's reward minus the start's on the same prompt, mean over held-out prompts.",
        "points of the task's scale",
        "higher",
        "Second gold's gain",
    ),
    Metric(
        "gold_extrapolates",
        "Share of completions, read with their prompt, whose leverage in the gold's regression is above that of 99 % "
        "of held-out human sentences, each beside what is usual at its length.",
        "share",
        "lower",
        "Gold extrapolates",
    ),
    Metric(
        "reward_proxy",
        "The reward the row optimised, or the suite's reward model where it optimised none. Each has its own scale.",
        "points of the proxy's scale",
        "higher",
        "Proxy reward",
    ),
    Metric(
        "reward_proxy_gain",
        "Proxy reward minus its mean over the SFT samples of the same prompt, mean over held-out prompts.",
        "points of the proxy's scale",
        "higher",
        "Proxy's gain",
    ),
    Metric(
        "win_rate_gold",
        "Share of pairs of the row's and the SFT's samples of one prompt in which the row's has more gold reward, ties "
        "half; mean over held-out prompts.",
        "share",
        "higher",
        "Win rate",
    ),
    Metric(
        "kl_nats_exact",
        "Mean over held-out prompts of the sum, over the policy's own sampled response tokens (unfiltered), of "
        "the full-vocabulary KL(policy || reference), both at the suite's temperature. Never clamped. A prefix that a "
        "policy is given before its prompts is the policy's: the reference reads the prompt alone.",
        "nats",
        "lower",
        "KL, nats",
    ),
    Metric(
        "kl_nats_k1",
        "Mean over held-out prompts of the sum of log p - log q over the same tokens. Unbiased, can be negative.",
        "nats",
        "lower",
        "KL k1, nats",
    ),
    Metric(
        "kl_nats_k3",
        "Mean over held-out prompts of the sum of (r - 1) - log r over the same tokens (Schulman 2020). Not negative.",
        "nats",
        "lower",
        "KL k3, nats",
    ),
    Metric(
        "kl_nats_bound",
        "Upper bound on KL(decoding rule || the policy it samples from), for rules such as best-of-n.",
        "nats",
        "lower",
        "KL bound, nats",
    ),
    Metric(
        "reward_model_accuracy",
        "Share of held-out human pairs that the proxy orders as the humans did, ties half. A row that learned from "
        "pairs without a reward is judged by its implicit reward log p - log q. Pairs that share a text are no "
        "independent trials: the interval counts them for as many as say as much.",
        "share",
        "higher",
        "RM accuracy",
    ),
    Metric(
        "reward_model_train_accuracy",
        "The same share of the comparisons that the proxy, or the policy, was fitted to. Far above the held-out one it "
        "says that they were learned by heart.",
        "share",
        "neither",
        "On its training pairs",
    ),
    Metric(
        "reward_model_start_accuracy",
        "Share of pairs of the start's samples of one prompt that the row's proxy orders as the gold does, ties half, "
        "mean over held-out prompts: before training.",
        "share",
        "higher",
        "On the start's samples",
    ),
    Metric(
        "reward_model_own_accuracy",
        "The same share of the row's own samples: after training.",
        "share",
        "higher",
        "On the row's samples",
    ),
    Metric(
        "reward_model_best_of",
        "Gold of the sample that the row's proxy likes best of the start's on a prompt, less their mean; of so many as "
        "the largest power of two that there are.",
        "points",
        "higher",
        "Its best of the start's",
    ),
    Metric(
        "reward_model_ece",
        "Expected calibration error on held-out human pairs: mean gap, over ten bins, between the probability that the "
        "proxy gives the text it prefers and how often people did (Guo et al. 2017).",
        "share",
        "lower",
        "ECE",
    ),
    Metric(
        "reward_model_overconfidence",
        "Mean probability that the proxy gives the text it prefers, less how often people did; held-out human pairs.",
        "share",
        "neither",
        "Overconfidence",
    ),
    Metric(
        "reward_model_brier",
        "Mean square of one less the probability that the proxy gives the text that people preferred; a coin has 0.25.",
        "share",
        "lower",
        "Brier",
    ),
    Metric(
        "reward_model_length",
        "Spearman's correlation of the proxy's score with the number of words, over the texts of held-out human pairs.",
        "correlation",
        "neither",
        "Correlation with length",
    ),
    Metric(
        "reward_model_cut",
        "Share of the held-out pairs of which a text is longer than a fitted reward reads and is cut for it; people, "
        "gold and judges read it whole.",
        "share of pairs",
        "neither",
        "Pairs with a cut text",
    ),
    Metric(
        "reward_model_accuracy_other",
        "The same on human pairs over texts of other kinds than the task's, all kinds together: for the sentiment task "
        "tweets, product reviews and editorials.",
        "share",
        "higher",
        "RM accuracy elsewhere",
    ),
    Metric(
        "fitted_pairs",
        "Comparisons that the proxy was fitted to, or the policy itself where it learned from pairs without a reward.",
        "pairs",
        "neither",
        "Pairs fitted to",
    ),
    Metric(
        "reward_model_steps",
        "Optimiser steps that the proxy was fitted in.",
        "steps",
        "neither",
        "Steps of the fit",
    ),
    Metric(
        "forgetting_nats",
        "Language-model loss of the policy on texts of another kind than the task's, less that of the reference: mean "
        "over their tokens, at temperature 1, nothing before them.",
        "nats per token",
        "lower",
        "Forgetting, nats",
    ),
    Metric(
        "surprise_nats",
        "How unlikely prompt and completion are, as one text, to the supervised start at temperature 1, less how "
        "unlikely people's texts in the held-out pairs are to it. Well above 0: text that people do not write. The "
        "start itself lies below 0 where it is sampled at a temperature below 1, and so do set phrases.",
        "nats per token",
        "neither",
        "Surprise, nats",
    ),
    Metric(
        "completion_tokens",
        "Length of the policy's completion, mean over held-out prompts.",
        "tokens",
        "neither",
        "Length, tokens",
    ),
    Metric(
        "length_change",
        "Tokens of a completion less the mean of the SFT samples of the same prompt.",
        "tokens",
        "neither",
        "Change of length",
    ),
    Metric(
        "word_share_change",
        "Share of completions that say one of `evaluation.words`, less that of the SFT samples of the same prompt.",
        "share",
        "neither",
        "Change of the words' share",
    ),
    Metric(
        "eos_rate",
        "Share of completions that ended by themselves within the token limit.",
        "share",
        "neither",
        "EOS rate",
    ),
    Metric(
        "distinct_2",
        "Distinct word pairs over all word pairs, of all completions together (after Li et al. 2016).",
        "share",
        "higher",
        "Distinct-2",
    ),
    Metric(
        "repetition",
        "Share of a completion's word pairs that repeat an earlier one of it, mean over completions.",
        "share",
        "lower",
        "Repetition",
    ),
    Metric(
        "reward_gold_enumerated",
        "Expected gold reward, a sum over every completion a prompt can have, mean over the distinct held-out prompts.",
        "points of the task's scale",
        "higher",
        "Gold, enumerated",
    ),
    Metric(
        "reward_proxy_enumerated",
        "Expected proxy reward, a sum over every completion, mean over the distinct held-out prompts.",
        "points of the proxy's scale",
        "higher",
        "Proxy, enumerated",
    ),
    Metric(
        "kl_nats_enumerated",
        "KL(policy || reference), a sum over every completion, mean over the distinct held-out prompts: what "
        "kl_nats_exact, k1 and k3 estimate.",
        "nats",
        "lower",
        "KL, enumerated",
    ),
    Metric(
        "optimum_tv",
        "Total variation between the policy and the optimum of the row's own objective, pi* proportional to "
        "q exp(r / beta) with the row's own start as q; r is the reward it optimised, or gold where it learned from "
        "the task's human pairs. Mean over prompts.",
        "share of probability",
        "lower",
        "TV to optimum",
    ),
    Metric(
        "optimum_kl_nats",
        "KL(policy || optimum), mean over prompts; beta times it is what the objective still lacks.",
        "nats",
        "lower",
        "KL to optimum",
    ),
    Metric(
        "objective_share",
        "Of the gain in E[r] - beta KL(policy || own start) that the optimum makes over the start, the share made.",
        "share, 1 at the optimum",
        "higher",
        "Objective reached",
    ),
)

GLOSSARY: dict[str, Metric] = {metric.name: metric for metric in (*_METRICS, *COSTS)}


def kl_in_words(own: float | None, bound: float | None, shown: str) -> str:
    """A policy's KL, `own` and as it is `shown`, beside the bound of a decoding rule that samples from it. The bound is
    against that policy. It bounds the KL from the reference only where the policy is the reference; elsewhere the two
    stand apart, for their sum would bound nothing."""
    if bound is None:
        return shown
    return f"{shown} + <= {bound:z.2f}" if own else f"<= {bound:z.2f}"
