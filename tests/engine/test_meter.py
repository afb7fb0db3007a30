"""CPU seconds count work, of children too, and no waiting."""

from __future__ import annotations

import subprocess
import sys
import time

import torch

from alignbench.engine.meter import Meter

BUSY = "import time\nwhile time.process_time() < 0.3: pass"


def test_a_sleep_takes_seconds_and_hardly_any_cpu() -> None:
    meter = Meter(torch.device("cpu"))
    time.sleep(0.5)
    reading = meter.reading()
    assert reading["seconds"] >= 0.5
    assert reading["cpu_seconds"] < 0.2


def test_work_takes_cpu() -> None:
    meter, began = Meter(torch.device("cpu")), time.process_time()
    while time.process_time() - began < 0.3:
        pass
    assert 0.3 <= meter.reading()["cpu_seconds"] < 0.6


def test_a_childs_work_counts_once_it_has_ended() -> None:
    meter, began = Meter(torch.device("cpu")), time.process_time()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    own = time.process_time() - began
    assert meter.reading()["cpu_seconds"] - own >= 0.3


def test_seconds_and_peak_of_the_processes_before_add_up():
    first, second = Meter(torch.device("cpu")), Meter(torch.device("cpu"))
    first.add(tokens_trained=7, labels_ai=3)
    state = {**first.state(), "seconds": 1000.0, "cpu_seconds": 300.0, "peak_bytes": 2**50}
    second.add(tokens_trained=1)  # getting ready, which the first did too
    second.resume(state)
    second.add(tokens_trained=5)
    reading = second.reading()
    assert (reading["tokens_trained"], reading["labels_ai"], reading["peak_bytes"]) == (12, 3, 2**50)
    assert 1000 < reading["seconds"] < 1100
    assert 300 < reading["cpu_seconds"] < 400
