"""Where a record comes from: code, data, suite, command, and the stages behind it. No torch.

Nothing here may fail a run or leak: git is asked for a few seconds at most, and of a folder outside the current one
only the last name is kept.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import alignbench
from alignbench.planning import keys
from alignbench.scoring.prices import Prices
from alignbench.store import Store, store_home
from alignbench.suite.plan import Plan, PlannedCell, PlannedStage

PATIENCE = 5  # seconds for one question to git


def provenance_of(plan: Plan, cell: PlannedCell, store: Store, prices: Prices | None = None) -> dict[str, Any]:
    """The record's `provenance`, as JSON values."""
    stages = {} if cell.score is None else plan.upstream(cell.score)
    facts = [fact for stage in stages.values() if (fact := _facts(stage, store, prices)) is not None]
    when = next((fact["when"] for fact in facts if fact["key"] == cell.score), None)
    return {
        "alignbench": alignbench.__version__,
        "plugins": list(cell.brought),
        "libraries": keys.libraries(),
        "model": plan.digests.get("model", ""),
        "data": plan.digests.get("data", ""),
        "suite_text": plan.suite.text,
        "suite_sha256": hashlib.sha256(plan.suite.text.encode()).hexdigest(),
        "run": {
            "commit": commit(Path(alignbench.__file__).parents[1]),
            "command": command(sys.argv),
            "when": when or datetime.now(UTC).isoformat(timespec="seconds"),
            "stages": facts,
            "prices": None if prices is None else prices.source,
        },
    }


def _facts(stage: PlannedStage, store: Store, prices: Prices | None) -> dict[str, Any] | None:
    """Of a finished stage, which an older alignbench may have computed: it said less. None: it is not there."""
    try:
        meta = store.meta(stage.key)
    except KeyError:
        return None
    cost, machine = meta.get("cost", {}), meta.get("machine", {})
    return {
        "key": stage.key, "kind": stage.kind, "when": meta.get("when"),
        **{name: cost.get(name) for name in ("seconds", "cpu_seconds")},
        **{name: machine.get(name) for name in ("device", "threads", "kernels")},
        "cost": priced(cost, meta, prices) if cost else None,
    }  # fmt: skip


def priced(cost: Mapping[str, float], meta: Mapping[str, Any], prices: Prices | None) -> dict[str, Any]:
    """A stage's cost with its dollars, where there are prices."""
    device = str(meta.get("machine", {}).get("device", ""))
    return dict(cost) if prices is None else {**cost, "dollars": prices.dollars(cost, device)}


# --------------------------------------------------------------------------------------------------------------- code


@lru_cache
def commit(root: Path) -> str | None:
    """The commit of the checkout at `root`, with "+ changes" if anything but results/ differs from it. None where there
    is no checkout or no answer. A repository that merely holds an environment's packages is not ours, and not asked."""
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    if not head:
        return None
    status = _git(root, "status", "--porcelain", "--", ".", ":(exclude)results")  # a run writes results itself
    return head + (" (changes unknown)" if status is None else " + changes" if status else "")


def _git(root: Path, *question: str) -> str | None:
    """Git's answer, or None. The repository's own configuration may name no program that runs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    with suppress(OSError, subprocess.SubprocessError, UnicodeDecodeError):
        answer = subprocess.run(
            ["git", "-C", str(root), "-c", "core.fsmonitor=false", *question], env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PATIENCE, check=True,
        )  # fmt: skip
        return answer.stdout.decode().strip()
    return None


# ------------------------------------------------------------------------------------------------------ nothing leaks

HIDDEN = "***"
_SECRET = re.compile(r"token|secret|passw|credential|auth|(api|access|private)[-_]?key", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/\s@]*(?:@[^/\s@]*)*@")  # up to the last @ before the path
_PARAMETER = re.compile(rf"([?&;][^=&\s]*(?:{_SECRET.pattern})[^=&\s]*=)[^&#\s]+", re.IGNORECASE)


def command(argv: Sequence[str]) -> str:
    """The command line as typed, without what follows an option or name that looks like a secret's, without logins in
    addresses, and with paths relative to the current folder, or the last name alone."""
    kept, is_secret = [Path(argv[0]).name] if argv else [], False
    for argument in argv[1:]:
        name, equals, value = argument.partition("=")
        if is_secret:
            kept.append(HIDDEN)
            is_secret = False
        elif _SECRET.search(name) and (equals or name.startswith("-")):
            kept.append(f"{name}={HIDDEN}" if equals else name)
            is_secret = not equals
        else:
            kept.append(f"{name}={near(value)}" if equals and "://" not in name else near(argument))
    return shlex.join(scrubbed(kept))  # before it is quoted


def near(text: str) -> str:
    """A path relative to the current folder, or its last name where it lies outside; other text as it is."""
    if "://" in text or not (text.startswith(("/", "~")) or ".." in Path(text).parts):
        return text
    with suppress(OSError, ValueError, RuntimeError):
        return str(Path(text).expanduser().absolute().resolve().relative_to(Path.cwd().resolve()))
    return Path(text).name


def scrubbed(value: Any) -> Any:
    """JSON values without this machine's home and cache folders, and without logins in addresses."""
    if isinstance(value, str):
        return _PARAMETER.sub(rf"\1{HIDDEN}", _LOGIN.sub(f"{HIDDEN}@", _without_places(value)))
    if isinstance(value, dict):
        return {name: scrubbed(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrubbed(item) for item in value]
    return value


def _without_places(text: str) -> str:
    for place, name in _places():
        if place in text:
            text = re.sub(rf"(?<![\w.~/-]){re.escape(place)}(?![\w.-])", lambda found, name=name: name, text)  # type: ignore[misc]
    return text


def _places() -> list[tuple[str, str]]:
    """Folders no record may name, the longest first: the cache often lies in the home folder."""
    found = {}
    with suppress(RuntimeError, OSError):
        home = Path.home()
        found = {str(home): "~", str(home.resolve()): "~"}
    found |= {str(store_home()): "$ALIGNBENCH_HOME", str(store_home().resolve()): "$ALIGNBENCH_HOME"}
    return sorted(((p, n) for p, n in found.items() if len(p) > 1), key=lambda pair: -len(pair[0]))
