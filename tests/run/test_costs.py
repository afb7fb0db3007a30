"""Who is charged for what: real suites on the toy, their records held against what their stages say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.report.notes import whole_suite
from alignbench.run.here import run_here
from alignbench.run.records import record_of
from alignbench.scoring.prices import PriceList, Prices
from alignbench.scoring.record import Record, spent
from alignbench.store import Store, read_json
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite

SUITE = """
model: oracle-llama
task: oracle
device: cpu
dtype: float32
max_steps: 4
lora: {r: 4, alpha: 8}
sft: {max_steps: 2}
comparisons: {source: human, pairs: 12}
evaluation: {prompts: 4, held_out_pairs: 4, samples_per_prompt: 2}
methods:
  - dpo
  - {method: best_of_n, label: two of eight, config: {n: 2, num_samples: 8}}
  - {method: best_of_n, label: eight, config: {n: 8, num_samples: 8}}
"""
FAILING = """
import alignbench

class Broken(alignbench.AlignmentMethod):
    name, needs = "broken", frozenset({"preferences"})
    def train(self, trial, config):
        raise ValueError("planted")

@alignbench.hookimpl
def alignbench_methods():
    return [Broken]
"""


class Ran:
    def __init__(self, folder: Path, text: str = SUITE, *modules: str) -> None:
        (folder / "costs.yaml").write_text(text)
        self.store = Store(folder / "home")
        self.plan: Plan = make_plan(load_suite(folder / "costs.yaml"), load_catalog(modules), modules)
        self.records = run_here(self.plan, self.store).records

    def record(self, label: str) -> Record:
        return next(record for record in self.records if record.label == label)

    def cost(self, kind: str) -> dict[str, Any]:
        (key,) = (key for key, stage in self.plan.stages.items() if stage.kind == kind)
        return dict(self.store.meta(key)["cost"])

    def made(self, record: Record, name: str) -> dict[str, Any]:
        key = self.plan.stage(record.key, name).key
        folder = self.store.get(key)
        assert folder is not None
        return dict(read_json(folder / "spent.json"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(tmp_path_factory.mktemp("costs"))


def test_a_decoding_row_trains_nothing_and_rests_on_the_reward_model_it_asks(ran: Ran) -> None:
    row = ran.record("two of eight")
    trained = ("flops", "tokens_generated", "tokens_trained", "tokens_judged", "labels_human")
    assert [getattr(row.cost.marginal, name) for name in trained] == [0] * 5
    expected = ran.cost("sft")["flops"] + ran.cost("reward_model")["flops"]
    assert row.cost.total.flops == expected > 0
    assert row.cost.total.labels_human == 12
    assert row.cost.total.tokens_generated == 0  # its samples are its use
    assert ran.record("eight").cost.total == row.cost.total


def test_deployment_is_told_per_completion_and_by_n(ran: Ran) -> None:
    two, eight, plain = (ran.record(label) for label in ("two of eight", "eight", "dpo"))
    sampled, judged = ran.made(two, "completions"), ran.made(two, "proxy")
    samples = 4 * 8
    assert two.metrics["deploy_tokens_generated"] == 2 * sampled["tokens"] / samples
    assert two.metrics["deploy_tokens_judged"] == 2 * judged["tokens"] / samples
    assert two.metrics["deploy_flops"] == 2 * (sampled["flops"] + judged["flops"]) / samples
    for name in ("deploy_tokens_generated", "deploy_tokens_judged", "deploy_flops"):
        assert eight.metrics[name] == pytest.approx(4 * two.metrics[name])
    assert plain.metrics["deploy_tokens_generated"] == plain.metrics["completion_tokens"]
    assert plain.metrics["deploy_tokens_judged"] == 0
    assert 0 < plain.metrics["deploy_flops"] < two.metrics["deploy_flops"]


def test_a_reward_model_pays_for_the_texts_it_is_calibrated_on(ran: Ran) -> None:
    """12 pairs, an epoch: it reads to calibrate what it was trained on."""
    cost = ran.cost("reward_model")
    assert cost["tokens_judged"] == cost["tokens_trained"] > 0


def test_a_suites_sum_has_each_stage_once_and_scoring_too(ran: Ran) -> None:
    costs = [ran.store.meta(key)["cost"] for key in ran.plan.stages]
    whole = spent(ran.records)
    assert whole.flops == sum(cost["flops"] for cost in costs)
    assert whole.seconds == pytest.approx(sum(cost["seconds"] for cost in costs))
    assert whole.peak_bytes == max(cost["peak_bytes"] for cost in costs)
    assert whole.labels_human == 12  # three rows rest on them
    assert whole.dollars is None
    (line,) = whole_suite(ran.records)
    assert line.endswith(" FLOPs, 12 human labels")
    assert whole_suite([]) == []


def test_a_price_list_that_lacks_a_price_is_told_where_the_dollars_would_stand(ran: Ran) -> None:
    def line(**prices: float) -> str:
        listed = Prices(PriceList.model_validate(prices), "p.yaml", "")
        records = [record_of(ran.plan, cell, ran.store, None, listed) for cell in ran.plan.cells]
        (said,) = whole_suite(records)
        return said

    assert line(human_label=0.1).endswith("12 human labels; no dollars: p.yaml has no price for a part of it")
    assert line(human_label=0.1, cpu_core_hour=0.05).endswith(" dollars")


def test_what_a_failed_row_had_finished_is_in_the_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_broken.py").write_text(FAILING)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = SUITE.split("methods:")[0] + "methods: [broken]\n"
    failed = Ran(tmp_path, text, "planted_broken")
    (record,) = failed.records
    assert record.status == "failed"
    assert spent(failed.records).labels_human == 12
    assert spent(failed.records).flops >= failed.cost("sft")["flops"] > 0


def test_a_panel_costs_its_labels_and_not_what_simulates_it(resident: Any) -> None:
    """The raters' model runs a real pass; what the source itself reads would be billed to any other."""
    import torch

    from alignbench.api import HumanModel, RewardSource
    from alignbench.engine.meter import Meter
    from alignbench.feedback.checked import Checked
    from alignbench.feedback.panel import Panel

    made = resident("llama")

    class Reader(HumanModel):
        name = "reader"
        rating_sd = 1.0

        def score(self, prompts: Any, completions: Any) -> Any:
            tokens = made.codec.encode(prompts, completions, max_new_tokens=8)
            self.tokens_judged += int(tokens.is_token.sum())
            return made.hidden(tokens).mean((1, 2)).float()

    class Asked(Panel):
        tokens_judged = property(lambda self: self.human.tokens_judged)  # type: ignore[assignment]

    class Judged(Asked):
        simulates_humans = False

    def bill(cls: type[RewardSource]) -> dict[str, float]:
        from alignbench.api import Rubric, SourceRoom

        meter = Meter(torch.device("cpu"))
        source = Checked(cls(cls.Config()), "somebody", meter)
        source.prepare(SourceRoom(Rubric("", "", "", "", ""), made, Reader(None), 0))
        source.prefer(["a", "a"], [" b", " good"], [" d", " bad"])
        return meter.reading()

    people, machine = bill(Asked), bill(Judged)
    assert (people["flops"], people["tokens_judged"], people["labels_human"]) == (0, 0, 10)
    assert machine["flops"] > 0
    assert machine["tokens_judged"] > 0
    assert people["cpu_seconds"] < machine["cpu_seconds"]


