"""`alignbench judge` on planted judges and on a tiny model, and what it says to a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignbench import judge_cli
from alignbench.api import HeldOutPairs, Pair, Rubric, SourceRoom
from alignbench.errors import PluginError, UserError
from alignbench.feedback.judge import Judge
from alignbench.scoring.judge_answers import drawn, rewordings
from alignbench.tasks.hh import HH

RUBRIC = Rubric("Is it good?", "Review", "Sentiment", "Positive", "Negative")  # a tiny model tells its labels apart
SHARES = ["train=0.1", "label=0.1", "eval=0.1", "gold=0.1", "held_out=0.6"]
PLANTED = """
import torch
import alignbench

class Planted(alignbench.RewardSource):
    name = "planted"
    class Config(alignbench.Config):
        first: float = 0.9
        silent: int = 0  # texts of at most so many words get no answer
        returns: str = "float32"

    def score(self, prompts, completions):
        raise NotImplementedError

    def prefer(self, prompts, a, b):
        return torch.full((len(prompts),), 0.5)

    def prefer_once(self, prompts, first, second):
        chance = torch.full((len(prompts),), self.config.first)
        chance[[len(text.split()) <= self.config.silent for text in first]] = float("nan")
        returned = {"float32": chance, "column": chance[:, None], "list": chance.tolist(), "None": None,
                    "sparse": chance.to_sparse(), "complex": chance + 1j, "meta": chance.to("meta")}
        return returned[self.config.returns]

