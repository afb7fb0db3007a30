"""A plugin may do what it likes while it is loaded and asked for its recipe: it is named, and its siblings finish."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import NO_STEPS, Steps, load_catalog
from alignbench.run.planner import plan_apart
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite

SUITE: dict[str, Any] = {
    "model": "oracle-llama", "task": "oracle", "device": "cpu", "dtype": "float32", "max_steps": 2,
    "lora": {"r": 2, "alpha": 4}, "sft": {"max_steps": 1}, "comparisons": {"source": "human", "pairs": 8},
    "evaluation": {"prompts": 2, "held_out_pairs": 2},
}  # fmt: skip
METHOD = """
import ctypes, json, os, signal, sys, time
import alignbench

class Odd(alignbench.AlignmentMethod):
    name = "odd"
    needs = frozenset({{"prompts"}})
    def recipe(self, config, build):
        {recipe}
        return super().recipe(config, build)
    def train(self, trial, config):
        pass

{at_import}

@alignbench.hookimpl
def alignbench_methods():
    return [Odd]
"""
HOARD = "held = [bytearray(b'x') * (64 << 20) for _ in range(10**6)]"
FLOOD = "for _ in range(100): os.write(1, b'x' * (1 << 20))"
PATCH = """
real = json.loads
json.loads = lambda *a, **k: real(*a, **k)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.path.insert(0, "/poisoned")
"""


class Said(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A folder with the plugin, a distribution of it where asked, and a suite of these rows."""

    def make(*rows: Any, at_import: str = "", recipe: str = "pass", is_installed: bool = False, **keys: Any) -> Path:
        (tmp_path / "odd_plugin.py").write_text(METHOD.format(recipe=recipe, at_import=at_import))
        (tmp_path / "s.yaml").write_text(yaml.safe_dump({**SUITE, "methods": list(rows), **keys}))
        if is_installed:
            info = tmp_path / "odd_dist-1.2.dist-info"
            info.mkdir()
            (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-dist\nVersion: 1.2\n")
            (info / "entry_points.txt").write_text("[alignbench]\nodd_plugin = odd_plugin\n")
        return tmp_path

    return make


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """One cache for all: the good row is computed once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def alignbench(tmp_path: Path, home: Path) -> Callable[..., Said]:
    own = {"ALIGNBENCH_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "250"}

    def run(*arguments: str, is_installed: bool = False) -> Said:
        path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}" if is_installed else os.environ.get("PYTHONPATH", "")
        command, began = [sys.executable, "-m", "alignbench.cli", *arguments], time.monotonic()
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **own, "PYTHONPATH": path}, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        return Said(done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    return run


RECIPES = {
    "exits": ("os._exit(7)", (), "its process ended with exit code 7"),
    "crashes": ("ctypes.string_at(0)", (), "its process was ended by SIGSEGV"),
    "hangs": ("time.sleep(1000)", ("--timeout", "2"), "it took longer than --timeout 2 s"),
    "hoards": (HOARD, ("--memory", "1.5"), "out of memory: it took"),
    "interrupts itself": ("raise KeyboardInterrupt('mine')", (), "it printed last: KeyboardInterrupt: mine"),
}


@pytest.mark.parametrize("case", RECIPES)
def test_a_recipe_costs_its_own_row(case: str, folder, alignbench) -> None:
    recipe, options, cause = RECIPES[case]
    path = folder("odd", "sft", recipe=recipe)
    said = alignbench("run", "s.yaml", "--plugin", "odd_plugin", "--workers", "1", *options)
    lines = [line for line in said.err.splitlines() if "failed:" in line]
    owner = "plugin 'odd' (from module odd_plugin): while it was asked for its recipe, "
    assert len(lines) == 1, said
    assert lines[0].startswith(f"alignbench: odd (seed 0) failed: {owner}")
    assert cause in lines[0]
    assert "Traceback" not in said.err
    assert said.code == 2  # as where a recipe raises
    records = (path / "results" / "s" / "records.jsonl").read_text().splitlines()
    states = {row["label"]: row["status"] for row in map(json.loads, records)}
    assert states == {"odd": "failed", "sft": "ok"}


def test_a_recipe_that_hangs_holds_the_plan_up_for_its_limit_alone(folder) -> None:
    made, began = planned(folder("odd", "sft", recipe="time.sleep(1000)"), timeout=2), time.monotonic()
    plan = made()
    assert 2 < time.monotonic() - began < 7
    assert [cell.label for cell in plan.cells if cell.score is None] == ["odd"]


IMPORTS = {
    "exits": ("os._exit(0)", (), "its process ended with exit code 0"),
    "crashes": ("ctypes.string_at(0)", (), "its process was ended by SIGSEGV"),
    "hangs": ("time.sleep(1000)", ("--timeout", "3"), "it took longer than --timeout 3 s"),
}


@pytest.mark.parametrize("case", IMPORTS)
def test_an_installed_module_that_ends_its_process_is_left_out(case: str, folder, alignbench) -> None:
    at_import, options, _ = IMPORTS[case]
    folder("sft", at_import=at_import, is_installed=True)
    said = alignbench("run", "s.yaml", "--workers", "1", *options, is_installed=True)
    assert said.code == 0, said
    assert "1 failed" not in said.out


@pytest.mark.parametrize("case", IMPORTS)
def test_a_row_of_such_a_module_is_told_why_in_one_line(case: str, folder, alignbench) -> None:
    at_import, options, cause = IMPORTS[case]
    folder("sft", "odd-plugin", at_import=at_import, is_installed=True)
    said = alignbench("run", "s.yaml", *options, is_installed=True)
    assert said.code == 2
    (line,) = said.err.splitlines()
    assert f"failed to load: odd-dist 1.2, entry point 'odd_plugin': {cause}" in line


def test_a_module_asked_for_by_name_ends_the_command_in_one_line(folder, alignbench) -> None:
    folder("sft", at_import="print('no licence', flush=True); os._exit(3)")
    for command in ("run", "plan"):
        said = alignbench(command, "s.yaml", "--plugin", "odd_plugin")
        assert said.err == (
            "alignbench: --plugin odd_plugin: its process ended with exit code 3; it printed last: no licence\n"
        )
        assert (said.code, said.out) == (2, "")


@pytest.mark.parametrize("at_import", [FLOOD, PATCH])
def test_a_flood_and_patches_stay_in_the_child(at_import: str, folder, alignbench) -> None:
    folder("odd", "sft", at_import=at_import)
    said = alignbench("plan", "s.yaml", "--plugin", "odd_plugin")
    assert (said.code, said.err) == (0, "")
    assert "xxx" not in said.out
    assert "train odd" in said.out


def test_the_parent_keeps_its_own_functions_and_handlers(folder) -> None:
    def state() -> list[Any]:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return [json.loads, *handlers, list(sys.path), "odd_plugin" in sys.modules]

    make = planned(folder("odd", "sft", at_import=PATCH))
    before = state()
    plan = make()
    assert [cell.label for cell in plan.cells if cell.score] == ["odd", "sft"]
    assert state() == before
    assert before[-1] is False


def test_the_childs_plan_is_the_one_made_here(folder) -> None:
    path = folder("sft", "dpo", {"method": "ppo", "reward": "oracle"}, seeds=[0, 1])
    suite = load_suite(path / "s.yaml")
    here = make_plan(suite, load_catalog())
    apart = plan_apart(lambda steps: make_plan(suite, load_catalog(steps=steps), (), steps))
    assert len(apart.stages) > 20
    assert apart.to_dict() == here.to_dict()
    assert apart == here


@pytest.mark.parametrize(
    "keys", [{"methods": ["dpoo"]}, {"methods": [{"method": "dpo", "config": {"beta": -1}}]}, {"task": "nowhere"}]
)
def test_a_mistake_in_the_suite_is_the_same_line_as_in_process(keys: dict[str, Any], folder, alignbench) -> None:
    folder("sft", **keys)
    apart, here = alignbench("run", "s.yaml"), alignbench("run", "s.yaml", "--strict")
    assert apart.err.count("\n") == 1
    assert (apart.code, apart.out, apart.err) == (2, here.out, here.err)


def test_ctrl_c_ends_planning_with_one_line(folder, home: Path) -> None:
    path = folder("odd", recipe="time.sleep(1000)", at_import="open('pid', 'w').write(str(os.getpid()))")
    command = [sys.executable, "-m", "alignbench.cli", "plan", "s.yaml", "--plugin", "odd_plugin"]
    own = {**os.environ, "ALIGNBENCH_HOME": str(home)}
    process = subprocess.Popen(command, cwd=path, env=own, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until(lambda: (path / "pid").is_file() and (path / "pid").read_text() != "")
    child = int((path / "pid").read_text())
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=5)
    assert said == "alignbench: interrupted while it planned; nothing was computed\n"
    assert process.returncode == 130
    until(lambda: not Path(f"/proc/{child}").exists())


def test_a_planner_whose_parent_was_killed_ends_too(folder, home: Path) -> None:
    path = folder("odd", recipe="time.sleep(1000)", at_import="open('pid', 'w').write(str(os.getpid()))")
    command = [sys.executable, "-m", "alignbench.cli", "plan", "s.yaml", "--plugin", "odd_plugin"]
    process = subprocess.Popen(command, cwd=path, env={**os.environ, "ALIGNBENCH_HOME": str(home)})
    until(lambda: (path / "pid").is_file() and (path / "pid").read_text() != "")
    child = int((path / "pid").read_text())
    process.kill()
    process.wait()
    until(lambda: is_gone(child))


def test_a_planner_that_nobody_is_to_blame_for_is_one_line() -> None:
    def make(steps: Steps) -> Plan:
        os._exit(9)

    with pytest.raises(UserError, match=r"^no plan was made: its process ended with exit code 9$"):
        plan_apart(make)


def planned(path: Path, **limits: Any) -> Callable[[], Plan]:
    """Plans the suite of the folder as the command does."""
    suite = load_suite(path / "s.yaml")

    def make(steps: Steps = NO_STEPS) -> Plan:
        sys.path.append(str(path))
        return make_plan(suite, load_catalog(["odd_plugin"], steps=steps), ["odd_plugin"], steps)

    return lambda: plan_apart(make, **limits)


def is_gone(pid: int) -> bool:
    """Whether the process has ended; nobody may have collected it."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def until(is_so: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)
