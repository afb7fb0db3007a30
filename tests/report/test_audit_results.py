"""What is said around a blinded sheet."""

from __future__ import annotations

from alignbench.report.audit_results import drawn_notes, notes
from alignbench.scoring.audit import Gold, Key, Pair
from alignbench.scoring.audit_votes import Read, Vote

NONE = Gold(win_rate=(None, None, None), gain=(None, None, None))
PAIR = Pair(item="0123abcd-001", prompt="p", place=0, replicate=0, left="dpo", right="sft", gold_left=1.0,
            gold_right=0.0)  # fmt: skip
KEY = Key(suite="s", seed=0, against="sft", sheet="0123abcd" + "0" * 56, page="", rows={"sft": NONE, "dpo": NONE},
          equal={"dpo": 2}, shown={"dpo": 3}, pairs=(PAIR,))  # fmt: skip


def test_pairs_that_were_not_asked_are_told_when_they_are_drawn_and_when_answers_come_back() -> None:
    drawn = list(drawn_notes(KEY, 4, {}))
    assert drawn[0] == "1 pair (4 asked for: there are no more) against sft: dpo 1"
    assert "pairs whose texts are equal, passed over: dpo 2" in drawn
    assert "pairs whose prompt has shown a text of theirs, which would tell its side, passed over: dpo 3" in drawn
    said = list(notes(Read([Vote("0123abcd-001", "ann", "left")], 0), KEY))
    assert any(note.startswith("pairs of equal texts were not asked: 2 met while drawing") for note in said)
    assert any(note.startswith("3 pairs not asked: their prompt had shown a text of theirs") for note in said)
