"""Where the checks run: the oracle task, the real plan and the real stages, all of it small."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignbench.run.execute import Bench
from alignbench.stages.work import LiveWork
from alignbench.store import Store
from alignbench.suite.plan import Plan, PlannedStage
from alignbench.suite.spec import Suite

TASK = "oracle"
KERNELS: ContextVar[str] = ContextVar("kernels", default="fast")  # of every engine that a check runs


def suite(shape: str, row: Any, steps: int, seed: int, **keys: Any) -> Suite:
    """A suite on the oracle task, as small as it can be."""
    return Suite.model_validate(
        {
            "name": "conformance", "model": f"oracle-{shape}", "device": "cpu", "dtype": "float32", "seeds": [seed],
            "max_steps": steps, "checkpoint_seconds": 0, "lora": {"r": 4, "alpha": 8}, "task": TASK,
            "kernels": KERNELS.get(),
            "sft": {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 0.005},
            "comparisons": {"source": "human", "pairs": 24},
            "reward_model": {"per_device_train_batch_size": 8}, "evaluation": {"prompts": 1, "held_out_pairs": 1},
            "methods": [row], **keys,
        }
    )  # fmt: skip


@contextmanager
def working(plan: Plan, stage: PlannedStage, store: Store, scratch: Path | None = None) -> Iterator[LiveWork]:
    """A stage ready to run in a folder that is gone afterwards, its scratch too unless it is given."""
    folder = Path(tempfile.mkdtemp(prefix="stage-", dir=store.root))
    try:
        bench = Bench(plan, store)
        for key in plan.upstream(stage.key):
            if key != stage.key:
                bench.compute(key)
        yield bench.work(stage, folder, scratch or folder / "scratch")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def shake(parameters: Sequence[nn.Parameter], seed: int = 7, scale: float = 0.3) -> None:
    """Random values, so that an adapter is no longer the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
