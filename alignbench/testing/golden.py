"""Ids and masks of twelve dialogues, written by hand, against what the engine makes of them.

Three tokenizers of one small vocabulary differ as real ones do: one with a token each for beginning, end and padding;
one whose end token also begins and pads (GPT-2's); one that would add both ends itself (Llama's adds the first).
Ids: 0 unknown, 1 to 10 the words, 11 end, 12 beginning, 13 padding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from alignbench.engine.tokens import Codec
from alignbench.testing.kit import Unmet, check

WORDS = ("Human:", "Assistant:", "hi", "there", "how", "are", "you", "fine", "thanks", "no")  # ids 1 to 10
END, BEGIN = 11, 12
LIMIT = 4  # tokens of a completion, its end included


class Dialogue(NamedTuple):
    prompt: str
    completion: str
    prompt_ids: list[int]
    response_ids: list[int]
    is_ended: bool = True  # False: the text is a sample that was cut at its limit


APART = (
    Dialogue("Human: hi Assistant:", " hi there", [12, 1, 3, 2], [3, 4, 11]),
    Dialogue("Human: how are you Assistant:", " fine", [12, 1, 5, 6, 7, 2], [8, 11]),
    Dialogue("hi", "", [12, 3], [11]),  # an empty answer is one that ends at once
    Dialogue("", " thanks", [12], [9, 11]),  # an empty prompt still has something to go on from
)
SHARED = (
    Dialogue("Human: hi Assistant:", " hi there you", [11, 1, 3, 2], [3, 4, 7, 11]),
    Dialogue("hi", " no", [11, 3], [10, 11]),
    Dialogue("hi there", " fine thanks no you", [11, 3, 4], [8, 9, 10, 7]),  # cut: the first tokens stay
    Dialogue("how", " fine thanks", [11, 5], [8, 9], is_ended=False),  # cut where it was sampled: no end
)
TEMPLATED = (
    Dialogue("Human: no Assistant:", " no no no", [12, 1, 10, 2], [10, 10, 10, 11]),
    Dialogue("hi </s>", " hi", [12, 3, 0], [3, 11]),  # an end token spelled out in a text is text
    Dialogue("you", " are you how are hi", [12, 7], [6, 7, 5, 6]),
    Dialogue("", "", [12], [11]),
)
TOKENIZERS = {"apart": APART, "shared": SHARED, "templated": TEMPLATED}


@check(
    "harness", "golden_ids_and_masks", shapes=(), traps=(21, 22, 23, 25, 26, 27),
    requires="Twelve dialogues have the ids written by hand; is_response is True on the completion and its end token "
    "alone, is_token on everything but padding.",
    cause="engine.tokens.Codec: ends added twice or masked, a mask that is shifted, cut, or told by the padding id",
)  # fmt: skip
def _(lab: Any) -> None:
    for kind, dialogues in TOKENIZERS.items():
        batch = encode(kind)
        for row, dialogue in enumerate(dialogues):
            wanted = [*dialogue.prompt_ids, *dialogue.response_ids]
            is_token = [True] * len(wanted) + [False] * (batch.ids.shape[1] - len(wanted))
            is_response = [False] * len(dialogue.prompt_ids) + is_token[len(dialogue.prompt_ids) :]
            who = f"'{dialogue.prompt}' + '{dialogue.completion}' ({kind})"
            if (seen := batch.ids[row][: len(wanted)].tolist()) != wanted:
                raise Unmet(f"{who} has ids {seen} instead of {wanted}")
            for name, seen, mask in (
                ("is_token", batch.is_token[row].tolist(), is_token),
                ("is_response", batch.is_response[row].tolist(), is_response),
            ):
                if seen != mask:
                    raise Unmet(f"{who} has {name} {_bits(seen)} instead of {_bits(mask)}")


@check(
    "harness", "truncation_empties_no_sample", shapes=(), traps=(24,),
    requires="A completion cut at any limit keeps its first tokens, at least one, and its whole prompt.",
    cause="engine.tokens.Codec: a cut from the left, or of prompt and completion together",
)  # fmt: skip
def _(lab: Any) -> None:
    for limit in (1, 2, 3):
        for kind, dialogues in TOKENIZERS.items():
            batch = encode(kind, limit)
            for row, dialogue in enumerate(dialogues):
                kept = batch.ids[row][batch.is_response[row]].tolist()
                head = batch.ids[row][batch.is_token[row] & ~batch.is_response[row]].tolist()
                if kept != dialogue.response_ids[:limit] or head != dialogue.prompt_ids:
                    raise Unmet(
                        f"at {limit} tokens '{dialogue.prompt}' + '{dialogue.completion}' ({kind}) is {head} + {kept}"
                    )


def encode(kind: str, limit: int = LIMIT) -> Any:
    """A tokenizer's dialogues as one batch."""
    dialogues = TOKENIZERS[kind]
    codec = Codec(tokenizer(kind), window=64, device=torch.device("cpu"))
    return codec.encode(
        [d.prompt for d in dialogues], [d.completion for d in dialogues], max_new_tokens=limit,
        is_ended=[d.is_ended for d in dialogues],
    )  # fmt: skip


def tokenizer(kind: str) -> Any:
    """Splits at spaces; see the module's docstring for the three kinds."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.add_special_tokens(["</s>", "<s>", "<pad>"])
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.WordPiece()
    if kind == "templated":
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", BEGIN), ("</s>", END)]
        )
    specials = {"unk_token": "<unk>", "eos_token": "</s>"}
    specials |= {"pad_token": "</s>"} if kind == "shared" else {"bos_token": "<s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **specials)


def _bits(mask: list[bool]) -> str:
    return "".join("x" if bit else "." for bit in mask)
