"""Twelve bad plugins: each is named with its distribution, costs its own rows alone, and a hang ends at its limit."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.reliability import bad_site
from benchmarks.reliability.point import Control, Measured
from benchmarks.reliability.runs import ORACLE, Bench

LIMIT, GRACE = 15, 5  # seconds
SIBLINGS = ["sft", "dpo"]
STRICT = ("exit", "raise", "segfault")


def measure(is_quick: bool, folder: Path) -> Measured:
    site = folder / "site"
    bad_site.write(site)
    rows = [bad_site.row(name) for name in bad_site.NAMES if name not in bad_site.UNLOADED]
    limits = ("--timeout", str(LIMIT), "--memory", "2")
    bench = Bench(folder / "bad", {**ORACLE, "methods": [*rows, *SIBLINGS]}, limits, path=[site])
    done = bench.run()
    records = {record["label"]: record for record in bench.records()}
    causes = {name: str(records.get(f"bad-{name}", {}).get("cause")) for name in bad_site.NAMES}
    causes |= {name: _refusal(folder / name, site, name) for name in bad_site.UNLOADED}
    named = [name for name, cause in causes.items() if _plugin(name) in cause and bad_site.distribution(name) in cause]
    clean = Bench(folder / "clean", {**ORACLE, "methods": SIBLINGS})
    clean.run()
    expected = {record["label"]: record for record in clean.records()}
    siblings = [label for label in SIBLINGS if label in expected and records.get(label) == expected[label]]
    hung = re.search(r"([0-9.]+) s  train bad-hang", done.stdout)
    seconds = float(hung[1]) if hung else float("inf")
    unnamed = ", ".join(f"{name}: {causes[name]}" for name in causes if name not in named)
    return Measured(
        f"{len(named)} of {len(causes)} named with their distribution{unnamed and f' (not {unnamed})'}; "
        f"{len(siblings)} of {len(SIBLINGS)} siblings end as without them; the hang ended after {seconds:.1f} s, "
        f"limit {LIMIT}",
        f"all named, all siblings, {LIMIT} + {GRACE} s",
        len(named) == len(bad_site.NAMES) == 12 and siblings == SIBLINGS and seconds <= LIMIT + GRACE,
        _control(folder, site, STRICT[:1] if is_quick else STRICT),
    )


def _plugin(name: str) -> str:
    return f"'{bad_site.UNLOADED[name][1]}'" if name in bad_site.UNLOADED else f"'bad-{name}'"


def _refusal(folder: Path, site: Path, name: str) -> str:
    """What the command says of a suite that asks for a plugin that did not load."""
    bench = Bench(folder, {**ORACLE, "methods": [bad_site.row(name), *SIBLINGS]}, path=[site])
    done = bench.run()
    return done.stderr if (done.returncode, done.stderr.count("\n")) == (2, 1) else f"exit code {done.returncode}"


def _control(folder: Path, site: Path, names: tuple[str, ...]) -> Control:
    """In one process the first of them takes the run with it."""
    survived = []
    for name in names:
        bench = Bench(
            folder / f"strict-{name}", {**ORACLE, "methods": [bad_site.row(name), "sft"]}, ["--strict"], path=[site]
        )
        bench.run(limit=120)
        survived += [name] if bench.records() else []
    return Control(
        f"in one process (--strict): {len(survived)} of {len(names)} runs survive ({', '.join(names)})", not survived
    )
