"""Lays a suite out as a plan: checks every name and option, asks each method for its recipe, keys what comes of it.

Stages are live objects here alone; the plan that leaves this module is data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from alignbench.api import AlignmentMethod, Inputs, MethodConfig, SourceRef, Stage, Task
from alignbench.assets.models import model_digest
from alignbench.errors import PluginError, UserError, in_words
from alignbench.plugins import Catalog, Plugin
from alignbench.suite import keys, kinds
from alignbench.suite.build import HUMAN, PlanBuilder, gold_of, labellers, present
from alignbench.suite.machine import resolved
from alignbench.suite.plan import Plan, PlannedCell, PlannedStage
from alignbench.suite.spec import Cell, Suite


class _Row(NamedTuple):
    """A cell while its stages are live objects."""

    cell: PlannedCell
    train: Stage | None = None
    score: Stage | None = None
    own: Sequence[Stage] = ()


def make_plan(suite: Suite, catalog: Catalog, modules: Sequence[str] = ()) -> Plan:
    """Check every name and option of the suite, then lay out its stages. UserError names file and line; a plugin that
    fails while it is asked for its recipe fails its own row."""
    task = make_task(suite, catalog)
    for i, asked in enumerate(suite.methods):
        if asked.method not in catalog.methods and (suspects := catalog.suspects(asked.method)):
            problem = f"no method '{asked.method}'; what may bring it failed to load: {suspects}"
            raise suite.error(problem, "methods", i, "method")
    rows = [
        _row(suite, catalog, task, cell, seed)
        for cell in suite.cells({name: plugin.cls.kl_knob for name, plugin in catalog.methods.items()})
        for seed in suite.seeds
    ]
    shared = _environment(suite, catalog, task)
    stages: dict[str, PlannedStage] = {}
    key_of: dict[int, str] = {}  # by id: `rows` keeps every stage alive
    cells = []
    for row in rows:
        for stage in [] if row.score is None else _in_order(row.score):
            key = key_of.setdefault(id(stage), _key(stage, key_of, shared))
            stages.setdefault(key, _planned(stage, key, key_of, row.cell.label, suite, catalog))
        cells.append(
            replace(
                row.cell,
                train=None if row.train is None else key_of[id(row.train)],
                score=None if row.score is None else key_of[id(row.score)],
                own=tuple(key_of[id(stage)] for stage in row.own),
            )
        )
    return Plan(suite, stages, tuple(cells), task.describe(), tuple(modules), catalog=catalog, task=task)


def make_task(suite: Suite, catalog: Catalog) -> Task:
    """The suite's task. UserError names file and line."""
    try:
        cls = catalog.task(suite.task.name).cls
    except UserError as error:
        raise suite.error(str(error), "task", "name") from None
    task: Task = cls(suite.check_options(cls.Config, suite.task.options, "task", "options"))
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
            "code": keys.class_source(catalog.task(suite.task.name).cls),
        },
        lora=suite.lora.model_dump(mode="json"),
        device=suite.device,
        dtype=suite.dtype,
    )


def _planned(
    stage: Stage, key: str, key_of: Mapping[int, str], label: str, suite: Suite, catalog: Catalog
) -> PlannedStage:
    plugins = _plugins_of(stage, suite, catalog)
    has_gpu = resolved(suite.device, suite.dtype)[0].startswith("cuda")
    return PlannedStage(
        key=key,
        kind=stage.kind,
        title=kinds.title(stage, label),
        options=json.loads(json.dumps(stage.options)),
        inputs={name: key_of[id(below)] for name, below in stage.inputs.items()},
        run=None if stage.run is None else f"{stage.run.__module__}:{stage.run.__qualname__}",
        view=stage.view,
        owner=", ".join(f"plugin '{plugin.name}' (from {plugin.distribution})" for plugin in plugins) or None,
        plugins=tuple(dict.fromkeys(plugin.module for plugin in plugins)),
        resources={"cpus": 1, "gpus": int(has_gpu)},
        estimate=kinds.estimate(stage),
    )


def _plugins_of(stage: Stage, suite: Suite, catalog: Catalog) -> list[Plugin[Any]]:
    """The plugins whose code runs in a stage, the harness's own left out."""
    named: list[Plugin[Any]] = [catalog.task(suite.task.name)]
    if stage.run is not None:
        module = stage.run.__module__.split(".")[0]
        named += [plugin for plugin in catalog.methods.values() if plugin.cls.__module__.split(".")[0] == module][:1]
    if stage.kind == "train":
        named.append(catalog.method(stage.options["method"]))
    if stage.kind == "score" and stage.options["decoding"]:
        named.append(catalog.method(stage.options["decoding"]["method"]))
    reward = stage.options.get("reward")
    source = reward["name"] if isinstance(reward, Mapping) else stage.options.get("source")
    if source in catalog.sources:
        named.append(catalog.source(source))
    return [plugin for plugin in named if not plugin.cls.__module__.startswith("alignbench.")]


