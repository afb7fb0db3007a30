"""The quick form of the simulation holds, and each of its controls fails somewhere."""

from __future__ import annotations

import numpy as np

from benchmarks.statistics import MOST_FALSE, measured, worlds


def test_verdicts_keep_their_word_and_the_controls_do_not() -> None:
    lines = [measured(world, 60, np.random.default_rng(i)) for i, world in enumerate(worlds(is_quick=True))]
    assert np.mean([line.false for line in lines]) <= MOST_FALSE
    assert all(0.91 <= line.covered <= 1 for line in lines)
    assert all(line.power_sd == 1 for line in lines if line.world.replicates == 5)
    assert max(line.one_level for line in lines) > 0.12
    assert max(line.prompts_only for line in lines) > 0.5
