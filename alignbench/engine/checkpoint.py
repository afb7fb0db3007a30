"""The state of a fit, kept between batches so that a killed stage goes on where it was, to the bit on a CPU.

    checkpoint.json            the commit point: numbers, generators, the tensors' file and one sha256 over both parts
    tensors.<hex>.safetensors  weights, optimiser, torch's generators

The tensors' file has another name each time, and the JSON that names it is replaced in one rename: a process killed at
any instant leaves the last checkpoint or the new one. The sum is over the stage's key too, so that no other's is taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

NAME = "checkpoint.json"


class Saved(NamedTuple):
    """A checkpoint as it was read, tensors on the CPU."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]  # JSON


class Checkpoints:
    """Where a fit keeps its state, and how often. Off without a folder, or with 0 seconds."""

    def __init__(
        self, folder: Path | None, seconds: float, clock: Callable[[], float] = time.monotonic, owner: str = ""
    ) -> None:
        """`owner`: whose state it is, the stage's key."""
        self._folder = folder
        self._owner = owner
        self._of = owner and f" of stage {owner[:12]}"
        self._seconds = seconds
        self._clock = clock
        self._last = clock()

    @property
    def is_on(self) -> bool:
        return self._folder is not None and self._seconds > 0

    def is_due(self) -> bool:
        return self.is_on and self._clock() - self._last >= self._seconds

    @cached_property
    def found(self) -> Saved | None:
        """What an earlier process left, every byte of it checked. One that cannot be read is said, and is None."""
        if not self.is_on:
            return None
        assert self._folder is not None
        try:
            return _read(self._folder, self._owner)
        except FileNotFoundError as error:
            if Path(error.filename or "").name == NAME:  # nothing was kept
                return None
            self.refuse("its tensors are missing")
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.refuse(" ".join(str(error).split()) or type(error).__name__)
        return None

    def let_go(self) -> None:
        """What was found is in place, and need not stay in memory."""
        self.__dict__["found"] = None

    def refuse(self, reason: str) -> None:
        """Say, in one line, why what was found is not used, and drop it."""
        assert self._folder is not None
        self.let_go()
        shutil.rmtree(self._folder, ignore_errors=True)
        _say(f"the checkpoint{self._of} cannot be used ({reason}); the stage begins anew")

    def save(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Keep a state and the global generators'. A disk that refuses is said: the fit is worth more than its copy."""
        assert self._folder is not None
        state, drawn = global_generators()
        try:
            _write(self._folder, self._owner, {**tensors, **state}, {**values, **drawn})
        except (OSError, SafetensorError) as error:  # the latter is how safetensors says that a disk is full
            for partial in self._folder.glob(".*"):
                with suppress(OSError):
                    partial.unlink()
            said = getattr(error, "strerror", None) or " ".join(str(error).split())
            _say(f"no checkpoint{self._of} was kept ({said}); the stage goes on")
        self._last = self._clock()


def _say(text: str) -> None:
    """As of this file, whoever called: `alignbench` shows its own warnings alone."""
    warnings.warn_explicit(text, UserWarning, __file__, 1, module=__name__)


def global_generators() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of Python's, numpy's and torch's global generators: tensors, and JSON values."""
    tensors = {"global.torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors["global.cuda"] = torch.cuda.get_rng_state()
    drawn: dict[str, Any] = dict(np.random.get_state(legacy=False))  # type: ignore[arg-type]
    key = drawn["state"]["key"].tolist()
    drawn = {**drawn, "state": {**drawn["state"], "key": key}}
    return tensors, {"global.python": random.getstate(), "global.numpy": drawn}


def set_global_generators(saved: Saved) -> None:
    torch.set_rng_state(saved.tensors["global.torch"])
    if "global.cuda" in saved.tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved.tensors["global.cuda"])
    random.setstate(python_state(saved.values["global.python"]))
    drawn = saved.values["global.numpy"]
    key = np.array(drawn["state"]["key"], dtype=np.uint32)
    np.random.set_state({**drawn, "state": {**drawn["state"], "key": key}})


def python_state(state: Any) -> tuple[Any, ...]:
    """A state of `random.Random` as JSON gave it back: lists where tuples were."""
    version, internal, gauss = state
    return version, tuple(internal), gauss


def _write(folder: Path, owner: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tensors.{uuid.uuid4().hex[:12]}.safetensors"
    # copies on the CPU: weights that share memory cannot stand in one file
    copies = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    _put(path, lambda partial: save_file(copies, partial))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    body = json.dumps(values)  # NaN is allowed: a method may log it, and nobody but this module reads the file
    head = json.dumps({"tensors": path.name, "sha256": _checksum(owner, path.name, digest, body)})
    _put(folder / NAME, lambda partial: partial.write_text(f"{head}\n{body}", encoding="utf-8"))
    for other in [*folder.glob("tensors.*"), *folder.glob(".*")]:
        if other != path:
            with suppress(OSError):
                other.unlink()


def _put(path: Path, write: Callable[[Path], Any]) -> None:
    """The file whole or not at all. Not by the store's writer: what the engine imports is in stages' keys."""
    partial = path.with_name(f".{path.name}")
    write(partial)
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(folder: Path, owner: str) -> Saved:
    """ValueError if a byte of it is not what was written."""
    head, _, body = (folder / NAME).read_text(encoding="utf-8").partition("\n")
    facts = json.loads(head)
    name = Path(facts["tensors"]).name
    data = (folder / name).read_bytes()
    if facts["sha256"] != _checksum(owner, name, hashlib.sha256(data).hexdigest(), body):
        raise ValueError("it is torn, altered or another stage's")
    return Saved(load(data), json.loads(body))


def _checksum(owner: str, name: str, tensors_digest: str, body: str) -> str:
    return hashlib.sha256(f"{owner}\n{name}\n{tensors_digest}\n{body}".encode()).hexdigest()
