"""Every hook of alignbench. A distribution offers plugins by naming a module that implements one or more of them::

    [project.entry-points.alignbench]
    dpo = "alignbench_dpo"

and, in that module::

    @alignbench.hookimpl
    def alignbench_methods():
        return [DPO]

Built-in methods, sources and tasks come through these same hooks.
"""

from __future__ import annotations

import pluggy

from alignbench.api import AlignmentMethod, RewardSource, Task

PROJECT = "alignbench"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def alignbench_methods() -> list[type[AlignmentMethod]]:  # type: ignore[empty-body]
    """The alignment methods of this distribution: subclasses of `AlignmentMethod`, one row of the table each."""


@hookspec
def alignbench_reward_sources() -> list[type[RewardSource]]:  # type: ignore[empty-body]
    """The reward sources of this distribution: subclasses of `RewardSource`, which score or compare completions."""


@hookspec
def alignbench_tasks() -> list[type[Task]]:  # type: ignore[empty-body]
    """The tasks of this distribution: subclasses of `Task`, which bring prompts, preferences and the gold reward."""
