"""A suite: the YAML file that says what to compare, read into frozen models.

Option names are TRL's where TRL has them; each default is written here once, with its unit. A file is plain data (no
tags, no aliases, no duplicate keys), `true` is not taken for 1, and whatever is wrong ends in one line that opens with
the file, the line and the key::

    suite = load_suite(find_suite("quick"))
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    field_validator,
    model_validator,
)

from alignbench.api import Config, Count, OptimizerConfig
from alignbench.errors import UserError, nearest
from alignbench.suite.source import M, Source, opening, read, validated
from alignbench.suite.source import validate_options as validate_options  # for those who import it from here
from alignbench.suite.values import Label, Seed, Text, device_name, distinct, short, suite_name

Options = dict[str, JsonValue]
Part = Literal["sft", "labels", "reward_model"]


class Named(Config):
    """A plugin and its options. In YAML the name alone will do."""

    name: Text
    options: Options = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data


class Lora(Config):
    """Adapters of the policy and of the reward model. The options of peft.LoraConfig."""

    r: Annotated[int, Field(ge=1, le=16_384)] = 16  # rank
    alpha: PositiveInt = 16  # the update is scaled by alpha / r
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # probability
    target_modules: Literal["all-linear"] | Annotated[tuple[Text, ...], Field(min_length=1)] = "all-linear"
    layers: PositiveInt | None = None  # how many of the topmost layers carry adapters; None: all


class Allowance(Config):
    """What each training run may spend, in one unit, the same for every row. Labels are `comparisons.pairs`' to set."""

    flops: PositiveFloat | None = None  # floating-point operations: training, rollouts, and judging them
    seconds: PositiveFloat | None = None  # of the clock: no two runs are then alike
    episodes: PositiveInt | None = None  # completions learned from: sampled ones, and two of each pair read

    @model_validator(mode="after")
    def _is_in_one_unit(self) -> Allowance:
        if len(self.by_unit) != 1:
            raise ValueError(
                f"should name one of {', '.join(type(self).model_fields)}, got {len(self.by_unit)} of them"
            )
        return self

    @property
    def by_unit(self) -> dict[str, float]:
        return {unit: float(amount) for unit, amount in self if amount is not None}


class Training(OptimizerConfig):
    """The supervised start."""

    max_steps: NonNegativeInt = 48  # optimiser steps
    max_completion_length: PositiveInt | None = None  # tokens; a longer demonstration is cut, and then has no end
    layers: PositiveInt | None = None  # topmost layers that carry its adapter; None: lora.layers


class Comparisons(Config):
    """The human comparisons: who labels them."""

    source: Text = "panel"  # "human": the task's real pairs; else a reward source
    options: Options = Field(default_factory=dict)  # of the source
    pairs: Count = 256
    human_pairs: Annotated[int, Field(ge=0, le=1_000_000)] = 0  # real pairs of the task, beside those of another source
    noise: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # share of them all that is turned round; 0.5 says nothing

    @property
    def in_words(self) -> str:
        beside = f", and {self.human_pairs} real human pairs" if self.human_pairs else ""
        wrong = f", {self.noise:.0%} of them turned round" if self.noise else ""
        return f"{self.pairs} pairs, labelled by {self.source}{beside}{wrong}"


class OwnComparisons(Config):
    """What a row has otherwise than the suite's `comparisons`; a `source` of its own has options of its own too."""

    source: Text | None = None
    options: Options = Field(default_factory=dict)
    pairs: Count | None = None
    human_pairs: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    noise: Annotated[float, Field(ge=0, le=0.5)] | None = None

    def over(self, suites: Comparisons) -> Comparisons:
        asked = {name: value for name, value in self if value is not None and name in self.model_fields_set}
        changed = {"options": {}, **asked} if "source" in asked else asked
        if asked.get("source") == "human":
            changed = {"human_pairs": 0, **changed}  # they are all real
        return suites.model_copy(update=changed)


class Sampling(Config):
    """The completions that are put up for comparison."""

    per_prompt: Annotated[int, Field(ge=2)] = 2  # completions per prompt; more than 2 are ranked


