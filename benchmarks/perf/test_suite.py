"""What the harness adds and what it saves: a suite against its cells one by one, and a cell against its method."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.perf.sides import ROOT
from benchmarks.perf.suites import EVALUATION
from benchmarks.perf.table import Fact

KNOBS, SEEDS = [0.5, 1, 2], [0, 1, 2]
SHARED = ["sft", "labels", "reward_model"]  # by seeds: a full replicate has but gold in common with another
# The quickstart with every number that makes work cut to an eighth
PPO = {"learning_rate": 0.001, "num_ppo_epochs": 1, "rollout_batch_size": 32}
METHODS: list[dict[str, Any]] = [
    {"method": "ppo", "config": PPO, "sweep": KNOBS, "force": True},
    {"method": "dpo", "config": {"learning_rate": 0.001}, "sweep": KNOBS},
    {"method": "rlaif", "config": PPO, "sweep": KNOBS, "force": True},
    {"method": "constitutional", "config": {**PPO, "num_prompts": 5}, "sweep": KNOBS, "force": True},
]
EIGHTH = {
    "model": "smollm2-135m", "lora": {"r": 16, "alpha": 32, "layers": 10}, "max_steps": 4,
    "task": {
        "name": "sentiment",
        "options": {
            "rating": 150, "held_out": 30, "train": 100, "label": 50, "eval": 26, "prompt_words": 3,
            "max_new_tokens": 12, "max_completion_tokens": 20,
        },
    },
    "sft": {"max_steps": 2, "learning_rate": 0.001, "max_completion_length": 6},
    "comparisons": {"source": "panel", "pairs": 16, "human_pairs": 16}, "reward_model": {"layers": 20},
    "evaluation": {"prompts": 13, "held_out_pairs": 15},
}  # fmt: skip
# A cell of the real model that trains about 20 s on two cores; the supervised start and the pairs are there already
REAL = {
    "model": "smollm2-135m", "max_steps": 40, "lora": {"r": 16, "alpha": 32, "layers": 10}, "seeds": [0],
    "task": {
        "name": "sentiment",
        "options": {"rating": 300, "held_out": 60, "train": 100, "label": 100, "eval": 32, "max_new_tokens": 16},
    },
    "sft": {"max_steps": 2}, "comparisons": {"source": "human", "pairs": 128},
    "evaluation": {"prompts": 16, "held_out_pairs": 24, "bootstrap": 50},
}  # fmt: skip


def written(folder: Path, suites: Iterable[dict[str, Any]]) -> list[str]:
    paths = []
    for place, suite in enumerate(suites):
        paths.append(folder / f"suite{place}.yaml")
        paths[-1].write_text(json.dumps(suite))  # JSON is YAML
    return [str(path) for path in paths]


def walked(folder: Path, suites: list[str], is_shared: bool) -> dict[str, Any]:
    file = folder / f"walk-{is_shared}.json"
    file.write_text(json.dumps({"suites": suites, "is_shared": is_shared, "asked": time.time()}))
    command = [sys.executable, "-m", "benchmarks.perf.suites", str(file)]
    out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def test_sharing(benchmark: Any, tmp_path: Path, add: Callable) -> None:
    """36 cells as one suite, and one cell of each method in a suite of its own against an empty store, which stands for
    the nine of its method. Both in a process that has its imports behind it."""
    warm = {**EIGHTH, "methods": ["sft"]}
    whole = written(tmp_path, [warm, {**EIGHTH, "seeds": SEEDS, "share": SHARED, "methods": METHODS}])
    together = benchmark.pedantic(walked, args=(tmp_path, whole, False))
    cells = [{**EIGHTH, "seeds": SEEDS[:1], "methods": [{**method, "sweep": KNOBS[1:2]}]} for method in METHODS]
    (tmp_path / "alone").mkdir()
    alone = walked(tmp_path, written(tmp_path / "alone", [warm, *cells]), False)
    each, count = len(KNOBS) * len(SEEDS), len(KNOBS) * len(SEEDS) * len(METHODS)
    shared, apart = together["seconds"][-1], each * sum(alone["seconds"][1:])
    add(Fact(
        f"{count} cells (4 methods x 3 seeds x 3 knobs; the quickstart at an eighth: opening a suite weighs more): "
        f"{shared:.0f} s as one suite, {apart:.0f} s one by one, reckoned as {each} times one cell of each method, "
        f"ratio {shared / apart:.2f} (aim: <= 0.5, 0.35)."
    ))  # fmt: skip


def test_overhead(benchmark: Any, tmp_path: Path, add: Callable) -> None:
    """From the start of the process to its end, without the seconds inside the method's `train` and its evaluation. The
    libraries' own import, which any trainer waits for, is told beside it."""
    start = written(tmp_path, [{**REAL, "methods": ["sft"]}, {**REAL, "methods": ["sft", "dpo"]}])
    took = benchmark.pedantic(walked, args=(tmp_path, start, True))
    last = took["last"]
    evaluation = sum(seconds for kind, seconds in last.items() if kind in EVALUATION)
    overhead = took["starting"] + took["seconds"][-1] - took["trained"] - evaluation
    whole = overhead + took["libraries"]
    add(Fact(
        f"A DPO cell on the real model: {took['trained']:.1f} s inside `train`, {evaluation:.1f} s of evaluation, "
        f"{overhead:.1f} s of everything else, {overhead / (overhead + 60 + evaluation):.1%} if it trained for 60 s "
        f"(aim: <= 3 %, 1 %); with the import of torch, transformers and peft {whole:.1f} s, "
        f"{whole / (whole + 60 + evaluation):.1%}."
    ))  # fmt: skip
