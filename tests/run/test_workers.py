"""Plugins that raise, exit, crash, hang, flood or poison cost their own rows and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.run.crew import ProcessCrew
from alignbench.run.execute import Bench
from alignbench.run.here import run_here
from alignbench.run.logs import HEAD, TAIL, Log, read_log, traced
from alignbench.run.schedule import Outcome, Schedule, Watcher
from alignbench.store import Store
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite

BAD = """
import ctypes, os, sys, time
import alignbench

class Bad(alignbench.AlignmentMethod):
    needs = frozenset({"prompts"})

def method(name):
    return lambda train: type(name, (Bad,), {"name": name, "train": train, "__module__": __name__})

@method("raising")
def Raising(self, trial, config):
    raise RuntimeError("two\\nlines \\x1b[31m and a lone \\ud800")

@method("leaving")
def Leaving(self, trial, config):
    sys.exit(0)

@method("vanishing")
def Vanishing(self, trial, config):
    os._exit(0)

@method("crashing")
def Crashing(self, trial, config):
    ctypes.string_at(0)

@method("hanging")
def Hanging(self, trial, config):
    while True:
        time.sleep(1)

@method("hoarding")
def Hoarding(self, trial, config):
    held = []
    while True:
        held.append(bytearray(b'x') * (64 << 20))

