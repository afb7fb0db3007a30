"""Accuracy on real human pairs that no training stage saw."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from alignbench.api import Config, Stage
from alignbench.stages.kind import Contract, Kind, Told, on, spoken
from alignbench.stages.source import Source
from alignbench.store import write_json

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class RewardCard(Kind):
    """Of the proxy, or of the implicit reward of input `policy`."""

    name = "reward_card"
    view = "scoring"
    seconds = 0.02

    class Options(Config):
        reward: Source | None  # an unfitted proxy; a fitted one is input `proxy`
        is_implicit: bool
        held_out_pairs: int
        temperature: float
        seed: int

    def make(self, work: HarnessWork) -> None:
        from alignbench.scoring.evaluate import implicit_accuracy, pair_accuracy

        o, held_out = self.Options(**work.options), work.task.held_out_pairs()
        pairs = held_out.pairs[: o.held_out_pairs]
        if o.is_implicit:
            with work.resident("policy") as resident:
                adapter = work.load_policy(resident)
                accuracy = implicit_accuracy(resident, adapter, pairs, work.task.max_completion_tokens, o.temperature)
        else:
            with ExitStack() as stack:
                accuracy = pair_accuracy(work.open_reward(stack, "proxy", o.reward), pairs)
        card = {"hits": accuracy.hits, "count": accuracy.pairs, "human_accuracy": held_out.human_accuracy}
        write_json(work.folder / "card.json", card)

    def runs(self, options: Mapping[str, Any]) -> list[tuple[Contract, str]]:
        is_run = options["reward"] is not None and not options["is_implicit"]
        return [("source", options["reward"]["name"])] if is_run else []

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        is_implicit = "policy" in below
        title = f"{spoken(self.name)} of {below['policy'].made}" if is_implicit else on(self.name, below, "proxy")
        return Told(title, stage.options["held_out_pairs"])
