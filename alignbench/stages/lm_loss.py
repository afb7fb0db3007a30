"""A policy's language-model loss on texts that people wrote.

On texts of another kind than the task's it tells, beside the start's, what was forgotten. The start's on the task's own
texts is what the likelihood of a row's completions is held against.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

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
        of: Literal["other", "held_out"]  # texts of another kind; those of the task's held-out pairs, whole
        texts: int  # or pairs
        batch_size: int

    def make(self, work: HarnessWork) -> None:
        from alignbench.scoring.evaluate import text_nats

        o = self.Options(**work.options)
        texts = _of_pairs(work, o.texts) if o.of == "held_out" else _of_another_kind(work, o.texts)
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
        texts = "people's texts" if stage.options["of"] == "held_out" else "other texts"
        return Told(f"loss of {below['policy'].made} on {texts}", stage.options["texts"])


def _of_another_kind(work: HarnessWork, count: int) -> list[str]:
    return work.first(list(work.task.other_texts()), count, "evaluation.other_texts", "other")


def _of_pairs(work: HarnessWork, count: int) -> list[str]:
    """Each once, with its prompt, in the order of the pairs."""
    pairs = work.task.held_out_pairs().pairs[:count]
    return list(dict.fromkeys(p.prompt + text for p in pairs for text in (p.chosen, p.rejected)))
