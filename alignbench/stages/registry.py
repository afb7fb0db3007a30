"""The kinds of stage there are. A plugin's own stage is of none of them, and gets the defaults."""

from __future__ import annotations

from alignbench.api import Stage, View
from alignbench.stages.closed_form import ClosedForm
from alignbench.stages.comparisons import Comparisons
from alignbench.stages.completions import Completions
from alignbench.stages.gold_card import GoldCard
from alignbench.stages.gold_rewards import GoldRewards
from alignbench.stages.human_comparisons import HumanComparisons
from alignbench.stages.joined_comparisons import JoinedComparisons
from alignbench.stages.kind import Kind, Told
from alignbench.stages.lm_loss import LMLoss
from alignbench.stages.noisy_comparisons import NoisyComparisons
from alignbench.stages.proxy_rewards import ProxyRewards
from alignbench.stages.reward_card import RewardCard
from alignbench.stages.reward_ensemble import RewardEnsemble
from alignbench.stages.reward_model import FittedRewardModel
from alignbench.stages.samples import Samples
from alignbench.stages.score import Score
from alignbench.stages.second_gold_rewards import SecondGoldRewards
from alignbench.stages.sft import SFT
from alignbench.stages.snapshot import Snapshot
from alignbench.stages.train import Train
from alignbench.stages.untrained import Untrained

KINDS: dict[str, Kind] = {
    kind.name: kind()
    for kind in (
        SFT, Samples, Comparisons, HumanComparisons, JoinedComparisons, NoisyComparisons, FittedRewardModel,
        RewardEnsemble, Train, Snapshot, Untrained, Completions, GoldRewards, SecondGoldRewards, ProxyRewards, GoldCard,
        RewardCard, ClosedForm, LMLoss, Score,
    )
}  # fmt: skip
OTHER = Kind()


def kind_of(stage: Stage) -> Kind:
    return OTHER if stage.run is not None else KINDS[stage.kind]


def view_of(stage: Stage) -> View:
    """What the code of a stage may see of the task."""
    return stage.view if stage.run is not None else kind_of(stage).view


def tell(stage: Stage, label: str) -> Told:
    """A stage in words and size, for the row of that label."""
    return kind_of(stage).tell(stage, label, {name: tell(below, label) for name, below in stage.inputs.items()})


def estimate(stage: Stage) -> float:
    """Seconds, before anything of the kind was seen."""
    return tell(stage, "").size * kind_of(stage).seconds
