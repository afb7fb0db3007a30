"""What log-probabilities cost that are pulled back at once; their values are in tests/engine/test_logprobs.py."""

import torch

from alignbench.engine.fast.nats import logprobs_and_entropies
from alignbench.engine.fast.products import Plain

LABELS = torch.tensor([0, 49, 3, 3, 17, 8, 20])


def test_the_pull_back_to_the_states_is_paid_for_what_is_asked_alone():
    class Counted(Plain):
        def pull(self, grad):
            pulls.append(len(grad))
            return super().pull(grad)

    generator = torch.Generator().manual_seed(2)
    states = torch.randn(7, 12, generator=generator)
    projection = Plain(torch.randn(50, 12, generator=generator), torch.randn(50, generator=generator))
    product, seen = Counted(*projection), []
    for leaf, has_gradient in (
        (states, True),
        (states.clone().requires_grad_(), False),
        (states.clone().requires_grad_(), True),
    ):
        pulls = []
        logprobs_and_entropies(leaf, LABELS, product, has_entropy_gradient=has_gradient)
        seen.append(pulls)
    pulls = []
    with torch.no_grad():
        logprobs_and_entropies(leaf, LABELS, product)
    assert [*seen, pulls] == [[], [7], [7, 7], []]
