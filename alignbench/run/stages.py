"""How each of the harness's own kinds of stage is made. A plugin's stages bring their own function."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from itertools import combinations
from typing import Any, NamedTuple

import torch

from alignbench.api import AlignmentMethod, Decoding, Demonstration, MethodConfig, RewardSource
from alignbench.engine.lora import has_moved
from alignbench.engine.resident import Resident
from alignbench.engine.supervised import fit_supervised
from alignbench.engine.trial import POLICY, LiveTrial, sample_texts
from alignbench.errors import UserError
from alignbench.feedback.reward_model import RewardModel, fit_reward_model
from alignbench.run.work import LiveWork
from alignbench.scoring import closed_form as exact
from alignbench.scoring import evaluate
from alignbench.store import read_json, write_json, write_rows
from alignbench.suite.spec import RewardModelConfig, Training

HISTORY = "history.jsonl"  # numbers along a fit, a row per step


def sft(work: LiveWork) -> None:
    """A supervised adapter on the base model, or on another start point."""
    if "data" in work.stage.inputs:
        data = [Demonstration(row["prompt"], row["completion"]) for row in work.rows("data")]
    else:
        data = work.task.demonstrations()
    config = Training(**_without_seed(work.options))
    limit = config.max_completion_length or work.task.max_completion_tokens
    if "data" in work.stage.inputs:  # texts a model wrote within its own limit; a longer one has no end to learn
        limit = work.task.max_new_tokens
    with work.resident("on") as resident:
        history = fit_supervised(
            resident, data, config, seed=work.seed, meter=work.meter, progress=work.progress,
            max_new_tokens=limit, checkpoints=work.checkpoints,
        )  # fmt: skip
        resident.save_adapter("sft", work.folder)
    write_rows(work.folder / HISTORY, history)


def samples(work: LiveWork) -> None:
    """`per_prompt` completions of each label prompt."""
    prompts = _first(work.task.prompts("label"), work.options["prompts"], "comparisons.pairs", "label")
    per_prompt = work.options["per_prompt"]
    with work.resident("start") as resident:
        rollout = work.sample(
            resident,
            [p for p in prompts for _ in range(per_prompt)],
            work.task.max_new_tokens,
            work.options["temperature"],
        )
    groups = [slice(i, i + per_prompt) for i in range(0, len(rollout.completions), per_prompt)]
    is_ended = rollout.is_ended.tolist()
    work.save_rows(
        [
            {"prompt": prompt, "completions": rollout.completions[group], "is_ended": is_ended[group]}
            for prompt, group in zip(prompts, groups, strict=True)
        ]
    )


def comparisons(work: LiveWork) -> None:
    """Samples ranked by a source: by its preference for two, by wins over all pairs for more. Ties are left out."""
    rows = work.rows("samples")
    with ExitStack() as stack:
        source = work.open_source(stack, work.options["source"], work.options["options"])
        wins = [[0.0] * len(row["completions"]) for row in rows]
        for i, j in combinations(range(len(rows[0]["completions"])), 2):
            prompts = [row["prompt"] for row in rows]
            shares = source.prefer(
                prompts, [row["completions"][i] for row in rows], [row["completions"][j] for row in rows]
            )
            for place, p in enumerate(shares.tolist()):
                wins[place][i] += p
                wins[place][j] += 1 - p
    kept = []
    for row, points in zip(rows, wins, strict=True):
        order = sorted(range(len(points)), key=lambda i: -points[i])
        ranked = [row["completions"][i] for i in order]
        if max(points) > min(points) and ranked[0] != ranked[-1]:
            ended = {"chosen_ended": row["is_ended"][order[0]], "rejected_ended": row["is_ended"][order[-1]]}
            kept.append(
                {"prompt": row["prompt"], "chosen": ranked[0], "rejected": ranked[-1], "ranked": ranked, **ended}
            )
    work.save_rows(kept)


def human_comparisons(work: LiveWork) -> None:
    """Real human pairs of the training split."""
    pairs = _first(
        work.task.human_pairs(work.options["pairs"], work.seed), work.options["pairs"], "comparisons.pairs", "human"
    )
    work.count(labels_human=len(pairs))
    work.save_rows([{**pair._asdict(), "ranked": [pair.chosen, pair.rejected]} for pair in pairs])


def joined_comparisons(work: LiveWork) -> None:
    """Labelled samples and real human pairs as one set."""
    work.save_rows([row for name in work.stage.inputs for row in work.rows(name)])


def reward_model(work: LiveWork) -> None:
    """A Bradley-Terry adapter and head, centred and scaled on the texts it compared."""
    rows = work.rows("comparisons")
    config = RewardModelConfig(**_without_seed(work.options))
    with work.resident("start") as resident:
        model = RewardModel.fresh(
            resident, config.pooling, work.task.max_completion_tokens, work.seed, layers=config.layers
        )
        history = fit_reward_model(
            model, rows, config, seed=work.seed, meter=work.meter, progress=work.progress, checkpoints=work.checkpoints
        )
        prompts = [row["prompt"] for row in rows] * 2
        model.calibrate(prompts, [row[side] for side in ("chosen", "rejected") for row in rows])
        model.save(work.folder)
    write_rows(work.folder / HISTORY, history)


def train(work: LiveWork) -> None:
    """One method's run. The only stage in which a method's own code trains."""
    with ExitStack() as stack:
        run = open_trial(work, stack)
        run.method.train(run.trial, run.config)
        run.resident.save_adapter(POLICY, work.folder)
    write_rows(work.folder / HISTORY, run.trial.history)
    budget = run.trial.budget
    facts = {"steps": budget.used, "max_steps": budget.max_steps, "moved": has_moved(work.folder)}
    write_json(work.folder / "policy.json", {"is_start": False, **facts})


def untrained(work: LiveWork) -> None:
    """The start point as a policy."""
    write_json(work.folder / "policy.json", {"is_start": True})


class OpenTrial(NamedTuple):
    """A method at its start."""

    trial: LiveTrial
    method: AlignmentMethod
    config: MethodConfig
    resident: Resident


def open_trial(work: LiveWork, stack: ExitStack) -> OpenTrial:
    """All that a `train` stage puts before its method; what it holds is let go with the stack."""
    o = work.options
    plugin = work.plan.catalog.method(o["method"])
    config = plugin.cls.Config(**o["config"])
    workdir = work.scratch / "workdir"
    if work.checkpoints.found is None and workdir.exists():  # what a run left that will not be resumed
        shutil.rmtree(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    has_reward = "reward" in work.stage.inputs or o["reward"] is not None
    reward = _open_reward(work, stack, "reward") if has_reward else None
    resident = stack.enter_context(work.resident("start"))
    trial = LiveTrial(
        resident, config, seed=work.seed, max_steps=o["max_steps"], max_new_tokens=work.task.max_new_tokens,
        max_completion_tokens=work.task.max_completion_tokens,
        prompts=work.task.prompts("train"), meter=work.meter, workdir=workdir, reward=reward,
        progress=work.progress, checkpoints=work.checkpoints,
        preferences=work.rows("preferences") if "preferences" in work.stage.inputs else None,
    )  # fmt: skip
    return OpenTrial(trial, plugin.cls(), config, resident)


def completions(work: LiveWork) -> None:
    """The policy's own samples on held-out prompts, temperature 1, unfiltered, with their exact KL from the supervised
    start: one reference for every row, also for a method that moved its own start."""
    o = work.options
    prompts = _first(work.task.prompts("eval"), o["prompts"], "evaluation.prompts", "eval")
    prompts = [p for p in prompts for _ in range(o["per_prompt"])]
    generator = torch.Generator().manual_seed(work.seed)
    rows: list[dict[str, Any]] = []
    with work.resident("reference") as reference, work.resident("policy") as resident:
        adapter = _load_policy(work, resident)
        for start in range(0, len(prompts), o["batch_size"]):
            part = prompts[start : start + o["batch_size"]]
            rollout = sample_texts(resident, part, work.task.max_new_tokens, 1.0, generator)
            kl = evaluate.measure_kl(resident, adapter, reference, rollout.tokens)
            lengths = rollout.tokens.is_response.sum(-1)
            work.count(tokens_generated=int(lengths.sum()))
            columns = (rollout.completions, lengths, rollout.is_ended, *kl)
            names = ("completion", "tokens", "is_ended", "kl_nats_exact", "kl_nats_k1", "kl_nats_k3")
            rows += [
                {"prompt": p, **dict(zip(names, row, strict=True))}
                for p, row in zip(part, zip(*map(_plain, columns), strict=True), strict=True)
            ]
            work.progress(start + len(part), len(prompts))
    work.save_rows(rows)


def gold_rewards(work: LiveWork) -> None:
    """The gold reward of each completion."""
    with ExitStack() as stack:
        _save_rewards(work, work.open_gold(stack))


def proxy_rewards(work: LiveWork) -> None:
    """The reward a row optimised, of each completion."""
    with ExitStack() as stack:
        _save_rewards(work, _open_reward(work, stack, "proxy"))


def gold_card(work: LiveWork) -> None:
    """The gold reward's own validity."""
    with ExitStack() as stack:
        write_json(work.folder / "card.json", work.task.gold_card(work.open_gold(stack)))


