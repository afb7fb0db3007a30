"""DPO: preferences straight into the policy, no reward model (Rafailov et al. 2023, arXiv:2305.18290).

`loss_type` sigmoid is eq. 7; ipo is Azar et al. 2023 (arXiv:2310.12036) eq. 17 on length-averaged gaps, as in TRL;
robust is Chowdhury et al. 2024 (arXiv:2403.00409) eq. 9, which undoes a known rate of flipped labels,
`label_smoothing`. With sigmoid the same option gives conservative DPO (cDPO, Mitchell 2023).

`dpo_permuted` is the control beside it: DPO on the same pairs, half of which, drawn at random, are turned round. Its
labels carry nothing, so what it gains or loses is what DPO does by training at all.
"""

from __future__ import annotations

import random
from dataclasses import replace
from math import log
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveFloat, model_validator

import alignbench
from alignbench import AlignmentMethod, Inputs, MethodConfig, RecipeBuilder, Trial, Work

if TYPE_CHECKING:
    from torch import Tensor

LossType = Literal["sigmoid", "ipo", "robust"]


class DPO(AlignmentMethod):
    name = "dpo"
    summary = "direct preference optimisation: sigmoid, IPO or robust loss"
    needs = frozenset({"preferences"})
    kl_knob = "beta"

    class Config(MethodConfig):
        beta: PositiveFloat = 0.1  # KL strength; larger stays nearer the reference
        loss_type: LossType = "sigmoid"
        label_smoothing: float = Field(0.0, ge=0, lt=0.5)  # believed share of flipped labels; sigmoid and robust

        @model_validator(mode="after")
        def _smoothing_is_read(self) -> DPO.Config:
            if self.loss_type == "ipo" and self.label_smoothing:
                raise ValueError("loss_type ipo reads no label_smoothing; remove it, or use sigmoid or robust")
            return self

    def beta(self, config: Config) -> float | None:
        return config.beta if config.loss_type == "sigmoid" and not config.label_smoothing else None

    def loss_at_start(self, config: Config) -> float:
        """Margins are zero there: log 2 under the two logistic losses, (1 / (2 beta))^2 under IPO's square."""
        return 1 / (2 * config.beta) ** 2 if config.loss_type == "ipo" else log(2)

    def train(self, trial: Trial, config: Config) -> None:
        for pair in trial.preference_batches():  # ends when the budget is spent
            gap = trial.logprob_gap(pair, mean=config.loss_type == "ipo")  # (B,) nats
            reference_gap = trial.reference_gap(pair, mean=config.loss_type == "ipo")  # (B,) computed once, cached
            margin = gap - reference_gap
            loss = dpo_loss(margin, config.beta, config.loss_type, config.label_smoothing)
            trial.step(loss, count=len(margin), margin_nats=margin.mean(), accuracy=(margin > 0).float().mean())


def dpo_loss(margin: Tensor, beta: float, loss_type: LossType = "sigmoid", label_smoothing: float = 0.0) -> Tensor:
    """(B,) implicit reward margins over beta, nats: the policy's log-probability gap less the reference's -> scalar."""
    from torch.nn.functional import logsigmoid

    if loss_type == "ipo":
        return ((margin - 1 / (2 * beta)) ** 2).mean()
    right, flipped = -logsigmoid(beta * margin), -logsigmoid(-beta * margin)
    if loss_type == "robust":
        return (((1 - label_smoothing) * right - label_smoothing * flipped) / (1 - 2 * label_smoothing)).mean()
    return ((1 - label_smoothing) * right + label_smoothing * flipped).mean()


class PermutedDPO(DPO):
    name = "dpo_permuted"
    summary = "DPO on pairs whose labels carry nothing; a control"
    is_control = True

    def recipe(self, config: DPO.Config, build: RecipeBuilder) -> Inputs:
        inputs = super().recipe(config, build)
        assert inputs.preferences is not None  # DPO needs them
        return replace(inputs, preferences=build.stage("permuted", permute, {"comparisons": inputs.preferences}))

    def beta(self, config: DPO.Config) -> None:
        """Whatever the objective, no reward stands behind these labels."""


def permute(work: Work) -> None:
    """Turn half of the comparisons round, drawn by the stage's seed: exactly half, so that not even their number leans
    to one side."""
    rows = work.rows("comparisons")
    turned = set(random.Random(work.seed).sample(range(len(rows)), len(rows) // 2))
    work.save_rows([alignbench.turned(row) if i in turned else row for i, row in enumerate(rows)])


@alignbench.hookimpl
def alignbench_methods() -> list[type[AlignmentMethod]]:
    return [DPO, PermutedDPO]
