"""Small models with random weights and real tokenizers, made once per session; every test loads its own copy."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import pytest

import alignbench  # noqa: F401  # before any test imports torch: it says how OpenMP's threads wait

SPOKEN = "Positive Negative A B Review Sentiment: the film is a good one, a bad one and a dull long plot. "
BYTE_LEVEL_SPECIALS = {
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    "gpt2": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},  # no BOS, and padding is EOS
    "granite": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"},  # scales its logits
    "gemma2": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},  # caps its logits
}


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> dict[str, Path]:
    """Folders of two- or three-layer models, float32, hidden size 32, window 256."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, GraniteConfig, LlamaConfig

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    llama_like = {**shape, "max_position_embeddings": 256, "initializer_range": 0.15}
    folders = {}
    for name, specials in BYTE_LEVEL_SPECIALS.items():
        tokenizer = byte_level_tokenizer(specials)
        ids = {
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        config = {
            "llama": lambda ids: LlamaConfig(**ids, **llama_like, num_hidden_layers=3),
            "gpt2": lambda ids: GPT2Config(
                **ids, n_embd=32, n_layer=3, n_head=4, n_positions=256, initializer_range=0.15
            ),
            "granite": lambda ids: GraniteConfig(**ids, **llama_like, num_hidden_layers=2, logits_scaling=0.5),
            "gemma2": lambda ids: Gemma2Config(
                **ids, **llama_like, num_hidden_layers=2, head_dim=8, final_logit_softcapping=2.0, sliding_window=64
            ),
        }[name](ids)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


def byte_level_tokenizer(specials: dict[str, str]):
    """A byte-level BPE trained on one sentence: any text survives it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=sorted(set(specials.values())), initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator([SPOKEN * 4], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **specials)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kernels", choices=["fast", "plain"], default="fast",
        help="what the engine runs by in tests/engine, tests/peers, tests/run/test_oracle.py and the checks",
    )  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def kernels(pytestconfig: pytest.Config) -> str:
    """'fast', or 'plain' with `--kernels plain`: every test but those of tests/engine/fast should pass with both."""
    asked = pytestconfig.getoption("--kernels")
    if asked != "fast":
        from alignbench.testing.worlds import KERNELS

        KERNELS.set(asked)
    return asked


@pytest.fixture
def resident(tiny_models, kernels) -> Callable:
    """`resident(name, starts=(), without=(), **lora)`: a fresh engine.Resident on the CPU in float32."""
    import torch

    from alignbench.engine.resident import Resident
    from alignbench.suite.spec import Lora

    def make(name: str, starts: Sequence[Path] = (), without: Collection[str] = (), kernels: str = kernels, **lora):
        options = Lora(**{"r": 4, "alpha": 8, **lora})
        place = (torch.device("cpu"), torch.float32)
        return Resident(tiny_models[name], starts, options, *place, kernels=kernels, without=without)

    return make


@pytest.fixture
def plain(tiny_models) -> Callable:
    """`plain(name)`: the same weights through transformers alone, the reference of many tests."""
    import torch
    from transformers import AutoModelForCausalLM

    def make(name: str):
        return AutoModelForCausalLM.from_pretrained(tiny_models[name], dtype=torch.float32).eval().requires_grad_(False)

    return make


@pytest.fixture
def shake() -> Callable:
    """`shake(parameters)`: random values, so that an adapter is no longer the identity."""
    import torch

    def randomise(parameters: Iterable, seed: int = 7, scale: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in parameters:
                p.copy_(torch.randn(p.shape, generator=generator) * scale)

    return randomise


@pytest.fixture
def workshop(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`workshop(script, folder)`: a shell as a plugin's author has it, in a virtual environment that sees the packages
    of this one and installs into itself; no network, an empty cache."""
    pytest.importorskip("setuptools")
    root = tmp_path / "environment"
    venv.create(root, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(root)}))
    # A .pth of its own and not --system-site-packages, which would show the packages below this environment.
    (site / "below.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name, module in {"alignbench": "alignbench.cli", "pip": "pip", "pytest": "pytest"}.items():
        command = root / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{root}/bin/python" -m {module} "$@"\n')
        command.chmod(0o755)
    own = {
        "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
        "ALIGNBENCH_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_BUILD_ISOLATION": "off",  # the value of build_isolation, in spite of the variable's name
    }

    def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-ec", script], cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, check=False
        )

    return run
