"""An author's first five commands, in an environment of its own: what was written installs, and its tests pass."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize(("kind", "listed"), [("method", "method"), ("reward", "source")])
def test_a_new_distribution_installs_and_passes_its_tests_and_the_kit(
    kind: str, listed: str, workshop, tmp_path: Path
) -> None:
    here = tmp_path / "empty"
    here.mkdir()
    said = workshop(f"alignbench new {kind} foo && cd foo && pip install -e . && pytest && alignbench check foo", here)
    assert said.returncode == 0, said.stdout + said.stderr
    assert " passed" in said.stdout
    line = next(line for line in workshop("alignbench plugins", here).stdout.splitlines() if " foo " in line)
    assert line.split()[:2] == [listed, "foo"]
    assert "alignbench-foo" in line
    said = workshop(f"alignbench new {kind} foo --into /tmp", here)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == "alignbench: 'foo' is taken by alignbench-foo, which is installed here; choose another name\n"
