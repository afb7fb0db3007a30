"""The real command in a process of its own: a mistake is one line with its place and remedy, and leaves nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROWS = ["sft", "dpo"]
TORCH_FREE = ("torch", "transformers", "peft", "datasets")


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def alignbench(tmp_path: Path) -> Callable[..., Said]:
    """`alignbench("run", ...)`: the command, in tmp_path, with an empty cache and no hub."""
    own = {"ALIGNBENCH_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def run(*arguments: str) -> Said:
        command = [sys.executable, "-m", "alignbench.cli", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **own}, capture_output=True, text=True, check=False
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return run


def hh(source: str, **options: Any) -> dict[str, Any]:
    return {"task": {"name": "hh", "options": {"source": source, "max_new_tokens": 6, **options}}}


def row(method: str, **keys: Any) -> dict[str, Any]:
    return {"methods": [{"method": method, **keys}]}


# What is changed in a good suite, what the line says after its place, and what would mend it. HERE is the folder.
BAD_SUITES = {
    "no such method": ({"methods": ["dpoo"]}, "methods[0].method: ", "did you mean 'dpo'?"),
    "misspelt key": ({"max_stepz": 3}, "max_stepz: ", "did you mean 'max_steps'?"),
    "unknown method option": (row("dpo", config={"bta": 1}), "methods[0].config.bta: ", "did you mean 'beta'?"),
    "a row's key among options": (row("dpo", config={"max_steps": 4}), "methods[0].config.max_steps: ", "beside `con"),
    "no such task": ({"task": "hhh"}, "task", "did you mean 'hh'?"),
    "unknown task option": (hh("HERE/x", max_new_token=3), "task.options.max_new_token: ", "mean 'max_new_tokens'?"),
    "no such data file": (hh("HERE/wrng.jsonl"), "task: HERE/wrng.jsonl: no such file", "did you mean 'wrong.jsonl'?"),
    "wrong column": (hh("HERE/wrong.jsonl"), "task: HERE/wrong.jsonl, line 1: no column", "wanted: prompt, unless"),
    "empty data": (hh("HERE/empty.jsonl"), "task: HERE/empty.jsonl: no preference pair in it", "(0 rows)"),
    "no such model folder": ({"model": "HERE/nowhere"}, "model: model 'HERE/nowhere' is", "allowed: oracle-gpt2"),
    "a folder that is no model": ({"model": "HERE"}, "model: model 'HERE' ", "a folder written by save_pretrained"),
    "more prompts than there are": ({"evaluation": {"prompts": 999}}, "evaluation.prompts: 999 asked", "lower it or"),
    "more pairs than there are": (
        {"comparisons": {"source": "human", "pairs": 999}}, "comparisons.pairs: 999 asked for", "lower it or enlarge"
    ),
    "no such reward": (row("ppo", reward="lenght"), "methods[0].reward", "did you mean 'length'?"),
    "a reward that may only label": (row("ppo", reward="panel"), "methods[0].reward: ", "drop the key to fit"),
    "a reward nobody reads": (row("dpo", reward="length"), "methods[0].reward: ", "remove the key"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SUITES)
def test_a_bad_suite_is_one_line_with_its_place_and_remedy(name: str, suite_file, tmp_path: Path, alignbench) -> None:
    (tmp_path / "wrong.jsonl").write_text('{"prompt": "a", "good": "b", "bad": "c"}\n')
    (tmp_path / "empty.jsonl").write_text("")
    keys, opening, remedy = json.loads(json.dumps(BAD_SUITES[name]).replace("HERE", str(tmp_path)))
    path = suite_file(keys.pop("methods", ROWS), **keys)
    said = alignbench("run", str(path))
    assert (said.code, said.err.count("\n"), said.out) == (2, 1, ""), said
    place, _, problem = said.err.removeprefix(f"alignbench: {path}:").partition(" ")
    assert place.isdigit()
    assert problem.startswith(opening)
    assert remedy in problem
    assert not (tmp_path / "results").exists()
    assert {path.name for path in tmp_path.glob("home/*")} <= {"code"}  # digests of the code that was read


def test_a_missing_suite_is_one_line_with_the_nearest_name(alignbench, tmp_path: Path) -> None:
    said = alignbench("run", "quikstart")
    assert said == Said(2, "", "alignbench: no suite file or name 'quikstart'; did you mean 'quickstart'?\n")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_constitution_is_one_line_with_what_is_shipped(alignbench, suite_file, tmp_path: Path) -> None:
    said = alignbench("run", str(suite_file(**row("constitutional", config={"constitution": "own.yaml"}))))
    problem = "constitution 'own.yaml': no such file, and none of that name is shipped (harmless)"
    assert said == Said(2, "", f"alignbench: {problem}\n")


def test_a_prompt_beyond_the_models_window_is_one_line_and_no_results(alignbench, suite_file, tmp_path: Path) -> None:
    pairs = [
        {"prompt": f"Human: {i} {'stone ' * 1100}\n\nAssistant:", "chosen": " Yes", "rejected": " No"}
        for i in range(80)
    ]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    path = suite_file(ROWS, **hh("long.jsonl", max_prompt_chars=10_000))
    said = alignbench("run", str(path))
    assert (said.code, said.err.count("\n")) == (2, 1), said
    assert said.err.startswith(
        f"alignbench: {path}:10 task: 80 of 80 prompts do not fit the model's window of 1024 tokens"
    )
    assert "beside 6 of an answer (the longest has 11" in said.err
    assert said.err.endswith("lower max_new_tokens in task.options\n")
    assert not (tmp_path / "results").exists()


def test_a_missing_table_names_the_file_that_a_run_writes(alignbench) -> None:
    said = alignbench("table", "nothing")
    assert (said.code, said.out) == (2, "")
    said_once = "alignbench: results/nothing/table.md: no such table; run `alignbench run nothing` first\n"
    assert said.err == said_once


def test_a_readme_gets_the_short_table_and_the_way_to_the_whole(alignbench, tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[2] / "results/reference", tmp_path / "results/reference")
    readme = tmp_path / "README.md"
    before = "# Mine\n<!-- results:reference -->\n<!-- /results:reference -->\n"
    readme.write_text(before)
    assert alignbench("table", "reference", "--readme", str(readme)).code == 0
    text = readme.read_text()
    assert "| dpo (beta=1) |" in text
    assert "Legend" not in text
    assert "[results/reference/table.md](results/reference/table.md)" in text
    (tmp_path / "results/reference/records.jsonl").unlink()
    said = alignbench("table", "reference", "--readme", str(readme))
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "results/reference/records.jsonl: no such records" in said.err
    assert readme.read_text() == text


def test_a_recipe_that_raises_fails_its_row_and_names_the_plugin(alignbench, suite_file, tmp_path: Path) -> None:
    (tmp_path / "buggy.py").write_text(
        "import alignbench\n"
        "class Buggy(alignbench.AlignmentMethod):\n"
        "    name = 'buggy'\n"
        "    def recipe(self, config, build): raise ZeroDivisionError\n"
        "@alignbench.hookimpl\n"
        "def alignbench_methods(): return [Buggy]\n"
    )
    said = alignbench("plan", str(suite_file(["buggy"])), "--plugin", "buggy")
    assert said.code == 0
    assert "buggy, seed 0: plugin 'buggy' (from module buggy): its recipe raised ZeroDivisionError" in said.out


LOOSE = """
import alignbench
class Loose(alignbench.AlignmentMethod):
    name = "loose"
    summary = "not installed"
    needs = frozenset({"preferences"})
    def train(self, trial, config):
        for pair in trial.preference_batches():
            trial.step(-trial.logprobs(pair.chosen).sum(-1).mean())
