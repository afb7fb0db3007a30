"""Dollars for what a stage spent, from a price file of the reader's own. No part of what is computed.

    device_hour: {"*H100*": 2.99}   # dollars an hour of the device whose name fits the pattern; the first that fits
    cpu_core_hour: 0.05             # an hour of CPU time, on processors that no pattern fits
    human_label: 0.10
    ai_tokens_million: 0.15         # read by a judge that is paid by the token; leave it out for one that runs here

A quantity that was spent and has no price leaves the sum unknown, but for tokens: a judge that runs here is paid for by
its device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from pydantic import NonNegativeFloat

from alignbench.api import Config
from alignbench.suite.source import opening, read, validated

HOUR, MILLION = 3600, 1_000_000


class PriceList(Config):
    """Dollars a unit."""

    device_hour: Mapping[str, NonNegativeFloat] = {}
    cpu_core_hour: NonNegativeFloat | None = None
    human_label: NonNegativeFloat | None = None
    ai_tokens_million: NonNegativeFloat = 0.0


class Prices(NamedTuple):
    list: PriceList
    name: str  # of the file
    sha256: str

    @property
    def source(self) -> dict[str, str]:
        return {"name": self.name, "sha256": self.sha256}

    def dollars(self, cost: Mapping[str, float], device: str) -> float | None:
        """Of one stage's cost, as its meter read it. None where something it spent has no price."""
        computed = self._computed(cost, device)
        labels = cost.get("labels_human", 0) * (self.list.human_label or 0.0)
        if computed is None or (cost.get("labels_human") and self.list.human_label is None):
            return None
        tokens = cost.get("tokens_judged", 0) if cost.get("labels_ai") else 0
        return computed + labels + tokens / MILLION * self.list.ai_tokens_million

    def _computed(self, cost: Mapping[str, float], device: str) -> float | None:
        hourly = self.list.device_hour.items()
        by_hour = next((price for name, price in hourly if fnmatchcase(device.lower(), name.lower())), None)
        if by_hour is not None:
            return cost["seconds"] / HOUR * by_hour
        by_core = self.list.cpu_core_hour if device.startswith("cpu") else None
        return None if by_core is None or "cpu_seconds" not in cost else cost["cpu_seconds"] / HOUR * by_core


def load_prices(path: Path) -> Prices:
    """UserError, in one line, for a file that is no price list."""
    data, source = read(path, "a file of prices", "`cpu_core_hour: 0.05`")
    found = validated(PriceList, data, lambda loc: opening(source.where(loc), loc))
    return Prices(found, path.name, hashlib.sha256(path.read_bytes()).hexdigest())
