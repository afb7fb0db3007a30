"""One method's run: the only stage in which a method's own code trains."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from alignbench.api import AlignmentMethod, Config, MethodConfig, Stage
from alignbench.stages.kind import Contract, Kind, Source, Told
from alignbench.store import write_json

if TYPE_CHECKING:
    from alignbench.engine.resident import Resident
    from alignbench.engine.trial import LiveTrial
    from alignbench.stages.work import LiveWork


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
        reward: Source | None  # an unfitted one

    def make(self, work: LiveWork) -> None:
        with ExitStack() as stack:
            run = open_trial(work, stack)
            run.method.train(run.trial, run.config)
            work.save_policy(run.resident)
        work.save_history(run.trial.history)
        write_json(work.folder / "policy.json", {"is_start": False, "steps": run.trial.budget.used})

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


def open_trial(work: LiveWork, stack: ExitStack) -> OpenTrial:
    """All that a `train` stage puts before its method; what it holds is let go with the stack."""
    from alignbench.engine.trial import LiveTrial

    o = Train.Options(**work.options)
    plugin = work.plan.catalog.method(o.method)
    config = plugin.cls.Config(**o.config)
    workdir = work.scratch / "workdir"
    if work.checkpoints.found is None and workdir.exists():  # what a run left that will not be resumed
        shutil.rmtree(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    has_reward = "reward" in work.stage.inputs or o.reward is not None
    reward = work.open_reward(stack, "reward", o.reward) if has_reward else None
    resident = stack.enter_context(work.resident("start"))
    trial = LiveTrial(
        resident, config, seed=work.seed, max_steps=o.max_steps, max_new_tokens=work.task.max_new_tokens,
        max_completion_tokens=work.task.max_completion_tokens,
        prompts=work.task.prompts("train"), meter=work.meter, workdir=workdir, reward=reward,
        progress=work.progress, checkpoints=work.checkpoints,
        preferences=work.rows("preferences") if "preferences" in work.stage.inputs else None,
    )  # fmt: skip
    return OpenTrial(trial, plugin.cls(), config, resident)
