"""Our side of each work, as a user's run takes it: `python -m benchmarks.perf.ours FILE`."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from alignbench.api import Demonstration
from alignbench.engine.meter import Meter
from alignbench.engine.resident import Resident
from alignbench.engine.sampling import sample
from alignbench.engine.supervised import fit_supervised
from alignbench.engine.trial import LiveTrial
from alignbench.feedback.reward_model import RewardModel, fit_reward_model
from alignbench.suite.spec import Lora, RewardModelConfig, Training
from alignbench_dpo import DPO
from alignbench_ppo import PPO
from benchmarks.perf.gate import Gate, peak_bytes, work_file
from benchmarks.perf.twins import mean_nll, scatter, scatter_head
from benchmarks.perf.works import in_rounds

SEED = 0


class Ours:
    """A resident model, and tokens counted at each lap."""

    def __init__(self, work: dict[str, Any]) -> None:
        self.work = work
        self.device = torch.device(work["device"])
        lora = Lora(r=work["r"], alpha=work["r"])
        self.resident = Resident(work["model"], (), lora, self.device, getattr(torch, work["dtype"]))
        self.meter = Meter(self.device)
        self.gate = Gate(work["warm"], work["rounds"], work["steps"])
        self.step_tokens: list[int] = []
        self._seen = 0

    def lap(self, done: int, total: int) -> None:
        now = self.meter.counts["tokens_trained"]
        self.step_tokens.append(now - self._seen)
        self._seen = now
        self.gate.lap()

    def options(self) -> dict[str, Any]:
        names = ("learning_rate", "per_device_train_batch_size")
        return {"lr_scheduler_type": "constant", **{name: self.work[name] for name in names}}

    def trial(self, config: Any, **facts: Any) -> LiveTrial:
        return LiveTrial(
            self.resident, config, seed=SEED, max_new_tokens=self.work["max_new_tokens"],
            workdir=Path(tempfile.gettempdir()), meter=self.meter, progress=self.lap, **facts,
        )  # fmt: skip

    def max_steps(self) -> int:
        return (self.work["warm"] + self.work["rounds"]) * self.work["steps"]

    def report(self, losses: list[float]) -> None:
        steps = self.work["steps"]
        count = self.work["rounds"] * steps
        tokens = [sum(part) for part in in_rounds(self.step_tokens[-count:], steps)]
        self.gate.report(losses=losses[-count:], tokens=tokens, peak_bytes=peak_bytes())


def dpo(work: dict[str, Any]) -> None:
    """Its first epoch, which is not timed, computes the reference; the peer has its own precomputed."""
    ours = Ours(work)
    config = DPO.Config(beta=work["beta"], **ours.options())
    trial = ours.trial(config, max_steps=ours.max_steps(), prompts=["-"], preferences=work["pairs"])
    scatter(trial.policy)
    DPO().train(trial, config)
    ours.report([row["loss"] for row in trial.history])


def sft(work: dict[str, Any]) -> None:
    ours = Ours(work)
    rows = [Demonstration(row["prompt"], row["chosen"]) for row in work["pairs"]]
    config = Training(max_steps=ours.max_steps(), **ours.options())
    history = fit_supervised(
        ours.resident, rows, config, seed=SEED, max_new_tokens=work["max_new_tokens"], meter=ours.meter,
        progress=ours.lap,
    )  # fmt: skip
    ours.report([row["loss"] for row in history])


def reward_model(work: dict[str, Any]) -> None:
    ours = Ours(work)
    config = RewardModelConfig(pooling="last", head_learning_rate=work["learning_rate"], **ours.options())
    model = RewardModel.fresh(ours.resident, "last", work["max_new_tokens"], SEED)
    scatter(ours.resident.module)
    scatter_head(model.head.weight)
    history = fit_reward_model(model, work["pairs"], config, seed=SEED, meter=ours.meter, progress=ours.lap)
    ours.report([row["loss"] for row in history])


def generation(work: dict[str, Any]) -> None:
    ours = Ours(work)
    if work["has_adapter"]:
        ours.resident.add_adapter("policy", SEED)
        scatter(ours.resident.module)
    generator = torch.Generator().manual_seed(SEED)
    limit = work["max_new_tokens"]
    answers = ours.gate.rounds(lambda: sample(ours.resident, work["prompts"], limit, 1.0, generator))
    peak = peak_bytes()
    nll = mean_nll(ours.resident.module, work["prompts"], answers[-1])
    ours.gate.report(losses=[nll], tokens=[sum(map(len, rows)) for rows in answers], peak_bytes=peak)


def ppo(work: dict[str, Any]) -> None:
    """One round: rollouts, rewards, and all epochs over them. Losses: entropy, nats a token, the mean over all
    minibatches: one of 8 episodes alone is up to half a nat away."""
    steps = work["episodes"] // work["per_device_train_batch_size"] * work["num_ppo_epochs"]
    ours = Ours({**work, "steps": steps})
    config = PPO.Config(
        rollout_batch_size=work["episodes"], num_ppo_epochs=work["num_ppo_epochs"], kl_coef=work["kl_coef"],
        ent_coef=0.0, critic_adapter=work["has_critic"], **ours.options(),
    )  # fmt: skip
    reward = RewardModel.fresh(ours.resident, "last", work["max_new_tokens"], SEED)
    scatter_head(reward.head.weight)
    trial = ours.trial(config, max_steps=ours.max_steps(), prompts=work["prompts"], reward=reward)
    ours.gate.open()
    PPO().train(trial, config)
    entropy = statistics.mean(row["entropy_nats"] for row in trial.history if "entropy_nats" in row)
    generated = ours.meter.counts["tokens_generated"] / (work["warm"] + work["rounds"])
    ours.gate.report(losses=[entropy], tokens=[generated], peak_bytes=peak_bytes())


if __name__ == "__main__":
    work = work_file()
    {f.__name__: f for f in (dpo, sft, reward_model, generation, ppo)}[work["work"]](work)
