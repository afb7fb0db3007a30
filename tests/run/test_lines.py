"""Messages out of a pipe that a plugin may have written into."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from alignbench.run.lines import Lines, say


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):  # a test has closed it
            os.close(end)


def everything(lines: Lines) -> list[object]:
    return list(iter(lines.next, None))


def test_messages_come_whole_and_in_order_however_they_are_cut(pipe) -> None:
    hears, tells = pipe
    lines = Lines(hears, 100)
    assert not lines.take()  # nothing is there, and nobody waits
    os.write(tells, b'{"a": 1}\n{"b"')
    assert not lines.take()
    assert everything(lines) == [{"a": 1}]
    assert not lines.take()
    os.write(tells, b": 2}\n")
    say(tells, {"c": "\n"})
    assert not lines.take()
    assert everything(lines) == [{"b": 2}, {"c": "\n"}]


def test_what_was_said_before_the_end_is_heard(pipe) -> None:
    hears, tells = pipe
    say(tells, {"last": True})
    os.close(tells)
    lines = Lines(hears, 100)
    assert lines.take()
    assert everything(lines) == [{"last": True}]


@pytest.mark.parametrize("rubbish", [b"\x80\x00\n", b"[" * 90 + b"\n", b"nil\n"])
def test_what_is_no_json_is_an_error(pipe, rubbish) -> None:
    hears, tells = pipe
    os.write(tells, rubbish)
    lines = Lines(hears, 100)
    lines.take()
    with pytest.raises((ValueError, RecursionError)):
        lines.next()


def test_a_flood_is_read_in_parts_and_a_line_without_end_is_an_error(pipe) -> None:
    hears, tells = pipe
    os.set_blocking(tells, False)
    lines, sent = Lines(hears, 1000), os.write(tells, b'{"x": 1}\n' * 5000)
    heard = 0
    while heard < sent // 9:
        assert not lines.take()
        part = everything(lines)
        assert 0 < len(part) < 10_000
        heard += len(part)
    os.write(tells, b"x" * 3000)
    assert not lines.take()
    with pytest.raises(ValueError, match="longer than any message"):
        lines.next()


def test_an_end_that_left_something_unread_is_an_end() -> None:
    ours, theirs = socket.socketpair()
    ours.send(b"an order")
    theirs.close()
    assert Lines(ours.fileno(), 100).take()
    ours.close()
