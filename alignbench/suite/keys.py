"""Content keys: a stage's key hashes everything that can change its bytes.

Hashed: kind, options, keys of the inputs; model and data digests; LoRA shape, the device and dtype that `auto` comes
to, fast or plain kernels; the code of the harness and of every plugin class involved, with all it imports and its
package's data; library versions. Left out, because they change nothing but where and how output is shown: the suite's
name, the rows' labels, the store's folder, comments and docstrings, a package's tests, and where on the disk code and
data lie.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import alignbench
from alignbench.api import Config, RewardSource
from alignbench.suite import closure, code
from alignbench.suite.machine import resolved

TENSOR_ROOMS = (
    "api", "engine", "feedback", "tasks", "rl.py", "scoring/closed_form.py", "scoring/evaluate.py", "run/stages.py",
    "run/work.py",
)  # fmt: skip
# They lay out stages, whose options and inputs are hashed as such, and touch no tensor.
_PLANNING_FILES = ("build", "closure", "code", "keys", "kinds", "layout", "plan")
PLANNING = frozenset(
    {"alignbench.cli", "alignbench.plugins", *(f"alignbench.suite.{name}" for name in _PLANNING_FILES)}
)


def digest(value: Any) -> str:
    """sha256 of a JSON value, in hexadecimal; key order does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def environment(
    *, model: str, task: Mapping[str, Any], lora: Mapping[str, Any], device: str, dtype: str, kernels: str
) -> dict[str, Any]:
    """What every key of a plan shares. `model` is the model's digest, `task` its name, options and data digest."""
    device, dtype = resolved(device, dtype)
    return {
        "model": model,
        "task": dict(task),
        "lora": dict(lora),
        "device": device,
        "dtype": dtype,
        "kernels": kernels,
        "machine": platform.machine(),
        "code": harness_source(),
        "libraries": libraries(),
    }


def libraries() -> dict[str, str]:
    """Versions of Python and of every library that can change a number, by name."""
    versions = {name: importlib.metadata.version(name) for name in closure.LIBRARIES.values()}
    return {"python": platform.python_version(), **versions}


@lru_cache
def harness_source(modules: tuple[str, ...] = ()) -> str:
    """Digest of the harness's code that `modules` rest on, so that an edit redoes only the stages that run it.

    Without modules, of all code that can touch a tensor. A plugin's own class, also one that comes with alignbench, is
    in `class_source`: what a hook offers is not followed here.
    """
    if modules:
        return digest(closure.contents(modules, core_only=True, without=PLANNING))
    root = Path(alignbench.__file__).parent
    files = sorted(
        f for room in TENSOR_ROOMS for f in ([root / room] if room.endswith(".py") else (root / room).rglob("*.py"))
    )
    found = {str(f.relative_to(root)): code.facts(f).digest for f in files}
    code.save()
    return digest(found)


def class_source(cls: type) -> str:
    """Digest of the code behind a plugin class, its ancestors' too: RLAIF's key changes when PPO's code does."""
    return module_source({ancestor.__module__ for ancestor in cls.__mro__})


def module_source(names: Iterable[str]) -> str:
    """Digest of modules by name, with all they import and the data of their packages."""
    return digest(closure.contents(sorted(names), without=PLANNING))


def source_facts(cls: type[RewardSource], config: Config) -> dict[str, str]:
    """What a reward source rests on beside its options: its code, and what it reads."""
    return {"code": class_source(cls), "digest": cls(config).digest()}
