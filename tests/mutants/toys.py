"""A sound method and a sound source, and others that break one clause of the contract each: `BREAKS` says which."""

from __future__ import annotations

import os
from math import log
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, PositiveFloat, field_validator
from safetensors.torch import save_file

import alignbench
from alignbench import AlignmentMethod, Config, Inputs, MethodConfig, RecipeBuilder, RewardSource, Trial
from alignbench.api import Work
from alignbench.errors import UserError

BREAKS: dict[str, str] = {}  # plugin -> the check that must fail on it


def breaks(check: str) -> Any:
    def note(cls: Any) -> Any:
        cls.name = cls.__name__.lower()
        BREAKS[cls.name] = check
        return cls

    return note


class Sound(AlignmentMethod):
    name = "sound"
    needs = frozenset({"preferences"})
    kl_knob = "beta"

    class Config(MethodConfig):
        beta: PositiveFloat = 0.1

    def beta(self, config: Any) -> float:
        return config.beta

    def loss_at_start(self, config: Any) -> float:
        return log(2)

    def train(self, trial: Trial, config: Any) -> None:
        for pair in trial.preference_batches():
            margin = trial.logprob_gap(pair) - trial.reference_gap(pair)
            loss = torch.nn.functional.softplus(-config.beta * margin)
            trial.step(loss.mean(), count=len(loss), margin_nats=margin.mean())


@breaks("declared_needs_are_what_it_uses")
class Undeclared(Sound):
    needs = frozenset()

    def recipe(self, config: Any, build: RecipeBuilder) -> Inputs:
        return Inputs(start := build.sft(), preferences=build.comparisons(start))


@breaks("resume_is_bit_identical")
class Counting(Sound):
    def train(self, trial: Trial, config: Any) -> None:
        for count, pair in enumerate(trial.preference_batches()):  # a resumed run counts from 0 again
            margin = trial.logprob_gap(pair) - trial.reference_gap(pair)
            loss = torch.nn.functional.softplus(-config.beta * margin) / (1 + count)
            trial.step(loss.mean(), count=len(loss), margin_nats=margin.mean())


class Remembering(Sound):
    """The same, with its count where a resumed run finds it."""

    name = "remembering"

    def train(self, trial: Trial, config: Any) -> None:
        trial.state["count"] = 0
        for pair in trial.preference_batches():
            margin = trial.logprob_gap(pair) - trial.reference_gap(pair)
            loss = torch.nn.functional.softplus(-config.beta * margin) / (1 + trial.state["count"])
            trial.state["count"] += 1
            trial.step(loss.mean(), count=len(loss), margin_nats=margin.mean())


@breaks("config_survives_yaml")
class Doubling(Sound):
    class Config(Sound.Config):
        @field_validator("beta")
        @classmethod
        def _twice(cls, beta: float) -> float:
            return 2 * beta

        @field_validator("learning_rate")
        @classmethod
        def _half(cls, rate: float) -> float:
            return rate / 2

        model_config = ConfigDict(validate_default=True)


@breaks("every_config_field_is_read")
class Unread(Sound):
    class Config(Sound.Config):
        gamma: float = 1.0


@breaks("first_loss_is_the_declared_one")
class Mute(Sound):
    """Takes its steps itself, and logs nothing."""

    def train(self, trial: Trial, config: Any) -> None:
        own = torch.optim.SGD([p for p in trial.policy.parameters() if p.requires_grad], lr=1e-3)
        for pair in trial.preference_batches():
            own.zero_grad()
            (-trial.logprob_gap(pair).mean()).backward()
            own.step()
            trial.budget.used += 1


@breaks("zero_budget_changes_nothing")
class Eager(Sound):
    def train(self, trial: Trial, config: Any) -> None:
        with torch.no_grad():
            for name, p in trial.policy.named_parameters():
                if "lora_B" in name:
                    p.add_(0.01)
        super().train(trial, config)


@breaks("training_moves_the_policy")
class Idle(Sound):
    def train(self, trial: Trial, config: Any) -> None:
        for pair in trial.preference_batches():
            trial.step(0 * trial.logprob_gap(pair).mean())


@breaks("budget_is_never_exceeded")
class Greedy(Sound):
    def train(self, trial: Trial, config: Any) -> None:
        super().train(trial, config)
        own = torch.optim.SGD([p for p in trial.policy.parameters() if p.requires_grad], lr=1e-4)
        sum(p.sum() for group in own.param_groups for p in group["params"]).backward()
        own.step()


@breaks("same_seed_same_bits")
class Unseeded(Sound):
    def train(self, trial: Trial, config: Any) -> None:
        for pair in trial.preference_batches():
            trial.step(-trial.logprob_gap(pair).mean() * (1 + os.urandom(1)[0] + os.urandom(1)[0] / 256))


@breaks("surroundings_are_restored")
class Untidy(Sound):
    def train(self, trial: Trial, config: Any) -> None:
        super().train(trial, config)
        torch.set_grad_enabled(False)


@breaks("files_stay_in_workdir")
class Scribbling(Sound):
    def train(self, trial: Trial, config: Any) -> None:
        (trial.workdir / "allowed.txt").write_text("notes")
        Path("notes.txt").write_text("notes")
        super().train(trial, config)


class Hoarding(Sound):
    """Saves what it may; whoever fills in `save`, what it may not."""

    name = "hoarding"

    def train(self, trial: Trial, config: Any) -> None:
        save_file({"w": torch.zeros(1)}, trial.workdir / "allowed.safetensors")
        self.save(trial.workdir.parent / f"{self.name}-leak")
        super().train(trial, config)

    def save(self, path: Path) -> None:
        pass


