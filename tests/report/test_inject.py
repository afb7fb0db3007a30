"""A table goes into a README between its markers, and nothing else of the file changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.errors import UserError
from alignbench.report.table import inject


def test_inject_replaces_what_stands_between_the_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_bytes("# Ä\r\n<!-- results:a -->\nold\n<!-- /results:a -->\nend <!-- results:b -->".encode())
    inject(readme, "a", "new\n")
    once = readme.read_bytes()
    assert once.decode() == "# Ä\r\n<!-- results:a -->\n\nnew\n\n<!-- /results:a -->\nend <!-- results:b -->"
    inject(readme, "a", "new\n")
    assert readme.read_bytes() == once


@pytest.mark.parametrize(
    "text",
    ["", "<!-- results:a -->", "<!-- /results:a --> <!-- results:a -->", "<!-- results:a --><!-- /results:a -->" * 2],
)
def test_inject_names_the_markers_it_needs(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(UserError, match="needs one line '<!-- results:a -->'"):
        inject(readme, "a", "new")
    assert readme.read_text() == text
