"""Whether this machine would make a plan's stages as the machine that planned them: the same code, data, libraries."""

from __future__ import annotations

from collections.abc import Sequence

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.suite.plan import Plan, PlannedStage
from alignbench.suite.spec import Suite


def made_here(suite: Suite, modules: Sequence[str]) -> Plan:
    """The plan of the suite, with the keys that it has on this machine. UserError if a module is not there."""
    catalog = load_catalog(modules)
    for failure in catalog.failures:
        if failure.entry_point in modules:
            where = "run it in the folder that holds the module, or install that"
            raise UserError(f"--plugin {failure.entry_point}: {failure.cause}; {where}")
    return make_plan(suite, catalog, modules)


def check_same(stage: PlannedStage, made: Plan) -> None:
    """UserError if this machine would make other bytes under the stage's key."""
    if stage.key not in made.stages:
        raise UserError(
            f"{stage.key[:12]} ({stage.title}): the code, data, model or libraries here are not those of the plan, so "
            "its bytes would be others; install what the plan was made with, or plan again here"
        )
