"""Faults planted into every process of a control, and a spy on its work. The product knows nothing of either.

Python imports a `sitecustomize` before all else, so a run that has this folder first on PYTHONPATH gets the faults that
RELIABILITY_PLANT names, its workers included. Each is put in right after the module it concerns was executed.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import os
import sys
import time

PLANTED = os.environ.get("RELIABILITY_PLANT", "").split()


def _tell(*facts: object) -> None:
    """One line to the spy's file; a short write to a file opened for appending is whole."""
    line = " ".join(map(str, (time.monotonic(), os.getpid(), *facts))) + "\n"
    file = os.open(os.environ["RELIABILITY_SPY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(file, line.encode())
    os.close(file)


def spy_on_steps(module) -> None:
    """Every optimiser step, by its number."""
    step = module.Optimizer.step

    def told(self):
        norm = step(self)
        _tell("step", self.steps)
        return norm

    module.Optimizer.step = told


def spy_on_checkpoints(module) -> None:
    """Every instant at which a fit may keep its state, and at which it has."""
    is_due, save = module.Checkpoints.is_due, module.Checkpoints.save

    def told(self):
        _tell("may", 0)
        return is_due(self)

    def kept(self, tensors, values):
        save(self, tensors, values)
        _tell("kept", 0)

    module.Checkpoints.is_due, module.Checkpoints.save = told, kept


def spy_on_stages(module) -> None:
    make = module.Bench._make

    def told(self, stage):
        _tell("begin", stage.key)
        make(self, stage)
        _tell("end", stage.key)

    module.Bench._make = told


def forget_a_generator(module) -> None:
    """A checkpoint without the trial's torch generator: what samples are drawn from is not taken back."""

    def without(self, saved):
        self.rng.setstate(module.python_state(saved.values["rng"]))

    module.LiveTrial._take_back_generators = without


def lock_nothing(module) -> None:
    module.Store.lock = lambda self, key, waiting=None: contextlib.nullcontext()


def verify_nothing(module) -> None:
    """Of a stage: no checksum is compared."""
    module._verify = lambda folder, manifest: None


def verify_no_asset(module) -> None:
    module._is_whole = lambda folder, source_sha256: (folder / module.MANIFEST).is_file()


def see_no_source(module) -> None:
    """A key that leaves out the code of plugins."""
    module.module_source = lambda names: "the same"


def print_raw(module) -> None:
    """Whatever a stranger wrote goes out as it is."""
    module.printable = lambda text, limit=0: text


FAULTS = {
    "spy": {
        "alignbench.engine.optim": spy_on_steps,
        "alignbench.engine.checkpoint": spy_on_checkpoints,
        "alignbench.run.execute": spy_on_stages,
    },
    "forget-a-generator": {"alignbench.engine.trial": forget_a_generator},
    "lock-nothing": {"alignbench.store.artefacts": lock_nothing},
    "verify-nothing": {"alignbench.store.artefacts": verify_nothing, "alignbench.assets.folders": verify_no_asset},
    "same-source": {"alignbench.planning.keys": see_no_source},
    "print-raw": {"alignbench.errors": print_raw},
}


class _Planter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        wanted = [FAULTS[fault][name] for fault in PLANTED if name in FAULTS[fault]]
        if not wanted:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(found for found in others if found is not None)
        execute = spec.loader.exec_module

        def execute_and_plant(module) -> None:
            execute(module)
            for plant in wanted:
                plant(module)

        spec.loader.exec_module = execute_and_plant
        return spec


if PLANTED:
    sys.meta_path.insert(0, _Planter())
