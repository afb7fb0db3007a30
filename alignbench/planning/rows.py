"""One cell of a suite as live stages: what its method starts from, trains on, and is scored by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from alignbench.api import AlignmentMethod, Inputs, MethodConfig, SourceRef, Stage, Task
from alignbench.errors import PluginError, UserError, in_words
from alignbench.planning.build import PlanBuilder, fitted, gold_of, rule, second_gold_of, unfitted_source
from alignbench.plugins import Catalog, Plugin, Step, Steps
from alignbench.stages.closed_form import ClosedForm
from alignbench.stages.completions import Completions
from alignbench.stages.gold_card import GoldCard
from alignbench.stages.gold_rewards import GoldRewards
from alignbench.stages.human_comparisons import HumanComparisons
from alignbench.stages.lm_loss import LMLoss
from alignbench.stages.proxy_rewards import ProxyRewards
from alignbench.stages.registry import kind_of, tell, view_of
from alignbench.stages.reward_card import RewardCard
from alignbench.stages.score import Score
from alignbench.stages.second_gold_rewards import SecondGoldRewards
from alignbench.stages.snapshot import Snapshot
from alignbench.stages.source import Source
from alignbench.stages.untrained import Untrained
from alignbench.suite.plan import PlannedCell
from alignbench.suite.source import shown
from alignbench.suite.spec import Cell, Suite
from alignbench.suite.spec import Row as SuiteRow


class Row(NamedTuple):
    """A cell while its stages are live objects."""

    cell: PlannedCell
    train: Stage | None = None
    score: Stage | None = None
    own: Sequence[Stage] = ()  # what the row alone is charged for
    along: tuple[Row, ...] = ()  # the suite's snapshots of it
    asked: Sequence[Stage] = ()  # what it uses once it is trained, and so rests on too
    gate: Stage | None = None  # the card of the reward it is trained on, which must not be at chance


def step_of(plugin: Plugin[AlignmentMethod], label: str) -> Step:
    """Where planning is while it asks a row's plugin."""
    return Step("row", label, f"plugin '{plugin.name}' (from {plugin.distribution})")


def lay_out(suite: Suite, catalog: Catalog, task: Task, cell: Cell, seed: int, steps: Steps) -> Row:
    """A cell with its stages. What a plugin raises here, but for a mistake in the suite, is its row's cause."""
    plugin = catalog.method(suite.methods[cell.row].method)
    suite = suite.of_row(cell.row)
    words = suite.comparisons.in_words
    planned = PlannedCell(cell.label, plugin.name, plugin.distribution, plugin.version, seed, comparisons=words)
    step = step_of(plugin, cell.label)
    if step in steps.refused:
        return Row(replace(planned, cause=f"{step.owner}: while it was asked for its recipe, {steps.refused[step]}"))
    steps.tell(step)
    if beside := sorted(cell.config.keys() & SuiteRow.model_fields.keys() - plugin.cls.Config.model_fields.keys()):
        problem = "it is a key of the row; put it beside `config`, not into it"
        raise suite.error(problem, "methods", cell.row, "config", beside[0])
    config = suite.check_options(plugin.cls.Config, cell.config, "methods", cell.row, "config")
    try:
        planned = replace(planned, knob=_knob(plugin, config))
        return _Layout(suite, catalog, task, cell.row, plugin, config, seed).row(planned)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        fault = PluginError(plugin.name, plugin.distribution, f"its recipe raised {in_words(error)}")
        return Row(replace(planned, cause=str(error if isinstance(error, PluginError) else fault)))


