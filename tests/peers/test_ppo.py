"""PPO's formulas against what TRL 1.12's trainer computed in tests/golden/ppo.json; make_ppo_golden.py there says how.

Where TRL's definitions differ from ours, and how the comparison meets them:

- TRL puts the score one place past the last token where the response length leaves room, values that place, and
  discounts across it: an episode one step longer than its text. Ours ends on its last token. The two give the same
  advantages where gamma = lam = 1, and for rows that fill the response length; on TRL's longer mask `gae` is TRL's.
- TRL's value loss averages over that extra place too, and its whitening of rewards counts it.
- TRL fills log-probabilities past the end with 1.0 (its INVALID_LOGPROB), ours with 0; both leave no KL there.
- TRL only logs the entropy, averaged over padding as well; ours averages response tokens and trains on it (ent_coef).
- TRL logs how often the clipped loss is the larger one; our `clip_fraction` is how often the ratio left the range.
- TRL divides by `temperature + 1e-7`, and tells padding by its id: a padding token that is sampled ends the response.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from alignbench.engine.fast.nats import Logits, logprobs_and_entropies
from alignbench.engine.logprobs import spread
from alignbench.rl import clipped_policy_loss, clipped_value_loss, gae, mean_over, token_rewards, whiten

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ppo.json").read_text())
close = {"atol": 1e-5, "rtol": 1e-5}


class Run(NamedTuple):
    """One run of TRL's trainer: its options, its round of rollouts, and its last minibatch, all its own numbers."""

    config: dict[str, Any]
    round: dict[str, Tensor]
    minibatch: dict[str, Tensor]
    is_response: Tensor  # (B, T) True up to the last token, the end of sequence included
    is_valued: Tensor  # (B, T) True one place further, where there is room


@pytest.fixture(params=sorted(GOLDEN["runs"]))
def run(request: pytest.FixtureRequest) -> Run:
    return load(request.param)


def load(name: str) -> Run:
    golden = GOLDEN["runs"][name]
    round_, minibatch = ({k: torch.tensor(v) for k, v in golden[part].items()} for part in ("round", "minibatch"))
    return Run(golden["config"], round_, minibatch, ~round_["padding_mask"], ~round_["padding_mask_p1"])


def folded(rewards: Tensor, is_response: Tensor, is_valued: Tensor) -> Tensor:
    """TRL's (B, T) rewards with the place past the end added to the last token, where ours has its score."""
    is_past = is_valued & ~is_response
    return rewards * is_response + (rewards * is_past).roll(-1, 1)


def test_the_golden_rollouts_end_early_at_the_last_place_and_not_at_all(run: Run) -> None:
    assert {"trl": "1.12.0"}.items() <= GOLDEN["made_by"].items()
    lengths = run.is_response.sum(1)
    columns = run.is_response.shape[1]
    assert {3, columns} <= set(lengths.tolist())
    assert (run.is_valued.sum(1) == (lengths + 1).clamp_max(columns)).all()
    assert 0 < int(run.round["contain_eos_token"].sum()) < len(lengths)


def test_minibatches_leave_both_clipping_ranges_but_not_everywhere(run: Run) -> None:
    """Else the clipped losses would be compared on one branch alone."""
    mask = run.is_response[run.minibatch["micro_batch_inds"]]
    is_outside = ((run.minibatch["ratio"] - 1).abs() > run.config["cliprange"])[mask]
    assert 0 < int(is_outside.sum()) < len(is_outside)
    is_outside = ((run.minibatch["vpred"] - run.minibatch["mb_values"]).abs() > run.config["cliprange_value"])[mask]
    assert 0 < int(is_outside.sum()) < len(is_outside)


@pytest.mark.parametrize("name", ["default", "undiscounted"])
def test_rewards_are_trls_with_the_score_on_the_last_token(name: str) -> None:
    """The third run whitens its rewards in place, so that these are gone."""
    run = load(name)
    logprobs, reference = (run.round[k] * run.is_response for k in ("logprobs", "ref_logprobs"))
    rewards = token_rewards(run.round["scores"], logprobs, reference, run.is_response, run.config["kl_coef"])
    theirs = run.round["rewards"]
    torch.testing.assert_close(rewards, folded(theirs, run.is_response, run.is_valued), **close)
    is_full = run.is_response.all(1)
    torch.testing.assert_close(rewards[is_full], theirs[is_full], **close)


def test_advantages_and_returns_are_trls_over_its_longer_episode(run: Run) -> None:
    theirs = run.round
    advantages, returns = gae(
        theirs["rewards"], theirs["values"], run.is_valued, run.config["gamma"], run.config["lam"]
    )
    torch.testing.assert_close(advantages, theirs["returns"] - theirs["values"], **close)
    torch.testing.assert_close(returns, theirs["returns"], **close)
    torch.testing.assert_close(whiten(advantages, run.is_response), theirs["advantages"], **close)


