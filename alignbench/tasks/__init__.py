"""Tasks that come with the harness."""

from alignbench.api import Task
from alignbench.hookspecs import hookimpl


@hookimpl
def alignbench_tasks() -> list[type[Task]]:
    from alignbench.tasks.hh import HH
    from alignbench.tasks.sentiment import Sentiment

    return [HH, Sentiment]
