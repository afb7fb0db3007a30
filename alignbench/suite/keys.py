"""Content keys: a stage's key hashes everything that can change its bytes.

Hashed: kind, options, keys of the inputs; model and data digests; LoRA shape, device and dtype as asked for, and the
hardware they resolve on; the source of the harness's tensor code and of every plugin class involved; library versions.
Left out, because they change nothing but where and how output is shown: the suite's name, the rows' labels, the store's
folder.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import alignbench
from alignbench.suite.machine import hardware

FOREIGN = sys.stdlib_module_names | {"pydantic", "alignbench"}  # covered by versions and by `harness_source`
LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy")
TENSOR_ROOMS = (
    "api", "engine", "feedback", "tasks", "rl.py", "scoring/closed_form.py", "scoring/evaluate.py", "run/stages.py",
    "run/work.py",
)  # fmt: skip


def digest(value: Any) -> str:
    """sha256 of a JSON value, in hexadecimal; key order does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def environment(
    *, model: str, task: Mapping[str, Any], lora: Mapping[str, Any], device: str, dtype: str
) -> dict[str, Any]:
    """What every key of a plan shares. `model` is the model's digest, `task` its name, options and data digest."""
    return {
        "model": model,
        "task": dict(task),
        "lora": dict(lora),
        "device": device,
        "dtype": dtype,
        "hardware": hardware(),
        "code": harness_source(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


@lru_cache
def harness_source() -> str:
    root = Path(alignbench.__file__).parent
    files = sorted(
        f for room in TENSOR_ROOMS for f in ([root / room] if room.endswith(".py") else (root / room).rglob("*.py"))
    )
    return digest({str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files})


def class_source(cls: type) -> str:
    """Digest of the code that defines a plugin class and its ancestors: RLAIF's key changes when PPO's code does."""
    return module_source({ancestor.__module__ for ancestor in cls.__mro__})


def module_source(names: Iterable[str]) -> str:
    """Digest of modules by name: the file of a lone module, every file of the package a module belongs to."""
    files: set[Path] = set()
    for root in {name.split(".")[0] for name in names} - FOREIGN:
        module = sys.modules[root]
        if module.__file__ is not None:
            file = Path(module.__file__)
            files |= set(file.parent.rglob("*.py")) if hasattr(module, "__path__") else {file}
    return digest(sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files))
