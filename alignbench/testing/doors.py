"""The checks of a name, and the door to them from pytest. No torch until a check runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from alignbench.errors import UserError, nearest
from alignbench.plugins import Catalog, Plugin, load_catalog
from alignbench.testing.bound import BoundCheck, CheckFailure
from alignbench.testing.kit import CHECKS, HARNESS, Check, Speed, Subject

SPEED_VARIABLE = "ALIGNBENCH_CHECKS"  # "learning" adds the learning checks to the pytest door


def all_checks() -> tuple[Check, ...]:
    """Every check there is, in the order in which they are run."""
    from alignbench.testing import golden, harness, learning, metamorphic, methods, sources, startup, views

    rooms = [room.__name__ for room in (methods, views, startup, metamorphic, learning, sources, golden, harness)]
    return tuple(sorted(CHECKS.values(), key=lambda one: rooms.index(one.function.__module__)))


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
    variable ALIGNBENCHCHECKS decides.
    """
    import pytest

    expected = dict(expected_failures or {})
    catalog = load_catalog(plugins)
    bound = [one for name in names for one in checks_for(name, speed or _speed_asked_for(), catalog)]
    if strangers := sorted(expected.keys() - {one.name for one in all_checks()}):
        raise UserError(f"expected_failures: no check '{strangers[0]}': {nearest(strangers[0], CHECKS)}")

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
