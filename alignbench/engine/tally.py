"""Floating-point operations of this process, added up as its CPU seconds are: a span's are two readings apart.

A multiplication with its addition counts as two. Matrix products are counted and nothing else: norms, softmax and
optimiser are a thousandth of them.
"""

from __future__ import annotations


class _Tally:
    flops = 0


def add(flops: int) -> None:
    """They have just been done, or are about to be."""
    _Tally.flops += flops


def done() -> int:
    """Since the process began."""
    return _Tally.flops
