"""Options: frozen, checked, each default written once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Count = Annotated[int, Field(ge=1, le=1_000_000)]  # of texts: all are held in memory, so more is a slip of the key


class Config(BaseModel):
    """A frozen set of options. An unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimizerConfig(Config):
    """How weights are stepped. Option names and meanings are TRL's (transformers.TrainingArguments)."""

    learning_rate: PositiveFloat = 5e-4  # peak, AdamW
    per_device_train_batch_size: PositiveInt = 16  # sequences or pairs per backward pass
    gradient_accumulation_steps: PositiveInt = 1  # backward passes per optimiser step
    max_grad_norm: PositiveFloat = 1.0  # L2 over all trained weights
    weight_decay: NonNegativeFloat = 0.0
    lr_scheduler_type: Literal["constant", "linear"] = "linear"  # linear falls to 0 at the end of the budget
    warmup_steps: NonNegativeInt = 0  # optimiser steps of linear warm-up


class MethodConfig(OptimizerConfig):
    """Options of a method; subclass it to add your own."""
