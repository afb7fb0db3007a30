"""What `auto` depends on, read without torch, so that a plan's keys and the engine that runs it agree."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path


def resolved(device: str, dtype: str) -> tuple[str, str]:
    """What `engine.device` makes of `auto`, so that naming it and leaving it to `auto` are one key.

    It asks torch, and this asks the machine; they part ways where a driver is broken, or a GPU knows no bfloat16.
    """
    device = _device() if device == "auto" else device.removesuffix(":0")
    if dtype == "auto":
        is_fast = device.startswith("cuda") or (device == "cpu" and has_fast_bfloat16())
        dtype = "bfloat16" if is_fast else "float32"
    return device, dtype


def _device() -> str:
    """The first GPU, else the CPU."""
    build = importlib.metadata.version("torch").partition("+")[2]
    if sys.platform == "darwin":
        return "mps" if platform.machine() == "arm64" else "cpu"
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    nodes = ("/dev/kfd",) if build.startswith("rocm") else ("/dev/nvidiactl", "/dev/dxg")
    has_gpu = any(Path(node).exists() for node in nodes) and not is_hidden
    return "cuda" if has_gpu and build != "cpu" else "cpu"


def has_fast_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies bfloat16 faster than float32: by AMX, or by AMD's AVX512-BF16.

    (992 x 576) @ (576 x 1536) on two cores, GFLOP/s in float32 and bfloat16: AMD Zen 5, 200 and 940; an Intel Xeon with
    AVX512-BF16 and no AMX, 320 and 190.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    facts = {name.strip(): value for name, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    return "amx_bf16" in flags or ("avx512_bf16" in flags and facts.get("vendor_id", "").strip() == "AuthenticAMD")
