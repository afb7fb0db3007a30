"""What a method may see: its trial, and the work of its own stages, lead to training data alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from datasets import Dataset

from alignbench.api import RewardSource, Task, Work
from alignbench.engine.device import isolated
from alignbench.errors import UserError
from alignbench.planning.build import PlanBuilder
from alignbench.plugins import Catalog
from alignbench.run.execute import function_of
from alignbench.stages.work import ROWS
from alignbench.store import Store
from alignbench.suite.plan import Plan
from alignbench.suite.spec import Suite
from alignbench.testing.kit import NotApplicable, Unmet, check, trains
from alignbench.testing.trials import MethodLab
from alignbench.testing.worlds import working

LLAMA = ("llama",)
HELD_OUT = "the held-out prompt of this check"
HIDDEN = (RewardSource, Task, Suite, Plan, PlanBuilder, Store, Catalog)
# Ways to what scores a row, from the task that a stage is handed.
READS: dict[str, Callable[[Any, Work], Any]] = {
    "the held-out prompts": lambda task, work: task.prompts("eval"),
    "the held-out pairs": lambda task, work: task.held_out_pairs(),
    "pairs of other kinds": lambda task, work: task.other_pairs(1),
    "texts of another kind": lambda task, work: task.other_texts(),
    "single ratings": lambda task, work: task.single_ratings(),
    "the gold reward's stage": lambda task, work: task.gold(None),
    "the gold reward": lambda task, work: task.load_gold(work.folder, None),
    "the second gold's stage": lambda task, work: task.second_gold(None),
    "the second gold": lambda task, work: task.load_second_gold(work.folder),
    "its card": lambda task, work: task.gold_card(None),
    "the list of completions": lambda task, work: task.completions("a"),
}


@check(
    "method", "gold_and_held_out_prompts_are_out_of_reach", shapes=LLAMA, applies=trains,
    requires="Nothing that scores, and no held-out prompt, is reachable from the trial's public attributes.",
    cause="a recipe or a trial that hands on the task, the store or the gold reward",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    with lab.with_held_out(HELD_OUT).opened(lab.calm()) as (trial, *_):
        _search("trial", trial, (*HIDDEN, Work))


@check(
    "method", "own_stages_see_training_data_alone", shapes=LLAMA,
    requires="The work of a stage that the recipe brings leads neither to what scores a row nor to a held-out prompt; "
    "its function asks for none, and saves none.",
    cause="`work.task` asked for its held-out prompts, pairs or gold reward; only a task's own stages may",
)  # fmt: skip
def _(lab: MethodLab) -> None:
    lab = lab.with_held_out(HELD_OUT)
    plan = lab.plan({})
    own = [stage for stage in plan.stages.values() if stage.run is not None and stage.view == "training"]
    if not own:
        raise NotApplicable("its recipe brings no stage of its own")
    for stage in own:
        with working(plan, stage, lab.store) as work:
            _search("work", work, HIDDEN)
            for what, read in READS.items():
                try:
                    read(work.task, work)
                except UserError:
                    continue
                raise Unmet(f"`work.task` of stage '{stage.kind}' gives {what}")
            try:
                with isolated(work.seed):
                    function_of(stage)(work)
            except UserError as error:
                raise Unmet(f"stage '{stage.kind}': {error}") from error
            saved = (work.folder / ROWS).read_text() if (work.folder / ROWS).exists() else ""
            if HELD_OUT in saved:
                raise Unmet(f"stage '{stage.kind}' saved a held-out prompt")


def _search(name: str, root: Any, hidden: tuple[type, ...]) -> None:
    """Unmet if public attributes lead from `root` to one of those types or to a held-out prompt."""
    for path, thing in _reachable(name, root):
        if isinstance(thing, hidden):
            raise Unmet(f"{path} is a {type(thing).__name__}")
        if isinstance(thing, str) and HELD_OUT in thing:
            raise Unmet(f"{path} holds a held-out prompt")


FOREIGN = ("torch", "transformers", "peft", "tokenizers", "builtins")  # what these hold is no plugin's business


def _reachable(name: str, root: Any, depth: int = 4) -> Iterator[tuple[str, Any]]:
    """(path, object) for what public attributes and containers lead to, nearest first."""
    waiting: list[tuple[str, Any, int]] = [(name, root, depth)]
    seen: set[int] = set()
    while waiting:
        path, thing, left = waiting.pop(0)
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        yield path, thing
        if left:
            waiting += [(f"{path}{step}", inner, left - 1) for step, inner in _inner(thing)]


def _inner(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, Mapping):
        yield from ((f"[{key!r}]", value) for key, value in thing.items())
    elif isinstance(thing, list | tuple):
        yield from ((f"[{i}]", value) for i, value in enumerate(thing))
    elif isinstance(thing, Dataset):
        yield from ((f"[{name!r}]", list(thing[name])) for name in thing.column_names)
    elif hasattr(thing, "__dict__") and type(thing).__module__.split(".")[0] not in FOREIGN:
        properties = [n for n in dir(type(thing)) if isinstance(getattr(type(thing), n), property)]
        public = [name for name in (*vars(thing), *properties) if name[0] != "_"]
        yield from ((f".{name}", getattr(thing, name)) for name in public)
