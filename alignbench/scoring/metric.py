"""One number of a record, in words."""

from __future__ import annotations

from typing import Literal, NamedTuple

Direction = Literal["higher", "lower", "neither"]


class Metric(NamedTuple):
    """One number. Its name is quantity_unit_estimator as far as each is needed."""

    name: str
    definition: str
    unit: str
    direction: Direction  # which way is better
    heading: str  # of a table's column
