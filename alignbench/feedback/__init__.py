"""The harness's own reward sources: simulated raters, a language-model judge, length, the fitted reward model."""

from alignbench.api import RewardSource
from alignbench.hookspecs import hookimpl


@hookimpl
def alignbench_reward_sources() -> list[type[RewardSource]]:
    from alignbench.feedback.judge import Judge
    from alignbench.feedback.length import Length
    from alignbench.feedback.panel import Panel

    return [Judge, Length, Panel]