def _checked_data(suite: Suite, task: Task) -> str:
    """The data's digest, once it is read and is enough: a mistake in it shows here, not after minutes of training."""
    wanted = suite.comparisons
    try:
        digest, answered = task.digest(), len(task.prompts("eval"))
        human = wanted.pairs if wanted.source == HUMAN else wanted.human_pairs
        paired = len(task.human_pairs(human, suite.data_seed)) if human else 0
        compared = paired if wanted.source == HUMAN else len(task.prompts("label"))
    except UserError as error:
        raise suite.error(str(error), "task") from None
    for split, have, count, *option in (
        ("eval", answered, suite.evaluation.prompts, "evaluation", "prompts"),
        ("label", compared, wanted.pairs, "comparisons", "pairs"),
        ("label", paired, wanted.human_pairs if wanted.source != HUMAN else 0, "comparisons", "human_pairs"),
    ):
        if have < count:
            problem = f"{count} asked for, the task's {split} split has {have}; lower it or enlarge the split"
            raise suite.error(problem, *option)
    return digest


def _row(suite: Suite, catalog: Catalog, task: Task, cell: Cell, seed: int) -> _Row:
    """A cell with its stages. What a plugin raises here, but for a mistake in the suite, is its row's cause."""
    plugin = catalog.method(suite.methods[cell.row].method)
    config = suite.check_options(plugin.cls.Config, cell.config, "methods", cell.row, "config")
    planned = PlannedCell(cell.label, plugin.name, plugin.distribution, plugin.version, seed)
    try:
        knob = _knob(plugin, config)
        return _laid_out(suite, catalog, task, cell, plugin, config, replace(planned, knob=knob))
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        problem = str(error) if isinstance(error, PluginError) else str(_fault(plugin, error))
        return _Row(replace(planned, cause=problem))


def _fault(plugin: Plugin[AlignmentMethod], error: BaseException) -> PluginError:
    return PluginError(plugin.name, plugin.distribution, f"its recipe raised {in_words(error)}")


