"""A plugin's folder appears whole under a name that will do, or not at all, and one line says why."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import alignbench
from alignbench.errors import UserError
from alignbench.plugins import load_catalog
from alignbench.scaffold.write import new_distribution, spellings

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "alignbench" / "scaffold" / "templates"
ALLOWED = "allowed are lower-case letters and digits, a letter first, in parts joined by one '-', '_' or '.'"


@pytest.mark.parametrize("kind", ["method", "reward"])
def test_a_distribution_has_its_module_tests_and_readme(kind, tmp_path: Path) -> None:
    folder = new_distribution(kind, "my-own.v2", tmp_path)
    assert folder == tmp_path / "my-own.v2"
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()) == [
        ".gitignore", "README.md", "alignbench_my_own_v2.py", "pyproject.toml", "tests/test_my_own_v2.py",
    ]  # fmt: skip
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["name"] == "alignbench-my-own-v2"
    assert project["project"]["dependencies"] == [f"alignbench>={'.'.join(alignbench.__version__.split('.')[:2])}"]
    assert project["project"]["entry-points"]["alignbench"] == {"my-own.v2": "alignbench_my_own_v2"}
    assert list(tmp_path.iterdir()) == [folder]  # no scratch folder stays


@pytest.mark.parametrize(("kind", "plural"), [("method", "methods"), ("reward", "sources")])
def test_the_module_loads_uninstalled(kind, plural: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(new_distribution(kind, f"loose-{kind}", tmp_path))
    catalog = load_catalog([f"alignbench_loose_{kind}"])
    assert [failure for failure in catalog.failures if "loose" in failure.entry_point] == []
    assert getattr(catalog, plural)[f"loose-{kind}"].cls.__name__ == f"Loose{kind.capitalize()}"


def test_the_hinge_is_flat_beyond_its_margin_and_falls_one_beta_a_nat_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.syspath_prepend(new_distribution("method", "hinge-a", tmp_path))
    from alignbench_hinge_a import hinge_loss  # type: ignore[import-not-found]

    losses = [float(hinge_loss(torch.tensor([nats]), 0.5)) for nats in (-2.0, 0.0, 1.0, 2.0, 9.0)]
    assert losses == [2.0, 1.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["method", "reward"])
def test_what_is_written_is_tidy(kind, tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    folder = new_distribution(kind, "my-own", tmp_path)
    for command in (["check", "--extend-select", "I,B,UP,SIM"], ["format", "--check"]):
        said = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", "--config", "line-length = 120"],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert said.returncode == 0, said.stdout


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("My_Method", f"name 'My_Method': {ALLOWED}; for example 'my-method'"),
        ("a--b", f"name 'a--b': {ALLOWED}; for example 'a-b'"),
        ("2fast", f"name '2fast': {ALLOWED}; for example 'fast'"),
        ("../up", f"name '../up': {ALLOWED}; for example 'up'"),
        ("a\nb", f"name 'a\\nb': {ALLOWED}; for example 'a-b'"),
        ("é", f"name 'é': {ALLOWED}; for example 'my-method'"),
        ("", f"name '': {ALLOWED}; for example 'my-method'"),
        ("none", "name 'none': its class would be called None, a word of Python; choose another name"),
        ("harness", "name 'harness': `alignbench check harness` means alignbench itself; choose another name"),
        ("dpo", "'dpo' is taken by alignbench-dpo, which is installed here; choose another name"),
        ("length", "'length' is taken by alignbench, which is installed here; choose another name"),
        ("hh", "'hh' is taken by alignbench, which is installed here; choose another name"),
        ("baselines", "'baselines' is taken by alignbench-baselines, which is installed here; choose another name"),
    ],
)
def test_a_name_that_will_not_do_leaves_nothing(name: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        new_distribution("method", name, tmp_path)
    assert str(caught.value) == problem
    assert list(tmp_path.iterdir()) == []


def test_the_name_proposed_in_place_of_a_bad_one_is_a_good_one() -> None:
    for bad in ("My Method!", "-x-", "3D_Loss", "..", "A.b--C"):
        with pytest.raises(UserError) as caught:
            spellings(bad)
        spellings(str(caught.value).rpartition("'")[0].rpartition("'")[2])


@pytest.mark.parametrize("there", ["folder", "file", "dangling link"])
def test_what_is_there_already_is_left_alone(there: str, tmp_path: Path) -> None:
    place = tmp_path / "mine"
    if there == "folder":
        place.mkdir()
    elif there == "file":
        place.write_text("precious")
    else:
        place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="mine: already exists; choose another name, or another place with --into"):
        new_distribution("method", "mine", tmp_path)
    assert list(tmp_path.iterdir()) == [place]
    assert not place.is_dir() or list(place.iterdir()) == []


def test_a_missing_parent_and_a_name_too_long_for_a_folder_are_one_line(tmp_path: Path) -> None:
    for name, parent in (("mine", tmp_path / "nowhere"), ("m" * 300, tmp_path)):
        with pytest.raises(UserError, match=r"cannot be written: .*; name an existing folder with --into"):
            new_distribution("method", name, parent)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_midway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = Path.write_text, []

    def full(self: Path, *arguments, **options) -> int:
        written.append(self)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return write(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="mine: cannot be written: No space left on device"):
        new_distribution("method", "mine", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_template_travels_with_the_package_and_is_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["alignbench"]
    carried = {file for pattern in patterns for file in (ROOT / "alignbench").glob(pattern)}
    templates = {file for file in TEMPLATES.rglob("*") if file.is_file()}
    assert templates <= carried
    assert len(templates) == 8  # per kind three of its own and two that are shared: what the test above counts
