"""What the works share, and the table they end in. `make perf`, or `make perf K=dpo` for one of them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.perf import table
from benchmarks.perf.floor import Machine, Shape
from benchmarks.perf.sides import ROOT, Side

ROUNDS = 5
# Steps in a round of an offline work: one that follows another process's finds nothing of its own in the cache, as in
# training the first alone does
STEPS = 2
BATCH = 8
ROWS = BATCH * STEPS * (ROUNDS + 1)
RESULTS = Path(__file__).with_name("RESULTS.md")
lines: list[table.Row | table.Fact] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pairs", type=Path, help="preference pairs to run on; default: shared/data's, or film sentences")
    parser.addoption("--dtype", default="auto", choices=("auto", "float32", "bfloat16"), help="of every side")


@pytest.fixture(scope="session")
def data(request: pytest.FixtureRequest) -> Any:
    from alignbench.assets.models import resolve_model
    from benchmarks.perf.data import MODEL, load

    return load(resolve_model(MODEL), request.config.getoption("--pairs"), rows=ROWS)


@pytest.fixture(scope="session")
def base(request: pytest.FixtureRequest, data: Any) -> dict[str, Any]:
    """What every work is told."""
    from alignbench.assets.models import resolve_model
    from alignbench.engine.device import resolve_device, resolve_dtype
    from benchmarks.perf.data import LONGEST, MODEL

    device = resolve_device("auto")
    # torch's fused attention is the slower one on a CPU at these lengths, for TRL's trainers too
    attention = "eager" if device.type == "cpu" else "sdpa"
    dtype = resolve_dtype(request.config.getoption("--dtype"), device)
    return {
        "attention": attention, "model": str(resolve_model(MODEL)), "device": device.type, "r": 16,
        "warm": 1, "rounds": ROUNDS, "steps": 1,
        "dtype": str(dtype).removeprefix("torch."), "opening": data.opening,
        "learning_rate": 1e-9,  # so small that a round's loss depends on its batch alone
        "per_device_train_batch_size": BATCH, "max_new_tokens": LONGEST, "beta": 0.1,
    }  # fmt: skip


@pytest.fixture(scope="session")
def shape(base: dict[str, Any]) -> Shape:
    c = json.loads(Path(base["model"], "config.json").read_text())
    return Shape(
        c["num_hidden_layers"], c["hidden_size"], c["intermediate_size"], c["num_attention_heads"],
        c["num_key_value_heads"], c["head_dim"], c["vocab_size"], base["r"],
    )  # fmt: skip


class Rates(NamedTuple):
    this: Machine  # in the dtype of the run
    by_dtype: dict[str, Machine]


@pytest.fixture(scope="session")
def rates(base: dict[str, Any]) -> Rates:
    """This machine's, measured in a process of its own, before and in the same run as what they are held against."""
    out = subprocess.run(
        [sys.executable, "-m", "benchmarks.perf.floor"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    by_dtype = {name: Machine(**rate) for name, rate in json.loads(out.stdout).items()}
    shown = ", ".join(f"{rate.flops / 1e9:.0f} GFLOP/s in {name}" for name, rate in by_dtype.items())
    bandwidth = by_dtype[base["dtype"]].bytes
    lines.append(table.Fact(f"The floor's rates: matrix products {shown}; memory {bandwidth / 1e9:.1f} GB/s."))
    return Rates(by_dtype[base["dtype"]], by_dtype)


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """`start(module, work)`: a side, ended with the test."""
    sides: list[Side] = []

    def make(module: str, work: dict[str, Any], **options: Any) -> Side:
        sides.append(Side(module, work, tmp_path, **options))
        return sides[-1]

    yield make
    for side in sides:
        side.close()


@pytest.fixture(scope="session")
def add() -> Callable[[table.Row | table.Fact], None]:
    return lines.append


@pytest.fixture(scope="session", autouse=True)
def _heading(base: dict[str, Any], data: Any) -> None:
    import torch

    name = torch.cuda.get_device_name() if base["device"] == "cuda" else _cpu()
    heading = table.machine(name, base["dtype"], torch.get_num_threads(), os.getloadavg()[0])
    few = f"of {STEPS} steps each for DPO, SFT and reward models; of 3 for PPO and generation without an adapter"
    texts = f"Texts: {data.name}, {len(data.pairs)} pairs, batches of {BATCH}"
    rest = "of 1 for the lines below"
    lines.append(table.Fact(f"{texts}; medians of {ROUNDS} rounds, {few}, {rest}."))
    lines.insert(0, table.Fact(heading))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = [line for line in lines if isinstance(line, table.Row)]
    facts = [line for line in lines if isinstance(line, table.Fact)]
    if not facts:  # nothing was timed
        return
    text = table.render(facts[0].text, rows, facts[1:])
    terminalreporter.write_line("\n" + text)
    if rows and not config.option.keyword:  # a part of the works does not replace the whole table
        RESULTS.write_text(f"# Speed, side by side\n\nWritten by `make perf`.\n\n{text}")


def _cpu() -> str:
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return names[0].split(":")[1].strip()
    except (OSError, IndexError):
        return platform.processor()
