"""Several reward models as one, against a policy that hacks any one of them (Coste et al. 2023, arXiv:2310.02743).

Members are fitted to the same comparisons and differ in their draws: initial adapter, order of pairs. Each scores texts
in its own standard deviations; of their scores `mean` takes the mean, `worst` the least (WCO there), `uncertainty` the
mean less `uncertainty_coef` times their variance (UWO).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from alignbench.api import Config, RewardSource
from alignbench.engine.resident import Resident
from alignbench.feedback.reward_model import RewardModel

Combine = Literal["mean", "worst", "uncertainty"]
FACTS = "ensemble.json"


def combined(scores: Tensor, how: Combine, uncertainty_coef: float) -> Tensor:
    """(M, B) scores of M members -> (B,)."""
    if how == "worst":
        return scores.amin(0)
    mean = scores.mean(0)
    return mean if how == "mean" else mean - uncertainty_coef * scores.var(0, correction=0)


class Ensemble(RewardSource):
    """Its scores are centred and scaled like a member's, so that `kl_coef` means the same for both."""

    name = "reward_ensemble"
    summary = "several reward models as one"

    def __init__(self, members: Sequence[RewardModel], names: Sequence[str], how: Combine, coef: float) -> None:
        super().__init__(Config())
        self.members, self.names, self.how, self.uncertainty_coef = members, names, how, coef
        self.mean, self.std = 0.0, 1.0

    @classmethod
    def of(cls, resident: Resident, folders: Sequence[Path], how: Combine, coef: float) -> Ensemble:
        members = [RewardModel.load(folder, resident, f"reward_{i}") for i, folder in enumerate(folders)]
        return cls(members, [folder.name for folder in folders], how, coef)

    @classmethod
    def load(cls, folder: Path, resident: Resident) -> Ensemble:
        facts = json.loads((folder / FACTS).read_text())
        places = [folder / name for name in facts["members"]]
        ensemble = cls.of(resident, places, facts["combine"], facts["uncertainty_coef"])
        ensemble.mean, ensemble.std = facts["mean"], facts["std"]
        return ensemble

    def save(self, folder: Path) -> None:
        """Beside the members' folders, which are there already."""
        facts = {
            "members": self.names, "combine": self.how, "uncertainty_coef": self.uncertainty_coef,
            "mean": self.mean, "std": self.std,
        }  # fmt: skip
        (folder / FACTS).write_text(json.dumps(facts))

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        scores = torch.stack([member.score(prompts, completions) for member in self.members])
        self.tokens_judged = sum(member.tokens_judged for member in self.members)
        return (combined(scores, self.how, self.uncertainty_coef) - self.mean) / self.std

    def calibrate(self, prompts: Sequence[str], completions: Sequence[str]) -> None:
        """Centre and scale to these texts."""
        raw = self.score(prompts, completions) * self.std + self.mean
        self.mean, self.std = float(raw.mean()), max(float(raw.std()), 1e-6)
