"""Warnings about the rewards that rows were trained or judged by: learned by heart, or surer than they are right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import sqrt

from alignbench.scoring.record import Record

# Ouyang et al. 2022 saw one epoch overfit already; people agree with each other on 73 to 89 % of pairs, so a model that
# orders 95 % of noisy labels as they stand has learned the noise.
BY_HEART = 0.95
# Of accuracy, training less held-out, and beyond two standard errors of the difference. Votes on samples that are much
# alike are harder to order than held-out pairs that people rated well apart, so a gap this way round has one cause.
GAP = 0.15
# Of probability: it says 90 % where it is right on 80. The other way round is harmless: scores are scaled before use.
OVERCONFIDENCE = 0.1


def warnings(records: Iterable[Record]) -> list[str]:
    """Lines of plain text, one for each proxy and what is wrong with it, with the replicates in which it is."""
    found: dict[str, dict[int, str]] = {}
    everything = list(records)
    learned = {record.context.comparisons for record in everything}  # one proxy of each
    for record in everything:
        if record.status == "ok" and record.snapshot is None:
            of = record.label if record.proxy is None or "implicit" in record.proxy else record.proxy
            of += f" ({record.context.comparisons})" if len(learned) > 1 else ""
            for problem, numbers in _problems(record):
                found.setdefault(f"{of}: {problem}", {})[record.seed] = numbers
    return [
        f"{what} ({'; '.join(f'seed {seed}: {numbers}' for seed, numbers in sorted(by_seed.items()))})"
        for what, by_seed in found.items()
    ]


def _problems(record: Record) -> Iterator[tuple[str, str]]:
    train, held_out = (record.counts.get(f"reward_model_{name}") for name in ("train_accuracy", "accuracy"))
    if train and held_out and train[1] and held_out[1]:
        (fitted, by_chance), (other, by_chance_too) = (_share(*counts) for counts in (train, held_out))
        told = f"{fitted:.1%} of training pairs, {other:.1%} of held-out ones"
        if fitted > BY_HEART:
            yield (
                f"it orders more than {BY_HEART:.0%} of the pairs that it was fitted to, so it has learned their noise",
                told,
            )
        if fitted - other > max(GAP, 2 * sqrt(by_chance + by_chance_too)):
            yield f"training pairs are more than {GAP * 100:.0f} points of accuracy above held-out ones", told
    excess = record.metrics.get("reward_model_overconfidence")
    if excess is not None and excess > OVERCONFIDENCE:
        yield (
            f"it is surer than it is right by more than {OVERCONFIDENCE * 100:.0f} points on held-out pairs",
            f"{excess:.1%}",
        )


def _share(hits: float, trials: int) -> tuple[float, float]:
    """And the variance of it."""
    share = hits / trials
    return share, share * (1 - share) / trials
