"""What a run shows while it goes: the stage at work, the cells as they finish."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from alignbench.errors import printable
from alignbench.run.schedule import Watcher
from alignbench.scoring.glossary import kl_in_words
from alignbench.scoring.record import Record
from alignbench.suite.plan import Plan, PlannedStage

QUIET = 30.0  # seconds after which a log file is told how far a stage is


class Board(Watcher):
    """A `Watcher` on a terminal; where there is none, one line per computed stage."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self.console = console
        self.plan = plan
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._whole = self._bars.add_task("all stages", total=len(plan.stages))
        self._at: dict[str, TaskID] = {}  # bars of the stages at work, by key
        self._spoke = time.monotonic()
        self.settled = 0  # stages that are in the store

    def __enter__(self) -> Board:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stage_begins(self, stage: PlannedStage) -> None:
        self._at[stage.key] = self._bars.add_task(_shown(stage.title), total=None)

    def stage_advances(self, stage: PlannedStage, done: int, total: int) -> None:
        if stage.key in self._at:
            self._bars.update(self._at[stage.key], completed=done, total=total)
        if not self.console.is_terminal and time.monotonic() - self._spoke > QUIET:
            self._say(f"          {_shown(stage.title)}: {done} of {total}")

    def stage_ends(self, stage: PlannedStage, seconds: float, is_cached: bool, cause: str | None) -> None:
        if stage.key in self._at:
            self._bars.remove_task(self._at.pop(stage.key))
        self._bars.advance(self._whole)
        self.settled += cause is None
        if not is_cached:
            end = "" if cause is None else f"  FAILED: {_shown(cause)}"
            self._say(f"{seconds:7.1f} s  {_shown(stage.title)}{end}")

    def _say(self, text: str) -> None:
        self._spoke = time.monotonic()
        self.console.print(text, highlight=False, soft_wrap=True)

    def cell_ends(self, record: Record) -> None:
        gold = record.metrics.get("reward_gold")
        if gold is not None:
            kl = record.metrics.get("kl_nats_exact")
            nats = kl_in_words(kl, record.metrics.get("kl_nats_bound"), f"{kl:.2f}")
            self.console.print(
                f"           -> {_shown(_place(record))} (seed {record.seed}): gold {gold:+.2f}, KL {nats} nats",
                highlight=False,
            )


def _place(record: Record) -> str:
    return (
        record.label if record.snapshot is None else f"{record.label} at {record.snapshot.name} {record.snapshot.value}"
    )


def _shown(text: str) -> str:
    """Text of a plugin's or a suite's, as a terminal may show it."""
    return escape(printable(text))
