"""What the store promises: a stage is whole or absent, whoever is killed, and no altered byte is ever used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from alignbench.errors import UserError
from alignbench.store import Store, read_json, read_rows, store_home, write_json, write_rows, write_text

KEY = "ab12cd34" * 8
OTHER = "ff00ee11" * 8


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def publish(store: Store, key: str = KEY) -> Path:
    with store.publish(key, {"kind": "sft"}) as folder:
        (folder / "weights.bin").write_bytes(b"0123456789")
        (folder / "sub").mkdir()
        (folder / "sub" / "log.txt").write_text("step 1\n")
    return store.root / "stages" / key[:2] / key


def start(store: Store, code: str) -> subprocess.Popen[str]:
    """A second process with `store` and `KEY` at hand."""
    opening = f"""
        import sys, time
        from pathlib import Path
        from alignbench.store import Store
        store, KEY = Store(Path({str(store.root)!r})), {KEY!r}
    """
    return subprocess.Popen([sys.executable, "-c", dedent(opening) + dedent(code)], stdout=subprocess.PIPE, text=True)


def leftovers(store: Store) -> list[Path]:
    return list((store.root / "tmp").iterdir())


def test_what_was_published_is_read_back(store: Store) -> None:
    assert store.get(KEY) is None
    assert not store.has(KEY)
    place = publish(store)
    assert store.get(KEY) == place
    assert store.has(KEY)
    assert (place / "sub" / "log.txt").read_text() == "step 1\n"
    assert store.meta(KEY) == {"kind": "sft"}
    assert leftovers(store) == []


def test_meta_may_be_completed_inside_the_block(store: Store) -> None:
    meta: dict[str, object] = {"kind": "sft", "rows": {10: "a", 9: "b"}}
    with store.publish(KEY, meta):
        meta["seconds"] = 1.5
    assert store.get(KEY)
    assert store.meta(KEY) == {"kind": "sft", "rows": {"10": "a", "9": "b"}, "seconds": 1.5}


def test_meta_of_an_absent_stage_is_a_key_error(store: Store) -> None:
    with pytest.raises(KeyError, match=r"manifest\.json is missing"):
        store.meta(KEY)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_nothing_behind(store: Store, error: type[BaseException]) -> None:
    def fail_halfway() -> None:
        with store.publish(KEY, {}) as folder:
            (folder / "half").write_text("x")
            raise error

    with pytest.raises(error):
        fail_halfway()
    assert leftovers(store) == []
    assert store.get(KEY) is None


def test_a_killed_publisher_leaves_nothing_visible_and_the_next_one_sweeps(store: Store) -> None:
    child = start(
        store,
        """
        with store.publish(KEY, {}) as folder:
            (folder / "half").write_text("x")
            print("inside", flush=True)
            time.sleep(60)
        """,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "inside\n"
    (theirs,) = leftovers(store)
    publish(store, OTHER)
    assert leftovers(store) == [theirs], "a living writer's folder is left alone"

    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert store.get(KEY) is None
    assert not store.has(KEY)
    publish(store)
    assert leftovers(store) == []
    assert store.get(KEY)


@pytest.mark.parametrize("step", ["fsync", "rename", "write_json"])
def test_a_kill_while_sealing_leaves_a_whole_stage_or_none(store: Store, step: str) -> None:
    """The process dies at the first fsync, before the manifest, and before the rename that makes the stage visible."""
    owner = {"fsync": "os", "rename": "Path", "write_json": "artefacts"}[step]
    child = start(
        store,
        f"""
        import os, signal
        from alignbench.store import artefacts
        with store.publish(KEY, {{}}) as folder:
            (folder / "whole").write_text("x")
            {owner}.{step} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.get(KEY) is None
    publish(store)
    assert store.get(KEY)
    assert leftovers(store) == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("harm", "why", "is_seen_by_has"),
    [
        (lambda place: flip(place / "weights.bin"), "weights.bin is altered", False),
        (lambda place: os.truncate(place / "weights.bin", 4), "weights.bin has 4 bytes instead of 10", True),
        (lambda place: (place / "sub" / "log.txt").unlink(), "sub/log.txt is missing", True),
        (lambda place: dangle(place / "weights.bin"), r".*No such file", True),
        (lambda place: (place / "new").write_text(""), "new is not in the manifest", False),
        (lambda place: (place / "link").symlink_to("/"), "link is not in the manifest", False),
        (lambda place: (place / "manifest.json").unlink(), "manifest.json is missing", True),
        (lambda place: os.truncate(place / "manifest.json", 50), "manifest.json is not JSON", True),
        (lambda place: os.truncate(place / "manifest.json", 0), "manifest.json is not JSON", True),
        (lambda place: (place / "manifest.json").write_text("[]"), "manifest.json is altered", True),
        (lambda place: flip(place / "manifest.json"), "manifest.json is ", True),
    ],
)
def test_damage_is_moved_aside_and_never_used(
    store: Store, harm: Callable[[Path], None], why: str, is_seen_by_has: bool
) -> None:
    place = publish(store)
    harm(place)
    assert store.has(KEY) is not is_seen_by_has
    with pytest.warns(UserWarning, match=rf"^stage {KEY} is damaged \({why}.*moved to .*damaged/{KEY}"):
        assert store.get(KEY) is None
    assert not place.exists()
    assert len(list((store.root / "damaged").iterdir())) == 1
    publish(store)
    assert store.get(KEY) == place


