"""Everything the table says of one cell but its cost. No model runs here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from alignbench.api import Config, Decoding, Stage
from alignbench.stages.kind import SPENT, Contract, Kind, Told
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
    """Inputs: `completions`; `gold` and `proxy`, their rewards; `baseline`, `baseline_gold` and `baseline_proxy`, the
    start point's on the same prompts; `second_gold` and `baseline_second_gold` where the task has one; `gold_card`,
    `reward_card`; `closed_form` where the task lists every completion; `lm_loss` and `baseline_lm_loss`, the policy's
    and the start's, where it has other texts; `human_lm_loss`, the start's on people's texts, unless the task's are no
    language."""

    name = "score"
    view = "scoring"
    seconds = 0.0005

    class Options(Config):
        prompts: int
        decoding: Rule | None
        words: tuple[str, ...] = ()

    def make(self, work: HarnessWork) -> None:
        from alignbench.scoring import evaluate
        from alignbench.scoring.best_of_curve import best_of_curve
        from alignbench.scoring.deployment import deployment
        from alignbench.scoring.exploits import exploits

        o, rows = self.Options(**work.options), work.rows("completions")
        gold, proxy, baseline, baseline_proxy = (
            work.rewards(name).view(o.prompts, -1) for name in ("gold", "proxy", "baseline_gold", "baseline_proxy")
        )
        decoding = _decoding(work, o.decoding)
        weights = evaluate.decoding_weights(decoding, proxy)
        by_prompt = _by_prompt(rows, gold, proxy, baseline, baseline_proxy, weights) | _of_the_golds(work, weights)
        by_prompt["reward_proxy_gain"] = by_prompt["reward_proxy"] - baseline_proxy.mean(1)
        if curve := best_of_curve(baseline_proxy, baseline):
            by_prompt["reward_model_best_of"] = curve[-1].gain
        by_prompt |= _manner(rows, work.rows("baseline"), weights, o.words)
        metrics = {name: float(values.mean()) for name, values in by_prompt.items()}
        start_sd = float(baseline.std())
        metrics["reward_gold_sd"] = metrics.pop("reward_gold_gain") / max(start_sd, 1e-9)
        if decoding is None and gold.shape[1] > 1:
            metrics["reward_gold_variance"] = float(gold.var(1).mean())
        if decoding is not None:
            metrics["kl_nats_bound"] = decoding.kl_nats_bound()
        if "closed_form" in work.stage.inputs:
            metrics |= read_json(work.place("closed_form") / "closed_form.json")
        card = read_json(work.place("reward_card") / "card.json")
        judged = _judged(card)
        metrics |= {name: told["hits"] / told["pairs"] for name, told in judged.items() if ":" not in name}
        of_card = {name: card[name] for name in ("ece", "overconfidence", "brier", "length", "cut")}
        metrics |= {f"reward_model_{name}": value for name, value in of_card.items() if value is not None}
        if "lm_loss" in work.stage.inputs:
            metrics["forgetting_nats"] = _loss(work, "lm_loss") - _loss(work, "baseline_lm_loss")
        if "human_lm_loss" in work.stage.inputs:
            metrics["surprise_nats"] = _loss_of(rows, weights) - _loss(work, "human_lm_loss")
        metrics |= _text(rows, weights, work.seed)
        spent = (read_json(work.place(name) / SPENT) for name in ("completions", "proxy"))
        used = 1 if decoding is None else decoding.samples_used
        metrics |= deployment(used, used > 1, len(rows), *spent)._asdict()
        kept = ("reward_gold", "reward_gold_gain", "reward_proxy", "win_rate_gold", "kl_nats_exact",
                "reward_model_start_accuracy", "reward_model_own_accuracy", "reward_model_best_of",
                "reward_gold_second", "reward_gold_second_gain", "reward_proxy_gain",
                "length_change", "word_share_change")  # fmt: skip
        changes = proxy - baseline_proxy.mean(1, keepdim=True), gold - baseline.mean(1, keepdim=True)
        write_json(
            work.folder / "scores.json",
            {
                "metrics": _finite(metrics),
                "per_prompt": {name: by_prompt[name].tolist() for name in kept if name in by_prompt},
                "best_of": [
                    {"n": each.n, "gain": float(each.gain.mean()), "ceiling": float(each.ceiling.mean())}
                    for each in curve
                ],
                "exploits": exploits(rows, *changes, weights),
                "counts": {name: _trials(told) for name, told in judged.items()},
                "context": {
                    "human_accuracy": card["human_accuracy"],
                    "gold_card": read_json(work.place("gold_card") / "card.json"),
                    "start_gold_sd": start_sd,
                    "start_gold_second_sd": _second_sd(work),
                    "samples_per_prompt": gold.shape[1],
                },
            },
        )

    def runs(self, options: Mapping[str, Any]) -> list[tuple[Contract, str]]:
        return [] if options["decoding"] is None else [("method", options["decoding"]["method"])]

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        return Told(f"score of {label}", below["gold"].size)


def _judged(card: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Hits and pairs: of the held-out ones, of those fitted to, of all other kinds together, of each kind."""
    found: dict[str, Mapping[str, Any]] = {"reward_model_accuracy": card}
    if "train" in card:
        found["reward_model_train_accuracy"] = card["train"]
    if kinds := card["other"]:
        together = {name: sum(told[name] for told in kinds.values()) for name in ("hits", "pairs", "effective")}
        found["reward_model_accuracy_other"] = together
    return found | {f"reward_model_accuracy_other:{kind}": told for kind, told in kinds.items()}


