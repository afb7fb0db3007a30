"""The quick form of each promise holds, and its control fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reliability.__main__ import POINTS, measured
from benchmarks.reliability.spied import losses


@pytest.mark.parametrize("point", POINTS)
def test_the_promise_holds_and_its_control_fails(point: str) -> None:
    line = measured(point, is_quick=True)
    assert line["holds"], line["figure"]
    assert line["control"]["failed"], line["control"]["what"]


def test_repeated_work_is_counted_by_steps_and_from_the_last_checkpoint(tmp_path: Path) -> None:
    """By hand: steps 1 to 4, a checkpoint kept after the second at 0.5 s; the next attempt begins with the third."""
    killed = ["0 1 begin k", "0.1 1 may 0", "0.3 1 step 1", "0.4 1 step 2", "0.4 1 may 0", "0.5 1 kept 0"]
    killed += ["0.7 1 step 3", "0.8 1 may 0", "0.9 1 step 4"]
    for first, is_within in ((3, True), (2, False)):
        (tmp_path / "spy").write_text("\n".join([*killed, "2 2 begin k", f"3 2 step {first}"]))
        (lost,) = losses(tmp_path / "spy", 0.2)
        assert lost.steps == 5 - first
        assert lost.seconds == pytest.approx(0.4)
        assert lost.allowed_seconds == pytest.approx(0.2 + 0.4)
        assert lost.is_within is is_within
