"""Lays a suite out as a plan: checks every name and option, asks each method for its recipe, keys what comes of it.

Stages are live objects here alone; the plan that leaves this module is data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from alignbench.api import Stage, Task
from alignbench.assets.models import layer_count, model_digest, weight_bytes
from alignbench.errors import PluginError, UserError
from alignbench.planning import keys
from alignbench.planning.lengths import alike_once_cut, reader_of, refuse_too_long
from alignbench.planning.rows import Row, lay_out, step_of
from alignbench.plugins import NO_STEPS, Catalog, Plugin, Step, Steps
from alignbench.stages.human_comparisons import HUMAN
from alignbench.stages.registry import estimate, kind_of, tell, view_of
from alignbench.stages.train import Train
from alignbench.suite.machine import resolved
from alignbench.suite.plan import Plan, PlannedCell, PlannedStage
from alignbench.suite.spec import Suite

MEASURED = 269e6  # bytes of weights of the model that `estimate` was measured on
SMALLEST = 0.05  # share of those estimates that a toy takes too: it is overhead


def make_plan(suite: Suite, catalog: Catalog, modules: Sequence[str] = (), steps: Steps = NO_STEPS) -> Plan:
    """Check every name and option of the suite, then lay out its stages. UserError names file and line; a plugin that
    fails while it is asked for its recipe, or that `steps` refuses, fails its own row. PluginError if `steps` refuses
    the task."""
    about_task = _task_step(suite, catalog)
    if about_task in steps.refused:
        raise PluginError(suite.task.name, about_task.owner, steps.refused[about_task])
    tell_task = None if about_task.owner == "alignbench" else about_task
    steps.tell(tell_task)
    task = make_task(suite, catalog)
    _refuse_too_many_layers(suite)
    _refuse_what_failed_to_load(suite, catalog)
    rows = [
        lay_out(suite, catalog, task, cell, seed, steps)
        for cell in suite.cells({name: plugin.cls.kl_knob for name, plugin in catalog.methods.items()})
        for seed in suite.seeds
    ]
    rows += [snapshot for row in rows for snapshot in row.along]
    steps.tell(tell_task)
    shared = _environment(suite, catalog, task)
    noted = _refuse_what_does_not_fit(suite, task)
    if not isinstance(in_words := task.describe(), str):
        raise UserError(f"task '{suite.task.name}': its `describe` gave {type(in_words).__name__}; text is allowed")
    in_words = "; ".join(part for part in (in_words, noted) if part)
    stages: dict[str, PlannedStage] = {}
    key_of: dict[int, str] = {}  # by id: `rows` keeps every stage alive
    first: dict[str, PlannedCell] = {}  # by key: the one that needs it first
    for row in rows:
        steps.tell(step_of(catalog.methods[row.cell.method], row.cell.label))
        for stage in _of_row(row):
            key = key_of.setdefault(id(stage), _key(stage, key_of, shared))
            if key not in stages:
                label = row.cell.title if stage is row.score else row.cell.label
                stages[key], first[key] = _planned(stage, key, key_of, label, suite, catalog), row.cell
    steps.tell(None)
    for key, gate in _gates(rows, key_of).items():
        stages[key] = replace(stages[key], gate=gate)
    size = _size(suite.model)
    stages = {
        key: replace(stage, title=title, estimate=stage.estimate * size)
        for (key, stage), title in zip(stages.items(), _told_apart(stages, first), strict=True)
    }
    cells = tuple(_keyed(row, key_of) for row in rows)
    digests = {"model": shared["model"], "data": shared["task"]["data"]}
    plan = Plan(suite, stages, cells, in_words, tuple(modules), digests, catalog=catalog, task=task)
    return replace(plan, cells=tuple(replace(cell, brought=_brought(plan, cell)) for cell in cells))


def _refuse_what_does_not_fit(suite: Suite, task: Task) -> str:
    """What is to be said of human pairs that are alike once cut. UserError with the task's line for prompts that the
    model cannot hold. A task that lists its completions is a toy, whose texts are what its model was built for."""
    if type(task).completions is not Task.completions or (reader := reader_of(suite.model)) is None:
        return ""
    try:
        refuse_too_long(suite, task, reader)
        return alike_once_cut(suite, task, reader)
    except UserError:
        raise
    except Exception:
        if type(task).__module__.startswith("alignbench."):
            raise
        return ""  # a plugin's task that fails here fails in a stage too, which says whose it is


def _gates(rows: Sequence[Row], key_of: Mapping[int, str]) -> dict[str, str]:
    """By stage of training, the card that refuses it: only where every row that rests on the stage wants it so."""
    guarded: dict[str, str] = {}
    free: set[str] = set()
    for row in rows:
        if row.gate is not None:
            guarded[key_of[id(row.train)]] = key_of[id(row.gate)]
        elif row.score is not None:
            free |= {key_of[id(stage)] for stage in _in_order(row.score) if stage.kind == Train.name}
    return {key: gate for key, gate in guarded.items() if key not in free}


def _refuse_too_many_layers(suite: Suite) -> None:
    """UserError with the line, where an adapter is to be on more layers than the model has."""
    try:
        have = layer_count(suite.model)
    except UserError as error:
        raise suite.error(str(error), "model") from None
    asked: list[tuple[int | None, tuple[str | int, ...]]] = [
        (getattr(suite, part).layers, (part,)) for part in ("lora", "sft", "reward_model")
    ]
    for row, wanted in enumerate(suite.methods):
        if "layers" in wanted.reward_model:
            asked.append((suite.of_row(row).reward_model.layers, ("methods", row, "reward_model")))
    for layers, place in asked:
        if have and layers and layers > have:
            raise suite.error(f"{layers} asked for, the model has {have}; lower it or leave it out", *place, "layers")


def _refuse_what_failed_to_load(suite: Suite, catalog: Catalog) -> None:
    """UserError with the cause, where a row's method is missing because its module did not load."""
    for i, row in enumerate(suite.methods):
        if row.method not in catalog.methods and any(failure.may_offer(row.method) for failure in catalog.failures):
            try:
                catalog.method(row.method)
            except UserError as error:
                raise suite.error(str(error), "methods", i, "method") from None


