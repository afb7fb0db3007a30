"""TRL 1.16's RLOO and GRPO trainers, at the settings of trl_trainers.py: `python -m benchmarks.perf.trl_online FILE`.

The reward model is a base under a scalar head of random weights. The trainers hand it texts without their end of
sequence, so that the model's own pad token, which is the same, misleads it nowhere.
"""

from __future__ import annotations

import statistics
import tempfile
from typing import Any

import trl
from datasets import Dataset

from benchmarks.perf.gate import Gate, peak_bytes, work_file
from benchmarks.perf.trl_trainers import Laps, arguments, lora

KINDS = {"rloo": (trl.RLOOConfig, trl.RLOOTrainer), "grpo": (trl.GRPOConfig, trl.GRPOTrainer)}


def trainer_of(work: dict[str, Any], folder: str, steps: int) -> Any:
    """`steps` optimiser steps over each round of `episodes` completions, `group` of them for a prompt. Before the
    first, both trainers pass the policy and, as beta is not 0, the reference over them."""
    make_config, make = KINDS[work["kind"]]
    options = arguments({**work, "steps": steps}, folder)
    del options["max_length"]  # the online trainers cut no prompt
    config = make_config(
        beta=work["kl_coef"], num_generations=work["group"], generation_batch_size=work["episodes"], num_iterations=1,
        max_completion_length=work["max_new_tokens"], temperature=1.0, top_p=1.0, top_k=0, shuffle_dataset=False,
        **options,
    )  # fmt: skip
    prompts = Dataset.from_dict({"prompt": [work["opening"] + prompt for prompt in work["prompts"]]})
    return make(
        work["model"], reward_funcs=work["model"], args=config, train_dataset=prompts,
        peft_config=lora(work, "CAUSAL_LM"),
    )  # fmt: skip


def main() -> None:
    work = work_file()
    steps = work["episodes"] // work["per_device_train_batch_size"]
    gate = Gate(work["warm"], work["rounds"], steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(work, folder, steps)
        trainer.add_callback(Laps(gate))
        trainer.log = lambda *args: None  # which would clear the metrics
        gate.open()
        trainer.train()
    seen = trainer._metrics["train"]
    rounds = work["warm"] + work["rounds"]
    generated = sum(seen["completions/mean_length"]) * work["episodes"] / rounds
    gate.report(losses=[statistics.mean(seen["entropy"])], tokens=[generated], peak_bytes=peak_bytes())


if __name__ == "__main__":
    main()