def cli(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alignbench.cli", "run", "costs.yaml", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_prices_put_dollars_on_every_ledger_and_their_file_into_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    (tmp_path / "costs.yaml").write_text(SUITE.split("methods:")[0] + "methods: [dpo]\n")
    (tmp_path / "p.yaml").write_text("cpu_core_hour: 36\nhuman_label: 0.5\n")
    ran = cli(tmp_path, "--prices", "p.yaml")
    assert ran.returncode == 0, ran.stderr
    assert "dollars" in ran.stdout.splitlines()[-1]
    (line,) = (tmp_path / "results" / "costs" / "records.jsonl").read_text().splitlines()
    record = Record.model_validate(json.loads(line))
    for ledger in (record.cost.marginal, record.cost.total):
        expected = ledger.cpu_seconds * 0.01 + ledger.labels_human * 0.5  # type: ignore[operator]
        assert ledger.dollars == pytest.approx(expected)
    assert record.provenance is not None
    assert record.provenance.run.prices is not None
    assert record.provenance.run.prices.name == "p.yaml"
    again = cli(tmp_path)
    assert "dollars" not in again.stdout
    assert "0 stages computed" in again.stdout  # a price is no part of what is computed
    (tmp_path / "p.yaml").write_text("gold: 1\n")
    refused = cli(tmp_path, "--prices", "p.yaml")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "p.yaml:1 gold: unknown key; allowed: ai_tokens_million, cpu_core_hour" in refused.stderr
