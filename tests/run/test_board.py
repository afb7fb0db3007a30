"""What the terminal says of a cell when it ends."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from alignbench.run import board
from alignbench.run.board import Board, in_words


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
    board = Board(Console(file=text, width=200), SimpleNamespace(stages={}))
    board.cell_ends(SimpleNamespace(label="row [1]", seed=3, metrics=metrics, snapshot=None))
    assert text.getvalue().strip() == f"-> row [1] (seed 3): {said}"


def stage(key: str, estimate: float) -> SimpleNamespace:
    return SimpleNamespace(key=key, title=f"train {key}", estimate=estimate)


def test_a_log_file_is_told_how_far_a_long_stage_is_and_how_it_does(monkeypatch):
    text, one = io.StringIO(), stage("a", 10.0)
    monkeypatch.setattr(board, "QUIET", 0.0)
    shown = Board(Console(file=text, width=200), SimpleNamespace(stages={"a": one}))
    shown.stage_begins(one)
    shown.stage_advances(one, 3, 48, {"entropy": 1.0, "kl_nats_k1": 1.0345, "loss": 0.693147})
    shown.stage_waits(one)
    first, second = text.getvalue().splitlines()
    assert first.strip() == "train a: 3 of 48, loss 0.6931, kl_nats_k1 1.034"
    assert second.strip() == "another run is computing train a; waiting for it"


def test_the_time_left_is_what_is_foreseen_at_the_pace_so_far():
    stages = {key: stage(key, seconds) for key, seconds in (("a", 10.0), ("b", 30.0), ("c", 50.0))}
    shown = Board(Console(file=io.StringIO()), SimpleNamespace(stages=stages))
    whole = shown._bars.tasks[0]
    shown.stage_ends(stages["b"], 0.0, True, None)  # cached: says nothing of the pace
    assert whole.fields["told"] == "about 60 s left"
    shown.stage_ends(stages["a"], 20.0, False, None)  # twice what was foreseen
    assert whole.fields["told"] == "about 100 s left"
    shown.stage_begins(stages["c"])
    shown.stage_advances(stages["c"], 3, 4, {})
    assert whole.fields["told"] == "about 25 s left"
    shown.stage_ends(stages["c"], 90.0, False, None)
    assert whole.fields["told"] == ""


def test_the_numbers_shown_are_few_and_no_name_steers_the_terminal():
    numbers = {f"reward_{i}": float(i) for i in range(9)} | {"loss": float("nan"), "\x1b[31mloss": 1.0, "loss[b]": 2.0}
    assert in_words(numbers) == r"loss nan, loss\[b] 2, reward_0 0, reward_1 1"


def test_a_warning_is_shown_once_and_a_flood_of_them_is_cut():
    text, one, other = io.StringIO(), stage("a", 1.0), stage("b", 1.0)
    shown = Board(Console(file=text, width=200), SimpleNamespace(stages={"a": one, "b": other}))
    for _ in range(3):
        shown.stage_warns(one, "the kernel \x1b[31m falls back")
        shown.stage_warns(other, "the kernel \x1b[31m falls back")
        shown.stage_waits(other)
    assert [line.strip() for line in text.getvalue().splitlines()] == [
        "train a: the kernel  [31m falls back", "another run is computing train b; waiting for it"
    ]  # fmt: skip
    for i in range(50):
        shown.stage_warns(other, f"{i} " + "x" * 10_000)
    lines = text.getvalue().splitlines()
    assert len(lines) == 2 + board.MOST_WARNINGS - 1 + 1
    assert max(map(len, lines)) < 2200
    assert lines[-1].strip().startswith("there are more warnings")


def test_a_stage_that_is_put_back_is_settled_once():
    stages = {key: stage(key, 1.0) for key in "ab"}
    shown = Board(Console(file=io.StringIO()), SimpleNamespace(stages=stages))
    for _ in range(2):
        shown.stage_begins(stages["a"])
        shown.stage_ends(stages["a"], 1.0, False, None)
    assert shown._bars.tasks[0].completed == 1
