"""Comparisons of which some are turned round, as by annotators who err."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

from alignbench.api import Config, Stage, turned
from alignbench.stages.kind import Kind, Told

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class NoisyComparisons(Kind):
    """Exactly `noise` of input `comparisons`, rounded, drawn by `seed`: a larger share turns the same ones and more."""

    name = "noisy_comparisons"
    seconds = 0.0001

    class Options(Config):
        noise: float
        seed: int

    def make(self, work: HarnessWork) -> None:
        rows, noise = work.rows("comparisons"), self.Options(**work.options).noise
        order = random.Random(work.seed).sample(range(len(rows)), len(rows))
        wrong = set(order[: round(noise * len(rows))])
        work.save_rows([turned(row) if i in wrong else row for i, row in enumerate(rows)])

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        compared, share = below["comparisons"], f"{stage.options['noise']:.0%} turned round"
        return Told(f"{compared.title}, {share}", compared.size, f"{compared.made}, {share}")
