"""Checks of the engine itself: identities, invariances and equivalences that every method's numbers rest on."""

from __future__ import annotations

from itertools import product

import torch
from peft import PeftModel
from scipy.stats import chisquare
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignbench.api import OptimizerConfig, TokenBatch
from alignbench.engine.meter import Meter
from alignbench.engine.optim import Optimizer
from alignbench.engine.resident import POLICY, Resident
from alignbench.engine.sampling import sample_texts
from alignbench.feedback.reward_model import RewardModel, fit_reward_model, pool
from alignbench.scoring import closed_form
from alignbench.scoring.evaluate import measure_kl
from alignbench.suite.spec import RewardModelConfig
from alignbench.testing.kit import Unmet, check
from alignbench.testing.labs import HarnessLab
from alignbench.testing.tape import plain_logprobs, widened
from alignbench.testing.trials import logprobs_of
from alignbench.testing.worlds import shake

PROMPTS = ["a", "cab", "bcabca", ""]  # of different lengths, so that batches are padded
COMPLETIONS = ["bc", "", "a", "cabb"]
LIMIT = 5
TIGHT = 1e-5  # nats, in float32


@check(
    "harness", "logprobs_are_plain_transformers", traps=(1,),
    requires="Log-probabilities under an adapter equal those of the model's own forward pass, each sequence alone and "
    "unpadded, to 1e-5 nats, and are zero outside the response.",
    cause="engine.resident: position ids or attention mask, or states read one place off (engine.logprobs.before)",
)  # fmt: skip
def _(lab: HarnessLab) -> None:
    for temperature, packs in product((1.0, 0.7), (True, False)):
        resident = lab.shaken(packs=packs)
        tokens, how = encoded(resident), f"at temperature {temperature}{'' if packs else ', padded'}"
        with torch.no_grad():
            ours = resident.logprobs(tokens, temperature)
            same(ours, plain_logprobs(resident.module, tokens, temperature), f"log-probabilities {how}")
            same(resident.logprobs_and_entropies(tokens, temperature)[0], ours, f"the pass with entropies {how}")


@check(
    "harness", "padding_order_and_batch_size_change_nothing", traps=(14,),
    requires="Padding on the left or right, what it holds, batch order and batch size leave log-probabilities as they "
    "are, to 1e-5 nats.",
    cause="position ids that count padding (learned positions show it, rotary ones hide it), or an attention mask",
)  # fmt: skip
def _(lab: HarnessLab) -> None:
    for packs in (True, False):
        resident = lab.shaken(packs=packs)
        tokens = encoded(resident)
        sums = read(resident, tokens)
        same(sums, read(resident, left_padded(tokens)), "padding on the left")
        same(sums, read(resident, widened(tokens, 3, 1)), "wider padding")
        same(sums, read(resident, TokenBatch(*(t.flip(0) for t in tokens))).flip(0), "reverse order")
        singles = [read(resident, TokenBatch(*(t[i : i + 1] for t in tokens))) for i in range(len(PROMPTS))]
        same(sums, torch.cat(singles), "one at a time")


@check(
    "harness", "sampler_draws_from_the_logprobs", traps=(3,),
    requires="2,000 samples of each prompt in one batch are distributed over all completions as exp(log-probabilities) "
    "at the temperature they were drawn with (chi-square, p > 1e-6).",
    cause="a temperature applied on one side only, a filter on the distribution, or positions wrong under left padding",
)  # fmt: skip
def _(lab: HarnessLab) -> None:
    resident, count, limit = lab.shaken(), 2000, 2
    completions = lab.completions()
    for temperature in (1.0, 0.7):
        prompts = [p for p in PROMPTS for _ in range(count)]
        rollout = sample_texts(resident, prompts, limit, temperature, generator(), rows=len(prompts))
        for i, prompt in enumerate(PROMPTS):
            tokens = resident.codec.encode([prompt] * len(completions), completions, max_new_tokens=limit)
            expected = read(resident, tokens, temperature).double().exp()
            drawn = rollout.completions[i * count : (i + 1) * count]
            seen = [drawn.count(text) for text in completions]
            if abs(float(expected.sum()) - 1) > 1e-4 or sum(seen) != count:
                raise Unmet(f"probabilities sum to {float(expected.sum()):.4f}; {sum(seen)} of {count} samples listed")
            p = float(chisquare(seen, (expected / expected.sum() * count).tolist()).pvalue)
            if p < 1e-6:
                gap = (torch.tensor(seen) / count - expected).abs().max()
                raise Unmet(
                    f"at temperature {temperature:g} after '{prompt}' a share is off by {gap:.3f} (p = {p:.1g})"
                )


