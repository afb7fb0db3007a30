"""Whole suites on a tiny model: every row ends well, nothing is computed twice, the same suite gives the same bits."""

from __future__ import annotations

import gc
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.run.execute import import_engine
from alignbench.run.here import run_here
from alignbench.run.schedule import Outcome, Watcher
from alignbench.scoring.record import COUNTS, PER_PROMPT, comparable
from alignbench.store import Store
from alignbench.suite.spec import load_suite

ROLLOUTS = {"rollout_batch_size": 8, "per_device_train_batch_size": 4, "learning_rate": 0.01}
ROWS = [  # so few pairs teach a reward model nothing
    "sft",
    {"method": "best_of_n", "config": {"n": 2, "num_samples": 3}},
    {"method": "ppo", "config": ROLLOUTS, "force": True},
    {"method": "dpo", "config": {"per_device_train_batch_size": 4, "learning_rate": 0.01}},
    {"method": "rlaif", "config": ROLLOUTS, "force": True},
    {"method": "constitutional", "config": {**ROLLOUTS, "num_prompts": 8}, "force": True},
    {"method": "ppo", "label": "ppo-length", "reward": "length", "config": ROLLOUTS},
]


class Watching(Watcher):
    """Counts what was computed, by kind of stage."""

    def __init__(self) -> None:
        self.computed: list[str] = []

    def stage_ends(self, stage: Any, seconds: float, is_cached: bool, cause: str | None) -> None:
        if not is_cached and cause is None:
            self.computed.append(stage.kind)


def walked(path: Path, home: Path, modules: tuple[str, ...] = ()) -> tuple[Outcome, Counter[str]]:
    watching = Watching()
    outcome = run_here(make_plan(load_suite(path), load_catalog(modules), modules), Store(home), watching)
    return outcome, Counter(watching.computed)


def said(outcome: Outcome) -> list[dict[str, Any]]:
    return [comparable(record) for record in outcome.records]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that the tests below share, in which every row of `ROWS` is computed by the first of them to ask."""
    return tmp_path_factory.mktemp("home")


def test_every_row_ends_well_with_finite_numbers_and_sft_stays_at_kl_0(suite_file, home: Path) -> None:
    outcome, _ = walked(suite_file(ROWS), home)
    assert [record.cause for record in outcome.records] == [None] * len(ROWS)
    assert outcome.exit_code == 0
    for record in outcome.records:
        numbers = [*record.metrics.values(), *(v for values in record.per_prompt.values() for v in values)]
        assert all(value is not None and math.isfinite(value) for value in numbers), record.label
        # the task has one gold, and the suite asks for no words
        assert set(record.per_prompt) == {name for name in PER_PROMPT if "second" not in name and "word" not in name}
        assert {len(values) for values in record.per_prompt.values()} == {8}
        assert record.counts[COUNTS[0]][1] == 8
        assert record.cost.total.seconds >= record.cost.marginal.seconds > 0
    by_label = {record.label: record for record in outcome.records}
    start = by_label["sft"]
    assert [start.metrics[f"kl_nats_{name}"] for name in ("exact", "k1", "k3")] == [0.0, 0.0, 0.0]
    assert start.metrics["win_rate_gold"] == 0.5
    assert start.metrics["reward_gold_sd"] == 0
    assert by_label["best_of_n"].metrics["kl_nats_bound"] == pytest.approx(math.log(2) - 0.5)
    for label in ("ppo", "dpo", "rlaif", "constitutional", "ppo-length"):
        assert by_label[label].metrics["kl_nats_exact"] > 0
    spent = {label: record.cost.total for label, record in by_label.items()}
    assert [spent[label].labels_human for label in ("sft", "ppo", "dpo", "rlaif", "ppo-length")] == [0, 12, 12, 0, 0]
    assert spent["rlaif"].labels_ai == 12
    assert by_label["ppo-length"].proxy == "length"


def test_a_second_run_computes_nothing_and_says_the_same(suite_file, home: Path) -> None:
    first, _ = walked(suite_file(ROWS), home)
    second, computed = walked(suite_file(ROWS), home)
    assert not computed
    assert second.computed == 0
    assert second.records == first.records  # time and machine too: they are those of the one computation


def test_a_fresh_home_gives_the_same_bits(suite_file, home: Path, tmp_path: Path) -> None:
    here, _ = walked(suite_file(ROWS), home)
    there, computed = walked(suite_file(ROWS), tmp_path / "fresh")
    assert computed.total() == there.computed > 40
    assert said(there) == said(here)


def test_labels_and_the_suites_name_change_no_key(suite_file, home: Path) -> None:
    walked(suite_file(ROWS), home)
    rows = [*ROWS[:3], {**ROWS[3], "label": "DPO, renamed"}, *ROWS[4:]]
    outcome, computed = walked(suite_file(rows, name="other.yaml"), home)
    assert not computed
    assert {record.suite for record in outcome.records} == {"other"}


def test_another_option_of_one_row_recomputes_that_rows_stages_alone(suite_file, home: Path) -> None:
    walked(suite_file(ROWS), home)
    rows = [*ROWS]
    rows[3] = {"method": "dpo", "config": {**ROWS[3]["config"], "beta": 0.7}}
    _, computed = walked(suite_file(rows), home)
    kinds = ("train", "completions", "gold_rewards", "proxy_rewards", "reward_card", "score")
    assert computed == dict.fromkeys(kinds, 1)


def test_another_replicate_computes_its_own_stages_alone_and_what_is_shared_not_again(suite_file, home: Path) -> None:
    walked(suite_file(ROWS), home)
    share = ["sft", "labels", "reward_model"]
    outcome, computed = walked(suite_file(ROWS[2:4], seeds=[0, 1], share=share), home)
    assert not {"sft", "reward_model", "human_comparisons", "gold_pairs"} & set(computed)
    assert computed["train"] == 2  # ppo and dpo
    assert computed["untrained"] == 1  # the start point that they are compared with
    assert [record.seed for record in outcome.records] == [0, 1, 0, 1]
    assert {tuple(record.context.share) for record in outcome.records} == {tuple(share)}
    whole, computed = walked(suite_file(ROWS[2:4], seeds=[0, 1]), home)  # the second replicate, all of it but gold
    assert (computed["sft"], computed["human_comparisons"], computed["reward_model"]) == (1, 1, 1)
    assert (computed["train"], computed["gold_pairs"]) == (2, 0)
    first, again = ([r.metrics for r in run.records if r.seed == 0] for run in (outcome, whole))
    assert first == again


def test_a_damaged_stage_is_noticed_and_computed_again(suite_file, home: Path) -> None:
    first, _ = walked(suite_file(ROWS), home)
    plan = make_plan(load_suite(suite_file(ROWS)), load_catalog())
    key = str(plan.cells[3].train)
    weights = home / "stages" / key[:2] / key / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.warns(UserWarning, match=f"stage {key} is damaged .adapter_model.safetensors is altered"):
        again, computed = walked(suite_file(ROWS), home)
    assert computed == {"train": 1}
    assert said(again) == said(first)


# ------------------------------------------------------------------------------------------------------------- failures

BROKEN = """
import alignbench