def reward_card(work: LiveWork) -> None:
    """Accuracy on real human pairs no training stage saw, of the proxy or of a policy's implicit reward."""
    held_out = work.task.held_out_pairs()
    pairs = held_out.pairs[: work.options["held_out_pairs"]]
    if work.options["is_implicit"]:
        with work.resident("policy") as resident:
            adapter = _load_policy(work, resident)
            accuracy = evaluate.implicit_accuracy(resident, adapter, pairs, work.task.max_completion_tokens)
    else:
        with ExitStack() as stack:
            accuracy = evaluate.pair_accuracy(_open_reward(work, stack, "proxy"), pairs)
    card = {"hits": accuracy.hits, "count": accuracy.pairs, "human_accuracy": held_out.human_accuracy}
    write_json(work.folder / "card.json", card)


def closed_form(work: LiveWork) -> None:
    """Where every completion can be listed: the policy's expected rewards and KL without sampling, and its distance to
    the optimum of its own objective."""
    o, limit = work.options, work.task.max_new_tokens
    prompts = list(dict.fromkeys(_first(work.task.prompts("eval"), o["prompts"], "evaluation.prompts", "eval")))
    completions = [work.task.completions(prompt) or [] for prompt in prompts]
    with work.resident("policy") as resident:
        adapter = _load_policy(work, resident)
        policy, own_start = (
            exact.completion_logprobs(resident, name, prompts, completions, limit) for name in (adapter, None)
        )
    with work.resident("reference") as resident:
        reference = exact.completion_logprobs(resident, None, prompts, completions, limit)
    rewards = {}
    for name in ("gold", "proxy"):
        with ExitStack() as stack:
            source = work.open_gold(stack) if name == "gold" else _open_reward(work, stack, name)
            rows = [source.score([p] * len(texts), texts) for p, texts in zip(prompts, completions, strict=True)]
            rewards[name] = torch.stack(rows).double().cpu()
    metrics = {
        "reward_gold_enumerated": float(exact.mean_reward(policy, rewards["gold"]).mean()),
        "reward_proxy_enumerated": float(exact.mean_reward(policy, rewards["proxy"]).mean()),
        "kl_nats_enumerated": float(exact.kl(policy, reference).mean()),
    }
    if o["beta"] is not None and o["objective"] is not None:
        metrics |= exact.distance(policy, own_start, rewards[o["objective"]], o["beta"])._asdict()
    write_json(work.folder / "closed_form.json", metrics)


