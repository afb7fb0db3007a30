"""Rows of data files, each with the words that locate it in an error.

    for where, row in rows_of("pairs/*.jsonl", wanted={"prompt", "chosen", "rejected"}): ...

Read are .jsonl, .json, .csv and .tsv (each also .gz), .parquet and .arrow, in any letter case; several of them, by name
or by a pattern; folders of them; folders of `save_to_disk`; and data sets of the Hub. Of a table only the wanted
columns are read: a date of the year 20000 in another one is no reason to fail. The others' names stay in the row, with
None.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from alignbench.errors import UserError, nearest, printable
from alignbench.store.paths import is_hub_id

Row = Mapping[str, Any]
Located = tuple[str, Row]
SPLITS = ("train", "validation", "valid", "dev", "test", "eval")  # what a file of a folder may be named for
DATASET = ("dataset_info.json", "dataset_dict.json")  # one of them is in a folder of `save_to_disk`


def rows_of(
    source: str | Sequence[str], wanted: Collection[str], split: str = "train", data_dir: str | None = None
) -> Iterator[Located]:
    """`split` and `data_dir` are the Hub's; a local folder has splits too. UserError, in one line, for whatever is
    wrong."""
    if isinstance(source, str) and is_on_hub(source):
        yield from _hub_rows(source, wanted, split, data_dir)
        return
    for path in files_of(source, split):
        yield from _folder_rows(path, wanted, split) if path.is_dir() else _file_rows(path, wanted)


def is_on_hub(source: str) -> bool:
    return is_hub_id(source) and kind_of(source) is None and not Path(source).expanduser().exists()


def files_of(source: str | Sequence[str], split: str = "train") -> list[Path]:
    """The files, and folders of `save_to_disk`, that a local source names."""
    found: list[Path] = []
    for name in [source] if isinstance(source, str) else source:
        path = Path(name).expanduser()
        if not path.exists() and any(char in name for char in "*?["):
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207  # Path.glob takes no absolute one
            if not matches:
                raise UserError(f"{name}: no file matches; quote the pattern, and mind the folder it starts from")
            found += matches
        elif path.is_dir() and not any((path / part).is_file() for part in DATASET):
            found += _within(path, split)
        else:
            found.append(path)
    if not found:
        raise UserError("no file is named; give at least one")
    return found


def kind_of(name: str) -> str | None:
    """The suffix that says how to read a file. None: it is not known."""
    plain = name.lower().removesuffix(".gz")
    suffix = next((known for known in READERS if plain.endswith(known)), None)
    return None if suffix is None or (suffix in COLUMNAR and name.lower().endswith(".gz")) else suffix


def _within(folder: Path, split: str) -> list[Path]:
    """Data files of a folder: those named for the split, or all where none is named for any."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and kind_of(file.name))
    of_split = {name: [file for file in files if _opens(file.name, name)] for name in SPLITS}
    if any(of_split.values()):
        named = of_split.get(split) or [file for file in files if _opens(file.name, split)]
        if not named:
            there = ", ".join(name for name, some in of_split.items() if some)
            raise UserError(f"{folder}: no file is named for the split '{printable(split, 40)}'; named are: {there}")
        return named
    if not files:
        raise UserError(
            f"{folder}: no data file in the folder; allowed: {', '.join(READERS)}, or a folder of save_to_disk"
        )
    return files


def _opens(name: str, split: str) -> bool:
    """'train.jsonl' and 'train-00000-of-00002.parquet', not 'trainer.json'."""
    return name.startswith(split) and not name[len(split) :][:1].isalnum()


def _file_rows(path: Path, wanted: Collection[str]) -> Iterator[Located]:
    if not path.is_file():
        folder = path.parent
        names = [other.name for other in folder.iterdir() if other.is_file()] if folder.is_dir() else []
        near = nearest(path.name, [name for name in names if kind_of(name)])
        raise UserError(f"{path}: no such file, and not a Hub id `owner/name`; in its folder: {near}")
    kind = kind_of(path.name)
    if kind is None:
        raise UserError(f"{path}: unknown kind of file; allowed: {', '.join(READERS)}, the first five also .gz")
    yield from READERS[kind](path, wanted)


# --------------------------------------------------------------------------------------------------------- text files


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{path}: damaged gzip file: copy or download it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend that, or name another file") from None


def _jsonl_rows(path: Path, wanted: Collection[str]) -> Iterator[Located]:
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
            except (ValueError, RecursionError):
                raise UserError(f"{where}: not JSON; one object a line is wanted") from None
            yield where, _object(row, where)


