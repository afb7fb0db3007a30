"""What a method's own stage may see of a task: its training data, and nothing that scores the row."""

from __future__ import annotations

from typing import Any

from alignbench.api import Rubric, Task
from alignbench.errors import UserError


class TrainingView:
    """A task without its held-out prompts, its held-out pairs and its gold reward."""

    def __init__(self, task: Task) -> None:
        # Functions and no attribute that is the task: who looks around by name finds no way to the rest.
        self.name = task.name
        self.rubric: Rubric = task.rubric
        self.max_new_tokens = task.max_new_tokens
        self.max_completion_tokens = task.max_completion_tokens
        self.data_seed = task.data_seed
        self.demonstrations = _reading(task, "demonstrations")
        self.human_pairs = _reading(task, "human_pairs")
        self.prompts = _training_prompts(task)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UserError(f"a method's stage may not read the task's `{name}`; it sees training data alone")


def _reading(task: Task, name: str) -> Any:
    def read(*args: Any, **options: Any) -> Any:
        return getattr(task, name)(*args, **options)

    return read


def _training_prompts(task: Task) -> Any:
    def prompts(split: str) -> list[str]:
        if split not in ("train", "label"):
            raise UserError(f"a method's stage may not read the '{split}' prompts; 'train' and 'label' are allowed")
        return task.prompts(split)  # type: ignore[arg-type]  # checked above

    return prompts
