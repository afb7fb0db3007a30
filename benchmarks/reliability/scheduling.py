"""What a run adds to its stages: 200 cells, each one stage of a plugin's that sleeps a second, two at a time.

A start that is paid once weighs less the more cells there are: 20 of them, the quick form, are no measure of 200.
The overhead is wall / (cells * 1 s / 2) - 1: the start of the engine, a fresh process for every stage, the store and
the records. A sleeping stage takes no CPU, so this can be measured beside other work, roughly. The control is the same
run with workers forked from a server that has imported nothing, a few cells of it.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.reliability.point import Control, Measured

if TYPE_CHECKING:
    from alignbench.run.command import Engine
    from alignbench.suite.plan import Plan

TARGET = 0.2
WORKERS = 2
NAP = 1.0  # seconds
CONTROL_CELLS = 6
PLUGIN = f"""
import json, time
import alignbench

class Napping(alignbench.AlignmentMethod):
    name, kl_knob = "napping", "number"
    class Config(alignbench.MethodConfig):
        number: int = 0
    def recipe(self, config, build):
        return alignbench.Inputs(start=build.stage("nap", nap, {{}}, number=config.number))

def nap(work):
    time.sleep({NAP})
    scores = {{"metrics": {{}}, "per_prompt": {{}}, "counts": {{}}, "context": {{}}}}
    (work.folder / "scores.json").write_text(json.dumps(scores))

@alignbench.hookimpl
def alignbench_methods():
    return [Napping]
"""
SUITE = """
model: oracle-llama
task: oracle
device: cpu
dtype: float32
comparisons: {source: human, pairs: 24}
evaluation: {prompts: 4, held_out_pairs: 4}
methods: [{method: napping, sweep: [%s]}]
"""


def plan_of_naps(folder: Path, cells: int) -> Plan:
    """A plan of `cells` cells with one stage each: what training and scoring take is not asked here."""
    from alignbench.planning.layout import make_plan
    from alignbench.plugins import load_catalog
    from alignbench.suite.spec import load_suite

    (folder / "napping_plugin.py").write_text(PLUGIN)
    sys.path.append(str(folder))
    (folder / "naps.yaml").write_text(SUITE % ", ".join(map(str, range(cells))))
    modules = ["napping_plugin"]
    plan = make_plan(load_suite(folder / "naps.yaml"), load_catalog(modules), modules)
    naps = {key: stage for key, stage in plan.stages.items() if stage.kind == "nap"}
    rows = [replace(cell, train=key, score=key, own=(key,)) for cell, key in zip(plan.cells, naps, strict=True)]
    return replace(plan, stages=naps, cells=tuple(rows))


def overhead(engine: Engine, cells: int, is_bare: bool) -> float:
    """Of one run in an empty store."""
    from rich.console import Console

    from alignbench.run import crew
    from alignbench.run.command import Limits, run_suite

    if is_bare:
        crew.PRELOAD = "alignbench.errors"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ALIGNBENCH_HOME"] = str(Path(folder, "home"))
        plan, began = plan_of_naps(Path(folder), cells), time.monotonic()
        outcome = run_suite(plan, Console(file=StringIO()), limits=Limits(slots=WORKERS), engine=engine)
        wall = time.monotonic() - began
        assert outcome.computed == cells, outcome.failures
    return wall / (cells * NAP / WORKERS) - 1


def measured(engine: Engine, cells: int, is_bare: bool = False) -> float:
    """In a process of its own: the server that workers are forked from is its process's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return round(pool.submit(overhead, engine, cells, is_bare).result(), 3)


def measure(is_quick: bool, folder: Path) -> Measured:
    cells = 20 if is_quick else 200
    found = {"worker": measured("worker", cells)}
    if importlib.util.find_spec("ray"):
        found["ray"] = measured("ray", cells)
    bare = measured("worker", CONTROL_CELLS, is_bare=True)
    beside = "" if "ray" in found else "; Ray is not installed, so not measured"
    return Measured(
        f"{cells} cells of {NAP:g} s, {WORKERS} at a time: "
        + ", ".join(f"{engine} {share:.0%}" for engine, share in found.items()) + f" over{beside}",
        f"under {TARGET:.0%} over, of 200 cells",
        all(share < TARGET for share in found.values()),
        Control(f"workers that import everything anew: {bare:.0%} over, of {CONTROL_CELLS} cells", bare >= TARGET),
    )  # fmt: skip
