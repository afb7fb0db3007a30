"""What passes between a method and the engine.

Shapes: B sequences, T tokens of the longest one. A tensor "per token" is (B, T), its column t speaks of token t, and it
is zero wherever `is_response` is False; no tensor is shifted by one against another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # torch takes seconds to import; only annotations need it here
    from torch import Tensor


class TokenBatch(NamedTuple):
    """Right-padded sequences, prompt then response."""

    ids: Tensor  # (B, T) int64
    is_token: Tensor  # (B, T) bool, False on padding
    is_response: Tensor  # (B, T) bool, True on the completion's tokens, its end-of-sequence token included


class Rollout(NamedTuple):
    """Completions sampled from the policy."""

    prompts: list[str]
    completions: list[str]  # special tokens removed
    tokens: TokenBatch
    is_ended: Tensor  # (B,) bool, True where the end-of-sequence token was sampled within the limit


class ActorCritic(NamedTuple):
    """What PPO reads off one pass; each per token, float32."""

    logprobs: Tensor  # (B, T) nats
    entropies: Tensor  # (B, T) nats
    values: Tensor  # (B, T) value of the state in which token t was chosen


class PreferenceBatch(NamedTuple):
    """Pairs that share a prompt."""

    rows: list[int]  # (B,) row numbers in `Trial.preferences`, the key under which reference values are kept
    chosen: TokenBatch
    rejected: TokenBatch
