"""Which files a piece of code rests on: its own, those of the modules it imports, and so on down.

Found by reading, not by running: an import is resolved without executing what it names. A distribution that came from
an index stands for itself by name and version; one installed from a folder, editable or not, may change under its
version and is read. The standard library and `LIBRARIES` are recorded once for a whole plan and left out here.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from alignbench.planning import code

CORE = "alignbench"
LIBRARIES = {
    "torch": "torch", "transformers": "transformers", "peft": "peft", "tokenizers": "tokenizers", "numpy": "numpy",
    "safetensors": "safetensors", "datasets": "datasets", "pandas": "pandas", "scipy": "scipy",
    "pydantic": "pydantic", "yaml": "PyYAML",
}  # by the name they are imported under; any of them can change a stage's bytes  # fmt: skip
FOREIGN = sys.stdlib_module_names | LIBRARIES.keys()
ASIDE = {"tests", "test", "__pycache__"}  # folders of a package that no run reads
LEFT_OUT = {".pyc", ".pyo", ".pyi"}


class Place(NamedTuple):
    """Where a module lies: no file for a namespace package, no folders for a module without submodules."""

    file: Path | None
    folders: tuple[str, ...]


class Found(NamedTuple):
    """Digests by member, and the files and folders they came from with their times."""

    digests: dict[str, str]
    times: dict[Path, int]

    def still_holds(self) -> bool:
        with contextlib.suppress(OSError):
            return all(path.stat().st_mtime_ns == time for path, time in self.times.items())
        return False


_MEMO: dict[Any, Found] = {}  # a plan asks for the same few classes at every stage


def contents(names: Iterable[str], core_only: bool = False, without: Collection[str] = ()) -> dict[str, str]:
    """Digests of all that the modules rest on, by their names below the folder they are imported from.

    Of a package everything counts, its data and its compiled files too, for any part may read them; but not its tests.
    `core_only` stays within alignbench, whose files count one by one; `without` names modules and packages to stop at.
    """
    entries: dict[str, Place] = {}
    for name in sorted(set(names)):
        if _root(name) not in FOREIGN:
            place = locate(name, {})
            if place is None:
                raise ModuleNotFoundError(f"no module '{name}' to take a key from", name=name)
            entries[name] = place
    question = (tuple(entries.items()), core_only, frozenset(without))
    if question not in _MEMO or not _MEMO[question].still_holds():
        _MEMO[question] = _search(list(entries), core_only, without)
        code.save()
    return _MEMO[question].digests


def _search(entries: list[str], core_only: bool, without: Collection[str]) -> Found:
    own = {CORE, *map(_root, entries)}
    found = Found({}, {})
    documented: dict[str, str] = {}
    reads_docs = False
    places: dict[str, Place | None] = {}
    listed: set[Path] = set()  # packages
    seen: set[str] = set()
    queue = list(entries)
    while queue:
        name = queue.pop()
        root = _root(name)
        if name in seen or root in FOREIGN or (core_only and root != CORE):
            continue
        if any(name == stop or name.startswith(f"{stop}.") for stop in without):
            continue
        seen.add(name)
        place = locate(name, places)
        if place is None or place.file is None:
            continue
        if root not in own and (owners := _distributions(root, _base(name, place))):
            found.digests.update(owners)
            continue
        for member, file in _members(name, place, places, listed):
            if member not in found.digests:
                said = code.facts(file)
                found.digests[member] = said.digest
                documented[member] = said.documented
                reads_docs |= said.reads_docs
                found.times.update((path, path.stat().st_mtime_ns) for path in (file, file.parent))
                queue += (target for one in said.imports for target in _targets(one, member))
    if reads_docs:  # a docstring may be data, such as a prompt, of whichever module it is
        found.digests.update(documented)
    return found


def locate(name: str, places: dict[str, Place | None]) -> Place | None:
    """Where a module lies, without importing it: as loaded, else as it would be found."""
    if name not in places:
        places[name] = _locate(name, places)
    return places[name]


def _locate(name: str, places: dict[str, Place | None]) -> Place | None:
    if (module := sys.modules.get(name)) is not None:
        return _on_disk(getattr(module, "__file__", None), getattr(module, "__path__", ()))
    above = name.rpartition(".")[0]
    try:
        if not above:
            spec = importlib.util.find_spec(name)
        else:
            parent = locate(above, places)
            spec = importlib.machinery.PathFinder.find_spec(name, parent.folders) if parent else None
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    return _on_disk(spec.origin if spec.has_location else None, spec.submodule_search_locations or ())


def _on_disk(file: str | None, folders: Iterable[str]) -> Place:
    """A module inside an archive lies where the archive does."""
    path = Path(file) if file else None
    if path is None or path.is_file():
        return Place(path, tuple(folders))
    return Place(next((above for above in path.parents if above.is_file()), None), ())


def _members(name: str, place: Place, places: dict[str, Place | None], listed: set[Path]) -> Iterator[tuple[str, Path]]:
    """The module's file and, where it belongs to a package, the package's other files."""
    assert place.file is not None
    is_package = bool(place.folders)
    path = name.replace(".", "/")
    yield (f"{path}/{place.file.name}" if is_package else f"{path}{place.file.suffix}"), place.file
    if _root(name) == CORE:
        return
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        top = locate(".".join(parts[:depth]), places)
        if top is not None and top.file is not None and top.folders:
            folder = top.file.parent
            for file in _files(folder) if folder not in listed else ():
                yield "/".join((*parts[:depth], *file.relative_to(folder).parts)), file
            listed.add(folder)
            return
    for file in _named_beside(place.file):
        yield "/".join((*parts[:-1], *file.relative_to(place.file.parent).parts)), file


def _named_beside(module: Path) -> Iterator[Path]:
    """The data of a lone module, whose folder holds anybody's files: those that it names, if it asks where it lies. A
    file that it writes there counts too, and changes the key: stages write into their own folder."""
    if module.suffix != ".py" or b"__file__" not in module.read_bytes():
        return
    for text in sorted(code.strings(module)):
        with contextlib.suppress(OSError, ValueError):  # no file's name
            there = Path(os.path.normpath(module.parent / text.lstrip("/")))  # f"{folder}/name" has "/name"
            if module.parent not in there.parents:
                continue
            if there.is_file():
                yield there
            elif there.is_dir() and not (there / "__init__.py").exists():
                yield from _files(there)


def _files(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """The files below a folder that a run may read; links are followed, but not back up."""
    above |= {folder.resolve()}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in ASIDE:
            continue
        if path.is_dir():
            if path.resolve() not in above:
                yield from _files(path, above)
        elif path.is_file() and path.suffix not in LEFT_OUT and not _is_test(path):
            yield path


def _is_test(path: Path) -> bool:
    return path.suffix == ".py" and (path.stem == "conftest" or path.stem.startswith("test_"))


def _targets(one: code.Import, member: str) -> Iterator[str]:
    """Modules that an import in file `member` may load: what it names, every package above, and names after `from`."""
    base = one.base
    if one.level:
        package = member.split("/")[: -one.level]  # of a/b/c.py and of a/b/__init__.py alike, `.` is a.b
        base = ".".join((*package, *filter(None, [base])))
    parts = base.split(".") if base else []
    yield from (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    yield from (f"{base}.{name}" for name in one.names if base and name != "*")


def _root(name: str) -> str:
    return name.partition(".")[0]


def _base(name: str, place: Place) -> Path:
    """The folder of the import path that holds the module."""
    assert place.file is not None
    return place.file.parents[name.count(".") + bool(place.folders)]


@cache
def _distributions(root: str, base: Path) -> dict[str, str]:
    """Versions of the distributions from an index that bring `root` into folder `base`. None: its files are read."""
    if not any(base.glob("*.dist-info")):
        return {}
    return _from_an_index([root], base) or _from_an_index(_owners().get(root, []), base)


@lru_cache
def _owners() -> Mapping[str, list[str]]:
    """Distributions by the names they bring; 0.2 s, so first a distribution of the import's own name is tried."""
    return importlib.metadata.packages_distributions()


def _from_an_index(names: Iterable[str], base: Path) -> dict[str, str]:
    found = {}
    for name in set(names):
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        is_here = Path(str(distribution.locate_file(""))).resolve() == base.resolve()
        if is_here and distribution.read_text("direct_url.json") is None:
            found[f"distribution {distribution.name}"] = distribution.version
    return found