@alignbench.hookimpl
def alignbench_reward_sources():
    return [Planted]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Holds `pairs.jsonl`, of one to nine words, and the module `planted`; the current folder."""
    rng = np.random.default_rng(0)
    rows = [
        {"prompt": f"question {i}", "chosen": " good" * rng.integers(1, 10), "rejected": " bad" * rng.integers(1, 10)}
        for i in range(200)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "planted.py").write_text(PLANTED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HH, "rubric", RUBRIC)
    monkeypatch.setattr(judge_cli, "refuse_to_vanish", lambda: None)  # it is for the life of a process
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    return tmp_path


def on_pairs(**options: Any) -> None:
    judge_cli.judge("hh", **{"task_option": ["source=pairs.jsonl", *SHARES], "pairs": 80, **options})


@pytest.fixture
def data(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`data(source="length", ...)`: what `--json` prints."""

    def run(**options: Any) -> Any:
        on_pairs(json_=True, **options)
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def page(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("COLUMNS", "160")

    def run(**options: Any) -> str:
        on_pairs(**options)
        return capsys.readouterr().out

    return run


def test_a_planted_liking_for_the_first_place_is_told_and_averaged_away(data) -> None:
    audit = data(source="planted", plugin=["planted"])["audit"]
    assert audit["same_place"]["mean"] == 1
    assert audit["first_place_bias"]["mean"] == pytest.approx(0.4)
    assert audit["win_rate_once"]["mean"] == pytest.approx(0.9)
    assert audit["win_rate"]["mean"] == audit["accuracy"]["mean"] == audit["length"]["judge"]["mean"] == 0.5


def test_pairs_without_an_answer_are_counted_and_in_no_number(data, page) -> None:
    options = {"source": "planted", "plugin": ["planted"], "option": ["silent=3"]}
    found = data(**options)
    asked = drawn(hh_pairs(), 80, 0).asked
    silent = asked.words <= 3
    audit, control = found["audit"], found["control"]
    assert audit["answered"] == int((~silent.any(axis=1)).sum()) < 80
    assert audit["answered_once"] == int((silent.sum(axis=1) == 1).sum()) > 0
    assert audit["accuracy"]["mean"] == 0.5
    assert control["answered"] == 80
    said = page(**options)
    assert f"{audit['answered']} of 80" in said
    missing = f"{80 - audit['answered']} pairs without an answer in both orders"
    assert f"{missing} ({audit['answered_once']} have one)" in said
    with pytest.raises(UserError, match="'planted' answered 0 of 80 pairs in both orders: nothing to audit"):
        on_pairs(source="planted", plugin=["planted"], option=["silent=9"])


def hh_pairs() -> list[Pair]:
    options = dict(one.split("=") for one in SHARES)
    return HH(HH.Config(source="pairs.jsonl", **options)).held_out_pairs().pairs


def test_the_control_names_the_longer_text_and_the_audited_one_may_be_it(data, page) -> None:
    found = data(source="length", labelled=20)
    assert found["audit"] == found["control"]
    assert found["audit"]["length"]["judge"]["mean"] == 1
    assert found["audit"]["length"]["log_odds"] is None
    assert found["human_accuracy"] is None
    assert found["wordings"] is None
    corrected = found["corrected"]
    assert (corrected["labelled"], corrected["powered"]["weight"]) == (20, 0)
    assert corrected["powered"]["interval"] == corrected["powered"]["people_alone"]
    said = page(source="length")
    assert "log-odds by length: not identifiable, for length and people's choice together decide" in said
    assert "rewording: length has no wording" in said
    assert "the ceiling: not known" in said


def test_the_seed_draws_pairs_and_their_order_and_the_same_one_the_same(data) -> None:
    one, same, other = (data(source="random", seed=seed, pairs=40) for seed in (0, 0, 1))
    assert one == same
    assert one["audit"] != other["audit"]
    everything = [data(source="random", seed=seed, pairs=120)["audit"]["accuracy"] for seed in (0, 1)]
    assert everything[0] == pytest.approx(everything[1])


def test_the_order_of_a_pair_knows_nothing_of_its_label() -> None:
    pairs = [Pair("", f"good {i}", f"bad {i}") for i in range(1000)]
    questions = drawn(pairs, 1000, 0)
    assert abs(questions.asked.human.mean() - 0.5) < 0.05
    is_good = np.array([text.startswith("good") for text in questions.first])
    assert (is_good == questions.asked.human).all()
    assert sorted(map(tuple, map(sorted, zip(questions.first, questions.second, strict=True)))) == sorted(
        (f"bad {i}", f"good {i}") for i in range(1000)
    )


def test_the_judge_is_asked_in_both_orders_and_in_other_words(data, tiny_models, resident) -> None:
    found = data(option=["format=pairwise"], model=str(tiny_models["llama"]), pairs=24)
    questions = drawn(hh_pairs(), 24, 0)
    source = Judge(Judge.Config(format="pairwise"))
    source.prepare(SourceRoom(RUBRIC, resident("llama"), None, 0))
    forth, back = (
        source.prefer_once(questions.prompts, *texts)
        for texts in ((questions.first, questions.second), (questions.second, questions.first))
    )
    bias = float((forth + back).double().mean()) / 2 - 0.5
    assert found["audit"]["first_place_bias"]["mean"] == pytest.approx(bias, abs=0.01)  # bfloat16 where it is faster
    assert abs(bias) > 0.05
    assert found["audit"]["win_rate"]["mean"] == pytest.approx(float((0.5 + (forth - back) / 2).mean()), abs=0.01)
    assert [one["guideline"] for one in found["wordings"]] == list(rewordings(RUBRIC))
    assert all(0 < one["found"]["stays"]["mean"] <= 1 for one in found["wordings"])
    assert found["options"] == {"format": "pairwise", "guidelines": []}


def test_the_same_guideline_keeps_every_order_and_hostile_ones_do_nothing(page, tiny_models) -> None:
    hostile = "[red]\x1b[31mx[/] \u202e"
    said = page(model=str(tiny_models["llama"]), pairs=10, wording=[RUBRIC.guideline, hostile])
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "[red] [31mx[/]" in said
    assert said.count("1.000 [0.722, 1.000]") >= 1  # ten of ten stay
    assert "names the same place in both orders" in said


def test_rewordings_are_of_the_rubric_and_differ_from_its_guideline() -> None:
    rubric = Rubric("Look.", "Review", "Tone", "Warm", "Cold")
    made = rewordings(rubric)
    assert len({*made, rubric.guideline}) == 4
    assert all(word in one for one in made for word in ("review", "Tone", "Warm", "Cold"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["first=1.5"], r"plugin 'planted' \(from module planted\): prefer_once\(\) returned 1.5 to 1.5; allowed:"),
        (["returns=column"], r"prefer_once\(\) of 80 pairs returned shape \(80, 1\); return a float32 tensor of shape"),
        (["returns=list"], r"prefer_once\(\) of 80 pairs returned a list; return a float32 tensor of shape \(80,\)"),
        (["returns=None"], r"prefer_once\(\) of 80 pairs returned a NoneType; return a float32 tensor of shape"),
        (["returns=sparse"], r"returned a tensor of torch.float32, torch.sparse_coo; return a float32 tensor of shape"),
        (["returns=complex"], r"returned a tensor of torch.complex64, torch.strided; return a float32 tensor of shape"),
        (["returns=meta"], r"plugin 'planted' \(from module planted\): prefer_once\(\) raised NotImplementedError: "),
    ],
)
def test_a_source_that_breaks_its_contract_is_named(options: list[str], said: str, folder: Path) -> None:
    with pytest.raises(PluginError, match=said):
        on_pairs(source="planted", plugin=["planted"], option=options)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no such source": ({"source": "lenght"}, "no source 'lenght': did you mean 'length'?"),
    "simulated people": ({"source": "panel"}, "--source panel: is made of the task's people"),
    "no such option": ({"source": "judge", "option": ["formt=pairwise"]}, "--option formt: unknown key; did you mean"),
    "a value that is not allowed": ({"option": ["format=both"]}, "--option format: should be 'pointwise' or 'pair"),
    "no value": ({"option": ["format"]}, "--option format: no KEY=VALUE, such as format=pairwise"),
    "an option twice": ({"option": ["format=x", "format=y"]}, "--option format: given twice; leave one out"),
    "no YAML": ({"option": ["guidelines=[a"]}, "--option guidelines: cannot be read as YAML: "),
    "an alias": ({"option": ["guidelines=*a"]}, "--option guidelines:1: an alias (*name) is not allowed"),
    "a character": ({"option": ["guidelines=\x07"]}, "--option guidelines: character #x0007 is not allowed; remove it"),
    "too many pairs": ({"source": "length", "pairs": 999}, "--pairs 999: task 'hh' has 120 held-out human pairs; l"),
    "too many labels": ({"source": "length", "labelled": 80}, "--labelled 80: "),
    "a wording of none": ({"source": "length", "wording": ["x"]}, "--wording: source 'length' has no `guidelines`"),
    "no such file": ({"task_option": ["source=no.jsonl"]}, "no.jsonl: no such file"),
    "no such model": ({"model": "smol"}, "model 'smol' is neither an alias, a folder nor a Hub id"),
    "no such plugin": ({"plugin": ["plantd"]}, "--plugin plantd: ModuleNotFoundError: No module named 'plantd'"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_its_place_and_a_remedy(name: str, folder: Path) -> None:
    options, line = MISTAKES[name]
    with pytest.raises(UserError) as error:
        on_pairs(**options)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_a_task_without_pairs_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HH, "held_out_pairs", lambda self: HeldOutPairs([], None))
    with pytest.raises(UserError, match="task 'hh' has 0 held-out human pairs; name one that has, such as sentiment"):
        on_pairs(source="length", pairs=None)


def test_as_a_command_it_ends_with_two_on_a_mistake_and_with_none_without(folder: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        called = ["alignbench", "judge", *arguments]
        script = f"import sys\nsys.argv = {called!r}\nfrom alignbench.cli import main\nmain()\n"
        return subprocess.run([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"},
                              capture_output=True, text=True, check=False)  # fmt: skip

    bad = run("sentimental")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "alignbench: no task 'sentimental': did you mean 'sentiment'?\n"
    options = [part for one in ("source=pairs.jsonl", *SHARES) for part in ("--task-option", one)]
    good = run("hh", *options, "--source", "planted", "--plugin", "planted", "--option", "first=0.7", "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["audit"]["first_place_bias"]["mean"] == pytest.approx(0.2)
