"""Content keys: a stage's key hashes everything that can change its bytes.

Hashed: kind, options, keys of the inputs; model and data digests; LoRA shape, the device and dtype that `auto` comes
to, fast or plain kernels; the code of the harness and of every plugin class involved, with all it imports and its
package's data; library versions. Left out, because they change nothing but where and how output is shown: the suite's
name, the rows' labels, the store's folder, comments, docstrings that no code reads, a package's tests, and where on the
disk code and data lie.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping
from typing import Any

from alignbench.api import Config, RewardSource
from alignbench.planning import closure
from alignbench.suite.machine import resolved

# What no stage's code is followed into: it says what is to be computed, which the key holds as values, or keeps it.
ASIDE = ("alignbench.cli", "alignbench.planning", "alignbench.plugins", "alignbench.store", "alignbench.suite")
# Of a task's code, what reads its data does not run these; its gold reward does, and is a stage of its own.
NOT_DATA = (*ASIDE, "alignbench.engine", "alignbench.feedback", "alignbench.scoring", "alignbench.stages")


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
        "libraries": libraries(),
    }


def libraries() -> dict[str, str]:
    """Versions of Python and of every library that can change a number, by name."""
    versions = {name: importlib.metadata.version(name) for name in closure.LIBRARIES.values()}
    return {"python": platform.python_version(), **versions}


def stage_source(kind: type | None) -> str:
    """Digest of the harness's code behind a kind of stage, or behind a plugin's own: what it imports to be made.

    Plugins' classes, also those that come with alignbench, are in `class_source`: what a hook offers is not followed.
    """
    modules = ["alignbench.stages.work", *([] if kind is None else [kind.__module__])]
    return digest(closure.contents(modules, core_only=True, without=ASIDE))


def class_source(cls: type) -> str:
    """Digest of the code behind a plugin class, its ancestors' too: RLAIF's key changes when PPO's code does."""
    return module_source({ancestor.__module__ for ancestor in cls.__mro__})


def task_source(cls: type) -> str:
    """Digest of the code that makes a task's prompts, demonstrations and pairs."""
    return digest(closure.contents(sorted({ancestor.__module__ for ancestor in cls.__mro__}), without=NOT_DATA))


def module_source(names: Iterable[str]) -> str:
    """Digest of modules by name, with all they import and the data of their packages."""
    return digest(closure.contents(sorted(names), without=ASIDE))


def source_facts(cls: type[RewardSource], config: Config) -> dict[str, str]:
    """What a reward source rests on beside its options: its code, and what it reads."""
    return {"code": class_source(cls), "digest": cls(config).digest()}
