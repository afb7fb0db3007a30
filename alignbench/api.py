"""The contract between the harness and its plugins. No torch is imported here, so that listing and planning stay quick.

A *method* trains a LoRA policy inside a `Trial`. A *reward source* scores or compares completions. A *task* brings
prompts, preferences and the gold reward. A method says what it trains from in `recipe`: a small graph of *stages*
(supervised start, samples, comparisons, reward model, or its own), which the harness caches and shares by content.

Shapes: B sequences, T tokens of the longest one. A tensor "per token" is (B, T), its column t speaks of token t, and it
is zero wherever `is_response` is False; no tensor is shifted by one against another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

if TYPE_CHECKING:  # torch takes seconds to import; only annotations need it here
    import random

    import torch
    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

Labels = Literal["human", "ai", "free"]
Split = Literal["train", "label", "eval"]


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


# -------------------------------------------------------------------------------------------------------------- tensors


class TokenBatch(NamedTuple):
    """Right-padded sequences, prompt then response."""

    ids: Tensor  # (B, T) int64
    is_token: Tensor  # (B, T) bool, False on padding
    is_response: Tensor  # (B, T) bool, True on the completion's tokens, its end-of-sequence token included


class Rollout(NamedTuple):
    """Completions sampled from the policy."""

    prompts: list[str]
    completions: list[str]  # special tokens removed
    tokens: TokenBatch
    is_ended: Tensor  # (B,) bool, True where the end-of-sequence token was sampled within the limit


class ActorCritic(NamedTuple):
    """What PPO reads off one pass; each per token, float32."""

    logprobs: Tensor  # (B, T) nats
    entropies: Tensor  # (B, T) nats
    values: Tensor  # (B, T) value of the state in which token t was chosen


class PreferenceBatch(NamedTuple):
    """Pairs that share a prompt."""

    rows: list[int]  # (B,) row numbers in `Trial.preferences`, the key under which reference values are kept
    chosen: TokenBatch
    rejected: TokenBatch


# --------------------------------------------------------------------------------------------------------------- stages


@dataclass(frozen=True)
class Stage:
    """One cached step of a plan. Its content key hashes kind, options, inputs, and the code of `run`."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)  # JSON values only
    inputs: Mapping[str, Stage] = field(default_factory=dict)  # named upstream stages
    run: Callable[[Work], None] | None = None  # a plugin's own stage; None for the harness's kinds


class SourceRef(NamedTuple):
    """A reward source by name, with its options: the torch-free description of a `RewardSource`."""

    name: str
    options: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Inputs:
    """What one training run starts from. `reward` is a fitted reward model's stage or an unfitted source."""

    start: Stage | None  # None: the base model
    preferences: Stage | None = None
    reward: Stage | SourceRef | None = None


class Work(ABC):
    """What the function behind a stage may touch."""

    options: Mapping[str, Any]
    folder: Path  # what is written here is the stage
    task: Task
    seed: int

    @abstractmethod
    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows an upstream stage saved."""

    @abstractmethod
    def save_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Save rows of JSON values as this stage's result."""

    @abstractmethod
    def resident(self, start: str | None = None) -> AbstractContextManager[Any]:
        """The start point that input `start` made, or the base model: an engine.Resident without adapters."""

    @abstractmethod
    def sample(self, resident: Any, prompts: Sequence[str], max_new_tokens: int, temperature: float = 1.0) -> Rollout:
        """One completion per prompt, metered and seeded."""

    @abstractmethod
    def count(self, **counts: int) -> None:
        """Add to the cost ledger: tokens_trained, tokens_judged, labels_human, labels_ai."""

    @abstractmethod
    def progress(self, done: int, total: int) -> None:
        """Tell whoever watches."""


class Kit(ABC):
    """Builds a recipe's stages. Equal calls give equal stages, so two methods that ask for the same thing share it."""

    @abstractmethod
    def sft(self, data: Stage | None = None, on: Stage | None = None) -> Stage:
        """Supervised start on the task's demonstrations, or on `data` (rows of prompt, completion), on top of `on`."""

    @abstractmethod
    def samples(self, start: Stage | None) -> Stage:
        """`samples.per_prompt` completions of each label prompt, sampled from `start`."""

    @abstractmethod
    def compare(self, samples: Stage, source: SourceRef) -> Stage:
        """Preferences: `samples` labelled by a reward source."""

    @abstractmethod
    def comparisons(self, start: Stage | None) -> Stage:
        """The human comparisons the suite names: the task's real pairs, or the start's samples labelled by a panel."""

    @abstractmethod
    def reward_model(self, start: Stage | None, comparisons: Stage) -> Stage:
        """A Bradley-Terry reward model, an adapter and a head on `start`, fitted to `comparisons`."""

    @abstractmethod
    def reward(self, start: Stage | None) -> Stage | SourceRef:
        """The row's own `reward:` if the suite names one, else the reward model on the human comparisons."""

    @abstractmethod
    def stage(self, kind: str, run: Callable[[Work], None], inputs: Mapping[str, Stage], **options: Any) -> Stage:
        """A plugin's own stage, made by a module-level function `run(work)`; cached and metered like the rest."""

    @property
    @abstractmethod
    def rubric(self) -> Rubric:
        """The task's guidelines for whoever rates a completion, human or model."""


