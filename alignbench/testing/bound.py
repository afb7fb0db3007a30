"""A check of one plugin, and what it says when it fails."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, NamedTuple

from alignbench.errors import printable
from alignbench.plugins import Catalog, Plugin
from alignbench.testing.kit import Check, NotApplicable, Unmet

OURS = __name__.partition(".")[0]


class CheckFailure(AssertionError):  # noqa: N818  # as pytest words it
    """One failed check, for its reader: plugin, check, observed, required, likely cause."""

    def __init__(self, plugin: str, check: Check, shape: str | None, origin: BaseException, observed: str) -> None:
        self.plugin, self.check, self.shape, self.origin, self.observed = plugin, check, shape, origin, observed
        lines = {
            "plugin": plugin,
            "check": check.name + (f" (on the {shape}-shaped model)" if shape else ""),
            "observed": observed,
            "required": check.requires,
            "likely cause": "the plugin raised; the check saw no more than that" if self.is_crash else check.cause,
        }
        super().__init__("\n".join(in_column(name, text) for name, text in lines.items()))

    @property
    def is_crash(self) -> bool:
        """The plugin raised, where the check was to look at what it does."""
        return not isinstance(self.origin, Unmet)


def in_column(name: str, text: str) -> str:
    """`name:  text`, whose further lines stand below its first; a plugin's words cannot steer the terminal."""
    first, *more = map(printable, text.splitlines() or [""])
    return "\n".join([f"{name + ':':14}{first}", *(f"{'':14}{line}" for line in more)])


class BoundCheck(NamedTuple):
    """A check of one plugin, ready to be called."""

    check: Check
    name: str  # of the plugin, or "harness"
    plugin: Plugin[Any] | None
    catalog: Catalog

    @property
    def id(self) -> str:
        return f"{self.name}-{self.check.name}"

    def __repr__(self) -> str:
        return f"<check {self.id}>"

    def __call__(self) -> None:
        """CheckFailure if the plugin fails, NotApplicable if the check has nothing to look at."""
        __tracebackhide__ = True  # pytest ends its traceback where the author's test calls
        from alignbench.testing.sessions import lab_for  # torch comes with it

        for shape in self.check.shapes or (None,):
            try:
                self.check.function(lab_for(self.check.subject, self.plugin, self.catalog, shape))
            except Unmet as unmet:
                raise CheckFailure(self._who(), self.check, shape, unmet, str(unmet)) from None
            except NotApplicable:
                raise
            except (Exception, SystemExit) as error:  # SystemExit: a plugin that calls sys.exit must not end ours
                said = f"{type(error).__name__}: {error}{self._place(error)}"
                raise CheckFailure(self._who(), self.check, shape, error, said) from error

    def _place(self, error: BaseException) -> str:
        """' at FILE:LINE in FUNCTION': the innermost frame of the plugin's own code, or else of code not ours."""
        frames = list(traceback.walk_tb(error.__traceback__))
        rooms = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in frames]
        own = "" if self.plugin is None else self.plugin.cls.__module__.partition(".")[0]
        mine = [place for place, room in zip(frames, rooms, strict=True) if room == own]
        if not (candidates := mine or [place for place, room in zip(frames, rooms, strict=True) if room != OURS]):
            return ""
        frame, line = candidates[-1]
        return f" at {Path(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}"

    def _who(self) -> str:
        if self.plugin is None:
            return f"alignbench's own {self.name}"
        return f"{self.name} ({self.plugin.distribution} {self.plugin.version})"
