"""A narrow terminal gets the columns below one another, whole."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from alignbench.report.fitting import fitting


def wide() -> Table:
    table = Table()
    table.add_column("Method")
    for number in range(9):
        table.add_column(f"Metric {number}", justify="right", overflow="fold")
    for row in ("ppo", "dpo"):
        table.add_row(row, *(f"+{number}.25\n[-0.10, {number}.60]" for number in range(9)))
    return table


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_every_number_is_whole_and_every_part_names_its_rows(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    parts = list(fitting(wide(), console))
    assert (len(parts) == 1) is (width == 200)
    for part in parts:
        console.print(part)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(shown.count(f"[-0.10, {number}.60]") == 2 for number in range(9))
    assert shown.count("ppo") == len(parts)
    assert max(map(len, shown.splitlines())) <= width
