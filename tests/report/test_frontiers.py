"""Gold at matched KL is told where something is traced, whole replicates only, with nothing that acts on its reader."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alignbench.report import frontier_picture, verdicts
from alignbench.report.frontiers import frontiers, places_of, section, to_csv
from alignbench.report.table import to_markdown, write_results
from alignbench.scoring.frontier import areas, hypervolumes, matched_values
from alignbench.scoring.paired import compare
from alignbench.scoring.record import Record, read_records
from alignbench.scoring.traces import KL

PROMPTS = 12


def cell(
    label: str, kl: float, gain: float, seed: int = 0, noise: float = 0.1, snapshot: float | None = None
) -> Record:
    """A cell whose gains scatter over prompts, and over replicates by `noise`."""
    name, _, value = label.partition(" ")[2].partition("=")
    draw = np.random.default_rng([seed, round(1000 * kl), *label.encode()])
    gains = (gain + noise * draw.normal() + 0.1 * draw.normal(size=PROMPTS)).tolist()
    return Record.model_validate(
        {"suite": "s", "label": label, "method": "m", "distribution": "d", "version": "0", "seed": seed, "key": "k",
         "status": "ok", "knob": {"name": name, "value": float(value)} if value else None,
         "snapshot": None if snapshot is None else {"name": "step", "value": snapshot},
         "metrics": {"reward_gold": gain, "kl_nats_exact": kl}, "context": {"start_gold_sd": 1.5, "delta": 0.2},
         "per_prompt": {"reward_gold_gain": gains, "reward_gold": gains}}
    )  # fmt: skip


def swept(label: str, gain_per_root: float, kls: tuple[float, ...], seeds: int = 1) -> list[Record]:
    return [
        cell(f"{label} beta={i}", kl, gain_per_root * kl**0.5, seed)
        for seed in range(seeds)
        for i, kl in enumerate(kls, start=1)
    ]


def failed(record: Record) -> Record:
    return record.model_copy(update={"status": "failed", "cause": "boom", "per_prompt": {}, "metrics": {}})


def cells(lines: list[str]) -> dict[str, dict[str, str]]:
    """By row and heading, from the section's table."""
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: dict(zip(table[0][1:], row[1:], strict=True)) for row in table[2:]}


@pytest.mark.parametrize(
    ("common", "largest", "places"),
    [
        (1.2, 27, (1, 2, 10, 20)),  # of 1, 2, 5, 10, 20
        (0.64, 7.3, (0.5, 1, 2, 5)),
        (4, 4, (0.5, 1, 2)),  # smaller ones to make three
        (5, 12, (2, 5, 10)),
        (0.001, 3, (0.01, 0.05, 0.5, 2)),  # of 0.01, 0.02, ..., 2
        (0.012, 0.012, (0.01,)),
        (3e4, 4e4, (2000, 5000, 10_000)),
    ],
)
def test_places_are_round_and_reach_from_what_all_reached_to_what_any_did(
    common: float, largest: float, places: tuple[float, ...]
) -> None:
    assert places_of(common, largest) == places


def test_one_run_has_plain_numbers_and_says_where_it_did_not_get_to() -> None:
    records = [*swept("dpo", 0.5, (1.0, 4.0, 9.0)), cell("ppo", 2.25, 0.6), cell("sft", 0.0, 0.0)]
    found = frontiers(records)
    assert found is not None
    told = cells(section(found))
    assert list(told) == ["dpo", "ppo"]  # the start itself is traced by nobody
    assert found.places == (1, 2, 5)
    for place in (1.0, 2.0):
        for row, read in matched_values(records, KL, place).items():
            assert row == "sft" or told[row][f"Gain at {place:g} nats"] == f"{read.mean:+.2f}"
    assert told["ppo"]["Gain at 5 nats"] == "not reached"
    assert told["dpo"]["Area"] == f"{areas(records, KL)['dpo'].mean:+.2f}"
    assert told["dpo"]["Hypervolume"] == f"{hypervolumes(records, KL)[0]['dpo'][0]:+.2f}"
    assert not any("better" in line or "undecided" in line for line in section(found))
    text = "\n".join(section(found))
    assert "from 0 to 2.25 nats, where ppo, seed 0 ends" in text
    assert "from the reference point 2.25 nats, gain 0" in text


