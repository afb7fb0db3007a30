"""The gold reward of each completion, and whether the text lies beyond what the gold was fitted to."""

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
            gold, rows = work.open_gold(stack), work.rows("completions")
            texts = [row["prompt"] for row in rows], [row["completion"] for row in rows]
            columns = {"reward": gold.score(*texts)}
            if (beyond := gold.extrapolates(*texts)) is not None:
                columns["extrapolates"] = beyond
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        work.save_rows([dict(zip(columns, row, strict=True)) for row in values])

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        told = below["completions"]
        return Told(f"{spoken(self.name)} of the {told.title}", told.size)
