"""Records come back as they were written, and a line that is not one is named."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from alignbench.errors import UserError
from alignbench.scoring.record import Ledger, Record, comparable, read_records, spent, write_records

RESULTS = Path(__file__).parents[2] / "results"

LINE: dict[str, Any] = {
    "format": 2,
    "suite": "quick",
    "label": "dpo beta=0.1",
    "method": "dpo",
    "distribution": "alignbench-dpo",
    "version": "0.1.0",
    "seed": 3,
    "knob": {"name": "beta", "value": 0.1},
    "snapshot": {"name": "step", "value": 16},
    "status": "ok",
    "cause": None,
    "key": "ab12cd34",
    "train_key": "ef56ab78",
    "training": {"steps": 8, "max_steps": 8, "moved": True, "budget_share": None},
    "metrics": {"reward_gold": 1.25, "kl_nats_exact": 2.5, "kl_nats_bound": None},
    "per_prompt": {"reward_gold": [1.0, 1.5]},
    "counts": {"reward_model_accuracy": [7.5, 10]},
    "proxy": "implicit",
    "exploits": [{"prompt": "p", "completion": " c", "proxy_gain": 1.5, "gold_gain": -0.5}],
    "best_of": [{"n": 2, "gain": 0.25, "ceiling": 0.5}],
    "cost": {
        "marginal": {
            "seconds": 1.5,
            "cpu_seconds": 1.25,
            "peak_bytes": 10,
            "flops": 123_456,
            "tokens_generated": 0,
            "tokens_trained": 5,
            "tokens_judged": 0,
            "labels_human": 0,
            "labels_ai": 0,
            "dollars": 0.25,
        },
        "total": {
            "seconds": 4.0,
            "cpu_seconds": None,
            "peak_bytes": 12,
            "flops": None,
            "tokens_generated": 9,
            "tokens_trained": 8,
            "tokens_judged": 7,
            "labels_human": 256,
            "labels_ai": 0,
            "dollars": None,
        },
    },
    "context": {
        "start_gold_sd": 1.5,
        "start_gold_second_sd": 0.5,
        "samples_per_prompt": 8,
        "share": ["sft"],
        "delta": 0.2,
        "confidence": 0.9,
        "bootstrap": 500,
        "model": "smollm2-135m",
        "task": "sentiment",
        "comparisons": "panel",
        "human_accuracy": 0.88,
        "gold_card": {"gold_pearson": 0.745, "gold_pairs": 1200},
        "machine": {"device": "cpu", "cpu": None},
    },
    "provenance": {
        "alignbench": "0.1.0",
        "plugins": [{"name": "alignbench-dpo", "version": "0.1.0", "code": "c0de"}],
        "libraries": {"python": "3.11.7", "torch": "2.13.0"},
        "model": "12ab",
        "data": "34cd",
        "suite_text": "methods: [dpo]\n",
        "suite_sha256": "56ef",
        "run": {
            "commit": "0123456789ab + changes",
            "command": "alignbench run quick.yaml",
            "when": "2026-11-27T12:00:00+00:00",
            "stages": [
                {
                    "key": "ef56ab78",
                    "kind": "train",
                    "when": "2026-11-27T11:59:00+00:00",
                    "seconds": 1.5,
                    "cpu_seconds": 1.25,
                    "device": "cpu: some",
                    "threads": "1",
                    "kernels": None,
                    "cost": None,
                }
            ],
            "prices": {"name": "prices.yaml", "sha256": "ab"},
        },
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


def test_a_record_of_format_1_is_one_without_provenance(tmp_path: Path) -> None:
    new = ("train_key", "training", "provenance")
    old = {name: value for name, value in LINE.items() if name not in new} | {"format": 1}
    (record,) = read_records(lines(tmp_path, old))
    assert [getattr(record, name) for name in new] == [None] * 3
    assert record.metrics == LINE["metrics"]
    write_records(tmp_path / "again.jsonl", [record])
    assert json.loads((tmp_path / "again.jsonl").read_text())["format"] == 2  # with today's fields


def test_a_record_from_before_operations_and_dollars_knows_neither(tmp_path: Path) -> None:
    old = copy.deepcopy(LINE)
    for ledger in old["cost"].values():
        del ledger["flops"], ledger["dollars"]
    del old["provenance"]["run"]["prices"], old["provenance"]["run"]["stages"][0]["cost"]
    (record,) = read_records(lines(tmp_path, old))
    assert (record.cost.marginal.flops, record.cost.marginal.dollars) == (None, None)
    assert record.cost.marginal.tokens_trained == 5
    assert spent([record]) == Ledger()


@pytest.mark.parametrize("folder", sorted(RESULTS.iterdir()), ids=lambda folder: folder.name)
def test_what_is_published_can_be_read(folder: Path) -> None:
    rows = (folder / "records.jsonl").read_text().splitlines()
    assert [record.key for record in read_records(folder / "records.jsonl")] == [json.loads(row)["key"] for row in rows]


def altered(path: str, value: Any) -> Record:
    """LINE with one leaf replaced: 'cost.total.seconds'."""
    row = copy.deepcopy(LINE)
    *way, last = path.split(".")
    place = row
    for name in way:
        place = place[name]
    assert place[last] != value
    place[last] = value
    return Record.model_validate(row)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("cost.total.seconds", 9.0),
        ("cost.marginal.cpu_seconds", 9.0),
        ("cost.marginal.peak_bytes", 9),
        ("cost.marginal.dollars", 9.0),
        ("context.machine", {"device": "cuda"}),
        ("provenance.run", {}),
    ],
)
def test_times_machine_and_occasion_are_not_compared(path: str, value: Any) -> None:
    assert comparable(altered(path, value)) == comparable(Record.model_validate(LINE))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metrics.reward_gold", 1.5),
        ("cost.total.tokens_trained", 9),
        ("cost.marginal.flops", 9),
        ("context.human_accuracy", 0.5),
        ("provenance.suite_text", "methods: [ppo]"),
        ("provenance.libraries", {}),
        ("training.moved", False),
        ("train_key", "00"),
    ],
)
def test_all_else_is_compared(path: str, value: Any) -> None:
    assert comparable(altered(path, value)) != comparable(Record.model_validate(LINE))


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
    problem = refusal(tmp_path, LINE, {"format": 3, "cells": []})
    assert problem == (
        "records.jsonl, line 2 has format 3 and this alignbench reads up to 2; upgrade: pip install -U alignbench"
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
        ({**LINE, "format": 0}, "line 2 format: Input should be greater than or equal to 1"),
        ({**LINE, "training": {"steps": 1}}, "line 2 training.max_steps: Field required"),
        ({**LINE, "surplus": 1}, "line 2 surplus: Extra inputs are not permitted"),
    ],
)
def test_a_corrupt_line_is_named(tmp_path: Path, row: Any, problem: str) -> None:
    assert problem in refusal(tmp_path, LINE, row)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl cannot be read: No such file"):
        read_records(tmp_path / "none.jsonl")
