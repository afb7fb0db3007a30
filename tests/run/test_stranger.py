"""A method that nobody here wrote: packaged, installed by pip, found, trained, scored and printed as any other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "acme-unlikelihood"
version = "0.4.2"
dependencies = ["alignbench"]

[project.entry-points.alignbench]
unlikelihood = "acme_unlikelihood"

[tool.setuptools]
py-modules = ["acme_unlikelihood"]
"""
METHOD = '''\
"""Raise what was chosen, lower what was rejected: the plainest preference method."""

from pydantic import PositiveFloat

import alignbench
from alignbench import AlignmentMethod, MethodConfig


class Unlikelihood(AlignmentMethod):
    name = "unlikelihood"
    summary = "a stranger's method"
    needs = frozenset({"preferences"})
    kl_knob = "alpha"

    class Config(MethodConfig):
        alpha: PositiveFloat = 0.5  # weight of the rejected side

    def train(self, trial, config):
        for pair in trial.preference_batches():
            chosen, rejected = (trial.logprobs(side).sum(-1) for side in (pair.chosen, pair.rejected))
            away = (1 - rejected.exp()).clamp_min(1e-6).log()
            trial.step(-(chosen + config.alpha * away).mean(), chosen_nats=chosen.mean())


@alignbench.hookimpl
def alignbench_methods():
    return [Unlikelihood]
'''


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which the distribution is installed, in a folder of its own."""
    pytest.importorskip("setuptools")
    source, site = tmp_path / "acme", tmp_path / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "acme_unlikelihood.py").write_text(METHOD)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(site), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    own = {"PYTHONPATH": str(site), "ALIGNBENCH_HOME": str(tmp_path / "home"), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own}


def test_a_strangers_method_is_listed_and_stands_in_the_table(suite_file, tmp_path: Path, environment) -> None:
    def alignbench(*arguments: str) -> str:
        command = [sys.executable, "-m", "alignbench.cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    listed = next(line for line in alignbench("plugins").splitlines() if "unlikelihood" in line)
    kind, name, needs, distribution, version, *summary = listed.split()
    assert (kind, name, needs) == ("method", "unlikelihood", "preferences")
    assert (distribution, version) == ("acme-unlikelihood", "0.4.2")
    assert " ".join(summary) == "a stranger's method"

    path = suite_file(["sft", {"method": "unlikelihood", "sweep": [0.5, 2]}])
    assert "unlikelihood" in alignbench("run", str(path))
    table = (tmp_path / "results" / "tiny" / "table.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:5]] == [
        "sft", "unlikelihood alpha=0.5", "unlikelihood alpha=2",
    ]  # fmt: skip
    csv = (tmp_path / "results" / "tiny" / "table.csv").read_text()
    assert csv.count("acme-unlikelihood,0.4.2") == 2
