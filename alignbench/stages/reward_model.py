"""A Bradley-Terry adapter and head, centred and scaled on the texts it compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from alignbench.api import RewardSource, Stage
from alignbench.stages.kind import Kind, Told, on
from alignbench.suite.spec import RewardModelConfig

if TYPE_CHECKING:
    from alignbench.engine.resident import Resident
    from alignbench.stages.work import HarnessWork


class FittedRewardModel(Kind):
    """Inputs: `start`, and the `comparisons` it is fitted to."""

    name = "reward_model"
    seconds = 0.04

    class Options(RewardModelConfig):
        member: int = 0  # of an ensemble: 0 is the one that stands alone elsewhere
        seed: int

    def make(self, work: HarnessWork) -> None:
        from alignbench.feedback.reward_model import RewardModel, fit_reward_model
        from alignbench.stages.work import stage_seed

        rows, config = work.rows("comparisons"), self.Options(**work.options)
        seed = stage_seed(f"{self.name} {config.member}", config.seed) if config.member else work.seed
        with work.resident("start") as resident:
            model = RewardModel.fresh(
                resident, config.pooling, work.task.max_completion_tokens, seed, layers=config.layers
            )
            history = fit_reward_model(
                model, rows, config, seed=seed, meter=work.meter, progress=work.progress, checkpoints=work.checkpoints,
            )  # fmt: skip
            prompts = [row["prompt"] for row in rows] * 2
            model.calibrate(prompts, [row[side] for side in ("chosen", "rejected") for row in rows])
            work.count(tokens_judged=model.tokens_judged)
            model.save(work.folder)
        work.save_history(history)

    def opened(self, folder: Path, resident: Resident) -> RewardSource:
        from alignbench.feedback.reward_model import RewardModel

        return RewardModel.load(folder, resident)

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        compared = below["comparisons"]
        size = compared.size * stage.options["num_train_epochs"]
        title = on(self.name, below, "comparisons")
        title += f", member {stage.options['member'] + 1}" if stage.options["member"] else ""
        return Told(title, size, f"{self.name}({compared.made})")
