"""Twelve plugins that go wrong, each in its own distribution, written into a folder that stands on PYTHONPATH."""

from __future__ import annotations

from pathlib import Path

METHOD = """
class Bad(alignbench.AlignmentMethod):
    name, needs = {name!r}, frozenset({{"prompts"}})
    def {what}
@alignbench.hookimpl
def alignbench_methods(): return [Bad]
"""
SOURCE = """
class Bad(alignbench.RewardSource):
    name = {name!r}
    def score(self, prompts, completions):
        import torch
        return {what}
@alignbench.hookimpl
def alignbench_reward_sources(): return [Bad]
"""
TRAIN = "train(self, trial, config):\n        "
METHODS = {
    "raise": TRAIN + "raise RuntimeError('out of order')",
    "hang": TRAIN + "\n        while True: time.sleep(1)",
    "exit": TRAIN + "os._exit(0)",
    "segfault": TRAIN + "ctypes.string_at(0)",
    "allocate": TRAIN + "held = []\n        while True: held.append(bytearray(b'x') * (64 << 20))",
    "flood": TRAIN + "\n        for _ in range(64): os.write(1, b'x' * (1 << 20))\n        raise ValueError('flooded')",
    "recipe": "recipe(self, config, build):\n        raise ZeroDivisionError('in the recipe')",
}
SOURCES = {
    "type": "[0.0] * len(completions)",
    "nan": "torch.full((len(completions),), float('nan'))",
    "shape": "torch.zeros(len(completions), 1)",
}
UNLOADED = {  # the module, and the method's name that a suite would ask for
    "import": ("import a_library_that_is_not_there", "bad-import"),
    "collision": (METHOD.format(name="best_of_n", what="recipe(self, config, build): ..."), "best_of_n"),
}
NAMES = (*METHODS, *SOURCES, *UNLOADED)


def distribution(name: str) -> str:
    return f"alignbench-bad-{name}"


def write(site: Path) -> None:
    """All twelve, as pip would have left them."""
    opening = "import ctypes, os, time\nimport alignbench\n"
    bodies = {
        **{name: METHOD.format(name=f"bad-{name}", what=what) for name, what in METHODS.items()},
        **{name: SOURCE.format(name=f"bad-{name}", what=what) for name, what in SOURCES.items()},
        **{name: body for name, (body, _) in UNLOADED.items()},
    }
    for name, body in bodies.items():
        module = f"alignbench_bad_{name}"
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(opening + body)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution(name)}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[alignbench]\nbad-{name} = {module}\n")


def row(name: str) -> dict[str, object]:
    """The row of a suite that runs into it."""
    if name in SOURCES:
        return {"method": "ppo", "label": f"bad-{name}", "reward": f"bad-{name}"}
    return {"method": UNLOADED[name][1] if name in UNLOADED else f"bad-{name}", "label": f"bad-{name}"}
