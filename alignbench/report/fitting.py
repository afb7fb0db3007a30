"""A wide table on a narrow terminal: several below one another, so that no number is broken over two lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table

UNBOUNDED = 10_000  # characters


def fitting(table: Table, console: Console) -> Iterator[Table]:
    """The table if it fits, else parts that do, each with the first column in front."""
    first, *rest = table.columns
    while rest:
        fits = (n for n in range(len(rest), 1, -1) if _width(_part([first, *rest[:n]]), console) <= console.width)
        count = next(fits, 1)
        yield _part([first, *rest[:count]])
        rest = rest[count:]


def _part(columns: Sequence[Column]) -> Table:
    part = Table()
    for column in columns:
        part.add_column(column.header, justify=column.justify, overflow=column.overflow)
    for cells in zip(*(column.cells for column in columns), strict=True):
        part.add_row(*cells)
    return part


def _width(table: Table, console: Console) -> int:
    """What the table would like to be wide."""
    return Measurement.get(console, console.options.update(width=UNBOUNDED), table).maximum
