"""Which CPUs `dtype: auto` takes for quick at bfloat16."""

import pytest

from alignbench.suite.machine import has_fast_bfloat16


@pytest.mark.parametrize(
    ("vendor", "flags", "is_fast"),
    [
        ("AuthenticAMD", "avx512f avx512_bf16", True),
        ("AuthenticAMD", "avx2 fma", False),
        ("GenuineIntel", "avx512f avx512_bf16", False),  # measured: half of float32's rate
        ("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile", True),
    ],
)
def test_a_cpus_vendor_and_flags_decide(tmp_path, vendor, flags, is_fast):
    cpuinfo = tmp_path / "cpuinfo"
    core = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n\n"
    cpuinfo.write_text(core * 2)
    assert has_fast_bfloat16(cpuinfo) is is_fast


def test_a_machine_that_does_not_say_counts_as_slow(tmp_path):
    assert not has_fast_bfloat16(tmp_path / "absent")
