"""Checks of a reward source: what labelling, reward models and PPO rely on."""

from __future__ import annotations

from typing import Any

import torch
import yaml
from torch import Tensor

from alignbench.api import RewardSource
from alignbench.testing.configs import noting_reads, variations
from alignbench.testing.kit import Unmet, check, is_labelled
from alignbench.testing.labs import SourceLab

ONE = ("llama",)
TOLERANCE = 1e-5
LARGE = 128  # rows of a batch above which a source may cut it into parts


@check(
    "source", "scores_are_finite_float32", shapes=ONE,
    requires="score() returns a float32 tensor of shape (B,), finite, also for one text; prefer() the same, in [0, 1].",
    cause="a list, a column (B, 1), integers, or a division by a length of 0",
)  # fmt: skip
def _(lab: SourceLab) -> None:
    with lab.opened() as (source, work):
        prompts, a, b = lab.texts(source, work)
        raw: RewardSource = source._source  # behind the guard, which would convert what can be converted
        for count in (len(prompts), 1):
            part = slice(count)
            for call, values in (
                ("score", raw.score(prompts[part], a[part])), ("prefer", raw.prefer(prompts[part], a[part], b[part]))
            ):  # fmt: skip
                if not isinstance(values, Tensor):
                    raise Unmet(f"{call}() of {count} texts returned a {type(values).__name__}")
                if tuple(values.shape) != (count,) or values.dtype != torch.float32:
                    raise Unmet(f"{call}() of {count} texts returned {values.dtype} of shape {tuple(values.shape)}")
                if not torch.isfinite(values).all():
                    raise Unmet(f"{call}() returned {values[~torch.isfinite(values)][0]}")
                if call == "prefer" and not ((values >= 0) & (values <= 1)).all():
                    raise Unmet(f"prefer() returned {float(values.min()):.3g} to {float(values.max()):.3g}")


@check(
    "source", "a_batch_equals_its_singles", shapes=ONE,
    requires="A text's score, and a pair's preference, are the same alone, in a batch and in one of more than "
    f"{LARGE} rows, to 1e-5 (of the largest score, where that is above 1); and not all texts score alike.",
    cause="padding that is read, or a normalisation over the batch",
)  # fmt: skip
def _(lab: SourceLab) -> None:
    with lab.opened() as (source, work):
        prompts, a, b = lab.texts(source, work)
        copies = LARGE // len(prompts) + 1
        scores = source.score(prompts, a)
        if (scores == scores[0]).all():
            raise Unmet(f"every one of {len(a)} texts scored {float(scores[0]):g}: the check saw nothing")
        for call, columns in (("score", (prompts, a)), ("prefer", (prompts, a, b))):
            whole = getattr(source, call)(*columns)
            large = getattr(source, call)(*(column * copies for column in columns))
            for i in range(len(prompts)):
                alone = float(getattr(source, call)(*([column[i]] for column in columns))[0])
                for seen, count in ((whole[i], len(prompts)), (large[i], len(large))):
                    if abs(alone - float(seen)) > slack(scores):
                        text = f"{a[i][:30]!r} after {prompts[i][:30]!r}"
                        raise Unmet(f"{call}() of {text} is {alone:.6g} alone and {float(seen):.6g} among {count}")


@check(
    "source", "order_does_not_matter", shapes=ONE,
    requires="Texts in another order get the same scores, to 1e-5 (of the largest score, where that is above 1), and "
    "so they do when they are read again.",
    cause="a state that one text leaves for the next, a generator that runs on, or results not put back in order",
)  # fmt: skip
def _(lab: SourceLab) -> None:
    with lab.opened() as (source, work):
        prompts, a, b = lab.texts(source, work)
        for call, columns in (("score", (prompts, a)), ("prefer", (prompts, a, b))):
            forwards = getattr(source, call)(*columns)
            backwards = getattr(source, call)(*(column[::-1] for column in columns)).flip(0)
            if (gap := float((forwards - backwards).abs().max())) > slack(source.score(prompts, a)):
                raise Unmet(f"{call}() differs by up to {gap:.3g} when the texts come in reverse")


