"""What the cache holds, whether it is whole, and how it gets smaller. No stage is taken from whoever uses it."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from alignbench.errors import UserError, in_words
from alignbench.store.artefacts import ELSEWHERE, KEY, MANIFEST, Store, read_json
from alignbench.store.locks import READ_ONLY, flocked

DAY = 86_400  # seconds


@dataclass(frozen=True)
class Kept:
    """One stage, without a look at its bytes."""

    key: str
    kind: str  # "?" where the manifest does not say
    size_bytes: int
    made: datetime

    @property
    def age_days(self) -> float:
        return max(0.0, (datetime.now(UTC) - self.made).total_seconds() / DAY)


@dataclass
class Freed:
    stages: int = 0
    size_bytes: int = 0  # of the stages, of damaged ones and of leftovers
    in_use: int = 0  # stages that were to go and are locked


def kept(store: Store) -> list[Kept]:
    """Every stage, the oldest first."""
    return sorted((_kept(folder) for folder in _folders(store)), key=lambda one: (one.made, one.key))


def verify(store: Store) -> Iterator[tuple[str, str | None]]:
    """Each key, and what is wrong with its stage, if anything; a damaged one is moved aside."""
    for folder in list(_folders(store)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                store.get(folder.name)
            except UserError as error:
                yield folder.name, in_words(error)
                continue
        yield folder.name, str(said[0].message) if said else None


def prune(store: Store, older_than_days: float | None = None, larger_than_bytes: float | None = None) -> Freed:
    """Remove stages beyond an age, then the oldest until the rest fits a size; and all that is of no use."""
    freed = Freed()
    if not store.root.is_dir():
        return freed
    with ExitStack() as held:
        try:
            held.enter_context(flocked(store.root / "in-use", fcntl.LOCK_EX | fcntl.LOCK_NB, os.O_RDWR | os.O_CREAT))
        except BlockingIOError:
            raise UserError(f"a run is using {store.root}; prune when it has ended") from None
        except OSError as error:
            problem = "written" if error.errno in READ_ONLY else "used"
            raise UserError(f"{store.root} cannot be {problem} ({error.strerror}): {ELSEWHERE}") from None
        stages = kept(store)
        left = sum(one.size_bytes for one in stages)
        for one in stages:
            is_old = older_than_days is not None and one.age_days > older_than_days
            if is_old or (larger_than_bytes is not None and left > larger_than_bytes):
                if _remove(store, one.key):
                    freed.stages += 1
                    freed.size_bytes += one.size_bytes
                    left -= one.size_bytes
                else:
                    freed.in_use += 1
        freed.size_bytes += _emptied(store.root / "damaged") + _swept(store) + _unscratched(store, older_than_days)
    return freed


def _folders(store: Store) -> Iterator[Path]:
    for folder in sorted((store.root / "stages").glob("??/*")):
        if KEY.fullmatch(folder.name) and folder.is_dir():
            yield folder


def _kept(folder: Path) -> Kept:
    kind, made = "?", None
    with suppress(Exception):  # damaged, newer or gone: `verify` says so
        manifest = read_json(folder / MANIFEST)
        made = datetime.fromisoformat(manifest["created"]).astimezone(UTC)
        kind = str(manifest["meta"]["kind"])
    if made is None:
        try:
            made = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
        except OSError:
            made = datetime.now(UTC)
    return Kept(folder.name, kind, _size(folder), made)


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += 0 if path.is_symlink() or path.is_dir() else path.stat().st_size
    return total


def _remove(store: Store, key: str) -> bool:
    """False if the stage is locked. It goes by one rename, so no reader ever sees a part of it."""
    folder = store.root / "stages" / key[:2] / key
    locks, tmp = store.root / "locks", store.root / "tmp"
    locks.mkdir(exist_ok=True)
    tmp.mkdir(exist_ok=True)
    going = tmp / f"{key[:12]}.pruned.{uuid.uuid4().hex[:12]}"
    try:
        with flocked(locks / key, fcntl.LOCK_EX | fcntl.LOCK_NB, os.O_RDWR | os.O_CREAT):
            folder.rename(going)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(f"{folder} cannot be removed ({error.strerror}); see who owns it") from None
    shutil.rmtree(going, ignore_errors=True)
    return True


def _unscratched(store: Store, older_than_days: float | None) -> int:
    """Bytes of the scratch that went: that of published stages, and what nobody has touched for so many days."""
    freed, locks = 0, store.root / "locks"
    for folder in list((store.root / "scratch").glob("*")):
        newest = max((path.stat().st_mtime for path in [folder, *folder.rglob("*")]), default=0.0)
        is_old = older_than_days is not None and time.time() - newest > older_than_days * DAY
        if is_old or store.has(folder.name):
            locks.mkdir(exist_ok=True)
            with suppress(OSError), flocked(locks / folder.name, fcntl.LOCK_EX | fcntl.LOCK_NB, os.O_RDWR | os.O_CREAT):
                size = _size(folder)
                shutil.rmtree(folder, ignore_errors=True)
                freed += size
    return freed


def _emptied(folder: Path) -> int:
    size = _size(folder)
    for path in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(path, ignore_errors=True)
    return size - _size(folder)


def _swept(store: Store) -> int:
    tmp, locks = store.root / "tmp", store.root / "locks"
    if not tmp.is_dir():
        return 0
    before = _size(tmp)
    locks.mkdir(exist_ok=True)
    with flocked(locks / "tmp", fcntl.LOCK_EX, os.O_RDWR | os.O_CREAT):
        store.sweep()
    return max(0, before - _size(tmp))