def test_no_altered_byte_of_a_manifest_passes(store: Store) -> None:
    place = publish(store)
    whole = (place / "manifest.json").read_bytes()
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 1
        (place / "manifest.json").write_bytes(altered)
        assert not store.has(KEY) or json.loads(altered) == json.loads(whole), bytes(altered)


@pytest.mark.parametrize("name", ["manifest.json", "weights.bin"])
def test_a_pipe_in_a_files_place_is_damage_and_nobody_waits_for_a_writer(store: Store, name: str) -> None:
    place = publish(store)
    (place / name).unlink()
    os.mkfifo(place / name)
    with pytest.warns(UserWarning, match="damaged"):
        assert store.get(KEY) is None


def test_a_store_whose_folder_is_a_file_holds_nothing(store: Store) -> None:
    store.root.mkdir()
    (store.root / "stages").write_text("in the way")
    assert not store.has(KEY)
    with pytest.raises(KeyError):
        store.meta(KEY)


def test_a_stage_under_a_foreign_key_is_damage(store: Store) -> None:
    place = publish(store)
    foreign = store.root / "stages" / OTHER[:2] / OTHER
    foreign.parent.mkdir()
    place.rename(foreign)
    with pytest.warns(UserWarning, match="is that of stage"):
        assert store.get(OTHER) is None


def test_a_newer_format_is_an_error_and_stays_where_it_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignbench.store.artefacts.FORMAT", 2)
    place = publish(store)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"manifest.json has format 2 and this alignbench reads up to 1; upgrade: pip"):
        store.get(KEY)
    assert place.exists()


def test_the_first_to_publish_stays(store: Store) -> None:
    with store.publish(KEY, {"who": "second"}) as folder:
        (folder / "mine").write_text("x")
        publish(store)
    assert store.meta(KEY) == {"kind": "sft"}
    assert store.get(KEY)
    assert leftovers(store) == []


def test_a_damaged_stage_makes_room_for_a_published_one(store: Store) -> None:
    flip(publish(store) / "weights.bin")
    with pytest.warns(UserWarning, match="altered"):
        publish(store)
    assert store.get(KEY)


@pytest.mark.parametrize("name", ["manifest.json", "link"])
def test_what_a_stage_may_not_hold(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match=name), store.publish(KEY, {}) as folder:
        (folder / name).symlink_to("/etc/hostname")
    assert store.get(KEY) is None


