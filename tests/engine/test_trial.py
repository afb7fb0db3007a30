"""What a method sees: identities at step 0, budget, reference, seeds. Each on GPT-2 (position ids) and Llama (RoPE)."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alignbench.api import OptimizerConfig
from alignbench.engine.meter import Meter
from alignbench.engine.trial import LiveTrial
from alignbench.errors import UserError
from alignbench.feedback.length import Length

MODELS = ["gpt2", "llama"]
PROMPTS = ["the film is", "a", "the plot", "", "a bad one and", "the long", "one"]
PAIRS = [
    {"prompt": p, "chosen": c, "rejected": r}
    for p, c, r in [
        ("the film is", " good", " a dull and long one"),
        ("a", " good plot and a good film", ""),
        ("", "the", " bad"),
        ("the long plot", " is good.", " is bad."),
        ("one", " good", " bad"),
    ]
]


@pytest.fixture
def trial(resident, tmp_path):
    """`trial(name, ...)`: a LiveTrial with prompts, pairs and a reward for length."""

    def make(
        name, *, seed=0, max_steps=4, on=None, pairs=PAIRS, prompts=PROMPTS, reward=True, temperature=1.0, **config
    ):
        made = resident(name) if on is None else on
        options = {"per_device_train_batch_size": 2, "lr_scheduler_type": "constant", "learning_rate": 5e-3, **config}
        return LiveTrial(
            made, OptimizerConfig(**options), seed=seed, max_steps=max_steps, max_new_tokens=8, prompts=prompts,
            meter=Meter(made.device), workdir=tmp_path, preferences=pairs,
            reward=Length(Length.Config()) if reward else None, temperature=temperature,
        )  # fmt: skip

    return make


def dpo(trial, beta=0.5):
    """Margins and losses of a few steps, written out here."""
    losses = []
    for pair in trial.preference_batches():
        margin = trial.logprob_gap(pair) - trial.reference_gap(pair)
        loss = -F.logsigmoid(beta * margin).mean()
        losses.append(float(loss))
        trial.step(loss, margin=margin.mean())
    return losses


def weights(trial):
    return torch.cat([p.detach().flatten() for n, p in trial.policy.named_parameters() if "lora_" in n])


def everything(trial):
    return trial.encode([row["prompt"] for row in PAIRS], [row["chosen"] for row in PAIRS])


# ------------------------------------------------------------------------------------------------ identities at step 0


@pytest.mark.parametrize("name", [*MODELS, "granite", "gemma2"])
def test_policy_and_reference_are_one_at_step_0(trial, name):
    made = trial(name)
    tokens = everything(made)
    with torch.no_grad():
        ratio = (made.logprobs(tokens, temperature=0.7) - made.reference_logprobs(tokens, temperature=0.7)).exp()
    assert torch.equal(ratio, torch.ones_like(ratio))
    for pair in made.preference_batches():
        gap = made.logprob_gap(pair)
        assert torch.equal(gap.detach(), made.reference_gap(pair))
        assert float(-F.logsigmoid(gap - made.reference_gap(pair)).mean()) == pytest.approx(np.log(2), abs=1e-7)
        break


@pytest.mark.parametrize("name", [*MODELS, "granite", "gemma2"])
def test_actor_critic_gives_the_logprobs_of_the_plain_pass_and_values_of_the_state_before(trial, name):
    made = trial(name)
    tokens = everything(made)
    head = torch.nn.Linear(made.hidden_size(), 1)
    with torch.no_grad():
        out = made.actor_critic(tokens, head, temperature=0.7)
        torch.testing.assert_close(out.logprobs, made.logprobs(tokens, temperature=0.7), atol=1e-5, rtol=1e-5)
        hidden = made.policy(input_ids=tokens.ids[:1], output_hidden_states=True).hidden_states[-1][0]
        first = int(tokens.is_response[0].nonzero()[0])
        torch.testing.assert_close(out.values[0, first], head(hidden[first - 1])[0], atol=1e-5, rtol=1e-5)
    assert (out.values[~tokens.is_response] == 0).all()
    assert (out.entropies[tokens.is_response] > 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", [*MODELS, "granite", "gemma2"])
def test_the_trainers_logprobs_of_a_sample_are_the_samplers_own(trial, shake, name, temperature):
    """The sampler's: step by step, without cache, through the policy a TRL trainer would be handed."""
    made = trial(name)
    shake(p for n, p in made.policy.named_parameters() if "lora_" in n)
    rollout = made.sample(PROMPTS, temperature=temperature)
    with torch.no_grad():
        ours = made.logprobs(rollout.tokens, temperature=temperature)
        for ids, is_response, row in zip(rollout.tokens.ids, rollout.tokens.is_response, ours, strict=True):
            for t in is_response.nonzero().flatten().tolist():
                log_p = (made.policy(input_ids=ids[None, :t]).logits[0, -1] / temperature).log_softmax(-1)
                assert float(row[t]) == pytest.approx(float(log_p[ids[t]]), abs=2e-5)


