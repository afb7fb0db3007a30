"""Accuracy on real human pairs that no training stage saw, of the task's kind and of others."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from alignbench.api import Config, HeldOutPairs, Pair, Stage
from alignbench.stages.kind import Contract, Kind, Told, on, spoken
from alignbench.stages.source import Source
from alignbench.store import write_json

if TYPE_CHECKING:
    from alignbench.scoring.evaluate import Accuracy
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
        other_pairs: int  # of each other kind of text that the task has pairs of
        seed: int

    def make(self, work: HarnessWork) -> None:
        from alignbench.scoring.evaluate import implicit_accuracy, pair_accuracy

        o, held_out = self.Options(**work.options), work.task.held_out_pairs()
        own = held_out._replace(pairs=held_out.pairs[: o.held_out_pairs])
        others = dict(work.task.other_pairs(o.other_pairs)) if o.other_pairs else {}
        with ExitStack() as stack:
            if o.is_implicit:
                resident = stack.enter_context(work.resident("policy"))
                adapter, limit = work.load_policy(resident), work.task.max_completion_tokens

                def judged(pairs: list[Pair]) -> Accuracy:
                    return implicit_accuracy(resident, adapter, pairs, limit, o.temperature)

            else:
                reward = work.open_reward(stack, "proxy", o.reward)

                def judged(pairs: list[Pair]) -> Accuracy:
                    return pair_accuracy(reward, pairs)

            card: dict[str, Any] = _told(own, judged(own.pairs))
            card["other"] = {kind: _told(found, judged(found.pairs)) for kind, found in others.items()}
        write_json(work.folder / "card.json", card)

    def runs(self, options: Mapping[str, Any]) -> list[tuple[Contract, str]]:
        is_run = options["reward"] is not None and not options["is_implicit"]
        return [("source", options["reward"]["name"])] if is_run else []

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        is_implicit = "policy" in below
        title = f"{spoken(self.name)} of {below['policy'].made}" if is_implicit else on(self.name, below, "proxy")
        # 3: of as many kinds as the sentiment task has
        return Told(title, stage.options["held_out_pairs"] + 3 * stage.options["other_pairs"])


def _told(pairs: HeldOutPairs, accuracy: Accuracy) -> dict[str, Any]:
    return {"hits": accuracy.hits, "count": accuracy.pairs, "human_accuracy": pairs.human_accuracy}
