"""The supervised start against TRL's SFTTrainer on prompt-completion rows (completion_only_loss), and our per-token
log-probabilities and entropies against TRL's fused language-model head.

What TRL adds or does otherwise:

- EOS after the completion, as we do; no BOS before the prompt unless the tokenizer adds it, so it is given as text.
- Both divide by the response tokens of the whole optimiser step, over all its batches. The reference is therefore
  `training_step` on two batches of unequal token counts, with the count that TRL's own `get_batch_samples` makes.
- The base model's own dropout (GPT-2: 0.1) is on in SFTTrainer; ours follows `lora.dropout`. It is off in both here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor

from alignbench.api import TokenBatch
from alignbench.engine.optim import Optimizer
from alignbench.engine.supervised import supervised_step
from alignbench.suite.spec import Training

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers is about to rename an option of TRL's
close = {"atol": 1e-5, "rtol": 1e-5}
MODELS = ["llama", "gpt2", "granite", "gemma2"]
ROOM = 120  # tokens of a completion


@pytest.fixture
def trainer(trl: Any, tiny_models: dict, arguments: Callable) -> Callable:
    """`trainer(name, rows, size)`: TRL's, with a LoRA adapter, `size` rows a batch, two batches a step."""

    def make(name: str, rows: list[dict[str, str]], size: int) -> Any:
        return trl.SFTTrainer(
            model=str(tiny_models[name]),
            args=trl.SFTConfig(gradient_accumulation_steps=2, **arguments(size)),
            train_dataset=Dataset.from_list(rows),
            peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        )

    return make


@pytest.mark.parametrize("name", MODELS)
def test_on_texts_ids_masks_loss_and_gradients_of_a_step_are_trls(
    trainer: Callable, resident: Callable, shake: Callable, lora_weights: Callable, trls_twin: Callable,
    no_step: None, pairs: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, name: str,
) -> None:  # fmt: skip
    made = resident(name)
    weights = made.add_adapter("sft", seed=0)
    shake(weights)
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    half = len(rows) // 2 + 1
    opening = made.codec.tokenizer.decode([made.codec.bos])
    theirs = trainer(name, [{**row, "prompt": opening + row["prompt"]} for row in rows], half)
    twin = trls_twin(made.module, "sft", theirs)

    monkeypatch.setattr(theirs.model, "train", lambda: None)  # training_step would switch dropout on
    samples, count = theirs.get_batch_samples(iter(theirs.get_train_dataloader()), 2, theirs.args.device)
    theirs.current_gradient_accumulation_steps = len(samples)
    loss = sum(float(theirs.training_step(theirs.model, dict(batch), count)) for batch in samples)

    parts = [rows[:half], rows[half:]]
    batches = [
        made.codec.encode([r["prompt"] for r in p], [r["completion"] for r in p], max_new_tokens=ROOM) for p in parts
    ]
    config = Training(max_steps=1, per_device_train_batch_size=half, gradient_accumulation_steps=2)
    optimizer = Optimizer([(weights, 1.0)], config, 1)
    assert supervised_step(made, batches, optimizer) == pytest.approx(loss, abs=1e-5)
    ours = lora_weights(made.module, "sft")
    for key, parameter in twin.items():
        torch.testing.assert_close(ours[key].grad, parameter.grad, **close)
    assert max(float(p.grad.abs().max()) for p in ours.values()) > 1e-2

    for tokens, batch in zip(batches, samples, strict=True):
        assert torch.equal(tokens.ids, batch["input_ids"])
        assert torch.equal(tokens.is_token, batch["attention_mask"].bool())
        assert torch.equal(tokens.is_response, batch["labels"] != -100)
        assert torch.equal(batch["labels"][tokens.is_response], tokens.ids[tokens.is_response])


def test_on_given_logprobs_loss_and_gradient_of_a_step_are_trls(trainer: Callable) -> None:
    """Two batches of 9 and 3 response tokens; a stand-in for the model hands both sides the same log-probabilities."""
    torch.manual_seed(0)
    made = trainer("llama", [{"prompt": "a", "completion": " b"}], 1)
    optimizer = Optimizer([([torch.nn.Parameter(torch.zeros(1))], 1.0)], Training(), 1)
    masks = [torch.arange(6) < torch.tensor(ends)[:, None] for ends in ([4, 5], [1, 2])]
    given = [(-3 * torch.rand(2, 6) * mask).requires_grad_() for mask in masks]
    batches = [TokenBatch(torch.zeros(2, 6, dtype=torch.long), mask, mask) for mask in masks]
    count = torch.tensor(sum(int(mask.sum()) for mask in masks))

    def model(logprobs: Tensor, mask: Tensor) -> Callable:
        return lambda **inputs: SimpleNamespace(log_probs=logprobs, label_mask=mask, entropy=logprobs, is_top1=mask)

    theirs = [
        made.compute_loss(model(logprobs, mask), {"attention_mask": mask}, num_items_in_batch=count)
        for logprobs, mask in zip(given, masks, strict=True)
    ]
    total = torch.stack(theirs).sum()
    expected = torch.autograd.grad(total, given)
    waiting = iter(given)
    optimizer.step = lambda: 0.0  # type: ignore[method-assign]
    loss = supervised_step(SimpleNamespace(logprobs=lambda batch: next(waiting)), batches, optimizer)
    assert loss == pytest.approx(float(total.detach()), abs=1e-5)
    for logprobs, gradient in zip(given, expected, strict=True):
        torch.testing.assert_close(logprobs.grad, gradient, **close)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", MODELS)
def test_logprobs_and_entropies_of_tokens_are_those_of_trls_fused_head(
    trl: Any, resident: Callable, plain: Callable, name: str, temperature: float
) -> None:
    from trl.trainer.utils import add_fused_lm_head

    made, theirs = resident(name), plain(name)
    add_fused_lm_head(theirs, temperature=temperature, outputs=("log_probs", "entropy"))
    tokens = made.codec.encode(["the film is", "a"], [" good", " long and dull plot"], max_new_tokens=ROOM)
    out = theirs(
        input_ids=tokens.ids, attention_mask=tokens.is_token.long(), fused_lm_head=True,
        labels=tokens.ids.masked_fill(~tokens.is_response, -100),
    )  # fmt: skip
    logprobs, entropies, _ = made.logprobs_and_entropies(tokens, temperature)
    for ours, expected in ((logprobs, out.log_probs), (made.logprobs(tokens, temperature), out.log_probs),
                           (entropies, out.entropy)):  # fmt: skip
        torch.testing.assert_close(ours[:, 1:], expected, **close)  # TRL's are shifted by one
