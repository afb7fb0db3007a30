"""Comparisons of several origins as one set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from alignbench.api import Stage
from alignbench.stages.kind import Kind, Told

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class JoinedComparisons(Kind):
    """Inputs: what there is of `samples`, the start's, labelled; `samples_1`, a policy's, and so on; `human` pairs."""

    name = "joined_comparisons"
    seconds = 0.0001

    def make(self, work: HarnessWork) -> None:
        work.save_rows([row for name in work.stage.inputs for row in work.rows(name)])

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        labellers = " + ".join(part.made for part in below.values())
        return Told(f"comparisons by {labellers}", sum(part.size for part in below.values()), labellers)
