"""What the comparisons with TRL's trainers share: texts, arguments, and how to line two adapters up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HH = Path(__file__).parents[3] / "shared" / "data" / "hh-harmless.jsonl.gz"
SHORT = 130  # bytes, and so at most tokens, of a whole text: less than half of the tiny models' window of 256
WRITTEN = [
    ("the film is", " good", " a dull and long one"),
    ("a", " good plot and a good film", " bad"),
    ("the long plot", " is good.", " is bad."),
    ("one Review Sentiment:", " Positive", " Negative A B Review"),
    ("a bad one and", " a", " the plot is dull, long and bad. "),
]


@pytest.fixture(scope="session")
def trl() -> Any:
    """TRL, which takes seconds to import."""
    import trl

    return trl


@pytest.fixture(params=["written", "hh"])
def pairs(request: pytest.FixtureRequest) -> list[dict[str, str]]:
    """Rows of prompt, chosen, rejected: a few written here, and Anthropic's where they are at hand."""
    from alignbench.tasks.pairs import load_pairs

    if request.param == "written":
        return [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in WRITTEN]
    if not HH.is_file():
        pytest.skip(f"no {HH.name} beside the checkout, in shared/data")
    read = load_pairs(str(HH)).pairs
    short = [p for p in read if all(len((p.prompt + t).encode()) < SHORT for t in (p.chosen, p.rejected))]
    return [p._asdict() for p in short[:6]]


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`arguments(size)`: what every trainer of TRL is told: float32 on the CPU, `size` rows a batch, in their order."""

    def make(size: int) -> dict[str, Any]:
        return {
            "output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True,
            "gradient_checkpointing": False, "per_device_train_batch_size": size,
            "train_sampling_strategy": "sequential",
        }  # fmt: skip

    return make


@pytest.fixture
def no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our optimiser leaves weights and gradients as the backward passes made them."""
    from alignbench.engine.optim import Optimizer

    monkeypatch.setattr(Optimizer, "step", lambda self: 0.0)


@pytest.fixture
def lora_weights() -> Callable[..., dict[str, Any]]:
    """`lora_weights(module, adapter)`: an adapter's parameters, named as they would be without the adapter's name."""

    def named(module: Any, adapter: str) -> dict[str, Any]:
        return {n.replace(f".{adapter}.", "."): p for n, p in module.named_parameters() if f".{adapter}." in n}

    return named


@pytest.fixture
def trls_twin(trl: Any, lora_weights: Callable) -> Callable[..., dict[str, Any]]:
    """`trls_twin(module, adapter, trainer)`: give TRL's adapter our weights. Returns its parameters by name."""

    def copy(module: Any, adapter: str, trainer: Any) -> dict[str, Any]:
        import torch

        ours, theirs = lora_weights(module, adapter), lora_weights(trainer.model, "default")
        theirs = {n: p for n, p in theirs.items() if "lora_" in n}
        assert ours.keys() == theirs.keys()
        assert ours
        with torch.no_grad():
            for name, parameter in theirs.items():
                parameter.copy_(ours[name])
        trainer.model.eval()  # no dropout: the base model's own is on by default in two of the trainers
        return theirs

    return copy
