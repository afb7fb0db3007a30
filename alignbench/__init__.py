"""alignbench: compare alignment methods for language models under one harness. Importing this imports no torch."""

import os

# Here because it must come before torch is imported, by whichever way in: OpenMP's threads spin for milliseconds while
# they wait, and beside other work take each other's core. A thirtieth of that costs nothing on a quiet machine, where
# not to spin at all makes sampling a quarter slower (benchmarks/README.md). A user's own choice stands.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

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
    RatedText,
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
    turned,
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
    "RatedText",
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
    "turned",
]
