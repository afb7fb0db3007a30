"""Real human pairs of the training split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from alignbench.api import Config, Stage
from alignbench.stages.kind import Kind, Told, spoken

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork

HUMAN = "human"  # what a suite calls the comparisons that come with the task, already labelled by people


class HumanComparisons(Kind):
    name = "human_comparisons"
    seconds = 0.0001

    class Options(Config):
        pairs: int
        seed: int

    def make(self, work: HarnessWork) -> None:
        wanted = self.Options(**work.options).pairs
        pairs = work.first(work.task.human_pairs(wanted, work.seed), wanted, "comparisons.pairs", HUMAN)
        work.count(labels_human=len(pairs))
        work.save_rows([{**pair._asdict(), "ranked": [pair.chosen, pair.rejected]} for pair in pairs])

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        return Told(spoken(self.name), stage.options["pairs"], HUMAN)
