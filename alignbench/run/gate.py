"""Refuses to train a policy on a reward model that orders held-out human pairs no better than a coin.

The bar is half of the pairs and one standard error of a coin over as many independent ones: with 100 of them 55 %. A
coin stays below it in five of six cases; a model that is right on 65 % falls below it in one of forty.
"""

from __future__ import annotations

from math import sqrt
from pathlib import Path

from alignbench.errors import UserError
from alignbench.store import Store, read_json
from alignbench.suite.plan import Plan, PlannedCell

FEW = 0.75  # a bar this high: no more than four independent pairs, by which no reward can be told from a coin


def refuse_at_chance(card: Path, title: str) -> None:
    """`card`: folder of the reward card `title`. UserError if its reward is at chance."""
    told = read_json(card / "card.json")
    hits, pairs, effective = told["hits"], told["pairs"], max(1.0, told["effective"])
    bar = 0.5 + 0.5 / sqrt(effective)
    if hits / pairs <= bar:
        remedy = "give it more comparisons or epochs" if bar < FEW else "raise `evaluation.held_out_pairs`"
        raise UserError(
            f"its reward orders {hits / pairs:.1%} of {pairs} held-out human pairs as people did ({title}), and up to "
            f"{min(bar, 1):.1%} is what chance does; {remedy}, or set `force: true` on the row"
        )


def refusal(plan: Plan, cell: PlannedCell, store: Store) -> str | None:
    """Why a cell may not be told, though all its stages are there: a row with `force` has had them computed, or an
    earlier run."""
    folder = None if cell.gate is None else store.get(cell.gate)
    if cell.gate is None or folder is None:
        return None
    try:
        refuse_at_chance(folder, plan.stages[cell.gate].title)
    except UserError as error:
        return str(error)
    return None