def test_a_row_that_fills_the_response_length_has_trls_advantages(run: Run) -> None:
    theirs, is_full = run.round, run.is_response.all(1)
    advantages, returns = gae(
        theirs["rewards"], theirs["values"], run.is_response, run.config["gamma"], run.config["lam"]
    )
    torch.testing.assert_close(returns[is_full], theirs["returns"][is_full], **close)
    torch.testing.assert_close(advantages[is_full], (theirs["returns"] - theirs["values"])[is_full], **close)


def test_without_discount_the_whole_chain_from_scores_to_whitened_advantages_is_trls() -> None:
    """With gamma = lam = 1 the value of the extra place cancels, so where the score stands makes no difference."""
    run = load("undiscounted")
    theirs, mask = run.round, run.is_response
    rewards = token_rewards(
        theirs["scores"], theirs["logprobs"] * mask, theirs["ref_logprobs"] * mask, mask, run.config["kl_coef"]
    )
    advantages, returns = gae(rewards, theirs["values"], mask, 1.0, 1.0)
    torch.testing.assert_close(returns, theirs["returns"] * mask, **close)
    torch.testing.assert_close(whiten(advantages, mask), theirs["advantages"], **close)


@pytest.mark.parametrize("golden", GOLDEN["whitenings"])
def test_whitening_is_trls(golden: dict[str, Any]) -> None:
    """TRL leaves numbers outside the mask, which its callers then set to 0 as ours does."""
    values, mask, shifted, kept = (torch.tensor(golden[k]) for k in ("values", "is_counted", "shifted", "kept"))
    torch.testing.assert_close(whiten(values, mask), shifted * mask, **close)
    torch.testing.assert_close(whiten(values, mask, keep_mean=True), kept * mask, **close)


def test_policy_loss_and_its_gradient_are_trls(run: Run) -> None:
    theirs, mask = run.minibatch, run.is_response[run.minibatch["micro_batch_inds"]]
    logprobs = theirs["new_logprobs"].requires_grad_()
    ratio = (logprobs - theirs["mb_logprobs"]).exp()
    loss = clipped_policy_loss(ratio, theirs["mb_advantage"], mask, run.config["cliprange"])
    torch.testing.assert_close(loss.detach(), theirs["pg_loss"], **close)
    torch.testing.assert_close(torch.autograd.grad(loss, logprobs)[0], theirs["pg_grad"], **close)


def test_value_loss_and_its_gradient_are_trls_over_its_longer_episode(run: Run) -> None:
    theirs, mask = run.minibatch, run.is_valued[run.minibatch["micro_batch_inds"]]
    values = theirs["vpred"].requires_grad_()
    loss = clipped_value_loss(values, theirs["mb_values"], theirs["mb_return"], mask, run.config["cliprange_value"])
    torch.testing.assert_close(loss.detach(), theirs["vf_loss"], **close)
    torch.testing.assert_close(torch.autograd.grad(loss, values)[0], theirs["vf_grad"], **close)


def test_the_whole_loss_is_trls_where_entropy_has_no_weight(run: Run) -> None:
    theirs, mask = run.minibatch, run.minibatch["micro_batch_inds"]
    config = run.config
    policy = clipped_policy_loss(theirs["ratio"], theirs["mb_advantage"], run.is_response[mask], config["cliprange"])
    value = clipped_value_loss(
        theirs["vpred"], theirs["mb_values"], theirs["mb_return"], run.is_valued[mask], config["cliprange_value"]
    )
    torch.testing.assert_close(policy + config["vf_coef"] * value, theirs["loss"], **close)


def test_logprobs_and_entropies_are_trls(run: Run, request: pytest.FixtureRequest) -> None:
    """The golden logits are divided by the temperature already. TRL reports the mean entropy of its two epochs."""
    golden = GOLDEN["runs"][request.node.callspec.params["run"]]
    theirs = run.minibatch
    everywhere = torch.ones_like(theirs["mb_responses"], dtype=torch.bool)
    labels = theirs["mb_responses"].flatten()
    nats = logprobs_and_entropies(theirs["logits"].flatten(0, 1), labels, Logits())
    mask = run.is_response[theirs["micro_batch_inds"]]
    logprobs = spread(nats.logprobs, everywhere)
    torch.testing.assert_close(logprobs[mask], theirs["new_logprobs"][mask], **close)
    first = logprobs_and_entropies(torch.tensor(golden["first_logits"]).flatten(0, 1), labels, Logits())
    means = [mean_over(e, torch.ones_like(e, dtype=torch.bool)) for e in (first.entropies, nats.entropies)]
    assert float(sum(means)) / 2 == pytest.approx(golden["entropy_avg"], abs=1e-5)
