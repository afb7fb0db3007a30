"""The kit's doors: what a failure says, how an expected one is held to, and what names are refused."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import alignbench.testing
from alignbench.errors import UserError
from alignbench.plugins import load_catalog
from alignbench.suite.spec import Suite
from alignbench.testing import TRAPS, BoundCheck, CheckFailure, all_checks, checks_for, parametrize_checks
from alignbench.testing.doors import SPEED_VARIABLE
from alignbench.testing.kit import check
from alignbench.testing.report import list_checks, run_checks
from alignbench.testing.sessions import session

TOYS = "mutants.toys"
CATALOG = load_catalog([TOYS])


def check_of(name: str, check: str) -> BoundCheck:
    return next(one for one in checks_for(name, "learning", CATALOG) if one.check.name == check)


def test_a_failure_says_plugin_check_observed_required_and_likely_cause() -> None:
    with pytest.raises(CheckFailure) as failure:
        check_of("unread", "every_config_field_is_read")()
    assert str(failure.value).splitlines() == [
        "plugin:       unread (module mutants.toys -)",
        "check:        every_config_field_is_read (on the llama-shaped model)",
        "observed:     never read: gamma",
        "required:     recipe(), train(), decoding() and the optimiser together read every field, over all choices "
        "offered.",
        "likely cause: an option that does nothing; remove it, or read it",
    ]


def test_an_exception_of_the_plugins_own_is_a_failure_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, trial: object, config: object) -> None:
        raise ZeroDivisionError("by a batch of none")

    monkeypatch.setattr(CATALOG.methods["idle"].cls, "train", broken)
    first = check_of("idle", "training_moves_the_policy")
    with pytest.raises(CheckFailure) as failure:
        first()
    line = broken.__code__.co_firstlineno + 1
    seen = f"ZeroDivisionError: by a batch of none at {Path(__file__).name}:{line} in broken"
    assert failure.value.observed == seen
    assert "likely cause: the plugin raised" in str(failure.value)


def test_a_plugin_that_raises_is_told_once_with_one_traceback_and_steers_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(self: object, trial: object, config: object) -> None:
        raise ValueError("red \x1b[31m\nsecond line")

    monkeypatch.setattr(CATALOG.methods["idle"].cls, "train", broken)
    console = Console(record=True, width=100)
    with session():
        assert run_checks(["idle"], CATALOG, "contract", console) == 1
    text = console.export_text()
    assert text.count("Traceback") == text.count("ValueError: red") - 1 == 1
    assert len(next(line for line in text.splitlines() if line.startswith("checks:")).split(",")) > 10
    assert "\x1b" not in text
    assert f"\n{'':14}second line at {Path(__file__).name}" in text
    assert text.splitlines()[-1].endswith("; learning checks not run; add --learning")


@pytest.mark.parametrize("code", [0, 3, "done"])
def test_a_plugin_that_exits_fails_its_checks_and_ends_nothing_else(
    code: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaving(self: object, trial: object, config: object) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(CATALOG.methods["idle"].cls, "train", leaving)
    with session(), pytest.raises(CheckFailure, match=f"SystemExit: {code} at .* in leaving"):
        check_of("idle", "training_moves_the_policy")()


def test_a_method_that_logs_no_loss_is_told_so() -> None:
    check = check_of("mute", "first_loss_is_the_declared_one")
    with pytest.raises(CheckFailure) as failure:
        check()
    assert failure.value.observed == "train() logged no loss in its first step"
    assert repr(check) == "<check mute-first_loss_is_the_declared_one>"


def test_learning_comes_on_top_of_contract_and_each_subject_has_its_own_checks() -> None:
    def names(subject: str, speed: str) -> list[str]:
        return [one.check.name for one in checks_for(subject, speed, CATALOG)]  # type: ignore[arg-type]

    contract, learning = names("sound", "contract"), names("sound", "learning")
    assert set(learning) - set(contract) == {one.name for one in all_checks() if one.speed == "learning"}
    assert {one.subject for one in all_checks() if one.name in names("vowels", "learning")} == {"source"}
    assert {one.subject for one in all_checks() if one.name in names("harness", "learning")} == {"harness"}


def test_what_does_not_train_is_not_asked_how_it_trains() -> None:
    names = {one.check.name for one in checks_for("sft", "learning", load_catalog())}
    assert names == {"config_survives_yaml", "every_config_field_is_read", "own_stages_see_training_data_alone"}


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match="no method or reward source 'dpoo': did you mean 'dpo'"):
        checks_for("dpoo")


def test_an_expected_failure_of_no_check_is_refused() -> None:
    with pytest.raises(UserError, match="no check 'config_survive_yaml': did you mean 'config_survives_yaml'"):
        parametrize_checks(["sound"], expected_failures={"config_survive_yaml": "why not"}, plugins=[TOYS])


def test_two_checks_of_one_name_are_an_error() -> None:
    name = all_checks()[0].name
    with pytest.raises(ValueError, match=f"two checks are named '{name}'"):
        check("method", name, requires="", cause="")(lambda lab: None)


def test_the_environment_chooses_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        return len(parametrize_checks(["sound"], plugins=[TOYS]).args[1])

    monkeypatch.delenv(SPEED_VARIABLE, raising=False)
    contract = count()
    monkeypatch.setenv(SPEED_VARIABLE, "learning")
    assert count() > contract
    monkeypatch.setenv(SPEED_VARIABLE, "fast")
    with pytest.raises(UserError, match="ALIGNBENCH_CHECKS: 'contract' or 'learning' is allowed, got 'fast'"):
        count()


AUTHORS_TEST = """
from alignbench.testing import parametrize_checks

