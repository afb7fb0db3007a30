"""A fit that is stopped and resumed in a fresh model ends with the bits of one that was not; what is torn is said."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn

from alignbench.api import Demonstration, OptimizerConfig
from alignbench.engine import checkpoint, resume
from alignbench.engine.checkpoint import Checkpoints, python_state
from alignbench.engine.device import isolated
from alignbench.engine.meter import Meter
from alignbench.engine.resident import Resident
from alignbench.engine.supervised import fit_supervised
from alignbench.engine.trial import LiveTrial
from alignbench.feedback.length import Length
from alignbench.feedback.reward_model import RewardModel, fit_reward_model
from alignbench.suite.spec import Lora, RewardModelConfig, Training
from alignbench.testing.stops import Resuming, Stopped, Stopping
from alignbench_dpo import DPO
from alignbench_ppo import PPO

PROMPTS = ["the film is", "a", "the plot", "", "a bad one and", "the long", "one"]
PAIRS = [
    {"prompt": p, "chosen": c, "rejected": r, "ranked": [c, r]}
    for p, c, r in [
        ("the film is", " good", " a dull and long one"), ("a", " good plot and a good film", ""), ("", "the", " bad"),
        ("the long plot", " is good.", " is bad."), ("one", " good", " bad"), ("a film", " is", " a dull plot"),
        ("the", " good one", " long"),
    ]
]  # fmt: skip
OFF = Checkpoints(None, 0)
Fit = Callable[[Checkpoints], tuple[Any, ...]]  # what a fit ends with, comparable to the bit


def bits(resident: Resident) -> list[tuple[str, bytes]]:
    return [
        (n, p.detach().contiguous().view(torch.uint8).numpy().tobytes())
        for n, p in resident.module.named_parameters() if "lora_" in n
    ]  # fmt: skip


class Drawer:
    """Draws from every generator there is, a running mean of its own module's included."""

    class Config(OptimizerConfig):
        pass

    def train(self, trial: Any, config: Any) -> None:
        norm = trial.add_trainable(nn.BatchNorm1d(1, affine=False))
        trial.state["shift"] = 0.0
        inner = trial.prompt_batches(2)
        for pair in trial.preference_batches():
            gap = trial.logprob_gap(pair) - trial.reference_gap(pair)
            drawn = [random.random(), float(np.random.rand()), float(torch.rand(())), trial.rng.random()]
            norm(torch.tensor([[d] for d in drawn]))
            length = len("".join(trial.sample(next(inner)).completions))
            trial.state["shift"] += drawn[0]
            weight = sum(drawn) + float(norm.running_mean) + length / 10 + trial.state["shift"]
            trial.step(F.softplus(-weight * gap).mean(), weight=weight)


class Alternating(Drawer):
    """Inner streams that are open at once, and asked in turn."""

    def train(self, trial, config):
        inner = trial.prompt_batches(2), trial.prompt_batches(3)
        for pair in trial.preference_batches():
            prompts = next(inner[trial.budget.used % 2])
            weight = len("".join(prompts)) + len("".join(trial.sample(prompts).completions)) / 10
            trial.step(F.softplus(-weight * trial.logprob_gap(pair)).mean(), weight=weight)


METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dpo": (DPO, {"per_device_train_batch_size": 2, "warmup_steps": 3}),
    "dpo accumulating": (DPO, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}),
    "ppo": (PPO, {
        "kl_controller": "adaptive", "kl_horizon": 20, "kl_target": 0.5, "critic_adapter": True,
        "gradient_accumulation_steps": 2, "rollout_batch_size": 6, "per_device_train_batch_size": 2,
        "num_ppo_epochs": 1,
    }),
    "ppo shared": (PPO, {"rollout_batch_size": 4, "per_device_train_batch_size": 2, "num_ppo_epochs": 1}),
    "drawer": (Drawer, {"per_device_train_batch_size": 2}),
    "alternating": (Alternating, {"per_device_train_batch_size": 2}),
}  # fmt: skip


