"""Stages as Ray tasks: the records of any other engine; a dead worker or a bad plugin costs what it touches alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.run.here import run_here
from alignbench.run.ray_crew import RayCrew
from alignbench.run.ray_task import compute
from alignbench.run.schedule import Outcome, Schedule, Watcher
from alignbench.store import Store
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite

with_ray = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import ray"], capture_output=True, check=False).returncode != 0,
    reason="ray is not installed: pip install 'alignbench[ray]'",
)
DPO = {"method": "dpo", "config": {"per_device_train_batch_size": 4, "learning_rate": 0.01}}
ROWS = """
import multiprocessing, os, pathlib, signal
import alignbench

class Row(alignbench.AlignmentMethod):
    needs = frozenset({"prompts"})

class Raising(Row):
    name = "raising"
    def train(self, trial, config):
        print("said before")
        raise RuntimeError("on purpose")

class Vanishing(Row):
    name = "vanishing"
    def train(self, trial, config):
        os._exit(3)

class Killing(Row):
    name = "killing"  # ends the Ray worker that started it, the first time
    def train(self, trial, config):
        tries = pathlib.Path(os.environ["TRIES_FILE"])
        tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
        if tries.read_text() == "x":
            os.kill(multiprocessing.parent_process().pid, signal.SIGKILL)

@alignbench.hookimpl
def alignbench_methods():
    return [Raising, Vanishing, Killing]
"""


@pytest.fixture
def plan_of(suite_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    (tmp_path / "ray_rows.py").write_text(ROWS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TRIES_FILE", str(tmp_path / "tries"))
    return lambda *rows: make_plan(load_suite(suite_file([*rows])), load_catalog(["ray_rows"]), ["ray_rows"])


def rayed(plan: Plan, home: Path, **options: Any) -> Outcome:
    store = Store(home)
    return Schedule(plan, store, RayCrew(plan, store, slots=2, **options), Watcher()).run()


@with_ray
def test_ray_gives_the_records_of_one_process_and_a_bad_row_costs_itself_alone(plan_of, tmp_path: Path) -> None:
    there = rayed(plan_of("sft", DPO, "raising", "vanishing", "killing"), tmp_path / "there")
    here = run_here(plan_of("sft", DPO), Store(tmp_path / "here"))
    for ours, theirs in zip(here.records, there.records[:2], strict=True):
        assert ours.cause is theirs.cause is None
        assert (ours.metrics, ours.per_prompt, ours.counts) == (theirs.metrics, theirs.per_prompt, theirs.counts)
    causes = {record.label: record.cause for record in there.records}
    assert "plugin 'raising' (from module ray_rows): RuntimeError: on purpose" in str(causes["raising"])
    assert "exit code 3, twice" in str(causes["vanishing"])
    assert causes["killing"] is None  # its worker was killed once, and it was computed by another
    assert (tmp_path / "tries").read_text() == "xx"
    logs = "".join(file.read_text() for file in (tmp_path / "there" / "logs").iterdir())
    assert "said before" in logs
    assert "Traceback" in logs
    assert not [f for f in (tmp_path / "there" / "logs").iterdir() if f.suffix != ".log"]


@with_ray
def test_an_address_where_no_cluster_answers_ends_in_one_line(plan_of, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--address 127\.0\.0\.1:1: no Ray cluster can be joined there \(Connection"):
        rayed(plan_of("sft"), tmp_path, address="127.0.0.1:1")


def ran(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alignbench.cli", "run", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_without_the_extra_one_line_says_how_to_install_it(tmp_path: Path) -> None:
    """Before any work: there is no such suite either."""
    script = (
        "import importlib.metadata as m, sys; have = m.version\n"
        "def version(name):\n"
        "    if name == 'ray': raise m.PackageNotFoundError(name)\n"
        "    return have(name)\n"
        "m.version = version\n"
        "sys.argv = ['alignbench', 'run', 'none.yaml', '--engine', 'ray']\n"
        "from alignbench.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    said = "alignbench: --engine ray needs Ray, which is not installed: pip install 'alignbench[ray]'\n"
    assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--address", "auto"), "--address is a Ray cluster's; add --engine ray"),
        (("--engine", "ray", "--strict"), "--strict computes in this process; leave out --engine ray"),
    ],
)
def test_options_that_do_not_go_together_end_in_one_line(arguments, problem: str, tmp_path: Path) -> None:
    done = ran("none.yaml", *arguments, folder=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"alignbench: {problem}\n")


def test_a_worker_that_does_not_see_the_store_says_so_in_one_line(tmp_path: Path) -> None:
    settings = {"mark": str(tmp_path / "logs" / "ray-1"), "home": str(tmp_path)}
    failure = json.loads(compute("0" * 64, "{}", json.dumps(settings)))["failure"]
    assert failure["blame"] == "user"
    assert f"cannot see the store of this run, {tmp_path}; set ALIGNBENCH_HOME to a folder" in failure["cause"]
