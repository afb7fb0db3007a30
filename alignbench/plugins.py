"""Find, load and check plugins: entry points of group `alignbench` -> `Catalog`.

pluggy keeps quiet about a misspelt hook, a hook without its marker and a second distribution under a taken name, and
lets one failing import end the program. Here each of these is a `Failure` with its cause, and everything sound still
loads. Where two owners claim one name neither gets it: a result must not depend on the order of sys.path. Each module
has a plugin manager of its own, so that a class is always attributed to its distribution, and a broken module disturbs
no other.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import pluggy

from alignbench import hookspecs
from alignbench.api import NEEDS, AlignmentMethod, Config, MethodConfig, RewardSource, Task
from alignbench.errors import UserError, in_words, nearest, printable

Kind = Literal["method", "source", "task"]
T = TypeVar("T")


class _Contract(NamedTuple):
    """What a class must be to enter the catalog."""

    kind: Kind
    base: type
    config: type[Config]
    arguments: int  # how many the harness passes to the constructor


CONTRACTS: Mapping[str, _Contract] = {
    "alignbench_methods": _Contract("method", AlignmentMethod, MethodConfig, 0),
    "alignbench_reward_sources": _Contract("source", RewardSource, Config, 1),
    "alignbench_tasks": _Contract("task", Task, Config, 1),
}
PREFIX = "alignbench_"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class Step(NamedTuple):
    """A place in planning at which a plugin's code runs."""

    kind: Literal["module", "row", "task"]
    name: str  # the module's, the row's label, the task's
    owner: str  # whose code it is


@dataclass(frozen=True)
class Steps:
    """Whom planning tells where it is, before each step and, with None, after it; and the steps that are not to be
    taken again, with the cause."""

    tell: Callable[[Step | None], None] = lambda step: None
    refused: Mapping[Step, str] = field(default_factory=dict)


NO_STEPS = Steps()


@dataclass(frozen=True)
class Plugin(Generic[T]):
    """A class that kept its contract, and whose it is."""

    name: str
    cls: type[T]
    distribution: str
    version: str
    kind: Kind
    module: str = ""  # the entry point's


@dataclass(frozen=True)
class Failure:
    """Something that was offered and not loaded."""

    entry_point: str
    distribution: str
    version: str
    cause: str  # one line
    plugin: str = ""  # the name it would have had, where that is known

    def __str__(self) -> str:
        return f"{_owner(self)}, entry point '{self.entry_point}': {self.cause}"

    def may_offer(self, name: str) -> bool:
        """Distributions and entry points are by custom named after what they bring: alignbench-ppo, ppo."""
        return _bare(name) in {_bare(self.plugin), _bare(self.entry_point), _bare(self.distribution)}


@dataclass(frozen=True)
class Catalog:
    """Every plugin that may be used, by name, and every one that may not, with the reason."""

    methods: dict[str, Plugin[AlignmentMethod]]
    sources: dict[str, Plugin[RewardSource]]
    tasks: dict[str, Plugin[Task]]
    failures: tuple[Failure, ...]

    def method(self, name: str) -> Plugin[AlignmentMethod]:
        return self._find("method", self.methods, name)

    def source(self, name: str) -> Plugin[RewardSource]:
        return self._find("source", self.sources, name)

    def task(self, name: str) -> Plugin[Task]:
        return self._find("task", self.tasks, name)

    def suspects(self, name: str) -> str:
        """What failed to load and may have brought a plugin of that name, with the reasons; "" if nothing."""
        return "; ".join(str(failure) for failure in self.failures if failure.may_offer(name))

    def _find(self, kind: Kind, plugins: dict[str, Plugin[T]], name: str) -> Plugin[T]:
        if name in plugins:
            return plugins[name]
        message = f"no {kind} '{name}': {nearest(name, plugins)}"
        if suspects := self.suspects(name):
            message = f"no {kind} '{name}'; what may bring it failed to load: {suspects}"
        elif self.failures:
            message += f" ({len(self.failures)} failed to load, `alignbench plugins` says why)"
        raise UserError(message)