# ---------------------------------------------------------------------------------------------------------------- trial


class Budget:
    """Optimiser steps: the unit in which every method gets the same allowance."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self.used = 0

    @property
    def is_spent(self) -> bool:
        return self.used >= self.max_steps


class Trial(ABC):
    """Everything one training run may touch. The gold reward and the held-out prompts are not among it."""

    policy: nn.Module  # the start point under a fresh LoRA adapter
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    prompts: Dataset  # column `prompt`
    # columns `prompt`, `chosen`, `rejected`, TRL's explicit-prompt format; and `chosen_ended`, `rejected_ended`: False
    # where the text is a sample cut at its limit, so that no end of sequence follows it
    preferences: Dataset | None
    budget: Budget
    rng: random.Random  # the run's own; the global generators are left alone
    workdir: Path  # the only place for files

    @abstractmethod
    def preference_batches(self) -> Iterator[PreferenceBatch]:
        """Shuffled batches, epoch by epoch, until the budget is spent. UserError if the recipe gave no preferences."""

    @abstractmethod
    def prompt_batches(self, size: int) -> Iterator[list[str]]:
        """Shuffled lists of `size` training prompts until the budget is spent."""

    @abstractmethod
    def encode(self, prompts: Sequence[str], completions: Sequence[str]) -> TokenBatch:
        """Tokens of prompt + completion + end of sequence. UserError if a prompt exceeds the model's window."""

    @abstractmethod
    def sample(self, prompts: Sequence[str], *, temperature: float = 1.0, max_new_tokens: int | None = None) -> Rollout:
        """One completion per prompt by the current policy: whole distribution, no top-k or top-p, dropout off."""

    @abstractmethod
    def logprobs(self, tokens: TokenBatch, *, temperature: float = 1.0) -> Tensor:
        """(B, T) float32 log-probabilities of the response tokens in nats, with gradient."""

    @abstractmethod
    def reference_logprobs(self, tokens: TokenBatch, *, temperature: float = 1.0) -> Tensor:
        """(B, T) the same under the start point, without gradient."""

    @abstractmethod
    def actor_critic(self, tokens: TokenBatch, value_head: nn.Module, *, temperature: float = 1.0) -> ActorCritic:
        """Log-probabilities, entropies and state values: `value_head` of the policy's own hidden states, in one pass,
        or of the critic's, where `add_critic` made one."""

    @abstractmethod
    def logprob_gap(self, pair: PreferenceBatch, *, mean: bool = False) -> Tensor:
        """(B,) log p(chosen) - log p(rejected) in nats, with gradient; with `mean`, nats per response token."""

    @abstractmethod
    def reference_gap(self, pair: PreferenceBatch, *, mean: bool = False) -> Tensor:
        """(B,) the same under the start point; computed once per row and kept."""

    @abstractmethod
    def reward(self, rollout: Rollout) -> Tensor:
        """(B,) float32 scores by the recipe's reward, metered. UserError if the recipe gave none."""

    @abstractmethod
    def hidden_size(self) -> int:
        """Width of the hidden states a head reads."""

    @abstractmethod
    def add_trainable(self, module: nn.Module) -> nn.Module:
        """Train `module` beside the adapter; it is moved to the trial's device. Call it before the first step."""

    @abstractmethod
    def add_critic(self) -> None:
        """Train a second adapter, whose hidden states `actor_critic` gives to the value head. Before the first step."""

    @abstractmethod
    def step(self, loss: Tensor, *, count: float = 1, **metrics: float | Tensor) -> None:
        """Backward; at each full accumulation clip, step, schedule and tick the budget. `loss` is a mean over `count`
        items (pairs, tokens): a step over several passes takes the mean over all their items. A loss that is not finite
        ends the run with an error that names the metrics."""

    @abstractmethod
    def log(self, **metrics: float | Tensor) -> None:
        """Record numbers at the current step without a backward pass."""


# -------------------------------------------------------------------------------------------------------------- plugins


