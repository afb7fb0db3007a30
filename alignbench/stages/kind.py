"""What every kind of stage is to the harness: options with types, a function that makes it, words and an estimate.

A plan is laid out without torch, so a kind imports the engine inside `make`. Its key hashes the code of its own file
and of all that this imports, `make` included: an edit redoes the kinds that run it and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from alignbench.api import Config, RewardSource, Stage, View

if TYPE_CHECKING:
    from alignbench.engine.resident import Resident
    from alignbench.stages.work import HarnessWork

SPENT = "spent.json"  # beside completions and proxy rewards: tokens and flops of sampling, or of reading them, alone
SNAPSHOTS = "snapshots"  # in a train stage: adapters along the run, each in a folder named after its optimiser step
Contract = Literal["method", "source"]


class Told(NamedTuple):
    """A stage in words and size."""

    title: str  # tells it from its siblings: rows of a sweep differ in their labels alone
    size: float  # what its time grows with: steps, pairs, completions
    made: str = ""  # what it makes, as those who use it call it


class Kind:
    """One kind of stage. The defaults are those of a plugin's own, which the harness knows nothing of."""

    name: ClassVar[str] = ""
    view: ClassVar[View] = "training"  # "scoring": no recipe may rest on it
    takes_gold: ClassVar[bool] = False  # may read the gold reward in a recipe, on behalf of simulated raters
    is_start: ClassVar[bool] = False  # its adapter is merged below those of the stages on it
    seconds: ClassVar[float] = 0.1  # per unit of `size`: the quickstart on two cores of an AMD Zen 5, bfloat16
    Options: ClassVar[type[Config]] = Config

    @classmethod
    def stage(cls, inputs: Mapping[str, Stage | None] | None = None, **options: Any) -> Stage:
        """A stage of this kind on the inputs that there are. ValidationError if an option is missing or wrong."""
        present = {name: below for name, below in (inputs or {}).items() if below is not None}
        return Stage(cls.name, cls.Options(**options).model_dump(mode="json"), present)

    def make(self, work: HarnessWork) -> None:
        """Write the stage into `work.folder`."""
        raise NotImplementedError

    def opened(self, folder: Path, resident: Resident) -> RewardSource:
        """What was made in `folder`, as a reward source on its start point, if it is one."""
        raise NotImplementedError(f"a stage '{self.name}' is no reward source")

    def runs(self, options: Mapping[str, Any]) -> list[tuple[Contract, str]]:
        """The plugins whose code runs in a stage with these options."""
        return []

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        """What the stage is. `label` is of the row that asks for it; `below` tells of its inputs, by name."""
        counted = ("max_steps", "pairs", "num_prompts")
        return Told(spoken(stage.kind), next((stage.options[name] for name in counted if name in stage.options), 100))


def spoken(kind: str) -> str:
    return kind.replace("_", " ")


def on(kind: str, below: Mapping[str, Told], name: str) -> str:
    """A stage named after one of its inputs, where it has it: 'sft on revisions'."""
    return spoken(kind) + (f" on {below[name].title}" if name in below else "")
