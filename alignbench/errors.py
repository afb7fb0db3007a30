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


class Interrupted(Exception):  # noqa: N818  (it is no error)
    """The user, or whoever runs the machine, ended the run. The message says what is kept."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def printable(text: str) -> str:
    """The text with a space for every control character: a terminal would obey them, whoever wrote them."""
    return "".join(c if c.isprintable() else " " for c in text)


def in_words(error: BaseException, with_type: bool = True) -> str:
    """Type and message on one line, whatever the message is made of."""
    try:
        text = " ".join(str(error).encode("utf-8", "replace").decode().split())
    except Exception:  # a plugin's exception may fail in its own __str__
        text = "(its message cannot be shown)"
    if not with_type:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def nearest(seen: str, allowed: Iterable[str]) -> str:
    """The end of an error sentence: the nearest right name, or all of them when none is near."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(seen, allowed, n=1)
    return f"did you mean '{close[0]}'?" if close else f"allowed: {', '.join(allowed) or 'none'}"
