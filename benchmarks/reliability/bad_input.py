"""200 malformed inputs: each is exit code 2 and one line that says what, where and the remedy; nothing is written.

Most are given to the command's own entry point in this process, a sample to real processes. The cases come from the
suite's schema, every field with values that its type forbids, and from `bad_cases`, written by hand.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from benchmarks.reliability.bad_cases import Case, by_hand, from_schema
from benchmarks.reliability.point import Control, Measured
from benchmarks.reliability.runs import ORACLE, Bench

COUNT, QUICK = 200, 60


class Said(NamedTuple):
    code: int
    out: str
    err: str
    written: Sequence[str] = ()


def measure(is_quick: bool, folder: Path) -> Measured:
    hand, drawn = by_hand(), from_schema()
    count = QUICK if is_quick else COUNT
    random.Random(0).shuffle(drawn)
    cases = [*hand, *drawn[: max(0, count - len(hand))]]
    processes = set(range(0, len(cases), 60 if is_quick else 10))
    home = Bench(folder / "shared", {"methods": ["sft"], **ORACLE})  # the toy model is made once, and not in a case
    home.run("plan", "suite.yaml")
    shared = {"ALIGNBENCH_HOME": str(home.home)}
    wrong = []
    for i, case in enumerate(cases):
        place = folder / str(i)
        case.lay(place)
        before, environment = _files(folder), {**shared, **case.environment}
        said = (_in_a_process if i in processes else _in_this_process)(case, place, environment)
        said = said._replace(written=sorted(_files(folder) - before))
        if problem := fault(case, said):
            wrong.append(f"{case.what}: {problem}")
    return Measured(
        f"{len(cases) - len(wrong)} of {len(cases)} ({len(hand)} by hand, {len(processes)} in processes of their own)"
        + "".join(f"; {one}" for one in wrong[:5]),
        "each exit code 2, one line with place and remedy, nothing written",
        not wrong and len(cases) >= count,
        _control(folder / "control"),
    )


def fault(case: Case, said: Said) -> str | None:
    """What is wrong with how a mistake was taken, if anything."""
    lines = said.err.splitlines()
    if said.code != 2:
        return f"exit code {said.code}: {said.err[-200:]!r}"
    if len(lines) != 1 or not lines[0].startswith("alignbench: ") or len(lines[0]) > 2600:
        return f"{len(lines)} lines: {said.err[:200]!r}"
    if missing := [words for words in case.says if words not in lines[0]]:
        return f"{missing[0]!r} is not in {lines[0]!r}"
    if said.written:
        return f"{said.written[0]} was written"
    return f"it printed {said.out[:80]!r}" if said.out else None


def _files(place: Path) -> set[str]:
    """Digests of code that was read are no results."""
    names = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    return {name for name in names if "home/code/" not in name}


def _in_a_process(case: Case, place: Path, environment: Mapping[str, str]) -> Said:
    done = Bench(place, {}, environment=environment).run(*case.arguments, limit=60)
    return Said(done.returncode, done.stdout, done.stderr)


def _in_this_process(case: Case, place: Path, environment: Mapping[str, str]) -> Said:
    from alignbench.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with _as_it_was(), redirect_stdout(out), redirect_stderr(err):
        os.chdir(place)
        sys.argv = ["alignbench", *case.arguments]
        os.environ.update({"HF_HUB_OFFLINE": "1", **environment})
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        except Exception as error:  # a traceback, in a process of its own
            code, _ = 1, err.write(f"{type(error).__name__}: {error}")
    return Said(code, out.getvalue(), err.getvalue())


@contextmanager
def _as_it_was() -> Iterator[None]:
    """What `main` and a case change of the process is put back."""
    here, argv, path, environment, modules = Path.cwd(), sys.argv, [*sys.path], {**os.environ}, {*sys.modules}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    show = warnings.showwarning
    with warnings.catch_warnings():
        try:
            yield
        finally:
            os.chdir(here)
            sys.argv, sys.path[:], warnings.showwarning = argv, path, show
            os.environ.clear()
            os.environ.update(environment)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for name in {name for name in sys.modules if name.startswith("zz_")} - modules:
                del sys.modules[name]


def _control(place: Path) -> Control:
    """A reader that checks nothing: what the suite says is used as it is."""
    case = Case("max_steps: a word", ("plan", "suite.yaml"), {"suite.yaml": json.dumps({"max_steps": "x"})})
    case.lay(place)
    try:
        said = Said(0, str(range(json.loads((place / "suite.yaml").read_text())["max_steps"])), "", ())
    except TypeError as error:
        said = Said(1, "", f"Traceback\nTypeError: {error}", ())
    return Control("the same case read without a schema", fault(case, said) is not None)
