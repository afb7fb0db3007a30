"""The page in a real browser, by keyboard alone. Skipped where playwright or a Chromium is not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignbench.api import Rubric
from alignbench.report.audit_sheet import to_html
from alignbench.scoring.audit import Gold, Key, Pair, Question
from alignbench.scoring.audit_votes import Vote, read_answers

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><!--"
ITEMS = [f"0123abcd-{n:03d}" for n in range(1, 21)]
RUBRIC = Rubric("Say which.", "Text", "Tone", "Good", "Bad")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as api:
        try:
            found = api.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"Chromium does not start here: {str(error).splitlines()[0]}")
        yield found
        found.close()


def test_twenty_pairs_are_answered_by_keyboard_alone_and_the_saved_file_reads_back(browser, tmp_path: Path) -> None:
    questions = [Question(item, f"prompt {item}", HOSTILE, f"right {item}") for item in ITEMS]
    (tmp_path / "sheet.html").write_text(to_html(questions, "0123abcd" * 8, RUBRIC))
    page = browser.new_context(accept_downloads=True).new_page()
    strange: list[str] = []
    page.on("console", lambda message: strange.append(message.text))
    page.on("pageerror", lambda error: strange.append(str(error)))
    page.on("request", lambda request: strange.extend([request.url] * (not request.url.startswith(("file:", "blob:")))))
    page.goto((tmp_path / "sheet.html").as_uri())
    press = page.keyboard.press

    page.keyboard.type("Ann 10")  # digits in a name answer nothing
    press("Enter")
    assert page.inner_text("#place") == "Pair 1 of 20"
    assert page.evaluate("document.activeElement.id") == "place"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.inner_text("#left") == HOSTILE
    keys = ["ArrowLeft", "ArrowRight", "ArrowDown", "1", "2", "0"]
    labels = ["left", "right", "tie"]
    for number in range(19):
        press(keys[number % 6])
    assert page.inner_text("#place") == "Pair 20 of 20"
    press("Control+1")  # the browser's own
    press("Backspace")
    assert page.inner_text("#place") == "Pair 19 of 20"
    press("1")
    press("2")
    assert page.is_visible("#over")
    press("1")  # there is nothing left to answer
    with page.expect_download() as saved:
        press("Enter")  # the focus is on the button
    saved.value.save_as(tmp_path / "answers.csv")
    press("Tab")
    with page.expect_download() as saved:
        press("Space")
    assert saved.value.suggested_filename == "answers-0123abcd-Ann-10.jsonl"
    saved.value.save_as(tmp_path / "answers.jsonl")
    press("Tab")
    assert page.evaluate("document.activeElement.value") == (tmp_path / "answers.csv").read_text()
    assert (page.title(), strange) == ("Which of the two?", [])

    expected = [*(labels[number % 3] for number in range(18)), "left", "right"]
    gold = Gold(win_rate=(None,) * 3, gain=(None,) * 3)
    pairs = [
        Pair(item=i, prompt="", place=0, replicate=0, left="a", right="b", gold_left=0, gold_right=0) for i in ITEMS
    ]
    key = Key(suite="s", seed=0, against="b", sheet="0123abcd" * 8, page="", rows={"a": gold}, equal={}, pairs=pairs)
    votes = [Vote(item, "Ann 10", label) for item, label in zip(ITEMS, expected, strict=True)]
    for name in ("answers.csv", "answers.jsonl"):
        assert read_answers([tmp_path / name], key).votes == votes


def test_without_a_name_nothing_is_saved_and_a_name_is_no_formula(browser, tmp_path: Path) -> None:
    (tmp_path / "sheet.html").write_text(to_html([Question(ITEMS[0], "p", "x", "")], "0123abcd" * 8, RUBRIC))
    page = browser.new_page()
    page.goto((tmp_path / "sheet.html").as_uri())
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.inner_text("#said") == "Write a name first."
    page.keyboard.type('=cmd("x")')
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "save-csv"
    written = page.input_value("#copy").splitlines()
    assert written == ["item,rater,label", f'{ITEMS[0]},"\'=cmd(""x"")",tie']
    assert json.loads(page.evaluate("asJsonl()")) == {"item": ITEMS[0], "rater": '=cmd("x")', "label": "tie"}
