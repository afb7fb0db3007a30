"""What a run shows while it goes: the stage at work, the cells as they finish."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from alignbench.errors import printable
from alignbench.run.schedule import Watcher
from alignbench.scoring.glossary import kl_in_words
from alignbench.scoring.record import Record
from alignbench.suite.plan import Plan, PlannedStage

TELLING = ("loss", "reward", "kl_nats", "accuracy")  # how the names of such numbers begin
MOST_NUMBERS = 4
MOST_WARNINGS = 20  # of one run
QUIET = 30.0  # seconds after which a log file is told how far a stage is


class Board(Watcher):
    """A `Watcher` on a terminal; where there is none, one line per computed stage."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self.console = console
        self.plan = plan
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[told]}"), console=console, transient=True,
        )  # fmt: skip
        self._whole = self._bars.add_task("all stages", total=len(plan.stages), told="")
        self._at: dict[str, TaskID] = {}  # bars of the stages at work, by key
        self._spoke = time.monotonic()
        self._warned: set[str] = set()
        self._waited: set[str] = set()
        self._left = {key: stage.estimate for key, stage in plan.stages.items()}  # seconds, of what is not settled
        self._took, self._foreseen = 0.0, 0.0  # seconds, of what was computed
        self._ended: set[str] = set()  # stages

    def __enter__(self) -> Board:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stage_begins(self, stage: PlannedStage) -> None:
        if stage.key not in self._at:  # else it was put back
            self._at[stage.key] = self._bars.add_task(_shown(stage.title), total=None, told="")

    def stage_waits(self, stage: PlannedStage) -> None:
        if stage.key not in self._waited:
            self._waited.add(stage.key)
            self._say(f"           another run is computing {_shown(stage.title)}; waiting for it")

    def stage_warns(self, stage: PlannedStage, text: str) -> None:
        """Once, by whichever stage says it first: each process does that runs into it."""
        text = printable(text)
        if text in self._warned or len(self._warned) > MOST_WARNINGS:
            return
        self._warned.add(text)
        is_last = len(self._warned) > MOST_WARNINGS
        more = "there are more warnings; `alignbench log KEY` has those of a stage"
        self._say(f"           {more if is_last else _shown(f'{stage.title}: {text}')}")

    def stage_advances(self, stage: PlannedStage, done: int, total: int, numbers: Mapping[str, float]) -> None:
        if stage.key not in self._at:
            return
        bar = self._bars.tasks[self._bars.task_ids.index(self._at[stage.key])]
        self._bars.update(bar.id, completed=done, total=total)
        told = ", ".join(filter(None, [_left(bar.time_remaining), in_words(numbers)]))
        self._bars.update(bar.id, told=told)
        if total > 0:
            self._left[stage.key] = stage.estimate * min(1.0, max(0.0, 1 - done / total))
            self._show_whole()
        if not self.console.is_terminal and time.monotonic() - self._spoke > QUIET:
            self._say(f"           {_shown(stage.title)}: {done} of {total}{', ' if told else ''}{told}")

    def stage_ends(self, stage: PlannedStage, seconds: float, is_cached: bool, cause: str | None) -> None:
        if stage.key in self._at:
            self._bars.remove_task(self._at.pop(stage.key))
        self._left.pop(stage.key, None)
        if not is_cached:
            self._took, self._foreseen = self._took + seconds, self._foreseen + stage.estimate
            end = "" if cause is None else f"  FAILED: {_shown(cause)}"
            self._say(f"{seconds:7.1f} s  {_shown(stage.title)}{end}")
        self._ended.add(stage.key)
        self._show_whole()

    def _show_whole(self) -> None:
        pace = self._took / self._foreseen if self._foreseen else 1.0
        self._bars.update(self._whole, completed=len(self._ended), told=_left(pace * sum(self._left.values())))

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


def in_words(numbers: Mapping[str, float]) -> str:
    """The few numbers that tell how a fit is doing: 'loss 0.6931, reward 0.12, kl_nats_k1 1.034'."""
    shown = [name for start in TELLING for name in numbers if name.startswith(start)]
    return ", ".join(f"{_shown(name)} {numbers[name]:.4g}" for name in shown[:MOST_NUMBERS])


def _left(seconds: float | None) -> str:
    return (
        "" if not seconds else f"about {seconds:.0f} s left" if seconds < 120 else f"about {seconds / 60:.0f} min left"
    )


def _place(record: Record) -> str:
    at = record.snapshot
    return record.label if at is None else f"{record.label} at {at.name} {at.value}"


def _shown(text: str) -> str:
    """Text of a plugin's or a suite's, as a terminal may show it."""
    return escape(printable(text))