@check(
    "harness", "dropout_is_off_in_rollouts", traps=(2,),
    requires="Samples, reference log-probabilities and scores of a model in training mode, dropout 0.5, equal those in "
    "eval mode, and the mode is as before.",
    cause="engine.resident.Resident.using does not put the model into eval mode, or is not used",
)  # fmt: skip
def _(lab: HarnessLab) -> None:
    with lab.trial(dropout=0.5) as (trial, resident):
        shake(list(resident.activate(POLICY)))
        seen = []
        for is_training in (False, True):
            resident.module.train(is_training)
            trial._generator.manual_seed(0)
            rollout = trial.sample(PROMPTS * 8)
            seen.append((rollout.completions, trial.reference_logprobs(rollout.tokens)))
            if resident.base.training != is_training:
                raise Unmet(f"training mode was {is_training} and is {resident.base.training} after sampling")
        if seen[0][0] != seen[1][0]:
            raise Unmet("samples differ between eval and training mode")
        same(seen[0][1], seen[1][1], "reference log-probabilities in training mode")


@check(
    "harness", "reference_is_the_supervised_start", traps=(7,),
    requires="reference_logprobs() are those of the supervised start, by PEFT on the base model alone, to 1e-5 nats, "
    "whatever the policy's adapter holds; they differ from the base model's.",
    cause="an adapter switched off that held the start: the reference is the raw base model then",
)  # fmt: skip
def _(lab: HarnessLab) -> None:
    with lab.trial(with_start=True) as (trial, resident):
        shake(list(resident.activate(POLICY)), seed=5)
        tokens = encoded(resident)
        ours = trial.reference_logprobs(tokens)
        start = PeftModel.from_pretrained(lab.plain(), str(lab.start())).eval()
        same(ours, plain_logprobs(start, tokens), "the reference against base + start adapter")
        if float((ours - plain_logprobs(lab.plain(), tokens)).abs().max()) < 1e-3:
            raise Unmet("the reference is the base model")


@check(
    "harness", "merging_changes_no_output", traps=(30,),
    requires="A start point merged into the weights gives the logits of its adapter on the base model, to 5e-6 of the "
    "largest in float32.",
    cause="a scale (alpha / r) left out or applied twice, or a merge in lower precision",
)  # fmt: skip
def _(lab: HarnessLab) -> None:
    merged, ids = lab.resident(starts=[lab.start()]), torch.tensor([[0, 1, 2, 3, 1, 2]])
    start = PeftModel.from_pretrained(lab.plain(), str(lab.start())).eval()
    with torch.no_grad():
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        ours, theirs = (model(**inputs).logits for model in (merged.module, start))
    gap = float((ours - theirs).abs().max() / theirs.abs().max())
    if gap > 5e-6:
        raise Unmet(f"the logits differ by {gap:.2g} of their size")


@check(
    "harness", "a_fresh_policy_is_the_start",
    requires="A new adapter changes no bit of the log-probabilities, and its exact KL from the start is 0.",
    cause="an adapter whose B does not begin at zero, or dropout in eval mode",
)  # fmt: skip
def _(lab: HarnessLab) -> None:
    with lab.trial(with_start=True) as (_, resident):
        tokens = encoded(resident)
        ours, bare = logprobs_of(resident, tokens, POLICY), logprobs_of(resident, tokens, None)
        kl = float(measure_kl(resident, POLICY, resident, tokens).exact.abs().max())
        if not torch.equal(ours, bare) or kl != 0:
            raise Unmet(f"log-probabilities differ by {float((ours - bare).abs().max()):.3g}, the KL is {kl:.3g} nats")


