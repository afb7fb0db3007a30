"""What a table claims of its rows: nothing below three replicates, else the verdicts of `scoring.paired`, in words."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignbench.report.escape import for_markdown
from alignbench.report.table import to_markdown, write_results
from alignbench.report.verdicts import agreement, by_the_second_gold, claims, in_words, lines, spread, to_csv
from alignbench.scoring.crossed import estimate
from alignbench.scoring.paired import compare
from alignbench.scoring.record import Record

PROMPTS, SAMPLES = 60, 8
rng = np.random.default_rng(0)
HARD = rng.normal(size=PROMPTS)  # how hard a prompt is, for every row


def replicates(label: str, shift: float, count: int = 5, noise: float = 0.1, **changes: Any) -> list[Record]:
    def one(seed: int) -> Record:
        gold = (HARD + shift + noise * np.random.default_rng([seed, *label.encode()]).normal(size=PROMPTS)).tolist()
        values: dict[str, Any] = {
            "suite": "s", "label": label, "method": "m", "distribution": "d", "version": "0", "seed": seed,
            "status": "ok", "key": "k", "metrics": {"reward_gold": float(np.mean(gold)), "reward_gold_variance": 0.08},
            "per_prompt": {"reward_gold": gold, "reward_gold_gain": (np.array(gold) - HARD).tolist()},
            "context": {"start_gold_sd": 1.5, "delta": 0.2, "samples_per_prompt": SAMPLES},
        }  # fmt: skip
        return Record.model_validate({**values, **changes})

    return [one(seed) for seed in range(count)]


def failed(label: str, seed: int) -> Record:
    return replicates(label, 0, 1)[0].model_copy(update={"seed": seed, "status": "failed", "cause": "boom"})


@pytest.mark.parametrize(("count", "said"), [(1, "1 replicate."), (2, "2 replicates.")])
def test_below_three_replicates_no_pair_is_compared_and_the_table_says_it_is_one_run(count: int, said: str) -> None:
    records = replicates("sft", 0, count) + replicates("dpo", 2, count)
    assert claims(records).verdicts == []
    (line,) = lines(claims(records))
    assert line.startswith(f"This run only: {said}")
    markdown = to_markdown(records)
    assert "no comparison of rows is claimed" in markdown
    assert not {"better", "undecided"} & set(markdown.split("Legend:")[0].split())


def test_every_pair_gets_the_verdict_of_the_statistics_in_words_that_name_the_winner_first() -> None:
    records = replicates("sft", 0) + replicates("ppo", 0.02) + replicates("dpo", 1)
    said = claims(records)
    assert said.delta == pytest.approx(0.3)
    drawn = sum([0.08 / SAMPLES] * 5) / 5
    rows = {
        label: {r.seed: r.per_prompt["reward_gold"] for r in records if r.label == label}
        for label in ("sft", "ppo", "dpo")
    }
    assert said.verdicts == compare(rows, said.delta, 0.95, dict.fromkeys(rows, drawn))
    text = lines(said)
    assert "over 3 pairs" in text[0]
    assert text[1].startswith("dpo is better than sft: +")
    assert text[2].startswith("dpo is better than ppo: +")
    assert text[3].startswith("sft and ppo are equivalent")
    assert lines(said, is_brief=True) == text[1:]
    assert all(f"- {for_markdown(line)}" in to_markdown(records) for line in text[2:])


@pytest.mark.parametrize(("count", "is_said"), [(3, True), (5, False)])
def test_where_few_replicates_take_their_variance_from_all_rows_the_rule_says_so(count: int, is_said: bool) -> None:
    rows = [record for label in "abcd" for record in replicates(label, ord(label) % 3, count, noise=0.5)]
    rule, *pairs = lines(claims(rows))
    assert any("variance pooled over rows" in pair for pair in pairs) == is_said
    assert ("Pooled over rows:" in rule) == is_said


def test_two_labels_of_one_row_tie() -> None:
    twin = [r.model_copy(update={"label": "twin"}) for r in replicates("dpo", 1)]
    (verdict,) = claims(replicates("dpo", 1) + twin).verdicts
    assert (verdict.verdict, verdict.winner, verdict.difference.mean) == ("equivalent", None, 0)


def test_a_row_is_no_winner_because_its_neighbour_failed() -> None:
    records = replicates("sft", 0) + replicates("dpo", 1, 2) + [failed("dpo", seed) for seed in (2, 3, 4)]
    (verdict,) = claims(records).verdicts
    assert (verdict.verdict, verdict.winner) == ("not compared", None)
    assert in_words(verdict) == "sft and dpo: not compared, 2 replicates in common, a comparison needs 3"
    assert "dpo, seed 3: boom" in to_markdown(records)


def test_an_undecided_pair_says_what_would_have_been_found_and_what_to_buy() -> None:
    wild = [
        r.model_copy(
            update={"per_prompt": {"reward_gold": [v + 2 * (r.seed % 2) for v in r.per_prompt["reward_gold"]]}}
        )
        for r in replicates("ppo", 0.3)
    ]
    (verdict,) = claims(replicates("sft", 0) + wild).verdicts
    assert verdict.verdict == "undecided"
    assert "would be found, and some" in in_words(verdict)
    assert "replicates would decide" in in_words(verdict)
    said = claims(replicates("sft", 0) + wild)
    assert lines(said, is_brief=True) == ["1 of 1 pairs are undecided; table.md says what would decide them"]


def test_records_that_state_no_delta_are_not_compared() -> None:
    old = {"context": {"start_gold_sd": 1.5}}
    said = claims(replicates("sft", 0, **old) + replicates("dpo", 1, **old))
    assert (said.verdicts, said.delta) == ([], None)
    assert "evaluation.delta" in lines(said)[0]


def seen_twice(label: str, first: float, second: float | None) -> list[Record]:
    if second is None:
        return replicates(label, first)
    other = [r.per_prompt["reward_gold_gain"] for r in replicates(label, second)]
    return [
        r.model_copy(
            update={
                "per_prompt": {**r.per_prompt, "reward_gold_second_gain": gains},
                "context": r.context.model_copy(update={"start_gold_second_sd": 0.5}),
            }
        )
        for r, gains in zip(replicates(label, first), other, strict=True)
    ]


def test_pairs_that_the_second_gold_turns_round_are_named() -> None:
    records = [*seen_twice("sft", 0, 0), *seen_twice("dpo", 1, 1), *seen_twice("ppo", 2, -1)]
    said = agreement(claims(records), by_the_second_gold(records))
    assert said[0] == "The second gold names the same winner in 1 of 3 pairs, the other one in 2, and none in 0."
    assert [line.partition(":")[0] for line in said[1:]] == [
        "The golds disagree. By the second, sft is better than ppo",
        "The golds disagree. By the second, dpo is better than ppo",
    ]
    assert f"- {for_markdown(said[1])}" in to_markdown(records)


def test_pairs_are_matched_in_whatever_order_the_rows_come() -> None:
    records = [*seen_twice("sft", 0, 0), *seen_twice("dpo", 1, 1)]
    said = agreement(claims(records), by_the_second_gold(records[::-1]))
    assert said == ["The second gold names the same winner in 1 of 1 pairs, the other one in 0, and none in 0."]


def test_the_second_gold_has_a_smallest_difference_of_its_own() -> None:
    assert by_the_second_gold([*seen_twice("sft", 0, 0), *seen_twice("dpo", 1, 1)]).delta == pytest.approx(0.2 * 0.5)


def test_a_brief_list_tells_undecided_pairs_from_those_not_compared() -> None:
    records = replicates("sft", 0) + replicates("dpo", 1) + replicates("ppo", 1, 2)
    said = lines(claims(records), is_brief=True)
    assert said[-1] == "2 of 3 pairs are not compared; table.md says why"
    assert not any("undecided" in line for line in said)


@pytest.mark.parametrize("second", [None, 0.0])
def test_a_second_gold_that_is_not_there_or_cannot_tell_turns_nothing_round(second: float | None) -> None:
    records = seen_twice("sft", 0, second) + seen_twice("dpo", 1, second)
    said = agreement(claims(records), by_the_second_gold(records))
    none = "The second gold names the same winner in 0 of 1 pairs, the other one in 0, and none in 1."
    assert said == ([] if second is None else [none])


def test_the_spread_of_a_gain_is_parted_by_where_it_comes_from() -> None:
    records = replicates("dpo", 1, noise=0.5)
    split = estimate([r.per_prompt["reward_gold_gain"] for r in records], sampling=0.01).split
    (line,) = spread(records)
    assert line == (
        f"dpo: replicates {split.replicate**0.5:.2f}, prompts {split.prompt**0.5:.2f}, drawing completions 0.10, "
        f"the rest {split.interaction**0.5:.2f}"
    )
    assert list(spread(replicates("dpo", 1, 2))) == []


def test_verdicts_are_written_beside_the_table_and_go_with_it(tmp_path: Path) -> None:
    records = replicates("sft", 0) + replicates("=dpo", 1)
    write_results(tmp_path / "s", records)
    (row,) = csv.DictReader(io.StringIO((tmp_path / "s" / "verdicts.csv").read_text()))
    assert (row["a"], row["b"], row["verdict"], row["winner"]) == ("sft", "'=dpo", "better", "'=dpo")
    assert (tmp_path / "s" / "verdicts.csv").read_text() == to_csv(claims(records))
    write_results(tmp_path / "s", replicates("sft", 0, 1) + replicates("=dpo", 1, 1))
    assert not (tmp_path / "s" / "verdicts.csv").exists()
