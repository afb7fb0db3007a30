"""DPO against TRL's DPOTrainer: loss and gradients on given log-probabilities, then ids, masks, loss and gradients of a
batch of texts through the real trainer and through the real method.

What TRL adds or does otherwise:

- It adds EOS to a completion, as we do, but not BOS: that is left to the tokenizer, and these have no rule for it. Our
  prompt opens with BOS, or with EOS where there is none; TRL is given the same opening as text.
- It encodes prompt and completion as one text. Where tokens merge across the border it leaves the end of the prompt out
  of the sequence, with a warning; we encode the two apart. The texts here part at a space, where both agree.
- Its sigmoid loss does not read `label_smoothing` any more. Its `aot` loss sorts the margins of a batch and is else
  conservative DPO, so with one pair a batch it is our sigmoid with label_smoothing.
- Its IPO divides each side by its own number of completion tokens, EOS included, as ours does.
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

from alignbench.api import OptimizerConfig
from alignbench.engine.meter import Meter
from alignbench.engine.trial import POLICY, LiveTrial
from alignbench_dpo import DPO, dpo_loss

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers is about to rename an option of TRL's
close = {"atol": 1e-5, "rtol": 1e-5}
LOSSES = {  # ours, TRL's
    "sigmoid": ({"loss_type": "sigmoid"}, {"loss_type": "sigmoid"}),
    "cdpo": ({"loss_type": "sigmoid", "label_smoothing": 0.1}, {"loss_type": "aot", "label_smoothing": 0.1}),
    "ipo": ({"loss_type": "ipo"}, {"loss_type": "ipo"}),
    "robust": ({"loss_type": "robust", "label_smoothing": 0.1}, {"loss_type": "robust", "label_smoothing": 0.1}),
}
BETA = 0.3


@pytest.fixture
def trainer(trl: Any, tiny_models: dict, arguments: Callable) -> Callable:
    """`trainer(name, pairs, loss)`: TRL's, with a LoRA adapter."""

    def make(name: str, pairs: list[dict[str, str]], loss: str) -> Any:
        size = 1 if loss == "cdpo" else len(pairs)
        options = LOSSES[loss][1]
        return trl.DPOTrainer(
            model=str(tiny_models[name]),
            args=trl.DPOConfig(beta=BETA, **options, **arguments(size)),
            train_dataset=Dataset.from_list(pairs),
            peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        )

    return make


@pytest.mark.parametrize("loss", LOSSES)
def test_on_given_logprobs_loss_and_gradient_are_trls(trainer: Callable, loss: str) -> None:
    """A stand-in for the model hands TRL's loss the log-probabilities of random completions of ragged length."""
    torch.manual_seed(0)
    is_response = torch.arange(9) < torch.tensor([3, 9, 2, 5, 5, 2, 7, 4])[:, None]  # (2B, T) chosen, then rejected
    is_response[:, 0] = False  # the prompt
    logprobs = -3 * torch.rand(8, 8)  # (2B, T - 1) TRL's are shifted
    logprobs = (logprobs * is_response[:, 1:]).requires_grad_()
    reference = -8 * torch.rand(8)
    made = trainer("llama", [{"prompt": "a", "chosen": " b", "rejected": " c"}], loss)
    made.precompute_ref_logps = True  # reads the reference's log-probabilities from the batch
    theirs = []
    for rows in torch.arange(4)[:, None] if loss == "cdpo" else [torch.arange(4)]:
        both = torch.cat([rows, rows + 4])

        def model(both: Tensor = both, **inputs: Any) -> SimpleNamespace:
            part = logprobs[both]
            return SimpleNamespace(log_probs=part, entropy=part, mean_logits=part, is_top1=part > -1)

        inputs = {
            "input_ids": torch.zeros(len(both), 9, dtype=torch.long), "attention_mask": torch.ones(len(both), 9),
            "completion_mask": is_response[both].long(), "ref_chosen_logps": reference[rows],
            "ref_rejected_logps": reference[rows + 4],
        }  # fmt: skip
        theirs.append(made.compute_loss(model, inputs))
    expected = torch.stack(theirs).mean()
    lengths = is_response.sum(1) if loss == "ipo" else torch.ones(8)
    chosen, rejected = ((logprobs.sum(1) - reference) / lengths).chunk(2)
    ours = dpo_loss(chosen - rejected, BETA, **LOSSES[loss][0])
    torch.testing.assert_close(ours, expected, **close)
    gradients = [torch.autograd.grad(value, logprobs)[0] for value in (ours, expected)]
    torch.testing.assert_close(*gradients, **close)


