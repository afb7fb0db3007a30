"""Rated texts of other kinds than the movie reviews: tweets, product reviews, newspaper editorials.

The same people's method, another text (Hutto & Gilbert, ICWSM 2014): what a reward model or a policy does here says how
far beyond its own task it holds. No training stage reads them. A set has a text once: of 4,200 tweets, 3,708 product
and 5,190 editorial snippets 60, 11 and 71 repeat an earlier one but for case, and 4,140, 3,697 and 5,119 are left.
"""

from __future__ import annotations

import hashlib

from alignbench.api import HeldOutPairs
from alignbench.assets.fetch import asset_folder
from alignbench.errors import UserError
from alignbench.tasks import ratings

KINDS = ("tweets", "products", "editorials")  # the asset's files


def digest() -> str:
    """sha256 over the three files."""
    whole = hashlib.sha256()
    for kind in KINDS:
        whole.update(hashlib.sha256((asset_folder("other-ratings") / f"{kind}.jsonl").read_bytes()).digest())
    return whole.hexdigest()


def sentences(kind: str, seed: int) -> list[ratings.Sentence]:
    """All of a kind, each text once, in an order that the seed draws: the first few are a sample."""
    return ratings.in_order(ratings.load_sentences(asset_folder("other-ratings") / f"{kind}.jsonl"), seed)


def held_out_pairs(count: int, seed: int, min_gap: float) -> dict[str, HeldOutPairs]:
    """By kind, `count` pairs whose mean ratings are at least `min_gap` apart, and how well one person orders them.
    UserError if there are fewer."""
    found = {}
    for kind in KINDS:
        rated = sentences(kind, seed)
        try:
            pairs = ratings.human_pairs(rated, count, seed, min_gap)
        except UserError as error:
            raise UserError(f"{kind}: {error}") from None
        found[kind] = HeldOutPairs(pairs, ratings.human_accuracy(rated, pairs))
    return found
