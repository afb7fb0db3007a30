"""How a reward orders real human pairs that no training stage saw, those it was fitted to, and other kinds of text."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from alignbench.api import Config, HeldOutPairs, Pair, Stage
from alignbench.stages.kind import Contract, Kind, Told, on, spoken
from alignbench.stages.source import Source
from alignbench.store import read_json, write_json

if TYPE_CHECKING:
    from alignbench.scoring.reward_card import Card
    from alignbench.stages.work import HarnessWork

FACTS = "reward_model.json"  # of one fitted model; an ensemble's scores claim no probability


class RewardCard(Kind):
    """Of the proxy, or of the implicit reward of input `policy`. `comparisons`: what it was fitted to, if anything."""

    name = "reward_card"
    view = "scoring"
    seconds = 0.02

    class Options(Config):
        reward: Source | None  # an unfitted proxy; a fitted one is input `proxy`
        is_implicit: bool
        implicit_scale: float | None  # points of reward a nat of log p - log p_ref
        held_out_pairs: int
        temperature: float
        other_pairs: int  # of each other kind of text that the task has pairs of
        seed: int

    def make(self, work: HarnessWork) -> None:
        from alignbench.scoring.reward_card import card_of, implicit_scores, pair_scores

        o, held_out = self.Options(**work.options), work.task.held_out_pairs()
        own = held_out._replace(pairs=held_out.pairs[: o.held_out_pairs])
        cut = _cut(work, own.pairs)
        others = dict(work.task.other_pairs(o.other_pairs)) if o.other_pairs else {}
        for kind in [kind for kind, found in others.items() if not found.pairs]:
            del others[kind]
            warnings.warn(f"the task has no pairs of {kind}, so no accuracy is told of them", stacklevel=2)
        with ExitStack() as stack:
            if o.is_implicit:
                resident = stack.enter_context(work.resident("policy"))
                adapter, limit = work.load_policy(resident), work.task.max_completion_tokens
                scale = o.implicit_scale

                def judged(pairs: list[Pair]) -> Card:
                    return card_of(implicit_scores(resident, adapter, pairs, limit, o.temperature), pairs, scale)

            else:
                reward = work.open_reward(stack, "proxy", o.reward)
                facts = work.place("proxy") / FACTS if "proxy" in work.stage.inputs else None
                scale = read_json(facts)["std"] if facts is not None and facts.is_file() else None

                def judged(pairs: list[Pair]) -> Card:
                    return card_of(pair_scores(reward, pairs), pairs, scale)

            card: dict[str, Any] = {**_told(own, judged(own.pairs)), "cut": cut}
            if "comparisons" in work.stage.inputs:
                fitted = [Pair(*(row[side] for side in Pair._fields)) for row in work.rows("comparisons")]
                step = max(1, len(fitted) // o.held_out_pairs)  # evenly: samples stand before human pairs
                card["train"] = judged(fitted[::step][: o.held_out_pairs])._asdict()
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


def _cut(work: HarnessWork, pairs: list[Pair]) -> float | None:
    """Share of pairs of which a text is longer than fitted rewards read. None of a source, which reads it whole."""
    fitted = next((name for name in ("policy", "proxy") if name in work.stage.inputs), None)
    if fitted is None:
        return None
    with work.resident(fitted) as resident:
        limit, plain = work.task.max_completion_tokens, resident.codec.plain
        return sum(len(plain(p.chosen)) > limit or len(plain(p.rejected)) > limit for p in pairs) / len(pairs)


def _told(pairs: HeldOutPairs, card: Card) -> dict[str, Any]:
    return {**card._asdict(), "human_accuracy": pairs.human_accuracy}
