"""What `auto` depends on, read without torch, so that a plan's keys and the engine that runs it agree."""

from __future__ import annotations

import os
import platform
import sys
from functools import lru_cache
from pathlib import Path


@lru_cache
def hardware() -> str:
    """The machine's architecture, whether it has a GPU, and fast bfloat16 units in its CPU."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    has_device = any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))
    has_gpu = (has_device and not is_hidden) or sys.platform == "darwin"
    return f"{platform.machine()}{' gpu' if has_gpu else ''}{' bf16' if has_fast_bfloat16() else ''}"


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
