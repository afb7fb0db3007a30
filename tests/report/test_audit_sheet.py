"""What a rater gets: hostile texts stay texts, and nothing in it tells whose they are."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser

from alignbench.api import Rubric
from alignbench.report.audit_sheet import TEMPLATE, to_csv, to_guidelines, to_html
from alignbench.scoring.audit import Question

HOSTILE = (
    "</script><img src=x onerror=alert(1)>", "<!--<script>", "=HYPERLINK(\"http://x\")", "\n=1+1", "@SHEET@",
    "\ud800 half \u202e turned \u2028", "&lt;b&gt;", "-1, \"quoted\"", "＝full", "",  # noqa: RUF001
    "word " * 200,
)  # fmt: skip
RUBRIC = Rubric("Say </script> which.", "Text", "Tone", "Good", "Bad")
QUESTIONS = [Question(f"0123abcd-{n:03d}", "@SCRIPT@ <p>", text, f"other {n}") for n, text in enumerate(HOSTILE, 1)]


class Seen(HTMLParser):
    """Start tags, and what stands in the script elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.lasttag == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data


def test_whatever_a_text_holds_the_page_has_the_templates_elements_and_the_texts_come_out_whole() -> None:
    page, bare = to_html(QUESTIONS, "0123abcd" * 8, RUBRIC), TEMPLATE.read_text()
    assert Seen(page).tags == Seen(bare).tags
    data = json.loads(Seen(page).scripts[0])
    assert data["items"] == [one._asdict() for one in QUESTIONS]
    assert data["guideline"] == RUBRIC.guideline
    assert data["question"] == 'Which of the two is nearer to "Tone: Good", and further from "Tone: Bad"?'
    assert page.isascii() == bare.isascii()
    page.encode()  # half a character, too


def test_the_page_asks_nothing_of_a_network_and_runs_its_own_script_alone() -> None:
    page = to_html(QUESTIONS[:1], "0" * 64, RUBRIC)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    assert (rules["default-src"], rules["base-uri"], rules["form-action"]) == ("'none'",) * 3
    for tag in ("script", "style"):
        inside = page.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not re.search(r"https?:|//[a-z]|\bsrc=|url\(|@import|fetch\(|innerHTML|eval\(", TEMPLATE.read_text())


def test_no_cell_of_the_sheet_is_a_formula_and_no_text_is_cut() -> None:
    text = to_csv(QUESTIONS)
    text.encode()
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    assert list(rows[0]) == ["item", "prompt", "left", "right", "answer"]
    assert {row["answer"] for row in rows} == {""}
    assert [row["left"][:2] for row in rows][2:4] == ["'=", "'="]
    assert rows[8]["left"] == "'＝full"  # noqa: RUF001
    for row in rows:
        assert not any(cell[:1] in tuple("=+-@\t\r") for cell in row.values() if cell)
    assert rows[-1]["left"] == ("word " * 200).strip()
    assert len(text.splitlines()) == len(HOSTILE) + 1


def test_the_guidelines_ask_what_the_page_asks_and_stay_text() -> None:
    told = to_guidelines(RUBRIC)
    assert "<" not in told
    assert "which." in told
    assert "nearer to" in told
    assert "Tone: Good" in told
    assert "goes on" not in told
    assert "goes on with its prompt's own sentence" in to_guidelines(RUBRIC._replace(is_continuation=True))
