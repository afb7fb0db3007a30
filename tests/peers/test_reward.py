"""The reward model against TRL's RewardTrainer: the pairwise loss on given scores, then ids, masks, loss and gradients
of adapter and head on texts, `pooling: last` against AutoModelForSequenceClassification, which TRL trains.

What TRL and that model do otherwise:

- EOS is added as by us, BOS only by a tokenizer's own rule, so it is given as text.
- The head has no bias. Ours has one, which cancels in the loss: its gradient is 0.
- The model tells padding by its id and reads the rightmost token that is not padding. With pad == eos that is the token
  before EOS; ours reads EOS, told by the mask. TRL's `pad_token`, some other token, makes both read EOS.
- It has no `pooling: mean`, and no listwise loss.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from alignbench.api import TokenBatch
from alignbench.engine.meter import Meter
from alignbench.feedback.reward_model import RewardModel, fit_reward_model, pairwise_loss, pool
from alignbench.suite.spec import RewardModelConfig

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers is about to rename an option of TRL's
close = {"atol": 1e-5, "rtol": 1e-5}
ROOM = 120  # tokens of a completion
UNUSED = "\u0122"  # a byte-level token that no text here has


@pytest.fixture
def trainer(trl: Any, tiny_models: dict, arguments: Callable) -> Callable:
    """`trainer(name, pairs, **options)`: TRL's, with a LoRA adapter and a trained head."""

    def make(name: str, pairs: list[dict[str, str]], **options: Any) -> Any:
        return trl.RewardTrainer(
            model=str(tiny_models[name]),
            args=trl.RewardConfig(**options, **arguments(len(pairs))),
            train_dataset=Dataset.from_list(pairs),
            peft_config=LoraConfig(
                r=4, lora_alpha=8, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"]
            ),
        )

    return make


@pytest.fixture
def twins(
    trainer: Callable, resident: Callable, shake: Callable, trls_twin: Callable
) -> Callable[..., tuple[RewardModel, Any, dict[str, Any]]]:
    """`twins(name, pairs, **options)`: our reward model, TRL's trainer with the same weights, its adapter by name."""

    def make(name: str, pairs: list[dict[str, str]], **options: Any) -> tuple[RewardModel, Any, dict[str, Any]]:
        ours = RewardModel.fresh(resident(name), "last", ROOM, seed=0)
        shake(ours.resident.activate(ours.adapter))
        shake(ours.head.parameters(), scale=0.3)
        opening = ours.resident.codec.tokenizer.decode([ours.resident.codec.bos])
        theirs = trainer(name, [{**row, "prompt": opening + row["prompt"]} for row in pairs], **options)
        weights = trls_twin(ours.resident.module, ours.adapter, theirs)
        with torch.no_grad():
            head(theirs).copy_(ours.head.weight)
        return ours, theirs, weights

    return make


def head(trainer: Any) -> torch.nn.Parameter:
    return trainer.model.get_submodule("base_model.model.score.modules_to_save.default").weight


def both_sides(model: RewardModel, pairs: list[dict[str, str]]) -> TokenBatch:
    return model.encode(
        [row["prompt"] for row in pairs] * 2, [row[side] for side in ("chosen", "rejected") for row in pairs]
    )


def test_on_given_scores_loss_and_gradient_are_trls(trainer: Callable) -> None:
    torch.manual_seed(0)
    scores = (4 * torch.randn(12)).requires_grad_()
    made = trainer("llama", [{"prompt": "a", "chosen": " b", "rejected": " c"}])
    theirs = made.compute_loss(
        lambda **inputs: SimpleNamespace(logits=scores[:, None]), {"attention_mask": torch.ones(12, 1)}
    )
    ours = pairwise_loss(*scores.chunk(2))
    torch.testing.assert_close(ours, theirs, **close)
    torch.testing.assert_close(*(torch.autograd.grad(loss, scores)[0] for loss in (ours, theirs)), **close)


@pytest.mark.parametrize(("name", "options"), [("llama", {}), ("gpt2", {"pad_token": UNUSED}), ("gemma2", {})])
def test_on_texts_ids_masks_loss_and_gradients_are_trls(
    twins: Callable, lora_weights: Callable, no_step: None, pairs: list[dict[str, str]], name: str, options: dict
) -> None:
    ours, theirs, weights = twins(name, pairs, **options)
    (batch,) = theirs.get_train_dataloader()
    loss = theirs.compute_loss(theirs.model, dict(batch))
    loss.backward()
    config = RewardModelConfig(per_device_train_batch_size=len(pairs), pooling="last")
    history = fit_reward_model(ours, pairs, config, seed=0, meter=Meter(ours.resident.device))
    assert history[0]["loss"] == pytest.approx(float(loss.detach()), abs=1e-5)
    for key, parameter in lora_weights(ours.resident.module, ours.adapter).items():
        torch.testing.assert_close(parameter.grad, weights[key].grad, **close)
    torch.testing.assert_close(ours.head.weight.grad, head(theirs).grad, **close)
    assert float(ours.head.bias.grad.abs()) < 1e-6
    assert float(max(p.grad.abs().max() for p in weights.values())) > 1e-2

    tokens = both_sides(ours, pairs)
    assert torch.equal(tokens.ids[tokens.is_token], batch["input_ids"][tokens.is_token])
    assert torch.equal(tokens.is_token, batch["attention_mask"].bool())
    padding = batch["input_ids"][~tokens.is_token]
    assert (padding == theirs.processing_class.pad_token_id).all()
    with torch.no_grad():
        logits = theirs.model(**batch).logits.squeeze(-1)
        torch.testing.assert_close(ours.forward(tokens) - ours.head.bias, logits, **close)


def test_where_padding_is_eos_trl_reads_the_token_before_it_and_we_read_eos(
    twins: Callable, pairs: list[dict[str, str]]
) -> None:
    ours, theirs, _ = twins("gpt2", pairs)
    (batch,) = theirs.get_train_dataloader()
    tokens = both_sides(ours, pairs)
    assert torch.equal(tokens.ids, batch["input_ids"])
    with torch.no_grad():
        logits = theirs.model(**batch).logits.squeeze(-1)
        hidden = ours.resident.hidden(tokens)
        is_eos = torch.zeros_like(tokens.is_token).scatter(1, tokens.is_token.sum(1, keepdim=True) - 1, True)
        assert (tokens.ids[is_eos] == ours.resident.codec.eos).all()
        before_eos = ours.head(pool(hidden, tokens.is_token & ~is_eos, "last")) - ours.head.bias
        torch.testing.assert_close(before_eos.squeeze(-1), logits, **close)
        at_eos = ours.head(hidden[is_eos]).squeeze(-1)
        torch.testing.assert_close(ours.forward(tokens), at_eos, **close)
        assert ((at_eos - ours.head.bias - logits).abs() > 1e-3).all()
