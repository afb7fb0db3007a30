"""A plan: the stages a suite needs, each once, in an order that can be run.

`PlanBuilder` is what a method's `recipe` builds stages with. Two recipes that ask for the same thing get equal stages,
hence equal keys, and the thing is computed once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from alignbench.api import AlignmentMethod, Inputs, MethodConfig, RecipeBuilder, Rubric, SourceRef, Stage, Task, Work
from alignbench.assets.models import model_digest
from alignbench.errors import UserError
from alignbench.plugins import Catalog, Plugin
from alignbench.suite import keys
from alignbench.suite.spec import Cell, Comparisons, Row, Suite

HUMAN = "human"  # the comparisons that come with the task, already labelled by people


class PlanBuilder(RecipeBuilder):
    """Stages by the suite's options. One per row, because a row may replace its reward."""

    def __init__(self, suite: Suite, catalog: Catalog, task: Task, row: int | None = None) -> None:
        self._suite = suite
        self._catalog = catalog
        self._task = task
        self._row = row
        self.was_asked_for_reward = False

    def sft(self, data: Stage | None = None, on: Stage | None = None) -> Stage:
        options = {**self._suite.sft.model_dump(mode="json"), "seed": self._suite.data_seed}
        return Stage("sft", options, _present(data=data, on=on))

    def samples(self, start: Stage | None) -> Stage:
        options = {
            **self._suite.samples.model_dump(mode="json"),
            "prompts": self._suite.comparisons.pairs,
            "seed": self._suite.data_seed,
        }
        return Stage("samples", options, _present(start=start))

    def compare(self, samples: Stage, source: SourceRef) -> Stage:
        where = (
            ("comparisons", "source") if source.name == self._suite.comparisons.source else ("methods", self._row or 0)
        )
        plugin = self._source(source.name, *where)
        inputs = {"samples": samples}
        if plugin.cls.simulates_humans:
            inputs["gold"] = self.gold()
        return Stage(
            "comparisons",
            {**self._source_options(plugin, source.options, *where), "seed": self._suite.data_seed},
            inputs,
        )

    def comparisons(self, start: Stage | None) -> Stage:
        wanted: Comparisons = self._suite.comparisons
        if wanted.source == HUMAN:
            return self._human(wanted.pairs)
        labelled = self.compare(self.samples(start), SourceRef(wanted.source, wanted.options))
        if not wanted.human_pairs:
            return labelled
        return Stage("joined_comparisons", {}, {"samples": labelled, "human": self._human(wanted.human_pairs)})

    def _human(self, pairs: int) -> Stage:
        return Stage("human_comparisons", {"pairs": pairs, "seed": self._suite.data_seed})

    def reward_model(self, start: Stage | None, comparisons: Stage) -> Stage:
        options = {**self._suite.reward_model.model_dump(mode="json"), "seed": self._suite.data_seed}
        return Stage("reward_model", options, _present(start=start, comparisons=comparisons))

    def reward(self, start: Stage | None) -> Stage | SourceRef:
        self.was_asked_for_reward = True
        named = None if self._row is None else self._suite.methods[self._row].reward
        if named is None:
            return self.reward_model(start, self.comparisons(start))
        self.check_optimised(SourceRef(named.name, named.options), "reward")
        return SourceRef(named.name, named.options)

    def check_optimised(self, reward: SourceRef, *where: str) -> None:
        """Whether training may call the source, with these options; `where` is the key below the row that names it."""
        place: tuple[str | int, ...] = ("methods", self._row or 0, *where)
        plugin = self._source(reward.name, *place)
        if not plugin.cls.is_trainable_signal:
            raise self._suite.error(
                f"'{reward.name}' may label data but not be optimised; "
                "drop the key to fit a reward model to its labels",
                *place,
            )
        self._source_options(plugin, reward.options, *place, *(["options"] if where == ("reward",) else []))

    def stage(self, kind: str, run: Callable[[Work], None], inputs: Mapping[str, Stage], **options: Any) -> Stage:
        if "." in run.__qualname__:
            raise ValueError(
                f"stage '{kind}': {run.__qualname__} is not a module-level function, so it has no stable source"
            )
        return Stage(kind, {**options, "seed": self._suite.data_seed}, dict(inputs), run)

    @property
    def rubric(self) -> Rubric:
        return self._task.rubric

    def gold(self) -> Stage:
        return self._task.gold(self)

    def _source(self, name: str, *where: str | int) -> Plugin[Any]:
        try:
            return self._catalog.source(name)
        except UserError as error:
            raise self._suite.error(str(error), *where) from None

    def _source_options(self, plugin: Plugin[Any], options: Mapping[str, Any], *where: str | int) -> dict[str, Any]:
        checked = self._suite.check_options(plugin.cls.Config, options, *where)
        return {
            "source": plugin.name,
            "options": checked.model_dump(mode="json"),
            "code": keys.class_source(plugin.cls),
        }


