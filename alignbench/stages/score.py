"""Everything the table says of one cell but its cost. No model runs here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alignbench.api import Config, Decoding, Stage
from alignbench.stages.kind import Contract, Kind, Told
from alignbench.store import read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.stages.work import HarnessWork


class Rule(Config):
    """A method whose `decoding` picks among samples."""

    method: str
    code: str  # digest of the method's
    config: Mapping[str, Any]  # JSON values


class Score(Kind):
    """Inputs: `completions`; `gold` and `proxy`, their rewards; `baseline_gold`, the start point's on the same prompts;
    `second_gold` and `baseline_second_gold` where the task has one; `gold_card`, `reward_card`; `closed_form` where the
    task lists every completion."""

    name = "score"
    view = "scoring"
    seconds = 0.0005

    class Options(Config):
        decoding: Rule | None

    def make(self, work: HarnessWork) -> None:
        from alignbench.scoring import evaluate

        rows, baseline = work.rows("completions"), work.rewards("baseline_gold")
        per_prompt = len(rows) // len(baseline)
        gold, proxy = (work.rewards(name).view(-1, per_prompt) for name in ("gold", "proxy"))
        decoding = _decoding(work, self.Options(**work.options).decoding)
        weights = evaluate.decoding_weights(decoding, proxy)
        by_prompt = _by_prompt(rows, gold, proxy, baseline, weights) | _of_the_golds(work, weights)
        metrics = {name: float(values.mean()) for name, values in by_prompt.items()}
        metrics["reward_gold_sd"] = metrics.pop("reward_gold_gain") / max(float(baseline.std()), 1e-9)
        if decoding is not None:
            metrics["kl_nats_bound"] = decoding.kl_nats_bound()
        if "closed_form" in work.stage.inputs:
            metrics |= read_json(work.place("closed_form") / "closed_form.json")
        card = read_json(work.place("reward_card") / "card.json")
        metrics["reward_model_accuracy"] = card["hits"] / card["count"]
        metrics |= _text(rows, weights, work.seed)
        kept = ("reward_gold", "reward_gold_gain", "reward_proxy", "win_rate_gold", "kl_nats_exact",
                "reward_gold_second", "reward_gold_second_gain")  # fmt: skip
        write_json(
            work.folder / "scores.json",
            {
                "metrics": _finite(metrics),
                "per_prompt": {name: by_prompt[name].tolist() for name in kept if name in by_prompt},
                "counts": {"reward_model_accuracy": [card["hits"], card["count"]]},
                "context": {
                    "human_accuracy": card["human_accuracy"],
                    "gold_card": read_json(work.place("gold_card") / "card.json"),
                },
            },
        )

    def runs(self, options: Mapping[str, Any]) -> list[tuple[Contract, str]]:
        return [] if options["decoding"] is None else [("method", options["decoding"]["method"])]

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        return Told(f"score of {label}", below["gold"].size)


def _by_prompt(
    rows: list[dict[str, Any]], gold: Tensor, proxy: Tensor, baseline: Tensor, weights: Tensor
) -> dict[str, Tensor]:
    """(P,) each: expectations over the N samples of a prompt. KL is that of a plain sample under any decoding rule."""
    import torch

    from alignbench.scoring.evaluate import expected, uniform, win_rate

    kl = {
        name: expected(torch.tensor([row[name] for row in rows]).view(gold.shape), uniform(*gold.shape))
        for name in ("kl_nats_exact", "kl_nats_k1", "kl_nats_k3")
    }
    reward = expected(gold, weights)
    return {
        "reward_gold": reward,
        "reward_gold_gain": reward - baseline,
        "reward_proxy": expected(proxy, weights),
        "win_rate_gold": win_rate(gold, baseline, weights),
        **kl,
    }


def _of_the_golds(work: HarnessWork, weights: Tensor) -> dict[str, Tensor]:
    """(P,) each: how often the gold extrapolates, where it can tell, and the second gold's word, where there is one."""
    import torch

    from alignbench.scoring.evaluate import expected

    found = {}
    if "extrapolates" in (rows := work.rows("gold"))[0]:
        beyond = torch.tensor([row["extrapolates"] for row in rows], dtype=torch.float64)
        found["gold_extrapolates"] = expected(beyond.view(weights.shape), weights)
    if "second_gold" in work.stage.inputs:
        reward = expected(work.rewards("second_gold").view(weights.shape), weights)
        found["reward_gold_second"] = reward
        start = work.rewards("baseline_second_gold").view(len(weights), -1).mean(1)
        found["reward_gold_second_gain"] = reward - start
    return found


def _text(rows: list[dict[str, Any]], weights: Tensor, seed: int) -> dict[str, float]:
    """Text statistics of one sample a prompt, drawn by the decoding rule."""
    import torch

    from alignbench.scoring.evaluate import text_statistics

    per_prompt = weights.shape[1]
    picks = torch.multinomial(weights.double(), 1, generator=torch.Generator().manual_seed(seed)).squeeze(1)
    chosen = [rows[prompt * per_prompt + pick] for prompt, pick in enumerate(picks.tolist())]
    columns = zip(*((row["completion"], row["tokens"], row["is_ended"]) for row in chosen), strict=True)
    return text_statistics(*columns)._asdict()


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """None for what is no finite number, which is said: the training behind it is sound, its other numbers stand."""
    strange = [name for name, value in metrics.items() if not math.isfinite(value)]
    if strange:
        warnings.warn(f"not a finite number, so left out: {', '.join(strange)}", stacklevel=2)
    return {name: None if name in strange else value for name, value in metrics.items()}


def _decoding(work: HarnessWork, rule: Rule | None) -> Decoding | None:
    if rule is None:
        return None
    method = work.method(rule.method)
    return method().decoding(method.Config(**rule.config))
