"""A policy's language-model loss on texts of another kind than the task's: beside the start's, what was forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from alignbench.api import Config, Stage
from alignbench.stages.kind import Kind, Told

if TYPE_CHECKING:
    from alignbench.stages.work import HarnessWork


class LMLoss(Kind):
    """Input: `policy`. A row of nats and tokens per text. The start's own is a stage like a row's, made once for all of
    them; a row that trains nothing has it for its own. No prefix stands before the texts: it is weights that forget."""

    name = "lm_loss"
    view = "scoring"
    seconds = 0.01

    class Options(Config):
        texts: int
        batch_size: int

    def make(self, work: HarnessWork) -> None:
        from alignbench.scoring.evaluate import text_nats

        o = self.Options(**work.options)
        texts = work.first(list(work.task.other_texts()), o.texts, "evaluation.other_texts", "other")
        rows: list[dict[str, float]] = []
        with work.resident("policy") as resident:
            adapter = work.load_policy(resident)
            for start in range(0, len(texts), o.batch_size):
                nats = text_nats(resident, adapter, texts[start : start + o.batch_size])
                pairs = zip(nats.nats.tolist(), nats.tokens.tolist(), strict=True)
                rows += [{"nats": total, "tokens": count} for total, count in pairs]
                work.progress(len(rows), len(texts))
        work.save_rows(rows)

    def tell(self, stage: Stage, label: str, below: Mapping[str, Told]) -> Told:
        return Told(f"loss of {below['policy'].made} on other texts", stage.options["texts"])
