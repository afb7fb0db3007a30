"""Records come back as they were written, and a line that is not one is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from alignbench.errors import UserError
from alignbench.scoring.record import Record, read_records, write_records

LINE: dict[str, Any] = {
    "format": 1,
    "suite": "quick",
    "label": "dpo beta=0.1",
    "method": "dpo",
    "distribution": "alignbench-dpo",
    "version": "0.1.0",
    "seed": 3,
    "knob": {"name": "beta", "value": 0.1},
    "status": "ok",
    "cause": None,
    "key": "ab12cd34",
    "metrics": {"reward_gold": 1.25, "kl_nats_exact": 2.5, "kl_nats_bound": None},
    "per_prompt": {"reward_gold": [1.0, 1.5]},
    "counts": {"reward_model_accuracy": [7.5, 10]},
    "proxy": "implicit",
    "cost": {
        "marginal": {
            "seconds": 1.5,
            "peak_bytes": 10,
            "tokens_generated": 0,
            "tokens_trained": 5,
            "tokens_judged": 0,
            "labels_human": 0,
            "labels_ai": 0,
        },
        "total": {
            "seconds": 4.0,
            "peak_bytes": 12,
            "tokens_generated": 9,
            "tokens_trained": 8,
            "tokens_judged": 7,
            "labels_human": 256,
            "labels_ai": 0,
        },
    },
    "context": {
        "model": "smollm2-135m",
        "task": "sentiment",
        "comparisons": "panel",
        "human_accuracy": 0.88,
        "gold_card": {"gold_pearson": 0.745, "gold_pairs": 1200},
        "machine": {"device": "cpu", "cpu": None},
    },
}


def lines(folder: Path, *rows: Any) -> Path:
    path = folder / "records.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def refusal(folder: Path, *rows: Any) -> str:
    with pytest.raises(UserError) as error:
        read_records(lines(folder, *rows))
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{folder}/")


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    records = read_records(lines(tmp_path, LINE))
    write_records(tmp_path / "again.jsonl", records)
    assert json.loads((tmp_path / "again.jsonl").read_text()) == LINE
    assert read_records(tmp_path / "again.jsonl") == records


def test_a_failed_cell_needs_only_its_cause(tmp_path: Path) -> None:
    names = ("suite", "label", "method", "distribution", "version", "seed", "key")
    failed = {name: LINE[name] for name in names} | {"status": "failed"}
    (record,) = read_records(lines(tmp_path, failed | {"cause": "out of memory"}))
    assert record.metrics == {}
    assert record.cost.total.seconds is None
    assert "a failed cell needs its cause" in refusal(tmp_path, failed)


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Record.model_validate(LINE).seed = 4  # type: ignore[misc]


def test_a_newer_format_names_the_upgrade(tmp_path: Path) -> None:
    problem = refusal(tmp_path, LINE, {"format": 2, "cells": []})
    assert problem == (
        "records.jsonl, line 2 has format 2 and this alignbench reads up to 1; upgrade: pip install -U alignbench"
    )


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"suite": "qui', "line 2 is not JSON"),
        ("[]", "line 2 is list; a JSON object is allowed"),
        ({**LINE, "seed": -1}, "line 2 seed: Input should be greater than or equal to 0"),
        ({**LINE, "metrics": {"reward_gld": 1}}, "line 2 metrics: unknown metric 'reward_gld'; did you mean"),
        ({**LINE, "metrics": {"reward_gold": float("nan")}}, "line 2 metrics.reward_gold: Input should be a finite"),
        ({**LINE, "per_prompt": {"eos_rate": [1]}}, "line 2 per_prompt: unknown metric 'eos_rate'"),
        ({**LINE, "counts": {"reward_model_accuracy": [3, 2]}}, "counts 3 hits in 2 trials"),
        ({**LINE, "surplus": 1}, "line 2 surplus: Extra inputs are not permitted"),
    ],
)
def test_a_corrupt_line_is_named(tmp_path: Path, row: Any, problem: str) -> None:
    assert problem in refusal(tmp_path, LINE, row)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl cannot be read: No such file"):
        read_records(tmp_path / "none.jsonl")
