"""Which paths are written while a block runs.

Python reports its own calls to an audit hook. Two writers open their files in Rust and C++, unseen by it: safetensors
and torch.save. Their last Python function is wrapped, which sees them however a plugin imported them. Other native
writers (Arrow's, SQLite's) are not seen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import safetensors.numpy
import safetensors.torch
import torch.serialization

DESTINATION = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1}  # audit event -> argument that is written
NATIVE = (  # module, function, place of the path among its arguments
    (safetensors.torch, "serialize_file", 1),
    (safetensors.numpy, "serialize_file", 1),
    (torch.serialization, "_open_zipfile_writer", 0),
)
SKIPPED = ("/dev/", "/proc/", "/sys/")

_listeners: list[list[str]] = []  # an audit hook cannot be taken off again; the last one listens
_hooked: list[bool] = []


@contextmanager
def watching_writes(seen: list[str]) -> Iterator[None]:
    """`seen` receives the paths; caches of code and of devices are left out."""
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)
    _listeners.append([])
    try:
        with ExitStack() as stack:
            for module, name, place in NATIVE:
                stack.enter_context(_noting(module, name, place))
            yield
    finally:
        seen += [p for p in _listeners.pop() if not p.startswith(SKIPPED) and "__pycache__" not in p]


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _listeners:
        return
    if event == "open":
        mode, flags = args[1], args[2]
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if mode is None else bool(set(mode) & set("wax+"))
        if writes:
            _note(args[0])
    elif event in DESTINATION:
        _note(args[DESTINATION[event]])


def _note(path: Any) -> None:
    if isinstance(path, str | bytes | os.PathLike):  # and no file descriptor or buffer
        _listeners[-1].append(os.fsdecode(path))


@contextmanager
def _noting(module: Any, name: str, place: int) -> Iterator[None]:
    """Inside the block a call of `module.name` notes the path it is given."""
    original = getattr(module, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        _note(args[place])
        return original(*args, **kwargs)

    setattr(module, name, call)
    try:
        yield
    finally:
        setattr(module, name, original)
