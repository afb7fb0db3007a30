"""Writes ppo.json: what TRL 1.12's PPO trainer computes, the last release that has one, for tests/peers/test_ppo.py.

TRL's advantages and losses are lines inside `PPOTrainer.train`, so the trainer itself runs, on a Llama of random
weights with a dozen words, and a hook where it calls `accelerator.backward` reads the tensors of its frame. No formula
is written here. Rollouts are ragged: some rows end with the end-of-sequence token, some fill the response length. The
learning rate is high, so that in the second epoch ratios and values leave their clipping ranges.

It needs an environment of its own, because TRL 1.12 and 1.16 exclude each other:

    python3.11 -m venv ppo-oracle
    ppo-oracle/bin/pip install torch==2.13.0 transformers==4.57.1 trl==1.12.0
    HF_HUB_OFFLINE=1 ppo-oracle/bin/python tests/golden/make_ppo_golden.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl.experimental.ppo import PPOConfig, PPOTrainer
from trl.experimental.ppo.ppo_trainer import masked_whiten

WORDS = ["<pad>", "</s>", *"abcdefghij"]
PROMPTS = ["a b", "c", "d e f", "g h", "i j a", "b", "c d e", "f g"]
TOKENS = 6  # response length
EPISODES = len(PROMPTS)
RUNS = {
    "default": {"gamma": 1.0, "lam": 0.95, "temperature": 1.3},
    "discounted": {"gamma": 0.9, "lam": 0.8, "whiten_rewards": True, "cliprange": 0.1},
    "undiscounted": {"gamma": 1.0, "lam": 1.0, "missing_eos_penalty": 1.0, "cliprange_value": 0.05},
}
# locals of `PPOTrainer.train` at the first backward pass: what one round of rollouts fixes
ROUND = ["logprobs", "ref_logprobs", "scores", "values", "rewards", "advantages", "returns", "contain_eos_token",
         "padding_mask", "padding_mask_p1"]  # fmt: skip
# and at the last one: the loss of a minibatch whose policy has moved
MINIBATCH = ["micro_batch_inds", "mb_responses", "mb_logprobs", "mb_advantage", "mb_values", "mb_return",
             "new_logprobs", "vpred", "ratio", "pg_loss", "vf_loss", "loss", "logits"]  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        padding_side="left",
        model_input_names=["input_ids"],
    )


def model(kind: type, seed: int) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, initializer_range=0.5, num_labels=1,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    made = kind(config)
    if kind is LlamaForCausalLM:  # as TRL tells padding by its id, a response must not contain it
        made.lm_head.register_forward_hook(lambda head, args, logits: logits.index_fill(-1, torch.tensor([0]), -1e4))
    return made


def run(folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """One round of rollouts and two epochs over it by TRL's trainer -> its own tensors."""
    words = tokenizer()
    config = PPOConfig(
        output_dir=folder, report_to=[], num_sample_generations=0, response_length=TOKENS, stop_token="eos",
        total_episodes=EPISODES, per_device_train_batch_size=EPISODES, num_mini_batches=1, num_ppo_epochs=2,
        kl_coef=0.2, learning_rate=0.02, save_strategy="no", bf16=False, gradient_checkpointing=False, use_cpu=True,
        seed=3, **{"temperature": 1.0, **options},
    )  # fmt: skip
    trainer = PPOTrainer(
        config, words, model(LlamaForCausalLM, 1), model(LlamaForCausalLM, 2), model(LlamaForSequenceClassification, 3),
        Dataset.from_dict({"input_ids": [words.encode(p) for p in PROMPTS]}), model(LlamaForSequenceClassification, 4),
    )  # fmt: skip
    frames: list[dict[str, Any]] = []
    backward = trainer.accelerator.backward

    def watched(loss: Tensor, **kwargs: Any) -> None:
        seen = sys._getframe(1).f_locals
        policy_grad = torch.autograd.grad(seen["pg_loss"], seen["new_logprobs"], retain_graph=True)[0]
        value_grad = torch.autograd.grad(seen["vf_loss"], seen["vpred"], retain_graph=True)[0]
        tensors = {name: torch.as_tensor(seen[name]).detach().clone() for name in [*ROUND, *MINIBATCH]}
        frames.append({**tensors, "pg_grad": policy_grad, "vf_grad": value_grad})
        backward(loss, **kwargs)

    logged: dict[str, float] = {}
    trainer.accelerator.backward = watched
    trainer.log = lambda metrics, *_: logged.update(metrics)
    np.random.seed(0)  # TRL shuffles its minibatches by the global generator, which it leaves unseeded
    trainer.train()
    first, last = frames[0], frames[-1]
    names = (
        "gamma",
        "lam",
        "kl_coef",
        "cliprange",
        "cliprange_value",
        "vf_coef",
        "whiten_rewards",
        "missing_eos_penalty",
    )
    return {
        "config": {name: getattr(config, name) for name in names},
        "entropy_avg": logged["policy/entropy_avg"],  # over both epochs
        "first_logits": plain(first["logits"]),
        "round": {name: plain(first[name]) for name in ROUND},
        "minibatch": {name: plain(last[name]) for name in [*MINIBATCH, "pg_grad", "vf_grad"]},
    }


def whitenings() -> list[dict[str, Any]]:
    """TRL's `masked_whiten` on plain tensors with ragged masks."""
    out = []
    for seed, ends in enumerate([[5, 1, 3], [2, 5], [4, 4, 4, 1]]):
        generator = torch.Generator().manual_seed(seed)
        values = 3 * torch.randn(len(ends), 5, generator=generator) + 1
        is_counted = torch.arange(5) < torch.tensor(ends)[:, None]
        shifted, kept = (masked_whiten(values, is_counted, shift_mean=shift) for shift in (True, False))
        out.append(
            {"values": plain(values), "is_counted": plain(is_counted), "shifted": plain(shifted), "kept": plain(kept)}
        )
    return out


def plain(tensor: Tensor) -> Any:
    """Nested lists; floats to nine digits, enough to give a float32 back."""
    if not tensor.is_floating_point():
        return tensor.tolist()
    if tensor.ndim == 0:
        return float(f"{tensor.item():.9g}")
    return [plain(part) for part in tensor]


def main() -> None:
    torch.set_num_threads(1)  # the order of sums, and so the last digits, must not depend on the machine's cores
    with tempfile.TemporaryDirectory() as folder:
        golden = {
            "made_by": {name: version(name) for name in ("trl", "transformers", "torch")},
            "runs": {name: run(folder, options) for name, options in RUNS.items()},
            "whitenings": whitenings(),
        }
    Path(__file__).with_name("ppo.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
