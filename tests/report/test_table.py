"""Tables hold every cell and every failure, and no text in them acts on its reader."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from html import unescape
from pathlib import Path
from re import sub
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from rich.table import Table

from alignbench.errors import UserError
from alignbench.report.columns import SHORT
from alignbench.report.notes import remarks
from alignbench.report.summary import summarise
from alignbench.report.table import to_brief, to_csv, to_markdown, to_rich, write_results
from alignbench.scoring.record import Record, read_records
from alignbench.scoring.stats import interval_of_mean, wilson

HOSTILE = (
    "a|b",
    "`x` *y* _z_ ~~w~~",
    "<script>alert(1)</script>",
    "![i](https://evil.example/x.png) [l](javascript:1)",
    "https://evil.example www.evil.example",
    "back\\|slash\\",
    "[red]bold[/red] [/] :smile:",
    "&lt;b&gt; $x$ __init__",
)


def record(label: str = "dpo", seed: int = 0, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "suite": "quick",
        "label": label,
        "method": label.split()[0],
        "distribution": f"alignbench-{label.split()[0]}",
        "version": "0.1.0",
        "seed": seed,
        "status": "ok",
        "key": "ab12cd34",
        "metrics": {"reward_gold": 1.25, "reward_gold_sd": 0.8, "kl_nats_exact": 2.5, "reward_model_accuracy": 0.8},
        "per_prompt": {
            "reward_gold": [1.25] * 4,
            "reward_gold_gain": [1.5] * 4,
            "reward_proxy": [-0.001] * 4,
            "win_rate_gold": [1.0] * 4,
            "kl_nats_exact": [2.5] * 4,
        },
        "counts": {"reward_model_accuracy": [8, 10]},
        "proxy": "implicit",
        "cost": {
            "marginal": {"seconds": 12.34, "peak_bytes": 2**30},
            "total": {
                "seconds": 1234.5,
                "peak_bytes": 3 * 2**29,
                "tokens_generated": 812,
                "tokens_trained": 12_345,
                "tokens_judged": 1_200_000,
                "labels_human": 1256,
                "labels_ai": 0,
            },
        },
        "context": {
            "model": "smollm2-135m",
            "task": "sentiment",
            "comparisons": "panel",
            "human_accuracy": 0.88,
            "gold_card": {"gold_pearson": 0.74512, "gold_pairs": 1200},
            "machine": {"device": "cpu", "torch": "2.13.0"},
        },
    }
    return Record.model_validate(values | changes)


def failed(label: str = "ppo", seed: int = 0, cause: str = "loss is not finite") -> Record:
    return record(label, seed, status="failed", cause=cause, metrics={}, per_prompt={}, counts={}, proxy=None, cost={})


def terminal(table: Table) -> str:
    console = Console(width=400, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    with console.capture() as capture:
        console.print(table)
    return capture.get()


GOLDEN = """\
| dpo | +1.50 [1.50, 1.50] | 2.50 [2.50, 2.50] | 0.80 [0.49, 0.94] | 1,256 / 0 / 1,234 |
| ppo (0 of 1 seeds) | – | – | – | – |

– There is no such value: every seed failed, or the quantity does not apply to the row.

Failed:

- ppo, seed 0: loss is not finite

Context:

- Suite: quick
- Seeds: 0
- Model: smollm2-135m
- Task: sentiment
- Human comparisons: panel
- Proxy reward: implicit: dpo
- Gold reward against held-out humans: gold pearson 0.7451, gold pairs 1200
- One human against the others: 88.0% of pairs
- Machine: device cpu, torch 2.13.0

Scores:

| Method | Gold reward | Gain over SFT | Win rate | KL, nats | Proxy reward | RM accuracy |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| dpo | +1.25 [1.25, 1.25] | +1.50 [1.50, 1.50] | 1.00 [1.00, 1.00] | 2.50 [2.50, 2.50] | +0.00 [0.00, 0.00] \
| 0.80 [0.49, 0.94] |
| ppo (0 of 1 seeds) | – | – | – | – | – | – |

Costs:

