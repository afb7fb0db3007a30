"""One byte flipped in any file of the cache, stages and assets: noticed where it is read, and made again."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

from benchmarks.reliability.point import Control, Measured
from benchmarks.reliability.runs import ORACLE, Bench


def measure(is_quick: bool, folder: Path) -> Measured:
    bench = Bench(folder / "whole", {**ORACLE, "methods": ["sft", "dpo"]})
    bench.run()
    whole, records = bench.stages(), bench.records()
    stages = sorted((bench.home / "stages").glob("*/*"))
    flipped, noticed = _stages(stages[:: 4 if is_quick else 1], folder / "copy")
    assets, rebuilt = _assets(bench.home / "assets" / "oracle-llama", bench.home)
    victim = _rot(bench)
    done = bench.run()
    is_remade = done.returncode == 0 and bench.stages() == whole and bench.records() == records
    is_said = f"stage {victim} is damaged" in done.stderr
    return Measured(
        f"{noticed} of {flipped} flips in files of stages noticed and said; {rebuilt} of {assets} in the toy model's "
        f"files undone; the run over a rotten stage {'says so' if is_said else 'says nothing'} and "
        f"{'ends with the same bytes' if is_remade else f'does not mend it (exit code {done.returncode})'}",
        "all",
        noticed == flipped > 0 and rebuilt == assets > 0 and is_said and is_remade,
        _control(bench, whole),
    )


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 1
    path.write_bytes(content or b"x")


def _stages(folders: list[Path], copy: Path) -> tuple[int, int]:
    """Files tried, and those whose flip is seen, said, and ends in the stage being put aside."""
    from alignbench.store import Store

    tried = seen = 0
    for folder in folders:
        for file in [path for path in sorted(folder.rglob("*")) if path.is_file()]:
            place = copy / "stages" / folder.parent.name / folder.name
            shutil.copytree(folder, place)
            flip(place / file.relative_to(folder))
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                served = Store(copy).get(folder.name)
            tried += 1
            seen += served is None and any("damaged" in str(one.message) for one in said)
            shutil.rmtree(copy)
    return tried, seen


def _assets(folder: Path, home: Path) -> tuple[int, int]:
    """Files tried, and those that are made again as they were, byte for byte."""
    from alignbench.assets.models import resolve_model

    before = os.environ.get("ALIGNBENCH_HOME")
    os.environ["ALIGNBENCH_HOME"] = str(home)
    try:
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        rebuilt = 0
        for name in files:
            flip(folder / name)
            resolve_model("oracle-llama")
            rebuilt += {path.name: path.read_bytes() for path in sorted(folder.iterdir())} == files
    finally:
        if before is None:
            del os.environ["ALIGNBENCH_HOME"]
        else:
            os.environ["ALIGNBENCH_HOME"] = before
    return len(files), rebuilt


def _rot(bench: Bench) -> str:
    """Damage the stage whose rows are labelled, and take away what was made from it. Returns its key."""
    victim = next(path for path in sorted((bench.home / "stages").glob("*/*/rows.jsonl")))
    content = victim.read_bytes()
    victim.write_bytes(content.replace(b"a", b"b", 1) if b"a" in content else content + b"\n")
    for other in (bench.home / "stages").glob("*/*"):
        if other != victim.parent and not any(other.glob("rows.jsonl")):
            shutil.rmtree(other)
    return victim.parent.name


def _control(bench: Bench, whole: dict[str, dict[str, str]]) -> Control:
    """Without checksums the damaged stage is used, and nothing is said."""
    blind = Bench(bench.folder, bench.suite, plant=("verify-nothing",))
    victim = _rot(blind)
    done = blind.run()
    is_noticed = "damaged" in done.stderr or blind.stages()[victim] == whole[victim]
    return Control(f"without checksums the rotten stage is {'noticed' if is_noticed else 'used'}", not is_noticed)