def test_replicates_give_intervals_and_verdicts_at_the_largest_place_that_all_reached() -> None:
    records = swept("dpo", 0.9, (1.0, 4.5, 9.0), 5) + swept("ppo", 0.1, (1.0, 2.5), 5)
    found = frontiers(records)
    assert found is not None
    assert found.shared == 2
    read = {place: matched_values(records, KL, place) for place in found.places}
    told = cells(section(found))
    whole = read[2]["dpo"].estimate()
    assert whole is not None
    assert told["dpo"]["Gain at 2 nats"] == f"{whole.mean:+.2f} [{whole.low:.2f}, {whole.high:.2f}]"
    (verdict,) = compare({row: read[2][row].values for row in ("dpo", "ppo")}, 0.3)
    assert found.said.verdicts == [verdict]
    text = section(found)
    assert any(line.startswith("- Every pair of rows, on gain at 2 nats: better") for line in text)
    assert any(line.startswith("- dpo is better than ppo: +") for line in text)


def test_a_row_that_did_not_get_there_in_every_replicate_has_no_mean_and_no_verdict() -> None:
    records = swept("dpo", 0.9, (1.0, 4.5), 4) + swept("ppo", 0.1, (1.0, 4.5), 4) + swept("kto", 0.1, (1.0, 4.5), 4)
    records = [failed(r) if (r.label, r.seed) in {("ppo beta=1", 3), ("ppo beta=2", 3)} else r for r in records]
    found = frontiers(records)
    assert found is not None
    assert found.shared == 2
    assert cells(section(found))["ppo"]["Gain at 2 nats"] == "reached in 3 of 4"
    assert {row for verdict in found.said.verdicts for row in (verdict.a, verdict.b)} == {"dpo", "kto"}
    text = section(found)
    assert "- ppo is not compared: 2 nats were reached in 3 of 4 replicates" in text
    assert "- No point: ppo beta=1, seed 3: failed: boom" in text


def test_rows_of_one_setting_beside_swept_ones_limit_no_range_and_are_not_compared() -> None:
    records = swept("dpo", 0.9, (1.0, 4.5), 4) + swept("ppo", 0.1, (1.0, 4.5), 4)
    control = [cell("permuted", 0.3, 0.0, seed) for seed in range(4)]
    alone, beside = frontiers(records), frontiers([*records, *control])
    assert alone is not None
    assert beside is not None
    assert beside.points == ("permuted",)
    assert (beside.within, beside.places, beside.said) == (alone.within, alone.places, alone.said)
    text = section(beside)
    assert cells(text)["permuted"]["Gain at 2 nats"] == "not reached"
    assert any("no frontiers: permuted." in line for line in text)
    assert not any("permuted is not compared" in line for line in text)


def test_swept_rows_that_never_left_the_start_take_no_point_from_the_frontier() -> None:
    still = swept("dpo", 0.0, (1e-9, 2e-9)) + swept("ppo", 0.0, (1e-9, 2e-9))
    found = frontiers([*[r.model_copy(update={"metrics": {**r.metrics, "kl_nats_exact": 0.0}}) for r in still],
                       cell("kto", 3.0, 0.5)])  # fmt: skip
    assert found is not None
    assert found.points == ()


def test_beside_one_swept_row_the_others_are_compared_with_it_at_their_one_setting() -> None:
    records = swept("dpo", 0.9, (1.0, 4.5), 4) + [cell("ppo", 2.5, 0.2, seed) for seed in range(4)]
    found = frontiers(records)
    assert found is not None
    assert found.points == ()
    assert {(verdict.a, verdict.b) for verdict in found.said.verdicts} == {("dpo", "ppo")}


def test_nothing_is_told_where_nothing_is_traced() -> None:
    single = [cell("dpo", 2.0, 1.0), cell("ppo beta=1", 3.0, 1.0), failed(cell("ppo beta=2", 3.0, 1.0))]
    still = swept("dpo", 0.0, (1e-9, 2e-9))
    for records in (single, still, []):
        assert frontiers(records) is None
        assert "matched KL" not in to_markdown(records)


def test_a_row_is_traced_by_its_snapshots_too_and_the_table_is_of_the_ends() -> None:
    ends = [cell("dpo", 4.0, 1.0), cell("ppo", 4.0, 1.0)]
    along = cell("dpo", 1.0, 0.8, snapshot=8)
    assert "matched KL" not in to_markdown(ends)
    written = to_markdown([*ends, along])
    assert "\nGold at matched KL:\n\n| Method | Gain at 0.5 nats |" in written
    assert written.split("Gold at matched")[0] == to_markdown(ends).split("Context:")[0]


