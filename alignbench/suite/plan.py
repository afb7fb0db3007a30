"""A plan is data: the stages a suite needs, each once, by content key, and the cells that rest on them.

It goes through JSON and between processes unchanged. Whoever has it and the store can compute any stage of it::

    alignbench plan quickstart --json > plan.json
    alignbench stage KEY --plan plan.json

`layout.make_plan` makes it from a suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from alignbench.api import Task, View
from alignbench.errors import UserError
from alignbench.plugins import Catalog
from alignbench.suite.spec import Suite

PLAN_FORMAT = 1


@dataclass(frozen=True)
class PlannedStage:
    """One computation: what its bytes depend on, and what a scheduler asks of it. JSON values only."""

    key: str
    kind: str
    title: str  # what it is, in a few words that tell it from its siblings; no part of the key
    options: Mapping[str, Any]
    inputs: Mapping[str, str]  # name -> key of an upstream stage
    run: str | None = None  # "module:function" of a plugin's own stage
    view: View = "training"  # what that function may see of the task
    owner: str | None = None  # the plugin whose code runs in it, with its distribution; None: the harness's code alone
    gate: str | None = None  # key of the card that spares all its rows this work if its reward is at chance; not hashed
    plugins: tuple[str, ...] = ()  # modules that bring what it runs, beside the harness's own
    resources: Mapping[str, int] = field(default_factory=dict)  # cpus, gpus
    estimate: float = 0.0  # seconds, on the machine of benchmarks/README.md

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of what must be in the store before it is computed."""
        return (*self.inputs.values(), *([] if self.gate is None else [self.gate]))


@dataclass(frozen=True)
class PlannedCell:
    """One row of the table at one seed."""

    label: str
    method: str
    distribution: str
    version: str
    seed: int
    knob: Mapping[str, Any] | None = None  # name and value of the option that a sweep turned
    snapshot: Mapping[str, Any] | None = None  # name and value of the place along the row; None: its end
    proxy: str | None = None  # what the proxy reward is, in words
    train: str | None = None  # keys; None where the plugin failed before there was a stage
    score: str | None = None
    own: tuple[str, ...] = ()  # stages the row alone is charged for
    asked: tuple[str, ...] = ()  # stages it uses once it is trained, such as the reward model a decoding rule asks
    gate: str | None = None  # key of the card of the reward it is trained on, which must not be at chance
    cause: str | None = None  # why there are no stages
    comparisons: str = ""  # what it may learn from, in words
    brought: tuple[
        Mapping[str, str], ...
    ] = ()  # distributions whose plugins it runs: name, version, digest of the code

    @property
    def title(self) -> str:
        """The label, and of a snapshot its place."""
        at = self.snapshot
        return self.label if at is None else f"{self.label} at {at['name']} {at['value']}"


@dataclass(frozen=True)
class Plan:
    suite: Suite
    stages: dict[str, PlannedStage]  # by key, in an order in which every input precedes its users
    cells: tuple[PlannedCell, ...]
    task_in_words: str
    modules: tuple[str, ...] = ()  # loaded by --plugin
    digests: Mapping[str, str] = field(default_factory=dict)  # of "model" and "data", as every key holds them
    catalog: Catalog = field(compare=False, repr=False, kw_only=True)
    task: Task = field(compare=False, repr=False, kw_only=True)

    def stage(self, key: str | None, *path: str) -> PlannedStage:
        """The stage of a key, or the one that is reached from it along named inputs."""
        stage = self.stages[str(key)]
        for name in path:
            stage = self.stages[stage.inputs[name]]
        return stage

    def upstream(self, key: str, without: str = "") -> dict[str, PlannedStage]:
        """Every stage that stage `key` rests on, itself included, by key, but for inputs of the name `without`."""
        found: dict[str, PlannedStage] = {}
        waiting = [key]
        while waiting:
            stage = self.stages[waiting.pop()]
            if stage.key not in found:
                found[stage.key] = stage
                waiting += [below for name, below in stage.inputs.items() if name != without]
        return {key: stage for key, stage in self.stages.items() if key in found}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `plan_of` reads them back."""
        return {
            "format": PLAN_FORMAT,
            "suite": self.suite.to_dict(),
            "modules": list(self.modules),
            "task_in_words": self.task_in_words,
            "digests": dict(self.digests),
            "stages": [asdict(stage) for stage in self.stages.values()],
            "cells": [asdict(cell) for cell in self.cells],
        }


def plan_of(data: Mapping[str, Any], catalog: Catalog, task: Task) -> Plan:
    """A plan from its JSON values. UserError if they are none."""
    if not isinstance(data, Mapping) or data.get("format") != PLAN_FORMAT:
        raise UserError("not a plan of this alignbench; write one with `alignbench plan SUITE --json`")
    try:
        stages = {
            stage["key"]: PlannedStage(**{**stage, "plugins": tuple(stage["plugins"])}) for stage in data["stages"]
        }
        cells = tuple(
            PlannedCell(**{**cell, **{name: tuple(cell[name]) for name in ("own", "asked", "brought")}})
            for cell in data["cells"]
        )
        suite = Suite.model_validate(data["suite"])
        before: set[str] = set()
        for stage in stages.values():
            if missing := set(stage.needs) - before:
                raise ValueError(f"stage {min(missing)[:12]} is an input and is not planned before its use")
            before.add(stage.key)
        return Plan(
            suite, stages, cells, data["task_in_words"], tuple(data["modules"]), data["digests"], catalog=catalog,
            task=task,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the plan is damaged ({type(error).__name__}: {error}); write it again with `alignbench plan SUITE --json`"
        ) from None
