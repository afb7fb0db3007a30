"""Messages of a child process: lines of JSON in a pipe that a plugin may have written into too. Reading never waits.

Nothing is unpickled: the process may be anybody's. Functions are taken by name, for a plugin may patch their modules.
"""

from __future__ import annotations

import os
from contextlib import suppress
from json import dumps, loads
from os import read, write
from typing import Any


def say(descriptor: int, said: dict[str, Any]) -> None:
    """One message, whole."""
    text = memoryview(dumps(said).encode() + b"\n")
    while text:
        text = text[write(descriptor, text) :]


class Lines:
    """What the other end has said. `longest`: bytes of one message, and of what is read at a time."""

    def __init__(self, descriptor: int, longest: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._longest = longest
        self._text = bytearray()

    def take(self) -> bool:
        """Read what is there, and of a flood some. True at the end: nobody can write any more."""
        with suppress(BlockingIOError):
            while len(self._text) <= self._longest:
                try:
                    text = read(self._descriptor, 1 << 16)
                except ConnectionResetError:  # it ended and left something of ours unread
                    return True
                if not text:
                    return True
                self._text += text
        return False

    def next(self) -> dict[str, Any] | None:
        """The next message; None: it is not whole yet. ValueError or RecursionError if it is none."""
        length = self._text.find(b"\n") + 1
        if not length:
            if len(self._text) > self._longest:
                raise ValueError("longer than any message")
            return None
        line = bytes(self._text[:length])
        del self._text[:length]
        if not isinstance(said := loads(line), dict):
            raise ValueError("no mapping")
        return said
