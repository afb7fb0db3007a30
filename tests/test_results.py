"""What the published oracle results claim, held against their own records."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from alignbench.report.table import inject, to_brief
from alignbench.report.verdicts import claims
from alignbench.scoring.paired import holm
from alignbench.scoring.record import read_records

README = Path(__file__).parents[1] / "README.md"
FOLDERS = sorted((Path(__file__).parents[1] / "results").glob("oracle*"))
GATE = 0.02  # total variation


def test_the_oracle_is_published_on_both_models() -> None:
    assert [folder.name for folder in FOLDERS] == ["oracle", "oracle-gpt2"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_method_ends_within_two_percent_of_its_optimum_on_five_seeds(folder: Path) -> None:
    distances: dict[str, dict[int, float]] = defaultdict(dict)
    for line in (folder / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record["status"] == "ok", record["label"]
        if "optimum_tv" in record["metrics"]:
            distances[record["label"]][record["seed"]] = record["metrics"]["optimum_tv"]
    assert distances.keys() >= {"ppo", "dpo", "rlaif", "constitutional"}
    for label, by_seed in distances.items():
        assert sorted(by_seed) == [0, 1, 2, 3, 4], label
        assert max(by_seed.values()) <= GATE, label


REFERENCE = Path(__file__).parents[1] / "results/reference/records.jsonl"
ESTIMATORS = {
    "kl_nats_exact": "kl_nats_enumerated", "kl_nats_k1": "kl_nats_enumerated", "kl_nats_k3": "kl_nats_enumerated",
    "reward_gold": "reward_gold_enumerated",
}  # fmt: skip


def test_over_twenty_replicates_each_estimator_has_the_mean_of_what_it_estimates() -> None:
    """Rows of one replicate share their draws, so their errors are averaged before their spread is taken; by Holm over
    the four estimators."""
    records = [json.loads(line) for line in REFERENCE.read_text().splitlines()]
    p = []
    for estimator, true in ESTIMATORS.items():
        errors: dict[int, list[float]] = defaultdict(list)
        for record in records:
            if true in record["metrics"] and record["label"] != "sft":
                errors[record["seed"]].append(record["metrics"][estimator] - record["metrics"][true])
        assert [len(rows) for rows in errors.values()] == [4] * 20
        p.append(float(stats.ttest_1samp([np.mean(rows) for rows in errors.values()], 0).pvalue))
    assert min(holm(p)) > 0.05


def test_two_labels_of_one_method_tie_on_replicates_of_their_own() -> None:
    """The first ten real replicates of every row against its last ten, as if they were two methods."""
    records = read_records(REFERENCE)
    halves = [
        record.model_copy(update={"label": f"{record.label} {'AB'[record.seed // 10]}", "seed": record.seed % 10})
        for record in records
    ]
    found = {frozenset((v.a, v.b)): v for v in claims(halves).verdicts}
    assert len(found) == 66
    rows = {record.label for record in records}
    assert [row for row in rows if found[frozenset((f"{row} A", f"{row} B"))].winner] == []
    apart = [pair for pair, verdict in found.items() if verdict.winner]
    assert frozenset(("dpo A", "sft B")) in apart  # and what differs is told apart


@pytest.mark.parametrize("name", re.findall(r"<!-- results:([a-z-]+) -->", README.read_text(encoding="utf-8")))
def test_a_table_in_the_readme_is_what_its_records_give_today(name: str, tmp_path: Path) -> None:
    folder = README.parent / "results" / name
    files = [folder / file for file in ("records.jsonl", "snapshots.jsonl") if (folder / file).exists()]
    copy = tmp_path / "README.md"
    copy.write_bytes(README.read_bytes())
    link = f"results/{name}/table.md"
    records = [record for file in files for record in read_records(file)]
    inject(copy, name, f"{to_brief(records)}\nAll of it: [{link}]({link}).")
    assert copy.read_text(encoding="utf-8") == README.read_text(encoding="utf-8")
