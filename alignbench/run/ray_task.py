"""What a Ray task does: computes one stage in a child process on its machine, as a run there would.

The Ray worker that holds the task runs no plugin's code and imports no torch, so it stays warm from task to task,
and its server of children too: with a Ray worker of its own (`max_calls=1`) each stage would begin with 4 s of imports.
A child is fresh where a plugin's code runs, and gone before the task ends where the stage used a GPU, whose memory is
the next task's. Timeouts, memory, retries and logs are `ProcessCrew`'s. This file imports no Ray.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from alignbench.errors import UserError, in_words
from alignbench.run.crew import ProcessCrew, memory_limit
from alignbench.run.elsewhere import check_same, made_here
from alignbench.run.failure import Failure
from alignbench.run.schedule import Ended, Watcher
from alignbench.store import Store
from alignbench.suite.plan import Plan, PlannedStage
from alignbench.suite.spec import Suite

MOST_WARNINGS = 20  # of one stage that are passed on; its log has all


class Seat:
    """One Ray worker's part in one run."""

    def __init__(self, plan: str, settings: Mapping[str, Any]) -> None:
        """UserError if the store is not that of the run, or code and data are not."""
        home = Path(settings["home"])
        if not Path(settings["mark"]).is_file():
            raise UserError(
                f"the Ray worker on {socket.gethostname()} cannot see the store of this run, {home}; "
                "set ALIGNBENCH_HOME to a folder that every machine of the cluster shares"
            )
        sys.path += [entry for entry in settings["path"] if entry not in sys.path]
        with suppress(OSError):  # relative paths of a suite count from there
            os.chdir(settings["folder"])
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray's own choice
        if settings["omp"] is not None:
            os.environ["OMP_NUM_THREADS"] = settings["omp"]
        data = json.loads(plan)
        self.mark = settings["mark"]
        self.stages = {
            stage["key"]: PlannedStage(**{**stage, "plugins": tuple(stage["plugins"])}) for stage in data["stages"]
        }
        self.made: Plan | None = (
            made_here(Suite.model_validate(data["suite"]), data["modules"]) if settings["is_elsewhere"] else None
        )
        self.crew = ProcessCrew(
            plan, Store(home), timeout=settings["timeout"], memory=settings["memory"] or memory_limit(),
            threads=settings["threads"],
        )  # fmt: skip

    def compute(self, key: str) -> Ended:
        stage = self.stages[key]
        if self.made is not None:
            check_same(stage, self.made)
        self.crew.start(stage, Telling(self.crew.store.root))
        while not (ended := self.crew.wait()):
            pass
        if stage.resources.get("gpus"):
            self.crew.close()
        return ended[0]


class Telling(Watcher):
    """Says how far a stage is in a file beside its log, for the run, which may be on another machine, to read."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.said: dict[str, Any] = {"warnings": []}

    def stage_warns(self, stage: PlannedStage, text: str) -> None:
        self._say(stage, warnings=[*self.said["warnings"], text][-MOST_WARNINGS:])

    def stage_advances(self, stage: PlannedStage, done: int, total: int, numbers: Mapping[str, float]) -> None:
        self._say(stage, done=done, total=total, numbers=dict(numbers))

    def _say(self, stage: PlannedStage, **said: Any) -> None:
        self.said |= said
        file = progress_file(self.home, stage.key)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self.said))


def progress_file(home: Path, key: str) -> Path:
    return home / "logs" / f"{key}.progress"


_seat: Seat | None = None  # a Ray worker serves one run


def compute(key: str, plan: str, settings: str) -> str:
    """Publish stage `key` of `plan`, or say why not. JSON: a `Failure` or null, and whether it was not there before."""
    global _seat
    given = json.loads(settings)
    try:
        if _seat is None or _seat.mark != given["mark"]:
            _seat = Seat(plan, given)
        _, _, failure, is_new = _seat.compute(key)
    except UserError as error:
        failure, is_new = Failure(in_words(error), "user"), True
    return json.dumps({"failure": None if failure is None else vars(failure), "is_new": is_new})
