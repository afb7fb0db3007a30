"""What the single ratings of a task are worth: alpha, one rater against the others, and votes on pairs against truth.

For the last, the ratings of each text are split by the seed: the first K make votes (vote j on a pair is rating j of
one text against rating j of the other; equal ratings are a tie) and the mean of the rest gives the true order, so that
no rating stands on both sides. Texts lie on a few random rings, so each stands in several pairs, and Bradley-Terry and
Elo have opponents to learn from. Blocks of some 64 texts keep Bradley-Terry's dense system small. Raters are anonymous
in such data, so Dawid-Skene, which learns one confusion table a rater, has nothing to learn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignbench.api import RatedText
from alignbench.errors import UserError
from alignbench.feedback.aggregate import bradley_terry, elo, ordered
from alignbench.scoring.agreement import alpha_interval, count_votes, interval_of_pairs
from alignbench.scoring.stats import Interval
from alignbench.tasks.ratings import Sentence, human_accuracy, human_pairs

MIN_GAP = 0.3  # rating points between the true means of a pair that is counted, as in the task's human pairs
ROUNDS = 3  # rings a block; a text stands in two pairs of each
BLOCK = 64  # texts
TRUTH_MIN = 2  # ratings left for the true mean
AGGREGATIONS = ("majority", "bradley_terry", "elo")


class Worth(NamedTuple):
    """One aggregation of so many votes a pair."""

    raters: int
    aggregation: str
    accuracy: Interval  # a tie is half right
    ties: float  # share of pairs it leaves undecided


class DomainAgreement(NamedTuple):
    domain: str
    texts: int
    ratings: int
    alpha: Interval  # interval level
    one_rater: Interval  # orders a pair as the mean of the others does
    human_pairs: int  # that this is told on
    pairs: int  # that the worth is told on
    left_out: int  # texts with too few ratings for votes and truth
    worth: list[Worth]


class PairedVotes(NamedTuple):
    left: np.ndarray  # (P,) codes of texts
    right: np.ndarray  # (P,)
    left_share: np.ndarray  # (P, K): 1 where left's rating is higher, 0.5 where equal, 0 where lower
    gap: np.ndarray  # (P,) true mean of left less that of right, from ratings that make no vote
    block: np.ndarray  # (N,) of each text; both texts of a pair are of one


def domain_agreement(domain: str, texts: Sequence[RatedText], raters: Sequence[int], seed: int = 0) -> DomainAgreement:
    """`raters`: numbers of votes a pair. UserError if the texts are too few, or have too few ratings."""
    sentences = [Sentence(one.text, tuple(one.ratings)) for one in texts if len(one.ratings) > 1]  # type: ignore[arg-type]
    if len(sentences) < 2:
        raise UserError(f"{domain}: {len(sentences)} texts have two ratings or more, two are wanted")
    item = np.repeat(np.arange(len(sentences)), [len(one.ratings) for one in sentences])
    values, label = np.unique(np.concatenate([one.ratings for one in sentences]), return_inverse=True)
    counts = count_votes(item, label, len(sentences), len(values))
    enough = [one for one in sentences if len(one.ratings) >= max(raters) + TRUTH_MIN]
    if len(enough) < 4:
        wanted = f"{max(raters)} votes and a truth need {max(raters) + TRUTH_MIN} ratings"
        raise UserError(f"{domain}: {wanted}, and {len(enough)} texts have so many: lower --raters")
    votes = paired_votes([one.ratings for one in enough], max(raters), seed)
    try:
        one_rater, pairs = _one_rater(sentences, seed)
    except UserError as error:
        raise UserError(f"{domain}: {error}") from None
    return DomainAgreement(
        domain=domain, texts=len(texts), ratings=sum(len(one.ratings) for one in texts),
        alpha=alpha_interval(counts, values.astype(float), "interval", seed=seed),
        one_rater=one_rater, human_pairs=pairs,
        pairs=int(_is_counted(votes).sum()), left_out=len(texts) - len(enough),
        worth=[worth(votes, k, name, seed) for k in raters for name in AGGREGATIONS],
    )  # fmt: skip


def paired_votes(ratings: Sequence[Sequence[float]], k: int, seed: int) -> PairedVotes:
    """Pairs of N texts on rings, k votes on each, and the truth of the ratings that are left."""
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(np.asarray(one, dtype=float)) for one in ratings]
    votes = np.stack([one[:k] for one in shuffled])  # (N, K)
    truth = np.array([one[k:].mean() for one in shuffled])  # (N,)
    blocks = np.array_split(rng.permutation(len(ratings)), max(1, len(ratings) // BLOCK))
    block = np.empty(len(ratings), dtype=int)
    pairs: dict[tuple[int, int], None] = {}  # a set in order
    for number, members in enumerate(blocks):
        block[members] = number
        for _ in range(ROUNDS):
            ring = rng.permutation(members)
            for one, other in zip(ring.tolist(), np.roll(ring, 1).tolist(), strict=True):
                if (other, one) not in pairs:
                    pairs[one, other] = None
    left, right = np.array(list(pairs)).T
    share = (1 + np.sign(votes[left] - votes[right])) / 2
    return PairedVotes(left, right, share, truth[left] - truth[right], block)


def worth(votes: PairedVotes, k: int, aggregation: str, seed: int = 0) -> Worth:
    """Accuracy of the first k votes of each pair, on the pairs whose true means are MIN_GAP apart. All pairs vote."""
    if aggregation == "majority":
        said = ordered((votes.left_share[:, :k] - 0.5).sum(axis=1))
    else:
        scores = _scores(votes, k, aggregation, seed)
        said = ordered(scores[votes.left] - scores[votes.right])
    counted = _is_counted(votes)
    if counted.sum() < 2:
        raise UserError(f"{counted.sum()} pairs have true means {MIN_GAP} apart, two are wanted: the texts are too few")
    said, true = said[counted], np.sign(votes.gap[counted])
    hits = np.where(said == 0, 0.5, said == true)
    interval = interval_of_pairs(hits, votes.left[counted], votes.right[counted])
    return Worth(k, aggregation, interval, float((said == 0).mean()))


def _scores(votes: PairedVotes, k: int, aggregation: str, seed: int) -> np.ndarray:
    """(N,) of the texts; comparable within a block."""
    n = len(votes.block)
    if aggregation == "elo":  # a vote after the other, in an order drawn by the seed
        order = np.random.default_rng(seed).permutation(len(votes.left) * k)
        left, right = (np.repeat(side, k)[order] for side in (votes.left, votes.right))
        return elo(left, right, votes.left_share[:, :k].ravel()[order], n)
    scores, local = np.zeros(n), np.zeros(n, dtype=int)
    pair_block = votes.block[votes.left]
    by_block, by_pair = np.argsort(votes.block, kind="stable"), np.argsort(pair_block, kind="stable")
    ends = np.arange(1, votes.block.max() + 1)
    texts = np.split(by_block, np.searchsorted(votes.block[by_block], ends))
    pairs = np.split(by_pair, np.searchsorted(pair_block[by_pair], ends))
    for members, chosen in zip(texts, pairs, strict=True):
        local[members] = np.arange(len(members))
        left, right = (np.repeat(local[side[chosen]], k) for side in (votes.left, votes.right))
        scores[members] = bradley_terry(left, right, votes.left_share[chosen, :k].ravel(), len(members))
    return scores


def _one_rater(sentences: Sequence[Sentence], seed: int) -> tuple[Interval, int]:
    """`human_accuracy` on as many pairs as half the texts, with its interval."""
    pairs = human_pairs(sentences, len(sentences) // 2, seed, MIN_GAP)
    place = {one.text: number for number, one in enumerate(sentences)}
    left = np.array([place[pair.chosen] for pair in pairs])
    right = np.array([place[pair.rejected] for pair in pairs])
    hits = [human_accuracy((sentences[a], sentences[b]), [p]) for a, b, p in zip(left, right, pairs, strict=True)]
    return interval_of_pairs(np.array(hits), left, right), len(pairs)


def _is_counted(votes: PairedVotes) -> np.ndarray:
    return np.abs(votes.gap) >= MIN_GAP
