"""Who holds a lock, who waits, and a cache that may only be read."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from alignbench.assets.models import resolve_model
from alignbench.errors import UserError
from alignbench.store import Store

KEY = "ab12cd34" * 8
ERRORS = (PermissionError(13, "Permission denied"), OSError(30, "Read-only file system"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def publish(store: Store, key: str = KEY) -> Path:
    with store.publish(key, {"kind": "sft"}) as folder:
        (folder / "weights.bin").write_bytes(b"0123456789")
    return store.root / "stages" / key[:2] / key


def test_a_forked_child_holds_no_lock_of_its_parent(store: Store) -> None:
    with store.lock(KEY):
        child = os.fork()
        if child == 0:
            signal.pause()  # lives on
            os._exit(0)
    try:
        got = threading.Event()

        def take() -> None:
            with store.lock(KEY):
                got.set()

        threading.Thread(target=take, daemon=True).start()
        assert got.wait(5), "the child blocks it"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_forked_child_that_leaves_the_block_closes_no_file_of_its_own(store: Store) -> None:
    with store.lock(KEY):
        child = os.fork()
        if child == 0:
            file = os.open(os.devnull, os.O_RDONLY)  # takes the lock's old number
    if child == 0:
        try:
            os.fstat(file)
            with store.lock("ff" * 8):
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_the_parent_keeps_its_lock_over_a_fork(store: Store) -> None:
    said: list[str] = []
    with store.lock(KEY):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        waiter = threading.Thread(target=lambda: store.lock(KEY, lambda: said.append("waits")).__enter__(), daemon=True)
        waiter.start()
        waiter.join(0.3)
        assert said == ["waits"]
        assert waiter.is_alive()
    waiter.join(5)
    assert not waiter.is_alive()


def test_who_need_not_wait_is_not_told_to(store: Store) -> None:
    with store.lock(KEY, lambda: pytest.fail("nobody holds it")):
        pass


@pytest.fixture(params=ERRORS, ids=str)
def read_only(request, store: Store, monkeypatch) -> OSError:
    """From now on nothing under the store can be written; simulated, for permissions do not bind root."""
    publish(store)
    really_open, really_mkdir, really_rename = os.open, Path.mkdir, Path.rename
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def guarded(path, flags, *args, **kwargs):
        if flags & writes and str(path).startswith(str(store.root)):
            raise request.param
        return really_open(path, flags, *args, **kwargs)

    def no_mkdir(path, *args, exist_ok=False, **kwargs):
        if str(path).startswith(str(store.root)) and not path.is_dir():
            raise request.param
        really_mkdir(path, *args, exist_ok=exist_ok, **kwargs)

    def no_rename(path, target):
        if str(path).startswith(str(store.root)):
            raise request.param
        return really_rename(path, target)

    monkeypatch.setattr(os, "open", guarded)
    monkeypatch.setattr(Path, "mkdir", no_mkdir)
    monkeypatch.setattr(Path, "rename", no_rename)
    return request.param


@pytest.mark.usefixtures("read_only")
def test_a_cache_that_may_only_be_read_serves_what_it_holds(store: Store) -> None:
    with store.in_use(), store.lock(KEY):
        assert store.get(KEY) == store.root / "stages" / KEY[:2] / KEY
        assert store.has(KEY)
    with store.lock("ff" * 8):
        assert store.get("ff" * 8) is None


def test_what_it_lacks_is_one_line_with_the_remedy(store: Store, read_only: OSError) -> None:
    with pytest.raises(UserError) as error, store.publish("ff" * 8, {}):
        pass
    assert str(read_only.strerror) in str(error.value)
    assert str(error.value).endswith("set ALIGNBENCH_HOME to a folder of yours")


def test_damage_that_cannot_be_moved_aside_is_said_and_not_used(store: Store, read_only: OSError) -> None:
    (store.root / "stages" / KEY[:2] / KEY / "weights.bin").write_bytes(b"x")
    said = rf"is damaged \(.*\); it is not used, and cannot be moved aside \({read_only.strerror}\)"
    with pytest.warns(UserWarning, match=said):
        assert store.get(KEY) is None


def test_a_stage_that_may_not_be_read_is_one_line(store: Store, monkeypatch) -> None:
    publish(store)
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\): set ALIGNBENCH_HOME"):
        store.get(KEY)
    assert not store.has(KEY)


def test_an_asset_that_is_there_needs_no_lock(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path))
    folder = resolve_model("oracle-llama")
    really_open = os.open

    def guarded(path, flags, *args, **kwargs):
        if flags & os.O_CREAT:
            raise ERRORS[1]
        return really_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", guarded)
    monkeypatch.setattr(Path, "mkdir", lambda *args, **kwargs: (_ for _ in ()).throw(ERRORS[1]))
    (tmp_path / "assets" / ".oracle-llama.lock").unlink()
    assert resolve_model("oracle-llama") == folder
    with pytest.raises(UserError, match=r"Read-only file system\): set ALIGNBENCH_HOME"):
        resolve_model("oracle-gpt2")


@pytest.mark.parametrize("model", ["~nobody-of-that-name/model"])
def test_a_home_that_nobody_has_is_one_line(model: str) -> None:
    with pytest.raises(UserError, match="there is no such home folder"):
        resolve_model(model)


def test_a_user_without_a_home_is_told_to_name_a_folder(monkeypatch) -> None:
    monkeypatch.delenv("ALIGNBENCH_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user id with no entry
    with pytest.raises(UserError, match="set HOME, or ALIGNBENCH_HOME to a folder of yours"):
        Store()
