"""Every number that a record may carry is defined, once."""

from __future__ import annotations

from alignbench.scoring.glossary import GLOSSARY
from alignbench.scoring.record import COUNTS, ENUMERATED, METRICS, PER_PROMPT, Ledger


def test_every_number_of_a_record_has_an_entry_and_no_entry_is_idle() -> None:
    assert set(GLOSSARY) == {*METRICS, *ENUMERATED, *PER_PROMPT, *COUNTS, *Ledger.model_fields}


def test_entries_are_complete_and_told_apart() -> None:
    for name, metric in GLOSSARY.items():
        assert metric.name == name
        assert metric.direction in ("higher", "lower", "neither")
        assert metric.definition.endswith(".")
        assert metric.unit
    assert len({metric.heading for metric in GLOSSARY.values()}) == len(GLOSSARY)
