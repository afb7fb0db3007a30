"""Where things are kept, and how a Hub id is told from a path."""

from __future__ import annotations

import os
import re
from pathlib import Path

from alignbench.errors import UserError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def home() -> Path:
    """$ALIGNBENCH_HOME, or ~/.cache/alignbench. Absolute: a plugin may change the folder it counts from."""
    return expanded(os.environ.get("ALIGNBENCH_HOME") or "~/.cache/alignbench").absolute()


def expanded(path: str) -> Path:
    """With `~` written out. UserError if nobody knows where that is, as for a user without a home."""
    try:
        if path.startswith("~/") and os.environ.get("HOME") == "":  # it would be the root of the disk
            raise RuntimeError
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path}: there is no such home folder; set HOME, or ALIGNBENCH_HOME to a folder of yours"
        ) from None


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form `owner/name`."""
    return HUB_ID.fullmatch(name) is not None
