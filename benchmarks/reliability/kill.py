"""Killed at a random instant, also while it resumes, a run goes on by the same command and ends with the same bits."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from benchmarks.reliability.point import Control, Measured
from benchmarks.reliability.runs import ORACLE, Bench, end_all, wait_until
from benchmarks.reliability.spied import losses

EVERY = 0.2  # seconds between two checkpoints
FIT = {"per_device_train_batch_size": 4, "learning_rate": 0.01}
ROLLOUT = {**FIT, "rollout_batch_size": 8, "num_ppo_epochs": 1}
SUITE = {
    **ORACLE, "checkpoint_seconds": EVERY, "sft": {"max_steps": 120, **FIT},
    "reward_model": {"num_train_epochs": 12, **FIT},
}  # fmt: skip
OFFLINE, ONLINE = {"method": "dpo", "config": FIT}, {"method": "ppo", "config": ROLLOUT, "force": True}
ROWS = [OFFLINE, *({**ONLINE, "method": name} for name in ("ppo", "rlaif", "constitutional"))]
HOW = ("KILL to all", "TERM", "INT", "KILL to the parent", "TERM", "INT to the group")


def measure(is_quick: bool, folder: Path) -> Measured:
    rows, steps, wanted = ([ONLINE], 120, 3) if is_quick else (ROWS, 240, 60)
    whole = Bench(folder / "whole", {**SUITE, "max_steps": steps, "methods": rows})
    seconds = _undisturbed(whole)
    random_, ways = random.Random(0), cycle(HOW)
    landed = equal = cases = 0
    lost = []
    while landed < wanted:
        cases += 1
        bench = _copy(whole, folder / f"case-{cases}")
        kills = 3 if is_quick else random_.randint(1, 3)
        landed += _disturbed(bench, seconds, min(kills, wanted - landed), random_, ways)
        equal += _goes_on(bench, whole)
        lost += losses(bench.folder / "spy", EVERY)
        shutil.rmtree(bench.folder)
    within = sum(one.is_within for one in lost)
    most = max(lost, key=lambda one: one.seconds, default=None)
    worst = "" if most is None else f", at most {most.steps} steps in {most.seconds:.2f} s"
    return Measured(
        f"{landed} signals in {cases} runs of some {seconds:.0f} s: {equal} of {cases} ended by the same command with "
        f"the same adapters and records; of {len(lost)} fits that were cut, {within} repeated no more than one "
        f"checkpoint's worth{worst}",
        f"all equal; repeated: {EVERY} s of steps and one batch",
        equal == cases and within == len(lost),
        _control(whole, folder, is_quick),
    )


def _undisturbed(whole: Bench) -> float:
    """Run it, and return the seconds after its first stage had begun."""
    process = whole.start(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: _writes(whole) is not None, process)
    began = time.monotonic()
    if process.wait() != 0 or not whole.records():
        raise RuntimeError(f"the undisturbed run ended with exit code {process.returncode}")
    return time.monotonic() - began


def _writes(bench: Bench) -> int | None:
    """Changes whenever a stage begins or ends."""
    place = bench.home / "tmp"
    return place.stat().st_mtime_ns if place.exists() else None


def _copy(whole: Bench, folder: Path, *plant: str) -> Bench:
    """The same suite, with nothing computed yet."""
    shutil.copytree(whole.home / "assets", folder / "home" / "assets")
    return Bench(folder, whole.suite, plant=("spy", *plant))


def _disturbed(bench: Bench, seconds: float, kills: int, random_: random.Random, ways: Iterator[str]) -> int:
    """Start and end it `kills` times at instants even over what is left of it. How many signals found it alive."""
    left, landed = seconds, 0
    for _ in range(kills):
        before = _writes(bench)
        process = bench.start(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if not wait_until(lambda before=before: _writes(bench) != before, process):
            break
        elapsed = random_.uniform(0, max(0.9 * left, 0.5))  # an estimate: some come too late, and do not count
        time.sleep(elapsed)
        if process.poll() is not None:
            break
        _end(process, next(ways))
        landed, left = landed + 1, left - elapsed
    return landed


def _end(process: subprocess.Popen[str], way: str) -> None:
    number = getattr(signal, f"SIG{way.split()[0]}")
    if way.endswith("all"):
        end_all(process, number)
    elif way.endswith("group"):
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    if process.wait(timeout=60) == 0:  # it was at its end already, which is as good
        return
    expected = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    if process.returncode != expected:
        raise RuntimeError(f"{way}: exit code {process.returncode} instead of {expected}")


def _goes_on(bench: Bench, whole: Bench) -> bool:
    """Whether the same command ends well, with the same bytes in every stage and the same records."""
    done = bench.run()
    is_swept = not any((bench.home / "scratch").glob("*"))
    is_equal = bench.stages() == whole.stages() and bench.records() == whole.records()
    return done.returncode == 0 and is_equal and is_swept


def _control(whole: Bench, folder: Path, is_quick: bool) -> Control:
    """PPO is killed once its training has kept a state. With the fault the bits must differ, and without it not; the
    quick form leaves the second to the kills above."""
    equal = []
    for plant in [("forget-a-generator",), ()][: 1 if is_quick else 2]:
        bench = _copy(whole, folder / f"control-{len(plant)}", *plant)
        shutil.copytree(whole.home / "stages", bench.home / "stages")
        key, *above = _ppo(whole)
        for made in (key, *above):
            shutil.rmtree(bench.home / "stages" / made[:2] / made)
        process = bench.start(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        kept = bench.home / "scratch" / key / "checkpoint" / "checkpoint.json"
        wait_until(kept.exists, process)
        end_all(process)
        process.wait()
        equal.append(_goes_on(bench, whole))
    words = ["equal" if one else "different" for one in equal]
    without = f" (without that fault: {words[1]})" if words[1:] else ""
    return Control(
        f"a generator left out of PPO's checkpoint: bits {words[0]}{without}", equal in ([False], [False, True])
    )


def _ppo(whole: Bench) -> list[str]:
    """The key of PPO's training, and of all that rests on it."""
    from alignbench.planning.layout import make_plan
    from alignbench.plugins import load_catalog
    from alignbench.suite.spec import load_suite

    plan = make_plan(load_suite(whole.folder / "suite.yaml"), load_catalog())
    train = next(str(cell.train) for cell in plan.cells if cell.label == "ppo")
    return [train, *(key for key in plan.stages if key != train and train in plan.upstream(key))]
