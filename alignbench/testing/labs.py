"""One reward source, or the engine itself, on one model."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from alignbench.api import AlignmentMethod, Config, OptimizerConfig, RewardSource
from alignbench.assets.models import resolve_model
from alignbench.engine.device import isolated
from alignbench.engine.meter import Meter
from alignbench.engine.resident import Engine, Resident
from alignbench.engine.trial import POLICY, LiveTrial
from alignbench.errors import UserError
from alignbench.feedback.checked import Checked
from alignbench.planning.layout import make_plan
from alignbench.plugins import Catalog, Plugin
from alignbench.stages.comparisons import Comparisons
from alignbench.stages.work import HarnessWork
from alignbench.store import Store
from alignbench.suite.spec import Lora
from alignbench.testing.texts import COMPLETIONS, PROMPTS
from alignbench.testing.worlds import KERNELS, TASK, shake, suite, working


class SourceLab:
    """One reward source, opened by the harness as it would for labelling."""

    def __init__(self, plugin: Plugin[RewardSource], catalog: Catalog, shape: str, store: Store) -> None:
        self.plugin = plugin
        self.cls = plugin.cls
        self.given, task = catalog, catalog.task(TASK)
        rated = type("RatedOracle", (task.cls,), {"load_gold": _load_rated, "__module__": task.cls.__module__})
        self.catalog = dataclasses.replace(
            catalog,
            tasks={**catalog.tasks, TASK: dataclasses.replace(task, cls=rated)},
            methods={**catalog.methods, Idle.name: IDLE},
        )
        self.shape = shape
        self.store = store

    @contextmanager
    def opened(self, options: Mapping[str, Any] | None = None) -> Iterator[tuple[Checked, HarnessWork]]:
        """The source with these options, behind the harness's guard, and the work whose meter it is billed to."""
        wanted = {"source": self.plugin.name, "options": dict(options or {}), "pairs": 24}
        plan = make_plan(suite(self.shape, Idle.name, 0, 0, comparisons=wanted), self.catalog)
        stage = next(stage for stage in plan.stages.values() if stage.kind == Comparisons.name)
        with working(plan, stage, self.store) as work, isolated(work.seed), ExitStack() as stack:
            assert isinstance(work, HarnessWork)
            source = work.open_source(stack, Comparisons.Options(**stage.options).source)
            assert isinstance(source, Checked)
            yield source, work

    def texts(self, source: Checked, work: HarnessWork) -> tuple[list[str], list[str], list[str]]:
        """Prompts, and two completions of each: the task's own, and ordinary ones after them unless the source refuses
        those as a user's mistake."""
        own, ordinary = self._task_texts(work), ordinary_texts()
        try:
            source._source.score(ordinary[0], ordinary[1])
            source._source.prefer(*ordinary)
        except UserError as refusal:
            warnings.warn(f"'{self.plugin.name}' is checked on the task's own texts alone: {refusal}", stacklevel=2)
            return own
        except Exception:  # a check will meet it, and say so
            pass
        prompts, a, b = (mine + others for mine, others in zip(own, ordinary, strict=True))
        return prompts, a, b

    def with_config(self, config: type[Config]) -> SourceLab:
        """A lab for the same source under another Config class."""
        twin = type(self.cls.__name__, (self.cls,), {"Config": config, "__module__": self.cls.__module__})
        plugin = dataclasses.replace(self.plugin, cls=twin)
        catalog = dataclasses.replace(self.given, sources={**self.given.sources, plugin.name: plugin})
        return SourceLab(plugin, catalog, self.shape, self.store)

    def _task_texts(self, work: HarnessWork) -> tuple[list[str], list[str], list[str]]:
        rows = list(dict.fromkeys(work.task.demonstrations()))
        by_prompt = {prompt: [row.completion for row in rows if row.prompt == prompt] for prompt, _ in rows}
        pairs = [(p, a, b) for p, texts in by_prompt.items() for a, b in pairwise(texts)]
        prompts, a, b = (list(column) for column in zip(*pairs, strict=True))
        return prompts, a, b


