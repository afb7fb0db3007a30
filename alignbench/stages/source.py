"""An unfitted reward source among a stage's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignbench.api import Config


class Source(Config):
    """An unfitted reward source, with all that its scores rest on."""

    name: str
    options: Mapping[str, Any]  # JSON values
    code: str  # digests
    digest: str
