"""What a stranger's text or exception may do to a line: nothing."""

from __future__ import annotations

import pytest

from alignbench.errors import PluginError, UserError, blamed, in_words, printable


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[31mred\x1b[0m", " [31mred [0m"),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x07", " ]8;;http://x link ]8;; "),
        ("".join(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C])), " " * 12),
        ("half \ud800 of one", "half ? of one"),
        ("two\nlines\r", "two lines "),
        ("β and 日本", "β and 日本"),
    ],
)
def test_a_character_that_a_terminal_obeys_becomes_a_visible_one(text: str, seen: str) -> None:
    assert printable(text) == seen


def test_a_long_text_is_cut_and_says_by_how_much() -> None:
    assert printable("x" * 2000) == "x" * 2000
    assert printable("x" * 100_000) == "x" * 2000 + "... (and 98000 more characters)"
    assert printable("abcdef", limit=4) == "abcd... (and 2 more characters)"


class MuteError(Exception):
    def __str__(self) -> str:
        raise SystemExit("not that way")


class NumberError(Exception):
    def __str__(self) -> str:
        return 3  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("a\n  b"), "ValueError: a b"),
        (ValueError(), "ValueError"),
        (UserError("mend it"), "mend it"),
        (UserError(""), "UserError"),
        (PluginError("x", "y 1", "no"), "plugin 'x' (from y 1): no"),
        (ValueError("\ud800 \u202e."), "ValueError: ?  ."),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (MuteError(), "MuteError (its message cannot be shown)"),
        (NumberError(), "NumberError (its message cannot be shown)"),
    ],
)
def test_any_exception_has_words(error: BaseException, words: str) -> None:
    assert in_words(error) == words
    in_words(error).encode()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("a\n\x1b[31mb"), "plugin 'x' (from y 1): score() raised ValueError: a  [31mb"),
        (StopIteration(), "plugin 'x' (from y 1): score() raised StopIteration"),
        (SystemExit(0), "plugin 'x' (from y 1): score() raised SystemExit: 0"),
        (PluginError("z", "y 1", "no"), "plugin 'z' (from y 1): no"),
    ],
)
def test_what_a_plugin_raises_is_its_own(error: BaseException, words: str) -> None:
    with pytest.raises(PluginError) as raised, blamed("x", "y 1", "score()"):
        raise error
    assert str(raised.value) == words


@pytest.mark.parametrize("error", [UserError("mend it"), KeyboardInterrupt()])
def test_a_mistake_and_an_interruption_are_no_fault_of_a_plugin(error: BaseException) -> None:
    with pytest.raises(type(error)), blamed("x", "y 1", "score()"):
        raise error


def test_a_bug_of_our_own_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match="ours"), blamed("x", "alignbench", "score()"):
        raise ValueError("ours")
