"""Best-of-n against brute force over all subsets of the samples, and its KL bound against known numbers; the prompted
start's KL against a sum over every completion."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
import torch

from alignbench.api import AlignmentMethod
from alignbench.assets.models import resolve_model
from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.run.here import run_here
from alignbench.store import Store
from alignbench.suite.spec import load_suite
from alignbench.tasks.oracle import COMPLETIONS, MAX_NEW_TOKENS, PROMPTS, Oracle, OracleReward
from alignbench_baselines import SFT, BestOf, BestOfN, Prompted


def brute_force(proxy: list[float], n: int) -> list[float]:
    """How often each sample is the best of a random n-subset; samples that tie for it share the win."""
    subsets = list(combinations(range(len(proxy)), n))
    wins = [0.0] * len(proxy)
    for subset in subsets:
        top = max(proxy[i] for i in subset)
        best = [i for i in subset if proxy[i] == top]
        for i in best:
            wins[i] += 1 / (len(best) * len(subsets))
    return wins


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
@pytest.mark.parametrize(
    "proxy",
    [[0.3, -1.0, 2.0, 0.5, 7.0, -4.0], [1.0, 1.0, 0.0, 2.0, 2.0, 2.0], [0.0] * 6],
    ids=["plain", "tied", "flat"],
)
def test_weights_equal_brute_force_over_all_subsets(proxy: list[float], n: int) -> None:
    weights = BestOf(n, 6).weights(torch.tensor([proxy, proxy[::-1]], dtype=torch.float64))
    expected = torch.tensor([brute_force(proxy, n), brute_force(proxy[::-1], n)], dtype=torch.float64)
    torch.testing.assert_close(weights, expected)


def test_best_of_1_is_a_plain_sample_and_best_of_all_the_likeliest_to_please() -> None:
    torch.manual_seed(0)
    proxy = torch.randn(5, 8)
    torch.testing.assert_close(BestOf(1, 8).weights(proxy), torch.full((5, 8), 1 / 8))
    assert torch.equal(BestOf(8, 8).weights(proxy), torch.nn.functional.one_hot(proxy.argmax(1), 8).float())


def test_the_estimate_from_many_samples_is_unbiased() -> None:
    """The best of 2 of 8 uniform numbers is 2/3 on average; a single one is 1/2."""
    proxy = torch.rand(20_000, 8, generator=torch.Generator().manual_seed(0))
    values = (BestOf(2, 8).weights(proxy) * proxy).sum(1)
    assert float(values.mean()) == pytest.approx(2 / 3, abs=4 * float(values.std()) / 20_000**0.5)


@pytest.mark.parametrize(("n", "nats"), [(1, 0.0), (2, 0.1931472), (4, 0.6362944), (16, 1.8350887)])
def test_the_kl_bound_is_log_n_less_n_minus_1_over_n(n: int, nats: float) -> None:
    assert BestOf(n, 16).kl_nats_bound() == pytest.approx(nats, abs=1e-6)


def test_n_above_the_samples_is_refused_with_the_line_of_the_suite(suite_file) -> None:
    path: Path = suite_file(["sft", {"method": "best_of_n", "config": {"n": 5, "num_samples": 4}}])
    with pytest.raises(UserError) as error:
        make_plan(load_suite(path), load_catalog())
    assert str(error.value).startswith(f"{path}:")
    assert str(error.value).endswith("methods[1].config: n: 5 needs num_samples of at least 5, got 4")


def test_a_sweep_over_n_shares_one_set_of_samples(suite_file) -> None:
    plan = make_plan(load_suite(suite_file([{"method": "best_of_n", "sweep": [1, 2, 4]}])), load_catalog())
    keys = {plan.stage(cell.score).inputs["completions"] for cell in plan.cells}
    assert len(plan.cells) == 3
    assert len(keys) == 1


def test_the_start_point_is_a_row_that_trains_nothing() -> None:
    assert SFT.train is Prompted.train is BestOfN.train is AlignmentMethod.train


# ------------------------------------------------------------------------------------------------ prompted


@torch.no_grad()
def spoken(model, tokenizer, text: str) -> torch.Tensor:
    """(C,) log-probabilities of every completion after `text`, one sequence at a time, by transformers alone."""
    head = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
    found = []
    for completion in COMPLETIONS:
        tail = [*tokenizer.encode(completion, add_special_tokens=False), tokenizer.eos_token_id][:MAX_NEW_TOKENS]
        log_p = model(input_ids=torch.tensor([head + tail])).logits[0].double().log_softmax(-1)
        found.append(sum(float(log_p[len(head) - 1 + i, label]) for i, label in enumerate(tail)))
    return torch.tensor(found, dtype=torch.float64)


def test_the_prompted_starts_kl_and_gold_are_the_sums_over_every_completion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    suite = {
        "model": "oracle-gpt2", "device": "cpu", "dtype": "float32", "task": "oracle", "sft": {"max_steps": 0},
        "comparisons": {"source": "human", "pairs": 24}, "evaluation": {"prompts": 600, "held_out_pairs": 8},
        "methods": ["sft", "prompted"],
    }  # fmt: skip
    path = tmp_path / "toy.yaml"
    path.write_text(json.dumps(suite))
    start, prompted = run_here(make_plan(load_suite(path), load_catalog()), Store(), is_strict=True).records

    folder = resolve_model("oracle-gpt2")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    prefix = Prompted().prefix(Prompted.Config(), Oracle.rubric)
    assert Oracle.rubric.guideline in prefix
    kl, gold = [], []
    for prompt in PROMPTS:
        log_p, log_q = spoken(model, tokenizer, prefix + prompt), spoken(model, tokenizer, prompt)
        assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-6)
        kl.append(float((log_p.exp() * (log_p - log_q)).sum()))
        scores = OracleReward(OracleReward.Config()).score([prompt] * len(COMPLETIONS), COMPLETIONS)
        gold.append(float((log_p.exp() * scores).sum()))
    assert prompted.metrics["kl_nats_enumerated"] == pytest.approx(sum(kl) / 3, abs=1e-5)
    assert prompted.metrics["reward_gold_enumerated"] == pytest.approx(sum(gold) / 3, abs=1e-5)
    assert sum(kl) / 3 > 0.005
    assert start.metrics["kl_nats_enumerated"] == start.metrics["kl_nats_exact"] == 0
    for record, name in ((prompted, "kl_nats_exact"), (prompted, "reward_gold"), (start, "reward_gold")):
        samples = torch.tensor(record.per_prompt[name], dtype=torch.float64)
        truth = record.metrics["reward_gold_enumerated" if name == "reward_gold" else "kl_nats_enumerated"]
        assert float(samples.mean()) == pytest.approx(truth, abs=4 * float(samples.std()) / 600**0.5), name
    assert prompted.training is None
    assert prompted.cost.total.tokens_trained == 0
