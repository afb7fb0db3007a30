"""Text to token batches: one place that knows about BOS, EOS, padding and the model's window."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from transformers import PreTrainedTokenizerBase

from alignbench.api import TokenBatch
from alignbench.errors import UserError

TEXTS = 2**15  # kept with their ids


def stacked(*batches: TokenBatch) -> TokenBatch:
    """Batches one below the other, padded on the right to one width. What is added is no token, so its id is any."""
    width = max(batch.ids.shape[1] for batch in batches)
    columns = zip(*batches, strict=True)
    pad = torch.nn.functional.pad
    return TokenBatch(*(torch.cat([pad(part, (0, width - part.shape[1])) for part in column]) for column in columns))


class Codec:
    """Encodes prompts and completions apart, so that a completion's first token never merges with the prompt's last.

    A prompt opens with BOS if the tokenizer has one, exactly once; a tokenizer without BOS opens with EOS, so that an
    empty prompt still gives the first completion token something to be predicted from. A completion closes with EOS,
    exactly once. Padding is told by masks alone, because many models pad with EOS.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, window: int, device: torch.device) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-sequence token; set `eos_token` in its tokenizer_config.json")
        self.tokenizer = tokenizer
        self.window = window
        self.device = device
        self.eos: int = tokenizer.eos_token_id
        self.bos: int = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self.pad: int = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        # each epoch reads the same texts: on a small model the tokenizer was a third of DPO's time
        self._encoded = lru_cache(TEXTS)(
            lambda text: tuple(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
        )

    def prompt(self, text: str) -> list[int]:
        return [self.bos, *self.plain(text)]

    def completion(self, text: str) -> list[int]:
        return [*self.plain(text), self.eos]

    def plain(self, text: str) -> list[int]:
        """Ids without special tokens. A text that spells one out (`<|im_end|>`) stays text: it may come from anyone."""
        return list(self._encoded(text))

    def text(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)  # a list only for a batch of rows
        return text

    def encode(
        self, prompts: Sequence[str], completions: Sequence[str], *, max_new_tokens: int,
        is_ended: Sequence[bool] | None = None,
    ) -> TokenBatch:  # fmt: skip
        """Prompt + completion + EOS, right-padded. A completion is cut at `max_new_tokens`, and then has no EOS; nor
        has one that is not `is_ended`, which was cut where it was sampled."""
        heads = [self.fitting(p, max_new_tokens) for p in prompts]
        ends = [True] * len(heads) if is_ended is None else is_ended
        tails = [
            (self.completion(c) if end or not c else self.plain(c))[:max_new_tokens]
            for c, end in zip(completions, ends, strict=True)
        ]
        return self.padded(heads, tails)

    def fitting(self, prompt: str, room: int) -> list[int]:
        """The prompt's ids. UserError if they and `room` more tokens exceed the model's window."""
        ids = self.prompt(prompt)
        if len(ids) + room > self.window:
            raise UserError(
                f"a prompt of {len(ids)} tokens and {room} new ones exceed the model's window of {self.window}: "
                f"'{prompt[:40]}...'; shorten the prompts, or lower the task's max_new_tokens"
            )
        return ids

    def fitting_rest(self, text: str, used: int) -> list[int]:
        """Ids of text that follows `used` other tokens. UserError if both exceed the model's window."""
        ids = self.plain(text)
        if used + len(ids) > self.window:
            raise UserError(
                f"a judge's question of {used + len(ids)} tokens exceeds the model's window of {self.window}; "
                "shorten the rubric, the prompts or the task's max_new_tokens"
            )
        return ids

    def padded(self, heads: Sequence[Sequence[int]], tails: Sequence[Sequence[int]]) -> TokenBatch:
        """Lists of prompt ids and response ids -> one batch on the device."""
        width = max(len(h) + len(t) for h, t in zip(heads, tails, strict=True))
        ids = torch.full((len(heads), width), self.pad, dtype=torch.long)
        is_token = torch.zeros(ids.shape, dtype=torch.bool)
        is_response = torch.zeros(ids.shape, dtype=torch.bool)
        for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            end = len(head) + len(tail)
            ids[row, :end] = torch.tensor([*head, *tail], dtype=torch.long)
            is_token[row, :end] = True
            is_response[row, len(head) : end] = True
        return TokenBatch(*(t.to(self.device) for t in (ids, is_token, is_response)))
