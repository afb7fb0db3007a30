"""`alignbench agreement` as a user runs it: in a process of its own."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from alignbench.agreement_cli import _write
from alignbench.errors import UserError
from alignbench.tasks.sentiment import Sentiment


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def agreement(tmp_path: Path) -> Callable[..., Said]:
    """`agreement("votes.csv", ...)` in tmp_path; `without` names libraries that are not to be found."""

    def run(*arguments: str, without: tuple[str, ...] = ()) -> Said:
        called = ["alignbench", "agreement", *arguments]
        script = (
            f"import sys\nsys.modules.update(dict.fromkeys({without!r}))\nsys.argv = {called!r}\n"
            "from alignbench.cli import main\nmain()\n"
        )
        own = {"COLUMNS": "160", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, **own}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        return Said(done.returncode, done.stdout, done.stderr)

    return run


def votes_file(folder: Path, right: dict[str, float], items: int = 200, with_truth: bool = True) -> None:
    """One yes-or-no vote of each rater on each item, right with the rater's probability."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, items)
    with (folder / "votes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "rater", "label", *(["truth"] if with_truth else [])])
        for item, true in enumerate(truth.tolist()):
            for rater, probability in right.items():
                said = true if rng.random() < probability else 1 - true
                writer.writerow(
                    [f"i{item}", rater, ("no", "yes")[said], *([("no", "yes")[true]] if with_truth else [])]
                )


def test_a_rater_who_is_always_wrong_is_named_worst_and_outvoted(tmp_path: Path, agreement) -> None:
    votes_file(tmp_path, {"ann": 0.8, "bob": 0.8, "cy": 0.8, "liar": 0.0})
    said = agreement("votes.csv", "--json")
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out)
    assert found["raters"][0]["rater"] == "liar"
    assert found["raters"][0]["right"] < 0.1
    assert found["accuracy"]["dawid_skene"]["low"] > found["accuracy"]["majority"]["high"]
    assert (found["level"], found["items"], found["votes"], found["truths"]) == ("nominal", 200, 800, 200)


def test_the_tables_and_the_written_labels_say_the_same(tmp_path: Path, agreement) -> None:
    votes_file(tmp_path, {"ann": 0.9, "bob": 0.9, "cy": 0.2, "dee": 0.9})
    said = agreement("votes.csv", "--output", "labels.csv")
    assert (said.code, said.err) == (0, "")
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["item", "majority", "dawid_skene", "votes"]
    assert [row["item"] for row in rows] == [f"i{i}" for i in range(200)]
    assert {row["votes"] for row in rows} == {"4"}
    ties = sum(not row["majority"] for row in rows)
    both = [row for row in rows if row["majority"] and row["dawid_skene"]]
    differing = sum(row["majority"] != row["dawid_skene"] for row in both)
    assert ties > 0
    assert f"majority: {ties} of 200 items tie" in said.out
    assert f"differs from the majority on {differing} items that both decide" in said.out
    assert "200 items, 4 raters, 800 votes, 2 labels at nominal level" in said.out
    assert said.out.index("│ cy") < said.out.index("│ ann")


def test_names_that_a_terminal_or_a_spreadsheet_would_obey_do_nothing(tmp_path: Path, agreement) -> None:
    rows = [("=cmd()", "[red]a[/]", "@x"), ("=cmd()", "\x1b[31mb", "@x"), ("-1", "[red]a[/]", "-2"), ("-1", "c", "@x")]
    with (tmp_path / "votes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("item", "rater", "label"), *rows])
    said = agreement("votes.csv", "--output", "labels.csv")
    assert said.code == 0
    assert "[red]a[/]" in said.out
    assert "\x1b" not in said.out
    written = (tmp_path / "labels.csv").read_text().splitlines()
    assert written[1] == "'=cmd(),'@x,'@x,2"
    assert written[2].startswith("-1,,")  # a number is no formula, and a tie is empty
    assert "\x1b" not in agreement("votes.csv", "--json").out


def test_a_write_that_fails_leaves_the_old_labels_and_a_link_stays_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, link = tmp_path / "kept.csv", tmp_path / "link.csv"
    kept.write_text("old")
    link.symlink_to(kept)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)  # before the new file takes the old one's name
        with pytest.raises(UserError, match=r"--output .*link.csv: cannot be written \(No space left on device\)"):
            _write(link, "new")
    assert kept.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.csv", "link.csv"]
    _write(link, "new")
    assert kept.read_text() == "new"
    assert link.is_symlink()


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    _write(pipe, "labels")
    assert os.read(reader, 100) == b"labels"
    os.close(reader)
    assert pipe.is_fifo()


def comparisons(folder: Path) -> None:
    rng = np.random.default_rng(0)
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "left", "right", "winner", "rater"])
        for question in range(60):
            left, right = rng.choice(["best", "middle", "worst"], 2, replace=False)
            for rater in range(3):
                better = min(left, right) if rng.random() < 0.8 else max(left, right)  # as the alphabet has them
                writer.writerow([question, left, right, better, f"r{rater}"])


