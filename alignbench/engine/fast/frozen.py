"""Hidden states below the adapters, kept per sequence: the same for policy, reference, value and reward model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
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

    def tensors(self) -> dict[str, Tensor]:
        """All of it as three tensors, the least recently used first."""
        if not self._kept:
            return {}
        return {
            "frozen.rows": torch.tensor([number for row in self._kept for number in row]),
            "frozen.lengths": torch.tensor([len(row) for row in self._kept]),
            "frozen.states": torch.cat(list(self._kept.values())),
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], device: torch.device) -> FrozenStates:
        """From what `tensors` gave, which may stand among others."""
        found = cls()
        if "frozen.rows" in tensors:
            lengths = tensors["frozen.lengths"].tolist()
            rows = tensors["frozen.rows"].split(lengths)
            states = tensors["frozen.states"].split([length - 1 for length in lengths])
            for row, own in zip(rows, states, strict=True):
                found.put(tuple(row.tolist()), own.to(device, copy=True))  # no view, which would keep all of them
        return found


@contextmanager
def stack_of(model: nn.Module, blocks: nn.ModuleList, count: int) -> Iterator[None]:
    """The model has its topmost `count` blocks alone, for as long as this is open."""
    owner, name = next((m, name) for m in model.modules() for name, child in m.named_children() if child is blocks)
    setattr(owner, name, nn.ModuleList(list(blocks)[-count:]))
    try:
        yield
    finally:
        setattr(owner, name, blocks)