@breaks("files_stay_in_workdir")
class Rusty(Hoarding):
    def save(self, path: Path) -> None:
        save_file({"w": torch.zeros(1)}, path)


@breaks("files_stay_in_workdir")
class Pickling(Hoarding):
    def save(self, path: Path) -> None:
        torch.save({"w": torch.zeros(1)}, path)


@breaks("files_stay_in_workdir")
class Linking(Hoarding):
    def save(self, path: Path) -> None:
        path.symlink_to("nowhere")


@breaks("only_added_weights_change")
class Deep(Sound):
    def train(self, trial: Trial, config: Any) -> None:
        super().train(trial, config)
        with torch.no_grad():
            next(p for name, p in trial.policy.named_parameters() if "lora_" not in name).mul_(1.01)


def peek(work: Work) -> None:
    work.save_rows([{"prompt": prompt, "completion": "a"} for prompt in work.task.prompts("eval")])


@breaks("own_stages_see_training_data_alone")
class Peeking(Sound):
    def recipe(self, config: Any, build: RecipeBuilder) -> Inputs:
        seen = build.stage("peeks", peek, {})
        return Inputs(start := build.sft(data=seen), preferences=build.comparisons(start))


class Sampling(AlignmentMethod):
    """On-policy policy gradient without a baseline, one pass over each batch: sound, and of high variance."""

    name = "sampling"
    needs = frozenset({"prompts", "reward"})
    kl_knob = "kl_coef"
    copies = 1  # completions of each prompt of a batch

    class Config(MethodConfig):
        kl_coef: PositiveFloat = 0.05

    def beta(self, config: Any) -> float:
        return config.kl_coef

    def train(self, trial: Trial, config: Any) -> None:
        for prompts in trial.prompt_batches(max(1, config.per_device_train_batch_size // self.copies)):
            rollout = trial.sample([prompt for prompt in prompts for _ in range(self.copies)])
            logprobs = trial.logprobs(rollout.tokens).sum(-1)  # (B,) nats
            kl = logprobs.detach() - trial.reference_logprobs(rollout.tokens).sum(-1)
            gain = trial.reward(rollout) - config.kl_coef * kl
            trial.step(-(gain * logprobs).mean(), count=len(gain))


class Grouped(Sampling):
    """Four completions of a prompt, in a batch of one too."""

    name = "grouped"
    copies = 4


class Even(Sampling):
    """Refuses a batch of one."""

    name = "even"

    class Config(Sampling.Config):
        @field_validator("per_device_train_batch_size")
        @classmethod
        def _pairs(cls, size: int) -> int:
            if size % 2:
                raise ValueError("an even number is allowed")
            return size


class Vowels(RewardSource):
    name = "vowels"

    def score(self, prompts: Any, completions: Any) -> torch.Tensor:
        return torch.tensor([float(text.count("a")) for text in completions])


class Praise(RewardSource):
    """Counts words that the oracle task does not have."""

    name = "praise"

    def score(self, prompts: Any, completions: Any) -> torch.Tensor:
        return torch.tensor([float(text.lower().count("good")) for text in completions])


@breaks("a_batch_equals_its_singles")
class Centred(Praise):
    def score(self, prompts: Any, completions: Any) -> torch.Tensor:
        scores = super().score(prompts, completions)
        return scores - scores.mean() if len(scores) > 1 else scores


@breaks("a_batch_equals_its_singles")
class Halving(Praise):
    """Each further 100 rows halve what is before them."""

    def score(self, prompts: Any, completions: Any) -> torch.Tensor:
        return super().score(prompts, completions) / 2 ** (len(completions) // 100)


@breaks("a_batch_equals_its_singles")
class Constant(Vowels):
    def score(self, prompts: Any, completions: Any) -> torch.Tensor:
        return torch.ones(len(completions))


@breaks("scores_are_finite_float32")
class Blank(Vowels):
    """No number for a text of spaces."""

    def score(self, prompts: Any, completions: Any) -> torch.Tensor:
        is_blank = torch.tensor([bool(text) and not text.strip() for text in completions])
        return super().score(prompts, completions).where(~is_blank, torch.nan)


@breaks("every_source_config_field_is_read")
class Deaf(Vowels):
    class Config(Config):
        weight: float = 1.0


class Narrow(Vowels):
    """Knows a language of three letters and refuses any other."""

    name = "narrow"

    def score(self, prompts: Any, completions: Any) -> torch.Tensor:
        for text in completions:
            if strange := set(text) - set("abc"):
                raise UserError(f"no letter of this language: {min(strange)!r}")
        return super().score(prompts, completions)


@breaks("source_config_survives_yaml")
class Shrinking(Vowels):
    class Config(Config):
        scale: float = 1.0
        model_config = ConfigDict(validate_default=True)

        @field_validator("scale")
        @classmethod
        def _half(cls, scale: float) -> float:
            return scale / 2

    def score(self, prompts: Any, completions: Any) -> torch.Tensor:
        return self.config.scale * super().score(prompts, completions)


def _offered(base: type) -> list[Any]:
    return [cls for cls in globals().values() if isinstance(cls, type) and issubclass(cls, base) and cls is not base]


@alignbench.hookimpl
def alignbench_methods() -> list[type[AlignmentMethod]]:
    return _offered(AlignmentMethod)


@alignbench.hookimpl
def alignbench_reward_sources() -> list[type[RewardSource]]:
    return _offered(RewardSource)
