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
import platform
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import alignbench

FOREIGN = sys.stdlib_module_names | {"pydantic"}  # ancestors whose source is covered by versions
LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy")
TENSOR_ROOMS = ("api.py", "engine", "feedback", "tasks", "scoring/evaluate.py", "run/stages.py", "run/work.py")


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
def hardware() -> str:
    """What `auto` depends on, read without torch: the machine's architecture, whether it has a GPU, AMX units."""
    has_gpu = any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/kfd")) or sys.platform == "darwin"
    try:
        has_amx = "amx_tile" in Path("/proc/cpuinfo").read_text()
    except OSError:
        has_amx = False
    return f"{platform.machine()}{' gpu' if has_gpu else ''}{' amx' if has_amx else ''}"


@lru_cache
def harness_source() -> str:
    root = Path(alignbench.__file__).parent
    files = sorted(
        f for room in TENSOR_ROOMS for f in ([root / room] if room.endswith(".py") else (root / room).rglob("*.py"))
    )
    return digest({str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files})


def class_source(cls: type) -> str:
    """Digest of the files that define a plugin class and its ancestors: RLAIF's key changes when PPO's code does."""
    names = {ancestor.__module__ for ancestor in cls.__mro__}
    files = {getattr(sys.modules.get(name), "__file__", None) for name in names if name.split(".")[0] not in FOREIGN}
    return module_source(file for file in files if file is not None)


def module_source(files: Iterable[str]) -> str:
    return digest(sorted(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files))