def _knob(plugin: Plugin[AlignmentMethod], config: MethodConfig) -> dict[str, Any] | None:
    name = plugin.cls.kl_knob
    value = None if name is None else getattr(config, name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        problem = f"its kl_knob '{name}' is {type(value).__name__}; a number is allowed"
        raise PluginError(plugin.name, plugin.distribution, problem)
    return {"name": name, "value": value}


def _refuse_scoring(plugin: Plugin[AlignmentMethod], stage: Stage | SourceRef | None) -> None:
    """A method and its own stages learn from training data alone; the gold reward reaches them through raters only."""
    if not isinstance(stage, Stage):
        return
    if stage.view == "scoring":
        problem = f"its recipe rests on '{stage.kind}', which the scorer alone may see"
        raise PluginError(plugin.name, plugin.distribution, problem)
    for name, below in stage.inputs.items():
        if not (name == "gold" and stage.kind == "comparisons" and stage.run is None):
            _refuse_scoring(plugin, below)


def _laid_out(
    suite: Suite, catalog: Catalog, task: Task, cell: Cell, plugin: Plugin[AlignmentMethod], config: MethodConfig,
    planned: PlannedCell,
) -> _Row:  # fmt: skip
    row, seed = suite.methods[cell.row], planned.seed
    method, build = plugin.cls(), PlanBuilder(suite, catalog, task, cell.row)
    inputs = method.recipe(config, build)
    for root in (inputs.start, inputs.preferences, inputs.reward):
        _refuse_scoring(plugin, root)
    if row.reward is not None and not build.was_asked_for_reward:
        raise suite.error(
            f"'{row.method}' takes no reward from the suite; remove the key", "methods", cell.row, "reward"
        )
    if isinstance(inputs.reward, SourceRef) and row.reward is None:  # the recipe's own choice
        build.check_optimised(inputs.reward, "config")
    decoding = method.decoding(config)
    code = keys.class_source(plugin.cls)
    plain = PlanBuilder(suite, catalog, task)
    start = plain.sft()
    baseline = _untrained(start, seed)
    is_trained = plugin.cls.train is not AlignmentMethod.train
    train = _untrained(inputs.start, seed) if not is_trained else Stage(
        "train",
        {
            "method": plugin.name, "code": code, "config": config.model_dump(mode="json"), "seed": seed,
            "max_steps": suite.max_steps, "reward": _reference(catalog, inputs.reward),
        },
        present(
            start=inputs.start, preferences=inputs.preferences,
            reward=inputs.reward if isinstance(inputs.reward, Stage) else None,
        ),
    )  # fmt: skip
    proxy = _proxy(plain, inputs)
    is_implicit = inputs.reward is None and inputs.preferences is not None
    completions = _completions(suite, train, start, 1 if decoding is None else decoding.samples_per_prompt, seed)
    baseline_completions = _completions(suite, baseline, start, 1, seed)
    gold, proxy_options = gold_of(suite, catalog, task), {"reward": _reference(catalog, proxy), "seed": suite.data_seed}
    fitted = present(proxy=proxy if isinstance(proxy, Stage) else None)
    card_options = {"is_implicit": is_implicit, "held_out_pairs": suite.evaluation.held_out_pairs}
    is_listed = type(task).completions is not Task.completions and decoding is None
    objective = {"beta": method.beta(config) or None if is_trained else None, "objective": _objective(inputs)}
    listed = Stage(
        "closed_form",
        {**proxy_options, **objective, "prompts": suite.evaluation.prompts},
        {"policy": train, "reference": start, "gold": gold, **fitted},
    )
    score = Stage(
        "score",
        {
            "decoding": None
            if decoding is None
            else {"method": plugin.name, "code": code, "config": config.model_dump(mode="json")}
        },
        {
            "completions": completions,
            "gold": Stage("gold_rewards", {}, {"completions": completions, "gold": gold}),
            "baseline_gold": Stage("gold_rewards", {}, {"completions": baseline_completions, "gold": gold}),
            "proxy": Stage("proxy_rewards", proxy_options, {"completions": completions, **fitted}),
            "gold_card": Stage("gold_card", {}, {"gold": gold}),
            "reward_card": Stage(
                "reward_card", {**proxy_options, **card_options}, {"policy": train} if is_implicit else fitted
            ),
            **present(closed_form=listed if is_listed else None),
        },
    )
    spoken = _proxy_in_words(proxy) + (", accuracy of the implicit reward" if is_implicit else "")
    own = (train,) if decoding is None else (completions, score.inputs["proxy"])
    return _Row(replace(planned, proxy=spoken), train, score, own)


def _untrained(start: Stage | None, seed: int) -> Stage:
    """The start point as a policy."""
    return Stage("untrained", {"seed": seed}, present(start=start))


def _completions(suite: Suite, policy: Stage, reference: Stage, per_prompt: int, seed: int) -> Stage:
    options = {
        "prompts": suite.evaluation.prompts,
        "batch_size": suite.evaluation.batch_size,
        "per_prompt": per_prompt,
        "seed": seed,
    }
    return Stage("completions", options, {"policy": policy, "reference": reference})


def _proxy(build: PlanBuilder, inputs: Inputs) -> Stage | SourceRef:
    """The reward a row optimised, or, for a row that optimised none, the suite's reward model."""
    if inputs.reward is not None:
        return inputs.reward
    start = build.sft()
    return build.reward_model(start, build.comparisons(start))


def _objective(inputs: Inputs) -> str | None:
    """Whose expectation training raised: its reward's, or, without one, that of the gold reward behind human pairs."""
    if inputs.reward is not None:
        return "proxy"
    has_human_pairs = inputs.preferences is not None and inputs.preferences.kind == "human_comparisons"
    return "gold" if has_human_pairs else None


def _reference(catalog: Catalog, reward: Stage | SourceRef | None) -> dict[str, Any] | None:
    """An unfitted source as JSON; None for a fitted reward model, which is an input instead."""
    if not isinstance(reward, SourceRef):
        return None
    cls = catalog.source(reward.name).cls
    return {
        "name": reward.name,
        "options": dict(reward.options),
        **keys.source_facts(cls, cls.Config(**reward.options)),
    }


def _proxy_in_words(reward: Stage | SourceRef) -> str:
    if isinstance(reward, SourceRef):
        return reward.name
    return f"reward_model({labellers(reward.inputs['comparisons'])})"


def _key(stage: Stage, key_of: Mapping[int, str], shared: Mapping[str, Any]) -> str:
    run = stage.run
    return keys.digest(
        {
            "kind": stage.kind,
            "options": json.loads(json.dumps(stage.options)),
            "inputs": {name: key_of[id(below)] for name, below in stage.inputs.items()},
            "run": None if run is None else [run.__qualname__, keys.module_source([run.__module__])],
            "shared": shared,
        }
    )


def _in_order(stage: Stage) -> Iterator[Stage]:
    for below in stage.inputs.values():
        yield from _in_order(below)
    yield stage