def load_catalog(
    extra_modules: Sequence[str] = (), only: Collection[str] | None = None, steps: Steps = NO_STEPS
) -> Catalog:
    """Load every installed plugin, and `extra_modules` as if they were installed; with `only`, no module but these.
    A module that `steps` refuses is a failure with that cause."""
    entries = _installed()
    known = {entry.module for entry in entries}
    entries += [_Entry(name, f"module {name}", "-", name) for name in dict.fromkeys(extra_modules) if name not in known]
    if only is not None:  # names that two claim were refused when the plan was made
        entries = [entry for entry in entries if entry.module in only]

    failures: list[Failure] = []
    claims: dict[tuple[Kind, str], list[tuple[_Entry, Plugin[Any]]]] = defaultdict(list)
    for entry in entries:
        if rivals := [other for other in entries if other.name == entry.name and other is not entry]:
            failures.append(entry.failure(f"the entry point's name is also taken by {_owners(rivals)}; uninstall one"))
            continue
        step = Step("module", entry.module, _owner(entry))
        if step in steps.refused:
            failures.append(entry.failure(steps.refused[step]))
            continue
        steps.tell(None if entry.module.startswith("alignbench.") else step)
        for found in _load(entry):
            if isinstance(found, Failure):
                failures.append(found)
            else:
                claims[found.kind, found.name].append((entry, found))
    steps.tell(None)

    catalog: dict[Kind, dict[str, Plugin[Any]]] = {"method": {}, "source": {}, "task": {}}
    for (kind, name), claimants in sorted(claims.items()):
        if len(claimants) == 1:
            catalog[kind][name] = claimants[0][1]
            continue
        for entry, plugin in claimants:
            rivals = [other for other, claimed in claimants if claimed is not plugin]
            cause = f"{kind} '{name}' is also offered by {_owners(rivals)}; rename or uninstall one"
            failures.append(entry.failure(cause, name))
    return Catalog(catalog["method"], catalog["source"], catalog["task"], tuple(failures))


@dataclass(frozen=True)
class _Entry:
    name: str
    distribution: str
    version: str
    module: str

    def failure(self, cause: str, plugin: str = "") -> Failure:
        return Failure(self.name, self.distribution, self.version, _one_line(cause), plugin)


def _installed() -> list[_Entry]:
    points = metadata.entry_points(group=hookspecs.PROJECT)
    owned = [(point, point.dist) for point in points if point.dist is not None]
    return sorted(
        (_Entry(point.name, dist.name, dist.version, point.value) for point, dist in owned),
        key=lambda entry: (entry.name, entry.distribution),
    )


def _load(entry: _Entry) -> Iterator[Plugin[Any] | Failure]:
    if ":" in entry.module:
        module_name = entry.module.partition(":")[0]
        yield entry.failure(f"it names '{entry.module}', an object; name the module alone: '{module_name}'")
        return
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        module = importlib.import_module(entry.module)
        manager.register(module, name=entry.name)
    except pluggy.PluginValidationError as error:
        yield entry.failure(str(error))
        return
    except (Exception, SystemExit) as error:  # SystemExit: a module that calls sys.exit must not end ours
        yield entry.failure(f"{in_words(error)}; the traceback: python -c 'import {entry.module}'")
        return

    strays = list(_stray_hooks(module, manager))
    yield from map(entry.failure, strays)
    implemented = [
        (hook, implementation.function)
        for hook in CONTRACTS
        for implementation in getattr(manager.hook, hook).get_hookimpls()
    ]
    if not implemented and not strays:
        yield entry.failure(f"{entry.module} implements no hook; allowed: {', '.join(CONTRACTS)}")
    for hook, function in implemented:
        try:
            offered = function()
        except (Exception, SystemExit) as error:
            yield entry.failure(f"{hook} raised {in_words(error)}")
            continue
        if not isinstance(offered, list):
            yield entry.failure(f"{hook} returned {_seen(offered)}; a list of classes is allowed")
            continue
        for cls in offered:
            contract = CONTRACTS[hook]
            if breach := _breach(cls, contract):
                label = cls.__name__ if isinstance(cls, type) else _seen(cls)
                yield entry.failure(f"{hook} offers {label}: {breach}", str(getattr(cls, "name", "")))
            else:
                yield Plugin(cls.name, cls, entry.distribution, entry.version, contract.kind, entry.module)


