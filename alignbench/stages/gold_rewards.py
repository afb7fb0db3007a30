"""The gold reward of each completion."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from alignbench.api import Stage
from alignbench.stages.kind import Kind, Told, spoken

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class GoldRewards(Kind):
    """Inputs: `completions` and `gold`."""

    name = "gold_rewards"
    view = "scoring"
    seconds = 0.006

    def make(self, work: HarnessWork) -> None:
        with ExitStack() as stack:
            work.save_rewards(work.open_gold(stack))

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        told = below["completions"]
        return Told(f"{spoken(self.name)} of the {told.title}", told.size)
