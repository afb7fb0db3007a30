"""Asset folders: whole and verified by a list of checksums (`asset.json`), or not under their name at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alignbench.errors import UserError
from alignbench.store.locks import flocked
from alignbench.store.paths import home

MANIFEST = "asset.json"


def kept(name: str, source_sha256: str, fill: Callable[[Path], dict[str, str]]) -> Path:
    """The asset's folder. Unless it is whole and of this source, `fill` makes it anew in an empty folder and says what
    it is made of; of two processes one waits for the other."""
    root = home() / "assets"
    folder, partial = root / name, f".{name}.partial-"
    if _is_whole(folder, source_sha256):  # before the lock, which a shared cache that may only be read does not grant
        return folder
    with ExitStack() as held:
        try:
            root.mkdir(parents=True, exist_ok=True)
            held.enter_context(flocked(root / f".{name}.lock", fcntl.LOCK_EX, os.O_RDWR | os.O_CREAT))
        except OSError as error:
            raise UserError(
                f"cannot make {folder} ({error.strerror}): set ALIGNBENCH_HOME to a folder of yours"
            ) from None
        if _is_whole(folder, source_sha256):
            return folder
        for killed in root.glob(f"{partial}*"):
            shutil.rmtree(killed, ignore_errors=True)
        with TemporaryDirectory(prefix=partial, dir=root, ignore_cleanup_errors=True) as work:
            built = Path(work, "built")
            built.mkdir()
            about = {"name": name, **fill(built), "source_sha256": source_sha256}
            manifest = about | {"files": checksums(built.iterdir())}
            (built / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            _publish(built, folder)
    return folder


def manifest_of(folder: Path) -> dict[str, Any]:
    """What asset.json says; empty where there is no readable one."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_whole(folder: Path, source_sha256: str) -> bool:
    manifest = manifest_of(folder)
    files = manifest.get("files", {})
    if manifest.get("source_sha256") != source_sha256 or not all((folder / name).is_file() for name in files):
        return False
    return checksums(folder / name for name in files) == files


def _publish(built: Path, folder: Path) -> None:
    for path in (*built.iterdir(), built):
        _fsync(path)
    if folder.exists():
        folder.rename(built.with_name("replaced"))  # damaged, or made from another archive
    built.rename(folder)
    _fsync(folder.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksums(paths: Iterable[Path]) -> dict[str, str]:
    return {path.name: _sha256(path) for path in sorted(paths)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_sha256(path: Path, expected: str, what: str) -> None:
    if _sha256(path) != expected:
        raise mismatch(what, expected)


def mismatch(what: str, expected: str) -> UserError:
    return UserError(
        f"{what}: its sha256 is not the pinned {expected[:12]}...; nothing was kept: fetch again, or from another index"
    )