| Method | Seconds (marginal / total) | Peak GiB (marginal / total) | Tokens (generated / trained / judged) \
| Labels (human / AI) |
| --- | ---: | ---: | ---: | ---: |
| dpo | 12.3 / 1,234.5 | 1.00 / 1.50 | 812 / 12.3k / 1.2M | 1,256 / 0 |
| ppo (0 of 1 seeds) | – | – | – | – |

Legend:
"""  # noqa: RUF001


def test_the_short_table_is_as_it_was() -> None:
    markdown = to_markdown([record(), failed()])
    assert markdown.split("\n", 2)[2].startswith(GOLDEN)
    heads = markdown.partition("\n")[0]
    assert all(column.heading in heads for column in SHORT)
    assert heads.count("|") == 6  # five columns
    assert "- **Gold reward** (points of the task's scale, higher is better): " in markdown


HALF = {"steps": 3, "max_steps": 8, "moved": True}
IDLE = {"steps": 0, "max_steps": 8, "moved": False}
WHOLE = {"steps": 8, "max_steps": 8, "moved": True}


@pytest.mark.parametrize(
    ("training", "remark"),
    [
        (HALF, "dpo, seed 0: 3 of 8 optimiser steps were used"),
        (IDLE, "dpo, seed 0: 0 of 8 optimiser steps were used; the adapter did not move from its start"),
        ({**WHOLE, "moved": False}, "dpo, seed 0: the adapter did not move from its start"),
    ],
)
def test_a_row_that_did_not_train_as_allowed_is_named_below_the_table(training: Any, remark: str) -> None:
    written = to_markdown([record(training=training), record(seed=1, training=WHOLE)])
    assert f"Notes:\n\n- {remark}\n\nContext:" in written


def test_rows_that_were_allowed_different_steps_are_named_first() -> None:
    longer = {"steps": 16, "max_steps": 16, "moved": True}
    said = remarks([record(training=WHOLE), record("ppo", training=longer), record("sft")])
    differ = "Rows were allowed different numbers of optimiser steps (8: dpo; 16: ppo), and what parts them may be that"
    assert said == [differ]


@pytest.mark.parametrize("training", [WHOLE, None])
def test_nothing_is_noted_of_a_row_that_trained_as_allowed_or_needs_no_training(training: Any) -> None:
    assert "Notes:" not in to_markdown([record(training=training)])


@pytest.mark.parametrize(
    ("first", "second", "is_said"),
    [
        (0.5, -0.5, True),
        (-0.5, 0.5, True),
        (0.5, 0.5, False),
        (0.5, -0.01, False),
        (0.0, 0.0, False),
        (0.5, None, False),
    ],
)
def test_a_row_is_named_where_one_gold_sees_a_gain_and_the_other_a_loss(
    first: float, second: float | None, is_said: bool
) -> None:
    around = (-0.1, 0.1, -0.1, 0.1)  # a standard error of 0.06
    gains = {"reward_gold_gain": [first + d for d in around]}
    if second is not None:
        gains["reward_gold_second_gain"] = [second + d for d in around]
    said = remarks([record("dpo", per_prompt=gains)])
    gain = f"gain over the start {first:+.2f} by the first, {second or 0:+.2f} by the second"
    sentence = f"dpo, seed 0: the golds disagree: {gain}"
    assert said == ([sentence] if is_said else [])


def test_a_note_on_a_hostile_label_is_escaped() -> None:
    written = to_markdown([record("<b>|x", training=HALF)])
    assert "- &lt;b&gt;&#124;x, seed 0: 3 of 8" in written


def test_cpu_seconds_stand_beside_seconds_in_the_csv() -> None:
    costs = {"marginal": {"seconds": 4.0, "cpu_seconds": 1.0}, "total": {"seconds": 8.0, "cpu_seconds": 3.0}}
    (row,) = csv.DictReader(io.StringIO(to_csv([record(cost=costs)])))
    assert (row["cpu_seconds_marginal"], row["cpu_seconds_total"]) == ("1.0", "3.0")
    names = list(row)
    assert names.index("cpu_seconds_marginal") == names.index("seconds_total") + 1


def test_a_full_table_has_no_footnote() -> None:
    assert "no such value" not in to_markdown([record()])


def test_summary_holds_the_intervals_over_prompts_and_seeds() -> None:
    gold = np.random.default_rng(0).normal(size=(2, 30)).tolist()
    records = [record("b", seed, per_prompt={"reward_gold": gold[seed]}) for seed in (0, 1)] + [record("a")]
    frame = summarise(records, 0.9, 300).set_index("label")
    assert list(frame.index) == ["b", "a"]
    row = frame.loc["b"]
    assert tuple(row[["reward_gold", "reward_gold_low", "reward_gold_high"]]) == interval_of_mean(gold, 0.9, 300)
    assert row["seeds"] == "0 1"
    assert pd.isna(row["win_rate_gold"])
    low = row["reward_model_accuracy_low"]
    assert low == wilson(8, 10, 0.9).low  # the same pairs under another seed are no new pairs


def test_costs_are_means_over_the_seeds_that_ended_and_memory_is_their_maximum() -> None:
    costs = [{"marginal": {"seconds": s, "peak_bytes": b}} for s, b in ((1.0, 5), (3.0, 9))]
    records = [*(record(seed=i, cost=cost) for i, cost in enumerate(costs)), failed("dpo", 2)]
    row = summarise(records).iloc[0]
    assert (row["seconds_marginal"], row["peak_bytes_marginal"], row["seeds_failed"]) == (2.0, 9, 1)
    assert "| dpo (2 of 3 seeds) |" in to_markdown(records)


@pytest.mark.parametrize(
    ("own", "cell"), [(None, "<= 1.20"), (0.0, "<= 1.20"), (2.5, "2.50 + <= 1.20")], ids=["absent", "zero", "own"]
)
def test_a_decoding_bound_stands_alone_only_on_the_reference(own: float | None, cell: str) -> None:
    bounded = record(metrics={"kl_nats_exact": own, "kl_nats_bound": 1.2}, per_prompt={})
    assert f" {cell} " in terminal(to_rich([bounded]))
    assert "- **KL bound, nats**" in to_markdown([bounded])
    assert "- **KL bound, nats**" not in to_markdown([record()])


def test_the_knob_is_named_once() -> None:
    knob = {"name": "beta", "value": 0.1}
    markdown = to_markdown([record("dpo beta=0.1", knob=knob), record("mine", knob=knob)])
    assert "| dpo beta=0.1 |" in markdown
    assert "| mine (beta=0.1) |" in markdown


def test_one_prompt_has_a_value_and_no_interval() -> None:
    assert "| +1.25 |" in to_markdown([record(per_prompt={"reward_gold": [1.25]})])


def test_two_records_of_one_cell_are_refused() -> None:
    with pytest.raises(UserError, match=r"'dpo' seed 0 is there twice \(suite quick and full\)"):
        summarise([record(), record(suite="full")])


def test_seeds_on_different_prompts_are_refused() -> None:
    records = [record(seed=i, per_prompt={"reward_gold": [1.0] * (2 + i)}) for i in (0, 1)]
    with pytest.raises(UserError, match="'dpo' were scored on different numbers of prompts"):
        summarise(records)


def test_no_records_give_an_empty_table() -> None:
    assert len(summarise([])) == 0
    assert "reward_gold_low" in to_csv([])
    assert to_markdown([]).startswith("| Method |")


ENUMERATED_ROW = """\
| dpo | 0.0100 (0.0000 to 0.0200) | – | – | +0.5000 (0.5000 to 0.5000) | +1.25 [1.25, 1.25] | – | 2.50 [2.50, 2.50] \
| 0.80 [0.49, 0.94] | 12.3 / 1,234.5 |"""  # noqa: RUF001


def test_where_a_record_has_enumerated_values_the_table_shows_their_range_over_the_seeds() -> None:
    records = [
        record(seed=seed, metrics={**record().metrics, "optimum_tv": tv, "reward_gold_enumerated": 0.5})
        for seed, tv in enumerate((0.0, 0.01, 0.02))
    ]
    markdown = to_markdown(records)
    assert markdown.split("\n")[2] == ENUMERATED_ROW.strip()
    assert "- (low to high): the smallest and the largest of the replicates." in markdown
    assert "- **TV to optimum** (share of probability, lower is better): Total variation" in markdown
    assert "TV to optimum" in terminal(to_rich(records))
    assert "(0.0000 to" not in to_markdown(records[:1])  # one seed has no range
    row = summarise(records).iloc[0]
    assert (row["optimum_tv_min"], row["optimum_tv_max"]) == (0.0, 0.02)
    assert not {"optimum_tv", "optimum_tv_min"} & set(summarise([record()]).columns)  # nor an empty column elsewhere


# ------------------------------------------------------------------------------------------------------ hostile text


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_text_as_it_is(text: str) -> None:
    html = (
        MarkdownIt("commonmark")
        .enable(["table", "strikethrough"])
        .render(to_markdown([record(text), failed("f", cause=text)]))
    )
    first_cell = html.split("<tbody>")[1].split("<td")[1].partition(">")[2].partition("</td>")[0]
    assert unescape(first_cell) == text
    assert "<" not in first_cell
    failure = html.split("Failed:")[1].split("<li>")[1].partition("</li>")[0]
    assert unescape(failure) == f"f, seed 0: {text}"
    assert "<" not in failure


@pytest.mark.parametrize("text", HOSTILE)
def test_terminal_shows_text_as_it_is(text: str) -> None:
    table = to_rich([record(text)], {text: text, "next": "waiting"})
    assert terminal(table).count(text) == 2


def test_control_characters_reach_no_one() -> None:
    text = "a\x1b[31mb\r\nc\u202ed\x00e\ud800"
    markdown, comma, rich = to_markdown([record(text)]), to_csv([record(text)]), terminal(to_rich([record(text)]))
    for document in (markdown, comma, rich):
        assert not {"\r", "\u202e", "\x00", "\ud800"} & set(document)
        assert "\x1b[31m" not in document
    assert "| a \\[31mb c d e |" in markdown
    assert len(markdown.split("\n\n")[0].splitlines()) == 3


def test_a_brief_table_keeps_the_level_that_the_suite_asked_for() -> None:
    records = [record(context={"confidence": 0.5, "bootstrap": 50}, per_prompt={"reward_gold_gain": [0.0, 1.0] * 20})]
    assert to_brief(records).splitlines()[2] == to_markdown(records, 0.5, 50).splitlines()[2]
    assert to_brief(records).splitlines()[2] != to_markdown(records, 0.95, 50).splitlines()[2]
    assert to_brief([]).startswith("| Method |")


def test_long_text_is_cut() -> None:
    assert len(max(to_markdown([failed(cause="x" * 9999)]).splitlines(), key=len)) < 500


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1+1", "\uff1d1+1"])
def test_csv_text_is_no_formula_and_numbers_stay_numbers(text: str) -> None:
    negative = record(text, metrics={"reward_gold": -1.5}, per_prompt={}, distribution=text, proxy=text)
    (row,) = csv.DictReader(io.StringIO(to_csv([negative])))
    assert {row[name] for name in ("label", "distribution", "proxy")} == {f"'{text.strip()}"}
    assert row["reward_gold"] == "-1.5"
    assert row["win_rate_gold"] == ""


def test_csv_keeps_quotes_and_commas_in_their_cell() -> None:
    (row,) = csv.DictReader(io.StringIO(to_csv([record('a,"b"')])))
    assert row["label"] == 'a,"b"'


# ------------------------------------------------------------------------------------------------------------- files


def test_results_are_written_together(tmp_path: Path) -> None:
    records = [record(), failed()]
    write_results(tmp_path / "quick", records)
    assert sorted(path.name for path in (tmp_path / "quick").iterdir()) == ["records.jsonl", "table.csv", "table.md"]
    assert read_records(tmp_path / "quick" / "records.jsonl") == records
    assert (tmp_path / "quick" / "table.md").read_text(encoding="utf-8") == to_markdown(records)
    assert pd.read_csv(tmp_path / "quick" / "table.csv")["seeds_failed"].tolist() == [0, 1]


def test_the_table_imports_no_torch() -> None:
    code = "import sys, alignbench.report.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_narrow_terminal_drops_no_digit() -> None:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(to_rich([record()], {"dpo": "done"}))
    assert "…" not in capture.get()


def test_live_states_fill_rows_without_records() -> None:
    shown = sub(r"\s+", " ", terminal(to_rich([record()], {"dpo": "done", "ppo": "step 3 of 64"})))
    assert "dpo │ done │ +1.50" in shown
    assert "ppo │ step 3 of 64 │ – │" in shown  # noqa: RUF001
