"""Computes stages in this very process, one after the other: for tests, debuggers and `--strict`."""

from __future__ import annotations

import time

from alignbench.run.execute import Bench
from alignbench.run.failure import failure_of
from alignbench.run.schedule import Ended, Outcome, Schedule, Watcher
from alignbench.store import Store
from alignbench.suite.plan import Plan, PlannedStage


class Here:
    """A crew of one, which shares its process with every plugin: a plugin may poison what comes after it."""

    slots = 1

    def __init__(self, plan: Plan, store: Store, *, is_strict: bool = False) -> None:
        self.bench = Bench(plan, store)
        self.is_strict = is_strict  # raise a stage's exception instead of recording it
        self._ended: list[Ended] = []

    def start(self, stage: PlannedStage, watcher: Watcher) -> None:
        began, failure, is_new = time.perf_counter(), None, True
        self.bench.progress = lambda done, total, **numbers: watcher.stage_advances(stage, done, total, numbers)
        self.bench.waiting = lambda: watcher.stage_waits(stage)
        try:
            is_new = self.bench.compute(stage.key)
        except (Exception, SystemExit) as error:
            if self.is_strict:
                raise
            failure = failure_of(error, stage)
        self._ended.append(Ended(stage.key, time.perf_counter() - began, failure, is_new))

    def wait(self) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None: ...


def run_here(plan: Plan, store: Store, watcher: Watcher | None = None, *, is_strict: bool = False) -> Outcome:
    """A whole plan in this process."""
    return Schedule(plan, store, Here(plan, store, is_strict=is_strict), watcher or Watcher()).run()
