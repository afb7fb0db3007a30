"""The gold reward's own validity, and that of the second gold where the task has one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from alignbench.api import Stage
from alignbench.stages.kind import Kind, Told, spoken
from alignbench.store import write_json

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class GoldCard(Kind):
    """Inputs: `gold`; `second_gold` where the task has one."""

    name = "gold_card"
    view = "scoring"
    seconds = 2.0

    def make(self, work: HarnessWork) -> None:
        with ExitStack() as stack:
            golds = [work.open_gold(stack)]
            if "second_gold" in work.stage.inputs:
                golds.append(work.task.load_second_gold(work.place("second_gold")))
            write_json(work.folder / "card.json", work.task.gold_card(*golds))

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        return Told(spoken(self.name), 1)