@method("seeing")
def Seeing(self, trial, config):
    print("sees GPU", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    time.sleep(3)

@method("flooding")
def Flooding(self, trial, config):
    for _ in range(3000):
        os.write(1, b"x" * 1023 + b"\\n")
    raise ValueError("after the flood")

@method("shouting")
def Shouting(self, trial, config):
    raise ValueError("loud" * (1 << 20))

@method("deaf")
def Deaf(self, trial, config):
    os.closerange(3, 256)
    time.sleep(60)

@method("mumbling")
def Mumbling(self, trial, config):
    import gc
    from multiprocessing.connection import Connection
    for pipe in [thing for thing in gc.get_objects() if isinstance(thing, Connection)]:
        if pipe.writable:
            pipe.send_bytes(b"\\x80rubbish\\n")
    time.sleep(60)

@method("stuttering")
def Stuttering(self, trial, config):
    import gc
    from multiprocessing.connection import Connection
    for pipe in [thing for thing in gc.get_objects() if isinstance(thing, Connection)]:
        if pipe.writable and not pipe.closed:
            os.write(pipe.fileno(), b'{"')  # half a message, for which nobody may wait
    time.sleep(600)

@method("forging")
def Forging(self, trial, config):
    from alignbench.engine.meter import Meter
    Meter.reading = lambda self: {"seconds": "a lot", "peak_bytes": -1}

@method("piping")
def Piping(self, trial, config):
    home = trial.workdir.parents[2]
    (home / "logs").mkdir(exist_ok=True)
    os.mkfifo(home / "logs" / f"{trial.workdir.parent.name}.log")
    raise ValueError("into a pipe that nobody reads")

@method("erasing")
def Erasing(self, trial, config):
    import shutil
    for stage in trial.workdir.parents[2].glob("stages/*/*"):
        shutil.rmtree(stage)

@method("poisoning")
def Poisoning(self, trial, config):
    import torch
    torch.set_default_dtype(torch.float64)
    torch.nn.functional.logsigmoid = lambda x: x * 0
    with torch.no_grad():
        for weight in trial.policy.parameters():
            if not weight.requires_grad:
                weight.mul_(1.5)

class Misplanned(Bad):
    name = "misplanned"
    def recipe(self, config, build):
        raise ZeroDivisionError("in the recipe")

class Peeking(Bad):
    name = "peeking"
    def train(self, trial, config):
        raise AssertionError("its own stage came first")
    def recipe(self, config, build):
        start = build.sft()
        return alignbench.Inputs(start=start, preferences=build.stage("peek", peek, {}))

def peek(work):
    work.task.prompts("eval")

@alignbench.hookimpl
def alignbench_methods():
    return [
        Raising, Leaving, Vanishing, Crashing, Hanging, Hoarding, Flooding, Shouting, Deaf, Mumbling,
        Poisoning, Misplanned, Peeking, Seeing, Stuttering, Erasing, Forging, Piping,
    ]
"""
DPO = {"method": "dpo", "config": {"per_device_train_batch_size": 4, "learning_rate": 0.01}}
OWNER = "(from module bad_plugins)"


class Seen(Watcher):
    def __init__(self) -> None:
        self.took: dict[str, float] = {}

    def stage_ends(self, stage: Any, seconds: float, is_cached: bool, cause: str | None) -> None:
        self.took[stage.title] = seconds


@pytest.fixture
def plan_of_bad(suite_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "bad_plugins.py").write_text(BAD)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda *rows: make_plan(load_suite(suite_file([*rows])), load_catalog(["bad_plugins"]), ["bad_plugins"])


def crewed(plan: Plan, home: Path, seen: Watcher | None = None, **limits: Any) -> Outcome:
    store = Store(home)
    return Schedule(plan, store, ProcessCrew(plan, store, **limits), seen or Watcher()).run()


def test_every_bad_plugin_is_named_and_its_siblings_finish(plan_of_bad, tmp_path: Path) -> None:
    bad = [
        "raising", "leaving", "vanishing", "crashing", "hanging", "hoarding", "flooding", "shouting", "deaf",
        "mumbling", "stuttering", "forging", "piping", "misplanned",
    ]  # fmt: skip
    plan, seen, began = plan_of_bad(*bad, "peeking", "poisoning", DPO), Seen(), time.monotonic()
    outcome = crewed(plan, tmp_path / "home", seen, timeout=30, memory=2 << 30)
    causes = {record.label: record.cause for record in outcome.records}
    for name in bad:
        assert f"plugin '{name}' {OWNER}" in str(causes[name]), name
    log = {record.label: str(cell.train)[:12] for record, cell in zip(outcome.records, plan.cells, strict=True)}
    raised = f"plugin 'raising' {OWNER}: RuntimeError: two lines  [31m and a lone ?"
    assert causes["raising"] == raised
    assert traced(Store(tmp_path / "home"), outcome.failures)[raised].startswith(log["raising"])
    assert "sys.exit(0)" in str(causes["leaving"])
    assert causes["vanishing"] == (
        f"plugin 'vanishing' {OWNER}: its process ended with exit code 0, twice; "
        f"`alignbench log {log['vanishing']}` has what it printed"
    )
    assert "SIGSEGV, twice" in str(causes["crashing"])
    assert "longer than --timeout 30 s" in str(causes["hanging"])
    assert seen.took["train hanging, seed 0"] < 30 + 5
    assert "out of memory" in str(causes["hoarding"])
    assert "lower per_device_train_batch_size" in str(causes["hoarding"])
    assert "ValueError: after the flood" in str(causes["flooding"])
    assert "ValueError: loudloud" in str(causes["shouting"])
    assert "closed the harness's own pipe" in str(causes["deaf"])
    assert "rubbish" in str(causes["mumbling"])
    assert "longer than --timeout 30 s" in str(causes["stuttering"])
    assert seen.took["train stuttering, seed 0"] < 30 + 5
    assert "made up what it cost; moved to" in str(causes["forging"])
    assert "into a pipe that nobody reads" in read_log(Store(tmp_path / "home"), log["piping"])
    assert "its recipe raised ZeroDivisionError: in the recipe" in str(causes["misplanned"])
    assert "may not read the 'eval' prompts" in str(causes["peeking"])
    flood = read_log(Store(tmp_path / "home"), log["flooding"])
    assert len(flood) < HEAD + 2 * TAIL + 4000
    assert "bytes left out" in flood
    assert "Traceback" in flood
    assert causes["poisoning"] is None  # it ends well, and harms itself alone
    assert causes["dpo"] is None
    assert time.monotonic() - began < 300

    clean = run_here(plan_of_bad(DPO), Store(tmp_path / "clean"))
    assert outcome.records[-1].metrics == clean.records[0].metrics
    assert outcome.records[-1].per_prompt == clean.records[0].per_prompt


def test_in_one_process_the_poison_reaches_the_sibling(plan_of_bad, tmp_path: Path) -> None:
    """The control: without processes of their own the row beside the bad plugin moves."""
    import torch

    kept = torch.nn.functional.logsigmoid
    try:
        poisoned = run_here(plan_of_bad("poisoning", DPO), Store(tmp_path / "one"))
    finally:
        torch.nn.functional.logsigmoid = kept
    clean = run_here(plan_of_bad(DPO), Store(tmp_path / "clean"))
    assert poisoned.records[1].metrics != clean.records[0].metrics


@pytest.mark.parametrize("slots", [1, 2])
def test_what_a_plugin_erases_from_the_store_is_made_again_for_its_siblings(
    plan_of_bad, tmp_path: Path, slots: int
) -> None:
    warned: list[str] = []

    class Told(Watcher):
        def stage_warns(self, stage: Any, text: str) -> None:
            warned.append(text)

    outcome = crewed(plan_of_bad("erasing", DPO), tmp_path / "home", Told(), slots=slots)
    clean = run_here(plan_of_bad(DPO), Store(tmp_path / "clean"))
    assert outcome.records[1].cause is None
    assert outcome.records[1].metrics == clean.records[0].metrics
    assert "gone from the store while it was needed; computed again" in warned


@pytest.mark.parametrize("crew", ["here", "workers"])
def test_a_stage_that_another_run_computes_meanwhile_counts_as_reused(suite_file, tmp_path: Path, crew: str) -> None:
    plan = make_plan(load_suite(suite_file(["sft"])), load_catalog())
    store = Store(tmp_path / "home")
    first = next(stage for stage in plan.stages.values() if not stage.inputs)

    class Meanwhile(Watcher):
        def stage_begins(self, stage: Any) -> None:
            if stage is first:
                assert Bench(plan, store).compute(stage.key)

    made = run_here(plan, store, Meanwhile()) if crew == "here" else crewed(plan, tmp_path / "home", Meanwhile())
    assert (made.computed, made.cached) == (len(plan.stages) - 1, 1)


def test_beside_others_the_stage_with_most_ahead_of_it_comes_first(suite_file, tmp_path: Path) -> None:
    ppo = {"method": "ppo", "reward": "length"}
    plan = make_plan(load_suite(suite_file(["sft", DPO, ppo])), load_catalog())
    given = {key: replace(stage, estimate=9.0 if stage.title.startswith("train ppo") else 1.0)
             for key, stage in plan.stages.items()}  # fmt: skip
    begun: list[str] = []

    class Told(Watcher):
        def stage_begins(self, stage: Any) -> None:
            begun.append(stage.title)

    longest = replace(plan, stages=given)
    assert all(record.cause is None for record in Schedule(
        longest, Store(tmp_path), ProcessCrew(longest, Store(tmp_path), slots=2), Told()
    ).run().records)  # fmt: skip
    assert sorted(begun) == sorted(stage.title for stage in plan.stages.values())
    assert begun.index("train ppo, seed 0") < begun.index("train dpo, seed 0")
    in_plan = [stage.title for stage in plan.stages.values()]
    assert in_plan.index("train ppo, seed 0") > in_plan.index("train dpo, seed 0")


def test_two_workers_and_one_process_give_the_same_records(suite_file, tmp_path: Path) -> None:
    plan = make_plan(load_suite(suite_file(["sft", DPO, {"method": "ppo", "reward": "length"}])), load_catalog())
    here, there = run_here(plan, Store(tmp_path / "here")), crewed(plan, tmp_path / "there", slots=2)
    for ours, theirs in zip(here.records, there.records, strict=True):
        assert ours.cause is theirs.cause is None
        assert (ours.metrics, ours.per_prompt, ours.counts) == (theirs.metrics, theirs.per_prompt, theirs.counts)
    for key in plan.stages:
        ours_files, their_files = (
            json.loads((tmp_path / home / "stages" / key[:2] / key / "manifest.json").read_text())["files"]
            for home in ("here", "there")
        )
        assert ours_files == their_files, plan.stages[key].title


def test_a_script_that_runs_a_suite_is_not_run_again_by_its_workers(suite_file, tmp_path: Path) -> None:
    """It has no `if __name__ == "__main__"`: Python would run it in every child that it starts."""
    (tmp_path / "script.py").write_text(f"""
from dataclasses import replace
from pathlib import Path
from alignbench.plugins import load_catalog
from alignbench.run.crew import ProcessCrew
from alignbench.run.schedule import Schedule, Watcher
from alignbench.store import Store
from alignbench.planning.layout import make_plan
from alignbench.suite.spec import load_suite

print("begins", flush=True)
plan, store = make_plan(load_suite(Path({str(suite_file(["sft"]))!r})), load_catalog()), Store(Path("home"))
print([record.cause for record in Schedule(plan, store, ProcessCrew(plan, store), Watcher()).run().records])
""")
    ran = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines() == ["begins", "[None]"], ran.stderr


def test_a_log_is_found_by_the_beginning_of_its_key_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no stage's log has a key that begins with '\.\./\.\.'"):
        read_log(Store(tmp_path), "../..")


@pytest.mark.parametrize("crew", ["here", "workers"])
def test_a_run_that_waits_for_another_ones_stage_says_so_and_its_numbers_are_passed_on(
    suite_file, tmp_path: Path, crew: str
) -> None:
    plan = make_plan(load_suite(suite_file([DPO])), load_catalog())
    store = Store(tmp_path / "home")
    first = next(stage for stage in plan.stages.values() if not stage.inputs)
    held = ExitStack()
    held.enter_context(store.lock(first.key))  # as another run would hold it

    class Told(Watcher):
        waits: ClassVar[list[str]] = []
        numbers: ClassVar[dict[str, set[str]]] = {}

        def stage_waits(self, stage: Any) -> None:
            self.waits.append(stage.key)
            held.close()

        def stage_advances(self, stage: Any, done: int, total: int, numbers: Mapping[str, float]) -> None:
            assert 0 < done <= total
            self.numbers.setdefault(stage.kind, set()).update(numbers)

    if crew == "here":
        run_here(plan, store, Told())
    else:
        crewed(plan, tmp_path / "home", Told())
    assert Told.waits == [first.key]
    assert "loss" in Told.numbers["sft"]
    assert {"loss", "accuracy"} <= Told.numbers["reward_model"]
    assert {"loss", "margin_nats"} <= Told.numbers["train"]


def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "logs").write_text("a file, where the folder would be")
    log = Log()
    log.add(b"said")
    log.keep(Store(tmp_path / "home"), "ab12cd34" * 8, None)
    assert (tmp_path / "home" / "logs").is_file()


def test_workers_beside_each_other_have_a_gpu_each_and_a_lone_one_sees_them_all(
    plan_of_bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    plan = plan_of_bad("seeing", {"method": "seeing", "label": "too", "config": {"learning_rate": 0.5}})
    asked = {key: replace(stage, resources={"cpus": 1, "gpus": 1}) for key, stage in plan.stages.items()}
    seen = {}
    for slots in (1, 2):
        home = tmp_path / f"home-{slots}"
        crewed(replace(plan, stages=asked), home, slots=slots)
        seen[slots] = {read_log(Store(home), str(cell.train)).split("GPU ")[1].split()[0] for cell in plan.cells}
    assert seen == {1: {"3,5"}, 2: {"3", "5"}}
