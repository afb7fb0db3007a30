"""Stage artifacts on disk, filed under the key of everything that made them. No torch.

    root/stages/<key[:2]>/<key>/   published: files and manifest.json, never changed afterwards
    root/tmp/                      being written, each folder locked by its writer
    root/scratch/<key>/            what a stage keeps while it is computed; outlives a kill, goes when it is published
    root/locks/                    one lock file per key
    root/damaged/                  stages that failed verification, kept for inspection

A stage becomes visible by one rename, after its bytes are on the disk: a process killed at any instant leaves a whole
stage or none. Every read checks every byte: a cache that may be wrong is worse than no cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from alignbench.errors import UserError
from alignbench.store.locks import READ_ONLY, flocked
from alignbench.store.paths import home as store_home

FORMAT = 1  # of every JSON file alignbench keeps; raised when an older reader would misread a newer file
MANIFEST = "manifest.json"
ELSEWHERE = "set ALIGNBENCH_HOME to a folder of yours"
KEY = re.compile(r"[0-9a-f]{8,128}")


@dataclass(frozen=True)
class Store:
    """Published stages by content key. Safe for any number of processes and threads."""

    root: Path = field(default_factory=store_home)

    def get(self, key: str) -> Path | None:
        """The stage's folder after checking every byte of it. A damaged stage is moved aside, and None returned."""
        folder = self._place(key)
        if not folder.is_dir():
            return None
        try:
            _verify(folder, _manifest(folder))
        except (_DamageError, FileNotFoundError) as damage:
            if not folder.is_dir():  # another reader has moved it aside meanwhile
                return None
            warnings.warn(f"stage {key} is damaged ({damage}); {self._put_aside(folder)}", stacklevel=2)
            return None
        except OSError as error:
            raise UserError(f"{folder} cannot be read ({error.strerror}): {ELSEWHERE}") from None
        return folder

    def has(self, key: str) -> bool:
        """Whether the stage looks whole by its manifest and file sizes. Cheap; `get` is what verifies."""
        folder = self._place(key)
        try:
            files = _manifest(folder)["files"]
            return all((folder / name).stat().st_size == known["size"] for name, known in files.items())
        except (_DamageError, OSError):
            return False

    def meta(self, key: str) -> dict[str, Any]:
        """What `publish` was told about the stage. KeyError if it is absent or its manifest is damaged."""
        try:
            return dict(_manifest(self._place(key))["meta"])
        except (_DamageError, OSError) as damage:
            raise KeyError(f"stage {key}: {damage}") from None

    def scratch(self, key: str) -> Path:
        """A folder for what a stage keeps between attempts, made on demand; for who holds the key's lock."""
        self._place(key)
        return self._made(self.root / "scratch" / key)

    @contextmanager
    def publish(self, key: str, meta: dict[str, Any]) -> Iterator[Path]:
        """A private folder to fill, which becomes the stage on a clean exit and vanishes on an exception.

        `meta` holds JSON values and is read at the exit, so the block may add what it measured. If the key was
        published meanwhile, that stage stays and this one is dropped. The stage's scratch goes once it is published.
        """
        place, scratch = self._place(key), self.root / "scratch" / key
        with self._private_folder(key) as folder:
            try:
                yield folder
            except BaseException:
                _remove_if_empty(scratch)
                raise
            _seal(folder, key, meta)
            self._made(place.parent)
            try:
                folder.rename(place)
            except OSError:
                if not place.is_dir():
                    raise
                if self.get(key) is None:  # what stood there was damaged, and has now made room
                    if place.is_dir():
                        raise UserError(f"{place} is damaged and cannot be moved aside; delete it by hand") from None
                    folder.rename(place)
            _sync(place.parent, place.parent.parent)
        shutil.rmtree(scratch, ignore_errors=True)

    @contextmanager
    def lock(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Held by one process or thread at a time; others wait, each after one call of its `waiting`. Look for the
        stage again once you hold it.

        The kernel lets go of it when its holder dies. It is not reentrant, and a forked child does not hold it. A cache
        that cannot be written needs no lock: nothing is made there, and what is there does not change.
        """
        self._place(key)
        with self._shared("locks", key, fcntl.LOCK_EX, waiting):
            yield

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Held by whoever uses stages beyond their locks, such as a run; any number may. `prune` then removes none."""
        with self._shared("", "in-use", fcntl.LOCK_SH):
            yield

    @contextmanager
    def _shared(
        self, room: str, name: str, operation: int, waiting: Callable[[], None] | None = None
    ) -> Iterator[None]:
        with ExitStack() as held:
            try:
                path = _made(self.root / room) / name
                held.enter_context(flocked(path, operation, os.O_RDWR | os.O_CREAT, waiting))
            except OSError as error:
                if error.errno not in READ_ONLY:
                    raise UserError(f"{self.root / room} cannot be used ({error.strerror}): {ELSEWHERE}") from None
                with suppress(OSError):  # whoever may write there may be at work, and the lock be there to wait for
                    held.enter_context(flocked(self.root / room / name, operation, os.O_RDONLY, waiting))
            yield

    def _place(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise ValueError(f"stage key {key!r} is not 8 to 128 lower-case hexadecimal digits")
        return self.root / "stages" / key[:2] / key

    def _made(self, folder: Path) -> Path:
        try:
            return _made(folder)
        except OSError as error:
            raise UserError(f"{folder} cannot be made ({error.strerror}): {ELSEWHERE}") from None

    def put_aside(self, key: str) -> str:
        """Take a stage that is not to be trusted out of the store. Says where to."""
        return self._put_aside(self._place(key))

    def _put_aside(self, folder: Path) -> str:
        """What became of a damaged stage."""
        try:
            aside = _made(self.root / "damaged") / f"{folder.name}.{uuid.uuid4().hex[:8]}"
            with suppress(FileNotFoundError):  # another reader was quicker
                folder.rename(aside)
        except OSError as error:
            return f"it is not used, and cannot be moved aside ({error.strerror})"
        return f"moved to {aside}, to be computed again"

    @contextmanager
    def _private_folder(self, key: str) -> Iterator[Path]:
        folder = self._made(self.root / "tmp") / f"{key[:12]}.{os.getpid()}.{uuid.uuid4().hex[:12]}"
        creating = self._made(self.root / "locks") / "tmp"
        with ExitStack() as held:
            try:
                # A folder is made and locked in one breath, or a sweep could take it for an abandoned one.
                with flocked(creating, fcntl.LOCK_EX, os.O_RDWR | os.O_CREAT):
                    self.sweep()
                    folder.mkdir()
                    held.enter_context(flocked(folder, fcntl.LOCK_SH))
            except OSError as error:
                raise UserError(f"{self.root} cannot be written ({error.strerror}): {ELSEWHERE}") from None
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what dead processes left; for who holds locks/tmp.

        A lock tells, where a process id would not: ids are used again, and mean nothing to another container or host
        that shares the folder.
        """
        for folder in (self.root / "tmp").iterdir():
            with suppress(OSError), flocked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):  # refused: its writer lives
                shutil.rmtree(folder)


class _DamageError(Exception):
    """How a stage differs from what was published."""


def _seal(folder: Path, key: str, meta: Mapping[str, Any]) -> None:
    names = _files(folder)
    if MANIFEST in names:
        raise ValueError(f"{MANIFEST} is the store's own file; name yours otherwise")
    if links := [name for name in names if not (folder / name).is_file() or (folder / name).is_symlink()]:
        raise ValueError(f"a stage holds plain files only, and {links[0]} is not one")
    _sync(*(folder / name for name in names))
    manifest = {
        "format": FORMAT,
        "key": key,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "meta": dict(meta),
        "files": {name: _fingerprint(folder / name) for name in names},
    }
    manifest = json.loads(_dumps(manifest))  # as it will be read: a key 1 becomes "1"
    write_json(folder / MANIFEST, {**manifest, "sha256": _checksum(manifest)})
    _sync(*(path for path in folder.rglob("*") if path.is_dir()), folder)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        _refuse_pipe(path)
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _DamageError(f"{MANIFEST} is missing") from None
    except ValueError:
        raise _DamageError(f"{MANIFEST} is not JSON") from None
    # The checksum comes before the format number, which a flipped bit may also hit: later formats must keep this rule.
    if not isinstance(manifest, dict) or manifest.pop("sha256", None) != _checksum(manifest):
        raise _DamageError(f"{MANIFEST} is altered")
    _refuse_newer(path, manifest)
    if manifest["key"] != folder.name:
        raise _DamageError(f"{MANIFEST} is that of stage {manifest['key']}")
    return manifest


def _verify(folder: Path, manifest: Mapping[str, Any]) -> None:
    present, listed = set(_files(folder)) - {MANIFEST}, manifest["files"]
    for name in sorted(present ^ listed.keys()):
        raise _DamageError(f"{name} is {'missing' if name in listed else 'not in the manifest'}")
    for name, known in listed.items():
        seen = _fingerprint(folder / name)
        if seen["size"] != known["size"]:
            raise _DamageError(f"{name} has {seen['size']} bytes instead of {known['size']}")
        if seen != known:
            raise _DamageError(f"{name} is altered")


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    )


def _refuse_pipe(path: Path) -> None:
    """Opening a named pipe would wait for a writer, for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise _DamageError(f"{path.name} is no plain file")


def _fingerprint(path: Path) -> dict[str, Any]:
    _refuse_pipe(path)
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": os.fstat(file.fileno()).st_size}


def _checksum(manifest: Any) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _remove_if_empty(folder: Path) -> None:
    """Unless it, or a folder in it, holds a file."""
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
        with suppress(OSError):
            path.rmdir()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _sync(*paths: Path) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ------------------------------------------------------------------------------------------------------- single files


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path`, whole or not at all. Folders on the way are made."""
    _replace(path, lambda file: file.write(text))


def write_json(path: Path, value: Any) -> None:
    """Like `write_text`. Numbers must be finite: NaN is not JSON, and other readers stop at it."""
    write_text(path, _dumps(value, indent=2) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, written like `write_text`."""
    _replace(path, lambda file: file.writelines(_dumps(row) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """UserError if the file is not JSON, or says it has a newer format."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); delete it, or restore it from a copy") from None
    _refuse_newer(path, value)
    return value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file; UserError names the line that is not a JSON object."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is {type(row).__name__}; a JSON object is allowed")
        rows.append(row)
    return rows


def _replace(path: Path, write: Callable[[IO[str]], Any]) -> None:
    temporary = _made(path.parent) / f".{path.name}.{uuid.uuid4().hex[:12]}"
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, allow_nan=False)


def _refuse_newer(path: Path, value: Any) -> None:
    seen = value.get("format") if isinstance(value, dict) else None
    if isinstance(seen, int) and seen > FORMAT:
        raise UserError(
            f"{path} has format {seen} and this alignbench reads up to {FORMAT}; upgrade: pip install -U alignbench"
        )
