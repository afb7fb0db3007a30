"""What a run shows while it goes: the stage at work, the cells as they finish."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from alignbench.api import Stage
from alignbench.scoring.glossary import kl_in_words
from alignbench.scoring.record import Record
from alignbench.suite.plan import Plan, labellers


class Board:
    """A `Watcher` on a terminal; where there is none, one line per computed stage."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self.console = console
        self.plan = plan
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._whole = self._bars.add_task("all stages", total=len(plan.stages))
        self._stage = self._bars.add_task("", total=None, visible=False)

    def __enter__(self) -> Board:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stage_begins(self, stage: Stage, key: str) -> None:
        self._bars.reset(self._stage, description=escape(describe(stage)), total=None, visible=True)

    def stage_advances(self, done: int, total: int) -> None:
        self._bars.update(self._stage, completed=done, total=total)

    def stage_ends(self, stage: Stage, key: str, seconds: float, is_cached: bool, cause: str | None) -> None:
        self._bars.update(self._stage, visible=False)
        self._bars.advance(self._whole)
        if not is_cached:
            end = "" if cause is None else f"  FAILED: {escape(cause)}"
            self.console.print(f"{seconds:7.1f} s  {escape(describe(stage))}{end}", highlight=False, soft_wrap=True)

    def cell_ends(self, record: Record) -> None:
        gold = record.metrics.get("reward_gold")
        if gold is not None:
            kl = record.metrics.get("kl_nats_exact")
            nats = kl_in_words(kl, record.metrics.get("kl_nats_bound"), f"{kl:.2f}")
            self.console.print(
                f"           -> {escape(record.label)} (seed {record.seed}): gold {gold:+.2f}, KL {nats} nats",
                highlight=False,
            )


def describe(stage: Stage) -> str:
    """A stage in a few words."""
    options = stage.options
    if stage.kind == "train":
        return f"train {options['method']}, seed {options['seed']}" if options["method"] else "start point as a policy"
    if stage.kind == "comparisons":
        return f"comparisons by {options['source']}"
    if stage.kind == "joined_comparisons":
        return f"comparisons by {labellers(stage)}"
    if stage.kind == "reward_model":
        return f"reward model on {describe(stage.inputs['comparisons'])}"
    if stage.kind == "completions":
        return f"completions of {stage.inputs['policy'].options['method'] or 'the start point'}, seed {options['seed']}"
    if "completions" in stage.inputs:
        return f"{stage.kind.replace('_', ' ')} of the {describe(stage.inputs['completions'])}"
    return stage.kind.replace("_", " ") + (" on revisions" if "data" in stage.inputs else "")
