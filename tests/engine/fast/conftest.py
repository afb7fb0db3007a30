"""The kernels themselves are under test here, whatever the other tests run by."""

import pytest


@pytest.fixture
def kernels() -> str:
    return "fast"
