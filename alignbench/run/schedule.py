"""Which stage is next: walks a plan in order of readiness, and hands each missing stage to a crew.

A stage that fails takes the cells that rest on it with it, each as a record with its cause; the others go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from alignbench.errors import UserError
from alignbench.run.failure import Failure
from alignbench.run.gate import refusal
from alignbench.run.logs import has_log
from alignbench.run.records import record_of
from alignbench.scoring.prices import Prices
from alignbench.scoring.record import Record
from alignbench.store import Store
from alignbench.suite.plan import Plan, PlannedStage

MOST_PUT_BACK = 3  # times
NOT_YET = "not computed yet"  # opens the cause of a cell that `collect` found unfinished


class Watcher:
    """Whoever shows how a run is getting on; this one shows nothing."""

    def stage_begins(self, stage: PlannedStage) -> None: ...
    def stage_waits(self, stage: PlannedStage) -> None: ...  # another run is computing it
    def stage_warns(self, stage: PlannedStage, text: str) -> None: ...
    def stage_advances(self, stage: PlannedStage, done: int, total: int, numbers: Mapping[str, float]) -> None: ...
    def stage_ends(self, stage: PlannedStage, seconds: float, is_cached: bool, cause: str | None) -> None: ...
    def cell_ends(self, record: Record) -> None: ...


class Ended(NamedTuple):
    """A stage that a crew is done with."""

    key: str
    seconds: float
    failure: Failure | None
    is_new: bool = True  # False: another run computed it meanwhile


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

    def __init__(self, plan: Plan, store: Store, crew: Crew, watcher: Watcher, prices: Prices | None = None) -> None:
        self.plan = plan
        self.store = store
        self.crew = crew
        self.watcher = watcher
        self.prices = prices
        self.outcome = Outcome()
        self._waiting = dict(plan.stages) if crew.slots == 1 else _longest_first(plan)
        self._done: set[str] = set()
        self._running: set[str] = set()
        self._gone: list[str] = []  # finished stages that went out of the store, each time
        self._before: dict[str, int] = {}  # how many had gone when a stage began
        self._put: Counter[str] = Counter()  # how often stages were put back for it
        self._told: dict[int, Record] = {}  # records by the place of their cell

    def run(self) -> Outcome:
        try:
            while self._waiting or self._running:
                before = len(self._waiting)
                self._fill()
                self._tell()  # while the next stages run
                if not self._running and before == len(self._waiting) > 0:
                    raise RuntimeError(f"{before} stages wait for what nobody computes")
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
        self._done = {key for key in self.plan.stages if self.store.get(key) is not None}
        self.outcome.cached = len(self._done)
        for cell in self.plan.cells:
            if cell.score is not None and cell.score not in self._done:
                first = next(stage for key, stage in self.plan.upstream(cell.score).items() if key not in self._done)
                more = f"; `alignbench log {first.key[:12]}` has why" if has_log(self.store, first.key) else ""
                self.outcome.failures[cell.score] = Failure(f"{NOT_YET}: {first.title}{more}", "user")
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
            elif all(below in self._done for below in self._needed(stage)):
                del self._waiting[key]
                if self.store.get(key) is not None:
                    self._done.add(key)
                    self.outcome.cached += 1
                    self.watcher.stage_ends(stage, 0.0, True, None)
                    self._tell()
                else:
                    self._running.add(key)
                    self._before[key] = len(self._gone)
                    self.watcher.stage_begins(stage)
                    self.crew.start(stage, self.watcher)

    def _needed(self, stage: PlannedStage) -> list[str]:
        """Its inputs, and what once went out of the store below them: a stage also reads its inputs' start points."""
        below = self.plan.upstream(stage.key).keys() & set(self._gone) if self._gone else set()
        return [*stage.needs, *(below - {stage.key})]

    def _settled(self, stage: PlannedStage) -> bool:
        """Whether a stage fails because one that it rests on did."""
        broken = next((below for below in self._needed(stage) if below in self.outcome.failures), None)
        if broken is not None:
            self.outcome.failures[stage.key] = self.outcome.failures[broken]
        return broken is not None

    def _end(self, ended: Ended) -> None:
        stage = self.plan.stages[ended.key]
        self._running.discard(ended.key)
        if ended.failure is None:
            self._done.add(ended.key)
            self.outcome.computed += ended.is_new
            self.outcome.cached += not ended.is_new
        elif self._put_back(stage):
            return
        else:
            self.outcome.failures[ended.key] = ended.failure
        cause = None if ended.failure is None else ended.failure.cause
        self.watcher.stage_ends(stage, ended.seconds, False, cause)

    def _put_back(self, stage: PlannedStage) -> bool:
        """Whether a stage failed while one that it rests on went out of the store, damaged or deleted. Both are made
        again, but a stage not without end: its own plugin may be who deletes."""
        upstream = self.plan.upstream(stage.key)
        gone = {key: below for key, below in upstream.items() if key in self._done and not self.store.has(key)}
        for key, below in gone.items():
            self._gone.append(key)
            self._done.discard(key)
            self.watcher.stage_warns(below, "gone from the store while it was needed; computed again")
        went = upstream.keys() & set(self._gone[self._before[stage.key] :])
        is_put = bool(went) and self._put[stage.key] < MOST_PUT_BACK
        self._put[stage.key] += is_put
        self._waiting = {**gone, **({stage.key: stage} if is_put else {}), **self._waiting}
        return is_put

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
            elif problem := refusal(self.plan, cell, self.store):
                failure = self.outcome.failures[f"{cell.title}, seed {cell.seed}"] = Failure(problem, "user")
            record = self._told[place] = record_of(self.plan, cell, self.store, failure, self.prices)
            if record.status == "failed" and failure is None:  # its score was deleted, and the exit code says so
                self.outcome.failures[str(cell.score)] = Failure(str(record.cause), "bug")
            if not is_quiet:
                self.watcher.cell_ends(self._told[place])


def _longest_first(plan: Plan) -> dict[str, PlannedStage]:
    """The stages by the seconds that they and the longest chain on them take: the last to end then is not begun last.
    An input still precedes its users, as its chain holds theirs."""
    chain: dict[str, float] = {}
    for key, stage in reversed(plan.stages.items()):
        chain[key] = chain.get(key, 0.0) + stage.estimate
        for below in stage.needs:
            chain[below] = max(chain.get(below, 0.0), chain[key])
    return dict(sorted(plan.stages.items(), key=lambda item: -chain[item[0]]))