def score(work: LiveWork) -> None:
    """Everything the table says of one cell but its cost, written as scores.json. No model runs here."""
    rows, theirs = work.rows("completions"), _rewards(work, "baseline_gold")
    per_prompt = len(rows) // len(theirs)
    gold, proxy = (_rewards(work, name).view(-1, per_prompt) for name in ("gold", "proxy"))
    decoding = _decoding(work)
    weights = evaluate.decoding_weights(decoding, proxy)
    plain = evaluate.uniform(*gold.shape)
    kl = {
        name: evaluate.expected(torch.tensor([row[name] for row in rows]).view(-1, per_prompt), plain)
        for name in ("kl_nats_exact", "kl_nats_k1", "kl_nats_k3")
    }
    by_prompt = {
        "reward_gold": evaluate.expected(gold, weights),
        "reward_gold_gain": evaluate.expected(gold, weights) - theirs,
        "reward_proxy": evaluate.expected(proxy, weights),
        "win_rate_gold": evaluate.win_rate(gold, theirs, weights),
        "kl_nats_exact": kl["kl_nats_exact"],
    }
    metrics = {name: float(values.mean()) for name, values in {**by_prompt, **kl}.items()}
    metrics["reward_gold_sd"] = metrics.pop("reward_gold_gain") / max(float(theirs.std()), 1e-9)
    if decoding is not None:
        metrics["kl_nats_bound"] = decoding.kl_nats_bound()
    if "closed_form" in work.stage.inputs:
        metrics |= read_json(work.place(work.stage.inputs["closed_form"]) / "closed_form.json")
    card = read_json(work.place(work.stage.inputs["reward_card"]) / "card.json")
    metrics["reward_model_accuracy"] = card["hits"] / card["count"]
    picks = torch.multinomial(weights.double(), 1, generator=torch.Generator().manual_seed(work.seed)).squeeze(1)
    chosen = [rows[prompt * per_prompt + pick] for prompt, pick in enumerate(picks.tolist())]
    columns = zip(*((row["completion"], row["tokens"], row["is_ended"]) for row in chosen), strict=True)
    metrics |= evaluate.text_statistics(*columns)._asdict()
    strange = [name for name, value in metrics.items() if not math.isfinite(value)]
    if strange:  # the training behind it is sound, and its other numbers stand
        warnings.warn(f"not a finite number, so left out: {', '.join(strange)}", stacklevel=2)
    write_json(
        work.folder / "scores.json",
        {
            "metrics": {name: None if name in strange else value for name, value in metrics.items()},
            "per_prompt": {name: values.tolist() for name, values in by_prompt.items()},
            "counts": {"reward_model_accuracy": [card["hits"], card["count"]]},
            "context": {
                "human_accuracy": card["human_accuracy"],
                "gold_card": read_json(work.place(work.stage.inputs["gold_card"]) / "card.json"),
            },
        },
    )


