"""`alignbench judge` on sources and tasks that raise, leave, print and return what they should not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alignbench import judge_cli
from alignbench.errors import PluginError, UserError
from alignbench.tasks.oracle import Oracle

HOSTILE = """
import os
import sys
from typing import Annotated
import torch
from pydantic import Field
import alignbench
from alignbench.api import HeldOutPairs, Pair
from alignbench.tasks.oracle import Oracle

print("loading")
KINDS = {"error": RuntimeError("boom\\n\\x1b[31mtwo"), "exit": SystemExit(0), "interrupt": KeyboardInterrupt(),
         "mistake": alignbench.UserError("mend it")}

class Hostile(alignbench.RewardSource):
    name = "hostile"
    class Config(alignbench.Config):
        at: str = "nowhere"
        kind: str = "error"
        guidelines: tuple[str, ...] = ()

    def __init__(self, config):
        self.options = config
        self.at("__init__")

    def at(self, place):
        if self.options.at == place:
            raise KINDS[self.options.kind]

    def prepare(self, room):
        self.at("prepare")

    def score(self, prompts, completions):
        self.at("score")
        print("scoring")
        os.system("echo a child")
        return None if self.options.kind == "none" else torch.zeros(len(prompts))

    def prefer(self, prompts, a, b):
        self.at("prefer")
        return super().prefer(prompts, a, b)

    def prefer_once(self, prompts, a, b):
        self.at("prefer_once")
        return torch.full((len(prompts),), 0.6) if self.options.at == "prefer" else super().prefer_once(prompts, a, b)

class Switched(Hostile):
    name = "switched"
    class Config(Hostile.Config):
        guidelines: bool = True

    def __init__(self, config):
        assert config.guidelines is True
        super().__init__(config)

class Brief(Hostile):
    name = "brief"
    class Config(Hostile.Config):
        guidelines: tuple[Annotated[str, Field(max_length=60)], ...] = ()

class Stranger(Oracle):
    name = "stranger"
    class Config(alignbench.Config):
        gives: str

    def __init__(self, config):
        self.gives = config.gives
        if self.gives == "init":
            raise KeyError("x")
        if self.gives == "no rubric":
            self.rubric = None

    def held_out_pairs(self):
        if self.gives in KINDS:
            raise KINDS[self.gives]
        if self.gives == "list":
            return [1, 2, 3]
        pairs = {"numbers": [1, 2], "bytes": [Pair("", b"a", b"b")] * 2}.get(self.gives, [Pair("", "a", "b")] * 2)
        return HeldOutPairs(pairs, "high" if self.gives == "words" else None)

@alignbench.hookimpl
def alignbench_reward_sources():
    return [Hostile, Switched, Brief]

@alignbench.hookimpl
def alignbench_tasks():
    return [Stranger]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Holds the module `hostile`; the current folder."""
    (tmp_path / "hostile.py").write_text(HOSTILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(judge_cli, "refuse_to_vanish", lambda: None)  # it is for the life of a process
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "hostile", raising=False)
    return tmp_path


def of_hostile(at: str, kind: str) -> None:
    options = [f"at={at}", f"kind={kind}"]
    judge_cli.judge("oracle", source="hostile", option=options, plugin=["hostile"], pairs=20, model="oracle-llama")


@pytest.mark.parametrize("at", ["__init__", "prepare", "score", "prefer", "prefer_once"])
def test_whatever_a_source_raises_is_one_line_that_names_it(at: str, folder: Path) -> None:
    step = {"score": "prefer_once"}.get(at, at)  # it is what asks for scores
    for kind, said in {"error": "RuntimeError: boom  [31mtwo", "exit": "SystemExit: 0"}.items():
        with pytest.raises(PluginError) as error:
            of_hostile(at, kind)
        assert str(error.value) == f"plugin 'hostile' (from module hostile): {step}() raised {said}"


def test_scores_that_are_none_are_the_source_s_fault_and_a_mistake_or_ctrl_c_is_not(folder: Path) -> None:
    with pytest.raises(
        PluginError, match=r"plugin 'hostile' \(from module hostile\): prefer_once\(\) raised TypeError"
    ):
        of_hostile("nowhere", "none")
    with pytest.raises(UserError, match=r"^mend it$"):
        of_hostile("score", "mistake")
    with pytest.raises(KeyboardInterrupt):
        of_hostile("score", "interrupt")


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        ("init", "__init__() raised KeyError: 'x'"),
        ("error", "held_out_pairs() raised RuntimeError: boom  [31mtwo"),
        ("exit", "held_out_pairs() raised SystemExit: 0"),
        ("list", "held_out_pairs() returned list; return HeldOutPairs with a list of pairs"),
        ("numbers", "held_out_pairs() returned int as pair 0; return a Pair of three texts"),
        ("bytes", "held_out_pairs() returned Pair as pair 0; return a Pair of three texts"),
        ("words", "held_out_pairs() returned a human_accuracy that is no share; return 0 to 1, or None"),
        ("no rubric", "its rubric is NoneType; a Rubric of text is allowed"),
    ],
)
def test_a_task_that_fails_or_breaks_its_contract_is_named(gives: str, said: str, folder: Path) -> None:
    with pytest.raises(PluginError) as error:
        judge_cli.judge("stranger", source="length", task_option=[f"gives={gives}"], plugin=["hostile"])
    assert str(error.value) == f"plugin 'stranger' (from module hostile): {said}"


def test_guidelines_that_are_no_text_are_left_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def wordings(source: str) -> list[str] | None:
        judge_cli.judge("oracle", source=source, plugin=["hostile"], pairs=20, model="oracle-llama", json_=True)
        found = json.loads(capsys.readouterr().out)["wordings"]
        return found and [one["guideline"] for one in found]

    assert wordings("switched") is None
    three = wordings("hostile")
    assert three is not None
    assert len(three) == 3
    assert wordings("brief") == [one for one in three if len(one) <= 60] != []
    for source, text in {"switched": "true", "brief": "x" * 61}.items():
        with pytest.raises(UserError, match=f"--wording: source '{source}' has no `guidelines` that may be that text"):
            judge_cli.judge("oracle", source=source, plugin=["hostile"], wording=[text])


def test_a_bug_of_a_shipped_task_keeps_its_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Oracle, "held_out_pairs", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        judge_cli.judge("oracle", source="length")


def test_as_a_command_it_keeps_its_data_apart_from_what_a_source_prints_and_ends_with_two_if_one_leaves(
    folder: Path,
) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        called = ["alignbench", "judge", "oracle", "--source", "hostile", "--plugin", "hostile", "--pairs", "20",
                  "--model", "oracle-llama", "--json", *options]  # fmt: skip
        script = f"import sys\nsys.argv = {called!r}\nfrom alignbench.cli import main\nmain()\n"
        return subprocess.run([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"},
                              capture_output=True, text=True, check=False)  # fmt: skip

    loud = run()
    assert (loud.returncode, json.loads(loud.stdout)["audit"]["accuracy"]["mean"]) == (0, 0.5)
    assert {"loading", "scoring", "a child"} <= set(loud.stderr.splitlines())
    leaving = run("--option", "at=prepare", "--option", "kind=exit")
    assert (leaving.returncode, leaving.stdout) == (2, "")
    said = "alignbench: plugin 'hostile' (from module hostile): prepare() raised SystemExit: 0"
    assert leaving.stderr.splitlines()[-1] == said
