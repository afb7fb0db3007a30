"""What a run adds to its stages: 200 cells, each one stage of a plugin's that sleeps a second, two at a time.

    python benchmarks/reliability/scheduling.py            # about four minutes; --cells 20 is a quick look

The overhead is wall / (cells * 1 s / 2) - 1: the start of the engine, a fresh process for every stage, the store and
the records. A sleeping stage takes no CPU, so this can be measured beside other work, roughly. The control is the same
run with workers forked from a server that has imported nothing, a few cells of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
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


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--cells", type=int, default=200)
    cells = parser.parse_args().cells
    found = {"worker": measured("worker", cells)}
    if importlib.util.find_spec("ray"):
        found["ray"] = measured("ray", cells)
    control = measured("worker", CONTROL_CELLS, is_bare=True)
    is_met = max(found.values()) < TARGET <= control
    print(json.dumps({"name": "scheduling", "figure": max(found.values()), "target": f"< {TARGET}", "engines": found,
                      "control": control, "cells": cells, "workers": WORKERS, "ok": is_met}))  # fmt: skip
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
