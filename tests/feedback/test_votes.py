"""A votes file is read whole, or refused in one line that names file, line, fault and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alignbench.errors import UserError
from alignbench.feedback.votes import read_votes

HEAD = "item,rater,label\n"
PAIRED = "left,right,winner,rater\n"
TWO = "a,r1,1\na,r2,2\n"

# What is in the file, the level, what the line says after the file's name, and what mends it.
BAD = {
    "empty": ("", "nominal", ": is empty", "a line for each vote"),
    "a header alone": (HEAD, "nominal", ": has a header and no vote", "a line for each"),
    "a missing column": ("item,rater,lable\na,b,c\n", "nominal", ":1: no column 'label' (did you mean 'lable'?)",
                         "item, rater, label or left, right, winner, rater are wanted"),
    "a missing column of a pair": ("left,right,rater\na,b,c\n", "nominal", ":1: no column 'winner'", "are wanted"),
    "two columns of a name": ("item,rater,label,item\na,b,c,d\n", "nominal", ":1: two columns are called 'item'",
                              "rename"),
    "an empty cell": (HEAD + "a,r1,1\na,,1\n", "nominal", ":3: no rater", "leave the row out"),
    "a short row": (HEAD + "a,r1\n", "nominal", ":2: 2 cells, the header has 3", "quote a cell"),
    "a long row": (HEAD + "a,r1,1,2\n", "nominal", ":2: 4 cells, the header has 3", "quote a cell"),
    "a header without end": ("x" * 200_000 + "\na,r1,1\n", "nominal", ":1: is no CSV", "a line of column names"),
    "an open quotation mark": (HEAD + 'a,r1,"1\na,r2,2\n', "nominal", ":3: is no CSV", "close every quotation mark"),
    "two votes of one rater": (HEAD + TWO + "a,r1,2\n", "nominal",
                               ":4: rater 'r1' labelled item 'a' otherwise in line 2", "keep one of the two"),
    "a label that is no number": (HEAD + "a,r1,1\na,r2,good\n", "interval", ":3: label is 'good'", "--level nominal"),
    "infinity": (HEAD + "a,r1,1\na,r2,inf\n", "ordinal", ":3: label is 'inf'", "finite numbers"),
    "not a number": (HEAD + "a,r1,1\na,r2,NaN\n", "interval", ":3: label is 'NaN'", "finite numbers"),
    "a number with a gap": (HEAD + "a,r1,1\na,r2,1_000\n", "interval", ":3: label is '1_000'", "--level nominal"),
    "full-width digits": (HEAD + "a,r1,1\na,r2,\uff11\n", "ordinal", ":3: label is '\uff11'", "--level nominal"),
    "beyond floats": (HEAD + "a,r1,1\na,r2,1e999\n", "interval", ":3: label is '1e999'", "finite numbers"),
    "a missing vote": (HEAD + "a,r1,1\na,r2,NaN\n", "nominal", ":3: label is 'NaN', a missing vote", "leave the row"),
    "no item with two votes": (HEAD + "a,r1,1\nb,r2,1\n", "nominal", ": no item has votes of two raters", "add votes"),
    "two truths": ("item,rater,label,truth\na,r1,1,1\na,r2,1,2\n", "nominal", ":3: another truth", "in line 2; keep"),
    "a winner that did not play": (PAIRED + "a,b,c,r1\n", "nominal", ":2: winner should be left, right, tie or",
                                   "one of the two names, got 'c'"),
    "a pair of one": (PAIRED + "a,a,left,r1\n", "nominal", ":2: 'a' is compared with itself", "remove the row"),
    "an item called left": (PAIRED + "left,b,left,r1\n", "nominal", ":2: an item called left", "rename"),
    "control codes": (HEAD + "a,r1,1\na\x1b[31m,r1,\u202e2\na\x1b[31m,r1,3\n", "nominal",
                      ":4: rater 'r1' labelled item 'a [31m'", "keep one"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_csv_is_one_line_with_place_and_remedy(name: str, tmp_path: Path) -> None:
    text, level, place, remedy = BAD[name]
    file = tmp_path / "votes.csv"
    file.write_text(text, newline="")
    with pytest.raises(UserError) as caught:
        read_votes(file, level)
    said = str(caught.value)
    assert said.startswith(f"{file}{place}"), said
    assert remedy in said
    assert said.isprintable()


BAD_JSON = {
    "no JSON": ('{"item": "a", "rater": 1, "label": 2}\nx\n', ":2: is no JSON"),
    "no object": ("[1]\n", ":1: should be an object"),
    "a bare NaN": ('{"item": "a", "rater": 1, "label": NaN}\n', ":1: label is nan"),
    "a list for a label": ('{"item": "a", "rater": 1, "label": [1]}\n', ":1: label should be a text or a number"),
    "no label": ('{"item": "a", "rater": 1, "label": 2}\n{"item": "a", "rater": 2}\n', ":2: no label"),
    "no such key": ('{"item": "a", "rater": 1, "lab": 2}\n', ":1: no column 'label'"),
    "half a character": ('{"item": "a", "rater": 1, "label": 2}\n{"item": "a", "rater": 1, "label": "\\ud800"}\n',
                         ":2: rater '1' labelled item 'a' otherwise in line 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_lines_are_one_line_with_the_place(name: str, tmp_path: Path) -> None:
    text, place = BAD_JSON[name]
    file = tmp_path / "votes.jsonl"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_votes(file)
    assert str(caught.value).startswith(f"{file}{place}"), caught.value


def test_a_file_that_cannot_be_read_says_why_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "votes.csv").write_bytes(b"item,rater,label\na,b,\xff\n")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "votes.xlsx").touch()
    problems = {
        "votes.csv": ":2: is not UTF-8; save it",
        "folder.csv": ": is a folder; name a file",
        "votes.xlsx": ": should end in .csv or .jsonl; rename it",
        "voted.csv": ": no such file; did you mean 'votes.csv'?",
        "x" * 300 + ".csv": ": cannot be read (File name too long); check",
    }
    for name, problem in problems.items():
        with pytest.raises(UserError) as caught:
            read_votes(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}{problem}"), caught.value


def test_votes_become_codes_and_a_repeated_row_counts_once(tmp_path: Path) -> None:
    file = tmp_path / "votes.csv"
    file.write_text("\ufeffitem,note,rater,label,truth\nb, ,r1, 10 ,9\nb,x,r2,9.0,\nb,x,r2,9,\na,,r1,1e1,7\n\n")
    found = read_votes(file, "interval")
    assert (found.items, found.raters, found.labels) == (["b", "a"], ["r1", "r2"], ["9.0", "10"])
    assert (found.item.tolist(), found.rater.tolist(), found.label.tolist()) == ([0, 0, 1], [0, 1, 0], [1, 0, 1])
    assert found.values.tolist() == [9, 10]
    assert found.repeated == 1
    assert found.truth is not None
    assert found.truth.tolist() == [0, -1]  # a's truth is a label that nobody gave


def test_at_nominal_level_a_label_is_its_text(tmp_path: Path) -> None:
    file = tmp_path / "votes.csv"
    file.write_text(HEAD + "a,r1,1\na,r2,1.0\n")
    assert read_votes(file).labels == ["1", "1.0"]
    assert read_votes(file, "ordinal").labels == ["1"]


def test_json_lines_give_what_the_csv_gives(tmp_path: Path) -> None:
    rows = [("a", "r1", 1), ("a", "r2", 2), ("b, c", "r2", 2)]
    (tmp_path / "v.csv").write_text(HEAD + "".join(f'"{item}",{rater},{label}\n' for item, rater, label in rows))
    lines = [json.dumps(dict(zip(("item", "rater", "label"), row, strict=True))) for row in rows]
    (tmp_path / "v.jsonl").write_text("\n".join(lines))
    one, other = read_votes(tmp_path / "v.csv"), read_votes(tmp_path / "v.jsonl")
    assert one.items == other.items == ["a", "b, c"]
    for a, b in zip(one[:3], other[:3], strict=True):
        assert np.array_equal(a, b)


def test_a_whole_number_of_json_is_the_same_item_and_label_however_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    file.write_text('{"item": 1, "rater": 1, "label": 2}\n{"item": 1.0, "rater": 2.0, "label": 2.0}\n')
    found = read_votes(file)
    assert (found.items, found.raters, found.labels) == (["1"], ["1", "2"], ["2"])


def test_numbers_are_read_as_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "votes.csv"
    written = ["-1.5", "1e3", "+2", ".5", "7.", "-2E-1"]
    file.write_text(HEAD + "".join(f"a,r{place},{label}\n" for place, label in enumerate(written)))
    assert read_votes(file, "interval").values.tolist() == sorted(float(label) for label in written)


def test_a_comparison_is_the_same_whichever_side_it_stood_on(tmp_path: Path) -> None:
    file = tmp_path / "votes.csv"
    file.write_text(PAIRED + "a,b,left,r1\nb,a,a,r2\nb,a,tie,r3\na,b,right,r4\n")
    found = read_votes(file)
    names = [found.labels[code] for code in found.label]
    assert names[0] == names[1] != names[3]
    assert names[2] == "tie"
    met = found.comparisons
    assert met is not None
    winners = [{1.0: left, 0.0: right}.get(share) for left, right, share in
               zip(met.left.tolist(), met.right.tolist(), met.left_share.tolist(), strict=True)]  # fmt: skip
    assert [met.players[code] if code is not None else None for code in winners] == ["a", "a", None, "b"]
    assert set(met.pairs[0]) == {"a", "b"}


def test_which_of_two_comes_first_is_drawn_and_not_the_alphabet(tmp_path: Path) -> None:
    file = tmp_path / "votes.csv"
    rows = "".join(f"q{i},a,b,left,r{j}\n" for i in range(200) for j in range(2))
    file.write_text("item,left,right,winner,rater\n" + rows)
    found = read_votes(file)
    assert len(found.items) == 200
    assert 70 < found.comparisons.pairs.count(("a", "b")) < 130  # type: ignore[union-attr]


def test_half_a_character_in_a_name_is_read(tmp_path: Path) -> None:
    """No encoding can write it, and a hash is drawn from the name."""
    file = tmp_path / "votes.jsonl"
    row = '{"left": "\\ud800", "right": "b", "winner": "b", "rater": %d}\n'
    file.write_text(row % 1 + row % 2)
    assert read_votes(file).comparisons.players == ["\ud800", "b"]  # type: ignore[union-attr]


def test_comparisons_are_nominal(tmp_path: Path) -> None:
    (tmp_path / "votes.csv").write_text(PAIRED + "a,b,left,r1\na,b,left,r2\n")
    with pytest.raises(UserError, match="--level interval: comparisons are nominal; leave the option out"):
        read_votes(tmp_path / "votes.csv", "interval")
