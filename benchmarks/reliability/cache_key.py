"""What can change a stage's bytes moves its key; what cannot moves none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.reliability.cache_rot import flip
from benchmarks.reliability.point import Control, Measured
from benchmarks.reliability.runs import ORACLE, Bench

# Each change to the suite, a stage that must move, and one that must not (None: all move). Stages by their titles.
SFT, RM, DPO, PPO = "sft", "reward model on human comparisons", "train dpo, seed 0", "train ppo, seed 0"
GOLD, SCORE = "gold", "score of sft"
FIELDS: list[tuple[tuple[str, ...], Any, str, str | None]] = [
    (("max_steps",), 5, DPO, SFT),
    (("data_seed",), 1, SFT, None),
    (("seeds",), [1], SFT, GOLD),
    (("temperature",), 0.7, DPO, SFT),
    (("dtype",), "bfloat16", SFT, None),
    (("model",), "oracle-gpt2", SFT, None),
    (("lora", "r"), 2, SFT, None),
    (("lora", "alpha"), 4, SFT, None),
    (("lora", "dropout"), 0.1, SFT, None),
    (("lora", "target_modules"), ["q_proj"], SFT, None),
    (("lora", "layers"), 1, SFT, None),
    (("task", "options", "reward_seed"), 1, SFT, None),
    (("task", "options", "label"), 21, SFT, None),
    *((("sft", name), value, SFT, GOLD) for name, value in (
        ("max_steps", 3), ("learning_rate", 0.1), ("per_device_train_batch_size", 2), ("weight_decay", 0.1),
        ("gradient_accumulation_steps", 2), ("max_grad_norm", 0.5), ("lr_scheduler_type", "constant"),
        ("warmup_steps", 1), ("max_completion_length", 1),
    )),
    (("comparisons", "pairs"), 23, RM, SFT),
    (("comparisons", "source"), "length", RM, SFT),
    *((("reward_model", name), value, RM, SFT) for name, value in (
        ("num_train_epochs", 2), ("layers", 1), ("pooling", "last"), ("head_learning_rate", 0.1),
        ("learning_rate", 0.1), ("per_device_train_batch_size", 2), ("weight_decay", 0.1), ("max_grad_norm", 0.5),
        ("gradient_accumulation_steps", 2), ("lr_scheduler_type", "constant"), ("warmup_steps", 1),
        ("loss", "listwise"),
    )),
    (("evaluation", "prompts"), 5, SCORE, DPO),
    (("evaluation", "held_out_pairs"), 11, "reward card on " + RM, DPO),
    (("evaluation", "batch_size"), 2, SCORE, DPO),
    (("evaluation", "samples_per_prompt"), 3, "score of dpo", SCORE),
    (("evaluation", "start_samples_per_prompt"), 3, SCORE, DPO),
    (("methods",), ["sft", {"method": "dpo", "config": {"beta": 0.2}}, "ppo"], DPO, PPO),
]  # fmt: skip
NEUTRAL: list[tuple[tuple[str, ...], Any]] = [
    (("name",), "other"), (("checkpoint_seconds",), 1), (("evaluation", "bootstrap"), 51),
    (("evaluation", "delta"), 0.3), (("share",), ["sft"]),  # of one replicate, whose seed is data_seed
    (("evaluation", "confidence"), 0.9), (("methods",), ["sft", {"method": "dpo", "label": "mine"}, "ppo"]),
]  # fmt: skip
ROWS = {**ORACLE, "methods": ["sft", "dpo", "ppo"]}
MINE = '''
"""A method."""
import alignbench
from zz_mine.loss import loss
class Mine(alignbench.AlignmentMethod):
    name, needs = "mine", frozenset({"preferences"})
    def train(self, trial, config):
        for pair in trial.preference_batches():
            trial.step(loss(trial.logprobs(pair.chosen).sum(-1)).mean())
@alignbench.hookimpl
def alignbench_methods(): return [Mine]
'''
LOSS = '"""A loss."""\ndef loss(x):\n    return -x  # falls\n'


def measure(is_quick: bool, folder: Path) -> Measured:
    base, wrong = _keys(ROWS), []
    for path, value, moved, kept in FIELDS:
        seen = _keys(_changed(path, value))
        if base[moved] in seen.values() or (kept and seen[kept] != base[kept]):
            wrong.append(".".join(path))
        if kept is None and set(base.values()) & set(seen.values()):
            wrong.append(f"{'.'.join(path)} leaves some")
    for path, value in NEUTRAL:
        if set(_keys(_changed(path, value)).values()) != set(base.values()):
            wrong.append(f"{'.'.join(path)} moves")
    files, astray = _of_files(folder / "files")
    count = len(FIELDS) + len(NEUTRAL) + files
    _, blind = _of_files(folder / "control", "same-source")
    return Measured(
        f"{count - len(wrong) - len(astray)} of {count} changes ({len(FIELDS)} of the suite that count, "
        f"{len(NEUTRAL)} that do not, {files} of files, data, model and libraries)"
        + "".join(f"; {one}" for one in [*wrong, *astray]),
        "keys move where bytes can, and nowhere else",
        not wrong and not astray,
        Control(f"a key that leaves a plugin's code out misses {', '.join(blind) or 'nothing'}", bool(blind)),
    )


def _changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    suite: dict[str, Any] = json.loads(json.dumps(ROWS))
    at = suite
    for name in path[:-1]:
        at = at.setdefault(name, {})
    at[path[-1]] = value
    return suite


def _keys(suite: Mapping[str, Any]) -> dict[str, str]:
    """Keys by the stages' titles."""
    from alignbench.planning.layout import make_plan
    from alignbench.plugins import load_catalog
    from alignbench.suite.spec import Suite

    plan = make_plan(Suite.model_validate({"name": "suite", **suite}), load_catalog())
    return {stage.title: key for key, stage in plan.stages.items()}