def _knob(plugin: Plugin[AlignmentMethod], config: MethodConfig) -> dict[str, Any] | None:
    name = plugin.cls.kl_knob
    value = None if name is None else getattr(config, name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        problem = f"its kl_knob '{name}' is {type(value).__name__}; a number is allowed"
        raise PluginError(plugin.name, plugin.distribution, problem)
    return {"name": name, "value": value}


class _Layout:
    """The stages of one method's run at one seed."""

    def __init__(
        self, suite: Suite, catalog: Catalog, task: Task, row: int, plugin: Plugin[AlignmentMethod],
        config: MethodConfig, seed: int,
    ) -> None:  # fmt: skip
        self.suite, self.catalog, self.task, self.seed = suite, catalog, task, seed
        self.place, self.plugin, self.config = row, plugin, config
        self.method = plugin.cls()
        self.plain = PlanBuilder(suite, catalog, task, seed)  # without the row's own reward
        self.build = PlanBuilder(suite, catalog, task, seed, row)
        self.start = self.plain.sft()  # what every row is measured against
        self.gold = gold_of(suite, catalog, task)
        self.prefix = self.method.prefix(config, task.rubric)
        if not isinstance(self.prefix, str):
            problem = f"its `prefix` gave {type(self.prefix).__name__}; text is allowed"
            raise PluginError(plugin.name, plugin.distribution, problem)
        self.second_gold = second_gold_of(suite, catalog, task)

    def row(self, planned: PlannedCell) -> Row:
        inputs = self.inputs()
        proxy = self.proxy(inputs)
        spoken = proxy.name if isinstance(proxy, SourceRef) else tell(proxy, "").made
        spoken += ", accuracy of the implicit reward" if self._is_implicit(inputs) else ""
        own = self.suite.methods[self.place].reward_model
        spoken += "".join(f", {name} {shown(value)}" for name, value in own.items())
        planned = replace(planned, proxy=spoken)
        decoding, train = self.method.decoding(self.config), self.train(inputs)
        if decoding is None:
            score = self.score(inputs, train, self.own_samples(train, self.prefix), proxy, None)
            row = Row(planned, train, score, (train,), gate=self.gate(inputs, score))
            return row._replace(along=tuple(self._along_training(row, inputs, proxy)))
        completions = self.completions(train, decoding.samples_per_prompt, self.prefix)
        score = self.score(inputs, train, completions, proxy, self.config)
        asked, gate = [proxy] if isinstance(proxy, Stage) else [], self.gate(inputs, score)
        row = Row(planned, train, score, (train,), asked=asked, gate=gate)
        return row._replace(along=tuple(self._along_decoding(row, inputs, completions, proxy)))

    def _along_training(self, row: Row, inputs: Inputs, proxy: Stage | SourceRef) -> Iterator[Row]:
        """The policy at places of its run, each scored as its end is."""
        for step in self.suite.snapshot_steps_of(self.place) if self.is_trained else ():
            policy = Snapshot.stage({"of": row.train, "start": inputs.start}, step=step)
            score = self.score(inputs, policy, self.own_samples(policy, self.prefix), proxy, None)
            yield row._replace(cell=replace(row.cell, snapshot={"name": "step", "value": step}), score=score)

    def _along_decoding(self, row: Row, inputs: Inputs, completions: Stage, proxy: Stage | SourceRef) -> Iterator[Row]:
        """Weaker rules on the very samples of the row."""
        for config in self.method.along(self.config, self.suite.snapshots):
            score = self.score(inputs, completions.inputs["policy"], completions, proxy, config)
            if (snapshot := _knob(self.plugin, config)) is None:
                raise PluginError(self.plugin.name, self.plugin.distribution, "`along` gave a rule without its kl_knob")
            yield row._replace(cell=replace(row.cell, snapshot=snapshot), score=score)

    def gate(self, inputs: Inputs, score: Stage) -> Stage | None:
        """None where no fitted reward is optimised, or where the suite wants it so."""
        is_wanted = self.suite.methods[self.place].force
        is_optimised = self.is_trained and isinstance(inputs.reward, Stage)
        if is_wanted and not is_optimised:
            problem = f"'{self.plugin.name}' is trained on no fitted reward model here; remove the key"
            raise self.suite.error(problem, "methods", self.place, "force")
        return score.inputs["reward_card"] if is_optimised and not is_wanted else None

    def _is_implicit(self, inputs: Inputs) -> bool:
        """Whether the policy's own implicit reward is what its accuracy is told of."""
        return inputs.reward is None and inputs.preferences is not None

    def inputs(self) -> Inputs:
        """What the method's recipe asks for. PluginError if it rests on what scores the row."""
        row = self.suite.methods[self.place]
        build = self.build
        inputs = self.method.recipe(self.config, build)
        for root in (inputs.start, inputs.preferences, inputs.reward):
            self._refuse_scoring(root)
        if row.reward is not None and not build.was_asked_for_reward:
            problem = f"'{row.method}' takes no reward from the suite; remove the key"
            raise self.suite.error(problem, "methods", self.place, "reward")
        unfitted = inputs.reward if isinstance(inputs.reward, SourceRef) else None
        if row.comparisons is not None and unfitted is not None and not build.was_asked_for_comparisons:
            problem = f"'{row.method}' learns from no comparisons here; remove the key"
            raise self.suite.error(problem, "methods", self.place, "comparisons")
        if row.reward_model and not isinstance(inputs.reward, Stage):
            problem = f"'{row.method}' fits no reward model here; remove the key"
            raise self.suite.error(problem, "methods", self.place, "reward_model")
        if unfitted is not None and row.reward is None:  # the recipe's own choice
            build.check_optimised(unfitted, "config")
        return inputs

    def _refuse_scoring(self, stage: Stage | SourceRef | None) -> None:
        """A method and its own stages learn from training data alone; gold reaches them through raters only."""
        if not isinstance(stage, Stage):
            return
        if view_of(stage) == "scoring":
            problem = f"its recipe rests on '{stage.kind}', which the scorer alone may see"
            raise PluginError(self.plugin.name, self.plugin.distribution, problem)
        for name, below in stage.inputs.items():
            if not (name == "gold" and kind_of(stage).takes_gold):
                self._refuse_scoring(below)

    @property
    def is_trained(self) -> bool:
        return self.plugin.cls.train is not AlignmentMethod.train

    def train(self, inputs: Inputs) -> Stage:
        if not self.is_trained:
            return self.untrained(inputs.start)
        return self.build.trained(self.plugin.name, self.config, inputs)

    def untrained(self, start: Stage | None) -> Stage:
        return Untrained.stage({"start": start}, seed=self.seed)

    def own_samples(self, policy: Stage, prefix: str = "") -> Stage:
        """What a policy is scored by. The start's are those every gain is measured against, so that its own is 0."""
        wanted, is_start = self.suite.evaluation, policy == self.untrained(self.start) and not prefix
        count = wanted.start_samples_per_prompt if is_start else wanted.samples_per_prompt
        return self.completions(policy, count, prefix)

    def completions(self, policy: Stage, per_prompt: int, prefix: str = "") -> Stage:
        wanted = self.suite.evaluation
        return Completions.stage(
            {"policy": policy, "reference": self.start},
            prompts=wanted.prompts, batch_size=wanted.batch_size, per_prompt=per_prompt,
            temperature=self.suite.temperature, seed=self.seed, prefix=prefix,
        )  # fmt: skip

    def score(
        self, inputs: Inputs, policy: Stage, completions: Stage, proxy: Stage | SourceRef,
        decoding: MethodConfig | None,
    ) -> Stage:  # fmt: skip
        """`decoding`: the options of the rule that picks among the samples."""
        model, reward = fitted(proxy), {"reward": self.unfitted(proxy), "seed": self.suite.data_seed}
        untrained = self.untrained(self.start)
        baseline = self.own_samples(untrained)
        return Score.stage(
            {
                "completions": completions,
                "gold": self.gold_rewards(completions),
                "baseline": baseline,
                "baseline_gold": self.gold_rewards(baseline),
                "second_gold": self.second_gold_rewards(completions),
                "baseline_second_gold": self.second_gold_rewards(baseline),
                "proxy": ProxyRewards.stage({"completions": completions, "proxy": model}, **reward),
                "baseline_proxy": ProxyRewards.stage({"completions": baseline, "proxy": model}, **reward),
                "gold_card": GoldCard.stage({"gold": self.gold, "second_gold": self.second_gold}),
                "reward_card": self.reward_card(inputs, policy, model, reward),
                "lm_loss": self.lm_loss(policy),
                "baseline_lm_loss": self.lm_loss(untrained),
                "human_lm_loss": self.human_lm_loss(untrained),
                "closed_form": None if decoding is not None else self.closed_form(inputs, policy, model, reward),
            },
            prompts=self.suite.evaluation.prompts, decoding=None if decoding is None else rule(self.plugin, decoding),
            words=self.suite.evaluation.words,
        )  # fmt: skip

    @property
    def implicit_scale(self) -> float | None:
        """Of a policy that maximises reward less beta KL: reward = beta (log p - log p_ref) + a constant of the prompt.
        None of another objective, whose margins claim no probability."""
        return self.method.beta(self.config) or None

    def reward_card(self, inputs: Inputs, policy: Stage, proxy: Stage | None, reward: dict[str, Any]) -> Stage:
        """Of the proxy, which rows share, or of the policy's own implicit reward."""
        is_implicit, wanted = self._is_implicit(inputs), self.suite.evaluation
        judged = (
            {"policy": policy, "comparisons": inputs.preferences}
            if is_implicit
            else {"proxy": proxy, "comparisons": None if proxy is None else proxy.inputs.get("comparisons")}
        )
        return RewardCard.stage(
            judged, **reward, is_implicit=is_implicit, implicit_scale=self.implicit_scale if is_implicit else None,
            held_out_pairs=wanted.held_out_pairs, temperature=self.suite.temperature,
            other_pairs=wanted.other_pairs if self.offers("other_pairs") else 0,
        )  # fmt: skip

    def gold_rewards(self, completions: Stage) -> Stage:
        return GoldRewards.stage({"completions": completions, "gold": self.gold})

    def offers(self, name: str) -> bool:
        """Whether the task brings its own of what it may."""
        return getattr(type(self.task), name) is not getattr(Task, name)

    def lm_loss(self, policy: Stage) -> Stage | None:
        wanted = self.suite.evaluation
        if not (wanted.other_texts and self.offers("other_texts")):
            return None
        return LMLoss.stage({"policy": policy}, of="other", texts=wanted.other_texts, batch_size=wanted.batch_size)

    def human_lm_loss(self, start: Stage) -> Stage | None:
        """None where the task lists every completion: those are no language."""
        wanted = self.suite.evaluation
        if self.offers("completions"):
            return None
        return LMLoss.stage({"policy": start}, of="held_out", texts=wanted.held_out_pairs, batch_size=wanted.batch_size)

    def second_gold_rewards(self, completions: Stage) -> Stage | None:
        if self.second_gold is None:
            return None
        return SecondGoldRewards.stage({"completions": completions, "second_gold": self.second_gold})

    def closed_form(self, inputs: Inputs, policy: Stage, proxy: Stage | None, reward: dict[str, Any]) -> Stage | None:
        if not self.offers("completions"):
            return None
        return ClosedForm.stage(
            {"policy": policy, "reference": self.start, "gold": self.gold, "proxy": proxy},
            **reward, prompts=self.suite.evaluation.prompts, temperature=self.suite.temperature,
            objective=_objective(inputs), prefix=self.prefix,
            beta=self.method.beta(self.config) or None if self.is_trained else None,
        )  # fmt: skip

    def proxy(self, inputs: Inputs) -> Stage | SourceRef:
        """The reward a row optimised, or, for a row that optimised none, the suite's reward model."""
        if inputs.reward is not None:
            return inputs.reward
        start = self.plain.sft()
        return self.plain.reward_model(start, self.plain.comparisons(start))

    def unfitted(self, reward: Stage | SourceRef | None) -> Source | None:
        """None for a fitted reward model, which is an input instead."""
        return unfitted_source(self.catalog, reward) if isinstance(reward, SourceRef) else None


def _objective(inputs: Inputs) -> str | None:
    """Whose expectation training raised: its reward's, or, without one, that of the gold reward behind human pairs."""
    if inputs.reward is not None:
        return "proxy"
    has_human_pairs = inputs.preferences is not None and inputs.preferences.kind == HumanComparisons.name
    return "gold" if has_human_pairs else None
