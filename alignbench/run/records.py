"""A cell's record: its scores, its costs and where they come from, read from the store. No torch."""

from __future__ import annotations

from typing import Any

from alignbench.errors import in_words
from alignbench.run.failure import Failure
from alignbench.run.provenance import near, priced, provenance_of, scrubbed
from alignbench.scoring.prices import Prices
from alignbench.scoring.record import FORMAT, Record
from alignbench.store import Store, read_json, read_rows
from alignbench.suite.plan import Plan, PlannedCell

ADDED_UP = (
    "seconds",
    "cpu_seconds",
    "flops",
    "tokens_generated",
    "tokens_trained",
    "tokens_judged",
    "labels_human",
    "labels_ai",
    "dollars",
)
FIT = (  # a metric, the input of a reward card that tells it, and the file that has a row for each
    ("fitted_pairs", "comparisons", "rows.jsonl"),
    ("reward_model_steps", "proxy", "history.jsonl"),
)


def record_of(
    plan: Plan, cell: PlannedCell, store: Store, failure: Failure | None, prices: Prices | None = None
) -> Record:
    """The record of a cell whose score is in the store, or of one that failed."""
    try:
        return _record(plan, cell, store, failure, prices)
    except Exception as error:  # a plugin can write what it likes into its stages, or delete one at any moment
        said = f"what its stages say of themselves cannot be read ({in_words(error)}); run again"
        return _record(plan, cell, Store(store.root / "nothing"), Failure(said, "bug"), prices)


def _record(plan: Plan, cell: PlannedCell, store: Store, failure: Failure | None, prices: Prices | None) -> Record:
    scores: dict[str, Any] = {"metrics": {}, "per_prompt": {}, "counts": {}, "context": {}}
    machine: dict[str, Any] = {}
    if failure is None and cell.score is not None:
        folder = store.get(cell.score)
        if folder is None:
            failure = Failure(f"stage {cell.score[:12]} was damaged after it was computed; run again", "bug")
        else:
            # there the model ran; the score only reads
            ran = plan.stages[cell.score].inputs.get("completions", cell.score)
            scores = read_json(folder / "scores.json")
            scores["metrics"] |= _fit(plan, cell.score, store)
            machine = store.meta(ran if store.has(ran) else cell.score)["machine"]
    train_key = cell.train if cell.train is not None and plan.stages[cell.train].kind == "train" else None
    row = {
            "format": FORMAT, "suite": plan.suite.name, "label": cell.label, "method": cell.method,
            "distribution": cell.distribution, "version": cell.version, "seed": cell.seed, "key": cell.score or "",
            "train_key": train_key, "training": _training(train_key, cell, store), "knob": cell.knob,
            "snapshot": cell.snapshot, "status": "ok" if failure is None else "failed",
            "cause": None if failure is None else failure.cause,
            "metrics": scores["metrics"], "per_prompt": scores["per_prompt"], "counts": scores["counts"],
            "proxy": cell.proxy, "exploits": scores.get("exploits", ()),
            "best_of": scores.get("best_of", ()),
            "cost": _cost(plan, cell, store, prices, is_whole=failure is None),
            "context": {
                "human_accuracy": None, "gold_card": {}, **scores["context"], "machine": machine,
                "share": plan.suite.share, "delta": plan.suite.evaluation.delta,
                "confidence": plan.suite.evaluation.confidence, "bootstrap": plan.suite.evaluation.bootstrap,
                "model": near(plan.suite.model), "task": plan.task_in_words,
                "comparisons": cell.comparisons,
            },
            "provenance": provenance_of(plan, cell, store, prices),
        }  # fmt: skip
    return Record.model_validate(scrubbed(row))


def _fit(plan: Plan, score: str, store: Store) -> dict[str, int]:
    """How many pairs the proxy, or the policy in its place, learned from, and in how many steps, as far as it is known:
    a reward model of a plugin's own need not keep a history."""
    inputs, found = plan.stage(score, "reward_card").inputs, {}
    for name, made, file in FIT:
        folder = store.get(inputs[made]) if made in inputs else None
        if folder is not None and (folder / file).is_file():
            found[name] = len(read_rows(folder / file))
    return found


def _training(key: str | None, cell: PlannedCell, store: Store) -> dict[str, Any] | None:
    """How far the policy was trained, a snapshot's up to its place: a run may have ended before. A damaged stage is the
    next run's to mend, and says nothing here."""
    folder = None if key is None else store.get(key)
    if folder is None:
        return None
    said = read_json(folder / "policy.json")
    most = said["max_steps"] if cell.snapshot is None or cell.snapshot["name"] != "step" else cell.snapshot["value"]
    is_end = said["steps"] <= most
    share = said.get("budget_share") if is_end else None
    return {"steps": min(said["steps"], most), "max_steps": most, "moved": said["moved"], "budget_share": share}


def _cost(
    plan: Plan, cell: PlannedCell, store: Store, prices: Prices | None, *, is_whole: bool
) -> dict[str, dict[str, float | None]]:
    """Marginal: the row's own stages. Total: with every stage they rest on, and what a decoding rule asks. Scoring, and
    the gold reward that stands in for people, are nobody's cost; a rule's samples are its use and no training, and
    stand in the `deploy_` metrics. A snapshot is charged for its run up to there. A row that failed is charged for what
    was made; one that is whole needs every stage's cost, or its own is not known."""
    total = sorted({key for own in (*cell.own, *cell.asked) for key in plan.upstream(own, without="gold")})
    return {
        name: _sum([_spent(cell, key, store, prices) for key in keys if is_whole or store.has(key)])
        for name, keys in (("marginal", cell.own), ("total", total))
    }


def _sum(costs: list[dict[str, float]]) -> dict[str, float | None]:
    """A stage that keeps its key may be older than one of the counts: the sum is then not known."""
    added = {
        name: sum(cost[name] for cost in costs) if all(cost.get(name) is not None for cost in costs) else None
        for name in ADDED_UP
    }
    is_known = all("peak_bytes" in cost for cost in costs)
    return {**added, "peak_bytes": max((cost["peak_bytes"] for cost in costs), default=0) if is_known else None}


def _spent(cell: PlannedCell, key: str, store: Store, prices: Prices | None) -> dict[str, Any]:
    """Nothing is known of a stage that went out of the store."""
    try:
        meta = store.meta(key)
    except KeyError:
        return {}
    place = str(cell.snapshot["value"]) if cell.snapshot and key == cell.train else None
    spent: dict[str, float] = meta.get("marks", {}).get(place, meta["cost"])  # a run may end before the place
    return priced(spent, meta, prices)
