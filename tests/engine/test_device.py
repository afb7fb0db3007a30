"""A stage's global state is its own."""

import os
import random

import numpy as np
import pytest
import torch

from alignbench.engine.device import isolated


def test_isolated_seeds_what_is_inside_and_restores_what_was_outside(tmp_path):
    def numbers():
        return float(torch.rand(1)), random.random(), float(np.random.rand())

    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    expected = numbers()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    folder, inside = os.getcwd(), []  # noqa: PTH109
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), isolated(11):  # noqa: PT012
            inside.append(numbers())
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            os.chdir(tmp_path)
            1 / 0  # noqa: B018
    assert inside[0] == inside[1]
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert os.getcwd() == folder  # noqa: PTH109
    assert numbers() == expected