@pytest.mark.parametrize("name", ["llama", "gpt2", "granite", "gemma2"])
@pytest.mark.parametrize("loss", LOSSES)
def test_on_texts_ids_masks_loss_and_gradients_are_trls(
    trainer: Callable, resident: Callable, shake: Callable, lora_weights: Callable, trls_twin: Callable,
    no_step: None, pairs: list[dict[str, str]], tmp_path: Any, name: str, loss: str,
) -> None:  # fmt: skip
    made = resident(name)
    config = DPO.Config(beta=BETA, per_device_train_batch_size=len(pairs), **LOSSES[loss][0])
    trial = LiveTrial(
        made, OptimizerConfig(**config.model_dump(include=set(OptimizerConfig.model_fields))), seed=0, max_steps=1,
        max_new_tokens=120, max_completion_tokens=None, prompts=["a"], meter=Meter(made.device), workdir=tmp_path,
        preferences=pairs,
    )  # fmt: skip
    shake(p for n, p in trial.policy.named_parameters() if "lora_" in n)
    opening = made.codec.tokenizer.decode([made.codec.bos])
    theirs = trainer(name, [{**row, "prompt": opening + row["prompt"]} for row in pairs], loss)
    twin = trls_twin(trial.policy, POLICY, theirs)

    losses, batches = [], list(theirs.get_train_dataloader())
    for batch in batches:
        losses.append(theirs.compute_loss(theirs.model, batch))
        (losses[-1] / len(batches)).backward()
    DPO().train(trial, config)
    assert trial.history[0]["loss"] == pytest.approx(float(torch.stack(losses).detach().mean()), abs=1e-5)
    ours = lora_weights(trial.policy, POLICY)
    for key, parameter in twin.items():
        torch.testing.assert_close(ours[key].grad, parameter.grad, **close)
    assert max(float(p.grad.abs().max()) for p in ours.values()) > 1e-2

    if loss != "cdpo":
        (batch,) = batches
        tokens = trial.encode(
            [row["prompt"] for row in pairs] * 2, [row[side] for side in ("chosen", "rejected") for row in pairs]
        )
        assert torch.equal(tokens.ids, batch["input_ids"])
        assert torch.equal(tokens.is_token, batch["attention_mask"].bool())
        assert torch.equal(tokens.is_response, batch["completion_mask"].bool())


def test_where_tokens_merge_across_the_border_trl_leaves_the_end_of_the_prompt_out(
    trainer: Callable, resident: Callable
) -> None:
    """' fil' + 'm' is one token when encoded as one text: TRL trains on a prompt that no rollout opens with."""
    codec = resident("llama").codec
    (row,) = trainer("llama", [{"prompt": "<s>the fil", "chosen": "m", "rejected": "ms"}], "sigmoid").train_dataset
    tokens = codec.encode(["the fil"], ["m"], max_new_tokens=8)
    assert codec.text(row["prompt_ids"]) == "the"
    assert codec.text(row["chosen_ids"]) == " film"
    assert codec.text(tokens.ids[~tokens.is_response].tolist()) == "the fil"
    assert codec.text(tokens.ids[tokens.is_response].tolist()) == "m"


@pytest.mark.parametrize("loss", LOSSES)
def test_trls_first_loss_is_the_one_our_method_declares(trainer: Callable, loss: str) -> None:
    theirs = trainer("llama", [{"prompt": "a", "chosen": " good plot", "rejected": " bad"}], loss)
    (batch,) = theirs.get_train_dataloader()
    with torch.no_grad():
        first = float(theirs.compute_loss(theirs.model, batch))
    assert DPO().loss_at_start(DPO.Config(beta=BETA, **LOSSES[loss][0])) == pytest.approx(first, abs=1e-5)