def _json_rows(path: Path, wanted: Collection[str]) -> Iterator[Located]:
    """A list of objects; an object that has one such list, or a list for each column; or JSON lines after all."""
    with _opened(path) as file:
        text = file.read()
    try:
        whole = json.loads(text.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        yield from _jsonl_rows(path, wanted)
        return
    if isinstance(whole, dict):
        lists = {name: value for name, value in whole.items() if isinstance(value, list)}
        tables = [value for value in lists.values() if value and all(isinstance(row, dict) for row in value)]
        if len({len(value) for value in lists.values()}) == 1 and set(lists) & set(wanted):
            whole = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
        else:
            whole = tables[0] if len(tables) == 1 else [whole]
    if not isinstance(whole, list):
        raise UserError(f"{path}: a JSON {type(whole).__name__}; a list of objects is wanted")
    for number, row in enumerate(whole, start=1):
        yield f"{path}, row {number}", _object(row, f"{path}, row {number}")


def _object(row: object, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON {type(row).__name__}, not an object with a value for each column")
    return row


def _csv_rows(path: Path, wanted: Collection[str], delimiter: str = ",") -> Iterator[Located]:
    csv.field_size_limit(sys.maxsize)
    with _opened(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        reader = csv.DictReader(text, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    problem = "more" if None in row else "fewer"
                    raise UserError(f"{where}: {problem} cells than the header has columns; quote what holds a comma")
                yield where, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}, after line {reader.line_num}: not CSV in UTF-8 ({error}); save it as that"
            ) from None


def _tsv_rows(path: Path, wanted: Collection[str]) -> Iterator[Located]:
    return _csv_rows(path, wanted, delimiter="\t")


# ------------------------------------------------------------------------------------------------------------- tables


def _parquet_rows(path: Path, wanted: Collection[str]) -> Iterator[Located]:
    import pyarrow.parquet as pq

    with _readable(path, "parquet"):
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        shown = [name for name in names if name in wanted]
        yield from _of_batches(
            path, names, file.iter_batches(columns=shown) if shown else [None] * file.metadata.num_rows
        )


def _arrow_rows(path: Path, wanted: Collection[str]) -> Iterator[Located]:
    import pyarrow as pa

    with _readable(path, "Arrow"), pa.memory_map(str(path)) as source:
        try:
            table = pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            table = pa.ipc.open_file(source).read_all()
        shown = [name for name in table.column_names if name in wanted]
        batches = table.select(shown).to_batches() if shown else [None] * table.num_rows
        yield from _of_batches(path, table.column_names, batches)


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError, OverflowError) as error:
        reason = printable((str(error).splitlines() or [type(error).__name__])[0], 100)
        raise UserError(f"{path}: not a readable {kind} file ({reason}): copy or download it again") from None


def _of_batches(path: Path, names: Sequence[str], batches: Any) -> Iterator[Located]:
    """`batches`: of the wanted columns; a None for each row where there is none of them."""
    unread, number = dict.fromkeys(names), 0
    for batch in batches:
        for row in [{}] if batch is None else batch.to_pylist():
            number += 1
            yield f"{path}, row {number}", {**unread, **row}


def _folder_rows(folder: Path, wanted: Collection[str], split: str) -> Iterator[Located]:
    import datasets  # seconds to import

    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{folder}: not a readable folder of save_to_disk ({_reason(error)}); save it again") from None
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise UserError(f"{folder}: no split '{printable(split, 40)}'; {nearest(split, found)}")
        found = found[split]
    yield from _of_data_set(str(folder), found, wanted)


def _hub_rows(hub_id: str, wanted: Collection[str], split: str, data_dir: str | None) -> Iterator[Located]:
    import datasets  # seconds to import

    try:
        found = datasets.load_dataset(hub_id, split=split, data_dir=data_dir)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # offline, unknown id, unknown split
        raise UserError(
            f"data set '{hub_id}', split '{split}', data_dir '{data_dir or ''}': {_reason(error)}; "
            "check the three names and the network, or name a local file"
        ) from None
    yield from _of_data_set(hub_id, found, wanted)


def _of_data_set(name: str, found: Any, wanted: Collection[str]) -> Iterator[Located]:
    """Of a `datasets.Dataset`."""
    unread = dict.fromkeys(found.column_names)
    shown = [column for column in unread if column in wanted]
    rows = found.select_columns(shown) if shown else ({} for _ in range(len(found)))
    for number, row in enumerate(rows, start=1):
        yield f"{name}, row {number}", {**unread, **row}


def _reason(error: Exception) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0], 200)


READERS: dict[str, Callable[[Path, Collection[str]], Iterator[Located]]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".parquet": _parquet_rows,
    ".arrow": _arrow_rows,
}
COLUMNAR = (".parquet", ".arrow")
