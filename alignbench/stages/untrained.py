"""The start point as a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from alignbench.api import Config, Stage
from alignbench.stages.kind import Kind, Told
from alignbench.store import write_json

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class Untrained(Kind):
    """Input: `start`; without it, the base model."""

    name = "untrained"
    seconds = 0.01

    class Options(Config):
        seed: int

    def make(self, work: HarnessWork) -> None:
        write_json(work.folder / "policy.json", {"is_start": True})

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        return Told("start point as a policy", 1, "the start point")
