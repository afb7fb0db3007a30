"""Rows of a votes file, CSV or JSON lines, as plain cells with their line numbers. Whatever is wrong is one line."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from alignbench.errors import UserError, nearest, printable

SHOWN = 60  # characters of a cell that an error shows
Row = tuple[int, list[str]]  # its line, and a cell for each wanted column; "" where an optional one is empty


class VotesFile:
    """A file's text, and how to complain about it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if path.is_dir():
                self.refuse("is a folder; name a file of votes")
            if path.suffix.lower() not in (".csv", ".jsonl"):
                self.refuse("should end in .csv or .jsonl; rename it, or export the votes as one of the two")
            if not path.is_file():
                near = [other.name for other in path.parent.glob(f"*{path.suffix}")][:1000]
                self.refuse(f"no such file; {nearest(path.name, near)}" if near else "no such file; check the path")
            raw = path.read_bytes()
            self.text = raw.decode("utf-8-sig")
        except OSError as error:
            self.refuse(f"cannot be read ({error.strerror}); check its name and permissions")
        except UnicodeDecodeError as error:
            self.refuse("is not UTF-8; save it with that encoding", raw.count(b"\n", 0, error.start) + 1)
        if not self.text.strip():
            self.refuse("is empty; it should have a line for each vote")

    def refuse(self, problem: str, line: int | None = None) -> NoReturn:
        place = f"{self.path}:{line}:" if line else f"{self.path}:"
        raise UserError(f"{printable(place, 400)} {problem}") from None

    def columns(self) -> list[str]:
        """The header of a CSV file, the keys of the first object of a JSON-lines file."""
        return self._header() if self._is_csv else [str(key) for key in self._object(*next(self._lines()))]

    def rows(self, required: list[str], optional: list[str]) -> Iterator[Row]:
        """Every row; UserError if a required cell is missing or empty, or a row is not what its kind of file has."""
        wanted = [*required, *optional]
        source = self._csv_rows(wanted) if self._is_csv else self._json_rows(wanted)
        for line, cells in source:
            if not all(cells[: len(required)]):
                empty = required[cells.index("")]
                self.refuse(f"no {empty}; fill the cell, or leave the row out if there was no vote", line)
            yield line, cells

    @property
    def _is_csv(self) -> bool:
        return self.path.suffix.lower() == ".csv"

    def _header(self) -> list[str]:
        try:
            names = [name.strip() for name in next(csv.reader(io.StringIO(self.text, newline="")), [])]
        except csv.Error as error:
            self.refuse(f"is no CSV ({error}); start it with a line of column names", 1)
        if twice := next((name for name in names if name and names.count(name) > 1), None):
            self.refuse(f"two columns are called '{printable(twice, SHOWN)}'; rename one", 1)
        return names

    def _csv_rows(self, wanted: list[str]) -> Iterator[Row]:
        names = self._header()
        places = [names.index(name) if name in names else len(names) for name in wanted]  # there a "" is appended
        reader = csv.reader(io.StringIO(self.text, newline=""), strict=True)
        try:
            next(reader)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(names):
                    problem = f"{len(cells)} cells, the header has {len(names)}; quote a cell that has a comma in it"
                    self.refuse(problem, reader.line_num)
                cells.append("")
                yield reader.line_num, [cells[place].strip() for place in places]
        except csv.Error as error:
            self.refuse(f"is no CSV ({error}); close every quotation mark", reader.line_num)

    def _json_rows(self, wanted: list[str]) -> Iterator[Row]:
        for line, text in self._lines():
            found = self._object(line, text)
            yield line, [self._cell(name, found.get(name), line) for name in wanted]

    def _lines(self) -> Iterator[tuple[int, str]]:
        lines = enumerate(io.StringIO(self.text), 1)
        return ((number, line) for number, line in lines if line.strip())

    def _object(self, line: int, text: str) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            self.refuse("is no JSON; write one object a line", line)
        if not isinstance(found, dict):
            self.refuse(f"should be an object such as {{...}}, got {printable(text.strip(), SHOWN)}", line)
        return found

    def _cell(self, name: str, value: Any, line: int) -> str:
        if value is None:
            return ""
        if isinstance(value, str):
            return value.strip()
        if isinstance(value, float) and not math.isfinite(value):
            self.refuse(f"{name} is {value}; leave the row out if there was no vote", line)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON has one kind of number: 1.0 is 1
        if isinstance(value, bool | int | float):
            return json.dumps(value)
        return self.refuse(f"{name} should be a text or a number, got a {type(value).__name__}", line)
