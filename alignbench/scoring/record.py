"""A record: everything one trained and scored cell leaves behind, one JSON object per row label and seed.

    records = read_records(Path("results/quick/records.jsonl"))
    records[0].metrics["kl_nats_exact"]

Records are all a table or a page needs: neither torch nor the store of stages is asked again. What each number means
stands in `glossary`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from alignbench.errors import UserError, nearest
from alignbench.store import read_rows, write_rows

FORMAT = 2  # of a record; 1 said nothing of its provenance, and is read as one of today's without it
# The names a record may carry, by field.
PER_PROMPT = (
    "reward_gold",
    "reward_gold_gain",
    "reward_proxy",
    "win_rate_gold",
    "kl_nats_exact",
    "reward_model_start_accuracy",
    "reward_model_own_accuracy",
    "reward_model_best_of",
    "reward_gold_second",
    "reward_gold_second_gain",
    "reward_proxy_gain",
    "length_change",
    "word_share_change",
)
COUNTS = (
    "reward_model_accuracy",
    "reward_model_train_accuracy",
    "reward_model_accuracy_other",  # also by kind: `...:tweets`
)
METRICS = (
    "reward_gold",
    "reward_gold_sd",
    "reward_gold_variance",
    "reward_gold_second",
    "reward_gold_second_gain",
    "gold_extrapolates",
    "reward_proxy",
    "reward_proxy_gain",
    "win_rate_gold",
    "kl_nats_exact",
    "kl_nats_k1",
    "kl_nats_k3",
    "kl_nats_bound",
    "reward_model_accuracy",
    "reward_model_train_accuracy",
    "reward_model_start_accuracy",
    "reward_model_own_accuracy",
    "reward_model_best_of",
    "reward_model_ece",
    "reward_model_overconfidence",
    "reward_model_brier",
    "reward_model_length",
    "reward_model_cut",
    "reward_model_accuracy_other",
    "fitted_pairs",
    "reward_model_steps",
    "forgetting_nats",
    "surprise_nats",
    "completion_tokens",
    "length_change",
    "word_share_change",
    "eos_rate",
    "distinct_2",
    "repetition",
    "deploy_tokens_generated",
    "deploy_tokens_judged",
    "deploy_flops",
)
ENUMERATED = (  # where the task lists every completion
    "reward_gold_enumerated",
    "reward_proxy_enumerated",
    "kl_nats_enumerated",
    "optimum_tv",
    "optimum_kl_nats",
    "objective_share",
)
_NAMES = {"metrics": (*METRICS, *ENUMERATED), "per_prompt": PER_PROMPT, "counts": COUNTS}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)  # JSON knows no NaN


class Knob(_Part):
    """What was turned, such as the option of a sweep, and where it stood."""

    name: str
    value: int | float


class Ledger(_Part):
    """What was spent. None: not measured."""

    seconds: NonNegativeFloat | None = None
    cpu_seconds: NonNegativeFloat | None = None
    peak_bytes: NonNegativeInt | None = None
    flops: NonNegativeInt | None = None
    tokens_generated: NonNegativeInt | None = None
    tokens_trained: NonNegativeInt | None = None
    tokens_judged: NonNegativeInt | None = None
    labels_human: NonNegativeInt | None = None
    labels_ai: NonNegativeInt | None = None
    dollars: NonNegativeFloat | None = None  # None also where the run was given no prices


class Cost(_Part):
    """`marginal`: the cell's own stages. `total`: with every stage they rest on; its peak is the highest among them."""

    marginal: Ledger = Ledger()
    total: Ledger = Ledger()