def _stray_hooks(module: ModuleType, manager: pluggy.PluginManager) -> Iterator[str]:
    """Functions meant as hooks that pluggy would pass over in silence.

    Wider than `PluginManager.check_pending`, which sees no function without a marker and none that begins with `_`.
    """
    endings = [hook.removeprefix(PREFIX) for hook in CONTRACTS]
    for name, function in inspect.getmembers(module, inspect.isroutine):
        options = manager.parse_hookimpl_opts(module, name)
        hook = (options and options["specname"]) or name
        if options is not None:
            if hook not in CONTRACTS and not options["optionalhook"]:
                yield f"'{hook}' is marked as a hook, but no such hook exists: {nearest(hook, CONTRACTS)}"
            continue
        # Endings are compared, for the shared prefix alone would make any two names look alike.
        is_meant = name.startswith(PREFIX) and difflib.get_close_matches(name.removeprefix(PREFIX), endings)
        if is_meant and function.__module__ == module.__name__:
            misspelt = "" if name in CONTRACTS else f", and {nearest(name, CONTRACTS)}"
            yield f"function {name} lacks the decorator @alignbench.hookimpl{misspelt}"


def _breach(cls: Any, contract: _Contract) -> str | None:
    """The first way in which `cls` breaks the contract, and what would keep it."""
    if not (isinstance(cls, type) and issubclass(cls, contract.base)):
        return f"not a subclass of {contract.base.__name__}"
    name, config = getattr(cls, "name", None), getattr(cls, "Config", None)
    if name is None:
        return f'it has no name; add `name = "{cls.__name__.lower()}"`'
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        return f"name {_seen(name)} is not lower-case letters, digits, '-', '_' and '.'"
    if not isinstance(summary := getattr(cls, "summary", ""), str):
        return f"summary is {_seen(summary)}; text is allowed"
    if missing := getattr(cls, "__abstractmethods__", None):
        return f"it does not define {', '.join(sorted(missing))}"
    try:
        inspect.signature(cls).bind(*[None] * contract.arguments)
    except (TypeError, ValueError) as error:
        return f"its constructor must accept {('no argument', 'the config alone')[contract.arguments]}: {error}"
    if not (isinstance(config, type) and issubclass(config, contract.config)):
        return f"Config is not a subclass of {contract.config.__name__}"
    if issubclass(cls, AlignmentMethod):
        if not isinstance(cls.needs, Set):
            return f"needs is {_seen(cls.needs)}; a set is allowed"
        if unknown := sorted(map(str, cls.needs - NEEDS)):
            return f"needs names '{unknown[0]}': {nearest(unknown[0], NEEDS)}"
        options, knob = cls.Config.model_fields, cls.kl_knob
        if knob is not None and knob not in options:
            return f"kl_knob '{knob}' is no option of its Config: {nearest(str(knob), options)}"
    return None


def _owner(of: _Entry | Failure) -> str:
    return of.distribution if of.version == "-" else f"{of.distribution} {of.version}"


def _owners(entries: Iterable[_Entry]) -> str:
    return ", ".join(_owner(entry) for entry in entries)


def _bare(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.lower()).removeprefix("module ").removeprefix("alignbench-")


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _seen(value: Any) -> str:
    """A stranger's value, short; its own repr may fail."""
    try:
        return printable(repr(value), 200)
    except Exception as error:
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