EXPECTED = {{"every_config_field_is_read": "not yet"}} if {is_expected} else {{}}

@parametrize_checks(["{plugin}"], expected_failures=EXPECTED, plugins=["mutants.toys"])
def test_conformance(check):
    check()
"""


@pytest.fixture
def authors_run(tmp_path: Path) -> Callable[..., str]:
    """`authors_run(plugin)`: pytest's output on a test file that expects one check to fail, or none."""

    def run(plugin: str, is_expected: bool = True) -> str:
        (tmp_path / "test_author.py").write_text(AUTHORS_TEST.format(plugin=plugin, is_expected=is_expected))
        places = f"{Path(__file__).parents[1]}"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "config", "test_author.py"]
        code = f"import sys; sys.path[:0] = ['{places}']; import pytest; sys.exit(pytest.main({command[3:]!r}))"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.stdout

    return run


def test_an_expected_failure_is_one_and_a_mended_one_is_noticed(authors_run: Callable[..., str]) -> None:
    assert "1 passed" in (said := authors_run("unread").strip().splitlines()[-1])
    assert "1 xfailed" in said
    assert "1 failed, 1 passed" in authors_run("sound")  # it passes although it was to fail


def test_pytest_shows_an_author_the_failure_and_none_of_the_kits_code(authors_run: Callable[..., str]) -> None:
    said = authors_run("unread", is_expected=False)
    assert "check = <check unread-every_config_field_is_read>" in said
    assert "observed:     never read: gamma" in said
    assert "kit.py" not in said
    assert "Unmet" not in said


def test_the_independent_pass_gives_transformers_no_ground_to_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

    from alignbench.api import TokenBatch
    from alignbench.testing.tape import plain_logprobs

    masks: list[object] = []
    monkeypatch.setattr(
        PreTrainedModel, "warn_if_padding_and_no_attention_mask", lambda self, ids, mask: masks.append(mask)
    )
    model = GPT2LMHeadModel(GPT2Config(vocab_size=4, n_embd=8, n_layer=1, n_head=2, n_positions=8, pad_token_id=0))
    is_token = torch.ones(1, 3, dtype=torch.bool)
    plain_logprobs(model, TokenBatch(torch.tensor([[0, 1, 0]]), is_token, is_token & torch.tensor([False, True, True])))
    assert masks
    assert all(mask is not None for mask in masks)


def test_the_command_prints_its_own_lines_alone() -> None:
    whole = [sys.executable, "-m", "alignbench.cli", "check", "sampling", "--plugin", TOYS]
    done = subprocess.run(whole, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_the_command_prints_a_line_per_check_then_each_failure_and_says_it_in_its_code() -> None:
    console = Console(record=True, width=200)
    assert run_checks(["shrinking", "vowels"], CATALOG, "contract", console) == 1
    text = console.export_text()
    assert "shrinking  source_config_survives_yaml  FAILED" in text
    assert "vowels  source_config_survives_yaml  ok" in text
    assert "likely cause: a field of a type that YAML does not have" in text
    assert "passed, 1 failed, 0 do not apply\n" in text  # a source has no learning checks to leave out
    assert run_checks(["vowels"], CATALOG, "contract", console) == 0


def test_the_command_takes_a_module_that_is_not_installed_and_refuses_an_unknown_name_in_one_line() -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        whole = [sys.executable, "-m", "alignbench.cli", "check", *arguments]
        return subprocess.run(whole, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)

    done = command("vowels", "--plugin", TOYS)
    assert (done.returncode, "7 passed, 0 failed" in done.stdout) == (0, True), done.stderr
    refused = command("vowel", "--plugin", TOYS)
    assert refused.returncode == 2
    assert refused.stderr == "alignbench: no method or reward source 'vowel': did you mean 'vowels'?\n"


def test_the_list_names_every_check_with_what_it_requires_and_every_trap() -> None:
    console = Console(record=True, width=100)
    list_checks(console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    blocks = [" ".join(block.split()) for block in text.split("\n\n")]
    for one, block in zip(all_checks(), blocks, strict=True):
        assert block.startswith(f"{one.name} ({one.subject}, {one.speed}) requires: {one.requires}")
        for number in one.traps:
            assert f"{number} {TRAPS[number]}" in block


def test_no_plugins_name_stands_in_the_kit() -> None:
    """But for the oracle, whose task is the kit's world, and for the words that name a section of a suite."""
    catalog = load_catalog()
    names = {*catalog.methods, *catalog.sources} - {"oracle"} - set(Suite.model_fields)
    for file in Path(alignbench.testing.__file__).parent.glob("*.py"):
        tree = ast.parse(file.read_text())
        said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not said & names, file
        assert not [module for module in imported if module.startswith("alignbench_")], file
