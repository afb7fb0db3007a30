"""The second gold's reward of each completion, where the task has one. No model runs here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from alignbench.api import Stage
from alignbench.stages.kind import Kind, Told, spoken

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class SecondGoldRewards(Kind):
    """Inputs: `completions` and `second_gold`."""

    name = "second_gold_rewards"
    view = "scoring"
    seconds = 0.001

    def make(self, work: HarnessWork) -> None:
        work.save_rewards(work.task.load_second_gold(work.place("second_gold")))

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        told = below["completions"]
        return Told(f"{spoken(self.name)} of the {told.title}", told.size)
