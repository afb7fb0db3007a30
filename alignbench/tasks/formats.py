"""Rows of preference data, in any form, as (prompt, chosen, rejected) strings.

Read are all forms of TRL's data-set page that hold preferences: texts or messages or one of each, an explicit prompt or
one that both answers share, answers that say their prompt again, unpaired answers with a label, and several answers
with scores. What was left out, and what was done to a row beyond reading it, is counted.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from alignbench.api import Pair
from alignbench.errors import UserError, nearest, printable
from alignbench.tasks.dialogue import ASSISTANT, Turn, render, tools_in_words, turns_of, whole_characters
from alignbench.tasks.files import Located, Row

COLUMNS = ("prompt", "chosen", "rejected", "completion", "completions", "label", "score", "scores", "tools")
WANTED = (
    "wanted: prompt, unless the answers share it, and chosen and rejected; or completion, and label or score; or "
    "completions and scores; `columns` maps other names to these"
)
TEXT_OF = ("text", "content", "response", "completion", "output", "answer")  # of an answer that is an object
SCORE_OF = ("score", "overall_score", "rating", "reward")
REPEATED = 8  # characters: a shorter prompt may open both answers by chance
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")  # no spaces in it


class Loaded(NamedTuple):
    pairs: list[Pair]
    left_out: Mapping[str, int]  # what kind of row, and how many
    noted: Mapping[str, int]  # of the pairs kept


class _Answer(NamedTuple):
    prompt: str
    completion: str
    score: float


def pairs_of(rows: Iterable[Located], columns: Mapping[str, str]) -> Loaded:
    """`columns`: the data's own names for ours. UserError names the row that cannot be read, and the remedy."""
    left_out: Counter[str] = Counter()
    noted: Counter[str] = Counter()
    pairs: list[Pair] = []
    answers: list[_Answer] = []
    for where, theirs in rows:
        row = _renamed(theirs, columns, where)
        if "chosen" in row or "rejected" in row or not _is_scored(row):
            for column in ("chosen", "rejected"):
                if column not in row:
                    raise UserError(f"{where}: no column '{column}'; seen: {_names(theirs)}; {WANTED}")
            pairs += _kept(_pair(row, where, noted), left_out, noted)
        else:
            answers += _answers(row, where, left_out)
    for pair in _paired(answers, left_out):
        pairs += _kept(pair, left_out, noted)
    return Loaded(pairs, dict(left_out), dict(noted))


def _renamed(row: Row, columns: Mapping[str, str], where: str) -> Row:
    for ours, theirs in columns.items():
        if theirs not in row:
            near = nearest(theirs, map(str, row))
            raise UserError(f"{where}: no column '{printable(theirs, 40)}', which columns.{ours} names; {near}")
    return {**row, **{ours: row[theirs] for ours, theirs in columns.items()}}


def _names(row: Row) -> str:
    return ", ".join(repr(str(name)[:40]) for name in list(row)[:12]) or "none"  # names are hostile text too


def _kept(pair: Pair, left_out: Counter[str], noted: Counter[str]) -> list[Pair]:
    if pair.chosen == pair.rejected:
        left_out["rows with equal answers"] += 1
    elif not pair.chosen.strip():
        left_out["rows whose chosen answer is empty"] += 1
    else:
        noted["pairs with an empty rejected answer"] += not pair.rejected.strip()
        return [pair]
    return []


# -------------------------------------------------------------------------------------------------------------- pairs


def _pair(row: Row, where: str, noted: Counter[str]) -> Pair:
    texts = [row.get(name) for name in Pair._fields]
    talks = [None if value is None else turns_of(value, where) for value in texts]
    prompt, chosen, rejected = talks
    if chosen is not None and rejected is not None:
        if prompt is None and texts[0] is not None and not isinstance(texts[0], str):
            raise _odd(row, where)
        return _of_dialogues(texts[0] if prompt is None else prompt, chosen, rejected, row.get("tools"), where, noted)
    if not (isinstance(texts[1], str) and isinstance(texts[2], str)) or chosen is not None or rejected is not None:
        raise _odd(row, where)
    answers = [_text(text) for text in texts[1:]]
    if texts[0] is None:
        return _cut_text(*answers)
    if prompt is not None:  # messages, and answers in plain text
        turns = [*prompt, *(Turn("assistant", text) for text in answers)]
        return _cut_dialogue(turns[:-2], turns[-2:-1], turns[-1:], row.get("tools"), where)
    if not isinstance(texts[0], str):
        raise _odd(row, where)
    return _without_prompt(Pair(_text(texts[0]), *answers), noted)


