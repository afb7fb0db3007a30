"""Score a policy: its own samples, their exact KL, rewards, text statistics, and the reward model's accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from alignbench.api import Decoding, TokenBatch
from alignbench.engine.logprobs import ROWS_PER_BLOCK, spread
from alignbench.engine.resident import Resident
from alignbench.engine.tokens import Codec
from alignbench.rl import exact_kl, k1, k3


class KL(NamedTuple):
    """Per sequence, summed over response tokens, nats; policy against reference."""

    exact: Tensor  # (B,) full-vocabulary KL at each sampled state
    k1: Tensor  # (B,) sum of rl.k1
    k3: Tensor  # (B,) sum of rl.k3


@torch.no_grad()
def measure_kl(
    policy: Resident, adapter: str | None, reference: Resident, tokens: TokenBatch, temperature: float = 1.0,
    reference_tokens: TokenBatch | None = None,
) -> KL:  # fmt: skip
    """KL of `adapter` on `policy` from the bare `reference` along the tokens, both at `temperature`; the two may be one
    model.

    `reference_tokens`: the same responses after the prompts that the reference reads, where they are others than the
    policy's (`after`). The bare reference against itself on the same prompts is 0 by identity and is not computed.
    """
    if adapter is None and policy is reference and reference_tokens is None:
        zero = torch.zeros(len(tokens.ids), dtype=torch.float64)
        return KL(zero, zero, zero)
    labels = tokens.ids[tokens.is_response]
    with policy.using(adapter):
        ours = policy.response_states(tokens)
    with reference.using(None):
        theirs = reference.response_states(tokens if reference_tokens is None else reference_tokens)
    blocks = zip(ours.split(ROWS_PER_BLOCK), theirs.split(ROWS_PER_BLOCK), labels.split(ROWS_PER_BLOCK), strict=True)
    parts = [_kl_rows(policy.project(p), reference.project(q), y, temperature) for p, q, y in blocks]
    columns = (torch.cat(column) for column in zip(*parts, strict=True))
    return KL(*(spread(column, tokens.is_response).double().sum(-1).cpu() for column in columns))


def after(codec: Codec, prompts: Sequence[str], tokens: TokenBatch) -> TokenBatch:
    """The responses of `tokens`, id for id, after other prompts: text tokenised again may come out otherwise."""
    heads = [codec.prompt(prompt) for prompt in prompts]
    rows = zip(tokens.ids, tokens.is_response, strict=True)
    return codec.padded(heads, [ids[is_response].tolist() for ids, is_response in rows])


def _kl_rows(ours: Tensor, theirs: Tensor, labels: Tensor, temperature: float) -> KL:
    """(N, V) logits twice, (N,) sampled ids -> (N,) each estimator at one position."""
    log_p, log_q = (torch.log_softmax(logits.float() / temperature, -1) for logits in (ours, theirs))
    sampled_p, sampled_q = (log.gather(-1, labels[:, None]).squeeze(-1) for log in (log_p, log_q))
    return KL(exact_kl(log_p, log_q), k1(sampled_p, sampled_q), k3(sampled_p, sampled_q))


def expected(values: Tensor, weights: Tensor) -> Tensor:
    """(P, N) values of N samples a prompt, (P, N) probability that each is the one returned -> (P,) expectation."""
    return (values.double() * weights.double()).sum(1)


def uniform(prompts: int, samples: int) -> Tensor:
    return torch.full((prompts, samples), 1 / samples)


def decoding_weights(decoding: Decoding | None, proxy: Tensor) -> Tensor:
    """(P, N) proxy scores -> (P, N) weights that sum to 1 in each row."""
    weights = uniform(*proxy.shape) if decoding is None else decoding.weights(proxy)
    if weights.shape != proxy.shape or not torch.allclose(
        weights.sum(1), torch.ones(len(proxy)).to(weights), atol=1e-4
    ):
        raise ValueError(
            f"decoding weights of shape {tuple(weights.shape)} do not sum to 1 over {proxy.shape[1]} samples"
        )
    return weights


def win_rate(ours: Tensor, theirs: Tensor, weights: Tensor) -> Tensor:
    """(P, N) our gold, (P, M) the baseline's gold on the same prompts -> (P,) probability that a sample of ours beats
    one of theirs, ties half."""
    mine, other = ours[:, :, None], theirs[:, None, :]
    wins = (mine > other).double() + 0.5 * (mine == other).double()  # (P, N, M)
    return expected(wins.mean(2), weights)


class TextNats(NamedTuple):
    nats: Tensor  # (B,) float64, -log p of the text's tokens, summed
    tokens: Tensor  # (B,) int64


TEXT_TOKENS_MAX = 256  # read of a text; the rest is cut


@torch.no_grad()
def text_nats(policy: Resident, adapter: str | None, texts: Sequence[str]) -> TextNats:
    """How unlikely whole texts are to `adapter` on `policy`, or to it bare: nothing before them and no end of sequence
    after, for where a text is cut off says nothing of it."""
    codec = policy.codec
    tokens = codec.encode(
        [""] * len(texts), texts, max_new_tokens=min(TEXT_TOKENS_MAX, codec.window - 1), is_ended=[False] * len(texts)
    )
    with policy.using(adapter):
        logprobs = policy.logprobs(tokens)
    return TextNats(-logprobs.double().sum(-1).cpu(), tokens.is_response.sum(-1).cpu())


def share_distinct(completions: Sequence[str]) -> float:
    """Distinct word pairs over all word pairs of all completions (distinct-2, Li et al. 2016, arXiv:1510.03055)."""
    everything = [pair for text in completions for pair in _word_pairs(text)]
    return len(set(everything)) / max(1, len(everything))


def repetition(completion: str) -> float:
    """Share of a completion's word pairs that repeat an earlier one of it; 0 if it has none."""
    pairs = _word_pairs(completion)
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def _word_pairs(text: str) -> list[tuple[str, str]]:
    return list(pairwise(text.lower().split()))
