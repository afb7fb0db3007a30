"""The oracle task's models: a Llama and a GPT-2 of random weights over a language of three letters, made in code.

They are real transformers models behind a real tokenizer, so the engine treats them as any other, and so small that
every completion of two tokens can be listed. One special token begins, ends and pads: the hard case for every mask.
Characters outside the language are dropped, which lets a judge's rubric be read in it, and a completion's tokens and
its text are one to one. Weights spread wide enough that what they say is far from uniform.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LETTERS = "abc"
END = "<|end|>"
WINDOW = 256  # tokens, enough for a judge's or a critic's question
TOYS = ("oracle-llama", "oracle-gpt2")


def recipe_sha256() -> str:
    """Of this file: a folder built by another version of it is built anew."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def build_toy(name: str, folder: Path) -> None:
    """Save the model and its tokenizer into `folder`, the same bits each time, the global generators left alone."""
    import torch  # here, because planning a suite on a real model must not wait for it
    from transformers import AutoModelForCausalLM

    tokenizer = _tokenizer()
    end = tokenizer.convert_tokens_to_ids(END)
    config = _configs({"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end, "pad_token_id": end})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config[name], dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _configs(ids: Mapping[str, Any]) -> dict[str, Any]:
    from transformers import GPT2Config, LlamaConfig

    llama = LlamaConfig(
        **ids, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=WINDOW, initializer_range=0.15,
    )  # fmt: skip
    gpt2 = GPT2Config(**ids, n_embd=32, n_layer=2, n_head=4, n_positions=WINDOW, initializer_range=0.15)
    return dict(zip(TOYS, (llama, gpt2), strict=True))


def _tokenizer() -> Any:
    """One token a letter, in either case; whatever is no letter of the language has no token and vanishes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate((END, *LETTERS))}, merges=[]))
    inner.normalizer = normalizers.Lowercase()
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=END, eos_token=END, pad_token=END)
