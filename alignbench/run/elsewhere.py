"""Whether this machine would make a plan's stages as the machine that planned them: the same code, data, libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.suite.plan import Plan, PlannedStage
from alignbench.suite.spec import Suite


def made_here(data: Mapping[str, Any]) -> Plan:
    """The plan of the same suite, with the keys that it has on this machine. `data`: a plan's JSON values."""
    modules = data.get("modules", ())
    return make_plan(Suite.model_validate(data["suite"]), load_catalog(modules), modules)


def check_same(stage: PlannedStage, made: Plan) -> None:
    """UserError if this machine would make other bytes under the stage's key."""
    if stage.key not in made.stages:
        raise UserError(
            f"{stage.key[:12]} ({stage.title}): the code, data, model or libraries here are not those of the plan, so "
            "its bytes would be others; install what the plan was made with, or plan again here"
        )
