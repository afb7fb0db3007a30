"""One method on one model: its real trial, opened as a run would, and what is seen of it.

What the training run rests on is made in the session's store. Runs with the same settings are made once, and looked at
by many checks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alignbench.api import AlignmentMethod, MethodConfig, TokenBatch
from alignbench.engine.checkpoint import Checkpoints
from alignbench.engine.device import isolated
from alignbench.engine.resident import Resident
from alignbench.engine.trial import POLICY, LiveTrial
from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import Catalog, Plugin
from alignbench.scoring import closed_form
from alignbench.scoring.evaluate import measure_kl
from alignbench.stages.train import open_trial
from alignbench.stages.work import HarnessWork
from alignbench.store import Store
from alignbench.suite.plan import Plan
from alignbench.testing.tape import Tape, recording, turned_round, widened, wrapped
from alignbench.testing.worlds import TASK, suite, working

STEPS = 3  # optimiser steps of a run that is looked at
# A large clip leaves gradients as they are; small steps keep rounding errors from growing through AdamW.
CALM = {"learning_rate": 1e-3, "max_grad_norm": 1e6, "lr_scheduler_type": "constant"}


class Ran(NamedTuple):
    """A finished training run."""

    tape: Tape
    history: list[dict[str, float]]  # what the trial logged, a row per call
    steps_used: int
    weights: dict[str, Tensor]  # of the policy's adapter
    weights_at_start: dict[str, Tensor]
    frozen: tuple[str, str]  # digest of all other weights, before and after
    probe: Tensor  # (B, T) the policy's log-probabilities of fixed texts, nats
    reference: tuple[Tensor, Tensor]  # (B, T) the reference's of the same, before and after
    kl_nats: float  # exact, policy against start, on the fixed texts
    listing: Listing


class Listing(NamedTuple):
    """Every completion of every prompt: (P, C) each, float64."""

    policy: Tensor  # log-probabilities, nats
    start: Tensor
    rewards: Tensor  # what training raised: the trial's reward, or the gold behind the human pairs

    @property
    def gain(self) -> float:
        """Expected reward over the start's, mean over prompts."""
        policy, start = (closed_form.mean_reward(log_p, self.rewards).mean() for log_p in (self.policy, self.start))
        return float(policy - start)

    @property
    def kl_nats(self) -> float:
        return float(closed_form.kl(self.policy, self.start).mean())


class Opened(NamedTuple):
    trial: LiveTrial
    method: AlignmentMethod
    config: MethodConfig
    resident: Resident
    work: HarnessWork


