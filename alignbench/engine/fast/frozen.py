"""Hidden states below the adapters, kept per sequence: the same for policy, reference, value and reward model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

Row = tuple[int, ...]  # a block's number, then the real token ids of a sequence


class FrozenStates:
    """Least recently used out first, by bytes. A sequence's states are (tokens, H)."""

    def __init__(self, most_bytes: int = 256 * 2**20) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._kept: OrderedDict[Row, Tensor] = OrderedDict()

    def __contains__(self, row: Row) -> bool:
        return row in self._kept

    def take(self, row: Row) -> Tensor:
        self._kept.move_to_end(row)
        return self._kept[row]

    def put(self, row: Row, states: Tensor) -> None:
        if row in self._kept:
            return
        self._kept[row] = states
        self.bytes += states.nbytes
        while self.bytes > self.most_bytes and len(self._kept) > 1:
            self.bytes -= self._kept.popitem(last=False)[1].nbytes


@contextmanager
def stack_of(model: nn.Module, blocks: nn.ModuleList, count: int) -> Iterator[None]:
    """The model has its topmost `count` blocks alone, for as long as this is open."""
    owner, name = next((m, name) for m in model.modules() for name, child in m.named_children() if child is blocks)
    setattr(owner, name, nn.ModuleList(list(blocks)[-count:]))
    try:
        yield
    finally:
        setattr(owner, name, blocks)