def test_what_a_method_asks_without_a_temperature_is_of_the_suites(trial, shake):
    made, heat = trial("llama", temperature=0.7), {"temperature": 0.7}
    shake(p for n, p in made.policy.named_parameters() if "lora_" in n)
    tokens, head = everything(made), torch.nn.Linear(made.hidden_size(), 1)
    with torch.no_grad():
        for ours, asked in (
            (made.logprobs(tokens), made.logprobs(tokens, **heat)),
            (made.reference_logprobs(tokens), made.reference_logprobs(tokens, **heat)),
            (made.actor(tokens)[0], made.actor(tokens, **heat)[0]),
            (made.actor_critic(tokens, head).logprobs, made.actor_critic(tokens, head, **heat).logprobs),
        ):
            assert torch.equal(ours, asked)
            assert not torch.allclose(ours, made.logprobs(tokens, temperature=1.0))
        pair = next(iter(made.preference_batches()))
        chosen, rejected = (made.logprobs(side, **heat).sum(-1) for side in (pair.chosen, pair.rejected))
        torch.testing.assert_close(made.logprob_gap(pair), chosen - rejected, atol=1e-5, rtol=1e-5)
    other = trial("llama", temperature=1.0)
    shake(p for n, p in other.policy.named_parameters() if "lora_" in n)
    assert made.sample(PROMPTS * 4).completions == other.sample(PROMPTS * 4, **heat).completions


def test_samples_and_reference_are_free_of_dropout_while_a_method_trains_with_it(trial):
    """GPT-2 has dropout of its own; a method may put the model in train mode for its update."""
    still, made = trial("gpt2"), trial("gpt2")
    made.policy.train()
    tokens = everything(made)
    assert made.sample(PROMPTS * 4).completions == still.sample(PROMPTS * 4).completions
    assert torch.equal(made.reference_logprobs(tokens), still.reference_logprobs(tokens))
    with torch.no_grad():
        assert not torch.equal(made.logprobs(tokens), still.logprobs(tokens))


# ------------------------------------------------------------------------------------------------ reference


def test_the_gap_is_chosen_minus_rejected_and_its_mean_is_per_response_token(trial):
    made = trial("llama")
    pair = next(iter(made.preference_batches()))
    chosen, rejected = (made.logprobs(side).detach() for side in (pair.chosen, pair.rejected))
    torch.testing.assert_close(made.logprob_gap(pair).detach(), chosen.sum(1) - rejected.sum(1))
    by_hand = chosen.sum(1) / pair.chosen.is_response.sum(1) - rejected.sum(1) / pair.rejected.is_response.sum(1)
    torch.testing.assert_close(made.logprob_gap(pair, mean=True).detach(), by_hand)
    torch.testing.assert_close(made.reference_gap(pair, mean=True), by_hand)
    assert not torch.allclose(made.reference_gap(pair), by_hand)


def test_the_reference_is_computed_once_a_row_and_training_does_not_move_it(trial):
    made = trial("llama", max_steps=9)
    tokens, passes = everything(made), []
    made.policy.base_model.model.base_model.register_forward_hook(lambda *args: passes.append(1))
    before = made.reference_logprobs(tokens)
    gaps = {}
    for pair in made.preference_batches():
        already = all(row in gaps for row in pair.rows)
        passes.clear()
        now = made.reference_gap(pair).tolist()
        assert len(passes) == (0 if already else 1)
        for row, gap in zip(pair.rows, now, strict=True):
            assert gaps.setdefault(row, gap) == pytest.approx(gap, abs=1e-5)
        made.step(-F.logsigmoid(made.logprob_gap(pair) - made.reference_gap(pair)).mean())
    assert set(gaps) == set(range(len(PAIRS)))
    assert torch.equal(made.reference_logprobs(tokens), before)
    assert not torch.allclose(made.logprobs(tokens).detach(), before, atol=1e-2)


