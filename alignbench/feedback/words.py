"""Words in a text, for sources that like one and for scores that look for it."""

from __future__ import annotations

import re
from collections.abc import Sequence


def has_word(text: str, words: Sequence[str]) -> bool:
    """Whether one of `words` stands in it as a word of its own, in whatever case."""
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in words)
