"""The toy models come without a fetch, the same each time, and disturb nobody."""

from __future__ import annotations

import random

import pytest
import torch

from alignbench.assets.models import model_digest, resolve_model
from alignbench.assets.toys import TOYS, build_toy


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_is_built_where_it_is_first_asked_for_and_kept(name, own_home):
    folder = resolve_model(name)
    assert folder == own_home / "assets" / name
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve_model(name) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    (folder / "model.safetensors").write_bytes(b"damaged")
    digest = model_digest(name)  # mended before it is read
    assert (folder / "model.safetensors").stat().st_size > 10_000
    assert digest == model_digest(name)


@pytest.mark.parametrize("name", TOYS)
def test_two_builds_have_the_same_bits_and_leave_the_generators_and_the_default_dtype_alone(name, tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate(), torch.get_default_dtype()
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        build_toy(name, folder)
        torch.rand(3)  # a build that drew from the global generator would now differ
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), torch.get_default_dtype()) == before[1:]
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_the_two_shapes_and_another_recipe_have_digests_of_their_own(monkeypatch):
    llama, gpt2 = map(model_digest, TOYS)
    assert llama != gpt2
    built = resolve_model(TOYS[0]).stat().st_ino
    monkeypatch.setattr("alignbench.assets.models.recipe_sha256", lambda: "0" * 64)
    assert resolve_model(TOYS[0]).stat().st_ino != built  # made anew, though its files are whole
