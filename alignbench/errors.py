"""The two failures alignbench tells apart: a mistake in what it was given, and a fault in a plugin.

Anything else is a bug of alignbench itself and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. Printed as one line, exit code 2; the message says where, what was seen and what mends it."""

    exit_code = 2


class PluginError(Exception):
    """A plugin broke its contract. The message opens with the plugin and the distribution it came from."""

    def __init__(self, plugin: str, distribution: str, problem: str) -> None:
        super().__init__(f"plugin '{plugin}' (from {distribution}): {problem}")
        self.plugin = plugin
        self.distribution = distribution


def printable(text: str) -> str:
    """The text with a space for every control character: a terminal would obey them, whoever wrote them."""
    return "".join(c if c.isprintable() else " " for c in text)


def nearest(seen: str, allowed: Iterable[str]) -> str:
    """The end of an error sentence: the nearest right name, or all of them when none is near."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(seen, allowed, n=1)
    return f"did you mean '{close[0]}'?" if close else f"allowed: {', '.join(allowed) or 'none'}"