STAGES: dict[str, Callable[[LiveWork], None]] = {
    run.__name__: run
    for run in (
        sft,
        samples,
        comparisons,
        human_comparisons,
        joined_comparisons,
        reward_model,
        train,
        untrained,
        completions,
        gold_rewards,
        proxy_rewards,
        gold_card,
        reward_card,
        closed_form,
        score,
    )
}


def _load_policy(work: LiveWork, resident: Any) -> str | None:
    """The trained adapter under its name, or None for the bare start point."""
    folder = work.place(work.stage.inputs["policy"])
    if json.loads((folder / "policy.json").read_text())["is_start"]:
        return None
    resident.load_adapter(POLICY, folder)
    return POLICY


def _decoding(work: LiveWork) -> Decoding | None:
    rule = work.options["decoding"]
    if rule is None:
        return None
    plugin = work.plan.catalog.method(rule["method"])
    return plugin.cls().decoding(plugin.cls.Config(**rule["config"]))


def _open_reward(work: LiveWork, stack: ExitStack, name: str) -> RewardSource:
    """The fitted reward model that is input `name`, or the unfitted source the options name."""
    if name in work.stage.inputs:
        return work.open_reward_model(stack, work.stage.inputs[name])
    return work.open_source(stack, work.options["reward"]["name"], work.options["reward"]["options"])


def _save_rewards(work: LiveWork, source: RewardSource) -> None:
    rows = work.rows("completions")
    scores = source.score([r["prompt"] for r in rows], [r["completion"] for r in rows])
    work.save_rows([{"reward": score} for score in scores.tolist()])


def _rewards(work: LiveWork, name: str) -> torch.Tensor:
    return torch.tensor([row["reward"] for row in work.rows(name)], dtype=torch.float64)


def _first(items: list[Any], count: int, option: str, split: str) -> list[Any]:
    if len(items) < count:
        raise UserError(
            f"{option}: {count} asked for, the task's {split} split has {len(items)}; lower it or enlarge the split"
        )
    return items[:count]


def _plain(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, torch.Tensor) else list(values)


def _without_seed(options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "seed"}
