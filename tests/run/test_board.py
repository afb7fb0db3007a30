"""What the terminal says of a cell when it ends."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from alignbench.run.board import Board


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"reward_gold": 0.5, "kl_nats_exact": 2.574}, "gold +0.50, KL 2.57 nats"),
        # four samples of the reference: log 4 - 3/4 at most, where the policy itself has not moved
        ({"reward_gold": 0.5, "kl_nats_exact": 0.0, "kl_nats_bound": 0.636}, "gold +0.50, KL <= 0.64 nats"),
        # from another policy than the reference the two do not add up
        ({"reward_gold": 0.5, "kl_nats_exact": 0.2, "kl_nats_bound": 0.636}, "gold +0.50, KL 0.20 + <= 0.64 nats"),
    ],
)
def test_a_bound_is_not_told_as_a_kl_of_zero(metrics, said):
    text = io.StringIO()
    board = Board(Console(file=text, width=200), SimpleNamespace(stages=[]))
    board.cell_ends(SimpleNamespace(label="row [1]", seed=3, metrics=metrics))
    assert text.getvalue().strip() == f"-> row [1] (seed 3): {said}"
