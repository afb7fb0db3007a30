"""The table of a run: what each side did, their ratio, and how near ours comes to the floor."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import NamedTuple

HEAD = [
    "work", "ours", "peer", "ratio", "ratio of CPU time", "aim", "peak memory, GB", "ratio", "floor, s", "of the floor",
    "loss, ours / peer",
]  # fmt: skip


class Row(NamedTuple):
    """One work. Rates are per second of wall time."""

    work: str
    unit: str
    ours: float
    peer: float
    cpu_ratio: float
    aim: str = ""
    peaks: tuple[float, float] | None = None  # bytes
    floor_seconds: float | None = None
    seconds: float | None = None  # ours, for the same
    losses: tuple[float, float] | None = None


class Fact(NamedTuple):
    """A line below the table."""

    text: str


def cells(row: Row) -> list[str]:
    peaks, losses = row.peaks, row.losses
    share = None if row.floor_seconds is None or not row.seconds else row.floor_seconds / row.seconds
    return [
        row.work,
        f"{row.ours:.3g} {row.unit}",
        f"{row.peer:.3g}",
        f"{row.ours / row.peer:.2f}",
        f"{row.cpu_ratio:.2f}",
        row.aim,
        "" if peaks is None else f"{peaks[0] / 1e9:.2f} / {peaks[1] / 1e9:.2f}",
        "" if peaks is None else f"{peaks[0] / peaks[1]:.2f}",
        "" if row.floor_seconds is None else f"{row.floor_seconds:.3g}",
        "" if share is None else f"{share:.0%}",
        "" if losses is None else f"{losses[0]:.4f} / {losses[1]:.4f}",
    ]


def render(machine: str, rows: list[Row], facts: list[Fact]) -> str:
    """Markdown."""
    lines = [machine, ""]
    lines += ["| " + " | ".join(line) + " |" for line in (HEAD, ["---"] * len(HEAD), *map(cells, rows))]
    return "\n".join([*lines, "", *(f"- {fact.text}" for fact in facts), ""])


def machine(device: str, dtype: str, threads: int, load: float) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl"))
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    place = f"{device}, {threads} threads, load {load:.1f} at the start"
    return f"{when}; {place}; {dtype}; {packages}; Python {platform.python_version()}."
