"""The cache is listed, checked and made smaller, and nobody loses a stage in use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from alignbench.errors import UserError
from alignbench.store import Store
from alignbench.store.artefacts import _checksum
from alignbench.store.upkeep import kept, prune, verify

KEYS = ["aa" * 8, "bb" * 8, "cc" * 8]
SIZE = 1000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three stages, made 30, 20 and 10 days ago."""
    store = Store(tmp_path)
    for key, days in zip(KEYS, (30, 20, 10), strict=True):
        with store.publish(key, {"kind": "sft"}) as folder:
            (folder / "x").write_bytes(b"x" * SIZE)
        path = tmp_path / "stages" / key[:2] / key / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest["sha256"]
        manifest["created"] = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
        path.write_text(json.dumps({**manifest, "sha256": _checksum(manifest)}))
    return store


def keys(store: Store) -> list[str]:
    return [one.key for one in kept(store)]


def test_stages_are_listed_from_the_oldest_with_kind_size_and_age(store: Store) -> None:
    stages = kept(store)
    assert [one.key for one in stages] == KEYS
    assert [round(one.age_days) for one in stages] == [30, 20, 10]
    assert {one.kind for one in stages} == {"sft"}
    assert all(SIZE < one.size_bytes < SIZE + 1000 for one in stages)
    assert kept(Store(store.root / "nowhere")) == []


def test_what_has_no_manifest_is_listed_and_goes_with_the_rest(store: Store) -> None:
    (store.root / "stages" / "bb" / KEYS[1] / "manifest.json").write_text("[]")
    assert {one.key: one.kind for one in kept(store)} == {KEYS[0]: "sft", KEYS[1]: "?", KEYS[2]: "sft"}
    prune(store, larger_than_bytes=0)
    assert keys(store) == []


def test_age_decides_and_then_size_the_oldest_first(store: Store) -> None:
    sizes = {one.key: one.size_bytes for one in kept(store)}
    freed = prune(store, older_than_days=25)
    assert keys(store) == KEYS[1:]
    assert (freed.stages, freed.size_bytes) == (1, sizes[KEYS[0]])
    prune(store, larger_than_bytes=sizes[KEYS[2]])
    assert keys(store) == KEYS[2:]
    assert store.get(KEYS[2])
    prune(store, older_than_days=0)
    assert keys(store) == []


def test_without_a_bound_only_what_is_of_no_use_goes(store: Store) -> None:
    (store.root / "stages" / "aa" / KEYS[0] / "x").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="damaged"):
        store.get(KEYS[0])
    (store.root / "tmp" / "abandoned").mkdir()
    (store.root / "tmp" / "abandoned" / "x").write_bytes(b"x" * 50)
    freed = prune(store)
    assert (freed.stages, keys(store)) == (0, KEYS[1:])
    assert freed.size_bytes > 50
    assert list((store.root / "damaged").iterdir()) == list((store.root / "tmp").iterdir()) == []


def test_scratch_goes_when_it_is_old_or_its_stage_is_there_and_nobody_holds_its_lock(store: Store) -> None:
    old, new, held = ("d0" * 8, "d1" * 8, "d2" * 8)
    for key in (KEYS[0], old, new, held):
        (store.scratch(key) / "x").write_bytes(b"x" * 50)
        if key in (old, held):
            for path in (store.scratch(key) / "x", store.scratch(key)):
                os.utime(path, (0, 0))
    with store.lock(held):
        assert prune(store).size_bytes == 50  # that of a stage that is there
        assert prune(store, older_than_days=1000).size_bytes == 50
    assert sorted(path.name for path in (store.root / "scratch").iterdir()) == [new, held]


def test_a_locked_stage_and_a_folder_being_written_stay(store: Store) -> None:
    with store.lock(KEYS[0]), store.publish("dd" * 8, {}) as writing:
        freed = prune(store, larger_than_bytes=0)
        assert writing.is_dir()
        assert keys(store) == KEYS[:1]
    assert (freed.stages, freed.in_use) == (2, 1)


def test_while_a_run_uses_the_cache_nothing_goes(store: Store) -> None:
    with store.in_use(), store.in_use(), pytest.raises(UserError, match=r"a run is using .*; prune when it has ended"):
        prune(store, larger_than_bytes=0)
    assert keys(store) == KEYS
    assert prune(store, larger_than_bytes=0).stages == 3


def test_every_byte_is_verified_and_damage_moved_aside(store: Store) -> None:
    assert list(verify(store)) == [(key, None) for key in KEYS]
    (store.root / "stages" / "bb" / KEYS[1] / "x").write_bytes(b"y" * SIZE)
    found = dict(verify(store))
    assert [key for key, problem in found.items() if problem] == [KEYS[1]]
    assert "x is altered); moved to" in str(found[KEYS[1]])
    assert keys(store) == [KEYS[0], KEYS[2]]


def command(store: Store, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alignbench.cli", "cache", *arguments],
        env={**os.environ, "ALIGNBENCH_HOME": str(store.root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_commands_say_what_there_is_what_is_wrong_and_what_went(store: Store) -> None:
    lines = command(store, "list").stdout.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [[key, "sft"] for key in KEYS]
    assert lines[0].endswith(" 30.0 d")
    assert lines[-1].startswith("3 stages, 3.")
    (store.root / "stages" / "bb" / KEYS[1] / "x").write_bytes(b"y" * SIZE)
    said = command(store, "verify")
    assert (said.returncode, said.stderr) == (1, "")
    assert said.stdout.splitlines()[-1] == "2 stages are whole, 1 are not"
    assert command(store, "verify").returncode == 0
    assert command(store, "prune", "--older-than", "20").stdout.startswith("1 stages removed, 2.")
    said = command(store, "prune", "--larger-than", "nan")
    assert (said.returncode, said.stderr) == (2, "alignbench: --larger-than: should be 0 or more, got nan\n")
