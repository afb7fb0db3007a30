"""TRL 1.12's PPO trainer, in the environment that make_ppo_env.sh makes: `python -m benchmarks.perf.trl_ppo FILE`.

Its best setting: adapters on policy and value model, so that the reference is the policy without its adapter; a whole
batch of rollouts in one forward pass; no gradient checkpointing.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, inject_adapter_in_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks.perf.gate import Gate, peak_bytes, work_file

OTHER_PAD = "<|endoftext|>"  # TRL tells padding by its id, and the model's own is its end of sequence


class Laps(TrainerCallback):
    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.gate.lap()


def lora(work: dict[str, Any], task: str) -> LoraConfig:
    return LoraConfig(r=work["r"], lora_alpha=work["r"], target_modules="all-linear", task_type=task)


def model(kind: Any, work: dict[str, Any], **options: Any) -> Any:
    """transformers 4 does not know the place where 5 keeps the base of the rotary positions."""
    config = AutoConfig.from_pretrained(work["model"], **options)
    config.rope_theta = config.rope_parameters["rope_theta"]
    return kind.from_pretrained(
        work["model"], config=config, dtype=getattr(torch, work["dtype"]), attn_implementation=work["attention"]
    )


def scorer(work: dict[str, Any], pad: int) -> Any:
    """A base under a scalar head of random weights."""
    made = model(AutoModelForSequenceClassification, work, num_labels=1, pad_token_id=pad)
    return made.requires_grad_(False)


def main() -> None:
    work = work_file()
    gate = Gate(work["warm"], work["rounds"])
    words = PreTrainedTokenizerFast(
        tokenizer_file=str(Path(work["model"], "tokenizer.json")), padding_side="left", pad_token=OTHER_PAD,
        eos_token=work["eos_text"], model_input_names=["input_ids"],
    )  # fmt: skip
    policy = model(AutoModelForCausalLM, work)
    value, reward = (scorer(work, words.pad_token_id) for _ in range(2))
    inject_adapter_in_model(lora(work, "SEQ_CLS"), value)
    value.score.requires_grad_(True)
    with tempfile.TemporaryDirectory() as folder:
        config = PPOConfig(
            output_dir=folder, report_to=[], num_sample_generations=0, response_length=work["max_new_tokens"],
            stop_token="eos", total_episodes=work["episodes"] * (work["warm"] + work["rounds"]),
            per_device_train_batch_size=work["episodes"],
            num_mini_batches=work["episodes"] // work["per_device_train_batch_size"],
            num_ppo_epochs=work["num_ppo_epochs"], kl_coef=work["kl_coef"], learning_rate=work["learning_rate"],
            temperature=1.0, local_rollout_forward_batch_size=work["episodes"], save_strategy="no",
            gradient_checkpointing=False,
            bf16=work["dtype"] == "bfloat16", use_cpu=work["device"] == "cpu", disable_tqdm=True,
        )  # fmt: skip
        trainer = PPOTrainer(
            config, words, policy, None, reward, Dataset.from_dict({"input_ids": work["prompts"]}), value,
            eval_dataset=Dataset.from_dict({"input_ids": work["prompts"]}), peft_config=lora(work, "CAUSAL_LM"),
        )  # fmt: skip
        trainer.add_callback(Laps(gate))
        entropies: list[float] = []
        generated: list[int] = []
        backward = trainer.accelerator.backward

        def watched(loss: torch.Tensor, **kwargs: Any) -> None:
            seen = sys._getframe(1).f_locals
            is_token = ~seen["padding_mask"]
            if not seen["ppo_epoch_idx"] and not seen["minibatch_idx"]:
                generated.append(int(is_token.sum()))
                entropies.append(-float(seen["logprobs"][is_token].float().mean()))
            backward(loss, **kwargs)

        trainer.accelerator.backward = watched
        trainer.log = lambda *args: None
        gate.open()
        trainer.train()
    gate.report(losses=[statistics.mean(entropies)], tokens=generated[-work["rounds"] :], peak_bytes=peak_bytes())


if __name__ == "__main__":
    main()
