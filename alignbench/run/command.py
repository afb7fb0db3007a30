"""`alignbench run` and `alignbench stage`: a suite's plan given to a crew, or one stage of it computed here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console

from alignbench.errors import Interrupted, UserError
from alignbench.run.board import Board
from alignbench.run.crew import ProcessCrew, memory_limit, visible_gpus
from alignbench.run.execute import Bench
from alignbench.run.failure import failure_of
from alignbench.run.here import Here
from alignbench.run.ray_cluster import check_ray
from alignbench.run.ray_crew import RayCrew
from alignbench.run.schedule import Crew, Outcome, Schedule
from alignbench.scoring.prices import Prices
from alignbench.store import Store
from alignbench.suite.plan import Plan, plan_of
from alignbench.suite.spec import Suite
from alignbench.terminal import add_current_folder

Engine = Literal["worker", "ray"]


class Limits(NamedTuple):
    """On the stages of a run."""

    slots: int | None = None  # how many at once; None: as many as the machine has GPUs, or the cluster has places
    timeout: float | None = None  # seconds
    memory: int | None = None  # bytes; None: most of what is free


def check_engine(engine: Engine, address: str | None, is_strict: bool) -> None:
    """UserError if the engine cannot be had, or does not go with the other options."""
    if address is not None and engine != "ray":
        raise UserError("--address is a Ray cluster's; add --engine ray")
    if engine == "ray":
        if is_strict:
            raise UserError("--strict computes in this process; leave out --engine ray")
        check_ray()


def run_suite(
    plan: Plan, console: Console, *, limits: Limits, engine: Engine = "worker", address: str | None = None,
    is_strict: bool = False, is_collecting: bool = False, prices: Prices | None = None,
) -> Outcome:  # fmt: skip
    """Compute what is missing, and say how it goes. UserError where a mistake left no cell standing, or the engine
    cannot be had; Interrupted where the run was ended from outside."""
    store = Store()
    board = Board(console, plan)
    try:
        with store.in_use(), board:
            if is_collecting:
                outcome = Schedule(plan, store, Here(plan, store), board, prices).collect()
            else:
                crew = Here(plan, store, is_strict=True) if is_strict else _crew(plan, store, limits, engine, address)
                outcome = Schedule(plan, store, crew, board, prices).run()
    except Interrupted as end:
        there = sum(store.has(key) for key in plan.stages)  # the board has not come to all that was cached
        kept = f"{there} of {len(plan.stages)} stages kept; the same command goes on"
        raise Interrupted(f"interrupted: {kept}", end.exit_code) from None
    except UserError as error:
        raise UserError(f"{plan.suite.where()}: {error}") from error
    if outcome.mistake is not None:  # nothing to publish, and one thing to mend
        raise UserError(f"{plan.suite.where()}: {outcome.mistake}")
    return outcome


def compute_stage(key: str, file: Path) -> str:
    """Compute the stage whose key begins with `key`, or find it. Says which. UserError if the plan has no such stage,
    or if this machine would make other bytes under that key."""
    from alignbench.run.elsewhere import check_same, made_here

    try:
        data: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; write it with `alignbench plan --json`") from None
    except (ValueError, RecursionError):
        raise UserError(f"{file}: not JSON; write it again with `alignbench plan SUITE --json`") from None
    modules = data.get("modules", []) if isinstance(data, dict) else None
    if not isinstance(modules, list) or not all(isinstance(name, str) for name in modules):
        raise UserError(f"{file}: not a plan; write it with `alignbench plan SUITE --json`")
    with _plans_own(file):
        suite = Suite.model_validate(data["suite"])
    if modules:
        add_current_folder()
    made = made_here(suite, modules)
    with _plans_own(file):
        plan = plan_of(data, made.catalog, made.task)
    found = [stage for stage in plan.stages.values() if stage.key.startswith(key)]
    if len(found) != 1:
        problem = "no stage has" if not found else f"{len(found)} stages have"
        raise UserError(f"{file}: {problem} a key that begins with '{key}'; `alignbench plan SUITE` lists them")
    stage = found[0]
    check_same(stage, made)
    try:
        is_new = Bench(made, Store()).compute(stage.key)
    except SystemExit as error:  # whoever runs it would read its code as the stage's
        raise UserError(f"{stage.title}: {failure_of(error, stage).cause}") from error
    return f"{stage.key[:12]} {stage.title}: {'computed' if is_new else 'is there already'}"


def _crew(plan: Plan, store: Store, limits: Limits, engine: Engine, address: str | None) -> Crew:
    if engine == "ray":
        slots = limits.slots or (_places() if address is None else None)
        return RayCrew(plan, store, slots=slots, address=address, timeout=limits.timeout, memory=limits.memory)
    memory = limits.memory or memory_limit()
    return ProcessCrew(plan, store, slots=limits.slots or _places(), timeout=limits.timeout, memory=memory)


@contextmanager
def _plans_own(file: Path) -> Iterator[None]:
    """Reading what `alignbench plan --json` writes: another shape is a mistake in the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        said = f"not a plan ({type(error).__name__}); write it again with `alignbench plan SUITE --json`"
        raise UserError(f"{file}: {said}") from None


def _places() -> int:
    """Stages at once by default: one per GPU, else one."""
    return max(1, len(visible_gpus()))
