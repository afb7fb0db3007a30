"""The conformance kit: what a method, a reward source and the harness itself must keep, as named checks.

A plugin's own tests need two lines, and people have a command::

    @parametrize_checks(["my-method"])
    def test_conformance(check): check()

    alignbench check my-method --learning

Contract checks take seconds, learning checks under a minute. All run the plugin through the real plan, stages and
engine on the `oracle` task, whose optimum is known. `alignbench check --list` tells what each check requires,
and which bugs of public projects it is known to fail on (`TRAPS`). Importing this imports no torch.
"""

from alignbench.testing.bound import BoundCheck, CheckFailure
from alignbench.testing.doors import all_checks, checks_for, parametrize_checks
from alignbench.testing.kit import HARNESS, Check, NotApplicable
from alignbench.testing.traps import TRAPS

__all__ = [
    "HARNESS",
    "TRAPS",
    "BoundCheck",
    "Check",
    "CheckFailure",
    "NotApplicable",
    "all_checks",
    "checks_for",
    "parametrize_checks",
]
