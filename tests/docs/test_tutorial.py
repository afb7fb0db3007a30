"""The tutorial is run as a reader would: its blocks in order, in an empty folder, in an environment of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "plugins" / "README.md"
BLOCK = re.compile(r"^```(\w+)\n((?:.*\n)*?)```$|^<!-- table: (.+) -->\n\n((?:\|.*\n)+)", re.MULTILINE)
FILE = re.compile(r"# (\S+\.(?:py|yaml))\n")


def cells(table: str) -> list[dict[str, str]]:
    """The rows of a Markdown table by the names of its columns."""
    head, _, *rows = ([cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def value(cell: str) -> float:
    """Without what stands in brackets behind it."""
    return float(cell.split()[0])


def test_every_block_runs_and_its_tables_are_what_came_out(workshop, tmp_path: Path) -> None:
    here = tmp_path / "empty"
    here.mkdir()
    folder, tables = here, 0
    for language, text, title, table in BLOCK.findall(TUTORIAL.read_text()):
        if title:
            made = (folder / "results" / "first" / "table.md").read_text().partition("\n\n")[0]
            for printed, row in zip(cells(table), cells(made), strict=True):
                assert printed["Method"] == row["Method"]
                for column in ("Gold, enumerated", "KL, enumerated"):
                    assert value(printed[column]) == pytest.approx(value(row[column]), abs=0.05), (title, row)
            tables += 1
        elif language == "sh":
            said = workshop(f"{text}pwd", folder)
            assert said.returncode == 0, said.stdout + said.stderr
            folder = Path(said.stdout.splitlines()[-1])
        else:
            name = FILE.match(text)
            assert name, f"a block of {language} opens with the name of its file"
            (folder / name[1]).write_text(text)
    assert tables == 2
    published = (here / "nudge" / "README.md").read_text()
    assert "| nudge beta=1 |" in published.partition("<!-- results:first -->")[2]
    assert sorted(path.name for path in here.iterdir()) == ["letters", "nudge", "results"]
