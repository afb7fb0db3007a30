"""The two failures alignbench tells apart: a mistake in what it was given, and a fault in a plugin.

Anything else is a bug of alignbench itself and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

OWN = "alignbench"  # our distribution


class UserError(Exception):
    """Bad input. Printed as one line, exit code 2; the message says where, what was seen and what mends it."""

    exit_code = 2


class PluginError(Exception):
    """A plugin broke its contract. The message opens with the plugin and the distribution it came from."""

    def __init__(self, plugin: str, distribution: str, problem: str) -> None:
        super().__init__(f"plugin '{plugin}' (from {distribution}): {problem}")
        self.plugin = plugin
        self.distribution = distribution


@contextmanager
def blamed(plugin: str, distribution: str, step: str) -> Iterator[None]:
    """Around code of the plugin: what it raises, `sys.exit` too, is a PluginError that names it. `step` is what was
    asked of it, such as "score()". A bug of our own keeps its traceback."""
    try:
        yield
    except (UserError, PluginError):
        raise
    except (Exception, SystemExit) as error:
        if distribution == OWN:
            raise
        raise PluginError(plugin, distribution, f"{step} raised {in_words(error)}") from error


class Interrupted(BaseException):  # no `except Exception` on the way may take it for a plugin's fault
    """The user, or whoever runs the machine, ended the run. The message says what is kept."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


LONGEST = 2000  # characters of one line: whoever wrote it, it must not fill the screen


def printable(text: str, limit: int = LONGEST) -> str:
    """The text on one line, cut after `limit` characters: a terminal would obey control and text-direction characters,
    whoever wrote them, so each becomes a space; half a character, which no encoding can write, becomes '?'."""
    kept = "".join(c if c.isprintable() else "?" if "\ud800" <= c <= "\udfff" else " " for c in text[:limit])
    return kept if len(text) <= limit else f"{kept}... (and {len(text) - limit} more characters)"


def in_words(error: BaseException) -> str:
    """An exception as one printable line: its type and what it says, or what it says alone if it is one of ours.

    Never raises: the exception may be a stranger's, and one that cannot say itself must not end the program.
    """
    name = printable(type(error).__name__, 100)
    try:
        said = printable(" ".join(str(error).split()))
    except (Exception, SystemExit):
        return f"{name} (its message cannot be shown)"
    if isinstance(error, UserError | PluginError) and said:
        return said
    return f"{name}: {said}" if said else name


def nearest(seen: str, allowed: Iterable[str]) -> str:
    """The end of an error sentence: the nearest right name, or all of them when none is near."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(seen, allowed, n=1)
    return f"did you mean '{close[0]}'?" if close else f"allowed: {', '.join(allowed) or 'none'}"
