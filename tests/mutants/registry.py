"""Planted bugs, by the trap they are and the check that must fail on each.

A mutant replaces a function of the engine, of the feedback room or of a shipped plugin by one with the bug, in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

Patch = pytest.MonkeyPatch


class Mutant(NamedTuple):
    trap: int | None  # number in `alignbench.testing.TRAPS`; None: a bug met elsewhere
    name: str
    subject: str  # what is then checked
    check: str  # the check that must fail
    plant: Callable[[Patch], None]


MUTANTS: list[Mutant] = []


def mutant(trap: int | None, subject: str, check: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def add(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        MUTANTS.append(Mutant(trap, plant.__name__, subject, check, plant))
        return plant

    return add