@pytest.fixture
def training(tiny_models: dict[str, Path], tmp_path: Path) -> Callable[..., Fit]:
    def make(name: str, dtype: torch.dtype = torch.float32, max_steps: int = 8) -> Fit:
        cls, options = METHODS[name]

        def fit(checkpoints: Checkpoints) -> tuple[Any, ...]:
            with isolated(5):
                made = Resident(tiny_models["llama"], (), Lora(r=4, alpha=8), torch.device("cpu"), dtype)
                config = cls.Config(learning_rate=5e-3, **options)
                meter = Meter(made.device)
                trial = LiveTrial(
                    made, config, seed=3, max_steps=max_steps, max_new_tokens=6, prompts=PROMPTS, meter=meter,
                    workdir=tmp_path, preferences=PAIRS, reward=Length(Length.Config()), checkpoints=checkpoints,
                )  # fmt: skip
                cls().train(trial, config)
                drawn = [random.random(), float(np.random.rand()), float(torch.rand(())), trial.rng.random()]
                return bits(made), json.dumps(trial.history), meter.counts, trial.state, trial.budget.used, drawn

        return fit

    return make


@pytest.fixture
def supervised(tiny_models: dict[str, Path]) -> Fit:
    def fit(checkpoints: Checkpoints) -> tuple[Any, ...]:
        with isolated(5):
            lora = Lora(r=4, alpha=8, dropout=0.2)
            made = Resident(tiny_models["llama"], (), lora, torch.device("cpu"), torch.float32)
            config = Training(max_steps=6, per_device_train_batch_size=2, gradient_accumulation_steps=2)
            data = [Demonstration(row["prompt"], row["chosen"]) for row in PAIRS]
            meter = Meter(made.device)
            history = fit_supervised(
                made, data, config, seed=3, max_new_tokens=8, meter=meter, checkpoints=checkpoints
            )  # fmt: skip
            return bits(made), json.dumps(history), meter.counts, float(torch.rand(()))

    return fit


@pytest.fixture(
    params=[{}, {"validation_share": 0.3, "eval_steps": 1, "num_train_epochs": 5}], ids=["all", "best look"]
)
def reward(tiny_models: dict[str, Path], request: pytest.FixtureRequest) -> Fit:
    def fit(checkpoints: Checkpoints) -> tuple[Any, ...]:
        with isolated(5):
            lora = Lora(r=4, alpha=8, dropout=0.2)
            made = Resident(tiny_models["llama"], (), lora, torch.device("cpu"), torch.float32)
            model = RewardModel.fresh(made, "mean", 8, seed=0)
            config = RewardModelConfig(**{"num_train_epochs": 3, "per_device_train_batch_size": 3, **request.param})
            meter = Meter(made.device)
            history = fit_reward_model(model, PAIRS, config, seed=3, meter=meter, checkpoints=checkpoints)
            head = [p.detach().numpy().tobytes() for p in model.head.parameters()]
            return bits(made), head, json.dumps(history), meter.counts, float(torch.rand(()))

    return fit


def stopped_and_resumed(fit: Fit, folder: Path, at: int) -> tuple[Any, ...]:
    with pytest.raises(Stopped):
        fit(Stopping(folder, at))
    return fit(Resuming(folder))


# ----------------------------------------------------------------------------------------------------- bit identity


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_training_ends_with_the_same_bits_history_counts_and_draws(training, tmp_path, name, at):
    fit = training(name, max_steps=12)
    assert stopped_and_resumed(fit, tmp_path / "kept", at) == fit(OFF)


@pytest.mark.parametrize("name", ["dpo", "ppo"])
def test_bfloat16_weights_are_resumed_with_their_float32_masters(training, tmp_path, name):
    fit = training(name, torch.bfloat16)
    assert stopped_and_resumed(fit, tmp_path / "kept", 2) == fit(OFF)


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_resumed_supervised_start_ends_with_the_same_bits_dropout_included(supervised, tmp_path, at):
    assert stopped_and_resumed(supervised, tmp_path, at) == supervised(OFF)


