"""A blinded sheet and its key on the disk: never a key beside a sheet of another draw, and none lost for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.audit_cli import _refuse_to_replace, _replace, _writing
from alignbench.errors import UserError

KEY, SHEETS = "key.json", ("sheet.csv", "sheet.html")


def texts(draw: str) -> dict[str, str]:
    return dict.fromkeys((*SHEETS, KEY), draw)


def there(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in out.iterdir() if path.is_file()}


def test_a_sheet_that_cannot_be_written_leaves_the_old_one_and_its_key(tmp_path: Path) -> None:
    _replace(tmp_path, texts("old"), KEY)
    assert there(tmp_path) == texts("old")
    (tmp_path / "sheet.html").unlink()
    (tmp_path / "sheet.html").mkdir()
    with pytest.raises(UserError, match=r"cannot be written \(sheet.html is a folder\); mend that"), _writing(tmp_path):
        _replace(tmp_path, texts("new"), KEY)
    assert there(tmp_path) == {"sheet.csv": "old", KEY: "old"}
    assert not (tmp_path / ".drawn").exists()


@pytest.mark.parametrize("renamed", range(7))
def test_a_draw_that_is_cut_off_leaves_no_key_beside_another_sheet_and_may_be_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    _replace(tmp_path, texts("old"), KEY)
    count, rename = 0, Path.replace

    def cut_off(self: Path, target: Path) -> Path:
        nonlocal count
        if count == renamed:
            raise KeyboardInterrupt
        count += 1
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut_off)  # three files are written aside, and three put in place
        if renamed < 6:
            with pytest.raises(KeyboardInterrupt):
                _replace(tmp_path, texts("new"), KEY)
        else:
            _replace(tmp_path, texts("new"), KEY)
    found = there(tmp_path)
    if KEY in found:
        assert found == texts("old" if renamed < 3 else "new")
        with pytest.raises(UserError, match=r"key.json is there, and people may be answering it"):
            _refuse_to_replace(tmp_path, KEY, SHEETS, force=False)
    else:
        assert renamed in (3, 4, 5)
        _refuse_to_replace(tmp_path, KEY, SHEETS, force=False)
    _replace(tmp_path, texts("again"), KEY)
    assert there(tmp_path) == texts("again")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_sheet_whose_key_was_put_elsewhere_is_not_replaced_unasked(tmp_path: Path) -> None:
    _replace(tmp_path, texts("old"), KEY)
    (tmp_path / KEY).unlink()
    with pytest.raises(UserError, match=r"sheet.csv is there, and people may be answering it"):
        _refuse_to_replace(tmp_path, KEY, SHEETS, force=False)
    _refuse_to_replace(tmp_path, KEY, SHEETS, force=True)


def test_votes_on_an_older_sheet_never_stand_beside_a_new_key(tmp_path: Path) -> None:
    (tmp_path / "votes.csv").write_text("item,rater,label\n")
    for force in (False, True):
        with pytest.raises(UserError, match=r"votes.csv is there: it has what people answered .*; move it away, or"):
            _refuse_to_replace(tmp_path, KEY, SHEETS, force)
