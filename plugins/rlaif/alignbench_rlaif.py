"""RLAIF: the same PPO, with a language model in the humans' place (Lee et al. 2023, arXiv:2309.00267).

The row differs from `ppo` in who labels: a judge alone, and the start point's samples alone. With `direct: true` no
reward model is fitted and the judge's own score is the reward (d-RLAIF, section 2.3).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

import alignbench
from alignbench import AlignmentMethod, Inputs, RecipeBuilder, SourceRef
from alignbench_ppo import PPO


class RLAIF(PPO):
    name = "rlaif"
    summary = "PPO on a reward model fitted to a judge's labels, or on the judge itself"

    class Config(PPO.Config):
        judge: dict[str, Any] = Field(default_factory=dict)  # options of the `judge` source
        direct: bool = False  # optimise the judge's score instead of a reward model fitted to its labels

    def recipe(self, config: Config, build: RecipeBuilder) -> Inputs:
        start, judge = build.sft(), SourceRef("judge", config.judge)
        if config.direct:
            return Inputs(start, reward=judge)
        return Inputs(start, reward=build.reward_model(start, build.compare(build.samples(start), judge)))


@alignbench.hookimpl
def alignbench_methods() -> list[type[AlignmentMethod]]:
    return [RLAIF]
