"""The gold reward's own validity."""

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
    """Input: `gold`."""

    name = "gold_card"
    view = "scoring"
    seconds = 2.0

    def make(self, work: HarnessWork) -> None:
        with ExitStack() as stack:
            write_json(work.folder / "card.json", work.task.gold_card(work.open_gold(stack)))

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        return Told(spoken(self.name), 1)
