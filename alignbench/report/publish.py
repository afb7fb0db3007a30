"""Whether results may be put into a folder: asked before the work, and before what stands there is replaced."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from alignbench.errors import UserError
from alignbench.scoring.record import Record, read_records

FILES = ("records.jsonl", "table.csv", "table.md", "snapshots.jsonl", "verdicts.csv", "frontier.csv", "frontier.svg")


def check_writable(folder: Path) -> None:
    """UserError if the results could not be written into `folder`. Nothing is left there: a run may still fail."""
    try:
        nearest = folder
        while not nearest.exists() and not nearest.is_symlink():
            nearest = nearest.parent
        if not nearest.is_dir():
            raise UserError(f"--results: {nearest} is no folder; name another, or move it away")
        with tempfile.TemporaryFile(dir=nearest):  # permissions alone do not tell: a disk may be mounted read-only
            pass
        for name in FILES:
            if (folder / name).is_dir():
                raise UserError(f"--results: {folder / name} is a folder, where a file is to be written; move it away")
    except OSError as error:
        raise UserError(f"--results: {folder} cannot be written ({error.strerror}); name another folder") from None


def better_kept(folder: Path, records: Sequence[Record]) -> str | None:
    """Why `records` should not replace those in `folder`, if theirs have fewer failures."""
    try:
        there = read_records(folder / FILES[0])
    except UserError:  # none, or none that can be read
        return None
    before, now = _failed(there), _failed(records)
    if before >= now:
        return None
    return (
        f"{folder}: {now} of {len(records)} cells failed, {before} of {len(there)} in the table there, which is kept: "
        "mend them and run again, give --force to replace it, or --results to write elsewhere"
    )


def _failed(records: Sequence[Record]) -> int:
    return sum(record.status == "failed" for record in records)
