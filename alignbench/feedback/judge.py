"""A language model as judge: probabilities of its labels, never parsed text (Lee et al. 2023, arXiv:2309.00267).

`pointwise` shows one text and compares log P(best label) - log P(worst label). `pairwise` shows two, in both orders,
and averages P("A") over them, which cancels a preference for the first place but not for one kind of text. Pointwise is
the default because it is what a small judge can do: on 300 human pairs of the movie ratings SmolLM2-135M agrees with
the humans on 79 % pointwise, on 47 to 60 % pairwise depending on the wording, and there it names the same place in both
orders on 99 % of pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, Literal

from alignbench import api
from alignbench.api import RewardSource, SourceRoom
from alignbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 64


class Judge(RewardSource):
    name = "judge"
    summary = "the base model as judge: label log-probabilities under the task's rubric"
    labels = "ai"

    class Config(api.Config):
        format: Literal["pointwise", "pairwise"] = "pointwise"
        guidelines: tuple[str, ...] = ()  # in place of the rubric's; each prompt gets one of them, by its hash

    def prepare(self, room: SourceRoom) -> None:
        self.base = room.base
        self.rubric = room.rubric
        self.guidelines = self.config.guidelines or (room.rubric.guideline,)

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        """(B,) log P(best) - log P(worst), nats, one text at a time."""
        r = self.rubric
        texts = [f"{p}{c}\n{r.quality}:" for p, c in zip(prompts, completions, strict=True)]
        log_p = self._label_logprobs(prompts, f"{r.subject}: ", texts, (f" {r.best}", f" {r.worst}"))
        return log_p[:, 0] - log_p[:, 1]

    def prefer(self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> Tensor:
        if self.config.format == "pointwise":
            return super().prefer(prompts, a, b)
        return (self._chooses_first(prompts, a, b) + 1 - self._chooses_first(prompts, b, a)) / 2

    def prefer_once(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        if self.config.format == "pointwise":
            return super().prefer_once(prompts, first, second)
        return self._chooses_first(prompts, first, second)

    def _chooses_first(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """(B,) P("A") with `first` shown as A."""
        r = self.rubric
        question = f"\nThe {r.subject.lower()} that is more {r.best.lower()} is"
        texts = [f"A: {p}{x}\n{r.subject} B: {p}{y}{question}" for p, x, y in zip(prompts, first, second, strict=True)]
        return self._label_logprobs(prompts, f"{r.subject} ", texts, (" A", " B"))[:, 0].exp()

    def _label_logprobs(
        self, prompts: Sequence[str], opening: str, texts: Sequence[str], labels: tuple[str, str]
    ) -> Tensor:
        """(B, 2) log-probabilities of the labels' first tokens, normalised over the two, nats."""
        import torch

        from alignbench.engine.sampling import next_logits

        codec = self.base.codec
        tokens = [codec.plain(label) for label in labels]
        for label, ids in zip(labels, tokens, strict=True):
            if not ids:
                raise UserError(
                    f"the judge cannot answer '{label}': the model's tokenizer has no token for it; name another "
                    "model, or give the task's rubric other labels"
                )
        columns = [ids[0] for ids in tokens]
        if columns[0] == columns[1]:
            raise UserError(
                f"the judge cannot tell '{labels[0]}' from '{labels[1]}': the tokenizer begins both with the same "
                "token; give the task's rubric other labels"
            )
        prefixes = [codec.prompt(f"{guideline}\n\n{opening}") for guideline in self.guidelines]
        which = [_choice(prompt, len(prefixes)) for prompt in prompts]
        rests = [codec.fitting_rest(text, len(prefixes[w])) for text, w in zip(texts, which, strict=True)]
        order = sorted(
            range(len(rests)), key=lambda i: (which[i], len(rests[i]))
        )  # one prefix and length share a batch
        out = torch.empty(len(rests), 2)
        for prefix_number, members in groupby(order, key=lambda i: which[i]):
            for rows in batched(members, ROWS):
                with self.base.using(None):
                    logits = next_logits(self.base, prefixes[prefix_number], [rests[i] for i in rows])
                out[rows] = logits[:, columns].float().log_softmax(-1).cpu()
                self.tokens_judged += len(prefixes[prefix_number]) + sum(len(rests[i]) for i in rows)
        return out


def batched(items: Iterable[int], size: int) -> Iterator[list[int]]:
    iterator = iter(items)
    while taken := list(islice(iterator, size)):
        yield taken


def _choice(prompt: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()[:8]) % count
