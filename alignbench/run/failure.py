"""Why a stage failed, as data: it crosses process borders and stands in records."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any, Literal, get_args

from alignbench.errors import PluginError, UserError, in_words, printable
from alignbench.suite.plan import PlannedStage

Blame = Literal["user", "plugin", "bug"]
MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
LONGEST_TRACE = 100_000  # characters: an exception's text is of any length, and a message is not
LOWER = "lower per_device_train_batch_size, rollout_batch_size or evaluation.batch_size"


@dataclass(frozen=True)
class Failure:
    cause: str  # one line
    blame: Blame  # a mistake in what was given, a plugin that broke its contract, or anything else
    traceback: str = ""


def failure_from(said: Any) -> Failure:
    """A failure as another process told it. ValueError, KeyError or TypeError if it is none: a plugin may have."""
    failure = Failure(**said)
    is_text = all(isinstance(text, str) for text in vars(failure).values())
    if not is_text or not failure.cause.strip() or failure.blame not in get_args(Blame):
        raise ValueError("no failure")
    return Failure(printable(failure.cause), failure.blame, failure.traceback)


def failure_of(error: BaseException, stage: PlannedStage) -> Failure:
    """What a stage's exception says, with the plugin whose code ran named."""
    trace = "".join(traceback.format_exception(error))[-LONGEST_TRACE:]
    if isinstance(error, UserError | PluginError):
        return Failure(in_words(error), "user" if isinstance(error, UserError) else "plugin", trace)
    said = in_words(error)
    if isinstance(error, SystemExit):
        said = f"it called sys.exit({error.code!r}); return from the function instead"
    if isinstance(error, MemoryError) or any(words in said.lower() for words in MEMORY):
        said += f"; {LOWER}"
    return Failure(f"{stage.owner}: {said}" if stage.owner else said, "bug", trace)
