"""Which stage is next: walks a plan in order of readiness, and hands each missing stage to a crew.

A stage that fails takes the cells that rest on it with it, each as a record with its cause; the others go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from alignbench.errors import UserError
from alignbench.run.failure import Failure
from alignbench.run.records import record_of
from alignbench.scoring.record import Record
from alignbench.store import Store
from alignbench.suite.plan import Plan, PlannedStage


class Watcher:
    """Whoever shows how a run is getting on; this one shows nothing."""

    def stage_begins(self, stage: PlannedStage) -> None: ...
    def stage_waits(self, stage: PlannedStage) -> None: ...  # another run is computing it
    def stage_advances(self, stage: PlannedStage, done: int, total: int, numbers: Mapping[str, float]) -> None: ...
    def stage_ends(self, stage: PlannedStage, seconds: float, is_cached: bool, cause: str | None) -> None: ...
    def cell_ends(self, record: Record) -> None: ...


class Ended(NamedTuple):
    """A stage that a crew is done with."""

    key: str
    seconds: float
    failure: Failure | None


class Crew(Protocol):
    """Whoever computes stages: this process, its children, or other machines."""

    slots: int  # how many stages at once

    def start(self, stage: PlannedStage, watcher: Watcher) -> None: ...
    def wait(self) -> list[Ended]: ...
    def close(self) -> None: ...


@dataclass
class Outcome:
    records: list[Record] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)  # by stage key, or by label of a row without stages
    computed: int = 0
    cached: int = 0

    @property
    def mistake(self) -> UserError | None:
        """What to mend if mistakes in what was given, and nothing else, left no cell standing: the first of them."""
        is_barren = all(record.status == "failed" for record in self.records)
        if not (self.failures and is_barren and all(f.blame == "user" for f in self.failures.values())):
            return None
        first, *others = dict.fromkeys(failure.cause for failure in self.failures.values())
        return UserError(first + (f" (and {len(others)} more)" if others else ""))

    @property
    def exit_code(self) -> int:
        """0; 2 where every failure is a mistake in what was given, a plugin included; 1 where one is a bug."""
        return 1 if any(f.blame == "bug" for f in self.failures.values()) else 2 if self.failures else 0


class Schedule:
    """One run of a plan against a store."""

    def __init__(self, plan: Plan, store: Store, crew: Crew, watcher: Watcher) -> None:
        self.plan = plan
        self.store = store
        self.crew = crew
        self.watcher = watcher
        self.outcome = Outcome()
        self._waiting = dict(plan.stages)
        self._done: set[str] = set()
        self._running: set[str] = set()
        self._told: dict[int, Record] = {}  # records by the place of their cell

    def run(self) -> Outcome:
        try:
            while self._waiting or self._running:
                self._fill()
                self._tell()  # while the next stages run
                if self._running:
                    for ended in self.crew.wait():
                        self._end(ended)
            self._tell()
        finally:
            self.crew.close()
        self.outcome.records = [self._told[i] for i in range(len(self.plan.cells))]
        return self.outcome

    def collect(self) -> Outcome:
        """The table of what is done so far; nothing is computed."""
        for key, stage in self.plan.stages.items():
            if self._settled(stage):
                continue
            if self.store.get(key) is None:
                self.outcome.failures[key] = Failure(f"not computed yet: {stage.title}", "user")
            else:
                self._done.add(key)
                self.outcome.cached += 1
        self._tell(is_quiet=True)
        self.outcome.records = [self._told[i] for i in range(len(self.plan.cells))]
        return self.outcome

    def _fill(self) -> None:
        """Settle what is cached or can no longer be made, and start what is ready, while there is a free place."""
        for key, stage in list(self._waiting.items()):
            if len(self._running) >= self.crew.slots:
                return
            if self._settled(stage):
                del self._waiting[key]
            elif all(below in self._done for below in stage.inputs.values()):
                del self._waiting[key]
                if self.store.get(key) is not None:
                    self._done.add(key)
                    self.outcome.cached += 1
                    self.watcher.stage_ends(stage, 0.0, True, None)
                    self._tell()
                else:
                    self._running.add(key)
                    self.watcher.stage_begins(stage)
                    self.crew.start(stage, self.watcher)

    def _settled(self, stage: PlannedStage) -> bool:
        """Whether a stage fails because one that it rests on did."""
        broken = next((below for below in stage.inputs.values() if below in self.outcome.failures), None)
        if broken is not None:
            self.outcome.failures[stage.key] = self.outcome.failures[broken]
        return broken is not None

    def _end(self, ended: Ended) -> None:
        stage = self.plan.stages[ended.key]
        self._running.discard(ended.key)
        if ended.failure is None:
            self._done.add(ended.key)
            self.outcome.computed += 1
        else:
            self.outcome.failures[ended.key] = ended.failure
        cause = None if ended.failure is None else ended.failure.cause
        self.watcher.stage_ends(stage, ended.seconds, False, cause)

    def _tell(self, is_quiet: bool = False) -> None:
        """A record for every cell whose score is settled."""
        for place, cell in enumerate(self.plan.cells):
            if place in self._told:
                continue
            failure = None
            if cell.score is None:
                failure = Failure(str(cell.cause), "plugin")
                self.outcome.failures[cell.label] = failure
            elif cell.score in self.outcome.failures:
                failure = self.outcome.failures[cell.score]
            elif cell.score not in self._done:
                continue
            self._told[place] = record_of(self.plan, cell, self.store, failure)
            if not is_quiet:
                self.watcher.cell_ends(self._told[place])
