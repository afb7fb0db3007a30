"""A published table is replaced by a better one, or by force."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.errors import UserError
from alignbench.report.table import check_writable, write_results
from alignbench.scoring.record import Record


def records(*statuses: str) -> list[Record]:
    return [
        Record.model_validate(
            {"suite": "s", "label": f"row {i}", "method": "dpo", "distribution": "d", "version": "1", "seed": 0,
             "status": status, "cause": "it fell" if status == "failed" else None, "key": "ab"}
        )
        for i, status in enumerate(statuses)
    ]  # fmt: skip


def test_a_table_with_fewer_failures_is_kept_unless_by_force(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    write_results(folder, records("ok", "ok"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(before) == ["records.jsonl", "table.csv", "table.md"]
    with pytest.raises(UserError, match=r"1 of 2 cells failed, 0 of 2 in the table there, which is kept: .* --force"):
        write_results(folder, records("ok", "failed"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    write_results(folder, records("ok", "failed"), force=True)
    assert "failed" in (folder / "records.jsonl").read_text()
    write_results(folder, records("failed", "ok"))  # as many failures: the newer
    write_results(folder, records("ok", "ok"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_table_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("no json\n")
    write_results(tmp_path, records("failed"))
    assert "it fell" in (tmp_path / "records.jsonl").read_text()


def test_a_folder_that_takes_results_is_left_as_it_is(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_is_said(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "full" / "table.csv").mkdir(parents=True)
    for name, problem in [("file", "is no folder"), ("file/s", "file is no folder"), ("dangling/s", "is no folder"),
                          ("full", "is a folder, where a file"), ("x" * 300, "File name too long")]:  # fmt: skip
        with pytest.raises(UserError, match=problem):
            check_writable(tmp_path / name)
    denied = PermissionError(13, "Permission denied")
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **kwargs: (_ for _ in ()).throw(denied))
    with pytest.raises(UserError, match=r"^--results: .*new cannot be written \(Permission denied\); name another"):
        check_writable(tmp_path / "new")


def test_a_disk_that_fills_up_is_one_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("alignbench.report.table.write_text", lambda *a: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(
        UserError, match=r"cannot be written \(No space\); mend that and run again: every stage is kept"
    ):
        write_results(tmp_path, records("ok"))
