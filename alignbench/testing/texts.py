"""Ordinary texts for a reward source to read, beside those of the oracle task, which is a language of three letters.

Few of that language's letters stand in any of them, for the toy models read those alone and have a short window.
"""

from __future__ import annotations

PROMPTS = ("The film was", "How do I get to the river from here?", "", "Write one line.\n\nLine:", "Über uns: 你好")
LONG = " ".join(["They went on until the river, slow; then home. Good morning!"] * 12)
COMPLETIONS = (
    " good, and it left me in good spirits.",
    " good",
    "Good.",
    "a dull, terrible, boring mess; the worst of the year",
    "great fine happy love wonderful",
    "I'm sorry, but I won't help with this.",
    "Yes! Yes!! Turn left: then right... (or not?)",
    "",
    " ",
    "\n\t \n",
    "...",
    "?!",
    "1,024 is 2^10; 3.14 is not pi",
    "THE WHOLE LINE SHOUTS",
    "one\ntwo\n\nthree",
    "- first\n- then\n- the end",
    '<p>2 > 1 & "quoted"</p>',
    "\U0001f642\U0001f44d\U0001f3fd",
    "这部电影很好看。",
    "это хорошо, déjà vu",
    LONG,
    " good",  # again: one text read twice gets one score
    " ",
)
