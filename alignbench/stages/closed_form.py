"""Where every completion can be listed: rewards and KL without sampling, and the distance to the known optimum."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

from alignbench.api import Config, Stage
from alignbench.stages.kind import Contract, Kind, Told, spoken
from alignbench.stages.source import Source
from alignbench.store import write_json

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class ClosedForm(Kind):
    """Inputs: `policy`, `reference`, `gold`, and `proxy` where it is a fitted reward model."""

    name = "closed_form"
    view = "scoring"
    seconds = 0.001

    class Options(Config):
        prompts: int
        temperature: float
        beta: float | None  # reward points per nat
        objective: Literal["proxy", "gold"] | None  # whose expectation training raised
        reward: Source | None  # an unfitted proxy
        seed: int
        prefix: str  # before every prompt, for the policy alone

    def make(self, work: HarnessWork) -> None:
        import torch

        from alignbench.scoring import closed_form as exact

        o, limit = self.Options(**work.options), work.task.max_new_tokens
        prompts = list(dict.fromkeys(work.held_out_prompts(o.prompts)))
        completions = [work.task.completions(prompt) or [] for prompt in prompts]
        with work.resident("policy") as resident:
            adapter = work.load_policy(resident)
            policy, own_start = (
                exact.completion_logprobs(resident, name, asked, completions, limit, o.temperature)
                for name, asked in ((adapter, [o.prefix + p for p in prompts]), (None, prompts))
            )
        with work.resident("reference") as resident:
            reference = exact.completion_logprobs(resident, None, prompts, completions, limit, o.temperature)
        rewards = {}
        for name in ("gold", "proxy"):
            with ExitStack() as stack:
                source = work.open_gold(stack) if name == "gold" else work.open_reward(stack, name, o.reward)
                rows = [source.score([p] * len(texts), texts) for p, texts in zip(prompts, completions, strict=True)]
                rewards[name] = torch.stack(rows).double().cpu()
        metrics = {
            "reward_gold_enumerated": float(exact.mean_reward(policy, rewards["gold"]).mean()),
            "reward_proxy_enumerated": float(exact.mean_reward(policy, rewards["proxy"]).mean()),
            "kl_nats_enumerated": float(exact.kl(policy, reference).mean()),
        }
        if o.beta is not None and o.objective is not None:
            metrics |= exact.distance(policy, own_start, rewards[o.objective], o.beta)._asdict()
        write_json(work.folder / "closed_form.json", metrics)

    def runs(self, options: Mapping[str, Any]) -> list[tuple[Contract, str]]:
        return [] if options["reward"] is None else [("source", options["reward"]["name"])]

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        after = ", after a prefix" if stage.options["prefix"] else ""
        return Told(f"{spoken(self.name)} of {below['policy'].made}{after}", stage.options["prompts"])
