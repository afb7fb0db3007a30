"""The contract between the harness and its plugins. No torch is imported here, so that listing and planning stay quick.

A *method* trains a LoRA policy inside a `Trial`. A *reward source* scores or compares completions. A *task* brings
prompts, preferences and the gold reward. A method says what it trains from in `recipe`: a small graph of *stages*
(supervised start, samples, comparisons, reward model, or its own), which the harness caches and shares by content.
"""

from alignbench.api.config import Config, Count, MethodConfig, OptimizerConfig
from alignbench.api.data import Demonstration, Pair, Rubric, Split, TrainingData, turned
from alignbench.api.methods import NEEDS, AlignmentMethod, Decoding
from alignbench.api.stages import Inputs, RecipeBuilder, SourceRef, Stage, View, Work
from alignbench.api.tasks import HeldOutPairs, HumanModel, Labels, RatedText, RewardSource, SourceRoom, Task
from alignbench.api.tensors import ActorCritic, PreferenceBatch, Rollout, TokenBatch
from alignbench.api.trial import Budget, Trial

__all__ = [
    "ActorCritic",
    "AlignmentMethod",
    "Budget",
    "Config",
    "Count",
    "Decoding",
    "Demonstration",
    "HeldOutPairs",
    "HumanModel",
    "Inputs",
    "Labels",
    "MethodConfig",
    "NEEDS",
    "OptimizerConfig",
    "Pair",
    "PreferenceBatch",
    "RatedText",
    "RecipeBuilder",
    "RewardSource",
    "Rollout",
    "Rubric",
    "SourceRef",
    "SourceRoom",
    "Split",
    "Stage",
    "Task",
    "TokenBatch",
    "TrainingData",
    "Trial",
    "View",
    "Work",
    "turned",
]