@pytest.mark.parametrize("at", [1, 3, 4, 8])
def test_a_resumed_reward_model_ends_with_the_same_bits_within_an_epoch_and_across(reward, tmp_path, at):
    assert stopped_and_resumed(reward, tmp_path, at) == reward(OFF)


def test_a_training_may_be_stopped_and_resumed_again_and_again(training, tmp_path):
    fit, folder = training("ppo shared"), tmp_path / "kept"
    for _ in range(3):
        with pytest.raises(Stopped):
            fit(Stopping(folder, 1))
    assert fit(Resuming(folder)) == fit(OFF)


def test_keeping_checkpoints_changes_nothing(training, tmp_path):
    fit = training("ppo")
    assert fit(Stopping(tmp_path / "kept", 0)) == fit(OFF)


def test_no_checkpoint_is_kept_while_a_gradient_waits_for_its_step(training, tmp_path):
    """Rounds of 3 passes under an accumulation of 2: a gradient is pending after every other round."""
    counting = Stopping(tmp_path / "kept", 0)
    training("ppo", max_steps=9)(counting)
    assert counting.kept == 2  # after rounds 2 and 4 of 6, the budget of 9 being spent in the last
    every = Stopping(tmp_path / "each", 0)
    training("dpo", max_steps=4)(every)
    assert every.kept == 3


# -------------------------------------------------------------------------------------------------- controls


@pytest.mark.parametrize("left_out", ["python", "numpy", "torch"])
def test_a_global_generator_left_out_is_seen(training, tmp_path, monkeypatch, left_out):
    fit = training("drawer")
    whole = fit(OFF)
    setters = {"python": (random, "setstate"), "numpy": (np.random, "set_state"), "torch": (torch, "set_rng_state")}
    restore = resume.set_global_generators

    def without(saved):
        with monkeypatch.context() as patch:
            patch.setattr(*setters[left_out], lambda state: None)
            restore(saved)

    monkeypatch.setattr(resume, "set_global_generators", without)
    assert stopped_and_resumed(fit, tmp_path / "kept", 2) != whole


@pytest.mark.parametrize("left_out", ["rng", "generator"])
def test_a_generator_of_the_trials_left_out_is_seen(training, tmp_path, monkeypatch, left_out):
    fit = training("ppo")
    whole = fit(OFF)

    def without(self, saved):
        if left_out != "rng":
            self.rng.setstate(python_state(saved.values["rng"]))
        if left_out != "generator":
            self._generator.set_state(saved.tensors["trial.generator"])

    monkeypatch.setattr(LiveTrial, "_take_back_generators", without)
    assert stopped_and_resumed(fit, tmp_path / "kept", 1) != whole


def test_dropouts_generator_left_out_of_a_fit_is_seen(supervised, reward, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "set_global_generators", lambda saved: None)
    for name, fit in (("sft", supervised), ("reward", reward)):
        assert stopped_and_resumed(fit, tmp_path / name, 2) != fit(OFF)


# -------------------------------------------------------------------------------------------------- the files


