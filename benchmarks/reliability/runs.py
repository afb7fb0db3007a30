"""How a run is started, ended from outside, and compared with another: what several points share."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from alignbench.scoring.record import comparable, read_records

PLANTED = Path(__file__).parent / "planted"
ALIGNBENCH = (sys.executable, "-m", "alignbench.cli")
ORACLE: dict[str, Any] = {
    "model": "oracle-llama", "device": "cpu", "dtype": "float32", "max_steps": 4, "lora": {"r": 4, "alpha": 8},
    "task": {"name": "oracle", "options": {"label": 24, "eval": 6, "held_out": 12}}, "sft": {"max_steps": 4},
    "comparisons": {"source": "human", "pairs": 24},
    "evaluation": {"prompts": 6, "held_out_pairs": 12, "bootstrap": 50},
}  # fmt: skip
"""A suite on the tiny model that is made in code, but for its methods."""


@dataclass(frozen=True)
class Bench:
    """A folder with a suite, a home and its results: what one command works on, however often."""

    folder: Path
    suite: Mapping[str, Any]
    options: Sequence[str] = ()
    plant: Sequence[str] = ()  # faults, see planted/sitecustomize.py
    environment: Mapping[str, str] = field(default_factory=dict)
    path: Sequence[Path] = ()  # of modules, before those of this process

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def start(self, *arguments: str, **how: Any) -> subprocess.Popen[str]:
        """`alignbench run SUITE`, or another command, in a session of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.suite:  # else it lies there, or there is none
            (self.folder / "suite.yaml").write_text(json.dumps(self.suite))  # JSON is YAML
        command = [*ALIGNBENCH, *(arguments or ("run", "suite.yaml", *self.options))]
        return subprocess.Popen(
            command, cwd=self.folder, env=self._environment(), text=True, errors="replace", start_new_session=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
               "preexec_fn": _default_signals, **how},
        )  # fmt: skip

    def run(self, *arguments: str, limit: float = 900, **how: Any) -> subprocess.CompletedProcess[str]:
        """The same, waited for; what takes longer than `limit` seconds is ended, with exit code -9."""
        process = self.start(*arguments, **how)
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            end_all(process)
            out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def _environment(self) -> dict[str, str]:
        path = [str(PLANTED)] if self.plant else []
        path += [*map(str, self.path), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {
            "ALIGNBENCH_HOME": str(self.home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200",
            "RELIABILITY_PLANT": " ".join(self.plant), "RELIABILITY_SPY": str(self.folder / "spy"),
        }  # fmt: skip
        return {**os.environ, **own, **({"PYTHONPATH": os.pathsep.join(path)} if path else {}), **self.environment}

    def records(self) -> list[dict[str, Any]]:
        """What the run said of each row, but for what may differ from run to run; empty without a table."""
        path = self.folder / "results" / "suite" / "records.jsonl"
        rows = [comparable(record) for record in (read_records(path) if path.exists() else [])]
        return [{name: row[name] for name in row if name != "provenance"} for row in rows]  # a suite's text is its own

    def stages(self) -> dict[str, dict[str, str]]:
        """sha256 of every published file by stage, read from the files; the manifest holds times, and stays out."""
        return {
            folder.name: {
                path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.name != "manifest.json"
            }
            for folder in sorted((self.home / "stages").glob("*/*"))
        }


def end_all(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    """Signal a process and everything below it at once."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(process.pid)
        for one in [first, *first.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str], limit: float = 120) -> bool:
    """Whether it came to be so while the process lived."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if is_so():
            return True
        if process.poll() is not None:
            return is_so()
        time.sleep(0.005)
    raise TimeoutError(f"nothing came of it within {limit:g} s")


def _default_signals() -> None:
    """Whoever runs this in the background of a shell has Ctrl-C ignored, and a child would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
