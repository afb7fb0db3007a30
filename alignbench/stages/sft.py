"""A supervised adapter on the base model, or on another start point."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from alignbench.api import Demonstration, Stage
from alignbench.stages.kind import Kind, Told, on
from alignbench.suite.spec import Training

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class SFT(Kind):
    """Inputs: `data`, rows of prompt and completion in place of the task's demonstrations; `on`, another start."""

    name = "sft"
    is_start = True
    seconds = 0.2

    class Options(Training):
        seed: int
        num_train_epochs: PositiveFloat | None = None  # passes over the data, `max_steps` at most; None: `max_steps`

    def make(self, work: HarnessWork) -> None:
        from alignbench.engine.supervised import fit_supervised

        config = self.Options(**work.options)
        if "data" in work.stage.inputs:
            data = [Demonstration(row["prompt"], row["completion"]) for row in work.rows("data")]
            limit = work.task.max_new_tokens  # a model wrote them within it; a longer one has no end to learn
        else:
            data = work.task.demonstrations()
            limit = config.max_completion_length or work.task.max_completion_tokens
        if config.num_train_epochs is not None:
            per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps
            wanted = ceil(config.num_train_epochs * len(data) / per_step)
            config = config.model_copy(update={"max_steps": min(wanted, config.max_steps)})
        with work.resident("on") as resident:
            history = fit_supervised(
                resident, data, config, seed=work.seed, meter=work.meter, progress=work.progress,
                max_new_tokens=limit, checkpoints=work.checkpoints,
            )  # fmt: skip
            resident.save_adapter(self.name, work.folder)
        work.save_history(history)

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        return Told(on(self.name, below, "data"), stage.options["max_steps"])