def tensors_file(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
@pytest.mark.parametrize("part", ["checkpoint.json", "tensors"])
def test_a_damaged_checkpoint_is_said_in_one_line_and_the_fit_begins_anew(supervised, tmp_path, part, harm):
    with pytest.raises(Stopped):
        supervised(Stopping(tmp_path, 2))
    harm(tensors_file(tmp_path) if part == "tensors" else tmp_path / part)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        end = supervised(Resuming(tmp_path))
    assert end == supervised(OFF)
    ours = [str(one.message) for one in said if str(one.message).startswith("the checkpoint")]
    if part == "checkpoint.json" and harm is Path.unlink:
        assert ours == []  # nothing was kept
    else:
        assert len(ours) == 1
        assert ours[0].startswith("the checkpoint cannot be used (")
        assert ours[0].endswith("); the stage begins anew")
        assert "\n" not in ours[0]


def test_the_two_parts_of_different_checkpoints_do_not_pass_for_one(supervised, tmp_path):
    for at in (1, 2):
        with pytest.raises(Stopped):
            supervised(Stopping(tmp_path / str(at), at))
    one, two = tensors_file(tmp_path / "1"), tensors_file(tmp_path / "2")
    two.write_bytes(one.read_bytes())
    with pytest.warns(UserWarning, match="torn, altered or another"):
        assert Resuming(tmp_path / "2").found is None


def test_another_stages_checkpoint_is_not_taken(tmp_path):
    ours, theirs = (Checkpoints(tmp_path, 1, owner=key) for key in ("ours", "theirs"))
    theirs.save({"weight": torch.ones(2)}, {"used": 3})
    assert theirs.found.values["used"] == 3
    with pytest.warns(UserWarning, match="another stage's"):
        assert ours.found is None
    assert not tmp_path.exists()  # the stage begins anew, and keeps its own


def test_a_kill_between_the_two_parts_leaves_the_checkpoint_before(supervised, tmp_path, monkeypatch):
    with pytest.raises(Stopped):
        supervised(Stopping(tmp_path, 1))

    put = checkpoint._put

    def killed(path, write):
        if path.name == checkpoint.NAME:
            raise Stopped
        put(path, write)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_put", killed)
        with pytest.raises(Stopped):
            supervised(Stopping(tmp_path, 1))
    assert supervised(Resuming(tmp_path)) == supervised(OFF)


def test_a_checkpoint_of_other_weights_is_said_and_not_used(supervised, training, tmp_path):
    with pytest.raises(Stopped):
        supervised(Stopping(tmp_path / "kept", 1))
    fit = training("ppo")  # two adapters and a head
    with pytest.warns(UserWarning, match=r"weights.*begins anew"):
        assert fit(Resuming(tmp_path / "kept")) == fit(OFF)


def test_a_disk_that_refuses_is_said_and_the_fit_goes_on(supervised, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="no checkpoint was kept"):
        assert supervised(Stopping(tmp_path / "file" / "kept", 0)) == supervised(OFF)


def test_a_disk_that_is_full_leaves_no_half_file(supervised, tmp_path, monkeypatch):
    def save_file(tensors, path):
        Path(path).write_text("half of it")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    with pytest.warns(UserWarning, match="no checkpoint was kept .*No space left"):
        assert supervised(Stopping(tmp_path / "kept", 0)) == supervised(OFF)
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize(("folder", "seconds"), [(None, 60.0), ("kept", 0.0)])
def test_without_a_folder_or_with_0_seconds_nothing_is_kept_or_read(tmp_path, folder, seconds):
    off = Checkpoints(None if folder is None else tmp_path / folder, seconds)
    assert not off.is_due()
    assert (off.found, list(tmp_path.iterdir())) == (None, [])


def test_a_checkpoint_is_due_after_its_seconds_and_again_after_as_many(tmp_path):
    now = [0.0]
    kept = Checkpoints(tmp_path, 60, clock=lambda: now[0])
    seen = []
    for now[0] in (0.0, 59.0, 60.0, 100.0, 119.0, 120.0):
        seen.append(kept.is_due())
        if seen[-1]:
            kept.save({"w": torch.zeros(1)}, {})
    assert seen == [False, False, True, False, False, True]
    assert len(list(tmp_path.iterdir())) == 2  # older tensors are gone


def test_no_file_is_a_pickle(supervised, tmp_path):
    with pytest.raises(Stopped):
        supervised(Stopping(tmp_path, 1))
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_a_state_that_is_not_json_is_refused(training, tmp_path, monkeypatch):
    class Tupled(Drawer):
        def train(self, trial, config):
            trial.state["pair"] = (1, 2)
            for pair in trial.preference_batches():
                trial.step(trial.logprob_gap(pair).mean())

    monkeypatch.setitem(METHODS, "drawer", (Tupled, {"per_device_train_batch_size": 2}))
    with pytest.raises(TypeError, match=r"trial\.state holds JSON values"):
        training("drawer")(Stopping(tmp_path / "kept", 0))
