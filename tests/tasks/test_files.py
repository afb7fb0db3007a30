"""One table in every kind of file reads to the same rows, and every mistake is one line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from alignbench.errors import UserError
from alignbench.tasks.files import files_of, is_on_hub, rows_of

WANTED = {"prompt", "chosen", "rejected"}
ROWS = [{"prompt": f'p{i}, "q"\n', "chosen": f"α{i}", "rejected": "b"} for i in range(3)]  # noqa: RUF001


def read(source, **options):
    return [{name: row[name] for name in WANTED} for _, row in rows_of(source, WANTED, **options)]


def as_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ROWS[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def written(folder: Path, name: str) -> Path:
    """ROWS in a file of that name."""
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet

    path, table = folder / name, pa.Table.from_pylist([{**row, "unread": 1} for row in ROWS])
    kind = path.name.split(".", 1)[1].lower().removesuffix(".gz")
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    elif kind == "arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    elif kind == "file.arrow":
        pyarrow.feather.write_feather(table, path, compression="uncompressed")
    elif kind in ("csv", "tsv"):
        as_csv(path, "\t" if kind == "tsv" else ",")
    else:
        columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
        lines = "".join(f"{json.dumps(row)}\n" for row in ROWS)
        forms = {"json": json.dumps(ROWS), "data.json": json.dumps({"version": "1", "data": ROWS}),
                 "columns.json": json.dumps(columns), "lines.json": lines}  # fmt: skip
        path.write_text(forms.get(kind, lines))
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


KINDS = ("a.jsonl", "a.JSONL", "a.ndjson", "a.jsonl.gz", "a.json", "a.json.gz", "a.data.json", "a.columns.json",
         "a.lines.json", "a.csv", "a.CSV", "a.csv.gz", "a.tsv", "a.parquet", "a.arrow", "a.file.arrow")  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_reads_alike(tmp_path: Path, name: str) -> None:
    assert read(str(written(tmp_path, name))) == ROWS


def test_a_column_that_nobody_needs_is_not_read_but_its_name_is_told(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    far = pa.array([2**62], pa.timestamp("us"))  # no date of Python's
    pq.write_table(pa.table({"chosen": ["a"], "when": far}), tmp_path / "far.parquet")
    assert [row for _, row in rows_of(str(tmp_path / "far.parquet"), WANTED)] == [{"chosen": "a", "when": None}]
    pq.write_table(pa.table({"when": far, "what": [1]}), tmp_path / "other.parquet")
    assert [row for _, row in rows_of(str(tmp_path / "other.parquet"), WANTED)] == [{"when": None, "what": None}]


def test_several_files_patterns_and_folders(tmp_path: Path) -> None:
    (tmp_path / "data" / "more").mkdir(parents=True)
    one, two = written(tmp_path / "data", "train-00000-of-00002.parquet"), written(tmp_path / "data", "train.jsonl")
    three = written(tmp_path / "data" / "more", "test.csv")
    written(tmp_path / "data", "trainer_state.json")  # named for no split
    assert read([str(one), str(three)]) == ROWS * 2
    assert read(str(tmp_path / "data" / "*.jsonl")) == ROWS
    assert read(str(tmp_path / "**" / "*.csv")) == ROWS
    assert files_of(str(tmp_path / "data")) == [one, two]
    assert files_of(str(tmp_path / "data"), "test") == [three]
    with pytest.raises(UserError, match=r"no file is named for the split 'dev'; named are: train, test$"):
        files_of(str(tmp_path / "data"), "dev")
    with pytest.raises(UserError, match="no file matches"):
        files_of(str(tmp_path / "*.parquet"))
    with pytest.raises(UserError, match="no file is named"):
        files_of([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no data file in the folder"):
        files_of(str(tmp_path / "empty"))


def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": whole, "test": whole.select([0])}).save_to_disk(str(tmp_path / "two"))
    assert read(str(tmp_path / "one")) == read(str(tmp_path / "two")) == ROWS
    assert read(str(tmp_path / "two"), split="test") == ROWS[:1]
    with pytest.raises(UserError, match=r"two: no split 'tset'; did you mean 'test'\?"):
        read(str(tmp_path / "two"), split="tset")
    for file in (tmp_path / "one").glob("*.arrow"):
        file.write_bytes(b"cut")
    with pytest.raises(UserError, match="one: not a readable folder of save_to_disk"):
        read(str(tmp_path / "one"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"prompt,chosen,rejected\np,a,b,c\n", "a.csv, line 2: more cells than the header has columns"),
        ("a.csv", b"prompt,chosen,rejected\n\np,a\n", "a.csv, line 3: fewer cells than the header has columns"),
        ("a.csv", b'prompt,chosen,rejected\np,"a" b,c\n', "a.csv, after line 1: not CSV in UTF-8"),
        ("a.csv", b"prompt,chosen\n\xff\xfe,b\n", "a.csv, after line 0: not CSV in UTF-8"),
        ("a.json", b'"text"', "a.json: a JSON str; a list of objects is wanted"),
        ("a.json", b"[1]", "a.json, row 1: a JSON int, not an object"),
        ("a.json", b"[{", "a.json, line 1: not JSON"),
        ("a.arrow", b"ARROW1\x00\x00cut", "a.arrow: not a readable Arrow file"),
        ("a.parquet.gz", b"", "a.parquet.gz: unknown kind of file"),
    ],
)
def test_each_mistake_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_cell_longer_than_csvs_default_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"prompt,chosen,rejected\np,{'a' * 200_000},b\n")
    assert len(read(str(tmp_path / "a.csv"))[0]["chosen"]) == 200_000


def test_a_name_with_a_data_files_suffix_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "there").mkdir(parents=True)
    assert is_on_hub("owner/name")
    assert not any(map(is_on_hub, ("owner/name.csv", "owner/there", "a/b/c", "name")))
