"""The reward a row optimised, of each completion."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from alignbench.api import Config, Stage
from alignbench.stages.kind import SPENT, Contract, Kind, Told, spoken
from alignbench.stages.source import Source
from alignbench.store import write_json

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class ProxyRewards(Kind):
    """Inputs: `completions`, and `proxy` where it is a fitted reward model."""

    name = "proxy_rewards"
    view = "scoring"
    seconds = 0.01

    class Options(Config):
        reward: Source | None  # an unfitted one
        seed: int

    def make(self, work: HarnessWork) -> None:
        with ExitStack() as stack:
            work.save_rewards(work.open_reward(stack, "proxy", self.Options(**work.options).reward))
        spent = {"tokens": work.meter.counts["tokens_judged"], "flops": work.meter.flops}
        write_json(work.folder / SPENT, spent)

    def runs(self, options: Mapping[str, Any]) -> list[tuple[Contract, str]]:
        return [] if options["reward"] is None else [("source", options["reward"]["name"])]

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        told = below["completions"]
        return Told(f"{spoken(self.name)} of the {told.title}", told.size)
