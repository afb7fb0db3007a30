"""The process around a command: where its modules come from, and streams that cannot take what is printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import NoReturn

from rich.console import Console


def new_console() -> Console:
    """Of the standard output, 200 columns wide where that is a pipe, which has no width."""
    has_width = (sys.stdout is not None and sys.stdout.isatty()) or os.environ.get("COLUMNS")
    return Console(width=None if has_width else 200)


def leave_current_folder() -> None:
    """Python put the current folder first on the path (`python -m`, `python -c`): take it off. A `yaml.py` or a
    `queue.py` that lies there must not run. What PYTHONPATH names is the user's own wish, and stays."""
    if sys.path and not sys.flags.safe_path and sys.path[0] in ("", _here()):
        del sys.path[0]
    sys.path[:] = [entry for entry in sys.path if entry]


def add_current_folder() -> None:
    """For `--plugin`, whose module may lie beside the suite. At the end: what is installed comes first."""
    here = _here()
    if here not in sys.path:
        sys.path.append(here)


def _here() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # the folder was deleted
        return ""


def open_streams() -> None:
    """A closed stream gets the null device, under its own number so that no file can take it; a character that a
    stream's encoding lacks becomes '?'."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            _put_null_at(number)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="replace", closefd=False))
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def finish_streams() -> str | None:
    """Write out what is buffered. The problem if it cannot be: "" if the reader has gone, which is no error to tell.
    What is left is dropped, or Python would try again at its end and complain."""
    problem = None
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except BrokenPipeError:
            problem = problem or ""
            _put_null_at(number)
        except (OSError, ValueError) as error:  # such as a full disk; ValueError: closed meanwhile
            problem = problem or f"the output cannot be written: {getattr(error, 'strerror', None) or error}"
            _put_null_at(number)
    return problem


@contextmanager
def stdout_kept_for_data() -> Iterator[None]:
    """What plugins print meanwhile, their child processes too, goes to stderr: it would spoil the data to come."""
    stdout, kept = sys.stdout, os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        with suppress(OSError, ValueError):  # ValueError: closed meanwhile; `finish_streams` tells what matters
            stdout.flush()  # of whoever got hold of it before
        os.dup2(kept, 1)
        os.close(kept)


def refuse_to_vanish() -> None:
    """From here on `os._exit` raises RuntimeError in this process: plugins run in it, and one that ends it with 0 would
    pass for a success. A forked child may still leave that way."""
    process, leave = os.getpid(), os._exit

    def refuse(status: int) -> NoReturn:
        if os.getpid() == process:
            raise RuntimeError(f"it called os._exit({status!r}); return from the function instead")
        leave(status)

    os._exit = refuse


def _put_null_at(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
