"""A fit that is stopped at a checkpoint, as a kill would stop it, and one that goes on from there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from alignbench.engine.checkpoint import Checkpoints


class Stopped(BaseException):  # no code under test may catch it with its own errors
    """The fit has come to where it was to be stopped."""


class Stopping(Checkpoints):
    """Keeps a state wherever one may be kept, and stops the fit after the `at`-th; 0: never."""

    def __init__(self, folder: Path, at: int) -> None:
        super().__init__(folder, 1)
        self.at, self.kept = at, 0

    def is_due(self) -> bool:
        return True

    def save(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        super().save(tensors, values)
        self.kept += 1
        if self.kept == self.at:
            raise Stopped


class Resuming(Checkpoints):
    """Reads what was kept, and keeps nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 1)

    def is_due(self) -> bool:
        return False
