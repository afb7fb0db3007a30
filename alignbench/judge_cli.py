"""`alignbench judge`: hold a reward source against a task's human pairs, and say which way it errs as a judge."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from alignbench.errors import PluginError, UserError, blamed, printable
from alignbench.plugin_option import PluginModules, catalog_with
from alignbench.terminal import new_console, refuse_to_vanish, stdout_kept_for_data

if TYPE_CHECKING:
    from alignbench.api import Config, HeldOutPairs
    from alignbench.plugins import Plugin

PAIRS = 200
Pairs = Annotated[int | None, typer.Option(min=2, help=f"held-out human pairs; default: {PAIRS}, or all there are")]
Labelled = Annotated[
    int | None, typer.Option(min=10, help="pairs with people's label, the rest is judged alone; default: a quarter")
]


def judge(
    task: Annotated[str, typer.Argument(help="a task with held-out human pairs, such as sentiment or hh")],
    source: Annotated[str, typer.Option(help="the reward source to audit")] = "judge",
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the source, such as format=pairwise; may be repeated")
    ] = None,
    task_option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the task, such as source=pairs.jsonl; may be repeated")
    ] = None,
    pairs: Pairs = None,
    labelled: Labelled = None,
    wording: Annotated[
        list[str] | None, typer.Option(help="guideline to ask with too; may be repeated; default: three of the task's")
    ] = None,
    model: Annotated[str, typer.Option(help="alias, Hub id or folder, for a source that runs one")] = "smollm2-135m",
    seed: Annotated[int, typer.Option(min=0, help="draws pairs, their order, and which are labelled")] = 0,
    plugin: PluginModules = None,
    json_: Annotated[bool, typer.Option("--json", help="print everything as data")] = False,
) -> None:
    """Say how a reward source judges a task's human pairs: accuracy, liking for places and lengths, calibration."""
    refuse_to_vanish()
    with stdout_kept_for_data() if json_ else nullcontext():
        catalog = catalog_with(plugin)
        found_task, found_source = catalog.task(task), catalog.source(source)
        if found_source.cls.simulates_humans:
            problem = "is made of the task's people, so holding it against them says nothing"
            raise UserError(f"--source {source}: {problem}; name another, such as judge")
        judging = _made(found_source, "--option", option)
        for guideline in wording or ():
            _refuse_unworded(judging, guideline)
        asked_of = _made(found_task, "--task-option", task_option)
        found = _audited(judging, asked_of, pairs, labelled, wording, model, seed)
        with judging.blamed("its Config"):
            options = judging.config.model_dump(mode="json")

    from alignbench.report.judge_audit import notes, tables, to_data

    if json_:
        told = {"task": task, "source": source, "options": options, "model": model, "seed": seed}
        print(json.dumps({**told, **to_data(found)}, indent=1))
        return
    console = new_console()
    for table in tables(found):
        console.print(table)
    for note in notes(found):
        console.print(printable(note), highlight=False, markup=False)


class _Made(NamedTuple):
    """A source or a task, and whose it is."""

    plugin: Plugin[Any]
    config: Config
    live: Any

    def blamed(self, step: str) -> AbstractContextManager[None]:
        return blamed(self.plugin.name, self.plugin.distribution, step)

    def broken(self, problem: str) -> PluginError:
        return PluginError(self.plugin.name, self.plugin.distribution, problem)


def _made(plugin: Plugin[Any], name: str, given: list[str] | None) -> _Made:
    """The plugin's class, with options as they were typed behind `name`."""
    from alignbench.suite.source import opening, read_value, validated

    options: dict[str, Any] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"{name} {printable(text, 60)}: no KEY=VALUE, such as format=pairwise")
        if key in options:
            raise UserError(f"{name} {printable(key, 60)}: given twice; leave one out")
        options[key] = read_value(value, f"{name} {printable(key, 60)}")
    with blamed(plugin.name, plugin.distribution, "its Config"):
        config = validated(plugin.cls.Config, options, lambda loc: opening(name, loc))
    with blamed(plugin.name, plugin.distribution, "__init__()"):
        return _Made(plugin, config, plugin.cls(config))


def _refuse_unworded(source: _Made, guideline: str) -> None:
    from alignbench.scoring.judge_answers import reworded

    with source.blamed("its Config"):
        if reworded(source.config, guideline) is None:
            name = source.plugin.name
            raise UserError(f"--wording: source '{name}' has no `guidelines` that may be that text; leave it out")


def _held_out(task: _Made) -> HeldOutPairs:
    """PluginError if it has something else in their place, or no rubric to ask about them by."""
    from alignbench.api import HeldOutPairs, Pair, Rubric

    rubric = getattr(task.live, "rubric", None)
    if not (isinstance(rubric, Rubric) and all(isinstance(text, str) for text in rubric[:5])):
        raise task.broken(f"its rubric is {type(rubric).__name__}; a Rubric of text is allowed")
    with task.blamed("held_out_pairs()"):
        found = task.live.held_out_pairs()
    if not (isinstance(found, HeldOutPairs) and isinstance(found.pairs, list)):
        raise task.broken(f"held_out_pairs() returned {type(found).__name__}; return HeldOutPairs with a list of pairs")
    for i, pair in enumerate(found.pairs):
        if not (isinstance(pair, Pair) and all(isinstance(text, str) for text in pair)):
            raise task.broken(
                f"held_out_pairs() returned {type(pair).__name__} as pair {i}; return a Pair of three texts"
            )
    accuracy = found.human_accuracy
    if accuracy is not None and not (isinstance(accuracy, int | float) and 0 <= accuracy <= 1):
        raise task.broken("held_out_pairs() returned a human_accuracy that is no share; return 0 to 1, or None")
    return found


def _count(task: str, held_out: HeldOutPairs, pairs: int | None) -> int:
    there = len(held_out.pairs)
    if there < 2:
        raise UserError(f"task '{task}' has {there} held-out human pairs; name one that has, such as sentiment")
    if pairs is not None and pairs > there:
        raise UserError(f"--pairs {pairs}: task '{task}' has {there} held-out human pairs; lower it")
    return min(PAIRS, there) if pairs is None else pairs


def _audited(
    source: _Made, task: _Made, pairs: int | None, labelled: int | None, wordings: list[str] | None, model: str,
    seed: int,
) -> Any:  # fmt: skip
    """`judge_answers.Found`; what it names takes seconds to import."""
    held_out = _held_out(task)
    count = _count(task.plugin.name, held_out, pairs)

    from alignbench.api import RewardSource, SourceRoom
    from alignbench.engine.device import isolated
    from alignbench.scoring.judge_answers import Judged, audited, drawn

    # A source with no `prepare` of its own has no way to a model, so none is loaded for it.
    base = None if type(source.live).prepare is RewardSource.prepare else _resident(model)
    room = SourceRoom(task.live.rubric, base, None, seed)
    with isolated(seed):
        judged = Judged(source.live, source.config, source.plugin.distribution, room)
        questions = drawn(held_out.pairs, count, seed)
        return audited(judged, questions, held_out.human_accuracy, labelled, wordings)


def _resident(model: str) -> Any:
    from alignbench.assets.models import resolve_model
    from alignbench.engine.device import resolve_device, resolve_dtype
    from alignbench.engine.resident import Resident
    from alignbench.suite.spec import Lora

    device = resolve_device("auto")
    return Resident(resolve_model(model), [], Lora(), device, resolve_dtype("auto", device))
