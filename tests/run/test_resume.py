"""A stage whose process is killed goes on where it was, and ends with the bits of one that was not."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignbench.engine.checkpoint import Checkpoints
from alignbench.engine.fast.passes import FastPasses
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.run.execute import Bench
from alignbench.store import Store
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite

PPO = {
    "rollout_batch_size": 8, "per_device_train_batch_size": 4, "num_ppo_epochs": 1, "kl_controller": "adaptive",
    "learning_rate": 0.01,
}  # fmt: skip
DPO = {"per_device_train_batch_size": 4, "learning_rate": 0.01}


def killed_at_a_checkpoint(plan: Plan, store: Store, key: str, which: int = 1) -> bool:
    """Compute a stage in a child that is killed as soon as it has kept that many states; whether it was."""
    child = os.fork()
    if child == 0:
        keep, kept = Checkpoints.save, itertools.count(1)

        def save_and_die(self: Checkpoints, *state: Any) -> None:
            keep(self, *state)
            if next(kept) == which:
                os.kill(os.getpid(), signal.SIGKILL)

        Checkpoints.is_due = lambda self: self.is_on  # type: ignore[method-assign]
        Checkpoints.save = save_and_die  # type: ignore[method-assign]
        try:
            Bench(plan, store).compute(key)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def files(store: Store, key: str) -> dict[str, bytes]:
    folder = store.get(key)
    assert folder is not None
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"
    }  # fmt: skip


def counts(store: Store, key: str) -> list[dict[str, int]]:
    """What a stage cost, and each of its snapshots, but for time and memory."""
    meta = store.meta(key)
    readings = [meta["cost"], *meta["marks"].values()]
    return [
        {name: reading[name] for name in reading.keys() - {"seconds", "cpu_seconds", "peak_bytes"}}
        for reading in readings
    ]


def test_a_killed_stage_is_resumed_and_ends_with_the_same_files(
    suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"method": "ppo", "config": PPO, "force": True}, {"method": "dpo", "config": DPO}]
    plan = make_plan(load_suite(suite_file(rows, snapshots=99)), load_catalog([]), ())  # at every step
    whole, killed = Store(tmp_path / "whole"), Store(tmp_path / "killed")
    keys = list(dict.fromkeys(key for cell in plan.cells for key in plan.upstream(cell.train)))
    seen: list[str] = []
    for key in keys:
        kind = plan.stages[key].kind
        Bench(plan, whole).compute(key)
        if killed_at_a_checkpoint(plan, killed, key):
            seen.append(kind)
            assert killed.get(key) is None
            assert (killed.scratch(key) / "checkpoint" / "checkpoint.json").is_file()
            Bench(plan, killed).compute(key)
        assert files(killed, key) == files(whole, key), kind
        assert counts(killed, key) == counts(whole, key), kind
        assert not (killed.root / "scratch" / key).exists()
        assert all("workdir" not in name for name in files(killed, key))
    assert sorted(seen) == ["reward_model", "sft", "train", "train"]


ORACLE = """
model: oracle-llama
task: oracle
device: cpu
dtype: float32
max_steps: 24
lora: {r: 4, alpha: 8, layers: 1}
sft: {max_steps: 4}
comparisons: {source: human, pairs: 24}
evaluation: {prompts: 4, held_out_pairs: 4}
methods: [dpo, {method: ppo, force: true, config: {rollout_batch_size: 8, num_ppo_epochs: 1}}]
reward_model: {num_train_epochs: 3, per_device_train_batch_size: 8}
"""


@pytest.mark.parametrize(("row", "kind"), [(0, "train"), (1, "train"), (1, "reward_model")])
def test_states_kept_from_below_the_adapters_are_the_same_after_a_kill(tmp_path: Path, row: int, kind: str) -> None:
    """Texts come again after an epoch: one that passed before the kill must not be another one's neighbour then."""
    (tmp_path / "suite.yaml").write_text(ORACLE)
    plan = make_plan(load_suite(tmp_path / "suite.yaml"), load_catalog([]), ())
    whole, killed = Store(tmp_path / "whole"), Store(tmp_path / "killed")
    (stage,) = (stage for stage in plan.upstream(plan.cells[row].train).values() if stage.kind == kind)
    for key in plan.upstream(stage.key):
        Bench(plan, whole).compute(key)
        if key != stage.key:
            Bench(plan, killed).compute(key)
    assert killed_at_a_checkpoint(plan, killed, stage.key, 6)
    Bench(plan, killed).compute(stage.key)
    assert files(killed, stage.key) == files(whole, stage.key)
    assert counts(killed, stage.key) == counts(whole, stage.key)
    assert counts(whole, stage.key)[0]["flops"] > 0


def test_without_the_kept_states_the_bits_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a checkpoint that leaves them out. Where a text's bits do not depend on its neighbours, as on some
    CPUs, the operations to make them again still show."""
    monkeypatch.setattr(FastPasses, "kept", lambda self: {})
    with pytest.raises(AssertionError, match=r"adapter_model|flops"):
        test_states_kept_from_below_the_adapters_are_the_same_after_a_kill(tmp_path, 0, "train")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def swap(file: Path) -> None:
    file.write_bytes((file.parents[1] / "2" / file.name).read_bytes())


@pytest.mark.parametrize("harm", [flip, Path.unlink, swap])
def test_a_snapshot_that_is_not_as_it_was_written_begins_the_stage_anew(
    suite_file: Callable[..., Path], tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    plan = make_plan(load_suite(suite_file([{"method": "dpo", "config": DPO}], snapshots=99)), load_catalog([]), ())
    whole, killed = Store(tmp_path / "whole"), Store(tmp_path / "killed")
    *below, train = plan.upstream(plan.cells[0].train)
    for key in below:
        Bench(plan, whole).compute(key)
        Bench(plan, killed).compute(key)
    Bench(plan, whole).compute(train)
    assert killed_at_a_checkpoint(plan, killed, train, 2)
    harm(killed.scratch(train) / "snapshots" / "1" / "adapter_model.safetensors")
    with pytest.warns(UserWarning, match=f"of stage {train[:12]} .*the snapshot at step 1 is missing or altered"):
        Bench(plan, killed).compute(train)
    assert files(killed, train) == files(whole, train)


def test_seconds_between_checkpoints_change_no_key_and_0_keeps_none(
    suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    row = [{"method": "dpo", "config": DPO}]
    plans = [
        make_plan(load_suite(suite_file(row, checkpoint_seconds=seconds)), load_catalog([]), ()) for seconds in (0, 5.5)
    ]
    assert plans[0].stages.keys() == plans[1].stages.keys()
    store = Store(tmp_path / "off")
    for key in plans[0].upstream(plans[0].cells[0].train):
        assert not killed_at_a_checkpoint(plans[0], store, key)


@pytest.mark.parametrize("seconds", [-1, "often"])
def test_seconds_that_make_no_sense_are_refused(suite_file: Callable[..., Path], seconds: Any) -> None:
    with pytest.raises(Exception, match="checkpoint_seconds"):
        load_suite(suite_file(["dpo"], checkpoint_seconds=seconds))
