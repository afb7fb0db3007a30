"""`alignbench audit` on a toy suite: blind sheets out, votes back in, people beside gold."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.run.answers import START, Finished, chosen, finished
from alignbench.run.here import run_here
from alignbench.scoring.audit import read_key
from alignbench.store import Store
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite

BEST = {"method": "best_of_n", "label": "zz-best", "config": {"n": 3, "num_samples": 3}}
DPO = {"method": "dpo", "label": "zz-dpo", "config": {"per_device_train_batch_size": 4, "learning_rate": 0.01}}
ROWS: list[Any] = [{"method": "sft", "label": "zz-start"}, BEST, DPO]


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that the tests below share."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def toy(suite_file, home: Path) -> Iterator[Callable[..., Plan]]:
    """`toy(rows)`: the plan of a suite called `secret-name`, whose every row is finished."""

    def plan(rows: list[Any], is_run: bool = True, **keys: Any) -> Plan:
        path = suite_file(rows, name="secret-name.yaml", seeds=[0, 1], **keys)
        made = make_plan(load_suite(path), load_catalog())
        if is_run:
            assert run_here(made, Store(home)).exit_code == 0
        return made

    return plan


@pytest.fixture
def audit(tmp_path: Path, home: Path) -> Callable[..., Said]:
    """`audit(...)` in tmp_path, in a process of its own."""

    def run(*arguments: str, command: str = "audit") -> Said:
        own = {"ALIGNBENCH_HOME": str(home), "COLUMNS": "180", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "alignbench.cli", command, *arguments], cwd=tmp_path, env={**os.environ, **own},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return Said(done.returncode, done.stdout, done.stderr)

    return run


def sheet(folder: Path) -> list[dict[str, str]]:
    with (folder / "sheet.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_sheet_goes_out_blind_and_comes_back_as_votes_beside_gold(toy, audit, tmp_path: Path) -> None:
    toy(ROWS)
    drawn = audit("secret-name.yaml", "--out", "blind", "--pairs", "20")
    assert (drawn.code, drawn.err) == (0, "")
    assert "20 pairs against zz-start: zz-best 10, zz-dpo 10" in drawn.out
    folder, key = tmp_path / "blind", read_key(tmp_path / "blind")
    page, rows = (folder / "sheet.html").read_text(), sheet(folder)
    assert key.page == hashlib.sha256(page.encode()).hexdigest()
    assert [row["item"] for row in rows] == [pair.item for pair in key.pairs]
    for text in (page, *((folder / name).read_text() for name in ("sheet.csv", "guidelines.md"))):
        for told in ("zz-", "sft", "dpo", "best_of_n", "secret-name", "gold", "replicate", '"seed"', key.page):
            assert told not in text
    for told in (page, (folder / "guidelines.md").read_text()):
        assert "the assistant's last reply is harmless" in told  # the task's own rubric

    ours = {pair.item: "right" if pair.left == key.against else "left" for pair in key.pairs}
    lines = {
        "ann": [f"{item},ann,{side}" for item, side in ours.items()],  # every row wins everywhere
        "bob": [f"{item},bob,tie" for item in list(ours)[:5]],
    }
    for rater, answers in lines.items():
        (tmp_path / f"{rater}.csv").write_text("\n".join(["item,rater,label", *answers, ""]))
    read = audit("secret-name.yaml", "--out", "blind", "--read", "ann.csv", "--read", "bob.csv")
    assert (read.code, read.err) == (0, "")
    with (folder / "votes.csv").open(newline="") as file:
        votes = list(csv.DictReader(file))
    assert [vote["won"] for vote in votes] == ["1"] * 20 + ["0.5"] * 5
    for row in ("zz-best", "zz-dpo"):
        own = [pair for pair in key.pairs if key.row_of(pair) == row]
        tied = sum(pair.item in list(ours)[:5] for pair in own)
        line = next(line for line in read.out.splitlines() if line.startswith(f"│ {row}"))
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert cells[1:3] == ["10 of 10", str(len({pair.prompt for pair in own}))]
        assert cells[3].startswith(f"{1 - 0.25 * tied / 10:.2f} [")
        win_rate, gain = key.rows[row].win_rate[0], key.rows[row].gain[0]
        assert cells[5].startswith(f"{win_rate:.2f} [")
        assert cells[6].startswith(f"{gain:+.2f} [")
    assert "25 answers of 2 raters on 20 pairs" in read.out
    left = sum(side == "left" for side in ours.values())
    assert f"position: {left} left, {20 - left} right, 5 ties; left is {left / 20:.2f} [" in read.out
    assert "alpha (Krippendorff" in read.out
    again = audit(str(folder / "votes.csv"), "--json", command="agreement")
    assert again.code == 0
    found = json.loads(again.out)
    assert (found["items"], found["votes"], len(found["raters"])) == (20, 25, 2)
    assert f"{found['alpha']['mean']:.2f} [" in read.out.split("alpha (Krippendorff")[1].splitlines()[0]


def test_the_gold_beside_people_is_the_records_own(toy, audit, home: Path, tmp_path: Path) -> None:
    plan = toy(ROWS)
    assert audit("secret-name.yaml", "--out", "blind").code == 0
    key, found = read_key(tmp_path / "blind"), finished(plan, Store(home))
    for row in ("zz-best", "zz-dpo"):
        prompts = [record.per_prompt for record in found.records if record.label == row]
        assert len(prompts) == 2
        for told, name in ((key.rows[row].win_rate, "win_rate_gold"), (key.rows[row].gain, "reward_gold_gain")):
            assert told[0] == pytest.approx(np.mean([each[name] for each in prompts]))
            assert told[1] <= told[0] <= told[2]


def test_a_text_is_the_stores_own_with_its_gold_and_best_of_n_returns_its_best(toy, home: Path) -> None:
    plan = toy(ROWS)
    found = finished(plan, Store(home))
    assert (found.start, found.left_out) == ("zz-start", {})
    assert [(one.label, one.seed) for one in found.answers] == [
        ("zz-start", 0), ("zz-start", 1), ("zz-best", 0), ("zz-best", 1), ("zz-dpo", 0), ("zz-dpo", 1),
    ]  # fmt: skip
    store = Store(home)
    for one in found.answers:
        cell = next(cell for cell in plan.cells if (cell.label, cell.seed) == (one.label, one.seed))
        rows, gold, proxy = (
            [json.loads(line) for line in (store.get(plan.stage(cell.score, name).key) / "rows.jsonl").open()]
            for name in ("completions", "gold", "proxy")
        )
        assert [text for texts in one.texts for text in texts] == [row["completion"] for row in rows]
        assert [prompt for prompt in one.prompts for _ in one.texts[0]] == [row["prompt"] for row in rows]
        assert one.gold.ravel().tolist() == [row["reward"] for row in gold]
        assert one.chances.sum(1) == pytest.approx(np.ones(8))
        if one.label == "zz-best":  # n of n: the one that its proxy likes best
            scores = np.array([row["reward"] for row in proxy]).reshape(one.gold.shape)
            assert (one.chances.argmax(1) == scores.argmax(1)).all()


def test_what_is_not_finished_is_said_and_left_out_and_nothing_is_computed(toy, audit, home: Path) -> None:
    toy(ROWS)
    other = {**DPO, "label": "zz-later", "config": {"learning_rate": 0.5}}
    toy([*ROWS, other], is_run=False)
    before = sorted(path.name for path in (home / "stages").glob("*/*"))
    said = audit("secret-name.yaml", "--out", "blind", "--pairs", "4")
    assert (said.code, said.err) == (0, "")
    assert "left out: zz-later (seed 0): not finished" in said.out
    assert sorted(path.name for path in (home / "stages").glob("*/*")) == before
    named = audit("secret-name.yaml", "--out", "other", "--rows", "zz-dpo", "--rows", "zz-later")
    assert (named.code, named.out) == (2, "")
    assert named.err.startswith("alignbench: --rows zz-later: no finished row of that name: not finished; `alignb")


def test_the_start_is_there_where_no_row_is_it_and_rows_may_be_held_against_another(toy, home: Path) -> None:
    found = finished(toy([BEST, DPO]), Store(home))
    against, answers = chosen(found, None)
    assert (against, {one.label for one in answers}) == (START, {START, "zz-best", "zz-dpo"})
    against, answers = chosen(found, ["zz-dpo", "zz-best"])
    assert (against, {one.label for one in answers}) == ("zz-dpo", {"zz-dpo", "zz-best"})
    with pytest.raises(UserError, match=r"--rows zz-dop: no finished row of that name; did you mean 'zz-dpo'\?"):
        chosen(found, ["zz-dop"])
    with pytest.raises(UserError, match=r"a pair needs two finished rows, and 'zz-dpo' alone is there; name another"):
        chosen(found, ["zz-dpo"])
    with pytest.raises(UserError, match=r"two finished rows, and none is there; dpo \(seed 0\): not finished"):
        chosen(Finished(START, [], [], {"dpo (seed 0)": "not finished"}), None)


def test_a_rule_that_fails_costs_its_own_row(toy, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = toy(ROWS)

    def refuse(*_: Any) -> None:
        raise RuntimeError("no\x1b[31m")

    monkeypatch.setattr(plan.catalog.method("best_of_n").cls, "decoding", refuse)
    found = finished(plan, Store(home))
    assert set(found.left_out) == {"zz-best (seed 0)", "zz-best (seed 1)"}
    assert "its decoding rule failed: RuntimeError: no" in found.left_out["zz-best (seed 0)"]
    assert {one.label for one in found.answers} == {"zz-start", "zz-dpo"}


def test_a_key_is_not_replaced_unasked_and_a_page_of_another_sheet_is_refused(toy, audit, tmp_path: Path) -> None:
    toy(ROWS)
    assert audit("secret-name.yaml", "--out", "blind").code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "blind").iterdir()}
    again = audit("secret-name.yaml", "--out", "blind", "--seed", "1")
    assert (again.code, again.out) == (2, "")
    assert again.err == "alignbench: blind/key.json is there, and people may be answering it; name another --out, or " \
                        "add --force\n"  # fmt: skip
    assert {path.name: path.read_bytes() for path in (tmp_path / "blind").iterdir()} == before
    assert audit("secret-name.yaml", "--out", "blind", "--seed", "1", "--force").code == 0
    shutil.copy(tmp_path / "blind" / "sheet.csv", tmp_path / "ann.csv")
    (tmp_path / "blind" / "sheet.html").write_bytes(before["sheet.html"])
    said = audit("secret-name.yaml", "--out", "blind", "--read", "ann.csv")
    assert said.code == 2
    assert said.err.startswith("alignbench: blind/sheet.html is not the page that the key beside it is of")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--read", "a.csv", "--seed", "1"], "--seed draws a sheet; leave it out with --read"),
        (["--read", "a.csv", "--force"], "--force draws a sheet"),
        (["--read", "a.csv"], "nowhere/key.json cannot be read: No such file or directory; name the folder"),
        (["--pairs", "0"], "Invalid value for '--pairs'"),
    ],
)
def test_a_mistake_is_one_line(suite_file, audit, arguments: list[str], said: str) -> None:
    suite_file(ROWS, name="secret-name.yaml")
    found = audit("secret-name.yaml", "--out", "nowhere", *arguments)
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith(f"alignbench: {said}")
    assert found.err.count("\n") == 1
