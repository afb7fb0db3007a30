"""What a stage printed, and the traceback it ended with: kept beside the store, bounded, shown by `alignbench log`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from alignbench.errors import UserError
from alignbench.run.failure import Failure
from alignbench.store import Store

HEAD = TAIL = 1 << 18  # bytes kept of a flood, from its two ends


class Log:
    """The beginning and the end of what a process printed."""

    def __init__(self) -> None:
        self._head, self._tail, self._lost = b"", b"", 0

    def add(self, text: bytes) -> None:
        room = HEAD - len(self._head)
        self._head += text[:room]
        self._tail += text[room:] if room < len(text) else b""
        if len(self._tail) > 2 * TAIL:
            self._lost += len(self._tail) - TAIL
            self._tail = self._tail[-TAIL:]

    def text(self) -> str:
        gap = f"\n[... {self._lost} bytes left out ...]\n" if self._lost else ""
        return self._head.decode("utf-8", "replace") + gap + self._tail.decode("utf-8", "replace")

    def keep(self, store: Store, key: str, failure: Failure | None) -> None:
        """Write it down if there is anything to read. A full or read-only disk must not end the run here."""
        text = self.text() + ("" if failure is None else f"\n{failure.traceback or failure.cause}\n")
        if text.strip():
            path = _place(store, key)
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                draft = path.with_name(f".{path.name}.{os.getpid()}")
                draft.write_text(text, encoding="utf-8", errors="replace")
                draft.replace(path)  # and never into what lies there, which may be a pipe that nobody reads


def read_log(store: Store, key: str) -> str:
    """The log of the stage whose key begins with `key`. UserError if there is none, or more than one."""
    found = sorted((store.root / "logs").glob(f"{key}*.log")) if key.isalnum() else []
    found = [path for path in found if path.is_file()]
    if len(found) != 1:
        problem = "no stage's log has" if not found else f"{len(found)} logs have"
        raise UserError(f"{problem} a key that begins with '{key}'; `alignbench plan SUITE` lists the keys")
    return found[0].read_text(encoding="utf-8")


def has_log(store: Store, key: str) -> bool:
    return _place(store, key).exists()


def traced(store: Store, failures: Mapping[str, Failure]) -> dict[str, str]:
    """Cause -> the key of the stage whose log has the traceback; its causes are inherited by what rests on it."""
    found: dict[str, str] = {}
    for key, failure in failures.items():
        if failure.traceback and failure.blame != "user" and has_log(store, key):
            found.setdefault(failure.cause, key)
    return found


def _place(store: Store, key: str) -> Path:
    return store.root / "logs" / f"{key}.log"