@pytest.mark.parametrize("name", MODELS)
def test_dpo_raises_the_margin_of_the_chosen(trial, name):
    made = trial(name, max_steps=12)
    losses = dpo(made)
    assert losses[0] == pytest.approx(np.log(2), abs=1e-6)
    assert np.mean(losses[-3:]) < 0.5
    assert [entry["step"] for entry in made.history] == list(range(12))
    assert made.history[0].keys() == {"step", "loss", "margin"}


# ------------------------------------------------------------------------------------------------ budget and steps


def test_the_budget_is_never_exceeded(trial):
    made = trial("llama", max_steps=2)
    assert len(dpo(made)) == 2
    assert made.budget.is_spent
    with pytest.raises(RuntimeError, match="the budget of 2 optimiser steps is spent; check it before stepping"):
        made.step(made.logprobs(everything(made)).sum())
    assert made.budget.used == 2


def test_a_budget_of_zero_leaves_the_policy_bit_identical(trial):
    made = trial("llama", max_steps=0)
    assert dpo(made) == []
    assert list(made.prompt_batches(2)) == []
    ids = torch.arange(3, 30)[None]
    with made.policy.disable_adapter():
        bare = made.policy(input_ids=ids).logits
    assert torch.equal(made.policy(input_ids=ids).logits, bare)


def test_four_batches_of_one_step_as_one_batch_of_four(trial, shake):
    """Through `step`, which divides by the number of accumulated passes."""
    after = []
    for size, passes in ((4, 1), (1, 4)):
        made = trial("llama", gradient_accumulation_steps=passes, max_steps=1)
        shake(p for n, p in made.policy.named_parameters() if "lora_" in n)
        for first in range(0, 4, size):
            assert made.budget.used == 0
            tokens = made.encode(
                ["the film", "a", "one", ""][first : first + size], [" good", " bad", " one", " a"][first:][:size]
            )
            made.step(made.logprobs(tokens).sum(1).mean())
        assert made.budget.used == 1
        after.append(weights(made))
    difference = (after[0] - after[1]).abs()
    assert difference.max() < 1e-3  # AdamW's first step has length 5e-3, whatever the gradient's scale
    assert difference.mean() < 1e-6


def test_a_token_means_passes_weigh_by_their_tokens(trial, shake):
    """Responses of very different lengths, so that a mean of the passes' means is another number."""
    after = []
    for size, passes in ((4, 1), (1, 4)):
        made = trial("llama", gradient_accumulation_steps=passes, max_steps=1)
        shake(p for n, p in made.policy.named_parameters() if "lora_" in n)
        for first in range(0, 4, size):
            part = slice(first, first + size)
            texts = [" the film is a good one", "", " bad", " a plot"][part]
            tokens = made.encode(["the film", "a", "one", ""][part], texts)
            count = int(tokens.is_response.sum())
            made.step(made.logprobs(tokens).sum() / count, count=count)
        after.append(weights(made))
    assert (after[0] - after[1]).abs().mean() < 1e-6


def test_a_step_on_no_items_is_refused(trial):
    made = trial("llama")
    with pytest.raises(ValueError, match=r"count=0"):
        made.step(made.logprobs(everything(made)).sum(), count=0)


def test_what_a_method_froze_in_its_own_module_stays(trial):
    made = trial("llama")
    module = torch.nn.Sequential(torch.nn.Linear(32, 4), torch.nn.Linear(4, 1))
    module[0].requires_grad_(False)
    kept = module[0].weight.clone()
    made.add_trainable(module)
    moved = module[1].weight.clone()
    for _ in range(2):
        made.step(made.actor_critic(everything(made), module).values.sum())
    assert torch.equal(module[0].weight, kept)
    assert not torch.equal(module[1].weight, moved)


def test_no_end_of_sequence_follows_a_sample_that_was_cut(trial):
    rows = [
        {"prompt": "a", "chosen": " good", "rejected": " bad", "chosen_ended": False, "rejected_ended": True},
        {"prompt": "a", "chosen": " plot", "rejected": " one"},  # a text of the task's
    ]
    made = trial("llama", pairs=rows)
    eos = made.tokenizer.eos_token_id
    batch = next(made.preference_batches())
    ends = {
        (row, name): side.ids[i][side.is_token[i]][-1] == eos
        for name, side in (("chosen", batch.chosen), ("rejected", batch.rejected))
        for i, row in enumerate(batch.rows)
    }
    assert ends == {(0, "chosen"): False, (0, "rejected"): True, (1, "chosen"): True, (1, "rejected"): True}


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_metrics(trial):
    made = trial("llama")
    loss = made.logprobs(everything(made)).sum() * float("nan")
    with pytest.raises(FloatingPointError, match=r"the loss is nan; step=0, loss=nan, reward=2"):
        made.step(loss, reward=torch.tensor(2.0))
    assert made.budget.used == 0


