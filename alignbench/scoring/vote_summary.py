"""What a file of votes says: agreement, each rater, and what majority and Dawid-Skene make of it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import sparse

from alignbench.feedback.aggregate import (
    BT_ITEMS_MAX,
    Consensus,
    bradley_terry,
    dawid_skene,
    elo,
    majority,
    most_probable,
)
from alignbench.feedback.votes import Comparisons, Votes
from alignbench.scoring.agreement import (
    Level,
    agreement_with_others,
    alpha_interval,
    count_votes,
    share_of_clusters,
    wilson_of_credit,
)
from alignbench.scoring.stats import Interval

TABLE_MAX = 2 * 10**7  # cells of Dawid-Skene's tables


class RaterRow(NamedTuple):
    rater: str
    votes: int
    compared: int  # of these, on items that others voted on
    agreement: float  # of these, with the majority of the others; NaN if there are none
    right: float | None  # share of right labels that Dawid-Skene expects of the rater on another item


class PlayerRow(NamedTuple):
    player: str
    comparisons: int
    won: float  # share, a tie half
    bradley_terry: float | None
    elo: float


class VoteSummary(NamedTuple):
    alpha: Interval
    one_rater: Interval  # agreement with the majority of the others
    raters: list[RaterRow]  # worst first
    votes_of_items: np.ndarray  # (I,)
    majority: Consensus
    dawid_skene: Consensus | None  # None where its tables would be too large
    is_converged: bool  # Dawid-Skene's EM
    accuracy: dict[str, Interval]  # of each aggregation, where a truth is given; a tie of t labels is 1 / t right
    truths: int  # items with a truth
    players: list[PlayerRow]  # best first; of comparisons alone
    parts: int  # groups of players that no comparison joins

    @property
    def ties(self) -> int:
        return int((self.majority.label < 0).sum())

    @property
    def differing(self) -> int:
        """Items where majority and Dawid-Skene both decide, and differ."""
        assert self.dawid_skene is not None
        both = (self.majority.label >= 0) & (self.dawid_skene.label >= 0)
        return int((both & (self.majority.label != self.dawid_skene.label)).sum())

    @property
    def settled(self) -> int:
        """Ties of the majority that Dawid-Skene decides."""
        assert self.dawid_skene is not None
        return int(((self.majority.label < 0) & (self.dawid_skene.label >= 0)).sum())


def summarise(votes: Votes, level: Level, seed: int = 0) -> VoteSummary:
    n_items, n_raters, n_labels = shape = (len(votes.items), len(votes.raters), len(votes.labels))
    counts = count_votes(votes.item, votes.label, n_items, n_labels)
    agrees = agreement_with_others(counts, votes.item, votes.label)  # (V,)
    is_compared = ~np.isnan(agrees)
    credit, compared = np.where(is_compared, agrees, 0.0), is_compared.astype(float)
    found = {"majority": majority(counts)}
    right: np.ndarray | None = None
    is_converged = False
    if max(n_raters * n_labels**2, n_items * n_labels) <= TABLE_MAX:
        fitted = dawid_skene(votes.item, votes.rater, votes.label, shape)
        found["dawid_skene"] = most_probable(fitted.posterior)
        is_converged = fitted.is_converged
        right = np.diagonal(fitted.confusion, axis1=1, axis2=2) @ fitted.prior  # (R,)
    truths, accuracy = 0, {}
    if votes.truth is not None:
        known = votes.truth > -2
        truths = int(known.sum())
        for name, consensus in found.items():
            accuracy[name] = wilson_of_credit(float(consensus.credit(votes.truth)[known].sum()), truths)
    players, parts = ([], 0) if votes.comparisons is None else _players(votes.comparisons)
    return VoteSummary(
        alpha=alpha_interval(counts, votes.values, level, seed=seed),
        one_rater=_of_one_rater(agrees[is_compared], votes.item[is_compared]),
        raters=_rater_rows(votes, credit, compared, right),
        votes_of_items=np.asarray(counts.sum(axis=1)).ravel().astype(int),
        majority=found["majority"], dawid_skene=found.get("dawid_skene"), is_converged=is_converged,
        accuracy=accuracy, truths=truths, players=players, parts=parts,
    )  # fmt: skip


def _of_one_rater(agrees: np.ndarray, items: np.ndarray) -> Interval:
    """(V,) agreements of votes with the others on their item. One item says nothing of others: no ends."""
    if (items == items[0]).all():
        return Interval(float(agrees.mean()), math.nan, math.nan)
    return share_of_clusters(agrees, items)


def _rater_rows(votes: Votes, credit: np.ndarray, compared: np.ndarray, right: np.ndarray | None) -> list[RaterRow]:
    n = len(votes.raters)
    total = np.bincount(votes.rater, minlength=n)
    known, agreed = np.bincount(votes.rater, compared, n), np.bincount(votes.rater, credit, n)
    rows = [
        RaterRow(
            name,
            int(total[rater]),
            int(known[rater]),
            float(agreed[rater] / known[rater]) if known[rater] else math.nan,
            None if right is None else float(right[rater]),
        )
        for rater, name in enumerate(votes.raters)
    ]
    return sorted(rows, key=lambda row: (math.isnan(row.agreement), row.agreement, -row.votes))


def _players(met: Comparisons) -> tuple[list[PlayerRow], int]:
    n = len(met.players)
    games = np.bincount(met.left, minlength=n) + np.bincount(met.right, minlength=n)
    won = np.bincount(met.left, met.left_share, n) + np.bincount(met.right, 1 - met.left_share, n)
    strengths = bradley_terry(met.left, met.right, met.left_share, n) if n <= BT_ITEMS_MAX else None
    ratings = elo(met.left, met.right, met.left_share, n)
    rows = [
        PlayerRow(name, int(games[i]), float(won[i] / games[i]), None if strengths is None else float(strengths[i]),
                  float(ratings[i]))
        for i, name in enumerate(met.players)
    ]  # fmt: skip
    joined = sparse.coo_array((np.ones(len(met.left)), (met.left, met.right)), shape=(n, n))
    parts = sparse.csgraph.connected_components(joined, directed=False)[0]
    key = 3 if strengths is not None else 4
    return sorted(rows, key=lambda row: -row[key]), int(parts)  # type: ignore[operator]