def _odd(row: Row, where: str) -> UserError:
    kinds = ", ".join(f"{name} {type(row[name]).__name__}" for name in Pair._fields if name in row)
    return UserError(
        f"{where}: an answer is a text or a list of messages, both of one kind, not {kinds}: mend or drop it"
    )


def _text(text: object) -> str:
    """As it is, but for a transcript's line ends: its marks are looked for by them."""
    plain = whole_characters(str(text))
    return plain.replace("\r\n", "\n") if "\r\n\r\nHuman:" in plain or "\r\n\r\nAssistant:" in plain else plain


def _without_prompt(pair: Pair, noted: Counter[str]) -> Pair:
    """Answers that both say their prompt again say it once: its tokens are no answer's, and never trained."""
    prompt, chosen, rejected = pair
    if len(prompt.strip()) < REPEATED or not (chosen.startswith(prompt) and rejected.startswith(prompt)):
        return pair
    noted["pairs whose answers said the prompt again, which was taken off"] += 1
    return Pair(prompt, chosen[len(prompt) :], rejected[len(prompt) :])


def _equal_items(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Length of the shared start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _cut_text(chosen: str, rejected: str) -> Pair:
    """Split off the shared start: a transcript ends it with "Assistant:", any other text where the two part, but not
    within a word, and before the space that a word brings along."""
    shared = _equal_items(chosen, rejected)
    cut = chosen.rfind(ASSISTANT, 0, shared)
    if cut >= 0:
        cut += len(ASSISTANT)
        return Pair(chosen[:cut], chosen[cut:], rejected[cut:])
    cut = shared
    while cut and (
        any(_is_within_word(text, cut) for text in (chosen, rejected)) or cut in map(len, (chosen, rejected))
    ):
        cut -= 1
    cut = len(chosen[:cut].rstrip())
    return Pair(chosen[:cut], chosen[cut:], rejected[cut:])


def _is_within_word(text: str, cut: int) -> bool:
    """Whether a cut before `text[cut]` parts letters of one word, or a mark from its letter."""
    if cut >= len(text):
        return False
    before, after = text[cut - 1], text[cut]
    if unicodedata.combining(after) or after in "\u200d\ufe0f" or before == "\u200d":
        return True
    return before.isalnum() and after.isalnum() and not (_is_unspaced(before) or _is_unspaced(after))


def _is_unspaced(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(UNSPACED)


def _of_dialogues(
    prompt: list[Turn] | str | None, chosen: list[Turn], rejected: list[Turn], tools: object, where: str,
    noted: Counter[str],
) -> Pair:  # fmt: skip
    if isinstance(prompt, str):
        # beside whole dialogues it is their first question once more; beside bare answers it is the question
        opens = bool(chosen and rejected) and "assistant" not in (chosen[0].role, rejected[0].role)
        prompt = None if opens else [Turn("user", _text(prompt))]
    if prompt is None:
        return _cut_dialogue(*_share(chosen, rejected), tools, where)
    if prompt and chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
        noted["pairs whose answers said the prompt again, which was taken off"] += 1
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    return _cut_dialogue(prompt, chosen, rejected, tools, where)


def _share(chosen: list[Turn], rejected: list[Turn]) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """Prompt and completions of two dialogues: they part at the last assistant's turn before which all is equal."""
    for cut in range(min(_equal_items(chosen, rejected), len(chosen) - 1, len(rejected) - 1), 0, -1):
        if chosen[cut].role == rejected[cut].role == "assistant":
            return chosen[:cut], chosen[cut:], rejected[cut:]
    return [], chosen, rejected


def _cut_dialogue(prompt: list[Turn], chosen: list[Turn], rejected: list[Turn], tools: object, where: str) -> Pair:
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns and turns[0].role != "assistant":
            seen = f"{name} opens with role '{turns[0].role}'"
            raise UserError(f"{where}: after the prompt, {seen}; a message of role 'assistant' is wanted")
    completions = [render(turns).removeprefix(ASSISTANT) for turns in (chosen, rejected)]
    return Pair(tools_in_words(tools) + render(prompt) + ASSISTANT, *completions)


# ------------------------------------------------------------------------------------------------------ single answers


def _is_scored(row: Row) -> bool:
    return "completions" in row or ("completion" in row and ("label" in row or "score" in row))


def _answers(row: Row, where: str, left_out: Counter[str]) -> Iterator[_Answer]:
    prompt = row.get("prompt")
    if "completions" in row:
        many = row["completions"]
        if not isinstance(many, list):
            raise UserError(f"{where}: completions is {type(many).__name__}; a list is wanted")
        scores = row.get("scores")
        if scores is None:
            scores = [_score_within(answer, where) for answer in many]
        if not isinstance(scores, list) or len(scores) != len(many):
            raise UserError(f"{where}: scores should be a list with a number for each of {len(many)} completions")
    else:
        many, scores = [row["completion"]], [row["label"] if row.get("label") is not None else row.get("score")]
    for completion, score in zip(many, scores, strict=True):
        number = _number(score, where)
        if number is None:
            left_out["answers without a score"] += 1
            continue
        text, told = _answer_text(prompt, completion, row.get("tools"), where)
        yield _Answer(text, told, number)


def _answer_text(prompt: object, completion: object, tools: object, where: str) -> tuple[str, str]:
    if isinstance(completion, dict):
        completion = next((completion[name] for name in TEXT_OF if name in completion), None)
    answer, asked = turns_of(completion, where), turns_of(prompt, where)
    if answer is None and not isinstance(completion, str):
        raise UserError(f"{where}: a completion is {type(completion).__name__}; a text or a list of messages is wanted")
    if prompt is None and answer is not None and len(answer) > 1:
        asked, answer = answer[:-1], answer[-1:]
    if asked is None and answer is None and (prompt is None or isinstance(prompt, str)):
        return _text("" if prompt is None else prompt), _text(completion)
    if asked is None:
        asked = [] if prompt is None else [Turn("user", _text(prompt))]
    told = [Turn("assistant", _text(completion))] if answer is None else answer
    pair = _cut_dialogue(asked, told, [], tools, where)
    return pair.prompt, pair.chosen


def _score_within(answer: object, where: str) -> object:
    if not isinstance(answer, dict) or not any(name in answer for name in SCORE_OF):
        names = ", ".join(SCORE_OF)
        raise UserError(f"{where}: no column 'scores', and a completion without a score of its own ({names}); {WANTED}")
    return next(answer[name] for name in SCORE_OF if name in answer)


def _number(score: object, where: str) -> float | None:
    """None: there is none. A CSV's true and false count 1 and 0."""
    if score is None or (isinstance(score, str) and score.strip().lower() in ("", "none", "null", "nan", "n/a")):
        return None
    if isinstance(score, str) and score.strip().lower() in ("true", "false"):
        return float(score.strip().lower() == "true")
    try:
        number = float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        problem = f"a label or score is {printable(repr(score), 40)}; a number, true or false is wanted"
        raise UserError(f"{where}: {problem}") from None
    return None if number != number else number


def _paired(answers: Iterable[_Answer], left_out: Counter[str]) -> Iterator[Pair]:
    """Each prompt's best answer with its worst, its second with its second worst, and so on, as long as their scores
    differ: every answer is in one pair at most."""
    by_prompt: dict[str, list[_Answer]] = {}
    for answer in answers:
        by_prompt.setdefault(answer.prompt, []).append(answer)
    for prompt, given in by_prompt.items():
        ranked = sorted(given, key=lambda answer: -answer.score)
        pairs = [(ranked[i], ranked[-1 - i]) for i in range(len(ranked) // 2) if ranked[i].score > ranked[-1 - i].score]
        if unused := len(ranked) - 2 * len(pairs):
            left_out["answers without one of another score to their prompt"] += unused
        for better, worse in pairs:
            yield Pair(prompt, better.completion, worse.completion)
