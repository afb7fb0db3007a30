"""What a reward is worth: accuracy on pairs, what of it is overfitting, calibration, and its taste for length.

    scores = pair_scores(reward, pairs)                       # or implicit_scores(...), (2, N): chosen, rejected
    card_of(scores, pairs, scale)

A Bradley-Terry model says P(chosen is preferred) = sigmoid(margin), margin = scale (score(chosen) - score(rejected)) in
nats, and may be held to it. Pairs that share a text are no independent trials: `effective` is how many would say as
much, by `agreement.dyadic_variance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from alignbench.api import Pair, RewardSource
from alignbench.engine.resident import Resident
from alignbench.scoring import agreement

BINS = 10  # of confidence, from 0.5 to 1


class Card(NamedTuple):
    hits: float  # pairs ordered as people did, ties half
    pairs: int
    effective: float  # as many independent pairs would say as much
    ece: float | None  # expected calibration error, share; None: the scores claim no probability
    overconfidence: float | None  # mean confidence less the share ordered rightly
    brier: float | None  # mean square of 1 - P(chosen); a coin has 0.25
    length: (
        float | None
    )  # Spearman's correlation of score and number of words, over all texts; None: one of them is constant


def pair_scores(source: RewardSource, pairs: Sequence[Pair]) -> Tensor:
    """(2, N) scores of the chosen and the rejected texts."""
    prompts = [p.prompt for p in pairs]
    return torch.stack([source.score(prompts, [getattr(p, side) for p in pairs]) for side in ("chosen", "rejected")])


@torch.no_grad()
def implicit_scores(
    resident: Resident, policy: str | None, pairs: Sequence[Pair], max_new_tokens: int, temperature: float = 1.0
) -> Tensor:
    """(2, N) log p - log p_ref of a policy, nats: eq. 5 of Rafailov et al. 2023 (arXiv:2305.18290), up to beta and a
    constant of the prompt."""
    found = []
    for start in range(0, len(pairs), 64):
        part = pairs[start : start + 64]
        ratios = []
        for texts in ([p.chosen for p in part], [p.rejected for p in part]):
            tokens = resident.codec.encode([p.prompt for p in part], texts, max_new_tokens=max_new_tokens)
            with resident.using(policy):
                ours = resident.logprobs(tokens, temperature).sum(-1)
            with resident.using(None):
                ratios.append(ours - resident.logprobs(tokens, temperature).sum(-1))
        found.append(torch.stack(ratios))
    return torch.cat(found, dim=1)


def card_of(scores: Tensor, pairs: Sequence[Pair], scale: float | None) -> Card:
    """`scores`: (2, N). `scale`: nats of Bradley-Terry margin a point of score; None: scores claim no probability."""
    chosen, rejected = scores.double().cpu().numpy()
    hits = _hits(chosen - rejected)
    chance = None if scale is None else 1 / (1 + np.exp(-scale * (chosen - rejected)))
    return Card(
        float(hits.sum()),
        len(hits),
        effective_pairs(hits, pairs),
        None if chance is None else calibration_error(chance),
        None if chance is None else float(overconfidences(chance).mean()),
        None if chance is None else float(brier_scores(chance).mean()),
        _length_correlation(np.concatenate([chosen, rejected]), pairs),
    )


def effective_pairs(hits: np.ndarray, pairs: Sequence[Pair]) -> float:
    """(N,) hits, 0 to 1 -> how many independent pairs have the variance that these have, N at most."""
    return agreement.effective_pairs(hits, *text_codes(pairs))


def text_codes(pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) and (N,): numbers of the chosen and the rejected texts. A text is one with its prompt."""
    codes: dict[tuple[str, str], int] = {}
    chosen, rejected = (
        np.array([codes.setdefault((pair.prompt, text), len(codes)) for pair, text in zip(pairs, side, strict=True)])
        for side in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
    )
    return chosen, rejected


def calibration_error(chance: np.ndarray) -> float:
    """(N,) P(chosen) -> expected calibration error: over bins of confidence max(p, 1 - p), the mean gap between it and
    the share of pairs ordered rightly (Guo et al. 2017, arXiv:1706.04599, eq. 3)."""
    confidence, hits = np.maximum(chance, 1 - chance), _hits(chance - 0.5)
    places = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    gaps = (abs(float((confidence - hits)[places == place].sum())) for place in np.unique(places))
    return sum(gaps) / len(chance)


def overconfidences(chance: np.ndarray) -> np.ndarray:
    """(N,) P(chosen) -> (N,) confidence less whether the pair is ordered rightly."""
    return np.maximum(chance, 1 - chance) - _hits(chance - 0.5)


def brier_scores(chance: np.ndarray) -> np.ndarray:
    """(N,) P(chosen) -> (N,) squares of what it lacks to 1 (Brier 1950)."""
    return (1 - chance) ** 2


def own_accuracy(proxy: Tensor, gold: Tensor) -> Tensor:
    """(P, N) rewards of a row's own samples -> (P,) share of each prompt's pairs of samples that the proxy orders as
    the gold does. A tie of either counts half: what it can't tell apart, it guesses."""
    first, second = torch.triu_indices(proxy.shape[1], proxy.shape[1], offset=1)
    agreement = (proxy[:, first] - proxy[:, second]).sign() * (gold[:, first] - gold[:, second]).sign()
    return (agreement.double() + 1).mean(1) / 2


def _hits(gaps: np.ndarray) -> np.ndarray:
    return (np.sign(gaps) + 1) / 2


def _length_correlation(scores: np.ndarray, pairs: Sequence[Pair]) -> float | None:
    words = [len(getattr(p, side).split()) for side in ("chosen", "rejected") for p in pairs]
    if len(set(words)) < 2 or len(set(scores.tolist())) < 2:
        return None
    return float(stats.spearmanr(scores, words).statistic)
