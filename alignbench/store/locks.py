"""Advisory locks on files and folders, held by one process and by no child of it."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_guard = threading.Lock()  # no fork between the opening of a descriptor and its entry in _held
_held: set[int] = set()


def _let_go() -> None:
    """A forked child has a copy of each descriptor, and would hold the lock for as long as it lives."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()
    _guard.release()


os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_let_go)


@contextmanager
def flocked(
    path: Path, operation: int, flags: int = os.O_RDONLY, waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """`waiting` is called once if somebody else holds the lock, before the wait begins."""
    with _guard:
        descriptor = os.open(path, flags, 0o666)
        _held.add(descriptor)
    try:
        if waiting is None:
            fcntl.flock(descriptor, operation)
        else:
            try:
                fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(descriptor, operation)
        yield
    finally:
        with _guard:
            if descriptor in _held:  # else this is a forked child, and the number may be another file's by now
                _held.remove(descriptor)
                os.close(descriptor)