def test_a_hostile_label_acts_on_no_reader() -> None:
    records = [*swept("=<script>|x", 0.5, (1.0, 4.0)), failed(cell("=<script>|y", 1.0, 0.1))]
    found = frontiers(records)
    assert found is not None
    text = "\n".join(section(found))
    assert "<script>" not in text
    assert "| =&lt;script&gt;&#124;x |" in text
    frame = pd.read_csv(io.StringIO(to_csv(found)))
    assert set(frame["row"]) == {"'=<script>|x", "'=<script>|y"}
    assert not frame[["where", "missing"]].stack().str.startswith("=").any()


def test_the_csv_has_every_point_and_every_number() -> None:
    records = swept("dpo", 0.9, (1.0, 4.5, 9.0), 3) + swept("ppo", 0.1, (1.0, 2.5), 3)
    found = frontiers(records)
    assert found is not None
    frame = pd.read_csv(io.StringIO(to_csv(found)))
    points = frame[(frame["quantity"] == "point") & (frame["kl_nats"] > 0)]
    planted = {
        (r.label, r.seed, r.metrics["kl_nats_exact"], np.mean(r.per_prompt["reward_gold_gain"])) for r in records
    }
    assert {tuple(row) for row in points[["where", "seed", "kl_nats", "value"]].to_numpy()} == planted
    at_two = frame[(frame["quantity"] == "gain") & (frame["kl_nats"] == 2)]
    gains, means = at_two.set_index(["row", "seed"]), at_two[at_two["seed"].isna()].set_index("row")
    for row, read in matched_values(records, KL, 2.0).items():
        whole = read.estimate()
        assert whole is not None
        assert tuple(means.loc[row, ["value", "low", "high"]]) == pytest.approx((whole.mean, whole.low, whole.high))
        for seed, values in read.values.items():
            assert gains.loc[(row, seed), "value"] == pytest.approx(np.mean(values))
    beyond = frame[(frame["quantity"] == "gain") & (frame["kl_nats"] == 5) & (frame["row"] == "ppo")]
    assert beyond["value"].isna().all()
    assert "reached in 0 of 3" in set(beyond["missing"])
    volumes = frame[frame["quantity"] == "hypervolume"].set_index(["row", "seed"])["value"]
    assert volumes["dpo", 1] == pytest.approx(hypervolumes(records, KL)[0]["dpo"][1])


def test_the_files_are_written_together_and_go_when_there_is_nothing(tmp_path: Path) -> None:
    records = swept("dpo", 0.9, (1.0, 4.5, 9.0), 3) + [cell("ppo", 2.5, 0.1, seed) for seed in range(3)]
    records.append(cell("ppo", 1.0, 0.1, snapshot=8))
    folder = tmp_path / "s"
    write_results(folder, records)
    found = frontiers(records)
    assert found is not None
    assert (folder / "frontier.csv").read_text() == to_csv(found)
    assert (folder / "frontier.svg").exists() == frontier_picture.can_draw()
    assert (folder / "table.md").read_text(encoding="utf-8") == to_markdown(records)
    assert len(read_records(folder / "records.jsonl")) == len(records) - 1
    ends = [r for r in records if r.snapshot is None]
    table = pd.read_csv(folder / "verdicts.csv")
    assert table.groupby("on").size().to_dict() == {
        "gold reward": len(verdicts.claims(ends).verdicts),
        "gain at 2 nats": 1,
        "gain of the best setting": 1,
    }
    write_results(folder, [cell("dpo", 1.0, 0.5)])
    assert sorted(path.name for path in folder.iterdir()) == ["records.jsonl", "table.csv", "table.md"]


def test_without_its_libraries_the_picture_is_a_line_that_says_how_to_get_it_and_no_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "frontier.svg").write_text("an older one")
    monkeypatch.setitem(sys.modules, "vl_convert", None)  # as if it were not installed
    with pytest.warns(UserWarning, match=r"frontier.svg is not written: .* pip install 'alignbench\[report\]'"):
        write_results(tmp_path, swept("dpo", 0.9, (1.0, 4.5)))
    assert not (tmp_path / "frontier.svg").exists()
    assert (tmp_path / "frontier.csv").exists()


def test_it_loads_no_torch_and_no_drawing_library() -> None:
    code = "import sys, alignbench.report.table; sys.exit(bool({'torch', 'altair', 'vl_convert'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
