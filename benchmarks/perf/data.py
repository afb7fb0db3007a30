"""The texts every work runs on: pairs whose prompt and answers are up to 64 tokens, the same ids in any trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer

from alignbench.api import Pair
from alignbench.assets.fetch import asset_folder
from alignbench.tasks import ratings
from alignbench.tasks.pairs import load_pairs

MODEL = "smollm2-135m"
LONGEST = 64  # tokens of a prompt, and of an answer
HH = Path(__file__).parents[3] / "shared" / "data" / "hh-harmless.jsonl.gz"


class Data(NamedTuple):
    name: str
    opening: str  # what our encoder puts before a prompt, as text
    pad: int
    eos: int
    eos_text: str
    pairs: list[dict[str, str]]
    ids: list[dict[str, list[int]]]  # of the same rows, prompt with its opening, answers with their end


def load(model: Path | str, source: Path | None, rows: int) -> Data:
    """HH's harmless pairs, or a file of your own, or else human pairs of rated film sentences."""
    words: Any = AutoTokenizer.from_pretrained(model)
    path = source or HH
    pairs = load_pairs(str(path)).pairs if source or HH.is_file() else film_pairs()
    kept, ids = [], []
    for pair in pairs:
        row = _cut(words, pair)
        if row is not None:
            kept.append(row)
            answers = {side: [*_plain(words, row[side]), words.eos_token_id] for side in ("chosen", "rejected")}
            ids.append({"prompt": [words.bos_token_id, *_plain(words, row["prompt"])], **answers})
        if len(kept) == rows:
            break
    if len(kept) < rows:
        raise ValueError(f"{path}: {len(kept)} pairs of up to {LONGEST} tokens, {rows} are needed")
    name = "film sentences" if path == HH and not HH.is_file() else path.name
    return Data(name, words.bos_token, words.pad_token_id, words.eos_token_id, words.eos_token, kept, ids)


def film_pairs() -> list[Pair]:
    """Opening words of one sentence, and how two others go on, the better rated one first."""
    sentences = ratings.load_sentences(asset_folder("movie-ratings") / "movie_ratings.jsonl")
    pairs = ratings.human_pairs(sentences, 2000, 0, 1.0)
    return [
        Pair(" ".join(s.text.split()[:8]), " " + p.chosen, " " + p.rejected)
        for s, p in zip(sentences, pairs, strict=False)
    ]


def _plain(words: Any, text: str) -> list[int]:
    return words.encode(text, add_special_tokens=False, split_special_tokens=True)


def _cut(words: Any, pair: Pair) -> dict[str, str] | None:
    """The pair with its answers cut, or None where its prompt is long or an encoder of prompt and answer in one would
    find other tokens."""
    prompt = _plain(words, pair.prompt)
    if len(prompt) >= LONGEST:
        return None
    row = {"prompt": pair.prompt}
    for side in ("chosen", "rejected"):
        ids = _plain(words, getattr(pair, side))[: LONGEST - 1]
        row[side] = words.decode(ids, clean_up_tokenization_spaces=False)
        if _plain(words, pair.prompt + row[side]) != prompt + ids or _plain(words, row[side]) != ids:
            return None
    return row if row["chosen"] != row["rejected"] else None