def test_comparisons_also_get_bradley_terry_and_elo(tmp_path: Path, agreement) -> None:
    comparisons(tmp_path)
    said = agreement("pairs.csv", "--json", "--output", "labels.csv")
    assert (said.code, said.err) == (0, "")
    players = json.loads(said.out)["players"]
    assert [row["player"] for row in players] == ["best", "middle", "worst"]
    for kind in ("bradley_terry", "elo"):
        assert players[0][kind] > players[1][kind] > players[2][kind]
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert {row["majority"] for row in rows} <= {"best", "middle", "worst"}
    assert "Bradley-Terry: log-odds, under a prior of strength 1 an item" in agreement("pairs.csv").out


def test_without_the_extra_one_line_says_how_to_install(tmp_path: Path, agreement) -> None:
    comparisons(tmp_path)
    for subject in ("pairs.csv", "sentiment"):
        said = agreement(subject, without=("choix", "evalica"))
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), said
        assert "need choix and evalica" in said.err
        assert said.err.endswith("pip install 'alignbench[agreement]'\n")
    votes_file(tmp_path, {"ann": 0.8, "bob": 0.8})
    assert agreement("votes.csv", without=("choix", "evalica")).code == 0  # nothing in it needs them


MISTAKES = {
    "no such task": (["sentimental"], "no task 'sentimental': did you mean 'sentiment'?"),
    "a task without ratings": (["hh"], "task 'hh' has no single ratings; name one that has, such as sentiment"),
    "no such file": (["votes.jsonl"], "votes.jsonl: no such file; check the path"),
    "a folder": (["."], ".: is a folder; name a file of votes"),
    "a level of a task": (["sentiment", "--level", "nominal"], "--level means nothing for a task; leave it out"),
    "raters of a file": (["votes.csv", "--raters", "3"], "--raters means nothing for a file; leave it out"),
    "its own output": (["votes.csv", "--output", "votes.csv"], "--output votes.csv: would replace the votes"),
    "an output that cannot be": (["votes.csv", "--output", "votes.csv/x"], "--output votes.csv/x: cannot be written ("),
    "a folder for output": (["votes.csv", "--output", "."], "--output .: cannot be written (Is a directory)"),
    "more votes than ratings": (["sentiment", "--raters", "500"], "movies: 500 votes and a truth need 502 ratings"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_two(name: str, tmp_path: Path, agreement) -> None:
    votes_file(tmp_path, {"ann": 0.8, "bob": 0.8}, items=5)
    arguments, line = MISTAKES[name]
    before = (tmp_path / "votes.csv").read_bytes()
    said = agreement(*arguments)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), said
    assert said.err.startswith(f"alignbench: {line}")
    assert (tmp_path / "votes.csv").read_bytes() == before


def test_sentiment_offers_its_four_domains_with_every_rating() -> None:
    domains = Sentiment(Sentiment.Config()).single_ratings()
    assert {name: len(texts) for name, texts in domains.items()} == {
        "movies": 10_603, "tweets": 4140, "products": 3697, "editorials": 5119
    }  # fmt: skip
    for texts in domains.values():
        assert len({one.text.casefold() for one in texts}) == len(texts)
        assert min(len(one.ratings) for one in texts) >= 7


def test_a_task_is_told_by_domain_and_number_of_votes(agreement) -> None:
    said = agreement("sentiment", "--raters", "1", "--raters", "3", "--json")
    assert (said.code, said.err) == (0, "")
    found = {one["domain"]: one for one in json.loads(said.out)}
    assert list(found) == ["movies", "tweets", "products", "editorials"]
    assert found["editorials"]["alpha"]["high"] < min(found[name]["alpha"]["low"] for name in ("movies", "products"))
    for one in found.values():
        assert [(row["aggregation"], row["raters"]) for row in one["worth"]] == [
            (name, k) for k in (1, 3) for name in ("majority", "bradley_terry", "elo")
        ]
        assert 0.5 < one["worth"][0]["accuracy"]["mean"] < one["worth"][3]["accuracy"]["mean"] < 1


STRANGER = """
import sys
import alignbench
from alignbench.tasks.oracle import Oracle

class Stranger(Oracle):
    name = "stranger"

    def single_ratings(self):
        print("reading")
        {what}

@alignbench.hookimpl
def alignbench_tasks():
    return [Stranger]
"""


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raise RuntimeError('boom\\n\\x1b[31mtwo')", "single_ratings() raised RuntimeError: boom [31mtwo"),
        ("sys.exit(0)", "single_ratings() raised SystemExit: 0"),
        ("return {'a': [1, 2]}", "reading its single_ratings() raised AttributeError: "),
        ("return [1]", "reading its single_ratings() raised AttributeError: "),
    ],
)
def test_a_task_that_raises_leaves_or_returns_what_it_should_not_is_named(
    what: str, said: str, tmp_path: Path, agreement
) -> None:
    (tmp_path / "stranger.py").write_text(STRANGER.replace("{what}", what))
    told = agreement("stranger", "--plugin", "stranger", "--json")
    assert (told.code, told.out) == (2, "")
    assert told.err.splitlines()[-1].startswith(f"alignbench: plugin 'stranger' (from module stranger): {said}")
    assert "Traceback" not in told.err