def test_scratch_outlives_a_failure_and_goes_with_the_publication(store: Store) -> None:
    key, other = "ab" * 8, "cd" * 8

    def fail_after(fill: Callable[[], object], key: str) -> None:
        with store.publish(key, {}):
            fill()
            raise KeyboardInterrupt

    for name in ("note", "second"):
        with pytest.raises(KeyboardInterrupt):
            fail_after(lambda name=name: (store.scratch(key) / name).write_text("kept"), key)  # type: ignore[misc]
    assert {path.name for path in store.scratch(key).iterdir()} == {"note", "second"}
    with store.publish(key, {}) as folder:
        (folder / "x").write_text("x")
    with pytest.raises(KeyboardInterrupt):
        fail_after(lambda: (store.scratch(other) / "empty").mkdir(), other)
    assert list((store.root / "scratch").iterdir()) == []


def test_racing_processes_compute_once(store: Store) -> None:
    code = """
        with store.lock(KEY):
            if store.get(KEY) is None:
                with store.publish(KEY, {}) as folder:
                    time.sleep(0.5)
                    (folder / "out").write_text("x")
                print("computed")
    """
    said = [child.communicate()[0] for child in [start(store, code) for _ in range(4)]]
    assert sorted(said) == ["", "", "", "computed\n"]


def test_a_killed_holder_lets_go_of_the_lock(store: Store) -> None:
    child = start(store, "with store.lock(KEY):\n    print('held', flush=True)\n    time.sleep(60)\n")
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    child.kill()
    child.communicate()
    with store.lock(KEY):
        pass


@pytest.mark.parametrize("key", ["", "ab", "../../../etc", "AB12CD34", "ab12cd3g", "ab12cd34/..", "ab12cd34\n"])
def test_a_key_is_hexadecimal(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="is not 8 to 128 lower-case hexadecimal digits"):
        store.get(key)
    with pytest.raises(ValueError, match="hexadecimal"), store.lock(key):
        pass
    with pytest.raises(ValueError, match="hexadecimal"), store.publish(key, {}):
        pass


def test_the_home_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNBENCH_HOME", "/somewhere")
    assert store_home() == Store().root == Path("/somewhere")
    monkeypatch.delenv("ALIGNBENCH_HOME")
    assert store_home() == Path.home() / ".cache" / "alignbench"


def test_single_files_round_trip(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"é": [1, None]})
    assert read_json(tmp_path / "deep" / "a.json") == {"é": [1, None]}
    rows: list[dict[str, object]] = [{"text": "line\u2028separator \x85 \ud800"}, {"n": 0.1}]
    write_rows(tmp_path / "rows.jsonl", iter(rows))
    assert read_rows(tmp_path / "rows.jsonl") == rows
    write_text(tmp_path / "empty.jsonl", "")
    assert read_rows(tmp_path / "empty.jsonl") == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"n": 1}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_rows(path, [{"n": 2}, {"n": float("nan")}])
    assert read_rows(path) == [{"n": 1}]
    assert list(tmp_path.iterdir()) == [path]


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in ('{"a": ', '"\xff"'):
        path.write_text(content, encoding="latin-1")
        with pytest.raises(UserError, match=r"a\.json is not JSON"):
            read_json(path)
    path.write_text('{"format": 99}')
    with pytest.raises(UserError, match=r"a\.json has format 99 .* upgrade: pip install -U alignbench"):
        read_json(path)
    path.write_text('{"a": 1}\n{"b": ')
    with pytest.raises(UserError, match=r"a\.json, line 2 is not JSON"):
        read_rows(path)
    path.write_text("[1]\n")
    with pytest.raises(UserError, match=r"a\.json, line 1 is list; a JSON object is allowed"):
        read_rows(path)


def test_the_store_imports_no_torch() -> None:
    code = "import sys, alignbench.store; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