class PlannedCell(NamedTuple):
    """One row of the table at one seed."""

    cell: Cell
    row: Row
    method: Plugin[AlignmentMethod]
    config: MethodConfig
    seed: int
    train: Stage
    score: Stage
    proxy: str  # what the proxy reward is, in words


@dataclass(frozen=True)
class Plan:
    suite: Suite
    catalog: Catalog
    task: Task
    cells: tuple[PlannedCell, ...]
    stages: dict[str, Stage]  # by key, in an order in which every input precedes its users
    key_of: dict[int, str] = field(repr=False)  # by id(stage)

    def key(self, stage: Stage) -> str:
        return self.key_of[id(stage)]

    def method_decodes(self, cell: PlannedCell) -> bool:
        """Whether the row is a decoding rule rather than a trained policy."""
        return cell.score.options["decoding"] is not None

    def upstream(self, stage: Stage, without: str = "") -> dict[str, Stage]:
        """Every stage that `stage` rests on, itself included, by key, but for inputs of the name `without`."""
        found = {self.key(stage): stage}
        for name, below in stage.inputs.items():
            if name != without:
                found.update(self.upstream(below, without))
        return found


def make_plan(suite: Suite, catalog: Catalog) -> Plan:
    """Check every name and option of the suite, then lay out its stages. UserError names file and line."""
    try:
        task_plugin = catalog.task(suite.task.name)
    except UserError as error:
        raise suite.error(str(error), "task", "name") from None
    options = suite.check_options(task_plugin.cls.Config, suite.task.options, "task", "options")
    task: Task = task_plugin.cls(options)
    task.data_seed = suite.data_seed
    cells = [
        _plan_cell(suite, catalog, task, cell, seed)
        for cell in suite.cells({name: plugin.cls.kl_knob for name, plugin in catalog.methods.items()})
        for seed in suite.seeds
    ]
    try:
        digest = model_digest(suite.model)
    except UserError as error:
        raise suite.error(str(error), "model") from None
    data = _checked_data(suite, task)
    shared = keys.environment(
        model=digest,
        task={
            "name": task.name,
            "options": options.model_dump(mode="json"),
            "data": data,
            "data_seed": suite.data_seed,
            "code": keys.class_source(task_plugin.cls),
        },
        lora=suite.lora.model_dump(mode="json"),
        device=suite.device,
        dtype=suite.dtype,
    )
    stages: dict[str, Stage] = {}
    key_of: dict[int, str] = {}
    for cell in cells:
        for stage in _in_order(cell.score):
            key_of[id(stage)] = key = _key(stage, key_of, shared)
            stages.setdefault(key, stage)
    return Plan(suite, catalog, task, tuple(cells), stages, key_of)


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


def _plan_cell(suite: Suite, catalog: Catalog, task: Task, cell: Cell, seed: int) -> PlannedCell:
    row = suite.methods[cell.row]
    plugin = catalog.method(row.method)
    config = suite.check_options(plugin.cls.Config, cell.config, "methods", cell.row, "config")
    method, build = plugin.cls(), PlanBuilder(suite, catalog, task, cell.row)
    inputs = method.recipe(config, build)
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
        _present(
            start=inputs.start, preferences=inputs.preferences,
            reward=inputs.reward if isinstance(inputs.reward, Stage) else None,
        ),
    )  # fmt: skip
    proxy = _proxy(plain, inputs)
    is_implicit = inputs.reward is None and inputs.preferences is not None
    completions = _completions(suite, train, start, 1 if decoding is None else decoding.samples_per_prompt, seed)
    baseline_completions = _completions(suite, baseline, start, 1, seed)
    gold, proxy_options = plain.gold(), {"reward": _reference(catalog, proxy), "seed": suite.data_seed}
    fitted = _present(proxy=proxy if isinstance(proxy, Stage) else None)
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
            **_present(closed_form=listed if is_listed else None),
        },
    )
    in_words = _in_words(proxy) + (", accuracy of the implicit reward" if is_implicit else "")
    return PlannedCell(cell, row, plugin, config, seed, train, score, in_words)


def _untrained(start: Stage | None, seed: int) -> Stage:
    """The start point as a policy."""
    return Stage("train", {"method": None, "seed": seed}, _present(start=start))


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
    return {
        "name": reward.name,
        "options": dict(reward.options),
        "code": keys.class_source(catalog.source(reward.name).cls),
    }


def _in_words(reward: Stage | SourceRef) -> str:
    if isinstance(reward, SourceRef):
        return reward.name
    return f"reward_model({labellers(reward.inputs['comparisons'])})"


def labellers(comparisons: Stage) -> str:
    """Who labelled a stage of comparisons: a source, people, or both."""
    if comparisons.kind == "joined_comparisons":
        return " + ".join(labellers(part) for part in comparisons.inputs.values())
    return str(comparisons.options.get("source", HUMAN))


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


def _present(**stages: Stage | None) -> dict[str, Stage]:
    return {name: stage for name, stage in stages.items() if stage is not None}
