"""Constitutional AI (Bai et al. 2022, arXiv:2212.08073): critique and revision by principles, then RL from AI feedback.

SL-CAI: the supervised start answers, the base model criticises and revises the answer by a principle drawn from the
constitution, `num_revisions` times; a supervised stage on the revisions is the new start. RL-CAI: the base model
compares the new start's samples by the same principles, a reward model is fitted to that, PPO optimises it. The row
differs from `rlaif` in the two lines of `recipe` that put SL-CAI first and the principles into the judge's guidelines.

Simplified: the reviser is the base model rather than the assistant that is being trained, and it needs no few-shot
prompt because its answer is opened for it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError

import alignbench
from alignbench import AlignmentMethod, Config, Inputs, RecipeBuilder, Rubric, SourceRef, UserError, Work
from alignbench_ppo import PPO

TOKENS_PER_CRITIQUE = 24


class Principle(Config):
    """One article of a constitution, in three wordings."""

    name: str
    critique: str  # asks for what is wrong with a text
    revision: str  # asks for a better one
    preference: str  # guideline for comparing two


class Constitution(Config):
    principles: tuple[Principle, ...]


class ConstitutionalAI(PPO):
    name = "constitutional"
    summary = "critique and revision by principles, then PPO on AI preferences by the same principles"

    class Config(PPO.Config):
        constitution: str | None = (
            None  # a YAML file, or "harmless" (shipped); None: one principle from the task's rubric
        )
        dropped: list[str] = Field(default_factory=list)  # names of its principles that are left out
        num_revisions: PositiveInt = 1  # rounds of critique and revision
        num_prompts: PositiveInt = 128  # label prompts that are answered and revised
        num_train_epochs: PositiveFloat = 1  # passes of SL-CAI over the revisions, `sft.max_steps` at most
        direct: bool = False  # optimise the judge's score instead of a reward model fitted to its labels

    def recipe(self, config: Config, build: RecipeBuilder) -> Inputs:
        principles = kept(load_constitution(config.constitution, build.rubric), config.dropped)
        articles = [p.model_dump() for p in principles]
        revisions = build.stage(
            "revisions", revise, {"start": build.sft()}, principles=articles, num_revisions=config.num_revisions,
            num_prompts=config.num_prompts,
        )  # fmt: skip
        start = build.sft(revisions, on=build.sft(), num_train_epochs=config.num_train_epochs)
        judge = SourceRef("judge", {"guidelines": [p.preference for p in principles]})
        if config.direct:
            return Inputs(start, reward=judge)
        return Inputs(start, reward=build.reward_model(start, build.compare(build.samples(start), judge)))


def load_constitution(source: str | None, rubric: Rubric) -> Constitution:
    """The principles of a file, of a shipped constitution, or the one principle a rubric makes."""
    if source is None:
        return Constitution(principles=(from_rubric(rubric),))
    shipped = resources.files(__package__) / f"{source}.yaml"
    path = shipped if shipped.is_file() else Path(source).expanduser()
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        constitution = Constitution.model_validate(data)
    except OSError as error:
        raise UserError(
            f"constitution '{source}': no such file, and none of that name is shipped (harmless)"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"constitution '{source}': not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"constitution '{source}': {where}: {first['msg']}; each principle has {_fields(Principle)}"
        ) from error
    if not constitution.principles:
        raise UserError(f"constitution '{source}': no principles; write at least one, with {_fields(Principle)}")
    return constitution


def kept(constitution: Constitution, dropped: Sequence[str]) -> list[Principle]:
    """Its principles without those of these names. UserError if one is not there, or none is left."""
    names = [principle.name for principle in constitution.principles]
    for name in dropped:
        if name not in names:
            raise UserError(f"dropped: the constitution has no principle '{name}'; it has {', '.join(names)}")
    found = [principle for principle in constitution.principles if principle.name not in dropped]
    if not found:
        raise UserError("dropped: no principle is left; keep one at least")
    return found


def from_rubric(rubric: Rubric) -> Principle:
    subject, best, worst = rubric.subject.lower(), rubric.best.lower(), rubric.worst.lower()
    return Principle(
        name="rubric",
        critique=f"What makes the {subject} less {best} than it could be?",
        revision=f"The same {subject}, rewritten so that it is {best} and not at all {worst}:",
        preference=rubric.guideline,
    )


def revise(work: Work) -> None:
    """Answer, criticise, revise; rows of prompt and last revision, ready for supervised fine-tuning."""
    rubric: Rubric = work.task.rubric
    principles = [Principle(**article) for article in work.options["principles"]]
    prompts = work.task.prompts("label")[: work.options["num_prompts"]]
    rng = random.Random(work.seed)
    length = work.task.max_new_tokens
    with work.resident("start") as start:
        answers = work.sample(start, prompts, length).completions
    rows: list[dict[str, Any]] = [
        {"prompt": p, "answer": a, "rounds": []} for p, a in zip(prompts, answers, strict=True)
    ]
    with work.resident() as critic:
        for _ in range(work.options["num_revisions"]):
            drawn = [rng.choice(principles) for _ in prompts]
            shown = [f"{rubric.subject}: {p}{a}\n" for p, a in zip(prompts, answers, strict=True)]
            questions = [f"{text}{d.critique}\nAnswer:" for text, d in zip(shown, drawn, strict=True)]
            critiques = work.sample(critic, questions, TOKENS_PER_CRITIQUE, temperature=0.7).completions
            # a completion that goes on with its prompt's own sentence is revised from the prompt's last word on
            leads = [p if rubric.is_continuation else "" for p in prompts]
            requests = [
                f"{q}{_line(c)}\n{d.revision}{' ' * bool(lead)}{lead}"
                for q, c, d, lead in zip(questions, critiques, drawn, leads, strict=True)
            ]
            texts = work.sample(critic, requests, length, temperature=0.7).completions
            answers = [
                _line(text) if rubric.is_continuation else _after(prompt, text)
                for prompt, text in zip(prompts, texts, strict=True)
            ]
            for row, principle, critique, answer in zip(rows, drawn, critiques, answers, strict=True):
                row["rounds"].append({"principle": principle.name, "critique": critique, "revision": answer})
    revised = [{**row, "completion": row["rounds"][-1]["revision"]} for row in rows]
    work.save_rows([row for row in revised if row["completion"].strip()])


def _line(text: str) -> str:
    """The first line of what a model wrote, a space in front."""
    return " " + text.strip().split("\n", 1)[0].strip()


def _after(prompt: str, text: str) -> str:
    """A whole reply as it stands behind its prompt: one space from its last word, none from a line's beginning."""
    return f"{' ' * (prompt == prompt.rstrip())}{text.strip()}"


def _fields(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


@alignbench.hookimpl
def alignbench_methods() -> list[type[AlignmentMethod]]:
    return [ConstitutionalAI]