def _task_step(suite: Suite, catalog: Catalog) -> Step:
    plugin = catalog.tasks.get(suite.task.name)
    is_own = plugin is None or plugin.module.startswith("alignbench.")  # None: `make_task` says what is wrong
    return Step("task", suite.task.name, "alignbench" if plugin is None or is_own else plugin.distribution)


def make_task(suite: Suite, catalog: Catalog) -> Task:
    """The suite's task. UserError names file and line."""
    try:
        cls = catalog.task(suite.task.name).cls
    except UserError as error:
        raise suite.error(str(error), "task", "name") from None
    options = suite.check_options(cls.Config, suite.task.options, "task", "options")
    try:
        task: Task = cls(options)
    except UserError as error:
        raise suite.error(str(error), "task") from None
    task.data_seed = suite.data_seed
    return task


def _environment(suite: Suite, catalog: Catalog, task: Task) -> dict[str, Any]:
    try:
        digest = model_digest(suite.model)
    except UserError as error:
        raise suite.error(str(error), "model") from None
    return keys.environment(
        model=digest,
        task={
            "name": task.name,
            "options": task.config.model_dump(mode="json"),
            "data": _checked_data(suite, task),
            "data_seed": suite.data_seed,
            "code": keys.task_source(catalog.task(suite.task.name).cls),
        },
        lora=suite.lora.model_dump(mode="json"),
        device=suite.device,
        dtype=suite.dtype,
        kernels=suite.kernels,
    )


def _checked_data(suite: Suite, task: Task) -> str:
    """The data's digest, once it is read and is enough: a mistake in it shows here, not after minutes of training."""
    wanted = [suite.of_row(row).comparisons for row in range(len(suite.methods))]
    human = [each.pairs if each.source == HUMAN else each.human_pairs for each in wanted]
    try:
        digest, answered, elsewhere = task.digest(), len(task.prompts("eval")), len(task.other_texts())
        paired = {count: len(task.human_pairs(count, suite.data_seed)) if count else 0 for count in {*human}}
        labelled = len(task.prompts("label")) if any(each.source != HUMAN for each in wanted) else 0
    except UserError as error:
        raise suite.error(str(error), "task") from None
    other_texts = suite.evaluation.other_texts if elsewhere else 0
    asked: list[tuple[str, int, int, tuple[str | int, ...]]] = [
        ("eval", answered, suite.evaluation.prompts, ("evaluation", "prompts")),
        ("other", elsewhere, other_texts, ("evaluation", "other_texts")),
    ]
    for row, (each, pairs) in enumerate(zip(wanted, human, strict=True)):
        have = paired[pairs] if each.source == HUMAN else labelled
        asked.append(("label", have, each.pairs, suite.comparisons_place(row, "pairs")))
        if each.source != HUMAN:
            asked.append(("label", paired[pairs], pairs, suite.comparisons_place(row, "human_pairs")))
    for split, have, count, place in asked:
        if have < count:
            problem = f"{count} asked for, the task's {split} split has {have}; lower it or enlarge the split"
            raise suite.error(problem, *place)
    return digest


