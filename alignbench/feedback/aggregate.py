"""One answer from several votes: majority, Dawid-Skene, and for comparisons Bradley-Terry and Elo.

Dawid-Skene is written out here. `crowd-kit`, which has it, requires transformers and nltk for aggregations of text and
takes seconds to import; its EM steps are the reference of the test. Bradley-Terry comes from `choix` and Elo from
`evalica`, which are optional: `pip install 'alignbench[agreement]'`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import softmax

from alignbench.errors import UserError

LIBRARIES = ("choix", "evalica")
SMALLEST = 1e-10  # a probability of Dawid-Skene, so that one vote cannot rule a label out for good
SAME = 1e-9  # two probabilities or scores nearer than this tie
BT_STRENGTH = 1.0  # pseudo-choices an item, see bradley_terry
BT_ITEMS_MAX = 2000  # an iteration solves a dense system of so many unknowns: a third of a second


class Consensus(NamedTuple):
    """What an aggregation says of I items."""

    label: np.ndarray  # (I,) codes; -1 where labels tie, or there is no vote
    share: sparse.csr_array  # (I, L): 1 / t at each of the t labels in front, so 1 where one leads alone

    def credit(self, truth: np.ndarray) -> np.ndarray:
        """(I,) of (I,) true codes: 1 where right, 1 / t where the truth is among t that tie. A code of -1 is a truth
        that nobody voted for: 0."""
        known = np.flatnonzero(truth >= 0)
        found = np.zeros(len(truth))
        found[known] = np.asarray(self.share[known, truth[known]]).ravel()
        return found


class DawidSkene(NamedTuple):
    posterior: np.ndarray  # (I, L) probability that the item's true label is l
    confusion: np.ndarray  # (R, L, L): [r, seen, true], what rater r says of each true label; sums to 1 over `seen`
    prior: np.ndarray  # (L,)
    iterations: int
    is_converged: bool


def majority(counts: sparse.csr_array) -> Consensus:
    """The label with most votes of `counts` (I, L). A tie stays one."""
    return _front(counts, 0.5)


def dawid_skene(
    items: np.ndarray,  # (V,) codes, as the next two
    raters: np.ndarray,
    labels: np.ndarray,
    shape: tuple[int, int, int],  # items, raters, labels
    iterations: int = 100,
    tolerance: float = 1e-6,  # of the largest change of a posterior, where EM stops
) -> DawidSkene:
    """Maximum likelihood by EM of one confusion table a rater, Dawid & Skene, Applied Statistics 28 (1979), equations
    2.3 to 2.5, from the share of votes on each item. Every rater may vote once an item."""
    n_items, n_raters, n_labels = shape
    ones = np.ones(len(items))
    said = sparse.csr_array((ones, (raters * n_labels + labels, items)), shape=(n_raters * n_labels, n_items))
    said_of = sparse.csr_array(said.T)
    posterior = np.zeros((n_items, n_labels))
    np.add.at(posterior, (items, labels), 1.0)
    posterior /= posterior.sum(axis=1, keepdims=True)
    done, change = 0, np.inf
    prior, confusion = _maximise(said, posterior, n_raters)
    while done < iterations and change > tolerance:
        log_joint = np.log(prior.clip(SMALLEST)) + said_of @ np.log(confusion.reshape(-1, n_labels))  # (I, L)
        renewed = softmax(log_joint, axis=1)
        change, posterior, done = float(np.abs(renewed - posterior).max()), renewed, done + 1
        prior, confusion = _maximise(said, posterior, n_raters)
    return DawidSkene(posterior, confusion, prior, done, change <= tolerance)


def most_probable(posterior: np.ndarray) -> Consensus:
    """The label of the highest posterior, (I, L). Labels tie that are within rounding of each other."""
    return _front(sparse.csr_array(posterior), SAME)


def bradley_terry(
    left: np.ndarray,  # (V,) codes, as `right`
    right: np.ndarray,
    left_share: np.ndarray,  # (V,): 1 where left won, 0 where right did, 0.5 for a tie
    n_items: int,
    strength: float = BT_STRENGTH,
) -> np.ndarray:
    """(n_items,) log-strengths of mean 0: P(a beats b) = sigmoid(score[a] - score[b]). A tie is half a win each.

    The maximum of log-likelihood + strength * sum_i log softmax(score)_i. The second term is a Dirichlet prior, as if
    each item had been chosen `strength` times out of all: it keeps the undefeated finite. Computed by I-LSR (Maystre &
    Grossglauser 2015), whose regulariser `alpha` in choix is strength / n_items. choix's own `opt_pairwise` loops over
    single votes in Python, too slow for a million.
    """
    import choix  # optional

    wins = np.zeros((n_items, n_items))
    np.add.at(wins, (left, right), left_share)
    np.add.at(wins, (right, left), 1 - left_share)
    return choix.ilsr_pairwise_dense(wins, alpha=strength / n_items, max_iter=10_000)


def elo(left: np.ndarray, right: np.ndarray, left_share: np.ndarray, n_items: int) -> np.ndarray:
    """(n_items,) Elo scores after the votes in their order; the arguments are those of `bradley_terry`.

    evalica's defaults: all start at 1000, K is 4, and 400 points are odds of ten to one.
    """
    import evalica  # optional
    import pandas as pd

    winner = np.array([2, 0, 1])[(2 * left_share).astype(int)]  # evalica's codes: 0 a draw, 1 left, 2 right
    found = evalica.elo(left.tolist(), right.tolist(), winner.tolist(), index=pd.RangeIndex(n_items))
    return found.scores.reindex(range(n_items)).to_numpy()


def ordered(difference: np.ndarray) -> np.ndarray:
    """(P,) 1, 0 or -1: which of two scores is higher, 0 where they tie within rounding."""
    return np.where(np.abs(difference) <= SAME, 0, np.sign(difference)).astype(int)


def require_libraries(names: Sequence[str] = LIBRARIES) -> None:
    """UserError that says how to install, if a library of the comparisons is not there."""
    if missing := [name for name in names if find_spec(name) is None]:
        names_missing = " and ".join(missing)
        raise UserError(
            f"Bradley-Terry and Elo need {names_missing}, not installed here: pip install 'alignbench[agreement]'"
        )


def _maximise(said: sparse.csr_array, posterior: np.ndarray, n_raters: int) -> tuple[np.ndarray, np.ndarray]:
    """The M step: (L,) prior and (R, L, L) confusion of the posterior (I, L)."""
    labels = posterior.shape[1]
    confusion = (said @ posterior).reshape(n_raters, labels, labels).clip(SMALLEST)
    return posterior.mean(axis=0), confusion / confusion.sum(axis=1, keepdims=True)


def _front(scores: sparse.csr_array, slack: float) -> Consensus:
    """The labels whose score is within `slack` of their item's highest."""
    rows = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    best = np.full(scores.shape[0], -np.inf)
    np.maximum.at(best, rows, scores.data)
    leads = np.flatnonzero(scores.data >= best[rows] - slack)
    lead_rows, lead_labels = rows[leads], scores.indices[leads]
    tied = np.bincount(lead_rows, minlength=scores.shape[0])
    label = np.full(scores.shape[0], -1)
    label[lead_rows] = lead_labels
    label[tied != 1] = -1
    share = sparse.csr_array((1 / tied[lead_rows], (lead_rows, lead_labels)), shape=scores.shape)
    return Consensus(label, share)
