"""A Bradley-Terry reward model: an adapter and a scalar head on the start point.

Pairwise loss, Ouyang et al. 2022 (arXiv:2203.02155) eq. 1 with K = 2: -log sigmoid(r(chosen) - r(rejected)). Listwise,
the same equation over all ordered pairs of K ranked responses, divided by K (K - 1) / 2. The head reads the mean of the
final hidden states over all real tokens (`pooling: mean`) or the last real token (`last`). Mean is the default because
it learns from far fewer pairs: 80 % of held-out human pairs from 256 against 59 % (SmolLM2-135M, sentiment task).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alignbench.api import Config, RewardSource, TokenBatch
from alignbench.engine.checkpoint import Checkpoints
from alignbench.engine.meter import Meter
from alignbench.engine.optim import Optimizer, checked
from alignbench.engine.resident import Resident
from alignbench.engine.resume import History, keep, resumed
from alignbench.errors import UserError
from alignbench.feedback.early_stopping import Best
from alignbench.suite.spec import RewardModelConfig

Pooling = Literal["mean", "last"]
SCORING_ROWS = 64


def pool(hidden: Tensor, is_token: Tensor, pooling: Pooling) -> Tensor:
    """(B, T, H), (B, T) -> (B, H) float32: the mean over real tokens, or the last real token, wherever padding is."""
    if pooling == "mean":
        weight = is_token[..., None].float()
        return (hidden.float() * weight).sum(1) / weight.sum(1)
    last = hidden.shape[1] - 1 - is_token.flip(-1).int().argmax(-1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last].float()


def pairwise_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(B,) scores twice -> scalar Bradley-Terry loss, nats."""
    return -F.logsigmoid(chosen - rejected).mean()


def listwise_loss(scores: Tensor) -> Tensor:
    """(B, K) scores, best first -> scalar: all ordered pairs, divided by K (K - 1) / 2, mean over lists."""
    k = scores.shape[1]
    better, worse = torch.triu_indices(k, k, offset=1, device=scores.device)
    return -F.logsigmoid(scores[:, better] - scores[:, worse]).sum(1).div(k * (k - 1) / 2).mean()