@alignbench.hookimpl
def alignbench_methods(): return [Loose]
"""


def test_a_module_beside_the_suite_is_listed_planned_and_run(alignbench, suite_file, tmp_path: Path) -> None:
    (tmp_path / "loose_module.py").write_text(LOOSE)
    path, loaded = str(suite_file(["sft", "loose"])), ("--plugin", "loose_module")
    listed = next(line for line in alignbench("plugins", *loaded).out.splitlines() if "loose" in line)
    assert listed.split() == ["method", "loose", "preferences", "module", "loose_module", "-", "not", "installed"]
    said = alignbench("plan", path, *loaded)
    assert (said.code, said.err) == (0, "")
    assert "train loose" in said.out
    said = alignbench("run", path, *loaded)
    assert (said.code, said.err) == (0, "")
    assert "| loose |" in (tmp_path / "results" / "tiny" / "table.md").read_text()
    said = alignbench("run", path)
    assert (said.code, said.out) == (2, "")
    assert "no method 'loose' is installed" in said.err


@pytest.mark.parametrize("command", ["plan", "run", "check", "plugins"])
def test_a_module_named_on_the_command_line_that_does_not_load_is_one_line(
    command: str, alignbench, suite_file, tmp_path: Path
) -> None:
    (tmp_path / "broken_module.py").write_text("import alignbench\n1 / 0\n")
    asked = {"check": ["length"], "plugins": []}.get(command, [str(suite_file(["sft"]))])
    problem = "ZeroDivisionError: division by zero; the traceback: python -c 'import broken_module'"
    assert alignbench(command, *asked, "--plugin", "broken_module") == Said(
        2, "", f"alignbench: --plugin broken_module: {problem}\n"
    )
    said = alignbench(command, *asked, "--plugin", "nowhere_module")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("alignbench: --plugin nowhere_module: ModuleNotFoundError: No module named")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["plugins"],
        ["plan", "SUITE"],
        ["version"],
        ["table", "nothing"],
        ["new", "method", "x"],
    ],
    ids=" ".join,
)
def test_what_trains_nothing_imports_no_torch(arguments: list[str], suite_file, tmp_path: Path) -> None:
    arguments = [str(suite_file(["sft", "ppo", "dpo", "rlaif"])) if a == "SUITE" else a for a in arguments]
    script = (
        "import sys; from alignbench.cli import main\n"
        f"sys.argv = ['alignbench', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print('heavy:', sorted(set(sys.modules) & set({TORCH_FREE!r})))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_plugins_lists_every_kind_with_its_distribution(alignbench) -> None:
    said = alignbench("plugins")
    assert (said.code, said.err) == (0, "")
    listed = {tuple(line.split()[:2]) for line in said.out.splitlines()[1:]}
    wanted = {
        "method": "sft best_of_n ppo dpo rlaif constitutional",
        "source": "judge length panel",
        "task": "hh sentiment",
    }
    assert {(kind, name) for kind, names in wanted.items() for name in names.split()} <= listed
    assert "alignbench-ppo" in said.out


def test_plan_computes_nothing_and_names_every_stage_once(alignbench, suite_file, tmp_path: Path) -> None:
    said = alignbench("plan", str(suite_file(["sft", "ppo"])))
    assert (said.code, said.err) == (0, "")
    keys = [line.split()[0] for line in said.out.splitlines()[1:-2]]
    assert len(keys) == len(set(keys)) > 10
    assert f"{len(keys)} stages, 2 cells" in said.out
    assert re.search(r"sharing saves [1-9]\d* stages and [1-9]\d?% of the time", said.out)
    assert not (tmp_path / "home" / "stages").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["run"], "Missing argument 'suite'; `alignbench run --help`"),
        (["run", "x", "--workers", "0"], "Invalid value for '--workers': Input should be greater than or equal to 1"),
        (["run", "x", "--memory", "inf"], "Invalid value for '--memory': "),
        (["zzz"], "No such command 'zzz'; `alignbench --help`"),
        (["cache", "prune", "--older-than", "x"], "`alignbench cache prune --help` says what is allowed"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments: list[str], problem: str, alignbench) -> None:
    said = alignbench(*arguments)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith("alignbench: ")
    assert problem in said.err


@pytest.mark.parametrize(
    "plan", ["[]", '{"suite": {"max_steps": 3}}', '{"suite": {}, "modules": 5}', '{"modules": []}']
)
def test_a_file_that_is_no_plan_is_one_line(plan: str, alignbench, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(plan)
    said = alignbench("stage", "ab12cd34", "--plan", "plan.json")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith("alignbench: plan.json: not a plan")
    assert "alignbench plan SUITE --json" in said.err