def _trials(told: Mapping[str, float]) -> list[float]:
    """Hits and trials, as many as independent ones would say as much: pairs share texts."""
    trials = max(1, int(told["effective"]))
    return [told["hits"] / told["pairs"] * trials, trials]


def _loss(work: HarnessWork, name: str) -> float:
    """Nats per token, over all texts together."""
    rows = work.rows(name)
    return sum(row["nats"] for row in rows) / sum(row["tokens"] for row in rows)


def _loss_of(rows: list[dict[str, Any]], weights: Tensor) -> float:
    """The start's nats per token over the completions that a row returns, all together."""
    import torch

    nats, tokens = (torch.tensor([row[name] for row in rows]).double().view(weights.shape) for name in ("nats", "read"))
    return float((nats * weights).sum() / (tokens * weights).sum())


def _by_prompt(
    rows: list[dict[str, Any]],
    gold: Tensor,
    proxy: Tensor,
    baseline: Tensor,
    baseline_proxy: Tensor,
    weights: Tensor,
) -> dict[str, Tensor]:
    """(P, N) rewards of a row's N samples a prompt, (P, M) of the start's M -> (P,) each: expectations over the
    samples. KL is that of a plain sample under any decoding rule."""
    import torch

    from alignbench.scoring.evaluate import expected, uniform, win_rate
    from alignbench.scoring.reward_card import own_accuracy

    ordered = {"start": (baseline_proxy, baseline), "own": (proxy, gold)}
    accuracy = {
        f"reward_model_{whose}_accuracy": own_accuracy(*pair) for whose, pair in ordered.items() if pair[0].shape[1] > 1
    }
    kl = {
        name: expected(torch.tensor([row[name] for row in rows]).view(gold.shape), uniform(*gold.shape))
        for name in ("kl_nats_exact", "kl_nats_k1", "kl_nats_k3")
    }
    reward = expected(gold, weights)
    return {
        "reward_gold": reward,
        "reward_gold_gain": reward - baseline.mean(1),
        "reward_proxy": expected(proxy, weights),
        "win_rate_gold": win_rate(gold, baseline, weights),
        **accuracy,
        **kl,
    }


def _manner(
    rows: list[dict[str, Any]], baseline: list[dict[str, Any]], weights: Tensor, words: tuple[str, ...]
) -> dict[str, Tensor]:
    """(P,) change from the start, on the same prompt, of the completions' tokens and of the share that has a word."""
    import torch

    from alignbench.feedback.words import has_word
    from alignbench.scoring.evaluate import expected

    def change(told: Callable[[dict[str, Any]], float]) -> Tensor:
        ours, starts = (torch.tensor([told(row) for row in part]).double() for part in (rows, baseline))
        return expected(ours.view(weights.shape), weights) - starts.view(len(weights), -1).mean(1)

    found = {"length_change": change(lambda row: float(row["tokens"]))}
    if words:
        found["word_share_change"] = change(lambda row: float(has_word(row["completion"], words)))
    return found


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


def _second_sd(work: HarnessWork) -> float | None:
    """Of the start's samples by the second gold, where there is one."""
    return float(work.rewards("baseline_second_gold").std()) if "second_gold" in work.stage.inputs else None


def _text(rows: list[dict[str, Any]], weights: Tensor, seed: int) -> dict[str, float]:
    """Text statistics: length, end and repetition as expectations over all samples; distinct word pairs, whose share
    falls as texts are added, of one sample a prompt, drawn by the decoding rule."""
    import torch

    from alignbench.scoring.evaluate import expected, repetition, share_distinct

    def mean(values: list[float]) -> float:
        return float(expected(torch.tensor(values).view(weights.shape), weights).mean())

    picks = torch.multinomial(weights.double(), 1, generator=torch.Generator().manual_seed(seed)).squeeze(1)
    chosen = [rows[prompt * weights.shape[1] + pick] for prompt, pick in enumerate(picks.tolist())]
    return {
        "completion_tokens": mean([float(row["tokens"]) for row in rows]),
        "eos_rate": mean([float(row["is_ended"]) for row in rows]),
        "distinct_2": share_distinct([row["completion"] for row in chosen]),
        "repetition": mean([repetition(row["completion"]) for row in rows]),
    }


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
