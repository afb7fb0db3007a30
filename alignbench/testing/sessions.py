"""Labs and the store they share, for as long as they may be looked at again.

`session()` gives a fresh store and fresh labs, for whoever alters the code in between.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignbench.plugins import Catalog, Plugin
from alignbench.store import Store
from alignbench.testing.kit import Subject
from alignbench.testing.labs import HarnessLab, SourceLab
from alignbench.testing.trials import MethodLab

Lab = MethodLab | SourceLab | HarnessLab


class Session:
    """A store in a temporary folder, and the labs that share it."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.labs: dict[tuple[str, Plugin[Any] | None, str], Lab] = {}


_sessions: list[Session] = []  # the last one is open
_first_folder: list[tempfile.TemporaryDirectory[str]] = []  # kept here, it goes when the process ends


def lab_for(subject: Subject, plugin: Plugin[Any] | None, catalog: Catalog, shape: str | None) -> Lab:
    """The lab of a plugin on a model, the same one for every check of a session."""
    if not _sessions:
        _first_folder.append(tempfile.TemporaryDirectory(prefix="alignbench-checks-"))
        _sessions.append(Session(Path(_first_folder[-1].name)))
    current, model = _sessions[-1], shape or ""
    key = (subject, plugin, model)
    if key not in current.labs:
        if plugin is None:
            current.labs[key] = HarnessLab(catalog, model, current.store)
        else:
            make = MethodLab if plugin.kind == "method" else SourceLab
            current.labs[key] = make(plugin, catalog, model, current.store)
    return current.labs[key]


@contextmanager
def session() -> Iterator[None]:
    """Labs and a store of one's own inside the block: nothing made by other code is looked at."""
    with tempfile.TemporaryDirectory(prefix="alignbench-checks-") as folder:
        _sessions.append(Session(Path(folder)))
        try:
            yield
        finally:
            _sessions.pop()
