"""What a method's own stage may see of a task: its training data, and nothing that scores the row."""

from __future__ import annotations

import random
from typing import Any

from alignbench.api import Rubric, Split, Task
from alignbench.errors import UserError


def drawn(task: Task, split: Split, seed: int) -> list[str]:
    """A split's prompts in the order of one replicate, whose comparisons are of the first so many. Held-out prompts
    have one order for all."""
    prompts = task.prompts(split)
    return prompts if split == "eval" else random.Random(f"{split} {seed}").sample(prompts, len(prompts))


class TrainingView:
    """A task without its held-out prompts, its held-out pairs and its gold reward, as one replicate draws it."""

    def __init__(self, task: Task, seed: int) -> None:
        # Functions and no attribute that is the task: who looks around by name finds no way to the rest.
        self.name = task.name
        self.rubric: Rubric = task.rubric
        self.max_new_tokens = task.max_new_tokens
        self.max_completion_tokens = task.max_completion_tokens
        self.data_seed = task.data_seed
        self.demonstrations = _reading(task, "demonstrations")
        self.human_pairs = _reading(task, "human_pairs")
        self.prompts = _training_prompts(task, seed)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UserError(f"a method's stage may not read the task's `{name}`; it sees training data alone")


def _reading(task: Task, name: str) -> Any:
    def read(*args: Any, **options: Any) -> Any:
        return getattr(task, name)(*args, **options)

    return read


def _training_prompts(task: Task, seed: int) -> Any:
    def prompts(split: str) -> list[str]:
        if split not in ("train", "label"):
            raise UserError(f"a method's stage may not read the '{split}' prompts; 'train' and 'label' are allowed")
        return drawn(task, split, seed)  # type: ignore[arg-type]  # checked above

    return prompts
