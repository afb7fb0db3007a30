"""A Ray cluster for one run: joined, or started here.

One that is started here answers only to whoever has this run's token, has no dashboard, reports to nobody and leaves no
file behind. Of one that is there already, the user's own settings (`RAY_AUTH_MODE`, `RAY_AUTH_TOKEN`) are used.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from alignbench.errors import UserError, in_words

INSTALL = "pip install 'alignbench[ray]'"
OLDEST = (2, 52)  # the first with token authentication
OBJECT_STORE = 128 << 20  # bytes; Ray asks for 75 MiB at least
GRACE = 0.4  # seconds that a cluster started here has for its own end
PRIVATE = {  # of a cluster started here
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it prints advice about a change to come
    "RAY_memory_monitor_refresh_ms": "0",  # it would end what it likes; `--memory` ends the stage that asks too much
}


def check_ray() -> None:
    """UserError if Ray is not installed, or too old. It is not imported: it reads its settings then."""
    try:
        have = version("ray")
    except PackageNotFoundError:
        raise UserError(f"--engine ray needs Ray, which is not installed: {INSTALL}") from None
    if tuple(int(part) for part in have.split(".")[:2]) < OLDEST:
        raise UserError(f"--engine ray needs Ray 2.52 or newer, and this is {have}: {INSTALL}")


@cache
def _token() -> str:
    """Ray reads it once in a process."""
    return secrets.token_hex(32)


def joined(opened: ExitStack, address: str | None, slots: int | None, needs_gpu: bool) -> Any:
    """The module ray, once it has a cluster: that of `address`, or one started here. It is left, or ended, when
    `opened` is closed. UserError if none answers at `address`."""
    # Sockets lie in it, and a socket's path has at most 107 bytes. Ray's workers import from the folder where they
    # are started first of all, which is not to be the user's.
    folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp"))
    if address is None:
        token = {} if "RAY_AUTH_TOKEN" in os.environ else {"RAY_AUTH_TOKEN": _token()}
        opened.enter_context(_environment(PRIVATE | token))
    ray = importlib.import_module("ray")
    opened.callback(ray.shutdown)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with chdir(folder), _kept_handler():
        if address is None:
            opened.enter_context(_ended_soon())
            ray.init(
                address="local", num_cpus=slots, num_gpus=None if needs_gpu else 0, include_dashboard=False,
                object_store_memory=OBJECT_STORE, _temp_dir=folder, **quiet,
            )  # fmt: skip
            return ray
        try:
            host, _, port = address.rpartition(":")
            if host and port.isdigit() and "/" not in host:  # Ray would ask for a minute, and print as it does
                socket.create_connection((host, int(port)), timeout=5).close()
            ray.init(address=address, **quiet)
        except (OSError, OverflowError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise UserError(
                f"--address {address}: no Ray cluster can be joined there ({in_words(error)}); "
                "`ray start --head` starts one and says its address"
            ) from None
    return ray


@contextmanager
def _ended_soon() -> Iterator[None]:
    """What is started from here on is killed soon after the end begins: Ray would wait a second for each of its
    servers, and nothing in them is worth keeping."""
    others = set(psutil.Process().children())
    yield
    servers = [child for child in psutil.Process().children() if child not in others]
    started = [process for server in servers for process in [server, *server.children(recursive=True)]]
    threading.Timer(GRACE, _kill, [started]).start()


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


@contextmanager
def _kept_handler() -> Iterator[None]:
    """Ray puts a handler of its own in the place of ours."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
