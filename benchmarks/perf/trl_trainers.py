"""TRL's side of the offline works, at its best setting: `python -m benchmarks.perf.trl_trainers FILE`.

Best of the variants tried (benchmarks/README.md): no gradient checkpointing, reference log-probabilities precomputed,
bfloat16 autocast over a bfloat16 model where we use it, on a CPU eager attention.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback

from benchmarks.perf.gate import Gate, peak_bytes, work_file
from benchmarks.perf.twins import scatter, scatter_head
from benchmarks.perf.works import in_rounds

OTHER_PAD = "<|endoftext|>"  # the model pads with its end of sequence, and TRL's reward model would not read that


def arguments(work: dict[str, Any], folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder, "report_to": "none", "disable_tqdm": True, "save_strategy": "no",
        "logging_strategy": "no", "use_cpu": work["device"] == "cpu", "bf16": work["dtype"] == "bfloat16",
        "gradient_checkpointing": False, "train_sampling_strategy": "sequential", "lr_scheduler_type": "constant",
        "learning_rate": work["learning_rate"], "per_device_train_batch_size": work["per_device_train_batch_size"],
        "max_steps": (work["warm"] + work["rounds"]) * work["steps"], "max_length": None,
        "model_init_kwargs": {"dtype": work["dtype"], "attn_implementation": work["attention"]},
    }  # fmt: skip


def lora(work: dict[str, Any], task: str, **options: Any) -> LoraConfig:
    return LoraConfig(r=work["r"], lora_alpha=work["r"], target_modules="all-linear", task_type=task, **options)


def dpo(work: dict[str, Any], folder: str) -> Any:
    config = trl.DPOConfig(beta=work["beta"], precompute_ref_log_probs=True, **arguments(work, folder))
    return trl.DPOTrainer(work["model"], args=config, train_dataset=rows(work), peft_config=lora(work, "CAUSAL_LM"))


def sft(work: dict[str, Any], folder: str) -> Any:
    data = rows(work).rename_column("chosen", "completion").remove_columns("rejected")
    config = trl.SFTConfig(**arguments(work, folder))
    return trl.SFTTrainer(work["model"], args=config, train_dataset=data, peft_config=lora(work, "CAUSAL_LM"))


def reward_model(work: dict[str, Any], folder: str) -> Any:
    config = trl.RewardConfig(pad_token=OTHER_PAD, **arguments(work, folder))
    peft = lora(work, "SEQ_CLS", modules_to_save=["score"])
    return trl.RewardTrainer(work["model"], args=config, train_dataset=rows(work), peft_config=peft)


def rows(work: dict[str, Any]) -> Dataset:
    return Dataset.from_list([{**row, "prompt": work["opening"] + row["prompt"]} for row in work["ordered_pairs"]])


class Laps(TrainerCallback):
    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.gate.lap()


def main() -> None:
    work = work_file()
    gate = Gate(work["warm"], work["rounds"], work["steps"])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = folder
        trainer = {f.__name__: f for f in (dpo, sft, reward_model)}[work["work"]](work, folder)
        if work["work"] != "sft":
            scatter(trainer.model)
        if work["work"] == "reward_model":
            scatter_head(trainer.model.get_submodule("base_model.model.score.modules_to_save.default").weight)
        losses, tokens = [], []
        compute_loss = trainer.compute_loss

        def watched(model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            tokens.append(int(inputs["attention_mask"].sum()))
            loss = compute_loss(model, inputs, *args, **kwargs)
            losses.append((loss[0] if isinstance(loss, tuple) else loss).detach())
            return loss

        trainer.compute_loss = watched
        trainer.add_callback(Laps(gate))
        trainer.train()
        count = work["rounds"] * work["steps"]
        per_round = [sum(part) for part in in_rounds(tokens[-count:], work["steps"])]
        gate.report(losses=[float(loss) for loss in losses][-count:], tokens=per_round, peak_bytes=peak_bytes())


if __name__ == "__main__":
    main()
