"""Where things are kept, and how a Hub id is told from a path."""

from __future__ import annotations

import os
import re
from pathlib import Path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def home() -> Path:
    """$ALIGNBENCH_HOME, or ~/.cache/alignbench."""
    return Path(os.environ.get("ALIGNBENCH_HOME") or "~/.cache/alignbench").expanduser()


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form `owner/name`."""
    return HUB_ID.fullmatch(name) is not None
