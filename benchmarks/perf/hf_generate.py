"""transformers' side of generation: `generate`, through PEFT where an adapter is attached.

Its default attention is its best setting here: 154 tokens a CPU second, eager 143.

`python -m benchmarks.perf.hf_generate FILE`
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks.perf.gate import Gate, peak_bytes, work_file
from benchmarks.perf.twins import mean_nll, scatter


def main() -> None:
    work = work_file()
    gate = Gate(work["warm"], work["rounds"])
    model: Any = AutoModelForCausalLM.from_pretrained(work["model"], dtype=getattr(torch, work["dtype"]))
    model = model.to(work["device"]).eval()
    if work["has_adapter"]:
        options = {"r": work["r"], "lora_alpha": work["r"], "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        model = get_peft_model(model, LoraConfig(**options)).eval()
        scatter(model)
    width = max(map(len, work["prompts"]))
    pad, eos = work["pad"], work["eos"]
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in work["prompts"]], device=work["device"])
    is_token = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in work["prompts"]], device=work["device"])
    how = {"do_sample": False} if work["is_greedy"] else {"do_sample": True, "top_k": 0, "top_p": 1.0}

    @torch.no_grad()
    def run() -> list[list[int]]:
        out = model.generate(
            input_ids=ids, attention_mask=is_token, max_new_tokens=work["max_new_tokens"], pad_token_id=pad, **how
        )[:, width:].tolist()
        return [row[: row.index(eos) + 1] if eos in row else row for row in out]

    torch.manual_seed(0)
    answers = gate.rounds(run)
    peak = peak_bytes()
    nll = mean_nll(model, work["prompts"], answers[-1])
    gate.report(losses=[nll], tokens=[sum(map(len, rows)) for rows in answers], peak_bytes=peak)


if __name__ == "__main__":
    main()
