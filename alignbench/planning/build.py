"""What a method's `recipe` builds stages with, by the suite's options.

Two recipes that ask for the same thing get equal stages, hence equal keys, and the thing is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alignbench.api import (
    AlignmentMethod,
    Inputs,
    MethodConfig,
    RecipeBuilder,
    Rubric,
    SourceRef,
    Stage,
    Task,
    View,
    Work,
)
from alignbench.errors import UserError
from alignbench.planning import keys
from alignbench.plugins import Catalog, Plugin
from alignbench.stages.comparisons import Comparisons
from alignbench.stages.human_comparisons import HUMAN, HumanComparisons
from alignbench.stages.joined_comparisons import JoinedComparisons
from alignbench.stages.noisy_comparisons import NoisyComparisons
from alignbench.stages.reward_ensemble import RewardEnsemble
from alignbench.stages.reward_model import FittedRewardModel
from alignbench.stages.samples import Samples
from alignbench.stages.sft import SFT
from alignbench.stages.source import Source
from alignbench.stages.train import Train
from alignbench.suite.spec import Part, Suite


class PlanBuilder(RecipeBuilder):
    """Stages of one replicate by the suite's options. One per row, because a row may replace its reward."""

    def __init__(
        self, suite: Suite, catalog: Catalog, task: Task, seed: int, row: int | None = None, view: View = "training"
    ) -> None:
        self._view: View = view  # what the stages of whoever holds this builder may see
        self._seed = seed
        self._suite = suite
        self._catalog = catalog
        self._task = task
        self._row = row
        self.was_asked_for_reward = False
        self.was_asked_for_comparisons = False

    def sft(self, data: Stage | None = None, on: Stage | None = None, num_train_epochs: float | None = None) -> Stage:
        return SFT.stage(
            {"data": data, "on": on},
            **dict(self._suite.sft), num_train_epochs=num_train_epochs, seed=self._seed_of("sft"),
        )  # fmt: skip

    def samples(self, start: Stage | None, policy: Stage | None = None) -> Stage:
        self.was_asked_for_comparisons = True
        wanted = {**dict(self._suite.samples), "prompts": self._suite.comparisons.pairs}
        return Samples.stage(
            {"start": start, "policy": policy},
            **wanted, temperature=self._suite.temperature, seed=self._seed_of("labels"),
        )  # fmt: skip

    def compare(self, samples: Stage, source: SourceRef) -> Stage:
        where, about_options = [
            self._suite.comparisons_place(self._row, key)
            if source.name == self._suite.comparisons.source
            else ("methods", self._row or 0)
            for key in ("source", "options")
        ]
        plugin = self._source(source.name, *where)
        gold = gold_of(self._suite, self._catalog, self._task) if plugin.cls.simulates_humans else None
        return Comparisons.stage(
            {"samples": samples, "gold": gold},
            source=self._checked(plugin, source.options, *about_options), seed=self._seed_of("labels"),
        )  # fmt: skip

    def comparisons(self, start: Stage | None, policies: Sequence[Stage] = ()) -> Stage:
        sound, noise = self._sound_comparisons(start, policies), self._suite.comparisons.noise
        if not noise:
            return sound
        return NoisyComparisons.stage({"comparisons": sound}, noise=noise, seed=self._seed_of("labels"))

    def _sound_comparisons(self, start: Stage | None, policies: Sequence[Stage]) -> Stage:
        wanted = self._suite.comparisons
        if wanted.source == HUMAN:
            if policies:
                problem = "people's own pairs say nothing of a policy's samples; name who labels them, such as panel"
                raise self._suite.error(problem, *self._suite.comparisons_place(self._row, "source"))
            return self._human(wanted.pairs)
        samples = [self.samples(start), *(self.samples(start, policy) for policy in policies)]
        source = SourceRef(wanted.source, wanted.options)
        parts = {f"samples_{i}" if i else "samples": self.compare(each, source) for i, each in enumerate(samples)}
        if wanted.human_pairs:
            parts["human"] = self._human(wanted.human_pairs)
        return parts["samples"] if len(parts) == 1 else JoinedComparisons.stage(parts)

    def _human(self, pairs: int) -> Stage:
        self.was_asked_for_comparisons = True
        return HumanComparisons.stage(pairs=pairs, seed=self._seed_of("labels"))

    def reward_model(self, start: Stage | None, comparisons: Stage) -> Stage:
        wanted, rests_on = self._suite.reward_model, {"start": start, "comparisons": comparisons}
        seed = self._seed_of("reward_model")
        members = [FittedRewardModel.stage(rests_on, **wanted.fit, member=i, seed=seed) for i in range(wanted.members)]
        if len(members) == 1:
            return members[0]
        return RewardEnsemble.stage(
            {**rests_on, **{f"member_{i}": member for i, member in enumerate(members)}},
            combine=wanted.combine, uncertainty_coef=wanted.uncertainty_coef, seed=seed,
        )  # fmt: skip

    def trained(self, method: str, config: MethodConfig, inputs: Inputs) -> Stage:
        if self._row is None:
            raise ValueError("a policy is trained for a row")
        unfitted = inputs.reward if isinstance(inputs.reward, SourceRef) else None
        if unfitted is not None:
            self.check_optimised(unfitted, "config" if self._suite.methods[self._row].reward is None else "reward")
        return Train.stage(
            {"start": inputs.start, "preferences": inputs.preferences, "reward": fitted(inputs.reward)},
            **rule(self._catalog.method(method), config), seed=self._seed,
            max_steps=self._suite.max_steps_of(self._row), snapshots=self._suite.snapshot_steps_of(self._row),
            budget=None if self._suite.budget is None else self._suite.budget.by_unit,
            temperature=self._suite.temperature,
            reward=None if unfitted is None else unfitted_source(self._catalog, unfitted),
        )  # fmt: skip

    def _seed_of(self, part: Part) -> int:
        """The replicate's own, unless the suite draws this once for all of them."""
        return self._suite.data_seed if part in self._suite.share else self._seed

    def reward(self, start: Stage | None) -> Stage | SourceRef:
        self.was_asked_for_reward = True
        named = None if self._row is None else self._suite.methods[self._row].reward
        if named is None:
            return self.reward_model(start, self.comparisons(start))
        self.check_optimised(SourceRef(named.name, named.options), "reward")
        return SourceRef(named.name, named.options)

    def check_optimised(self, reward: SourceRef, *where: str) -> None:
        """Whether training may call the source, with these options; `where` is the key below the row that names it."""
        place: tuple[str | int, ...] = ("methods", self._row or 0, *where)
        plugin = self._source(reward.name, *place)
        if not plugin.cls.is_trainable_signal:
            raise self._suite.error(
                f"'{reward.name}' may label data but not be optimised; "
                "drop the key to fit a reward model to its labels",
                *place,
            )
        self._checked(plugin, reward.options, *place, *(["options"] if where == ("reward",) else []))

    def stage(self, kind: str, run: Callable[[Work], None], inputs: Mapping[str, Stage], **options: Any) -> Stage:
        if "." in run.__qualname__:
            raise ValueError(
                f"stage '{kind}': {run.__qualname__} is not a module-level function, so it has no stable source"
            )
        if self._view == "scoring":  # of the task: gold is one for all replicates
            return Stage(kind, {**options, "seed": self._suite.data_seed}, dict(inputs), run, self._view)
        drawn = {"temperature": self._suite.temperature, **options, "seed": self._seed_of("labels")}
        return Stage(kind, drawn, dict(inputs), run, self._view)

    @property
    def rubric(self) -> Rubric:
        return self._task.rubric

    def _source(self, name: str, *where: str | int) -> Plugin[Any]:
        try:
            return self._catalog.source(name)
        except UserError as error:
            raise self._suite.error(str(error), *where) from None

    def _checked(self, plugin: Plugin[Any], options: Mapping[str, Any], *where: str | int) -> Source:
        checked = self._suite.check_options(plugin.cls.Config, options, *where)
        facts = keys.source_facts(plugin.cls, checked)
        return Source(name=plugin.name, options=checked.model_dump(mode="json"), **facts)


