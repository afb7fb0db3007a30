"""A world whose answer is known: three prompts, thirteen completions each, a reward for every one of them.

Every completion can be listed, so the optimum of E[r] - beta KL(policy || start), pi* proportional to
pi_start exp(r / beta) (Rafailov et al. 2023, arXiv:2305.18290, eq. 4), is a table, and a method can be held against it.
The models are `oracle-llama` and `oracle-gpt2`: tiny, but trained and sampled by the same engine as any other.

The gold reward, which is also the reward source `oracle`, is drawn from a hash. The best completion of each prompt has
exactly 0.0 and all others less, so that a trainer which takes 0.0 for "no score" cannot come out right. Human pairs are
a design instead of a sample: every two completions, as often in each order as Bradley-Terry says, so that the
maximum-likelihood reward model of the data is the gold reward, and the optimum of DPO (eq. 7 there) is pi*.

The splits hold the same prompts, unlike any other task's: the question here is how near training comes to its optimum,
not how it generalises.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, cycle, islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveFloat

from alignbench import api
from alignbench.api import (
    Count,
    Demonstration,
    HeldOutPairs,
    Pair,
    RecipeBuilder,
    RewardSource,
    Rubric,
    Split,
    Stage,
    Task,
    Work,
)
from alignbench.assets.toys import LETTERS

if TYPE_CHECKING:
    from torch import Tensor

PROMPTS = ("a", "cab", "bcabca")  # of different lengths, so that batches are padded
MAX_NEW_TOKENS = 2
COMPLETIONS = tuple("".join(text) for length in range(MAX_NEW_TOKENS + 1) for text in product(LETTERS, repeat=length))
"""One token a letter: the shorter ones end themselves, those of full length are cut before they could."""


class RewardConfig(api.Config):
    # points; a prompt's worst completion lies about this far below its best
    reward_scale: Annotated[PositiveFloat, Field(le=1e6)] = 3.0
    reward_seed: NonNegativeInt = 0  # another seed, another table


class Oracle(Task):
    name = "oracle"
    summary = "a toy language with a known optimum, to hold every method against"
    rubric = Rubric(
        guideline="Read each text and say which letter it calls for.",
        subject="Text",
        quality="Letter",
        best="A",
        worst="B",
    )

    class Config(RewardConfig):
        train: Count = 3  # prompts: the three over and over, as the next two
        label: Count = 8000
        eval: Count = 600
        held_out: Count = 1560  # pairs

    max_new_tokens = MAX_NEW_TOKENS

    def digest(self) -> str:
        return hashlib.sha256(repr((PROMPTS, COMPLETIONS)).encode()).hexdigest()

    def prompts(self, split: Split) -> list[str]:
        return list(islice(cycle(PROMPTS), getattr(self.config, split)))

    def completions(self, prompt: str) -> list[str]:
        return list(COMPLETIONS)

    def demonstrations(self) -> list[Demonstration]:
        """Every completion once, those that repeat the prompt's last letter thrice more: the start differs from the
        base model and still says everything."""
        return [
            Demonstration(prompt, text) for prompt in PROMPTS for text in COMPLETIONS
            for _ in range(4 if prompt[-1] in text else 1)
        ]  # fmt: skip

    def human_pairs(self, count: int, seed: int) -> list[Pair]:
        return designed_pairs(self._table(), count, seed)

    def held_out_pairs(self) -> HeldOutPairs:
        """The same design. The ceiling is known: nobody can call a coin better than by its likelier side."""
        table = self._table()
        pairs = designed_pairs(table, self.config.held_out, self.data_seed)
        likelier = sum(table[p.prompt, p.chosen] > table[p.prompt, p.rejected] for p in pairs)
        return HeldOutPairs(pairs, likelier / len(pairs))

    def gold(self, build: RecipeBuilder) -> Stage:
        options = {name: getattr(self.config, name) for name in RewardConfig.model_fields}
        return build.stage("gold", save_table, {}, **options)

    def load_gold(self, folder: Path, base: Any) -> RewardSource:
        return OracleReward(self._reward_config())

    def describe(self) -> str:
        return (
            f"oracle: {len(PROMPTS)} prompts over the letters {LETTERS}, {len(COMPLETIONS)} completions of up to "
            f"{MAX_NEW_TOKENS} tokens; gold is a table, 0 to about -{self.config.reward_scale:g}"
        )

    def _reward_config(self) -> RewardConfig:
        return RewardConfig(reward_scale=self.config.reward_scale, reward_seed=self.config.reward_seed)

    def _table(self) -> dict[tuple[str, str], float]:
        return reward_table(self._reward_config())


def save_table(work: Work) -> None:
    """The gold reward as rows of prompt, completion, reward: nothing is fitted, but what it was can be read."""
    table = reward_table(RewardConfig(**{name: work.options[name] for name in RewardConfig.model_fields}))
    work.save_rows([{"prompt": p, "completion": c, "reward": reward} for (p, c), reward in table.items()])


class OracleReward(RewardSource):
    name = "oracle"
    summary = "the oracle task's table of rewards; give it the task's own options"
    Config = RewardConfig

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        import torch

        pairs = zip(prompts, completions, strict=True)
        return torch.tensor([points(self.config, prompt, text) for prompt, text in pairs], dtype=torch.float32)


def points(config: RewardConfig, prompt: str, completion: str) -> float:
    """A uniform number times the scale, less the largest among the prompt's completions."""
    best = max(_uniform(config.reward_seed, prompt, text) for text in COMPLETIONS)
    return config.reward_scale * (_uniform(config.reward_seed, prompt, completion) - best)


def reward_table(config: RewardConfig) -> dict[tuple[str, str], float]:
    """(prompt, completion) -> points, for all there are."""
    return {(prompt, text): points(config, prompt, text) for prompt in PROMPTS for text in COMPLETIONS}


def designed_pairs(table: dict[tuple[str, str], float], count: int, seed: int) -> list[Pair]:
    """`count` pairs: all unordered ones equally often, each with `a` chosen in a share sigmoid(r(a) - r(b)) of its
    copies, rounded up or down. Where `count` is no multiple, the seed decides which pairs get one copy more.

    How often each completion wins in all is what a Bradley-Terry fit depends on (the sufficient statistic), so each
    rounding goes the way that keeps the two totals nearest to what they should be.
    """
    unordered = [(p, a, b) for p in PROMPTS for a, b in combinations(COMPLETIONS, 2)]
    rng = random.Random(seed)
    rng.shuffle(unordered)
    pairs: list[Pair] = []
    excess: dict[tuple[str, str], float] = defaultdict(float)  # wins given so far, less wins deserved
    for place, (prompt, a, b) in enumerate(unordered):
        copies = count // len(unordered) + (place < count % len(unordered))
        deserved = copies / (1 + math.exp(table[prompt, b] - table[prompt, a]))
        wins = round(deserved - (excess[prompt, a] - excess[prompt, b]) / 2)
        wins = min(max(wins, math.floor(deserved)), math.ceil(deserved))
        excess[prompt, a] += wins - deserved
        excess[prompt, b] -= wins - deserved
        pairs += [Pair(prompt, a, b)] * wins + [Pair(prompt, b, a)] * (copies - wins)
    rng.shuffle(pairs)
    return pairs


def _uniform(seed: int, prompt: str, completion: str) -> float:
    """In [0, 1), from a hash: the same on every machine and in every order of calls."""
    digest = hashlib.sha256(f"{seed}\0{prompt}\0{completion}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6]) / 2**48
