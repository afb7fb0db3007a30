"""`alignbench init`: from preference data to a suite that runs on it."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignbench.errors import UserError, nearest, printable
from alignbench.terminal import new_console

if TYPE_CHECKING:
    from alignbench.api import Pair
    from alignbench.tasks.preferences import Preferences

TOKENS_PER_WORD = 1.5  # of an English subword tokenizer, rather too many
ANSWER_TOKENS = (8, 128)  # bounds of max_new_tokens
PROMPT_CHARS = 600  # at least so many are allowed; beyond it nineteen prompts of twenty fit
MOST = {"pairs": 256, "prompts": 64, "held_out_pairs": 200}


def init(
    data: Annotated[list[str], typer.Argument(help="files, a folder, a pattern in quotes, or a Hub id")],
    model: Annotated[str, typer.Option(help="alias, Hub id or folder")] = "smollm2-135m",
    columns: Annotated[
        str | None, typer.Option(help="the data's names for ours: prompt=question,chosen=better,rejected=worse")
    ] = None,
    split: Annotated[str, typer.Option(help="of a Hub data set, or of a folder")] = "train",
    test_split: Annotated[str | None, typer.Option(help="what scores; default: a share of the data")] = None,
    output: Annotated[Path, typer.Option(help="the suite file to write")] = Path("suite.yaml"),
    force: Annotated[bool, typer.Option("--force", help="replace that file")] = False,
) -> None:
    """Look at preference data, say what it holds, and write a suite that compares DPO and PPO on it."""
    from alignbench.store import write_text
    from alignbench.tasks.preferences import Preferences

    _refuse_to_replace(output, force)
    options: dict[str, Any] = {"source": data[0] if len(data) == 1 else data}
    options |= {"columns": named} if (named := _columns(columns)) else {}
    options |= {"split": split} if split != "train" else {}
    options |= {"test_split": test_split} if test_split else {}
    everything = Preferences(Preferences.Config(**options, max_prompt_chars=10**9))
    options |= _lengths(everything.all_pairs)
    task = Preferences(Preferences.Config(**options))
    text = suite_text(model, options, task)
    try:
        write_text(output, text)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror}); name another file") from None
    say = new_console().print
    for line in (*told(task), f"{shlex.quote(str(output))} written; next: alignbench run {shlex.quote(str(output))}"):
        say(printable(line), highlight=False, markup=False)


def suite_text(model: str, options: Mapping[str, Any], task: Preferences) -> str:
    """YAML. JSON is YAML too, so that no name of a file or a column needs rules of its own."""
    splits = task.splits
    pairs = min(MOST["pairs"], len(splits.label))
    prompts = min(MOST["prompts"], len(task.prompts("eval")))
    held_out = min(MOST["held_out_pairs"], len(splits.held_out))
    lines = "".join(f"    {name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in options.items())
    return f"""\
# DPO and PPO on preference data of one's own. `alignbench plan` says what a run takes.
model: {json.dumps(model, ensure_ascii=False)}
seeds: [0, 1, 2]  # full replicates: from three on, rows are compared
max_steps: 48  # optimiser steps of each method
temperature: 0.7  # at which every policy is sampled, trained and scored
task:
  name: preferences
  options:
{lines}sft: {{max_steps: {_steps(len(splits.train))}}}
comparisons: {{source: human, pairs: {pairs}}}
evaluation: {{prompts: {prompts}, held_out_pairs: {held_out}}}
methods:
  - sft
  - {{method: dpo, sweep: [0.1, 0.5]}}  # beta
  - {{method: ppo, sweep: [0.05, 0.2]}}  # kl_coef
"""


def told(task: Preferences) -> list[str]:
    """What the data is, in lines of plain text."""
    pairs, splits = task.all_pairs, task.splits
    chosen, rejected = ([len(getattr(pair, side).split()) for pair in pairs] for side in ("chosen", "rejected"))
    longer = sum((a > b) + 0.5 * (a == b) for a, b in zip(chosen, rejected, strict=True)) / len(pairs)
    parts = ", ".join(f"{name.replace('_', ' ')} {len(part)}" for name, part in splits._asdict().items())
    return [
        task.describe(),
        f"{len({pair.prompt for pair in pairs})} different prompts; half of them have up to "
        f"{_quantile([len(pair.prompt.split()) for pair in pairs], 0.5)} words, half of the chosen answers "
        f"{_quantile(chosen, 0.5)}, half of the rejected ones {_quantile(rejected, 0.5)}",
        f"the chosen answer is the longer one in {longer:.0%} of pairs",
        f"dealt by dialogue: {parts}",
    ]


def _lengths(pairs: Sequence[Pair]) -> dict[str, int]:
    """Room for nine answers of ten, and for nineteen prompts of twenty."""
    words = _quantile([len(pair.chosen.split()) for pair in pairs], 0.9)
    # a language without spaces has no words to count
    letters = _quantile([len(pair.chosen) for pair in pairs], 0.9) / 4
    least, most = ANSWER_TOKENS
    tokens = min(most, max(least, math.ceil(max(TOKENS_PER_WORD * words, letters) / 8) * 8))
    chars = _quantile([len(pair.prompt) for pair in pairs], 0.95)
    return {"max_new_tokens": tokens, "max_prompt_chars": max(PROMPT_CHARS, math.ceil(chars / 100) * 100)}


def _quantile(values: Sequence[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _steps(demonstrations: int) -> int:
    """One pass over them in batches of 16, 100 steps at most."""
    return max(1, min(100, demonstrations // 16))


def _columns(text: str | None) -> dict[str, str]:
    from alignbench.tasks.formats import COLUMNS

    found: dict[str, str] = {}
    for part in (text or "").split(",") if text else []:
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not equals or not theirs:
            raise UserError(f"--columns {printable(part, 60)}: give ours=theirs, with commas between")
        if ours not in COLUMNS:
            raise UserError(f"--columns: no column '{printable(ours, 40)}' of ours; {nearest(ours, COLUMNS)}")
        found[ours] = theirs
    return found


def _refuse_to_replace(output: Path, force: bool) -> None:
    if os.path.lexists(output) and not force:
        raise UserError(f"--output {output}: it is there; name another file, or add --force")
