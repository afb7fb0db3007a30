"""`alignbench new`: templates -> a folder that pip installs and whose tests pass at once.

The templates are files of this package, filled in by `string.Template`. What they hold is a method, or a reward source,
that works: an author changes a thing that runs rather than completes one that does not. The folder appears whole or not
at all: it is written beside its place and renamed into it.
"""

from __future__ import annotations

import keyword
import re
import tempfile
from importlib import metadata, resources
from pathlib import Path
from string import Template
from typing import Literal, NamedTuple

from alignbench.errors import UserError
from alignbench.hookspecs import PROJECT
from alignbench.plugins import load_catalog

Kind = Literal["method", "reward"]
HARNESS = "harness"  # what `alignbench check` calls the engine
# Narrower than `plugins.NAME`: it also names a distribution, a module and a class.
PARTS = re.compile(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*")
SHARED = {"gitignore.in": ".gitignore", "pyproject.toml.in": "pyproject.toml"}
OWN = {"README.md.in": "README.md", "module.py.in": "$module.py", "test.py.in": "tests/test_$stem.py"}


class Names(NamedTuple):
    """One name in each spelling that a distribution needs."""

    name: str  # in a suite: "my-method"
    stem: str  # "my_method"
    module: str  # "alignbench_my_method"
    distribution: str  # "alignbench-my-method"
    cls: str  # "MyMethod"


def new_distribution(kind: Kind, name: str, parent: Path) -> Path:
    """Write `parent`/`name` and return it. UserError if the name will not do or the folder is there already."""
    names = spellings(name)
    if name == HARNESS:
        raise UserError(f"name '{name}': `alignbench check {name}` means alignbench itself; choose another name")
    if owner := _owner(names):
        raise UserError(f"'{name}' is taken by {owner}, which is installed here; choose another name")
    folder, files = parent / name, _filled(kind, names)
    try:
        if folder.exists() or folder.is_symlink():
            raise UserError(f"{folder}: already exists; choose another name, or another place with --into")
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=parent) as scratch:
            whole = Path(scratch) / name
            for path, text in files.items():
                (whole / path).parent.mkdir(parents=True, exist_ok=True)
                (whole / path).write_text(text, encoding="utf-8")
            whole.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}; name an existing folder with --into") from None
    return folder


def spellings(name: str) -> Names:
    """UserError, with a name that would do, if this one does not."""
    cls = "".join(part.capitalize() for part in re.split("[._-]", name))
    if not PARTS.fullmatch(name):
        tidied = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789") or "my-method"
        raise UserError(
            f"name {name!r}: allowed are lower-case letters and digits, a letter first, "
            f"in parts joined by one '-', '_' or '.'; for example '{tidied}'"
        )
    if keyword.iskeyword(cls):
        raise UserError(f"name '{name}': its class would be called {cls}, a word of Python; choose another name")
    stem = re.sub("[.-]", "_", name)
    return Names(name, stem, f"alignbench_{stem}", f"alignbench-{re.sub('[._]', '-', name)}", cls)


def _owner(names: Names) -> str | None:
    """The installed distribution that has this name for a plugin, an entry point or itself."""
    catalog = load_catalog()
    for plugins in (catalog.methods, catalog.sources, catalog.tasks):
        if names.name in plugins:
            return plugins[names.name].distribution
    for point in metadata.entry_points(group=PROJECT):  # those that fail to load are among them
        if point.dist is not None:
            own = re.sub("[._-]+", "-", point.dist.name.lower())
            if point.name == names.name or own == names.distribution:
                return point.dist.name
    return None


def _filled(kind: Kind, names: Names) -> dict[str, str]:
    """Text by path within the distribution."""
    templates = resources.files("alignbench.scaffold") / "templates"
    placed = {templates / "shared" / source: path for source, path in SHARED.items()}
    placed |= {templates / kind / source: path for source, path in OWN.items()}
    values = {**names._asdict(), "kind": {"method": "An alignment method", "reward": "A reward source"}[kind]}
    return {
        Template(path).substitute(values): Template(source.read_text(encoding="utf-8")).substitute(values)
        for source, path in placed.items()
    }