class RewardModelConfig(OptimizerConfig):
    """The reward model on the human comparisons."""

    num_train_epochs: PositiveInt = 1
    layers: PositiveInt | None = None  # topmost layers that carry its adapter; None: lora.layers
    pooling: Literal["mean", "last"] = "mean"  # over all real tokens, or the last of them
    head_learning_rate: PositiveFloat = 5e-3  # peak, the scalar head alone
    loss: Literal["pairwise", "listwise"] = "pairwise"
    """Listwise needs `samples.per_prompt` > 2; with 2 it equals pairwise."""
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the comparisons: not fitted to, but looked at
    """The weights of the best look are kept: most of these pairs ordered rightly, then the least loss on them."""
    eval_steps: PositiveInt | None = None  # optimiser steps from one look to the next; None: an epoch
    early_stopping_patience: PositiveInt | None = None  # looks without a better one that end the fit; None: none does

    @model_validator(mode="after")
    def _looks_have_pairs(self) -> RewardModelConfig:
        if not self.validation_share and (self.eval_steps or self.early_stopping_patience):
            raise ValueError("eval_steps and early_stopping_patience need pairs to look at; set validation_share")
        return self


class RewardEnsembleConfig(RewardModelConfig):
    """The suite's reward model: one fit, or several with other draws (Coste et al. 2023, arXiv:2310.02743)."""

    members: Annotated[int, Field(ge=1, le=32)] = 1  # reward models on the same comparisons
    combine: Literal["mean", "worst", "uncertainty"] = "mean"  # of several: how their scores become one
    uncertainty_coef: NonNegativeFloat = 0.5  # `uncertainty`: points lost per unit of variance between members

    @property
    def fit(self) -> dict[str, Any]:
        """The options of each member's fit."""
        return {name: value for name, value in self if name in RewardModelConfig.model_fields}

    @model_validator(mode="after")
    def _several_are_combined(self) -> RewardEnsembleConfig:
        if self.members == 1 and self.combine != "mean":
            raise ValueError(f"combine: {self.combine} needs several reward models; set members")
        return self


class Evaluation(Config):
    """Scoring on held-out prompts."""

    prompts: Count = 128
    samples_per_prompt: Count = 8  # completions of each; one alone is most of what looks like noise between seeds
    start_samples_per_prompt: Count = 16  # of the supervised start, which every gain rests on
    held_out_pairs: Count = 500  # real human pairs for reward-model accuracy
    other_pairs: Annotated[int, Field(ge=0, le=1_000_000)] = 200  # of each other kind of text, where the task has them
    other_texts: Annotated[int, Field(ge=0, le=1_000_000)] = 256  # for forgetting, where the task has them
    words: Annotated[tuple[Text, ...], AfterValidator(distinct)] = ()  # how often rows say one of these, per nat
    batch_size: Count = 128  # completions per forward pass
    # two rows no further apart than this count as equivalent; in standard deviations of the start's gold
    delta: Annotated[PositiveFloat, Field(le=10)] = 0.2
    bootstrap: Annotated[int, Field(ge=1, le=100_000)] = 2000  # resamples per interval
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95  # level of the intervals


class Row(Config):
    """One method with its options; with a `sweep`, one cell of the table per value. In YAML the name alone will do."""

    method: Text
    label: Label  # default: the method's name
    config: Options = Field(default_factory=dict)
    reward: Named | None = None  # in place of the reward model on the human comparisons
    sweep: Annotated[tuple[int | FiniteFloat, ...], Field(min_length=1), AfterValidator(distinct)] | None = None
    max_steps: NonNegativeInt | None = None  # optimiser steps; None: the suite's
    comparisons: OwnComparisons | None = None  # what it learns from, where it is not the suite's
    reward_model: Options = Field(default_factory=dict)  # what its reward model has otherwise than the suite's
    force: bool = False  # train also on a reward model that orders held-out human pairs no better than chance

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        data = {"method": data} if isinstance(data, str) else data
        return {"label": data.get("method", "?"), **data} if isinstance(data, dict) else data


class Cell(NamedTuple):
    """A row at one value of its sweep."""

    label: str  # "dpo", or "dpo beta=0.1"
    row: int  # index in Suite.methods
    config: dict[str, Any]  # the method's options, not yet checked against its Config


