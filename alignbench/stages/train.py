"""One method's run: the only stage in which a method's own code trains."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alignbench.api import AlignmentMethod, Config, MethodConfig, Stage
from alignbench.stages.kind import SNAPSHOTS, Contract, Kind, Told
from alignbench.stages.source import Source
from alignbench.store import write_json

if TYPE_CHECKING:
    from alignbench.engine.resident import Resident
    from alignbench.engine.trial import LiveTrial
    from alignbench.stages.work import HarnessWork


class Train(Kind):
    """Inputs, where the method has them: `start`, `preferences`, and `reward`, a fitted reward model."""

    name = "train"
    seconds = 0.75

    class Options(Config):
        method: str
        code: str  # digest of the method's
        config: Mapping[str, Any]  # JSON values
        seed: int
        max_steps: int
        budget: Mapping[str, float] | None = None  # by unit
        temperature: float
        snapshots: tuple[int, ...]  # optimiser steps after which the adapter is kept
        reward: Source | None  # an unfitted one

    def make(self, work: HarnessWork) -> None:
        from alignbench.engine.resident import has_moved

        with ExitStack() as stack:
            run = open_trial(work, stack)
            run.method.train(run.trial, run.config)
            work.save_policy(run.resident, work.folder)
            run.snapshots.publish(work.folder, run.trial.budget.used)
        work.save_history(run.trial.history)
        budget = run.trial.budget
        facts = {"steps": budget.used, "max_steps": budget.max_steps, "moved": has_moved(work.folder)}
        share = None if work.options["budget"] is None else budget.share
        write_json(work.folder / "policy.json", {"is_start": False, **facts, "budget_share": share})

    def runs(self, options: Mapping[str, Any]) -> list[tuple[Contract, str]]:
        found: list[tuple[Contract, str]] = [("method", options["method"])]
        return found if options["reward"] is None else [*found, ("source", options["reward"]["name"])]

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        return Told(f"train {label}, seed {stage.options['seed']}", stage.options["max_steps"], label)


class OpenTrial(NamedTuple):
    """A method at its start."""

    trial: LiveTrial
    method: AlignmentMethod
    config: MethodConfig
    resident: Resident
    snapshots: Snapshots


class Snapshots:
    """The adapter after certain optimiser steps, kept in scratch until the run has ended: a killed one finds them."""

    def __init__(self, work: HarnessWork, resident: Resident, steps: Collection[int]) -> None:
        self._folder = work.scratch / SNAPSHOTS
        self._work = work
        self._resident = resident
        self._steps = steps

    def stepped(self, used: int) -> None:
        if used in self._steps:
            shutil.rmtree(self._folder / str(used), ignore_errors=True)  # of a run that was killed since
            self._work.save_policy(self._resident, self._folder / str(used))
            self._seal(used).write_text(self._sum(used))
            self._work.meter.mark(str(used))

    def check(self) -> None:
        """Refuse a checkpoint whose snapshots are not all there as they were written: a killed run never makes the
        earlier ones again."""
        found = self._work.checkpoints.found
        if found is None:
            return
        for step in sorted(self._steps):
            if step <= found.values["used"] and not self._is_whole(step):
                self._work.checkpoints.refuse(f"the snapshot at step {step} is missing or altered")
                shutil.rmtree(self._folder, ignore_errors=True)
                return

    def _is_whole(self, step: int) -> bool:
        try:
            return self._seal(step).read_text() == self._sum(step)
        except (OSError, ValueError):
            return False

    def _seal(self, step: int) -> Path:
        return self._folder / f"{step}.sha256"

    def _sum(self, step: int) -> str:
        """sha256 over the snapshot's files, its place and whose it is."""
        whole = hashlib.sha256(f"{self._work.stage.key} {step}".encode())
        for file in sorted((self._folder / str(step)).iterdir()):
            whole.update(f"\n{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
        return whole.hexdigest()

    def publish(self, folder: Path, used: int) -> None:
        """Into the stage's own folder. Where a run has ended before a place, its end stands there too."""
        for step in self._steps:
            if step <= used:
                shutil.copytree(self._folder / str(step), folder / SNAPSHOTS / str(step))
            else:
                self._work.save_policy(self._resident, folder / SNAPSHOTS / str(step))


def open_trial(work: HarnessWork, stack: ExitStack) -> OpenTrial:
    """All that a `train` stage puts before its method; what it holds is let go with the stack."""
    from alignbench.engine.trial import LiveTrial

    o = Train.Options(**work.options)
    method = work.method(o.method)
    config = method.Config(**o.config)
    has_reward = "reward" in work.stage.inputs or o.reward is not None
    reward = work.open_reward(stack, "reward", o.reward) if has_reward else None
    resident = stack.enter_context(work.resident("start"))
    snapshots = Snapshots(work, resident, o.snapshots)
    snapshots.check()
    workdir = work.scratch / "workdir"
    if work.checkpoints.found is None and workdir.exists():  # what a run left that will not be resumed
        shutil.rmtree(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    trial = LiveTrial(
        resident, config, seed=work.seed, max_steps=o.max_steps, budget=o.budget, temperature=o.temperature,
        max_new_tokens=work.task.max_new_tokens, max_completion_tokens=work.task.max_completion_tokens,
        prompts=work.task.prompts("train"), meter=work.meter, workdir=workdir, reward=reward,
        progress=work.progress, checkpoints=work.checkpoints, stepped=snapshots.stepped, beside=work.residents,
        preferences=work.rows("preferences") if "preferences" in work.stage.inputs else None,
    )  # fmt: skip
    return OpenTrial(trial, method(), config, resident, snapshots)
