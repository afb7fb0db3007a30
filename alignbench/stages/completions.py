"""A policy's own samples on held-out prompts, their KL from the supervised start, and how likely they are to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alignbench.api import Config, Stage
from alignbench.stages.kind import SPENT, Kind, Told
from alignbench.store import write_json

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class Completions(Kind):
    """Unfiltered. Inputs: `policy`, and `reference`, the supervised start: one for every row, also for a method that
    moved its own start. `prefix`: text before every prompt, for the policy alone; a row's prompt is without it. `nats`:
    of prompt and completion as one text, read by the reference as `lm_loss` reads people's, of `read` tokens."""

    name = "completions"
    view = "scoring"
    seconds = 0.025

    class Options(Config):
        prompts: int
        per_prompt: int
        batch_size: int
        temperature: float
        seed: int
        prefix: str

    def make(self, work: HarnessWork) -> None:
        import torch

        from alignbench.engine.sampling import sample_texts
        from alignbench.scoring.evaluate import after, measure_kl, text_nats

        o = self.Options(**work.options)
        prompts = [p for p in work.held_out_prompts(o.prompts) for _ in range(o.per_prompt)]
        generator = torch.Generator().manual_seed(work.seed)
        rows: list[dict[str, Any]] = []
        flops = 0  # of sampling alone
        with work.resident("reference") as reference, work.resident("policy") as resident:
            adapter = work.load_policy(resident)
            for start in range(0, len(prompts), o.batch_size):
                part = prompts[start : start + o.batch_size]
                asked = [o.prefix + p for p in part]
                flops -= work.meter.flops
                rollout = sample_texts(resident, asked, work.task.max_new_tokens, o.temperature, generator)
                flops += work.meter.flops
                lengths = rollout.tokens.is_response.sum(-1)
                work.count(tokens_generated=int(lengths.sum()))
                bare = after(reference.codec, part, rollout.tokens) if o.prefix else None
                kl = measure_kl(resident, adapter, reference, rollout.tokens, o.temperature, bare)
                told = text_nats(reference, None, [p + c for p, c in zip(part, rollout.completions, strict=True)])
                columns: dict[str, list[Any]] = {
                    "prompt": part,
                    "completion": rollout.completions,
                    "tokens": lengths.tolist(),
                    "is_ended": rollout.is_ended.tolist(),
                    "nats": told.nats.tolist(),
                    "read": told.tokens.tolist(),
                    **{f"kl_nats_{name}": values.tolist() for name, values in kl._asdict().items()},
                }
                rows += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
                work.progress(start + len(part), len(prompts))
        work.save_rows(rows)
        write_json(work.folder / SPENT, {"tokens": sum(row["tokens"] for row in rows), "flops": flops})

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        o = stage.options
        each = "" if o["per_prompt"] == 1 else f", {o['per_prompt']} a prompt"
        each += ", after a prefix" if o["prefix"] else ""
        return Told(f"completions of {below['policy'].made}{each}, seed {o['seed']}", o["prompts"] * o["per_prompt"])
