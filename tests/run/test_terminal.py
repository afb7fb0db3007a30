"""The command among strangers: files of the current folder, hostile plugins, streams that do not take what is said."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = "from alignbench.cli import main; main()"
STRANGER = "raise SystemExit('a file of the current folder ran: ' + __name__)\n"


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`shell("$AB plugins | head -1")`: bash in tmp_path; $AB is the console script, as pip writes it."""
    script = tmp_path / "bin" / "alignbench"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\n{SCRIPT}\n")
    script.chmod(0o755)
    own = {
        "AB": str(script), "PY": sys.executable, "ALIGNBENCH_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }  # fmt: skip
    (tmp_path / "here").mkdir()

    def run(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line], cwd=tmp_path / "here", env={**os.environ, **own, **environment},
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("name", ["yaml", "alignbench_dpo"])
def test_a_file_of_the_current_folder_does_not_run(name: str, shell, tmp_path: Path) -> None:
    (tmp_path / "here" / f"{name}.py").write_text(STRANGER)
    (tmp_path / "here" / "s.yaml").write_text("methods: [nothing]\n")
    (tmp_path / "here" / "own_module.py").write_text("import alignbench\n")  # with --plugin the folder is on the path
    for line in ("$AB plugins", "$AB plan s.yaml", "$AB plan s.yaml --plugin own_module"):
        said = shell(line)
        assert "current folder ran" not in said.stdout + said.stderr, line


@pytest.mark.parametrize("start", ["$AB", "$PY -m alignbench.cli", f"$PY -c '{SCRIPT}'"])
def test_the_current_folder_is_on_the_path_for_a_plugin_alone_and_last(start: str, shell, tmp_path: Path) -> None:
    (tmp_path / "here" / "told.py").write_text(
        "import os, sys\nraise RuntimeError([i for i, e in enumerate(sys.path) if e in ('', os.getcwd())]"
        " == [len(sys.path) - 1])\n"
    )
    assert "RuntimeError: True" in shell(f"{start} plugins --plugin told").stderr
    assert shell(f"{start} table told").stderr.startswith("alignbench: results/told/table.md: no such table")


HOSTILE = r"""
import alignbench
class Hostile(alignbench.AlignmentMethod):
    name = "hostile"
    summary = "\x1b[31mred\x1b]8;;http://x\x07 \u202eevil\u2066 [bold]\u03b2[/] \ud800" + "x" * 100_000
    def recipe(self, config, kit): ...
@alignbench.hookimpl
def alignbench_methods(): return [Hostile]
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_a_plugins_text_cannot_steer_the_terminal_nor_fill_it(encoding: str, shell, tmp_path: Path) -> None:
    (tmp_path / "here" / "hostile.py").write_text(HOSTILE)
    said = shell("$AB plugins --plugin hostile", PYTHONIOENCODING=encoding)
    assert (said.returncode, said.stderr) == (0, "")
    assert not {"\x1b", "\x07", "\u202e", "\u2066"} & set(said.stdout)
    assert "hostile" in said.stdout
    assert ("β" if encoding == "utf-8" else "?") in said.stdout
    assert "[bold]" in said.stdout
    assert len(said.stdout) < 10_000


@pytest.mark.parametrize(
    "body",
    [
        "class Mute(Exception):\n    def __str__(self): raise RuntimeError\nraise Mute",
        "raise ValueError('\\ud800' * 9)",
    ],
)
def test_an_exception_that_cannot_be_said_is_one_line(body: str, shell, tmp_path: Path) -> None:
    (tmp_path / "here" / "mute.py").write_text(body)
    said = shell("$AB plugins --plugin mute")
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1)
    assert "Mute (its message cannot be shown)" in said.stderr or "ValueError: ?????????" in said.stderr


def test_a_summary_that_is_no_text_is_refused(shell, tmp_path: Path) -> None:
    (tmp_path / "here" / "odd.py").write_text(HOSTILE.replace('summary = "', 'summary = 3 or "'))
    said = shell("$AB plugins --plugin odd")
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert "summary is 3; text is allowed" in said.stderr


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$AB version >&-", 0),
        ("$AB plugins >&-", 0),
        ("$AB plugins <&- >&- 2>&-", 0),
        ("$AB run nothing 2>&-", 2),
        ("set -o pipefail; $AB version | true", 1),
        ("set -o pipefail; $AB plugins | true", 1),
        ("$AB plugins | head -1 > /dev/null", 0),
    ],
)
def test_a_reader_that_has_gone_is_no_error(line: str, code: int, shell) -> None:
    said = shell(line)
    assert (said.returncode, said.stdout, said.stderr) == (code, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("command", ["version", "plugins"])
def test_output_that_cannot_be_written_is_one_line(command: str, shell) -> None:
    said = shell(f"$AB {command} > /dev/full")
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert said.stderr.startswith("alignbench: ")
    assert "o space left" in said.stderr


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        ("echo x > file", "file is no folder"),
        ("mkdir -p file/tiny/table.md", "table.md is a folder, where a file is to be written"),
        ("mkdir file; touch file/tiny", "file/tiny is no folder"),
    ],
)
def test_results_that_cannot_be_written_are_said_before_the_work(harm, problem, shell, suite_file, tmp_path) -> None:
    path = suite_file(["sft"])
    said = shell(f"{harm}; $AB run {path} --results file")
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1)
    assert problem in said.stderr
    assert not (tmp_path / "home" / "stages").exists()


def test_no_home_is_one_line(shell) -> None:
    for line in ("ALIGNBENCH_HOME=~nobody-here/x", "env -u ALIGNBENCH_HOME HOME= "):
        said = shell(f"{line} $AB cache list")
        assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1), said
        assert "set HOME, or ALIGNBENCH_HOME" in said.stderr


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_before_the_first_stage_is_one_line_too(name: str, code: int, shell, tmp_path: Path) -> None:
    """Sent while a plugin is loaded, whose errors are caught."""
    (tmp_path / "here" / "slow.py").write_text(
        f"import os, signal, time\nos.kill(os.getpid(), signal.{name})\ntime.sleep(60)\n"
    )
    said = shell("$AB plugins --plugin slow")
    assert (said.returncode, said.stdout) == (code, "")
    assert said.stderr == "alignbench: interrupted\n"
