"""The harness's kinds of stage: how each is described, what its time grows with, and how long one unit takes.

A plugin's own stage needs no entry: it is called by its kind and estimated by what its options count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from alignbench.api import Stage
from alignbench.suite.build import labellers


class Kind(NamedTuple):
    seconds: float  # per unit of `size`: the quickstart on two cores of an AMD Zen 5, bfloat16
    size: Callable[[Stage], float]  # steps, pairs, completions
    title: Callable[[Stage, str], str]  # of a stage, and the label of the row that asks for it


def title(stage: Stage, label: str) -> str:
    """A stage in a few words, which tell it from its siblings: rows of a sweep differ in their labels."""
    return _kind(stage).title(stage, label)


def size(stage: Stage) -> float:
    """What the time of a stage grows with."""
    return float(_kind(stage).size(stage))


def estimate(stage: Stage) -> float:
    """Seconds, before anything of the kind was seen."""
    return size(stage) * _kind(stage).seconds


def _kind(stage: Stage) -> Kind:
    return KINDS.get(stage.kind, OTHER) if stage.run is None else OTHER


def _named(stage: Stage, label: str = "") -> str:
    return stage.kind.replace("_", " ")


def _on(name: str) -> Callable[[Stage, str], str]:
    """Named after one of its inputs, where it has it: 'sft on revisions'."""
    return lambda s, label: _named(s) + (f" on {title(s.inputs[name], label)}" if name in s.inputs else "")


def _of_completions(stage: Stage, label: str) -> str:
    return f"{_named(stage)} of the {title(stage.inputs['completions'], label)}"


def _labelled(stage: Stage, label: str) -> str:
    return f"comparisons by {labellers(stage)}"


def _counted(stage: Stage) -> float:
    return next((stage.options[name] for name in ("max_steps", "pairs", "num_prompts") if name in stage.options), 100)


def _policy(stage: Stage, label: str) -> str:
    return label if stage.inputs["policy"].kind == "train" else "the start point"


def _option(name: str) -> Callable[[Stage], float]:
    return lambda stage: stage.options[name]


def _below(name: str) -> Callable[[Stage], float]:
    return lambda stage: size(stage.inputs[name])


def _drawn(stage: Stage) -> float:
    return stage.options["prompts"] * stage.options["per_prompt"]


OTHER = Kind(0.1, _counted, _named)
KINDS: dict[str, Kind] = {
    "sft": Kind(0.2, _option("max_steps"), _on("data")),
    "samples": Kind(0.01, _drawn, _named),
    "comparisons": Kind(0.015, lambda s: s.inputs["samples"].options["prompts"], _labelled),
    "human_comparisons": Kind(0.0001, _option("pairs"), _named),
    "joined_comparisons": Kind(0.0001, lambda s: sum(size(part) for part in s.inputs.values()), _labelled),
    "reward_model": Kind(
        0.04, lambda s: size(s.inputs["comparisons"]) * s.options["num_train_epochs"], _on("comparisons")
    ),
    "train": Kind(0.75, _option("max_steps"), lambda s, label: f"train {label}, seed {s.options['seed']}"),
    "untrained": Kind(0.01, lambda s: 1, lambda s, label: "start point as a policy"),
    "completions": Kind(
        0.025, _drawn, lambda s, label: f"completions of {_policy(s, label)}, seed {s.options['seed']}"
    ),
    "gold_rewards": Kind(0.006, _below("completions"), _of_completions),
    "proxy_rewards": Kind(0.01, _below("completions"), _of_completions),
    "gold_card": Kind(2.0, lambda s: 1, _named),
    "reward_card": Kind(
        0.02, _option("held_out_pairs"),
        lambda s, label: f"reward card of {_policy(s, label)}" if "policy" in s.inputs else _on("proxy")(s, label),
    ),
    "closed_form": Kind(0.001, _option("prompts"), lambda s, label: f"closed form of {_policy(s, label)}"),
    "score": Kind(0.0005, _below("gold"), lambda s, label: f"score of {label}"),
}  # fmt: skip
