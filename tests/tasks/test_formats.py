"""Every form of preference data reads to the pairs it means; what is lost or mended is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignbench.api import Pair
from alignbench.errors import UserError
from alignbench.tasks.formats import pairs_of
from alignbench.tasks.pairs import load_pairs

CASES = Path(__file__).parents[2].parent / "shared" / "cases"
ASKED = "\n\nHuman: Hi\n\nAssistant:"
AGAIN = "pairs whose answers said the prompt again, which was taken off"


def user(text):
    return {"role": "user", "content": text}


def bot(text, **more):
    return {"role": "assistant", "content": text, **more}


def read(*rows, **columns):
    return pairs_of([(f"row {n}", row) for n, row in enumerate(rows, 1)], columns)


def one(row) -> Pair:
    (pair,) = read(row).pairs
    return pair


# ------------------------------------------------------------------------------------------------ prompts and answers


@pytest.mark.parametrize(
    "prompt",
    ["Hi", [user("Hi")], None, json.dumps([user("Hi")]), repr([user("Hi")])],
    ids=["text", "messages", "shared", "JSON in a cell", "Python in a cell"],
)
def test_messages_in_every_column_and_notation(prompt) -> None:
    whole = [[user("Hi"), bot(text)] for text in ("yes", "no")]
    for chosen, rejected in (whole, map(json.dumps, whole), map(repr, whole)):
        assert one({"prompt": prompt, "chosen": chosen, "rejected": rejected}) == Pair(ASKED, " yes", " no")


def test_a_text_as_prompt_is_the_question_of_bare_answers_and_messages_take_answers_in_text() -> None:
    assert one({"prompt": "Hi", "chosen": [bot("yes")], "rejected": [bot("no")]}) == Pair(ASKED, " yes", " no")
    assert one({"prompt": [user("Hi")], "chosen": "yes", "rejected": "no"}) == Pair(ASKED, " yes", " no")


def test_a_prompt_that_both_answers_say_again_is_said_once() -> None:
    told = read({"prompt": ASKED, "chosen": f"{ASKED} yes", "rejected": f"{ASKED} no"})
    assert (told.pairs, told.noted[AGAIN]) == ([Pair(ASKED, " yes", " no")], 1)
    alone = {"prompt": ASKED, "chosen": f"{ASKED} yes", "rejected": " no"}  # it may be what was wrong with it
    assert one(alone) == Pair(*alone.values())
    assert one({"prompt": "The", "chosen": "The sky", "rejected": "The sea"}) == Pair("The", "The sky", "The sea")


@pytest.mark.parametrize(
    ("chosen", "rejected", "cut"),
    [
        ("问：天空？答：蓝色。", "问：天空？答：绿色。", "问：天空？答："),  # noqa: RUF001
        ("GPT4 是什么？答：模型", "GPT4 是什么？答：不知", "GPT4 是什么？答："),  # noqa: RUF001
        ("答：蓝色。", "答：蓝天。", "答：蓝"),  # noqa: RUF001
        ("空は何色ですか。あおです", "空は何色ですか。みどり", "空は何色ですか。"),
        ("하늘은 파랑", "하늘은 파도", "하늘은"),  # Korean parts words by spaces
        ("Q: a? A: yes", "Q: a? A: yet", "Q: a? A:"),
        ("well-known", "well-kept", "well-"),
        ("cafe\u0301 is", "cafe is", ""),  # an accent belongs to its letter
        ("I say 👩\u200d🔬", "I say 👩\u200d🎨", "I say"),
        ("yes", "yes, of course", ""),  # no answer is left empty
        ("a b", "a b c", "a"),
    ],
)
def test_a_shared_prompt_ends_where_the_texts_part(chosen: str, rejected: str, cut: str) -> None:
    assert one({"chosen": chosen, "rejected": rejected}) == Pair(cut, chosen[len(cut) :], rejected[len(cut) :])


def test_a_transcripts_line_ends_are_one_kind() -> None:
    chosen, rejected = (f"\r\n\r\nHuman: Hi\r\n\r\nAssistant: I am glad to {word}" for word in ("say", "stop"))
    assert one({"chosen": chosen, "rejected": rejected}) == Pair(ASKED, " I am glad to say", " I am glad to stop")
    plain = {"prompt": "code", "chosen": "a\r\nb", "rejected": "c"}
    assert one(plain) == Pair(*plain.values())


# --------------------------------------------------------------------------------------------------------------- turns


def test_tools_their_calls_and_answers_are_told() -> None:
    call = {"type": "function", "function": {"name": "turn_on", "arguments": '{"room": "hall", "level": null}'}}
    united = {"function": {"name": "turn_on", "arguments": {"room": "hall", "other": None}}}  # as parquet gives it back
    tools = [{"name": "turn_on"}]
    for written in (tools, json.dumps(tools)):
        row = {
            "prompt": [user("Hi")], "tools": written,
            "chosen": [bot(None, tool_calls=[united]), {"role": "tool", "content": "on"}, bot("Done.")],
            "rejected": [bot("Wait", tool_calls=[call])],
        }  # fmt: skip
        pair = one(row)
        assert pair.prompt == f'\n\nTools: [{{"name": "turn_on"}}]{ASKED}'
        said = ' {"name": "turn_on", "arguments": {"room": "hall"}}\n\nTool: on\n\nAssistant: Done.'
        assert pair.chosen == said
        assert pair.rejected == ' Wait\n{"name": "turn_on", "arguments": {"room": "hall", "level": null}}'


def test_content_may_be_null_or_parts_and_a_developer_is_the_system() -> None:
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    row = {"prompt": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}],
           "chosen": [bot("Done.", tool_calls=None)], "rejected": [bot(None, tool_calls=[])]}  # fmt: skip
    assert one(row) == Pair(f"\n\nSystem: Be kind.{ASKED}", " Done.", "")


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"role": "user", "content": [{"type": "image", "url": "x"}]}, "a part of type 'image' in a message"),
        ({"role": "user", "content": 3}, "a message's content is int"),
        ({"role": "user\x1b[2J", "content": ""}, r"unknown role 'user\\x1b\[2J'; allowed: assistant, developer"),
        ({"role": ["user"], "content": ""}, r"unknown role"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "a tool call without a function's name"),
    ],
)
def test_what_no_text_can_tell_is_refused(message: dict, problem: str) -> None:
    with pytest.raises(UserError, match=f"row 1: {problem}"):
        read({"prompt": [message], "chosen": [bot("a")], "rejected": [bot("b")]})


# ------------------------------------------------------------------------------------------------------ single answers


def test_unpaired_answers_meet_within_their_prompt() -> None:
    rows = [("p", "good", True), ("q", "alone", True), ("p", "bad", False), ("p", "fine", "true"), ("p", "worse", 0)]
    told = read(*({"prompt": prompt, "completion": text, "label": label} for prompt, text, label in rows))
    assert told.pairs == [Pair("p", "good", "worse"), Pair("p", "fine", "bad")]
    assert told.left_out == {"answers without one of another score to their prompt": 1}


def test_scored_answers_give_the_best_with_the_worst_and_so_inwards() -> None:
    row = {"prompt": "p", "completions": ["c", "a", "e", "b", "d"], "scores": [3, 5, 1, 4, 2.5]}
    told = read(row)
    assert told.pairs == [Pair("p", "a", "e"), Pair("p", "b", "d")]
    assert told.left_out == {"answers without one of another score to their prompt": 1}
    feedback = [{"response": text, "overall_score": score} for text, score in (("x", 2), ("y", 8.5), ("z", None))]
    told = read({"instruction": "p", "completions": feedback}, prompt="instruction")
    assert (told.pairs, told.left_out) == ([Pair("p", "y", "x")], {"answers without a score": 1})
    even = read({"prompt": "p", "completions": ["a", "b"], "scores": [1, 1]})
    assert (even.pairs, even.left_out) == ([], {"answers without one of another score to their prompt": 2})


def test_whole_dialogues_may_be_scored() -> None:
    rows = [{"completion": [user("Hi"), bot(text)], "label": label} for text, label in (("yes", 1), ("no", 0))]
    assert read(*rows).pairs == [Pair(ASKED, " yes", " no")]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "p", "text": "a"}, "no column 'chosen'; seen: 'prompt', 'text'; wanted"),
        ({"prompt": "p", "completion": "a"}, "no column 'chosen'"),
        ({"prompt": "p", "completion": "a", "label": "yes"}, "a label or score is 'yes'; a number, true or false"),
        ({"prompt": "p", "completion": 3, "label": 1}, "a completion is int"),
        ({"prompt": "p", "completions": "a", "scores": [1]}, "completions is str; a list"),
        (
            {"prompt": "p", "completions": ["a"], "scores": [1, 2]},
            "scores should be a list with a number for each of 1",
        ),
        ({"prompt": "p", "completions": [{"text": "a"}]}, "no column 'scores', and a completion without a score"),
    ],
)
def test_what_compares_nothing_is_refused(row: dict, problem: str) -> None:
    with pytest.raises(UserError, match=f"row 1: {problem}"):
        read(row)


def test_columns_of_other_names() -> None:
    told = read({"q": "p", "good": "a", "bad": "b", "chosen": "misleading"}, prompt="q", chosen="good", rejected="bad")
    assert told.pairs == [Pair("p", "a", "b")]
    with pytest.raises(UserError, match=r"row 1: no column 'goood', which columns.chosen names; did you mean 'good'\?"):
        read({"good": "a", "bad": "b"}, chosen="goood")


# ------------------------------------------------------------------------------------------- files that went wrong once


SUM = "\n\nHuman: What is 0+1?\n\nAssistant:"
LIGHT = "\n\nHuman: Light 0?\n\nAssistant:"
CALL = '{"name": "turn_on", "arguments": {"room": "kitchen"}}'


@pytest.mark.parametrize(
    ("name", "prompt", "chosen", "rejected", "count"),
    [
        ("01-prompt-text-completions-messages", SUM, " 1", " no idea", 40),
        ("02-prompt-repeated-text", SUM, " 1", " no idea", 40),
        ("02-prompt-repeated-messages", SUM, " 1", " no idea", 40),
        ("03-null-content", LIGHT, " Done.", "", 40),
        ("03-parts-content", LIGHT, " Done.", " No.", 40),
        ("03-developer-content", f"\n\nSystem: Be kind.{LIGHT}", " Done.", " No.", 40),
        ("03-tool-calls", LIGHT, f" {CALL}\n\nTool: on\n\nAssistant: Done.", " No.", 40),
        ("04-transcript-crlf", "\n\nHuman: Say 0\n\nAssistant:", " I am glad to say 0", " I am glad to stop", 40),
        ("05-chinese-implicit", "问题0：天空是什么颜色？回答：", "蓝色。", "绿色。", 40),  # noqa: RUF001
        ("05-chinese-mixed", "第 0个问题：天空是什么颜色？回答：", "蓝色。", "绿色。", 40),  # noqa: RUF001
        ("05-chinese-latin-word", "GPT0 是什么？请解释。回答：", "它是一个语言模型。", "我不知道。", 60),  # noqa: RUF001
    ],
)
def test_the_cases(name: str, prompt: str, chosen: str, rejected: str, count: int) -> None:
    if not CASES.exists():
        pytest.skip(f"{CASES} is not here")
    told = load_pairs(str(CASES / f"{name}.jsonl"))
    assert (told.pairs[0], len(told.pairs), told.left_out) == (Pair(prompt, chosen, rejected), count, {})


def test_crlf_and_lf_transcripts_and_a_far_date_give_the_same_pairs() -> None:
    if not CASES.exists():
        pytest.skip(f"{CASES} is not here")
    crlf, lf = (load_pairs(str(CASES / f"04-transcript-{ends}.jsonl")) for ends in ("crlf", "lf"))
    assert crlf == lf
    assert load_pairs(str(CASES / "06-far-date.parquet")).pairs
