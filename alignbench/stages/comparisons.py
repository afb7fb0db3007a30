"""Samples ranked by a reward source."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from itertools import combinations
from typing import TYPE_CHECKING, Any

from alignbench.api import Config, Stage
from alignbench.stages.kind import Contract, Kind, Told
from alignbench.stages.source import Source

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class Comparisons(Kind):
    """By the source's preference for two samples, by wins over all pairs for more. Ties are left out."""

    name = "comparisons"
    takes_gold = True
    seconds = 0.015

    class Options(Config):
        source: Source
        seed: int

    def make(self, work: HarnessWork) -> None:
        rows = work.rows("samples")
        prompts = [row["prompt"] for row in rows]
        wins = [[0.0] * len(row["completions"]) for row in rows]
        with ExitStack() as stack:
            source = work.open_source(stack, self.Options(**work.options).source)
            for i, j in combinations(range(len(rows[0]["completions"])), 2):
                shares = source.prefer(
                    prompts, [row["completions"][i] for row in rows], [row["completions"][j] for row in rows]
                )
                for place, p in enumerate(shares.tolist()):
                    wins[place][i] += p
                    wins[place][j] += 1 - p
        ranked = (_ranked(row, points) for row, points in zip(rows, wins, strict=True))
        work.save_rows([row for row in ranked if row is not None])

    def runs(self, options: Mapping[str, Any]) -> list[tuple[Contract, str]]:
        return [("source", options["source"]["name"])]

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        source = stage.options["source"]["name"]
        return Told(f"comparisons by {source}", stage.inputs["samples"].options["prompts"], source)


def _ranked(row: Mapping[str, Any], points: list[float]) -> dict[str, Any] | None:
    """A row's completions, best first. None where best and worst are tied or are one text."""
    order = sorted(range(len(points)), key=lambda i: -points[i])
    texts = [row["completions"][i] for i in order]
    if max(points) == min(points) or texts[0] == texts[-1]:
        return None
    ended = {"chosen_ended": row["is_ended"][order[0]], "rejected_ended": row["is_ended"][order[-1]]}
    return {"prompt": row["prompt"], "chosen": texts[0], "rejected": texts[-1], "ranked": texts, **ended}
