"""Named checks: what one is, and how it is declared. No torch.

A check is a function of a *lab* (see `trials` and `labs`) that raises `Unmet` with what it observed. What it requires,
the likely cause of a failure and the traps it fails on are declared beside it, so that a failure says what to mend::

    @check("method", "zero_budget_changes_nothing", requires="...", cause="...")
    def _(lab: MethodLab) -> None: ...
"""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from alignbench.api import AlignmentMethod, RewardSource

Subject = Literal["method", "source", "harness"]
Speed = Literal["contract", "learning"]
HARNESS = "harness"
OURS = __name__.partition(".")[0]
SPEED_VARIABLE = "ALIGNBENCHCHECKS"  # "learning" adds the learning checks to the pytest door
SHAPES = ("llama", "gpt2")  # rotary positions with padding of its own, and learned positions padded with its end token


class Unmet(AssertionError):  # noqa: N818  # what it says is what was seen
    """What a check observed instead of what it requires."""


class NotApplicable(unittest.SkipTest):
    """The check says nothing about this plugin, and why. pytest skips on it."""


@dataclass(frozen=True)
class Check:
    name: str
    subject: Subject
    speed: Speed
    requires: str  # one sentence
    cause: str  # where to look first
    traps: tuple[int, ...]  # numbers in `TRAPS` of the bugs it must fail on
    shapes: tuple[str, ...]  # models it runs on; none for a check that needs no model
    applies: Callable[[Any], bool]  # plugin class -> whether the check has something to say about it
    function: Callable[..., None]


CHECKS: dict[str, Check] = {}


def check(
    subject: Subject, name: str, *, requires: str, cause: str, speed: Speed = "contract", traps: Iterable[int] = (),
    shapes: Sequence[str] = SHAPES, applies: Callable[[Any], bool] = lambda cls: True,
) -> Callable[[Callable[..., None]], Callable[..., None]]:  # fmt: skip
    """Register the decorated function as a check. Two of one name are an error."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        if name in CHECKS:
            raise ValueError(f"two checks are named '{name}'")
        CHECKS[name] = Check(
            name, subject, speed, requires, cause, tuple(traps), tuple(shapes), applies, function
        )  # fmt: skip
        return function

    return register


def trains(cls: type[AlignmentMethod]) -> bool:
    """Whether a method trains at all; a decoding rule, or the start point itself, does not."""
    return cls.train is not AlignmentMethod.train


def is_labelled(cls: type[RewardSource]) -> bool:
    """Whether a source says that it costs labels."""
    return cls.labels != "free"