class Odd(alignbench.RewardSource):
    name = "odd"
    class Config(alignbench.Config):
        breach: str
    def score(self, prompts, completions):
        import torch
        good = torch.zeros(len(prompts))
        return {"nan": good.log() - good.log(), "shape": good[:, None], "list": good.tolist()}[self.config.breach]

class Raising(alignbench.AlignmentMethod):
    name = "raising"
    needs = frozenset({"prompts"})
    def train(self, trial, config):
        raise RuntimeError("two\\nlines")

class Careless(Raising):
    name = "careless"
    def train(self, trial, config):
        next(trial.preference_batches())

class Diverging(Raising):
    name = "diverging"
    def train(self, trial, config):
        for prompts in trial.prompt_batches(2):
            trial.step(sum(p.sum() for p in trial.policy.parameters() if p.requires_grad) * float("nan"), width=3.0)

@alignbench.hookimpl
def alignbench_methods():
    return [Raising, Careless, Diverging]

@alignbench.hookimpl
def alignbench_reward_sources():
    return [Odd]
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`broken(suite)`: its outcome, with the plugins above loaded as by `--plugin`."""
    (tmp_path / "broken_plugins.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_plugins", raising=False)
    return lambda path, home: walked(path, home, ("broken_plugins",))[0]


def on(breach: str) -> dict[str, Any]:
    return {
        "method": "ppo", "label": breach, "config": ROLLOUTS,
        "reward": {"name": "odd", "options": {"breach": breach}},
    }  # fmt: skip


def test_a_reward_source_that_breaks_its_contract_fails_its_own_rows_alone(suite_file, broken, home: Path) -> None:
    outcome = broken(suite_file([on("nan"), "sft", on("shape"), on("list"), ROWS[3]]), home)
    causes = {record.label: record.cause for record in outcome.records}
    owner = "plugin 'odd' (from module broken_plugins): score() returned"
    assert causes == {
        "nan": f"{owner} nan for text 0 of 8; return finite numbers",
        "sft": None,
        "shape": f"{owner} shape (8, 1) for 8 texts; return (8,)",
        "list": f"{owner} a list; return a float32 tensor of shape (8,)",
        "dpo": None,
    }
    assert outcome.exit_code == 2
    assert outcome.mistake is None  # there is something to publish
    nan = outcome.records[0]
    assert nan.status == "failed"
    assert not nan.metrics


def test_a_method_that_raises_fails_alone_and_counts_as_a_bug(suite_file, broken, home: Path) -> None:
    outcome = broken(suite_file(["raising", "sft", on("nan")]), home)
    assert [record.status for record in outcome.records] == ["failed", "ok", "failed"]
    assert outcome.records[0].cause == "plugin 'raising' (from module broken_plugins): RuntimeError: two lines"
    assert outcome.exit_code == 1


def test_a_loss_that_is_not_finite_names_the_steps_metrics(suite_file, broken, home: Path) -> None:
    outcome = broken(suite_file(["diverging", "sft"]), home)
    assert outcome.records[0].cause == (
        "plugin 'diverging' (from module broken_plugins): "
        "FloatingPointError: the loss is nan; step=0, loss=nan, width=3"
    )


def test_a_method_that_asks_for_what_its_recipe_lacks_is_told_so(suite_file, broken, home: Path) -> None:
    outcome = broken(suite_file(["careless", "sft"]), home)
    assert outcome.records[0].cause == (
        "the method asked for preferences; add 'preferences' to its `needs` or to its recipe"
    )
    assert outcome.exit_code == 2


def test_strict_raises_the_first_failure(suite_file, broken, home: Path, tmp_path: Path) -> None:
    plan = make_plan(load_suite(suite_file(["raising"])), load_catalog(["broken_plugins"]))
    with pytest.raises(RuntimeError, match="two\nlines"):
        run_here(plan, Store(home), is_strict=True)


def test_a_failed_stage_leaves_nothing_in_the_store(suite_file, broken, tmp_path: Path) -> None:
    home = tmp_path / "own"
    path = suite_file(["raising"])
    broken(path, home)
    plan = make_plan(load_suite(path), load_catalog(["broken_plugins"]))
    key = str(plan.cells[0].train)
    assert not (home / "stages" / key[:2] / key).exists()
    assert not list((home / "tmp").iterdir())


def test_a_panel_needs_a_task_with_human_ratings_and_one_line_says_so(suite_file, home: Path) -> None:
    outcome, _ = walked(suite_file(["sft", ROWS[3]], comparisons={"source": "panel", "pairs": 8}), home)
    problem = "the `panel` source needs a task with single human ratings; use `source: human` or `judge`"
    assert {record.cause for record in outcome.records} == {problem}
    assert isinstance(outcome.mistake, UserError)
    assert outcome.exit_code == 2


def test_a_model_that_does_not_load_ends_the_run_once(suite_file, dialogue_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    for file in dialogue_model.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    outcome, _ = walked(suite_file(ROWS, model=str(folder)), tmp_path / "own")
    assert re.fullmatch(
        f"model '{folder}' does not load: .*; name an alias, a Hub id or a folder", str(outcome.mistake)
    )


def test_the_exit_codes_reach_the_shell_and_the_table_lists_the_failed_row(suite_file, broken, tmp_path: Path) -> None:
    """One real process, from the folder in which the plugin's module lies."""
    path = suite_file(["sft", "raising", on("shape")])
    done = subprocess.run(
        [sys.executable, "-m", "alignbench.cli", "run", str(path), "--plugin", "broken_plugins"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**_environment(), "ALIGNBENCH_HOME": str(tmp_path / "own")},
    )  # fmt: skip
    assert done.returncode == 1
    logged = re.compile(r"; `alignbench log ([0-9a-f]{12})` has the traceback$")
    lines = done.stderr.splitlines()
    assert [logged.sub("", line) for line in lines] == [
        "alignbench: raising (seed 0) failed: plugin 'raising' (from module broken_plugins): RuntimeError: two lines",
        "alignbench: shape (seed 0) failed: plugin 'odd' (from module broken_plugins): score() returned shape (8, 1) "
        "for 8 texts; return (8,)",
    ]
    assert len({key for line in lines for key in logged.findall(line)}) == 2, "each line names a log of its own"
    table = (tmp_path / "results" / "tiny" / "table.md").read_text()
    assert "raising (0 of 1 seeds)" in table
    assert "Failed:" in table


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("was_on", [True, False])
def test_importing_the_engine_leaves_the_collector_as_it_was(was_on: bool) -> None:
    try:
        (gc.enable if was_on else gc.disable)()
        import_engine()
        assert gc.isenabled() == was_on
    finally:
        gc.enable()