class AlignmentMethod(ABC):
    """One row of the table. Subclass it, name what it needs, train."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()  # of NEEDS; shapes the default recipe
    kl_knob: ClassVar[str | None] = None  # the option a sweep turns; larger trains nearer the reference
    Config: ClassVar[type[MethodConfig]] = MethodConfig

    def recipe(self, config: Any, kit: Kit) -> Inputs:
        """What the run starts from. Override it when the row differs from the others in more than its loss."""
        start = kit.sft()
        return Inputs(
            start=start,
            preferences=kit.comparisons(start) if "preferences" in self.needs else None,
            reward=kit.reward(start) if "reward" in self.needs else None,
        )

    def train(self, trial: Trial, config: Any) -> None:  # noqa: B027
        """Change `trial.policy` until `trial.budget` is spent. Scoring is the harness's. A method that does not
        override this leaves the policy at its start."""

    def decoding(self, config: Any) -> Decoding | None:
        """How completions are chosen at test time. None: one plain sample."""
        return None

    def beta(self, config: Any) -> float | None:
        """Reward points per nat if training maximises E[r] - beta KL(policy || reference), whose optimum is known in
        closed form; None for any other objective."""
        return None

    def loss_at_start(self, config: Any) -> float | None:
        """The first loss, where policy and reference are one, if it is the same on any data; None if not."""
        return None


NEEDS = frozenset({"prompts", "preferences", "reward"})


class Decoding(ABC):
    """A rule that picks among several samples of the policy by the proxy reward."""

    samples_per_prompt: int

    @abstractmethod
    def weights(self, proxy: Tensor) -> Tensor:
        """(P, N) proxy scores -> (P, N) probability that each sample is the one returned; rows sum to 1."""

    @abstractmethod
    def kl_nats_bound(self) -> float:
        """An upper bound on the KL from the policy that was sampled, in nats."""


class SourceRoom(NamedTuple):
    """What a reward source may use to get ready."""

    rubric: Rubric
    base: Any  # the base model on its device (engine.Resident), adapters off
    human_model: HumanModel | None  # the fitted rater model; None unless the source declares `simulates_humans`
    seed: int


class RewardSource(ABC):
    """Scores or compares completions. Higher is better."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    labels: ClassVar[Labels] = "free"  # what one call costs: a human label, an AI label, nothing
    is_trainable_signal: ClassVar[bool] = True  # False: it may label data, but no method may optimise it directly
    simulates_humans: ClassVar[bool] = False  # True: it is handed the task's rater model
    Config: ClassVar[type[Config]] = Config
    labels_per_comparison: int = 1  # judgements one comparison takes
    tokens_judged: int = 0  # a source that runs a model adds the tokens it read

    def __init__(self, config: Any) -> None:
        self.config = config

    def prepare(self, room: SourceRoom) -> None:  # noqa: B027
        """Load what is needed. Called once, before the first score."""

    @abstractmethod
    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        """(B,) float32, finite."""

    def prefer(self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> Tensor:
        """(B,) probability that `a` beats `b`; by default the Bradley-Terry sigmoid of the score difference."""
        return (self.score(prompts, a) - self.score(prompts, b)).sigmoid()


class HumanModel(RewardSource):
    """A gold reward fitted to human ratings: it predicts the mean rating of a text."""

    rating_sd: float  # SD of single ratings around the mean of their text, on the rating scale


class Rubric(NamedTuple):
    """One guideline for every rater, human or model, in the words a rater reads."""

    guideline: str  # what to look at
    subject: str  # what a text is called: "Review"
    quality: str  # what is asked of it: "Sentiment"
    best: str  # the label of a good text: "Positive"
    worst: str  # the label of a bad one: "Negative"
    is_continuation: bool = False  # True: a completion goes on with its prompt's own sentence


class Demonstration(NamedTuple):
    prompt: str
    completion: str


class Pair(NamedTuple):
    prompt: str
    chosen: str
    rejected: str


class HeldOutPairs(NamedTuple):
    """Real human preferences no training stage saw, and how well one human does on them."""

    pairs: list[Pair]
    human_accuracy: float | None  # agreement of one rater with the others, the ceiling; None if unknown


class Task(ABC):
    """Prompts, demonstrations, human preferences and the gold reward of one setting."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    Config: ClassVar[type[Config]] = Config
    rubric: ClassVar[Rubric]
    data_seed: int = 0  # draws the splits; the harness sets it to the suite's
    max_new_tokens: int

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def max_completion_tokens(self) -> int:
        """Tokens read of a completion from the task's data; the rest is cut. Samples end at `max_new_tokens`."""
        return self.max_new_tokens

    @abstractmethod
    def digest(self) -> str:
        """sha256 over the data this task reads; part of every stage's key. UserError names a missing or wrong file."""

    @abstractmethod
    def prompts(self, split: Split) -> list[str]:
        """`train` for rollouts, `label` for comparisons, `eval` for scoring; no text is in two of them."""

    def completions(self, prompt: str) -> list[str] | None:
        """Every completion the prompt can have, for a task so small that they can be listed: rows are then held against
        the closed-form optimum. The task's human pairs must follow its gold reward by Bradley-Terry."""
        return None

    @abstractmethod
    def demonstrations(self) -> list[Demonstration]:
        """Data of the supervised start."""

    @abstractmethod
    def human_pairs(self, count: int, seed: int) -> list[Pair]:
        """Real human preferences of the training split."""

    @abstractmethod
    def held_out_pairs(self) -> HeldOutPairs:
        """Real human preferences of the held-out split."""

    @abstractmethod
    def gold(self, kit: Kit) -> Stage:
        """The stage that fits the gold reward: `kit.stage(...)` of the task's own, or a reward model."""

    @abstractmethod
    def load_gold(self, folder: Path, base: Any) -> RewardSource:
        """The fitted gold reward from its stage's folder; `base` is the base model (engine.Resident)."""

    def gold_card(self, gold: RewardSource) -> dict[str, float]:
        """The gold's own validity on held-out human data, each figure by name."""
        return {}

    def describe(self) -> str:
        """One line for the foot of a table: the data and how much of it."""
        return self.name
