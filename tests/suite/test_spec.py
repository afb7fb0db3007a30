"""A suite file is read into frozen models, and whatever is wrong with it ends in one line that names the place."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import PositiveFloat, ValidationError

from alignbench.api import Config, MethodConfig
from alignbench.errors import UserError
from alignbench.suite.spec import Cell, Named, Suite, find_suite, load_suite, validate_options

FULL = """\
# every kind of value
name: full
seeds: [0, 1]
sft: {learning_rate: 1e-4, max_steps: 3}
lora:
  target_modules: [q_proj, v_proj]
task: sentiment
methods:
  - dpo
  - method: ppo
    label: PPO on length
    reward: length
    config: {whiten: true}
    sweep: [0.1, 2]
"""
KNOBS = {"dpo": "beta", "ppo": "kl_coef", "sft": None}


def write(folder: Path, text: str | bytes, name: str = "quick.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(folder: Path, text: str | bytes) -> str:
    """The error line of a file, without its folder."""
    with pytest.raises(UserError) as error:
        load_suite(write(folder, text))
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{folder}/")


def test_two_lines_of_yaml_make_a_suite(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, "methods: [dpo]"))
    assert (suite.name, suite.model, suite.seeds, suite.max_steps) == ("quick", "smollm2-135m", (0,), 64)
    assert suite.task == Named(name="sentiment")
    assert suite.methods[0].label == suite.methods[0].method == "dpo"


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, FULL))
    assert suite.sft.learning_rate == 1e-4
    assert suite.lora.target_modules == ("q_proj", "v_proj")
    assert suite.methods[1].reward == Named(name="length")
    assert suite.methods[1].config == {"whiten": True}
    assert suite.methods[1].sweep == (0.1, 2)


def test_an_exponent_without_a_dot_is_a_number_in_plugin_options_too(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, "methods: [{method: dpo, config: {beta: 1e-2, tag: '1e-2'}}]"))
    assert suite.methods[0].config == {"beta": 0.01, "tag": "1e-2"}


def test_a_suite_survives_json_and_does_not_compare_its_place(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, FULL))
    assert Suite.model_validate(json.loads(json.dumps(suite.to_dict()))) == suite
    assert load_suite(write(tmp_path, "# moved\n" + FULL, "other.yaml")) == suite
    assert set(suite.to_dict()) == set(Suite.model_fields)


def test_a_suite_is_frozen(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, FULL))
    with pytest.raises(ValidationError, match="frozen"):
        suite.max_steps = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        suite.methods[0].label = "x"  # type: ignore[misc]


def test_where_names_the_line_of_a_key_or_of_the_nearest_above_it(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    suite = load_suite(path)
    assert suite.where("methods", 1, "sweep") == f"{path}:14"
    assert suite.where("methods", 1, "config", "whiten") == f"{path}:13"
    assert suite.where("methods", 0, "config", "beta") == f"{path}:9"
    assert suite.where("evaluation") == f"{path}:1"
    assert Suite(name="made", methods=suite.methods).where("methods") == "suite 'made'"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("methods:\n  - method: dpo\n    confg: {}", "3 methods[0].confg: unknown key; did you mean 'config'?"),
        ("methdos: [dpo]", "1 methdos: unknown key; did you mean 'methods'? (and 1 more)"),
        ("methods: [dpo]\nlora:\n  r: 4\n  alhpa: 1", "4 lora.alhpa: unknown key; did you mean 'alpha'?"),
        ("methods: [dpo]\nsft:\n  learn_rate: 1", "3 sft.learn_rate: unknown key; did you mean 'learning_rate'?"),
        (
            "methods:\n- method: dpo\n  reward:\n    name: x\n    option: {}",
            "5 methods[0].reward.option: unknown key; did you mean 'options'?",
        ),
        ("methods: [dpo]\nseeds: 3", "2 seeds: should be a list, got 3"),
        ("methods: [dpo]\nseeds: []", "2 seeds: should have at least 1 item, not 0, got []"),
        ("methods: [dpo]\nseeds: [1, 1]", "2 seeds: should be distinct, got [1, 1]"),
        ("methods: [dpo]\nseeds:\n- 0\n- -1", "4 seeds[1]: should be greater than or equal to 0, got -1"),
        ("methods: [dpo]\nmax_steps: many", '2 max_steps: should be a valid integer, got "many"'),
        ("methods: [dpo]\nmax_steps: 1.5", "2 max_steps: should be a valid integer, got 1.5"),
        ("methods: [dpo]\nmax_steps: yes", "2 max_steps: should be a number, got true or false"),
        ("methods: [dpo]\nmodel: 7", "2 model: should be text, got 7; quote it"),
        ("methods: [dpo]\nlora:", "2 lora: should be a mapping, got null"),
        ("methods: [dpo]\ntask: [a]", '2 task: should be a mapping, got ["a"]'),
        ("methods: [dpo]\nlora: {dropout: 1}", "2 lora.dropout: should be less than 1, got 1"),
        (
            "methods: [dpo]\nlora: {target_modules: 3}",
            "2 lora.target_modules: should be 'all-linear' or should be a list, got 3",
        ),
        (
            "methods: [dpo]\nlora:\n  target_modules:\n  - q\n  - 3",
            "5 lora.target_modules[1]: should be text, got 3; quote it",
        ),
        ("methods: [dpo]\nkernels: quick", "2 kernels: should be 'fast' or 'plain', got \"quick\""),
        ("methods: [dpo]\ndtype: half", "2 dtype: should be 'auto', 'float32' or 'bfloat16', got \"half\""),
        ("methods: [dpo]\ndevice: gpu", '2 device: should be auto, cpu, mps, cuda or cuda:N, got "gpu"'),
        (
            "methods: [dpo]\nname: ../up",
            "2 name: should be letters, digits, '.', '_' and '-', not opening with '.' or '-', got \"../up\"",
        ),
        ("methods: [{}]", "1 methods[0].method: missing; add it"),
        ("name: x", "1 methods: missing; add it"),
        (
            "methods:\n- dpo\n- dpo",
            "1 methods: methods[0] and methods[1] are both labelled 'dpo'; give one of them another `label`",
        ),
        ("methods: [dpo]\nx\\y: 1\ndevice: gpu\nseeds: 3", None),
        ("methods: [dpo]\nmethods: [ppo]", "2 methods: this key stands on line 1 already; remove one"),
        ("methods: [dpo]\n1: x", "2: a key should be text, got 1; quote it"),
        ("methods: [dpo]\nmax_steps: .inf", "2 max_steps: should be a finite number, got .inf"),
        (
            "methods: [dpo]\nmax_steps: 1:30:00",
            '2 max_steps: "1:30:00" would be read as a number in base 60; quote it if it is text',
        ),
        (
            "methods: [dpo]\nname: 1:30.5",
            '2 name: "1:30.5" would be read as a number in base 60; quote it if it is text',
        ),
        (
            f"methods: [dpo]\nmax_steps: {'9' * 400}",
            f"2 max_steps: should be a number of at most 18 digits, got {'9' * 20}... (and 380 more characters)",
        ),
        (
            f"methods: [dpo]\nmax_steps: {'9' * 9000}",
            f'2 max_steps: not a valid int: "{"9" * 56}...; quote it if it is text',
        ),
        (
            f"methods: [dpo]\nsft: {{weight_decay: {'9' * 400}.0}}",
            f"2 sft.weight_decay: should be a finite number, got {'9' * 60}... (and 342 more characters)",
        ),
        ("methods: [dpo]\nseeds: ['0']", '2 seeds[0]: should be a number, got the text "0"; remove the quotes'),
        ("methods: [dpo]\nmax_steps: '3'", '2 max_steps: should be a number, got the text "3"; remove the quotes'),
        (
            "methods: [{method: dpo, sweep: ['0.1']}]",
            '1 methods[0].sweep[0]: should be a number, got the text "0.1"; remove the quotes',
        ),
        (f"methods: [dpo]\nname: {'n' * 300}", "2 name: should have at most 100 characters, got 300; shorten it"),
        (
            f"methods: [{{method: dpo, label: {'n' * 300}}}]",
            "1 methods[0].label: should have at most 100 characters, got 300; shorten it",
        ),
        (
            "methods: [dpo]\nevaluation: {bootstrap: 1000000000}",
            "2 evaluation.bootstrap: should be less than or equal to 100000, got 1000000000",
        ),
        ("methods: [dpo]\nmax_steps: !!int x", '2 max_steps: not a valid int: "x"; quote it if it is text'),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_line(tmp_path: Path, text: str, line: str | None) -> None:
    seen = refusal(tmp_path, text)
    if line is None:
        assert seen.startswith('quick.yaml:2 "x\\\\y": unknown key; allowed: budget, checkpoint_seconds,')
        assert seen.endswith("(and 2 more)")
    else:
        assert seen == f"quick.yaml:{line}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "1: the file is empty; it needs at least `methods: [dpo]`"),
        ("# nothing", "1: the file is empty; it needs at least `methods: [dpo]`"),
        ("\n- dpo", "2: should be a mapping; it needs at least `methods: [dpo]`"),
        (
            "methods: [dpo\n",
            "2: cannot be read as YAML: expected ',' or ']', but got '<stream end>'; mend the text here or just above",
        ),
        ("a: 1\n---\nb: 1", "2: cannot be read as YAML: but found another document; mend the text here or just above"),
        (b"a: 1\nb: \xff", "2: this is not UTF-8 text; save it as UTF-8"),
        ("a: 1\nb: \x07", "2: character #x0007 is not allowed; remove it"),
        ("[" * 5000, "1: nested too deeply; a suite file has few levels"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_refused_in_one_line(tmp_path: Path, text: str | bytes, line: str) -> None:
    assert refusal(tmp_path, text) == f"quick.yaml:{line}"


def test_tags_run_nothing(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    seen = refusal(tmp_path, f"name: x\nmethods: !!python/object/apply:os.system ['touch {proof}']")
    allowed = "write text (quoted), a number, a list or a mapping"
    assert seen == f'quick.yaml:2 methods: the type "python/object/apply:os.system" is not allowed; {allowed}'
    assert not proof.exists()


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    start = time.monotonic()
    assert refusal(tmp_path, bomb) == "quick.yaml:2: an alias (*name) is not allowed; write the value out"
    assert time.monotonic() - start < 1


def test_a_sweep_makes_one_cell_per_value(tmp_path: Path) -> None:
    assert load_suite(write(tmp_path, FULL)).cells(KNOBS) == (
        Cell("dpo", 0, {}),
        Cell("PPO on length kl_coef=0.1", 1, {"whiten": True, "kl_coef": 0.1}),
        Cell("PPO on length kl_coef=2", 1, {"whiten": True, "kl_coef": 2}),
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "methods:\n- dpoo",
            "2 methods[0].method: no method 'dpoo' is installed, or loaded with --plugin; did you mean 'dpo'?",
        ),
        (
            "methods:\n- method: sft\n  sweep: [1]",
            "3 methods[0].sweep: 'sft' has no KL knob to turn; remove the sweep",
        ),
        (
            "methods:\n- method: dpo\n  config: {beta: 1}\n  sweep: [1]",
            "3 methods[0].config.beta: the sweep sets this option too; remove one of the two",
        ),
        (
            "methods:\n- method: dpo\n  sweep: [1]\n- method: ppo\n  label: dpo beta=1",
            "5 methods[1].label: methods[0] has the label 'dpo beta=1' too",
        ),
    ],
)
def test_a_sweep_that_cannot_be_unfolded_is_named_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    suite = load_suite(write(tmp_path, text))
    with pytest.raises(UserError) as error:
        suite.cells(KNOBS)
    assert str(error.value) == f"{tmp_path}/quick.yaml:{line}"


class Inner(Config):
    width: int = 1


class Options(MethodConfig):
    beta: PositiveFloat = 0.1
    inner: Inner | None = None


def test_plugin_options_get_the_same_one_line_treatment() -> None:
    where = "quick.yaml:7 methods[2].config"
    assert validate_options(Options, {"beta": 1}, where) == Options(beta=1.0)
    for options, line in [
        ({"betta": 1}, ".betta: unknown key; did you mean 'beta'?"),
        ({"beta": 0}, ".beta: should be greater than 0, got 0"),
        ({"beta": True}, ".beta: should be a number, got true or false"),
        ({"inner": {"widht": 1}}, ".inner.widht: unknown key; did you mean 'width'?"),
    ]:
        with pytest.raises(UserError) as error:
            validate_options(Options, options, where)
        assert str(error.value) == where + line


def test_a_suite_checks_plugin_options_with_the_line_of_the_option(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, "methods:\n- method: dpo\n  config:\n    loss: x\n    betta: 1"))
    with pytest.raises(UserError) as error:
        suite.check_options(Options, {"betta": 1}, "methods", 0, "config")
    assert str(error.value) == (f"{tmp_path}/quick.yaml:5 methods[0].config.betta: unknown key; did you mean 'beta'?")


def test_a_suite_is_found_by_path_then_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "mysuite").mkdir()  # a folder of the same name does not hide the suite
    write(tmp_path / "benchmarks", "methods: [dpo]", "mysuite.yaml")
    assert find_suite("mysuite") == Path("benchmarks/mysuite.yaml")
    assert find_suite(write(tmp_path, "methods: [dpo]", "mine.yaml")) == tmp_path / "mine.yaml"
    for unknown in ("mysuit", "some/where/mysuit.yaml"):
        with pytest.raises(UserError) as error:
            find_suite(unknown)
        assert str(error.value) == f"no suite file or name '{unknown}'; did you mean 'mysuite'?"
    with pytest.raises(UserError, match=r"no suite file or name 'x{300}'; "):
        find_suite("x" * 300)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_suite(tmp_path)
    assert str(error.value) == f"{tmp_path}: this is a folder; name a suite file"
    with pytest.raises(UserError) as error:
        load_suite(tmp_path / "no.yaml")
    reason = "No such file or directory; give the path of a suite file"
    assert str(error.value) == f"{tmp_path}/no.yaml: cannot be read: {reason}"


def test_reading_a_suite_imports_no_torch() -> None:
    code = "import sys, alignbench.suite.spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lists_of_two_lengths_are_refused_before_anything_is_trained(tmp_path):
    path = tmp_path / "lists.yaml"
    path.write_text(
        "methods: [ppo]\ncomparisons: {human_pairs: 8}\nsamples: {per_prompt: 4}\nreward_model: {loss: listwise}\n"
    )
    with pytest.raises(UserError, match=r"listwise cannot take lists of 4 .* set human_pairs to 0, or loss to pair"):
        load_suite(path)


def test_a_time_that_is_quoted_stays_text(tmp_path: Path) -> None:
    text = "methods: [{method: dpo, label: '1:30:00', config: {a: '1:30'}}]\nname: '010'"
    suite = load_suite(write(tmp_path, text))
    assert (suite.methods[0].label, suite.methods[0].config, suite.name) == ("1:30:00", {"a": "1:30"}, "010")


def test_a_plugins_number_or_switch_is_not_given_as_text() -> None:
    class Options(Config):
        beta: float = 0.1
        on: bool = False
        note: str | int = ""

    assert validate_options(Options, {"beta": 1, "on": True, "note": "3"}, "here").note == "3"
    for options, problem in (({"beta": "0.1"}, "a number"), ({"on": "yes"}, "true or false")):
        with pytest.raises(UserError, match=f"should be {problem}, got the text"):
            validate_options(Options, options, "here")
