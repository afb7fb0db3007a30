"""Named checks, how they are found for a name, and the two doors to them. No torch.

A check is a function of a *lab* (see `trials` and `labs`) that raises `Unmet` with what it observed. What it requires,
the likely cause of a failure and the traps it fails on are declared beside it, so that a failure says what to mend::

    @check("method", "zero_budget_changes_nothing", requires="...", cause="...")
    def _(lab: MethodLab) -> None: ...
"""

from __future__ import annotations

import os
import traceback
import unittest
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from alignbench.api import AlignmentMethod, RewardSource
from alignbench.errors import UserError, nearest, printable
from alignbench.plugins import Catalog, Plugin, load_catalog

Subject = Literal["method", "source", "harness"]
Speed = Literal["contract", "learning"]
HARNESS = "harness"
OURS = __name__.partition(".")[0]
SPEED_VARIABLE = "ALIGNBENCH_CHECKS"  # "learning" adds the learning checks to the pytest door
SHAPES = ("llama", "gpt2")  # rotary positions with padding of its own, and learned positions padded with its end token


class Unmet(AssertionError):  # noqa: N818  # what it says is what was seen
    """What a check observed instead of what it requires."""


class NotApplicable(unittest.SkipTest):
    """The check says nothing about this plugin, and why. pytest skips on it."""


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
                self.check.function(lab_for(self, shape))
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


_CHECKS: dict[str, Check] = {}


def check(
    subject: Subject, name: str, *, requires: str, cause: str, speed: Speed = "contract", traps: Iterable[int] = (),
    shapes: Sequence[str] = SHAPES, applies: Callable[[Any], bool] = lambda cls: True,
) -> Callable[[Callable[..., None]], Callable[..., None]]:  # fmt: skip
    """Register the decorated function as a check. Two of one name are an error."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        if name in _CHECKS:
            raise ValueError(f"two checks are named '{name}'")
        _CHECKS[name] = Check(
            name, subject, speed, requires, cause, tuple(traps), tuple(shapes), applies, function
        )  # fmt: skip
        return function

    return register


def all_checks() -> tuple[Check, ...]:
    """Every check there is, in the order in which they are run."""
    from alignbench.testing import golden, harness, learning, metamorphic, methods, sources, startup, views

    rooms = [room.__name__ for room in (methods, views, startup, metamorphic, learning, sources, golden, harness)]
    return tuple(sorted(_CHECKS.values(), key=lambda one: rooms.index(one.function.__module__)))


def checks_for(name: str, speed: Speed = "contract", catalog: Catalog | None = None) -> list[BoundCheck]:
    """The checks of a method or a reward source, or of the harness. `learning` comes on top of `contract`."""
    catalog = load_catalog() if catalog is None else catalog
    plugins: dict[Subject, Plugin[Any] | None] = {}
    if name == HARNESS:
        plugins["harness"] = None
    if name in catalog.methods:
        plugins["method"] = catalog.methods[name]
    if name in catalog.sources:
        plugins["source"] = catalog.sources[name]
    if not plugins:
        raise unknown(name, catalog)
    return [
        BoundCheck(one, name, plugins[one.subject], catalog)
        for one in all_checks()
        if one.subject in plugins and one.speed in ("contract", speed) and _applies(one, plugins[one.subject])
    ]


def unknown(name: str, catalog: Catalog) -> UserError:
    known = [*catalog.methods, *catalog.sources, HARNESS]
    message = f"no method or reward source '{name}': {nearest(name, known)}"
    if suspects := [failure for failure in catalog.failures if failure.may_offer(name)]:
        message = f"nothing to check: '{name}' failed to load: {'; '.join(map(str, suspects))}"
    return UserError(message)


def parametrize_checks(
    names: Sequence[str], *, expected_failures: Mapping[str, str] | None = None, speed: Speed | None = None,
    plugins: Sequence[str] = (),
) -> Any:  # fmt: skip
    """Decorate a test that takes one argument `check` and calls it: it runs once per check of each name.

    `expected_failures` maps a check to the reason why it fails today; it is an error when it passes again, so that a
    mended plugin is noticed. `plugins` are modules to load beside the installed ones. Without `speed` the environment
    variable ALIGNBENCH_CHECKS decides.
    """
    import pytest

    expected = dict(expected_failures or {})
    catalog = load_catalog(plugins)
    bound = [one for name in names for one in checks_for(name, speed or _speed_asked_for(), catalog)]
    if strangers := sorted(expected.keys() - {one.name for one in all_checks()}):
        raise UserError(f"expected_failures: no check '{strangers[0]}': {nearest(strangers[0], _CHECKS)}")

    def marks(one: BoundCheck) -> list[Any]:
        reason = expected.get(one.check.name)
        return [] if reason is None else [pytest.mark.xfail(reason=reason, raises=CheckFailure, strict=True)]

    return pytest.mark.parametrize("check", [pytest.param(one, id=one.id, marks=marks(one)) for one in bound])


def _speed_asked_for() -> Speed:
    asked = os.environ.get(SPEED_VARIABLE, "contract")
    if asked == "contract":
        return "contract"
    if asked == "learning":
        return "learning"
    raise UserError(f"{SPEED_VARIABLE}: 'contract' or 'learning' is allowed, got '{asked}'")


def _applies(one: Check, plugin: Plugin[Any] | None) -> bool:
    return plugin is None or one.applies(plugin.cls)


def trains(cls: type[AlignmentMethod]) -> bool:
    """Whether a method trains at all; a decoding rule, or the start point itself, does not."""
    return cls.train is not AlignmentMethod.train


def is_labelled(cls: type[RewardSource]) -> bool:
    """Whether a source says that it costs labels."""
    return cls.labels != "free"
