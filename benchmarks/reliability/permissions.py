"""A cache that may only be read serves what it holds; what cannot be written is one line. Permissions do not bind root,
so where this runs as root the command runs without the capability to pass over them."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.reliability.point import Control, Measured
from benchmarks.reliability.runs import ORACLE, Bench

PR_CAPBSET_DROP, PASSES_OVER = 24, (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; prctl(2), capabilities(7)


def measure(is_quick: bool, folder: Path) -> Measured:
    as_root = os.geteuid() == 0
    who: dict[str, Any] = {"preexec_fn": _bind} if as_root else {}
    bench = Bench(folder / "work", {**ORACLE, "methods": ["sft"]})
    bench.run()
    (folder / "free").mkdir()
    (folder / "shut").mkdir(mode=0o555)
    free, shut = ("--results", str(folder / "free")), ("--results", str(folder / "shut" / "x"))
    with _read_only(bench.home):
        served = bench.run("run", "suite.yaml", *free, **who)
        shared = {"ALIGNBENCH_HOME": str(bench.home)}
        other = Bench(folder / "other", {**ORACLE, "max_steps": 2, "methods": ["dpo"]}, environment=shared)
        lacking = other.run("run", "suite.yaml", *free, **who)
    unwritable = bench.run("run", "suite.yaml", *shut, **who)
    good = served.returncode == 0 and (folder / "free" / "suite" / "records.jsonl").exists()
    refused = (lacking, unwritable)
    lines = [_is_one_line(one) for one in refused]
    control = bench.run("run", "suite.yaml", "--results", str(folder / "free2"), "--force")
    return Measured(
        f"as {'root, bound by permissions' if as_root else 'the user'}: a read-only cache that holds all "
        f"{'serves' if good else f'does not serve: {served.stderr[-200:]!r}'}; {sum(lines)} of 2 refusals are one line"
        + "".join(f"; {one.stderr[-200:]!r}" for one in refused if not _is_one_line(one)),
        "serves; each refusal one line, exit code 2",
        good and all(lines),
        Control("with leave to write the refused run is not refused", control.returncode == 0),
    )


def _bind() -> None:
    """In the child, before the command: what it executes gets no such capability."""
    for capability in PASSES_OVER:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def _is_one_line(done: subprocess.CompletedProcess[str]) -> bool:
    return done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("alignbench: ")


@contextmanager
def _read_only(root: Path) -> Iterator[None]:
    paths = [root, *root.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)
