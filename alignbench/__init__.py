"""alignbench: compare alignment methods for language models under one harness. Importing this imports no torch."""

import os

# Here because it must come before torch is imported, by whichever way in: beside other work, OpenMP threads that spin
# while they wait take each other's core (a check of 18 s took 441). A user's own choice stands.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from alignbench.api import (
    ActorCritic,
    AlignmentMethod,
    Budget,
    Config,
    Decoding,
    Demonstration,
    HeldOutPairs,
    HumanModel,
    Inputs,
    MethodConfig,
    OptimizerConfig,
    Pair,
    PreferenceBatch,
    RecipeBuilder,
    RewardSource,
    Rollout,
    Rubric,
    SourceRef,
    SourceRoom,
    Stage,
    Task,
    TokenBatch,
    Trial,
    Work,
)
from alignbench.errors import PluginError, UserError
from alignbench.hookspecs import hookimpl

__version__ = "0.1.0"
__all__ = [
    "ActorCritic",
    "AlignmentMethod",
    "Budget",
    "Config",
    "Decoding",
    "Demonstration",
    "HeldOutPairs",
    "HumanModel",
    "Inputs",
    "MethodConfig",
    "OptimizerConfig",
    "Pair",
    "PluginError",
    "PreferenceBatch",
    "RecipeBuilder",
    "RewardSource",
    "Rollout",
    "Rubric",
    "SourceRef",
    "SourceRoom",
    "Stage",
    "Task",
    "TokenBatch",
    "Trial",
    "UserError",
    "Work",
    "__version__",
    "hookimpl",
]
