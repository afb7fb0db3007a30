"""Tasks that come with the harness, and the reward source of the one whose reward is no secret."""

from alignbench.api import RewardSource, Task
from alignbench.hookspecs import hookimpl


@hookimpl
def alignbench_tasks() -> list[type[Task]]:
    from alignbench.tasks.hh import HH
    from alignbench.tasks.oracle import Oracle
    from alignbench.tasks.preferences import Preferences
    from alignbench.tasks.sentiment import Sentiment

    return [HH, Oracle, Preferences, Sentiment]


@hookimpl
def alignbench_reward_sources() -> list[type[RewardSource]]:
    from alignbench.tasks.oracle import OracleReward

    return [OracleReward]
