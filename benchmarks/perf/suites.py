"""What a suite costs beside its cells: a process that walks suites and says where the seconds went.

`python -m benchmarks.perf.suites FILE`, FILE being JSON {"suites": [paths], "is_shared": bool, "asked": seconds}: all
suites against one store, or each against a store of its own; `asked` is when the process was asked for.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.run.execute import import_engine
from alignbench.run.here import run_here
from alignbench.run.schedule import Watcher
from alignbench.store import Store
from alignbench.suite.plan import Plan
from alignbench.suite.spec import load_suite

EVALUATION = frozenset(
    {"completions", "gold_rewards", "proxy_rewards", "gold_card", "reward_card", "closed_form", "score"}
)


class Seconds(Watcher):
    """Adds up seconds by kind of stage."""

    def __init__(self) -> None:
        self.by_kind: dict[str, float] = defaultdict(float)

    def stage_ends(self, stage: Any, seconds: float, is_cached: bool, cause: str | None) -> None:
        if cause is not None:
            raise RuntimeError(f"stage {stage.kind} failed: {cause}")
        self.by_kind[stage.kind] += seconds


class Trained:
    """Seconds inside the methods' own `train`, by wrapping it."""

    def __init__(self, plan: Plan) -> None:
        self.seconds = 0.0
        for cls in {plan.catalog.method(cell.method).cls for cell in plan.cells}:
            cls.train = self._timed(cls.train)

    def _timed(self, train: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            began = time.perf_counter()
            train(*args)
            self.seconds += time.perf_counter() - began

        return run


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text())
    starting = time.time() - work["asked"]
    began = time.perf_counter()
    import_engine()  # torch, transformers and peft, else part of the first suite
    libraries = time.perf_counter() - began
    took = []
    with tempfile.TemporaryDirectory() as folder:
        for place, suite in enumerate(work["suites"]):
            began = time.perf_counter()
            plan, stages = make_plan(load_suite(Path(suite)), load_catalog()), Seconds()
            trained = Trained(plan)
            run_here(plan, Store(Path(folder, "store" if work["is_shared"] else str(place))), stages)
            took.append(time.perf_counter() - began)
    print(json.dumps({
        "seconds": took, "starting": starting, "libraries": libraries, "trained": trained.seconds,
        "last": stages.by_kind,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
