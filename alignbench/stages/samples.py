"""Completions of the label prompts, to be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from alignbench.api import Config, Stage
from alignbench.stages.kind import Kind, Told
from alignbench.stages.view import drawn

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class Samples(Kind):
    """`per_prompt` completions of each prompt, by `start`, or by `policy` where that is an input too."""

    name = "samples"
    seconds = 0.01

    class Options(Config):
        prompts: int
        per_prompt: int
        temperature: float
        seed: int

    def make(self, work: HarnessWork) -> None:
        o = self.Options(**work.options)
        prompts = work.first(drawn(work.task, "label", o.seed), o.prompts, "comparisons.pairs", "label")
        with work.resident("start") as resident:
            if "policy" in work.stage.inputs:
                work.load_policy(resident)
            rollout = work.sample(
                resident, [p for p in prompts for _ in range(o.per_prompt)], work.task.max_new_tokens, o.temperature
            )
        groups = [slice(i, i + o.per_prompt) for i in range(0, len(rollout.completions), o.per_prompt)]
        is_ended = rollout.is_ended.tolist()
        work.save_rows(
            [
                {"prompt": prompt, "completions": rollout.completions[group], "is_ended": is_ended[group]}
                for prompt, group in zip(prompts, groups, strict=True)
            ]
        )

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        title = f"{self.name} of {below['policy'].made}" if "policy" in below else self.name
        return Told(title, stage.options["prompts"] * stage.options["per_prompt"])
