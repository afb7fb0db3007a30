"""What the core's tests and the plugins' tests share: a tiny dialogue model, pairs to train it on, suites over both."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any library reads it: no test asks the network

WORDS = ["open", "door", "glass", "stone", "river", "paper", "quick", "slow", "blue", "plain", "warm", "sharp"]
SPECIALS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
RUBRIC = " Yes No Harmless: Dialogue A B\n\nHuman: Question 1?\n\nAssistant: "


@pytest.fixture(scope="session")
def dialogue_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer Llama of random weights, window 1024, and a tokenizer that knows the words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=list(SPECIALS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([(RUBRIC + " ".join(WORDS) + " ") * 4], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **SPECIALS)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.15,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("dialogue-model")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dialogue_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 pairs of a made-up preference (for Yes) in a .jsonl file."""
    rng = random.Random(0)

    def answer(opening: str) -> str:
        return f" {opening} {' '.join(rng.choices(WORDS, k=rng.randint(1, 4)))}"

    rows = [
        {"prompt": f"\n\nHuman: Question {i}?\n\nAssistant:", "chosen": answer("Yes"), "rejected": answer("No")}
        for i in range(80)
    ]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def suite_file(dialogue_model: Path, dialogue_pairs: Path, tmp_path: Path) -> Callable[..., Path]:
    """`suite_file(methods, **keys)`: a suite of tiny budgets on disk; `keys` replace or extend its top level."""

    def write(methods: list[Any], name: str = "tiny.yaml", **keys: Any) -> Path:
        suite = {
            "model": str(dialogue_model),
            "device": "cpu",
            "dtype": "float32",
            "max_steps": 3,
            "lora": {"r": 4, "alpha": 8},
            "task": {"name": "hh", "options": {"source": str(dialogue_pairs), "max_new_tokens": 6}},
            "sft": {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 0.01},
            "comparisons": {"source": "human", "pairs": 12},
            "reward_model": {"per_device_train_batch_size": 6},
            "evaluation": {"prompts": 8, "held_out_pairs": 8, "bootstrap": 50},
            "methods": methods,
            **keys,
        }
        path = tmp_path / name
        path.write_text(json.dumps(suite, indent=1))  # JSON is YAML
        return path

    return write
