"""A policy as it was at one place along its training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from alignbench.api import Config, Stage
from alignbench.stages.kind import SNAPSHOTS, Kind, Told
from alignbench.store import write_json

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class Snapshot(Kind):
    """Inputs: `of`, the training run; `start`, its start point."""

    name = "snapshot"
    view = "scoring"
    seconds = 0.01

    class Options(Config):
        step: int  # optimiser steps

    def make(self, work: HarnessWork) -> None:
        step = self.Options(**work.options).step
        shutil.copytree(work.place("of") / SNAPSHOTS / str(step), work.folder, dirs_exist_ok=True)
        write_json(work.folder / "policy.json", {"is_start": False})

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        name = f"{below['of'].made} at step {stage.options['step']}"
        return Told(name, 1, name)