class Context(_Part):
    """What a reader must know to judge the numbers."""

    model: str = ""
    task: str = ""
    comparisons: str = ""  # who labelled the human comparisons
    start_gold_sd: NonNegativeFloat | None = None  # of the supervised start's gold, over prompts and samples
    start_gold_second_sd: NonNegativeFloat | None = None  # the same by the second gold
    samples_per_prompt: NonNegativeInt | None = None  # completions that the row was scored on
    share: tuple[str, ...] = ()  # what all replicates have in common beside gold and held-out prompts
    delta: NonNegativeFloat | None = None  # of start_gold_sd: rows no further apart than this count as equivalent
    confidence: float | None = None  # level of the suite's intervals
    bootstrap: NonNegativeInt | None = None  # resamples of an interval over prompts alone
    human_accuracy: float | None = None  # one rater against the others: the ceiling of reward-model accuracy
    gold_card: Mapping[str, JsonValue] = {}  # how well the gold reward agrees with held-out humans
    machine: Mapping[str, JsonValue] = {}


class Training(_Part):
    """How far a method trained its policy."""

    steps: NonNegativeInt  # of the optimiser
    max_steps: NonNegativeInt  # what the suite allows
    moved: bool  # whether the saved adapter changes the start point at all
    budget_share: NonNegativeFloat | None = None  # of the suite's `budget`, spent at the end; None: it has none


class Exploit(_Part):
    """A completion that the proxy likes better than the start's on its prompt, and the gold less."""

    prompt: str
    completion: str
    proxy_gain: float  # points of the proxy
    gold_gain: float  # points, below 0


class BestOfN(_Part):
    """Of the start's samples, the best of n: points of gold over their mean, over all held-out prompts."""

    n: Annotated[int, Field(ge=2)]
    gain: float  # as the row's proxy chooses
    ceiling: float  # as the gold itself does


class Distribution(_Part):
    """An installed package whose plugins ran for a cell."""

    name: str
    version: str
    code: str  # sha256 over its plugins' modules and all they import


class StageFacts(_Part):
    """Where and when one stage was computed, be it in this run or in an earlier one."""

    key: str
    kind: str
    when: str | None = None  # UTC, ISO 8601: its end
    seconds: NonNegativeFloat | None = None
    cpu_seconds: NonNegativeFloat | None = None
    device: str | None = None
    threads: JsonValue = None
    kernels: JsonValue = None
    cost: Ledger | None = None  # None: written before records had it


class PriceFile(_Part):
    """What dollars were reckoned by."""

    name: str
    sha256: str


class RunFacts(_Part):
    """What is another in every run and on every machine, while the numbers may be the same."""

    commit: str | None = None  # of alignbench's checkout, "+ changes" if its files differ; None: no checkout
    command: str = ""  # as typed, without secrets and folders
    when: str | None = None  # UTC, ISO 8601: when the score was computed, or the failure recorded
    stages: Sequence[StageFacts] = ()  # all that the cell rests on
    prices: PriceFile | None = None


class Provenance(_Part):
    """What made a record: code, data, suite and, under `run`, the occasion."""

    alignbench: str  # version
    plugins: Sequence[Distribution] = ()
    libraries: Mapping[str, str] = {}  # versions, Python's too
    model: str = ""  # digests
    data: str = ""
    suite_text: str = ""  # as written, but for the home folder and passwords in addresses
    suite_sha256: str = ""  # of the text as written
    run: RunFacts = RunFacts()