class MethodLab:
    """One method on one model."""

    def __init__(self, plugin: Plugin[AlignmentMethod], catalog: Catalog, shape: str, store: Store) -> None:
        self.plugin = plugin
        self.cls = plugin.cls
        self.catalog = catalog
        self.shape = shape
        self.store = store
        self._ran: dict[str, Ran] = {}

    def calm(self, **options: Any) -> dict[str, Any]:
        """Options under which two runs that should agree do so to rounding."""
        return self.known({**CALM, **options})

    def known(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those options that the method has."""
        return {name: value for name, value in options.items() if name in self.cls.Config.model_fields}

    def ran(self, options: Mapping[str, Any] | None = None, **where: Any) -> Ran:
        """`run`, made once for the same arguments."""
        options = self.calm() if options is None else options
        key = json.dumps([dict(options), where], sort_keys=True)
        if key not in self._ran:
            self._ran[key] = self.run(options, **where)
        return self._ran[key]

    def run(
        self, options: Mapping[str, Any], *, filler: int | None = None, is_turned: bool = False,
        is_taped: bool = True, **where: Any,
    ) -> Ran:  # fmt: skip
        """The run with these options of the method. `filler` fills three columns of padding added to every batch;
        `is_turned` changes labels and rewards round; an untaped run is a quick one. `where`: steps, seed,
        is_known, and the suite's own keys."""
        with self.opened(options, **where) as (trial, method, config, resident, work):
            tape, codec = Tape(), resident.codec
            probe = codec.encode(*self.texts(work), max_new_tokens=work.task.max_completion_tokens)
            at_start, frozen = adapter_of(resident), digest_of_frozen(resident)
            reference = logprobs_of(resident, probe, None)
            with ExitStack() as stack:
                if is_taped:
                    stack.enter_context(recording(trial, resident, tape))
                if filler is not None:
                    stack.enter_context(wrapped(codec, "padded", lambda out, *args: widened(out, 3, filler)))
                if is_turned:
                    stack.enter_context(turned_round(trial))
                method.train(trial, config)
            return Ran(
                tape, trial.history, trial.budget.used, adapter_of(resident), at_start,
                (frozen, digest_of_frozen(resident)), logprobs_of(resident, probe, POLICY),
                (reference, logprobs_of(resident, probe, None)),
                float(measure_kl(resident, POLICY, resident, probe).exact.mean()), listing_of(trial, resident, work),
            )  # fmt: skip

    @contextmanager
    def opened(
        self, options: Mapping[str, Any], checkpoints: Callable[[Path], Checkpoints] | None = None, **where: Any
    ) -> Iterator[Opened]:
        """The real trial, ready for the method, under the isolation a run gives it. `checkpoints`: made of the folder
        they lie in, in place of the suite's own."""
        with self.working(options, **where) as work, isolated(work.seed), ExitStack() as stack:
            if checkpoints is not None:
                work.checkpoints = checkpoints(work.scratch / "checkpoint")
            opened = open_trial(work, stack)
            yield Opened(opened.trial, opened.method, opened.config, opened.resident, work)

    @contextmanager
    def working(self, options: Mapping[str, Any], scratch: Path | None = None, **where: Any) -> Iterator[HarnessWork]:
        """The train stage's own work, with all it rests on made."""
        plan = self.plan(options, **where)
        with working(plan, plan.stage(plan.cells[0].train), self.store, scratch) as work:
            assert isinstance(work, HarnessWork)
            yield work

    def plan(
        self, options: Mapping[str, Any], *, steps: int = STEPS, seed: int = 0, is_known: bool = False, **keys: Any
    ) -> Plan:
        """`is_known`: the reward is the task's own table where the method takes one from the suite."""
        row = {"method": self.plugin.name, "config": dict(options)}
        if is_known and self.takes_reward:
            row["reward"] = TASK
        if not self.takes_human_pairs:
            keys["comparisons"] = {"source": TASK, "pairs": 24}
        plan = make_plan(suite(self.shape, row, steps, seed, **keys), self.catalog)
        if plan.cells[0].cause is not None:
            raise RuntimeError(plan.cells[0].cause)
        return plan

    @cached_property
    def takes_human_pairs(self) -> bool:
        """False of a method that has its policies' samples compared: people's own pairs say nothing of those."""
        try:
            make_plan(suite(self.shape, {"method": self.plugin.name}, 0, 0), self.catalog)
        except UserError as error:
            return "comparisons.source" not in str(error)
        return True

    @cached_property
    def takes_reward(self) -> bool:
        row = {"method": self.plugin.name, "reward": TASK}
        try:
            make_plan(suite(self.shape, row, 0, 0), self.catalog)
        except UserError:  # its recipe asks for none, or brings its own
            return False
        return True

    def texts(self, work: HarnessWork) -> tuple[list[str], list[str]]:
        """Fixed prompts and completions."""
        rows = work.task.demonstrations()[:16]
        return [row.prompt for row in rows], [row.completion for row in rows]

    def with_config(self, config: type[MethodConfig]) -> MethodLab:
        """A lab for the same method under another Config class."""
        twin = type(self.cls.__name__, (self.cls,), {"Config": config, "__module__": self.cls.__module__})
        plugin = dataclasses.replace(self.plugin, cls=twin)
        catalog = dataclasses.replace(self.catalog, methods={**self.catalog.methods, plugin.name: plugin})
        return MethodLab(plugin, catalog, self.shape, self.store)

    def with_held_out(self, text: str) -> MethodLab:
        """A lab whose task's held-out prompts are this one text."""
        task = self.catalog.task(TASK)

        def prompts(own: Any, split: Any) -> list[str]:
            return [text] if split == "eval" else task.cls.prompts(own, split)

        twin = type("Task", (task.cls,), {"prompts": prompts, "__module__": task.cls.__module__})
        tasks = {**self.catalog.tasks, TASK: dataclasses.replace(task, cls=twin)}
        catalog = dataclasses.replace(self.catalog, tasks=tasks)
        return MethodLab(self.plugin, catalog, self.shape, self.store)


# ------------------------------------------------------------------------------------------------------------ readings


def adapter_of(resident: Resident) -> dict[str, Tensor]:
    """A copy of the policy adapter's weights."""
    return {n: p.detach().clone() for n, p in resident.module.named_parameters() if f".{POLICY}." in n}


def digest_of_frozen(resident: Resident) -> str:
    """Of every weight and buffer that no adapter added."""
    digest = hashlib.sha256()
    module: nn.Module = resident.module
    for name, value in sorted([*module.named_parameters(), *module.named_buffers()]):
        if "lora_" not in name:
            digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def logprobs_of(resident: Resident, tokens: TokenBatch, adapter: str | None) -> Tensor:
    with resident.using(adapter):
        return resident.logprobs(tokens)


def listing_of(trial: LiveTrial, resident: Resident, work: HarnessWork) -> Listing:
    prompts = list(dict.fromkeys(work.task.prompts("train")))
    completions = [work.task.completions(prompt) or [] for prompt in prompts]
    policy, start = (
        closed_form.completion_logprobs(resident, name, prompts, completions, work.task.max_new_tokens)
        for name in (POLICY, None)
    )
    source = trial._reward or work.task.load_gold(work.folder, None)
    rewards = [source.score([p] * len(texts), texts) for p, texts in zip(prompts, completions, strict=True)]
    return Listing(policy, start, torch.stack(rewards).double())