def ordinary_texts() -> tuple[list[str], list[str], list[str]]:
    """Prompts, and two completions of each."""
    prompts = list(islice(cycle(PROMPTS), len(COMPLETIONS)))
    return prompts, list(COMPLETIONS), [*COMPLETIONS[1:], COMPLETIONS[0]]


class Idle(AlignmentMethod):
    """Asks for preferences and does nothing, so that somebody labels them."""

    name = "conformance-idle"
    needs = frozenset({"preferences"})

    def train(self, trial: Any, config: Any) -> None:
        pass


IDLE: Plugin[AlignmentMethod] = Plugin(Idle.name, Idle, "alignbench", "-", "method")


class Rated(RewardSource):
    """The oracle's gold with raters that differ, for a source that simulates them."""

    name = "rated"
    rating_sd = 1.0

    def __init__(self, gold: RewardSource) -> None:
        super().__init__(gold.config)
        self.gold = gold

    def score(self, prompts: Any, completions: Any) -> Tensor:
        return self.gold.score(prompts, completions)


def _load_rated(task: Any, folder: Path, base: Any) -> RewardSource:
    return Rated(super(type(task), task).load_gold(folder, base))


class HarnessLab:
    """The engine itself on one model."""

    def __init__(self, catalog: Catalog, shape: str, store: Store) -> None:
        task, source = catalog.task(TASK), catalog.source(TASK)
        self.shape = shape
        self.store = store
        self.task = task.cls(task.cls.Config())
        self.reward = source.cls(source.cls.Config())

    @property
    def model(self) -> Path:
        return Path(resolve_model(f"oracle-{self.shape}"))

    def resident(self, starts: Sequence[Path] = (), dropout: float = 0.0, without: Collection[str] = ()) -> Resident:
        lora = Lora(r=4, alpha=8, dropout=dropout)
        return Resident(
            self.model, starts, lora, torch.device("cpu"), torch.float32, kernels=KERNELS.get(), without=without
        )

    def shaken(self, *, packs: bool = True) -> Resident:
        """A model under an adapter that changes it; `packs`: a batch may pass as one packed row, or always padded."""
        resident = self.resident(without=() if packs else ["packing"])
        shake(resident.add_adapter(POLICY, 0))
        return resident

    def plain(self) -> PreTrainedModel:
        """The same weights by transformers alone."""
        return AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32).eval().requires_grad_(False)

    def start(self) -> Path:
        """The folder of a supervised start's adapter, far from the base model."""
        folder = self.store.root / f"start-{self.shape}"
        if not folder.exists():
            resident = self.resident()
            shake(resident.add_adapter("start", 0), seed=3)
            folder.mkdir(parents=True)
            resident.save_adapter("start", folder)
        return folder

    def engine(self) -> Engine:
        return Engine(
            self.model, Lora(r=4, alpha=8), torch.device("cpu"), torch.float32, OrderedDict(), kernels=KERNELS.get()
        )

    @contextmanager
    def trial(self, *, dropout: float = 0.0, with_start: bool = False) -> Iterator[tuple[LiveTrial, Resident]]:
        """A live trial on the oracle task, its reward the task's own table."""
        resident = self.resident([self.start()] if with_start else [], dropout)
        limit = self.task.max_new_tokens
        with tempfile.TemporaryDirectory(dir=self.store.root) as folder:
            yield (
                LiveTrial(
                    resident, OptimizerConfig(), seed=0, max_steps=1, max_new_tokens=limit,
                    prompts=self.task.prompts("train") * 20, meter=Meter(resident.device), workdir=Path(folder),
                    preferences=[pair._asdict() for pair in self.task.human_pairs(24, 0)],
                    reward=Checked(self.reward, "alignbench", Meter(resident.device)),
                ),
                resident,
            )  # fmt: skip

    def completions(self) -> list[str]:
        return self.task.completions("") or []

    def scores(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        return self.reward.score(prompts, completions)
