"""`alignbench run` and `alignbench stage`: a suite's plan given to a crew, or one stage of it computed here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from alignbench.errors import Interrupted, UserError
from alignbench.run.board import Board
from alignbench.run.crew import ProcessCrew
from alignbench.run.execute import Bench
from alignbench.run.here import Here
from alignbench.run.schedule import Crew, Outcome, Schedule
from alignbench.store import Store
from alignbench.suite.plan import Plan


def run_suite(
    plan: Plan, console: Console, *, slots: int | None, timeout: float | None, memory: int | None, is_strict: bool,
    is_collecting: bool,
) -> Outcome:  # fmt: skip
    """Compute what is missing, and say how it goes. UserError where a mistake left no cell standing; Interrupted where
    the run was ended from outside."""
    store = Store()
    slots = slots or _gpus()
    crew: Crew = (
        Here(plan, store, is_strict=True)
        if is_strict
        else ProcessCrew(plan, store, slots=slots, timeout=timeout, memory=memory)
    )
    board = Board(console, plan)
    try:
        with store.in_use(), board:
            schedule = Schedule(plan, store, crew, board)
            outcome = schedule.collect() if is_collecting else schedule.run()
    except Interrupted as end:
        kept = f"{board.settled} of {len(plan.stages)} stages kept; the same command goes on"
        raise Interrupted(f"interrupted: {kept}", end.exit_code) from None
    except UserError as error:
        raise UserError(f"{plan.suite.where()}: {error}") from error
    if outcome.mistake is not None:  # nothing to publish, and one thing to mend
        raise UserError(f"{plan.suite.where()}: {outcome.mistake}")
    return outcome


def compute_stage(key: str, file: Path) -> str:
    """Compute the stage whose key begins with `key`, or find it. Says which. UserError if the plan has no such stage,
    or if this machine would make other bytes under that key."""
    from alignbench.plugins import load_catalog
    from alignbench.suite.layout import make_plan
    from alignbench.suite.plan import plan_of
    from alignbench.suite.spec import Suite

    try:
        data: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; write it with `alignbench plan --json`") from None
    except ValueError:
        raise UserError(f"{file}: not JSON; write it again with `alignbench plan SUITE --json`") from None
    modules = data.get("modules", []) if isinstance(data, dict) else None
    if not isinstance(modules, list) or not all(isinstance(name, str) for name in modules):
        raise UserError(f"{file}: not a plan; write it with `alignbench plan SUITE --json`")
    catalog = load_catalog(modules)
    with _plans_own(file):
        suite = Suite.model_validate(data["suite"])
    made = make_plan(suite, catalog, modules)
    with _plans_own(file):
        plan = plan_of(data, catalog, made.task)
    found = [stage for stage in plan.stages.values() if stage.key.startswith(key)]
    if len(found) != 1:
        problem = "no stage has" if not found else f"{len(found)} stages have"
        raise UserError(f"{file}: {problem} a key that begins with '{key}'; `alignbench plan SUITE` lists them")
    stage = found[0]
    if stage.key not in made.stages:
        raise UserError(
            f"{stage.key[:12]} ({stage.title}): the code, data, model or libraries here are not those of the plan, so "
            "its bytes would be others; install what the plan was made with, or plan again here"
        )
    is_new = Bench(made, Store()).compute(stage.key)
    return f"{stage.key[:12]} {stage.title}: {'computed' if is_new else 'is there already'}"


@contextmanager
def _plans_own(file: Path) -> Iterator[None]:
    """Reading what `alignbench plan --json` writes: another shape is a mistake in the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"not a plan ({type(error).__name__}); write it again with `alignbench plan SUITE --json`"
        raise UserError(f"{file}: {said}") from None


def _gpus() -> int:
    """How many GPUs this process may use, at least one worker's worth, without asking torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([name for name in visible.split(",") if name not in ("", "-1")]))
    return max(1, len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))