@check(
    "harness", "reference_gap_is_that_of_step_0", traps=(33,),
    requires="reference_gap() is the start's, computed after the policy has moved as well as before, and the same when "
    "asked again.",
    cause="a gap of the policy's own, computed on first use, after training began",
)  # fmt: skip
def _(lab: HarnessLab) -> None:
    with lab.trial(with_start=True) as (trial, resident):
        pair = next(trial.preference_batches())
        bare = [logprobs_of(resident, side, None).sum(-1) for side in (pair.chosen, pair.rejected)]
        shake(list(resident.activate(POLICY)), seed=5)
        for _ in range(2):
            same(trial.reference_gap(pair), bare[0] - bare[1], "reference_gap() after the policy moved")
        mine = trial.logprob_gap(pair)
        if float((mine.detach() - (bare[0] - bare[1])).abs().max()) < 1e-3:
            raise Unmet("logprob_gap() is the reference's although the policy moved")


@check(
    "harness", "reference_text_is_the_starts", traps=(32,),
    requires="After a policy was on it, the resident start samples what it sampled before.",
    cause="engine.resident.Resident.drop_adapters leaves an adapter on, or sampling does not ask which one is",
)  # fmt: skip
def _(lab: HarnessLab) -> None:
    engine = lab.engine()

    def sampled(resident: Resident) -> list[str]:
        return sample_texts(resident, PROMPTS * 16, LIMIT, 1.0, generator()).completions

    with engine.resident([lab.start()]) as resident:
        texts = sampled(resident)
        shake(resident.add_adapter(POLICY, 0), seed=5)
        if sampled(resident) == texts:
            raise Unmet("a policy that moved samples what the start does")
    with engine.resident([lab.start()]) as resident:
        if sampled(resident) != texts:
            raise Unmet("the start's samples are other ones after a policy was there")


@check(
    "harness", "reward_is_read_at_the_real_tokens", traps=(15, 28),
    requires="A reward model's score is its head on the hidden states of the text alone, unpadded: on that of the last "
    "token, which is the end of sequence, or on their mean; on either padding side.",
    cause="feedback.reward_model.pool: a place found by the padding id, by the batch's width, or one short of the end",
)  # fmt: skip
def _(lab: HarnessLab) -> None:
    plain = lab.plain()
    for pooling in ("last", "mean"):
        resident = lab.resident()
        model = RewardModel.fresh(resident, pooling, LIMIT, seed=0)
        shake(list(model.head.parameters()), scale=1.0)
        tokens = model.encode(PROMPTS, COMPLETIONS)
        with torch.no_grad():
            rows = [alone(plain, ids[real]) for ids, real in zip(*tokens[:2], strict=True)]
            wanted = torch.stack([row[-1] if pooling == "last" else row.mean(0) for row in rows])
            expected = model.head(wanted).squeeze(-1)
        same(model.score(PROMPTS, COMPLETIONS), expected, f"scores, pooling {pooling}")
        left = left_padded(tokens)
        with torch.no_grad():
            same(model.head(pool(resident.hidden(left), left.is_token, pooling)).squeeze(-1), expected, "left padding")


@check(
    "harness", "same_seed_same_reward_model", traps=(31,),
    requires="Two reward models fitted with one seed score alike, bit for bit; another seed gives another model.",
    cause="a head or an adapter drawn from the global generator, or an order of pairs that the seed does not set",
)  # fmt: skip
def _(lab: HarnessLab) -> None:
    rows = [{"prompt": p, "chosen": "ab"[: 1 + i % 2], "rejected": "c"} for i, p in enumerate(PROMPTS * 4)]
    config = RewardModelConfig(per_device_train_batch_size=8)
    scores = []
    for seed in (0, 0, 1):
        model = RewardModel.fresh(lab.resident(), "mean", LIMIT, seed)
        torch.rand(1)  # the global generator is elsewhere each time
        fit_reward_model(model, rows, config, seed=seed, meter=Meter(torch.device("cpu")))
        scores.append(model.score(PROMPTS, COMPLETIONS))
    if not torch.equal(scores[0], scores[1]):
        raise Unmet(f"one seed, and scores differ by up to {float((scores[0] - scores[1]).abs().max()):.3g}")
    if torch.equal(scores[0], scores[2]):
        raise Unmet("two seeds gave the same reward model")