class RewardModel(RewardSource):
    """Scores texts with a fitted adapter and head. Scores are centred and scaled to the texts it was fitted to."""

    name = "reward_model"
    summary = "Bradley-Terry model fitted to comparisons"

    def __init__(
        self,
        resident: Resident,
        adapter: str,
        head: nn.Linear,
        pooling: Pooling,
        max_completion_tokens: int,
        layers: int | None = None,
    ) -> None:
        super().__init__(Config())
        self.resident = resident
        self.adapter = adapter
        self.head = head
        self.pooling: Pooling = pooling
        self.max_completion_tokens = max_completion_tokens
        self.layers = layers  # topmost blocks that carry the adapter; None: as the policy's
        self.mean, self.std = 0.0, 1.0

    @classmethod
    def fresh(
        cls,
        resident: Resident,
        pooling: Pooling,
        max_completion_tokens: int,
        seed: int,
        adapter: str = "reward",
        layers: int | None = None,
    ) -> RewardModel:
        """A new adapter under a zero head: every text scores 0."""
        resident.add_adapter(adapter, seed, layers)
        head = nn.Linear(resident.hidden_size, 1, device=resident.device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return cls(resident, adapter, head, pooling, max_completion_tokens, layers)

    @classmethod
    def load(cls, folder: Path, resident: Resident, adapter: str = "reward") -> RewardModel:
        facts = json.loads((folder / "reward_model.json").read_text())
        resident.load_adapter(adapter, folder, facts["layers"])
        head = nn.Linear(resident.hidden_size, 1, device=resident.device).requires_grad_(False)
        head.load_state_dict(load_file(folder / "head.safetensors", device=str(resident.device)))
        model = cls(resident, adapter, head, facts["pooling"], facts["max_completion_tokens"], facts["layers"])
        model.mean, model.std = facts["mean"], facts["std"]
        return model

    def save(self, folder: Path) -> None:
        self.resident.save_adapter(self.adapter, folder)
        save_file({k: v.contiguous() for k, v in self.head.state_dict().items()}, folder / "head.safetensors")
        names = ("pooling", "max_completion_tokens", "layers", "mean", "std")
        facts = {name: getattr(self, name) for name in names}
        (folder / "reward_model.json").write_text(json.dumps(facts))

    def encode(self, prompts: Sequence[str], completions: Sequence[str]) -> TokenBatch:
        return self.resident.codec.encode(prompts, completions, max_new_tokens=self.max_completion_tokens)

    def forward(self, tokens: TokenBatch) -> Tensor:
        """(B,) raw scores, with gradient, under the active adapter."""
        return self.head(pool(self.resident.hidden(tokens), tokens.is_token, self.pooling)).squeeze(-1)

    @torch.no_grad()
    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        raw = []
        with self.resident.using(self.adapter):
            for start in range(0, len(prompts), SCORING_ROWS):
                part = slice(start, start + SCORING_ROWS)
                tokens = self.encode(prompts[part], completions[part])
                self.tokens_judged += int(tokens.is_token.sum())
                raw.append(self.forward(tokens))
        return (torch.cat(raw) - self.mean) / self.std

    def calibrate(self, prompts: Sequence[str], completions: Sequence[str]) -> None:
        """Centre and scale to these texts, so that `kl_coef` means the same for any labels."""
        raw = self.score(prompts, completions) * self.std + self.mean
        self.mean, self.std = float(raw.mean()), max(float(raw.std()), 1e-6)


def fit_reward_model(
    model: RewardModel,
    rows: Sequence[dict[str, Any]],
    config: RewardModelConfig,
    *,
    seed: int,
    meter: Meter,
    progress: Callable[..., None] = lambda done, total, **numbers: None,
    checkpoints: Checkpoints = Checkpoints(None, 0),  # noqa: B008  # it is off, and keeps nothing
) -> list[dict[str, float]]:
    """Fit to rows of prompt, chosen, rejected and, for the listwise loss, ranked texts. Returns loss and accuracy per
    step, measured before the step, and after a look also the accuracy and loss on the rows that are not fitted to."""
    if not rows:
        raise UserError("the reward model has no comparisons; raise `comparisons.pairs` or check the task's data")
    rng = random.Random(seed)
    fitted, unseen = _split(rows, config.validation_share, rng)
    groups = [(model.resident.activate(model.adapter), config.learning_rate)]
    groups.append((list(model.head.parameters()), config.head_learning_rate))
    size = config.per_device_train_batch_size * config.gradient_accumulation_steps
    epoch = -(-len(fitted) // size)
    steps = epoch * config.num_train_epochs
    optimizer = Optimizer(groups, config, steps)
    best = Best(optimizer.trained, config.early_stopping_patience)
    history: History = []
    model.resident.module.train(model.resident.lora.dropout > 0)
    saved = checkpoints.found
    begun = resumed(checkpoints, model.resident.passes, optimizer, history, meter)
    if saved is not None and begun:
        best.restore(saved)
    for step, taken in enumerate(_batches(fitted, size, config.num_train_epochs, rng), 1):
        if step <= begun:
            continue
        if step > begun + 1 and checkpoints.is_due():
            keep(
                checkpoints, model.resident.passes, optimizer.trained, optimizer, history, meter,
                best.tensors(), best.values(),
            )  # fmt: skip
        told = _step(model, taken, config, optimizer, meter)
        history.append({"step": optimizer.steps, **told})
        if unseen and (step % (config.eval_steps or epoch) == 0 or step == steps):
            seen = _look(model, unseen, meter)
            history[-1] |= {f"validation_{name}": value for name, value in seen.items()}
            best.look(**seen)
        progress(optimizer.steps, steps, **told)
        if best.is_over:
            break
    if unseen:
        best.put_back()
    model.resident.module.eval()
    return history


def _split(
    rows: Sequence[dict[str, Any]], share: float, rng: random.Random
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to fit to, and `share` of them, one at least, to look at; with 0 none is drawn."""
    count = max(1, round(share * len(rows))) if share else 0
    if count >= len(rows):
        raise UserError(
            f"validation_share: {share:g} of {len(rows)} comparisons leaves none to fit to; lower it, or raise "
            "`comparisons.pairs`"
        )
    unseen = set(rng.sample(range(len(rows)), count)) if count else set()
    fitted = [row for i, row in enumerate(rows) if i not in unseen]
    return fitted, [rows[i] for i in sorted(unseen)]


def _batches(rows: list[dict[str, Any]], size: int, epochs: int, rng: random.Random) -> Iterator[list[dict[str, Any]]]:
    """All rows in another order each epoch, the last batch short."""
    for _ in range(epochs):
        order = rng.sample(rows, len(rows))
        yield from (order[start : start + size] for start in range(0, len(order), size))


def _step(
    model: RewardModel, taken: list[dict[str, Any]], config: RewardModelConfig, optimizer: Optimizer, meter: Meter
) -> dict[str, float]:
    """One optimiser step on some rows, whose loss is the mean over them all."""
    loss, hits = 0.0, 0
    for first in range(0, len(taken), config.per_device_train_batch_size):
        part = taken[first : first + config.per_device_train_batch_size]
        scores = model.forward(_lists(model, part, config.loss, meter)).view(-1, len(part)).T  # (B, K) best first
        is_pairwise = config.loss == "pairwise"
        loss_of_part = pairwise_loss(scores[:, 0], scores[:, 1]) if is_pairwise else listwise_loss(scores)
        share = loss_of_part * (len(part) / len(taken))
        loss += checked(share, {})
        hits += int((scores[:, 0] > scores[:, -1]).sum())
        optimizer.backward(share)
    optimizer.step()
    return {"loss": loss, "accuracy": hits / len(taken)}


def _look(model: RewardModel, unseen: Sequence[dict[str, Any]], meter: Meter) -> dict[str, float]:
    """Accuracy and pairwise loss on rows that are not fitted to."""
    before, prompts = model.tokens_judged, [row["prompt"] for row in unseen]
    chosen, rejected = (model.score(prompts, [row[side] for row in unseen]) for side in ("chosen", "rejected"))
    meter.add(tokens_judged=model.tokens_judged - before)  # here, so that a resumed fit has them too
    model.tokens_judged = before
    accuracy = float((chosen > rejected).double().mean())
    return {"accuracy": accuracy, "loss": float(pairwise_loss(chosen, rejected))}


def _lists(model: RewardModel, rows: Sequence[dict[str, Any]], loss: str, meter: Meter) -> TokenBatch:
    """Rows -> (K B, T) tokens: every row's best text, then every row's next, down to the worst. Pairwise: K = 2."""
    ranked = [row["ranked"] if loss == "listwise" else [row["chosen"], row["rejected"]] for row in rows]
    tokens = model.encode(
        [row["prompt"] for row in rows] * len(ranked[0]), [text for rank in zip(*ranked, strict=True) for text in rank]
    )
    meter.add(tokens_trained=int(tokens.is_token.sum()))
    return tokens
