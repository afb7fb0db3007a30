"""Several reward models on the same comparisons as one reward."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from alignbench.api import Config, RewardSource, Stage
from alignbench.stages.kind import Kind, Told, on
from alignbench.store import read_rows

if TYPE_CHECKING:
    from alignbench.engine.resident import Resident
    from alignbench.stages.work import HarnessWork

HISTORY = "history.jsonl"  # of each member, one after the other


class RewardEnsemble(Kind):
    """Inputs: `start` and `comparisons`, as of each member, and the members: `member_0`, `member_1`, ..."""

    name = "reward_ensemble"
    seconds = 0.02

    class Options(Config):
        combine: Literal["mean", "worst", "uncertainty"]
        uncertainty_coef: float
        seed: int

    def make(self, work: HarnessWork) -> None:
        from alignbench.feedback.reward_ensemble import Ensemble

        rows, o = work.rows("comparisons"), self.Options(**work.options)
        members = [name for name in work.stage.inputs if name.startswith("member_")]
        for name in members:
            shutil.copytree(work.place(name), work.folder / name)
        with work.resident("start") as resident:
            ensemble = Ensemble.of(resident, [work.folder / name for name in members], o.combine, o.uncertainty_coef)
            prompts = [row["prompt"] for row in rows] * 2
            ensemble.calibrate(prompts, [row[side] for side in ("chosen", "rejected") for row in rows])
            work.count(tokens_judged=ensemble.tokens_judged)
            ensemble.save(work.folder)
        steps = (row for name in members for row in read_rows(work.folder / name / HISTORY))
        work.save_history([{**row, "step": i} for i, row in enumerate(steps, 1)])

    def opened(self, folder: Path, resident: Resident) -> RewardSource:
        from alignbench.feedback.reward_ensemble import Ensemble

        return Ensemble.load(folder, resident)

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        members, how = len(below) - 2, stage.options["combine"]
        size = members * below["comparisons"].size
        return Told(on(self.name, below, "comparisons"), size, f"{how} of {members} {below['member_0'].made}")