def _of_files(folder: Path, *plant: str) -> tuple[int, list[str]]:
    """Changes of files, each seen by a process of its own: how many, and which were not taken as they should be."""
    package = folder / "site" / "zz_mine"
    (package / "tests").mkdir(parents=True)
    for name, text in (("__init__.py", MINE), ("loss.py", LOSS), ("words.txt", "good"), ("tests/test_x.py", "x = 1")):
        (package / name).write_text(text)
    _make_inputs(folder)
    task = {"name": "hh", "options": {"source": str(folder / "pairs.jsonl")}}
    small = {"comparisons": {"source": "human", "pairs": 12}, "evaluation": {"prompts": 4, "held_out_pairs": 4}}
    suite = {**ORACLE, "model": str(folder / "model"), "task": task, **small, "methods": ["sft", "mine"]}
    bench = Bench(folder, suite, plant=plant, path=[folder / "site"])
    base, wrong = _planned(bench), []
    for name, change, moved, kept in _CHANGES:
        saved = folder / "saved"
        shutil.copytree(folder / "site", saved / "site")
        for other in ("model", "pairs.jsonl"):
            (shutil.copytree if (folder / other).is_dir() else shutil.copy)(folder / other, saved / other)
        change(folder)
        seen = _planned(bench)
        is_right = (seen[moved] != base[moved]) if moved else seen == base
        if not is_right or (kept and seen[kept] != base[kept]):
            wrong.append(name)
        for other in ("site", "model"):
            shutil.rmtree(folder / other)
            shutil.move(saved / other, folder / other)
        shutil.move(saved / "pairs.jsonl", folder / "pairs.jsonl")
        shutil.rmtree(saved)
    return len(_CHANGES), wrong


def _make_inputs(folder: Path) -> None:
    from alignbench.assets.toys import build_toy

    (folder / "model").mkdir()
    build_toy("oracle-llama", folder / "model")
    rows = [{"prompt": f"\n\nHuman: {i} abc?\n\nAssistant:", "chosen": f" a{i}", "rejected": " b"} for i in range(80)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _planned(bench: Bench) -> dict[str, str]:
    done = bench.run("plan", "suite.yaml", "--plugin", "zz_mine", "--json")
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return {stage["title"]: stage["key"] for stage in json.loads(done.stdout)["stages"]}


def _edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def _other_version(folder: Path) -> None:
    info = folder / "site" / "peft-99.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 99\n")


TRAIN = "train mine, seed 0"
_PACKAGE = "site/zz_mine"
_CHANGES: list[tuple[str, Callable[[Path], None], str | None, str | None]] = [
    ("the plugin's file", _edit(f"{_PACKAGE}/__init__.py", ".sum(-1)", ".mean(-1)"), TRAIN, SFT),
    ("a helper module", _edit(f"{_PACKAGE}/loss.py", "-x", "+x"), TRAIN, SFT),
    ("the plugin's data", _edit(f"{_PACKAGE}/words.txt", "good", "gold"), TRAIN, SFT),
    ("a byte of the data", _edit("pairs.jsonl", " a7", " a8"), SFT, None),
    ("a byte of the model", lambda folder: flip(folder / "model" / "model.safetensors"), SFT, None),
    ("a library's version", _other_version, SFT, None),
    ("a comment", _edit(f"{_PACKAGE}/loss.py", "falls", "it falls"), None, None),
    ("a docstring", _edit(f"{_PACKAGE}/loss.py", "A loss.", "One loss."), None, None),
    ("the plugin's tests", _edit(f"{_PACKAGE}/tests/test_x.py", "1", "2"), None, None),
]  # fmt: skip
