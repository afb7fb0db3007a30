"""What the published oracle results claim, held against their own records."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

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
