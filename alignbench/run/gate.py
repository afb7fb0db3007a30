"""Refuses to train a policy on a reward model that orders held-out human pairs no better than a coin.

The bar is half of the pairs and one standard error of a coin over as many independent ones: with 100 of them 55 %. A
coin stays below it in five of six cases; a model that is right on 65 % falls below it in one of forty.
"""

from __future__ import annotations

from math import sqrt
from pathlib import Path

from alignbench.errors import UserError
from alignbench.store import read_json


def refuse_at_chance(card: Path, title: str) -> None:
    """`card`: folder of the reward card `title`. UserError if its reward is at chance."""
    told = read_json(card / "card.json")
    hits, pairs, effective = told["hits"], told["pairs"], max(1.0, told["effective"])
    bar = 0.5 + 0.5 / sqrt(effective)
    if hits / pairs <= bar:
        raise UserError(
            f"its reward orders {hits / pairs:.1%} of {pairs} held-out human pairs as people did ({title}), and up to "
            f"{bar:.1%} is what chance does; give it more comparisons or epochs, or set `force: true` on the row"
        )
