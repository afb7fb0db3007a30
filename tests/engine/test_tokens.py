"""Golden ids and masks, written by hand for a vocabulary of ten words."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignbench.engine.tokens import Codec
from alignbench.errors import UserError

WORDS = ["<s>", "</s>", "[UNK]", "the", "film", "is", "good", "bad", "</", "s", ">"]
S, E, U, THE, FILM, IS, GOOD, BAD, OPEN, LETTER, CLOSE = range(11)


def codec(window=32, **specials):
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return Codec(PreTrainedTokenizerFast(tokenizer_object=inner, **specials), window, torch.device("cpu"))


@pytest.fixture(params=["BOS, no padding token", "no BOS, padding is EOS"])
def made(request):
    """A codec and the id its prompts open with."""
    if request.param.startswith("BOS"):
        return codec(bos_token="<s>", eos_token="</s>"), S
    return codec(eos_token="</s>", pad_token="</s>"), E


# prompt, completion, the prompt's ids after its opening, the response's ids
DIALOGUES = [
    ("the film", "is good", [THE, FILM], [IS, GOOD, E]),
    ("the film is", "bad", [THE, FILM, IS], [BAD, E]),
    ("", "the film", [], [THE, FILM, E]),  # an empty prompt: the first token still has a predecessor
    ("the", "", [THE], [E]),  # an empty completion is its EOS alone
    ("the", "film is good bad", [THE], [FILM, IS, GOOD]),  # cut at three tokens: no EOS
    ("the", "</s> film", [THE], [OPEN, LETTER, CLOSE]),  # text that spells EOS stays text
]


@pytest.mark.parametrize(("prompt", "completion", "head", "tail"), DIALOGUES)
def test_golden_ids_and_masks(made, prompt, completion, head, tail):
    codec, opening = made
    batch = codec.encode([prompt, "the film is good"], [completion, "bad the film is"], max_new_tokens=3)
    blank = 8 - 1 - len(head) - len(tail)
    assert batch.ids[0].tolist() == [opening, *head, *tail, *[E] * blank]
    assert batch.is_token[0].tolist() == [True] * (8 - blank) + [False] * blank
    assert batch.is_response[0].tolist() == [False] * (1 + len(head)) + [True] * len(tail) + [False] * blank
    assert batch.ids[1].tolist() == [opening, THE, FILM, IS, GOOD, BAD, THE, FILM]  # neighbours change nothing


def test_where_padding_is_eos_the_real_eos_is_a_response_token_and_padding_is_not():
    batch = codec(eos_token="</s>", pad_token="</s>").encode(["the", "the"], ["film", "film is"], max_new_tokens=5)
    assert batch.ids[0].tolist() == [E, THE, FILM, E, E]
    assert batch.is_token[0].tolist() == [True, True, True, True, False]
    assert batch.is_response[0].tolist() == [False, False, True, True, False]


def test_special_tokens_spelt_out_in_a_prompt_stay_text():
    assert codec(bos_token="<s>", eos_token="</s>").prompt("</s>the<s>") == [
        S,
        OPEN,
        LETTER,
        CLOSE,
        THE,
        U,
        LETTER,
        CLOSE,
    ]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_byte_level_text_comes_back_unchanged_without_its_special_tokens(resident, name):
    codec = resident(name).codec
    text = " good </s><|endoftext|><s> one,\n\u00e9 \U0001f600  two  spaces ."
    ids = codec.completion(text)
    assert ids.count(codec.eos) == 1
    assert ids[-1] == codec.eos
    assert codec.text(ids) == text


def test_a_tokenizer_without_eos_is_refused():
    with pytest.raises(UserError, match="no end-of-sequence token; set `eos_token`"):
        codec(bos_token="<s>")


def test_a_prompt_fills_the_window_to_the_last_token_and_no_further():
    small = codec(window=6, bos_token="<s>", eos_token="</s>")
    assert len(small.fitting("the film is", 2)) == 4
    with pytest.raises(UserError, match=r"a prompt of 4 tokens and 3 new ones exceed .* window of 6: 'the film"):
        small.fitting("the film is", 3)
    with pytest.raises(UserError, match="window of 6"):
        small.encode(["the film is"], ["good"], max_new_tokens=3)


def test_a_judges_question_longer_than_the_window_is_refused():
    small = codec(window=6, eos_token="</s>")
    assert small.fitting_rest("the film", 4) == [THE, FILM]
    with pytest.raises(UserError, match="a judge's question of 7 tokens exceeds the model's window of 6"):
        small.fitting_rest("the film", 5)
