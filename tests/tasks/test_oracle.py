"""The oracle task: every completion can be listed, and its human pairs say exactly what its gold reward says."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignbench.api import SourceRoom
from alignbench.assets.toys import END, TOYS, build_toy
from alignbench.engine.meter import Meter
from alignbench.engine.resident import Resident
from alignbench.engine.sampling import sample_texts
from alignbench.engine.supervised import fit_supervised
from alignbench.feedback.judge import Judge
from alignbench.scoring.closed_form import completion_logprobs, total_variation
from alignbench.suite.spec import Lora, Training
from alignbench.tasks.oracle import (
    COMPLETIONS,
    MAX_NEW_TOKENS,
    PROMPTS,
    Oracle,
    OracleReward,
    RewardConfig,
    designed_pairs,
    reward_table,
)

EVERYTHING = [COMPLETIONS] * len(PROMPTS)
TABLE = reward_table(RewardConfig())
UNORDERED = [(p, a, b) for p in PROMPTS for a, b in combinations(COMPLETIONS, 2)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {name: tmp_path_factory.mktemp(name) for name in TOYS}
    for name, folder in made.items():
        build_toy(name, folder)
    return made


@pytest.fixture(params=TOYS)
def toy(request, folders):
    """A fresh resident, and its folder."""
    folder = folders[request.param]
    return Resident(folder, [], Lora(r=4, alpha=8), torch.device("cpu"), torch.float32), folder


# ------------------------------------------------------------------------------------------------ the language


def test_thirteen_completions_are_all_that_two_tokens_of_three_letters_can_say():
    assert len(COMPLETIONS) == len(set(COMPLETIONS)) == 1 + 3 + 9
    task = Oracle(Oracle.Config())
    assert all(task.completions(prompt) == list(COMPLETIONS) for prompt in PROMPTS)
    assert len({len(prompt) for prompt in PROMPTS}) == len(PROMPTS)  # so that batches are padded


def test_one_token_begins_ends_and_pads(toy):
    codec = toy[0].codec
    assert codec.bos == codec.eos == codec.pad == codec.tokenizer.convert_tokens_to_ids(END)
    assert len(codec.tokenizer) == 4


def test_a_text_and_its_tokens_are_one_to_one_and_nothing_else_can_be_sampled(toy):
    codec = toy[0].codec
    batch = codec.encode([PROMPTS[1]] * 13, COMPLETIONS, max_new_tokens=MAX_NEW_TOKENS)
    ids = [row[mask].tolist() for row, mask in zip(batch.ids, batch.is_response, strict=True)]
    assert [codec.text(answer) for answer in ids] == list(COMPLETIONS)
    assert len(set(map(tuple, ids))) == 13
    rollout = sample_texts(toy[0], PROMPTS * 100, MAX_NEW_TOKENS, 1.0, torch.Generator().manual_seed(0))
    again = codec.encode(rollout.prompts, rollout.completions, max_new_tokens=MAX_NEW_TOKENS)
    assert all(torch.equal(sampled, encoded) for sampled, encoded in zip(rollout.tokens, again, strict=True))
    assert set(rollout.completions) <= set(COMPLETIONS)
    assert rollout.is_ended.tolist() == [len(text) < MAX_NEW_TOKENS for text in rollout.completions]


def test_what_is_no_letter_of_the_language_vanishes(toy):
    codec = toy[0].codec
    assert codec.text(codec.plain("Read: A cab,\n\n<|end|>?")) == "aacab"


def test_the_listed_completions_have_all_the_probability_and_each_has_its_own(toy, shake):
    """Against transformers alone, one text at a time and without padding."""
    resident, folder = toy
    ours = completion_logprobs(resident, None, PROMPTS, EVERYTHING, MAX_NEW_TOKENS)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for row, prompt in zip(ours, PROMPTS, strict=True):
        for value, text in zip(row.tolist(), COMPLETIONS, strict=True):
            head, tail = resident.codec.prompt(prompt), resident.codec.completion(text)[:MAX_NEW_TOKENS]
            ids = torch.tensor([head + tail])
            with torch.no_grad():
                log_p = plain(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].double().log_softmax(-1)
            assert value == pytest.approx(sum(float(log_p[len(head) - 1 + t, i]) for t, i in enumerate(tail)), abs=1e-4)
    shake(resident.add_adapter("policy", 0), scale=0.3)
    moved = completion_logprobs(resident, "policy", PROMPTS, EVERYTHING, MAX_NEW_TOKENS)
    for log_p in (ours, moved):
        assert log_p.exp().sum(-1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert total_variation(ours, moved).min() > 0.05


def test_demonstrations_lead_the_start_away_from_the_base_model_and_leave_nothing_unsaid(toy):
    resident, task = toy[0], Oracle(Oracle.Config())
    config = Training(max_steps=60, learning_rate=3e-3)
    demonstrations = task.demonstrations()
    fit_supervised(
        resident, demonstrations, config, seed=0, max_new_tokens=MAX_NEW_TOKENS, meter=Meter(torch.device("cpu"))
    )
    start = completion_logprobs(resident, "sft", PROMPTS, EVERYTHING, MAX_NEW_TOKENS)
    base = completion_logprobs(resident, None, PROMPTS, EVERYTHING, MAX_NEW_TOKENS)
    assert total_variation(start, base).min() > 0.1  # a reference that is the base model in error will show
    assert start.exp().min() > 0.005  # whatever the optimum favours can be sampled


def test_the_judge_runs_on_the_toy_and_tells_completions_apart(toy):
    for format in ("pointwise", "pairwise"):
        judge = Judge(Judge.Config(format=format))
        judge.prepare(SourceRoom(Oracle.rubric, toy[0], None, 0))
        scores = judge.score([PROMPTS[0]] * 13, COMPLETIONS)
        shares = judge.prefer([PROMPTS[0]] * 12, COMPLETIONS[1:], COMPLETIONS[:-1])
        assert len(set(scores.tolist())) > 6
        assert len(set(shares.tolist())) > 6


# ------------------------------------------------------------------------------------------------ the reward


@pytest.mark.parametrize("seed", range(3))
def test_the_best_completion_of_each_prompt_has_exactly_0_and_every_other_less(seed):
    config = RewardConfig(reward_scale=5, reward_seed=seed)
    scores = [OracleReward(config).score([prompt] * 13, COMPLETIONS) for prompt in PROMPTS]
    for row in scores:
        assert row.dtype == torch.float32
        assert (row == 0).sum() == 1
        assert row.max() == 0
        assert -5 < row.min() < -2
    assert not torch.equal(scores[0], scores[1])


def test_gold_and_the_source_of_that_name_are_one_table_and_a_batch_equals_its_singles(tmp_path):
    task = Oracle(Oracle.Config(reward_scale=2, reward_seed=4))
    gold, source = task.load_gold(tmp_path, None), OracleReward(RewardConfig(reward_scale=2, reward_seed=4))
    prompts, texts = [p for p in PROMPTS for _ in COMPLETIONS], list(COMPLETIONS) * 3
    together = gold.score(prompts, texts)
    assert torch.equal(together, source.score(prompts, texts))
    assert together.tolist() == [float(source.score([p], [t])) for p, t in zip(prompts, texts, strict=True)]
    assert not torch.equal(together, OracleReward(RewardConfig()).score(prompts, texts))


# ------------------------------------------------------------------------------------------------ the human pairs


@pytest.mark.parametrize("count", [234, 1000, 2340])
def test_every_two_completions_meet_equally_often_in_bradley_terrys_proportion_up_to_rounding(count):
    pairs = designed_pairs(TABLE, count, 3)
    assert len(pairs) == count
    times = Counter((p.prompt, p.chosen, p.rejected) for p in pairs)
    for prompt, a, b in UNORDERED:
        wins, copies = times[prompt, a, b], times[prompt, a, b] + times[prompt, b, a]
        assert copies in (count // len(UNORDERED), -(-count // len(UNORDERED)))
        assert abs(wins - copies / (1 + math.exp(TABLE[prompt, b] - TABLE[prompt, a]))) < 1
    assert sum(times.values()) == count


def fitted(pairs):
    """(3, 13) rewards that maximise the pairs' Bradley-Terry likelihood, each prompt's mean taken off."""
    rewards = torch.zeros(3, 13, dtype=torch.float64, requires_grad=True)
    prompt = torch.tensor([PROMPTS.index(p.prompt) for p in pairs])
    better, worse = (torch.tensor([COMPLETIONS.index(text) for text in texts]) for texts in list(zip(*pairs))[1:])  # noqa: B905
    solver = torch.optim.LBFGS([rewards], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss():
        solver.zero_grad()
        value = -torch.nn.functional.logsigmoid(rewards[prompt, better] - rewards[prompt, worse]).mean()
        value.backward()
        return value

    solver.step(loss)
    return (rewards - rewards.mean(1, keepdim=True)).detach()


def test_the_likeliest_reward_model_of_the_pairs_is_the_gold_reward():
    gold = torch.tensor([[TABLE[p, c] for c in COMPLETIONS] for p in PROMPTS], dtype=torch.float64)
    gold -= gold.mean(1, keepdim=True)
    ours = fitted(designed_pairs(TABLE, 2340, 0))
    assert (ours - gold).abs().max() < 0.06
    optimum, found = gold.softmax(-1), ours.softmax(-1)
    assert float((optimum - found).abs().sum(-1).max()) / 2 < 0.01
    swapped = fitted(
        [pair._replace(chosen=pair.rejected, rejected=pair.chosen) for pair in designed_pairs(TABLE, 468, 0)]
    )
    assert float(((optimum - swapped.softmax(-1)).abs().sum(-1) / 2).min()) > 0.3


def test_the_seed_moves_only_the_order_and_the_copies_left_over():
    one, other = (designed_pairs(TABLE, 300, seed) for seed in (0, 1))
    assert one == designed_pairs(TABLE, 300, 0)
    assert one != other
    met = [Counter((p.prompt, frozenset(p[1:])) for p in pairs) for pairs in (one, other)]
    assert met[0] != met[1]
    assert {n for counter in met for n in counter.values()} == {1, 2}


def test_the_ceiling_of_accuracy_is_what_gold_itself_reaches():
    task = Oracle(Oracle.Config(held_out=780))
    held_out = task.held_out_pairs()
    gold = task.load_gold(None, None)
    prompts, chosen, rejected = zip(*held_out.pairs, strict=True)
    hits = gold.score(prompts, chosen) > gold.score(prompts, rejected)
    assert held_out.human_accuracy == pytest.approx(float(hits.float().mean()))
    assert 0.6 < held_out.human_accuracy < 0.9


def test_all_splits_hold_the_three_prompts_over_and_over():
    task = Oracle(Oracle.Config(train=3, label=7, eval=4))
    assert task.prompts("train") == list(PROMPTS)
    assert task.prompts("label") == [*PROMPTS, *PROMPTS, PROMPTS[0]]
    assert task.prompts("eval") == [*PROMPTS, PROMPTS[0]]
