"""The harness's own reward sources: simulated raters, a language-model judge, the fitted reward model, controls."""

from alignbench.api import RewardSource
from alignbench.hookspecs import hookimpl


@hookimpl
def alignbench_reward_sources() -> list[type[RewardSource]]:
    from alignbench.feedback.biased import Biased
    from alignbench.feedback.judge import Judge
    from alignbench.feedback.length import Length
    from alignbench.feedback.panel import Panel
    from alignbench.feedback.random_reward import RandomReward

    return [Biased, Judge, Length, Panel, RandomReward]
