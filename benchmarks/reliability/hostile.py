"""Text that would steer a terminal, a page, a sheet or a typesetter, from plugins: none of it leaves as it came."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.reliability.point import Control, Measured
from benchmarks.reliability.runs import ORACLE, Bench

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LIVE = re.compile(r"<script|<img", re.IGNORECASE)
LONGEST = 60_000  # characters of all that is said
SUITE = {**ORACLE, "methods": ["sft", "loud", {"method": "louder", "label": "=1+1<script>|$x$ [b]"}]}
HOSTILE = r"""
import alignbench
TEXT = "\x1b[31mred\x1b]8;;http://x\x07 \u202eevil\u2066 \ud800 <script>alert(1)</script><img src=x>"
TEXT += " |$\\input{x}$ =1+1 " + "x" * 100_000
class Loud(alignbench.AlignmentMethod):
    name, needs, summary = "loud", frozenset({"prompts"}), TEXT
    def train(self, trial, config):
        print(TEXT.encode(errors="replace").decode())
        raise ValueError(TEXT)
class Louder(Loud):
    name = "louder"
    def recipe(self, config, build):
        raise ValueError(TEXT)
@alignbench.hookimpl
def alignbench_methods(): return [Loud, Louder]
"""


def measure(is_quick: bool, folder: Path) -> Measured:
    places, problems = _said(folder / "run")
    _, raw = _said(folder / "control", "print-raw")
    return Measured(
        f"{places} outputs (run, plan, plugins, log, table files) of two hostile plugins: {len(problems)} raw"
        + "".join(f"; {problem}" for problem in problems),
        "none raw, none long",
        places > 0 and not problems,
        Control(f"printed as it comes, {len(raw)} are raw", bool(raw)),
    )


def _said(folder: Path, *plant: str) -> tuple[int, list[str]]:
    """How many outputs there are, and what is wrong with which."""
    folder.mkdir()
    (folder / "zz_hostile.py").write_text(HOSTILE)
    bench = Bench(folder, SUITE, ("--plugin", "zz_hostile"), plant)
    outputs = {}
    loaded = ("--plugin", "zz_hostile")
    commands = {"run": ("run", "suite.yaml"), "plan": ("plan", "suite.yaml"), "plugins": ("plugins",), "log": ()}
    for name, command in commands.items():
        arguments = (*command, *loaded)
        if name == "log":
            keys = [path.stem for path in (bench.home / "logs").glob("*.log")]
            arguments = ("log", keys[0] if keys else "0" * 12)
        done = bench.run(*arguments)
        outputs[name] = done.stdout + done.stderr
    for path in sorted((folder / "results").rglob("*.md")) + sorted((folder / "results").rglob("*.csv")):
        outputs[path.name] = path.read_text(errors="replace")
    problems = []
    for name, text in outputs.items():
        if found := STEERING.search(text):
            problems.append(f"{name} holds {found[0]!r}")
        if name.endswith(".md") and LIVE.search(text):
            problems.append(f"{name} holds live HTML")
        if name.endswith(".csv") and re.search(r'(^|,)"?=', text, re.MULTILINE):
            problems.append(f"{name} holds a formula")
        if len(text) > LONGEST and name != "log":
            problems.append(f"{name} has {len(text)} characters")
    return len(outputs), problems
