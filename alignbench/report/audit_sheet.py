"""The blinded sheet of `alignbench audit`: a CSV for a spreadsheet, its guidelines, and a page that works from a file.

None holds a row's name, the suite's, the seed, or anything else to tell the sides by. Every text in them is a
model's: a cell cannot be a formula, and the page gets its texts as JSON without a `<`, puts them in as text alone, and
runs only the script and style whose digests its own policy names. It asks no network.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

from alignbench.api import Rubric
from alignbench.report.escape import for_csv, for_markdown
from alignbench.scoring.audit import Question

TEMPLATE = Path(__file__).with_name("audit_sheet.html")
CSV, PAGE, GUIDELINES = "sheet.csv", "sheet.html", "guidelines.md"


def to_csv(questions: Sequence[Question]) -> str:
    """Columns item, prompt, left, right and an empty `answer`. Each text is on one line, and whole. It opens with a
    byte-order mark, without which a spreadsheet may take UTF-8 for something else."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*Question._fields, "answer"])
    for one in questions:
        writer.writerow([one.item, *(for_csv(text, None) for text in one[1:]), ""])
    return f"\ufeff{file.getvalue()}"


def to_html(questions: Sequence[Question], sheet: str, rubric: Rubric) -> str:
    """The page. `sheet`: sha256 of the questions."""
    data = {
        "sheet": sheet[:8],
        "guideline": rubric.guideline,
        "question": question_of(rubric),
        "is_continuation": rubric.is_continuation,
        "items": [one._asdict() for one in questions],
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    for tag in ("style", "script"):
        page = page.replace(f"@{tag.upper()}@", _digest(page, tag), 1)
    before, _, after = page.partition("@SHEET@")  # last, so that no text of the sheet is taken for a mark
    return f"{before}{_harmless_json(data)}{after}"


def to_guidelines(rubric: Rubric) -> str:
    """What the page says above its pairs, for those who answer in a spreadsheet: the words that a judge reads too."""
    goes_on = " Each text goes on with its prompt's own sentence." if rubric.is_continuation else ""
    return (
        f"# Guidelines\n\n{for_markdown(rubric.guideline)}\n\n"
        f"Each row of {CSV} has a prompt and two texts, left and right.{goes_on}\n"
        f"{for_markdown(question_of(rubric))}\n"
        "Write `left`, `right`, or `tie` where neither is, into the column `answer`; empty passes it over.\n"
    )


def question_of(rubric: Rubric) -> str:
    """What is asked of each pair, in the words that the task's other raters are asked in."""
    best, worst = (f'"{rubric.quality}: {label}"' for label in (rubric.best, rubric.worst))
    return f"Which of the two is nearer to {best}, and further from {worst}?"


def _digest(page: str, tag: str) -> str:
    """What a Content-Security-Policy knows an inline block by: sha256 of all between its tags, in base 64."""
    inside = page.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
    return base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()


def _harmless_json(data: object) -> str:
    """ASCII that no HTML parser reads a tag, a comment or an entity from."""
    plain = json.dumps(data)
    for char in "<>&":
        plain = plain.replace(char, f"\\u{ord(char):04x}")
    return plain
