"""A record says where it comes from, leaks nothing, and tells a row that did not train from one that did."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import alignbench
from alignbench.planning import keys
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.report.notes import remarks
from alignbench.run import provenance
from alignbench.run.here import run_here
from alignbench.run.provenance import command, commit, near, scrubbed
from alignbench.scoring.record import Record, read_records, write_records
from alignbench.store import Store
from alignbench.suite.plan import Plan, plan_of
from alignbench.suite.spec import Suite, load_suite

PLUGIN = """
import alignbench

class Whole(alignbench.AlignmentMethod):
    name, needs = "whole", frozenset({"preferences"})
    last = 99
    def train(self, trial, config):
        for pair in trial.preference_batches():
            trial.step(-trial.logprobs(pair.chosen).sum(-1).mean())
            if trial.budget.used == self.last:
                return

class Half(Whole):
    name, last = "half", 1

class Idle(alignbench.AlignmentMethod):
    name = "idle"
    def train(self, trial, config):
        return

class Still(Whole):
    name = "still"
    def train(self, trial, config):
        for pair in trial.preference_batches():
            trial.step(0 * trial.logprobs(pair.chosen).sum())

@alignbench.hookimpl
def alignbench_methods():
    return [Whole, Half, Idle, Still]
"""
METHODS = ["sft", "whole", "half", "idle", "still"]


def plan_for(path: Path, *modules: str) -> Plan:
    return make_plan(load_suite(path), load_catalog(modules), modules)


@pytest.fixture
def records(suite_file, tmp_path: Path, monkeypatch) -> dict[str, Record]:
    """One record of each method, computed twice: what is told must survive reuse."""
    (tmp_path / "truants.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    plan, store = plan_for(suite_file(METHODS), "truants"), Store(tmp_path / "home")
    first = run_here(plan, store, is_strict=True)
    again = run_here(plan, store)
    assert again.computed == 0
    assert again.records == first.records
    return {record.label: record for record in again.records}


def test_a_record_tells_its_provenance_and_whether_it_trained(records: dict[str, Record], tmp_path: Path) -> None:
    assert remarks(list(records.values())) == [
        "half, seed 0: 1 of 3 optimiser steps were used",
        "idle, seed 0: 0 of 3 optimiser steps were used; the adapter did not move from its start",
        "still, seed 0: the adapter did not move from its start",
    ]
    start, whole = records["sft"], records["whole"]
    assert start.training is None
    assert start.train_key is None
    assert whole.training is not None
    assert (whole.training.steps, whole.training.moved) == (3, True)

    said = whole.provenance
    assert said is not None
    assert said.alignbench == alignbench.__version__
    assert said.suite_text == (tmp_path / "tiny.yaml").read_text()
    assert said.suite_sha256 == hashlib.sha256((tmp_path / "tiny.yaml").read_bytes()).hexdigest()
    assert said.libraries == keys.libraries()
    assert len(said.model) == len(said.data) == 64
    assert [(plugin.name, len(plugin.code)) for plugin in said.plugins] == [("module truants", 64)]
    assert "module truants" not in {plugin.name for plugin in start.provenance.plugins}  # type: ignore[union-attr]
    by_key = {stage.key: stage for stage in said.run.stages}
    assert by_key[whole.key].kind == "score"
    assert by_key[whole.key].when == said.run.when
    trained = by_key[str(whole.train_key)]
    assert trained.kind == "train"
    assert trained.threads == "1"
    assert trained.cpu_seconds == whole.cost.marginal.cpu_seconds > 0  # type: ignore[operator]

    write_records(tmp_path / "records.jsonl", records.values())
    assert read_records(tmp_path / "records.jsonl") == list(records.values())
    written = (tmp_path / "records.jsonl").read_text()
    assert str(Path.home()) + "/" not in written
    assert str(tmp_path / "home") not in written
    json.loads(written.splitlines()[0], parse_constant=lambda name: pytest.fail(name))


def test_a_plan_keeps_its_digests_and_a_suite_made_in_python_its_canonical_text(suite_file) -> None:
    plan = plan_for(suite_file(["sft"]))
    again = plan_of(json.loads(json.dumps(plan.to_dict())), plan.catalog, plan.task)
    assert again.digests == plan.digests
    assert again.digests.keys() == {"model", "data"}
    assert Suite.model_validate(json.loads(again.suite.text)) == plan.suite


# ------------------------------------------------------------------------------------------------------------ leaks


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        (["/opt/env/bin/alignbench", "run", "quick"], "alignbench run quick"),
        (["alignbench", "run", "--hf-token", "hf_abc", "q"], "alignbench run --hf-token '***' q"),
        (["alignbench", "--api_key=hf_abc"], "alignbench '--api_key=***'"),
        (["alignbench", "HF_TOKEN=hf_abc"], "alignbench 'HF_TOKEN=***'"),
        (["alignbench", "--password", "-x"], "alignbench --password '***'"),
        (["alignbench", "--at", "https://me:p@ss@host/x"], "alignbench --at 'https://***@host/x'"),
        (["alignbench", "--at=https://h/x?token=abc&n=1"], "alignbench '--at=https://h/x?token=***&n=1'"),
        (["alignbench", "--results", "/somewhere/else/out"], "alignbench --results out"),
        (["alignbench", "--results=/somewhere/else/out"], "alignbench --results=out"),
        (["alignbench", "--results", "../../me/out"], "alignbench --results out"),
        (["alignbench", "run", "~/suites/q.yaml"], "alignbench run q.yaml"),
        ([], ""),
    ],
)
def test_a_command_is_kept_without_secrets_and_folders(argv: list[str], kept: str) -> None:
    assert command(argv) == kept


def test_a_path_below_the_current_folder_stays_relative(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "suites").mkdir()
    monkeypatch.chdir(tmp_path)
    assert near(str(tmp_path / "suites" / "q.yaml")) == "suites/q.yaml"
    assert near("suites/q.yaml") == "suites/q.yaml"
    assert near("owner/model") == "owner/model"


def test_home_and_cache_are_named_and_their_neighbours_left(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/people/ann")
    monkeypatch.setenv("ALIGNBENCH_HOME", "/people/ann/cache")
    text = {"a": ["in /people/ann/cache/stages", "/people/ann", "/people/anna/x", 1.5, None]}
    assert scrubbed(text) == {"a": ["in $ALIGNBENCH_HOME/stages", "~", "/people/anna/x", 1.5, None]}


def test_a_home_at_the_root_replaces_nothing(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setenv("ALIGNBENCH_HOME", "/c")
    assert scrubbed("a/b /x") == "a/b /x"


# -------------------------------------------------------------------------------------------------------------- git


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    done = subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    commit.cache_clear()
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "-q")
    (root / "code.py").write_text("x = 1\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    return root


def asked(root: Path) -> str | None:
    commit.cache_clear()
    return commit(root)


def test_a_commit_is_named_and_so_are_changes_but_not_results(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert asked(checkout) == head
    (checkout / "results").mkdir()
    (checkout / "results" / "table.md").write_text("a run wrote it")
    assert asked(checkout) == head
    (checkout / "code.py").write_text("x = 2\n")
    assert asked(checkout) == f"{head} + changes"


def test_without_a_checkout_of_its_own_there_is_no_commit(checkout: Path) -> None:
    (checkout / "env").mkdir()
    assert asked(checkout / "env") is None  # packages of an environment inside somebody's repository


def test_without_git_or_with_one_that_hangs_there_is_no_commit(checkout: Path, tmp_path: Path, monkeypatch) -> None:
    tools: Any = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    assert asked(checkout) is None
    (tools / "git").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tools / "git").chmod(0o755)
    monkeypatch.setattr(provenance, "PATIENCE", 0.2)
    assert asked(checkout) is None


def test_a_repositorys_own_settings_run_no_program(checkout: Path, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    git(checkout, "config", "core.fsmonitor", str(hook))
    asked(checkout)
    assert not (tmp_path / "ran").exists()
    git(checkout, "status")  # the control
    assert (tmp_path / "ran").exists()