class Suite(Config):
    """Everything that decides what a run computes."""

    name: Annotated[str, AfterValidator(suite_name), AfterValidator(short)]  # default: the file's stem
    model: Text = "smollm2-135m"  # alias, Hub id or folder
    device: Annotated[str, AfterValidator(device_name)] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    kernels: Literal["fast", "plain"] = "fast"
    """`plain`: no hand-written kernel, but transformers' and peft's own modules on padded batches, each sequence passed
    whole, and log-softmax by autograd; equal within rounding. `alignbench.engine.fast` lists the kernels."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(distinct)] = (0,)
    """Full replicates: each draws anew the prompts that are labelled, comparisons, votes, the order of supervised
    data, reward model, initialisation, rollouts and evaluation samples. Rows are paired within it."""
    data_seed: Seed = 0  # the split of the data, gold, held-out prompts and pairs: what all replicates have in common
    share: Annotated[tuple[Part, ...], AfterValidator(distinct)] = ()
    """What is drawn once, by `data_seed`, for all replicates: cheaper, and their spread then says less."""
    temperature: Annotated[PositiveFloat, Field(le=100)] = 1.0
    """Part of what a policy is: p(token) is softmax(logits / temperature) in rollouts, labelled samples, evaluation and
    every log-probability and KL. The supervised start is trained at 1."""
    max_steps: NonNegativeInt = 64  # optimiser steps, per method
    budget: Allowance | None = None
    """What ends a run beside `max_steps`, whichever comes first: the batch or rollout that spends the last of it is
    still learned from. Learning rates follow `max_steps` alone, so give them as constant."""
    snapshots: Annotated[int, Field(ge=0, le=1000)] = 0  # places along each run that are scored like its end; 0: none
    checkpoint_seconds: Annotated[FiniteFloat, Field(ge=0)] = 60  # between two checkpoints of a fit; 0: none
    lora: Lora = Lora()
    task: Named = Named(name="sentiment")
    sft: Training = Training()
    comparisons: Comparisons = Comparisons()
    samples: Sampling = Sampling()
    reward_model: RewardEnsembleConfig = RewardEnsembleConfig()
    evaluation: Evaluation = Evaluation()
    methods: Annotated[tuple[Row, ...], Field(min_length=1)]

    _source: Source = PrivateAttr(default_factory=Source)

    @field_validator("methods")
    @classmethod
    def _labels_differ(cls, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        first: dict[str, int] = {}
        for i, row in enumerate(rows):
            if first.setdefault(row.label, i) != i:
                twins = f"methods[{first[row.label]}] and methods[{i}]"
                raise ValueError(f"{twins} are both labelled '{row.label}'; give one of them another `label`")
        return rows

    @model_validator(mode="after")
    def _shares_what_it_rests_on(self) -> Suite:
        is_human = all(wanted.source == "human" for wanted in self.all_comparisons)
        rests_on = {"reward_model": ("sft", "labels"), "labels": () if is_human else ("sft",)}
        for part in self.share:
            if missing := [below for below in rests_on.get(part, ()) if below not in self.share]:
                raise ValueError(
                    f"share: {part} rests on {' and '.join(missing)}, which each replicate draws anew; add it"
                )
        return self

    @model_validator(mode="after")
    def _lists_are_of_one_length(self) -> Suite:
        if problem := self._lists_beside_pairs(self.reward_model.loss, self.all_comparisons):
            raise ValueError(f"reward_model.loss: {problem}")
        return self

    def _lists_beside_pairs(self, loss: str, wanted: Sequence[Comparisons]) -> str | None:
        is_mixed = any(each.source != "human" and each.human_pairs for each in wanted)
        if loss == "pairwise" or self.samples.per_prompt == 2 or not is_mixed:
            return None
        return (
            f"listwise cannot take lists of {self.samples.per_prompt} (samples.per_prompt) and pairs "
            "(comparisons.human_pairs) together; set human_pairs to 0, or loss to pairwise"
        )

    @property
    def all_comparisons(self) -> tuple[Comparisons, ...]:
        """The suite's, and those that rows have of their own."""
        own = (row.comparisons.over(self.comparisons) for row in self.methods if row.comparisons is not None)
        return (self.comparisons, *own)

    def of_row(self, row: int) -> Suite:
        """As `methods[row]` has it: with its own comparisons and reward model, where it asks for any. UserError if its
        options of the latter are wrong."""
        asked, own = self.methods[row], self
        if asked.comparisons is not None:
            own = own.model_copy(update={"comparisons": asked.comparisons.over(self.comparisons)})
        if asked.reward_model:
            options, place = {**dict(self.reward_model), **asked.reward_model}, ("methods", row, "reward_model")
            fitted = self.check_options(RewardEnsembleConfig, options, *place)
            if problem := self._lists_beside_pairs(fitted.loss, [own.comparisons]):
                raise self.error(problem, *place)
            own = own.model_copy(update={"reward_model": fitted})
        return own

    def max_steps_of(self, row: int) -> int:
        """Optimiser steps."""
        own = self.methods[row].max_steps
        return self.max_steps if own is None else own

    def snapshot_steps_of(self, row: int) -> tuple[int, ...]:
        """Evenly along the row's run, its end left out: that is the row itself."""
        last, count = self.max_steps_of(row), self.snapshots
        steps = dict.fromkeys(round(last * i / (count + 1)) for i in range(1, count + 1))
        return tuple(step for step in steps if 0 < step < last)

    def comparisons_place(self, row: int | None, key: str) -> tuple[str | int, ...]:
        """Where the file says this of the comparisons of a row."""
        own = None if row is None else self.methods[row].comparisons
        if row is None or own is None or key not in own.model_fields_set:
            return ("comparisons", key)
        return ("methods", row, "comparisons", key)

    def cells(self, kl_knobs: Mapping[str, str | None]) -> tuple[Cell, ...]:
        """The rows with their sweeps unfolded. `kl_knobs`: the `kl_knob` of every known method."""
        cells: dict[str, Cell] = {}
        for i, row in enumerate(self.methods):
            if row.method not in kl_knobs:
                hint = nearest(row.method, kl_knobs)
                problem = f"no method '{row.method}' is installed, or loaded with --plugin; {hint}"
                raise self.error(problem, "methods", i, "method")
            knob = kl_knobs[row.method]
            if row.sweep and knob is None:
                raise self.error(f"'{row.method}' has no KL knob to turn; remove the sweep", "methods", i, "sweep")
            if row.sweep and knob in row.config:
                raise self.error("the sweep sets this option too; remove one of the two", "methods", i, "config", knob)
            for settings in [{str(knob): value} for value in row.sweep or ()] or [{}]:
                label = " ".join([row.label, *(f"{key}={value}" for key, value in settings.items())])
                if label in cells:
                    raise self.error(f"methods[{cells[label].row}] has the label '{label}' too", "methods", i, "label")
                cells[label] = Cell(label, i, {**row.config, **settings})
        return tuple(cells.values())

    def where(self, *loc: str | int) -> str:
        """'FILE:LINE' of a key, or of the nearest key above it that the file holds."""
        return self._source.where(loc) if self._source.file else f"suite '{self.name}'"

    @property
    def text(self) -> str:
        """As the user wrote it; the canonical form of a suite that was made in Python or came with a plan."""
        return self._source.text or json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n"

    def error(self, problem: str, *loc: str | int) -> UserError:
        """A `UserError` about one key of this suite."""
        return UserError(f"{opening(self.where(*loc), loc)}: {problem}")

    def check_options(self, model_cls: type[M], options: Mapping[str, Any], *loc: str | int) -> M:
        """`validate_options` for the options at key `loc`, with the line of the very option that is wrong."""
        return validated(model_cls, options, lambda inner: opening(self.where(*loc, *inner), (*loc, *inner)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `Suite.model_validate` reads them back."""
        return self.model_dump(mode="json")


def find_suite(name_or_path: str | Path) -> Path:
    """A suite file by its path, or by its name under `benchmarks/` here or in the checkout that holds this package."""
    path = Path(name_or_path)
    folders = [Path(__file__).parents[2] / "benchmarks", Path("benchmarks")]  # the later wins
    known = {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}
    named = known.get(str(name_or_path))
    with suppress(OSError):  # such as a name too long for a file
        if path.is_file() or (path.exists() and not named):
            return path
    if named:
        return named
    hint = nearest(path.stem, known) if known else "give the path of a suite file"
    raise UserError(f"no suite file or name '{name_or_path}'; {hint}")


def load_suite(path: Path) -> Suite:
    """Read and check a suite file."""
    data, source = read(path)
    suite = validated(Suite, {"name": path.stem, **data}, lambda loc: opening(source.where(loc), loc))
    suite._source = source
    return suite
