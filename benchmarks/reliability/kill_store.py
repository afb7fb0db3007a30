"""A process that publishes without end is killed at random instants: what is listed is whole, nothing half-written."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

from benchmarks.reliability.point import Control, Measured

SIZE = 4 << 20  # bytes of a stage's file, which opens with the sha256 of the rest
WRITER = """
import hashlib, os, sys
from pathlib import Path
from alignbench.store import Store
root, is_plain = Path(sys.argv[1]), sys.argv[2] == "plain"
print("ready", flush=True)
body = os.urandom({size})
content = hashlib.sha256(body).digest() + body
while True:
    key = os.urandom(32).hex()
    if is_plain:
        place = root / "stages" / key[:2] / key
        place.mkdir(parents=True)
        with (place / "content").open("wb", buffering=0) as file:
            for start in range(0, len(content), 4096):
                file.write(content[start : start + 4096])
    else:
        with Store(root).publish(key, {{}}) as folder:
            (folder / "content").write_bytes(content)
"""


def measure(is_quick: bool, folder: Path) -> Measured:
    from alignbench.store import Store
    from alignbench.store.upkeep import verify

    kills, random_ = 8 if is_quick else 100, random.Random(0)
    _kill(folder / "store", "store", kills, random_)
    store = Store(folder / "store")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = dict(verify(store))
    damaged, torn = sum(problem is not None for problem in found.values()), _torn(store.root)
    _kill(folder / "plain", "plain", 2 * kills, random_)
    plain = _torn(folder / "plain")
    return Measured(
        f"{kills} kills, {len(found)} artefacts listed: {damaged} fail verification, {torn} are torn by their own sum",
        "none damaged, none torn",
        len(found) > 0 and damaged == torn == 0,
        Control(f"written in place: {plain} torn after {2 * kills} kills", plain > 0),
    )


def _kill(root: Path, how: str, times: int, random_: random.Random) -> None:
    for _ in range(times):
        command = [sys.executable, "-c", WRITER.format(size=SIZE), str(root), how]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(random_.uniform(0.0, 0.3))
            process.send_signal(signal.SIGKILL)


def _torn(root: Path) -> int:
    """How many of what is listed do not have the sum they open with."""
    folders = list((root / "stages").glob("*/*"))
    return sum(not _is_whole(folder / "content") for folder in folders)


def _is_whole(path: Path) -> bool:
    content = path.read_bytes() if path.exists() else b""
    return len(content) == 32 + SIZE and hashlib.sha256(content[32:]).digest() == content[:32]