def _key(stage: Stage, key_of: Mapping[int, str], shared: Mapping[str, Any]) -> str:
    run = stage.run
    return keys.digest(
        {
            "kind": stage.kind,
            "options": json.loads(json.dumps(stage.options)),
            "inputs": {name: key_of[id(below)] for name, below in stage.inputs.items()},
            "run": None if run is None else [run.__qualname__, keys.module_source([run.__module__])],
            "code": keys.stage_source(None if run is not None else type(kind_of(stage))),
            "shared": shared,
        }
    )


def _planned(
    stage: Stage, key: str, key_of: Mapping[int, str], label: str, suite: Suite, catalog: Catalog
) -> PlannedStage:
    plugins = _plugins_of(stage, suite, catalog)
    has_gpu = resolved(suite.device, suite.dtype)[0].startswith("cuda")
    return PlannedStage(
        key=key,
        kind=stage.kind,
        title=tell(stage, label).title,
        options=json.loads(json.dumps(stage.options)),
        inputs={name: key_of[id(below)] for name, below in stage.inputs.items()},
        run=None if stage.run is None else f"{stage.run.__module__}:{stage.run.__qualname__}",
        view=view_of(stage),
        owner=", ".join(f"plugin '{plugin.name}' (from {plugin.distribution})" for plugin in plugins) or None,
        plugins=tuple(dict.fromkeys(plugin.module for plugin in plugins)),
        resources={"cpus": 1, "gpus": int(has_gpu)},
        estimate=estimate(stage),
    )


def _told_apart(stages: Mapping[str, PlannedStage], first: Mapping[str, PlannedCell]) -> list[str]:
    """Their titles, with the replicate where that parts several of one title, and the row where that does."""
    titles = [stage.title for stage in stages.values()]
    for more in ("seed {0.seed}", "for {0.label}"):
        words = [more.format(first[key]) for key in stages]
        ways: dict[str, set[str]] = {}
        for title, word in zip(titles, words, strict=True):
            ways.setdefault(title, set()).add(word)
        titles = [f"{t}, {word}" if len(ways[t]) > 1 else t for t, word in zip(titles, words, strict=True)]
    return titles


def _size(model: str) -> float:
    """How many times as long a stage takes as on the model that estimates were measured on."""
    return max(SMALLEST, weight_bytes(model) / MEASURED or 1.0)


def _plugins_of(stage: Stage, suite: Suite, catalog: Catalog) -> list[Plugin[Any]]:
    """The plugins whose code runs in a stage, the harness's own left out."""
    named: list[Plugin[Any]] = [catalog.task(suite.task.name)]
    if stage.run is not None:
        module = stage.run.__module__.split(".")[0]
        named += [plugin for plugin in catalog.methods.values() if plugin.cls.__module__.split(".")[0] == module][:1]
    for contract, name in kind_of(stage).runs(stage.options):
        named.append(catalog.method(name) if contract == "method" else catalog.source(name))
    return [plugin for plugin in named if not plugin.cls.__module__.startswith("alignbench.")]


def _keyed(row: Row, key_of: Mapping[int, str]) -> PlannedCell:
    return replace(
        row.cell,
        train=None if row.train is None else key_of[id(row.train)],
        score=None if row.score is None else key_of[id(row.score)],
        gate=None if row.gate is None else key_of[id(row.gate)],
        own=tuple(key_of[id(stage)] for stage in row.own),
        asked=tuple(key_of[id(stage)] for stage in row.asked),
    )


def _brought(plan: Plan, cell: PlannedCell) -> tuple[dict[str, str], ...]:
    """The distributions whose plugins the cell's stages run, parents of their classes too."""
    stages = [] if cell.score is None else plan.upstream(cell.score).values()
    modules = {module for stage in stages for module in stage.plugins}
    known: list[Plugin[Any]] = [
        *plan.catalog.methods.values(), *plan.catalog.sources.values(), *plan.catalog.tasks.values()
    ]  # fmt: skip
    used = [p.cls for p in known if p.module in modules or (p.kind == "method" and p.name == cell.method)]
    involved = [p for p in known if p.module in modules or any(issubclass(cls, p.cls) for cls in used)]
    found: dict[tuple[str, str], set[str]] = {}
    for plugin in involved:
        found.setdefault((plugin.distribution, plugin.version), set()).add(plugin.cls.__module__)
    return tuple(
        {"name": name, "version": version, "code": keys.module_source(sources)}
        for (name, version), sources in sorted(found.items())
    )


def _of_row(row: Row) -> Iterator[Stage]:
    """Every input before its users, and the gate before what it guards."""
    for root in (row.gate, row.score):
        if root is not None:
            yield from _in_order(root)


def _in_order(stage: Stage) -> Iterator[Stage]:
    for below in stage.inputs.values():
        yield from _in_order(below)
    yield stage
