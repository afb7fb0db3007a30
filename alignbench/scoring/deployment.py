"""What a row costs in use: to return one completion, once it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Deployment(NamedTuple):
    """Per returned completion, means over the samples of evaluation."""

    deploy_tokens_generated: float
    deploy_tokens_judged: float
    deploy_flops: float


def deployment(
    samples_used: int, is_judged: bool, samples: int, sampling: Mapping[str, int], judging: Mapping[str, int]
) -> Deployment:
    """`samples_used` of each returned completion, out of `samples` that `sampling` made and, where the rule asks the
    proxy, `judging` read; both in tokens and flops over all samples."""
    share = samples_used / samples
    read = judging if is_judged else {"tokens": 0, "flops": 0}
    return Deployment(share * sampling["tokens"], share * read["tokens"], share * (sampling["flops"] + read["flops"]))
