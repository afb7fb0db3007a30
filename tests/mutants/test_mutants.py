"""No check is worth more than the bug it fails on: every trap, planted, is caught by the check that is named for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pytest
from mutants import engine_bugs, plugin_bugs  # noqa: F401  # they plant on import
from mutants.registry import MUTANTS, Mutant
from mutants.toys import BREAKS

from alignbench.plugins import load_catalog
from alignbench.testing import TRAPS, BoundCheck, CheckFailure, NotApplicable, all_checks, checks_for
from alignbench.testing.kit import Unmet
from alignbench.testing.sessions import session

CATALOG = load_catalog(["mutants.toys"])


def check_of(subject: str, name: str) -> BoundCheck:
    return next(one for one in checks_for(subject, "learning", CATALOG) if one.check.name == name)


@pytest.fixture(scope="module", autouse=True)
def clean() -> Iterator[None]:
    """What the unaltered code makes is made once."""
    with session():
        yield


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.trap}-{m.name}")
def test_the_named_check_passes_on_the_clean_code_and_fails_on_the_mutant(
    mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = check_of(mutant.subject, mutant.check)
    check()
    mutant.plant(monkeypatch)
    with session(), pytest.raises(CheckFailure) as failure:
        check()
    assert isinstance(failure.value.origin, Unmet)  # it saw the bug, and did not merely stumble


@pytest.mark.parametrize("plugin", BREAKS)
def test_a_plugin_that_breaks_one_clause_fails_on_its_check(plugin: str) -> None:
    with pytest.raises(CheckFailure) as failure:
        check_of(plugin, BREAKS[plugin])()
    assert isinstance(failure.value.origin, Unmet)


@pytest.mark.parametrize("check", checks_for("sound", "contract", CATALOG), ids=lambda one: one.id)
def test_a_sound_method_passes(check: BoundCheck) -> None:
    check()


@pytest.mark.parametrize(
    "check", [one for name in ("vowels", "praise") for one in checks_for(name, "contract", CATALOG)], ids=lambda c: c.id
)
def test_a_sound_source_passes(check: BoundCheck) -> None:
    check()


def test_a_sound_method_of_high_variance_may_take_longer_to_its_optimum() -> None:
    check_of("sampling", "ends_near_its_optimum")()


@pytest.mark.parametrize(
    ("name", "reason"), [("grouped", "it samples 24 texts in the one run and 96 in"), ("even", "an even number is")]
)
def test_a_method_whose_batch_cannot_be_cut_is_not_blamed_for_it(name: str, reason: str) -> None:
    with pytest.raises(NotApplicable, match=reason):
        check_of(name, "accumulation_changes_nothing")()


def test_a_method_may_keep_a_number_in_the_trials_state() -> None:
    check_of("remembering", "resume_is_bit_identical")()


def test_a_method_may_save_in_its_workdir() -> None:
    check_of("hoarding", "files_stay_in_workdir")()


def test_a_source_that_refuses_ordinary_texts_is_held_on_the_tasks_own_and_that_is_said() -> None:
    for check in checks_for("narrow", "contract", CATALOG):
        if check.check.name == "a_batch_equals_its_singles":
            with pytest.warns(UserWarning, match="'narrow' is checked on the task's own texts alone: no letter of"):
                check()


def test_every_trap_is_planted() -> None:
    assert {mutant.trap for mutant in MUTANTS} - {None} == set(TRAPS)
    assert sorted(TRAPS) == list(range(1, 34))


def test_every_check_fails_on_something() -> None:
    assert {mutant.check for mutant in MUTANTS} | set(BREAKS.values()) == {check.name for check in all_checks()}


def test_the_kit_says_which_check_fails_on_which_trap_and_says_no_more_than_is_shown_here() -> None:
    shown: dict[str, set[int]] = defaultdict(set)
    for mutant in MUTANTS:
        if mutant.trap is not None:
            shown[mutant.check].add(mutant.trap)
    assert {check.name: set(check.traps) for check in all_checks() if check.traps} == shown