def test_what_is_added_is_trained_and_comes_before_the_first_step(trial):
    made = trial("llama")
    head = made.add_trainable(torch.nn.Linear(made.hidden_size(), 1))
    before = head.weight.detach().clone()
    out = made.actor_critic(everything(made), head)
    made.step(out.values.sum() + out.logprobs.sum())
    assert not torch.equal(head.weight, before)
    with pytest.raises(RuntimeError, match="add_trainable comes before the first step"):
        made.add_trainable(torch.nn.Linear(2, 2))


def test_logging_without_a_step_costs_no_budget(trial):
    made = trial("llama")
    made.log(reward=torch.tensor(1.5))
    assert made.history == [{"step": 0, "reward": 1.5}]
    assert made.budget.used == 0


def test_tokens_are_counted_when_sampled_and_when_trained(trial):
    made = trial("llama")
    rollout = made.sample(PROMPTS)
    assert made._meter.counts["tokens_generated"] == int(rollout.tokens.is_response.sum())
    with torch.no_grad():
        made.logprobs(rollout.tokens)
    made.reference_logprobs(rollout.tokens)
    assert made._meter.counts["tokens_trained"] == 0
    made.logprobs(rollout.tokens)
    assert made._meter.counts["tokens_trained"] == int(rollout.tokens.is_token.sum())


# ------------------------------------------------------------------------------------------------ data


def test_no_prompt_is_lost_or_doubled_in_an_epoch(trial):
    made = trial("llama", max_steps=100)
    seen = []
    for batch in made.prompt_batches(3):  # 7 prompts: batches run across the ends of epochs
        seen += batch
        made.budget.used += 1
        if len(seen) >= 7 * 6:
            break
    for epoch in range(6):
        assert Counter(seen[7 * epoch : 7 * (epoch + 1)]) == Counter(PROMPTS)
    assert seen[:7] != seen[7:14]


def test_pairs_carry_their_row_numbers(trial):
    made = trial("llama")
    for pair in made.preference_batches():
        rows = [PAIRS[row] for row in pair.rows]
        again = made.encode([r["prompt"] for r in rows], [r["chosen"] for r in rows])
        assert torch.equal(pair.chosen.ids, again.ids)
        made.budget.used += 1


def test_what_the_recipe_did_not_give_is_said_in_one_line(trial):
    made = trial("llama", pairs=None, reward=False)
    with pytest.raises(UserError, match="asked for preferences; add 'preferences' to its `needs`"):
        next(iter(made.preference_batches()))
    with pytest.raises(UserError, match="asked for a reward; add 'reward' to its `needs`"):
        made.reward(made.sample(["a"]))


def test_no_rows_at_all_is_an_error_and_not_an_endless_loop(trial):
    made = trial("llama", pairs=[], prompts=[])
    for batches in (made.preference_batches(), made.prompt_batches(2)):
        with pytest.raises(UserError, match="nothing to train on"):
            next(iter(batches))


def test_the_reward_reads_the_completions(trial):
    made = trial("llama")
    rollout = made.sample(PROMPTS)._replace(completions=["a b c d", "", *["one two"] * 5])
    assert made.reward(rollout).tolist() == [1.0, 0.0, *[0.5] * 5]


# ------------------------------------------------------------------------------------------------ seeds and isolation


@pytest.mark.parametrize("layers", [None, 1])  # with 1, states below the adapters are shared and kept
@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(trial, resident, name, layers):
    def run(seed, on=None):
        made = trial(name, seed=seed, on=resident(name, layers=layers) if on is None else on)
        losses = dpo(made)
        return weights(made), losses, made.sample(PROMPTS).completions

    torch.manual_seed(1)
    first = run(0)
    torch.manual_seed(2)  # the global generators play no part
    random.seed(2)
    again = run(0)
    used = resident(name, layers=layers)
    run(5, on=used)
    used.drop_adapters()
    reused = run(0, on=used)  # nor does what ran on this model before
    other = run(1)
    for copy in (again, reused):
        assert torch.equal(copy[0], first[0])
        assert copy[1:] == first[1:]
    assert not torch.equal(other[0], first[0])
    assert other[2] != first[2]


def test_a_trial_leaves_the_global_generators_alone(trial):
    states = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    dpo(trial("gpt2"))
    trial("gpt2").sample(PROMPTS)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()