@check(
    "harness", "a_score_of_zero_is_a_score", shapes=("llama",), traps=(9,),
    requires="Trial.reward() returns what the source returns, text by text, exact zeros included.",
    cause="a score tested for truth, which takes 0.0 for none",
)  # fmt: skip
def _(lab: HarnessLab) -> None:
    with lab.trial() as (trial, _):
        rollout = trial.sample(list(trial.prompts[:60]["prompt"]))
        table = lab.scores(rollout.prompts, rollout.completions)
        same(trial.reward(rollout), table, "Trial.reward()")
        if not (table == 0).any():
            raise Unmet("no sampled text scores 0.0: the check sees nothing")


@check(
    "harness", "kl_estimators_agree_with_enumeration",
    requires="The exact, k1 and k3 estimators' expectation over all completions is the enumerated KL, to 1e-5 nats.",
    cause="scoring.evaluate.measure_kl: a token left out, another reference, or a clamp",
)  # fmt: skip
def _(lab: HarnessLab) -> None:
    with lab.trial(with_start=True) as (_, resident):
        shake(list(resident.activate(POLICY)), seed=5)
        completions = lab.completions()
        for prompt in PROMPTS:
            listed = ([prompt], [completions], 2)
            policy, start = (closed_form.completion_logprobs(resident, name, *listed)[0] for name in (POLICY, None))
            truth = float(closed_form.kl(policy[None], start[None])[0])
            tokens = resident.codec.encode([prompt] * len(completions), completions, max_new_tokens=2)
            for name, values in measure_kl(resident, POLICY, resident, tokens)._asdict().items():
                expected = float((policy.exp() * values).sum())
                if abs(expected - truth) > TIGHT:
                    raise Unmet(f"after '{prompt}' {name} expects {expected:.6f} nats, the KL is {truth:.6f}")


@check(
    "harness", "accumulation_weighs_items", shapes=(), traps=(29,),
    requires="A step over passes of 1, 5 and 2 items has the gradient of one pass over all 8.",
    cause="engine.optim.Optimizer.accumulate: a mean of the passes' means",
)  # fmt: skip
def _(lab: HarnessLab) -> None:
    data, gradients = torch.randn(8, 3, generator=generator()), []
    for parts in ([8], [1, 5, 2]):
        weight = nn.Parameter(torch.ones(3))
        config = OptimizerConfig(gradient_accumulation_steps=len(parts), max_grad_norm=1e6)
        optimizer = Optimizer([([weight], 1e-3)], config, 1)
        hook = optimizer._adamw.register_step_pre_hook(lambda *_: gradients.append(grad_of(weight)))  # noqa: B023
        for part in data.split(parts):
            optimizer.accumulate((part @ weight).mean(), len(part))
        hook.remove()
    same(gradients[1], gradients[0], "the gradient in parts")


# -------------------------------------------------------------------------------------------------------------- helpers


def grad_of(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad.clone()


def alone(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """(T, H) hidden states of one text, unpadded."""
    mask = torch.ones_like(ids[None])
    return model.base_model(input_ids=ids[None], attention_mask=mask).last_hidden_state[0]


def encoded(resident: Resident) -> TokenBatch:
    return resident.codec.encode(PROMPTS, COMPLETIONS, max_new_tokens=LIMIT)


@torch.no_grad()
def read(resident: Resident, tokens: TokenBatch, temperature: float = 1.0) -> Tensor:
    """(B,) sums of log-probabilities under the active adapter."""
    return resident.logprobs(tokens, temperature).sum(-1)


def left_padded(tokens: TokenBatch) -> TokenBatch:
    shifts = (~tokens.is_token).sum(-1).tolist()
    return TokenBatch(*(torch.stack([row.roll(s) for row, s in zip(t, shifts, strict=True)]) for t in tokens))


def same(ours: Tensor, theirs: Tensor, what: str, tolerance: float = TIGHT) -> None:
    gap = float((ours - theirs).detach().abs().max())
    if not gap <= tolerance:
        raise Unmet(f"{what}: off by up to {gap:.3g}, {tolerance:g} is allowed")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