@check(
    "source", "prefer_is_antisymmetric", shapes=ONE,
    requires="prefer(a, b) = 1 - prefer(b, a), to 1e-5.",
    cause="a liking for the first place; average over both orders",
)  # fmt: skip
def _(lab: SourceLab) -> None:
    with lab.opened() as (source, work):
        prompts, a, b = lab.texts(source, work)
        sums = source.prefer(prompts, a, b) + source.prefer(prompts, b, a)
        if (gap := float((sums - 1).abs().max())) > TOLERANCE:
            raise Unmet(f"prefer(a, b) + prefer(b, a) misses 1 by up to {gap:.3g}")


@check(
    "source", "same_seed_same_scores", shapes=ONE,
    requires="Two instances made with one seed give the same scores, bit for bit.",
    cause="a generator that the room's seed does not set, or Python's salted hash()",
)  # fmt: skip
def _(lab: SourceLab) -> None:
    scores = []
    for _ in range(2):
        with lab.opened() as (source, work):
            prompts, a, _b = lab.texts(source, work)
            scores.append(source.score(prompts, a))
    if not torch.equal(*scores):
        raise Unmet(f"they differ by up to {float((scores[0] - scores[1]).abs().max()):.3g}")


@check(
    "source", "every_call_is_metered", shapes=ONE, applies=is_labelled,
    requires="Each call of score() and prefer() is billed: labels_per_comparison labels a text or pair, and the tokens "
    "that a model read.",
    cause="`tokens_judged` not raised where the model runs, or a cache that answers for nothing",
)  # fmt: skip
def _(lab: SourceLab) -> None:
    with lab.opened() as (source, work):
        prompts, a, b = lab.texts(source, work)
        kind = f"labels_{lab.cls.labels}"
        for call, columns in (("score", (prompts, a)), ("prefer", (prompts, a, b)), ("score", (prompts, a))):
            before = dict(work.meter.counts)
            getattr(source, call)(*columns)
            billed = {name: count - before[name] for name, count in work.meter.counts.items()}
            owed = len(prompts) * source.labels_per_comparison
            if billed[kind] != owed:
                raise Unmet(f"{call}() of {len(prompts)} cost {billed[kind]} {kind}, {owed} are owed")
            if lab.cls.labels == "ai" and billed["tokens_judged"] <= 0:
                raise Unmet(f"{call}() of {len(prompts)} cost no tokens_judged")


@check(
    "source", "source_config_survives_yaml", shapes=ONE,
    requires="A Config written to YAML and read back equals itself, for every choice it offers.",
    cause="a field of a type that YAML does not have, or a validator that changes what it accepts",
)  # fmt: skip
def _(lab: SourceLab) -> None:
    for options in variations(lab.cls.Config):
        config: Any = lab.cls.Config(**options)
        back = lab.cls.Config(**yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))))
        if back != config:
            raise Unmet(f"{config!r} came back as {back!r}")


@check(
    "source", "every_source_config_field_is_read", shapes=ONE,
    requires="prepare(), score() and prefer() together read every field, over all choices offered.",
    cause="an option that does nothing; remove it, or read it",
)  # fmt: skip
def _(lab: SourceLab) -> None:
    read: set[str] = set()
    twin = lab.with_config(noting_reads(lab.cls.Config, read))
    for options in variations(lab.cls.Config):
        with twin.opened(options) as (source, work):
            prompts, a, b = twin.texts(source, work)
            source.score(prompts, a)
            source.prefer(prompts, a, b)
    if unread := set(lab.cls.Config.model_fields) - read:
        raise Unmet(f"never read: {', '.join(sorted(unread))}")


def slack(scores: Tensor) -> float:
    """How far two readings of a text may lie apart: rounding grows with the scores."""
    return TOLERANCE * max(1.0, float(scores.abs().max()))