def rule(plugin: Plugin[AlignmentMethod], config: MethodConfig) -> dict[str, Any]:
    """A method in the options of a stage."""
    return {
        "method": plugin.name, "code": keys.class_source(plugin.cls), "config": config.model_dump(mode="json")
    }  # fmt: skip


def fitted(reward: Stage | SourceRef | None) -> Stage | None:
    """A fitted reward model, which is an input of a stage."""
    return reward if isinstance(reward, Stage) else None


def unfitted_source(catalog: Catalog, reward: SourceRef) -> Source:
    """An unfitted one, which is among its options."""
    cls = catalog.source(reward.name).cls
    facts = keys.source_facts(cls, cls.Config(**reward.options))
    return Source(name=reward.name, options=dict(reward.options), **facts)


def gold_of(suite: Suite, catalog: Catalog, task: Task) -> Stage:
    """The stage of the gold reward. A task's own stages see all of its data; no recipe is handed this builder."""
    return task.gold(PlanBuilder(suite, catalog, task, suite.data_seed, view="scoring"))


def second_gold_of(suite: Suite, catalog: Catalog, task: Task) -> Stage | None:
    """The stage of the second gold, if the task has one."""
    return task.second_gold(PlanBuilder(suite, catalog, task, suite.data_seed, view="scoring"))
