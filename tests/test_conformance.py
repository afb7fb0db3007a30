"""Everything that is shipped keeps its own contract: each method, each reward source, and the harness.

The learning checks come on top where ALIGNBENCH_CHECKS=learning is set.
"""

from __future__ import annotations

from contextlib import suppress

import pytest

from alignbench.plugins import load_catalog
from alignbench.testing import HARNESS, BoundCheck, parametrize_checks
from alignbench.testing.doors import checks_for
from alignbench.testing.kit import NotApplicable

SHIPPED = [
    "sft", "prompted", "best_of_n", "dpo", "dpo_permuted", "ppo", "ppo_iterated", "rlaif", "constitutional",
    "biased", "judge", "length", "oracle", "panel", "random", HARNESS,
]  # fmt: skip


@parametrize_checks(SHIPPED)
def test_what_is_shipped_conforms(check: BoundCheck) -> None:
    check()


@pytest.mark.parametrize("name", ["dpo", "ppo", HARNESS])
def test_it_conforms_where_weights_are_prepacked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the kit's toys are too small for."""
    from alignbench.engine.fast import products
    from alignbench.testing.sessions import session

    monkeypatch.setattr(products, "WORTH_PREPACKING", 0)
    with session():
        for check in checks_for(name):
            with suppress(NotApplicable):
                check()


def test_nothing_that_is_shipped_is_left_out() -> None:
    catalog = load_catalog()
    everything = [*catalog.methods.values(), *catalog.sources.values()]
    shipped = {plugin.name for plugin in everything if plugin.distribution.startswith("alignbench")}
    assert shipped == {*SHIPPED} - {HARNESS}


def test_a_control_is_not_asked_to_learn() -> None:
    asked = {name: {bound.check.name for bound in checks_for(name, "learning")} for name in ("dpo", "dpo_permuted")}
    assert asked["dpo"] - asked["dpo_permuted"] == {"turned_labels_turn_the_policy"}
    assert "training_moves_the_policy" in asked["dpo_permuted"]
