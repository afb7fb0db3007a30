"""What importing alignbench does to the process that imports it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("own", [None, "ACTIVE"])
def test_threads_wait_passively_unless_the_user_says_otherwise_and_it_is_set_before_torch(own: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if own is not None:
        environment["OMP_WAIT_POLICY"] = own
    script = "import alignbench, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout.split() == [own or "PASSIVE", "False"]
