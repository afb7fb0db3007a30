"""A disk that fills up during a run: said in plain words, nothing half-written, and the same command goes on.

The disk is a small one in memory, mounted where this process and its children alone see it (`unshare`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.reliability.point import Control, Measured
from benchmarks.reliability.runs import ORACLE, Bench

APART = ("unshare", "--map-root-user", "--mount")  # a user without rights may mount there
SUITE = {**ORACLE, "methods": ["sft", "dpo"]}
ROOMY = "200m"
KIB = 1024


def measure(is_quick: bool, folder: Path) -> Measured:
    target = "said without a traceback, no stage torn, then the same records"
    if subprocess.run([*APART, "true"], capture_output=True, check=False).returncode:
        nothing = "not measured: no disk can be mounted here"
        return Measured(nothing, target, True, Control(nothing, True))
    alone = Bench(folder / "alone", SUITE)
    alone.run()
    toy, whole = _size(alone.home / "assets"), _size(alone.home)
    sizes = [toy + (whole - toy) * i // (2 if is_quick else 9) for i in range(2 if is_quick else 9)]
    command = [*APART, sys.executable, "-m", __spec__.name, str(folder), *map(str, sizes)]
    seen = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    runs = seen["runs"]
    said, whole_, same = (sum(run[name] for run in runs) for name in ("said", "whole", "same"))
    return Measured(
        f"{len(runs)} disks filled at {sizes[0] // KIB} to {sizes[-1] // KIB} KiB: {said} runs said so in plain words, "
        f"{whole_} left whole stages alone, {same} of {len(runs)} ended with the same records once there was room",
        target,
        said == whole_ == same == len(runs) > 0,
        Control(f"a file written in place on such a disk keeps {seen['torn']} of {seen['asked']} bytes",
                0 < seen["torn"] < seen["asked"]),
    )  # fmt: skip


def _inside(folder: Path, sizes: list[int]) -> dict[str, Any]:
    """In a process that may mount: a run on each full disk, and again with room."""
    runs, alone = [], Bench(folder / "alone", SUITE)
    for size in sizes:
        bench = Bench(folder / f"disk-{size}", SUITE)
        _mount(bench.home, f"{-(-size // KIB)}k")
        shutil.copytree(alone.home / "assets", bench.home / "assets")
        full = bench.run()
        is_said = full.returncode in (1, 2) and "Traceback" not in full.stderr and "o space" in full.stderr
        whole = alone.stages()
        is_whole = all(whole[key] == files for key, files in bench.stages().items())
        subprocess.run(["mount", "-o", f"remount,size={ROOMY}", bench.home], check=True)
        again = bench.run()
        is_same = again.returncode == 0 and bench.records() == alone.records() and bench.stages() == whole
        runs.append({"said": is_said, "whole": is_whole, "same": is_same})
        subprocess.run(["umount", "--lazy", bench.home], check=True)
    asked = 256 * KIB
    _mount(folder / "plain", "128k")
    with suppress(OSError):
        (folder / "plain" / "file").write_bytes(bytes(asked))
    return {"runs": runs, "asked": asked, "torn": (folder / "plain" / "file").stat().st_size}


def _mount(folder: Path, size: str) -> None:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)


def _size(folder: Path) -> int:
    """Bytes on a disk in memory: files by pages of 4 KiB, folders for nothing."""
    files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(-(-size // 4096) * 4096 for size in files)


if __name__ == "__main__":
    print(json.dumps(_inside(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])))