class Record(_Part):
    """One cell of a suite under one seed. A failed cell is a record too, with its cause."""

    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT
    suite: str
    label: str
    method: str
    distribution: str  # what brought the method, and its version
    version: str
    seed: NonNegativeInt
    knob: Knob | None = None
    snapshot: Knob | None = None  # the place along the row that this is of, such as step 16; None: its end
    status: Literal["ok", "failed"]
    cause: str | None = None
    key: str  # of the score's stage; empty where none was planned
    train_key: str | None = None  # of the stage that trained the policy; None: the row trains none
    training: Training | None = None  # None: nothing was trained
    metrics: Mapping[str, float | None] = {}
    per_prompt: Mapping[str, Sequence[float]] = {}  # held-out prompts, in one order for all records of a suite
    counts: Mapping[str, tuple[NonNegativeFloat, NonNegativeInt]] = {}  # hits (a tie is half of one), trials
    proxy: str | None = None  # what `reward_proxy` is, such as "reward_model(panel)"
    exploits: tuple[Exploit, ...] = ()  # the worst first
    best_of: tuple[BestOfN, ...] = ()  # n = 2, 4, 8 ...; empty: the start has one sample a prompt
    cost: Cost = Cost()
    context: Context = Context()
    provenance: Provenance | None = None  # None: written before records had it

    @field_validator("metrics", "per_prompt", "counts")
    @classmethod
    def _are_known(cls, values: Mapping[str, Any], info: ValidationInfo) -> Mapping[str, Any]:
        allowed = _NAMES[str(info.field_name)]
        for name in values:
            of_a_kind = info.field_name == "counts" and name.startswith("reward_model_accuracy_other:")
            if name not in allowed and not of_a_kind:
                raise ValueError(f"unknown metric '{name}'; {nearest(name, allowed)}")
        return values

    @model_validator(mode="after")
    def _adds_up(self) -> Record:
        if self.status == "failed" and self.cause is None:
            raise ValueError("a failed cell needs its cause")
        for name, (hits, trials) in self.counts.items():
            if hits > trials:
                raise ValueError(f"{name} counts {hits:g} hits in {trials} trials")
        return self


def parted(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """Those of the rows' ends, which make a table, and those of snapshots on the way there."""
    everything = list(records)
    ends = [record for record in everything if record.snapshot is None]
    return ends, [record for record in everything if record.snapshot is not None]


TIMES = ("seconds", "cpu_seconds", "peak_bytes", "dollars")  # of a ledger: another in every run


def spent(records: Iterable[Record]) -> Ledger:
    """What all of a suite's finished stages cost together, each once however many rows rest on it: scoring and the gold
    reward, which no row is charged for, and what failed rows had finished, too. What broke off within a stage is not
    known. The peak is the highest of them."""
    stages = {s.key: s.cost for r in records if r.provenance is not None for s in r.provenance.run.stages}
    total: dict[str, Any] = {}
    for name in Ledger.model_fields:
        values = [None if cost is None else getattr(cost, name) for cost in stages.values()]
        known = [value for value in values if value is not None]
        together = max if name == "peak_bytes" else sum
        total[name] = together(known) if known and len(known) == len(values) else None
    return Ledger(**total)


def comparable(record: Record) -> dict[str, Any]:
    """A record as JSON values, without what two runs of one suite may differ in: times, memory, machine, occasion."""
    row = record.model_dump(mode="json")
    del row["context"]["machine"]
    for ledger in row["cost"].values():
        for name in TIMES:
            del ledger[name]
    if row["provenance"] is not None:
        del row["provenance"]["run"]
    return row


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Replace the file at `path`, whole or not at all."""
    write_rows(path, (record.model_dump(mode="json") for record in records))


def read_records(path: Path) -> list[Record]:
    """UserError, with the file and the line, if a line is not a record or is of a newer format."""
    try:
        rows = read_rows(path)
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}; give the records.jsonl that a run has written"
        raise UserError(problem) from None
    return [_record(row, f"{path}, line {number}") for number, row in enumerate(rows, start=1)]


def _record(row: Mapping[str, Any], where: str) -> Record:
    seen = row.get("format")
    if isinstance(seen, int) and seen > FORMAT:  # before all else: its other fields may have changed
        raise UserError(
            f"{where} has format {seen} and this alignbench reads up to {FORMAT}; upgrade: pip install -U alignbench"
        )
    if seen == 1:
        row = {**row, "format": FORMAT}
    try:
        return Record.model_validate(row)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place = "".join(f" {part}" if i == 0 else f".{part}" for i, part in enumerate(detail["loc"]))
        problem = detail["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}{place}: {problem}; restore the line from a copy, or run the suite again") from None
