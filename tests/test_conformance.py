"""Everything that is shipped keeps its own contract: each method, each reward source, and the harness.

The learning checks come on top where ALIGNBENCH_CHECKS=learning is set.
"""

from __future__ import annotations

from alignbench.plugins import load_catalog
from alignbench.testing import HARNESS, BoundCheck, parametrize_checks

SHIPPED = ["sft", "best_of_n", "dpo", "ppo", "rlaif", "constitutional", "judge", "length", "oracle", "panel", HARNESS]


@parametrize_checks(SHIPPED)
def test_what_is_shipped_conforms(check: BoundCheck) -> None:
    check()


def test_nothing_that_is_shipped_is_left_out() -> None:
    catalog = load_catalog()
    everything = [*catalog.methods.values(), *catalog.sources.values()]
    assert {plugin.name for plugin in everything if plugin.distribution.startswith("alignbench")} == set(SHIPPED) - {
        HARNESS
    }
