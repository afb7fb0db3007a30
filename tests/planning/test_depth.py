"""An adapter on more layers than the model has is refused before anything runs, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.assets.models import layer_count, resolve_model
from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import load_catalog
from alignbench.suite.spec import load_suite


@pytest.mark.parametrize("model", ["oracle-llama", "oracle-gpt2"])
@pytest.mark.parametrize("part", ["lora", "sft", "reward_model"])
def test_more_layers_than_the_model_has_are_refused_with_the_line(tmp_path: Path, model: str, part: str) -> None:
    from transformers import AutoConfig  # its own reading of the same file

    have = AutoConfig.from_pretrained(resolve_model(model)).num_hidden_layers
    assert layer_count(model) == have
    file = tmp_path / "suite.yaml"

    def plan_with(layers: int) -> None:
        file.write_text(f"model: {model}\ntask: oracle\n{part}: {{layers: {layers}}}\nmethods: [dpo]\n")
        make_plan(load_suite(file), load_catalog())

    plan_with(have)
    with pytest.raises(UserError) as refused:
        plan_with(have + 1)
    said = f"{file}:3 {part}.layers: {have + 1} asked for, the model has {have}; lower it or leave it out"
    assert str(refused.value) == said


def test_a_model_that_does_not_say_is_not_refused(tmp_path: Path) -> None:
    for text in ("{}", "[]", "{", '{"num_hidden_layers": null}'):
        (tmp_path / "config.json").write_text(text)
        assert layer_count(str(tmp_path)) == 0
    assert layer_count("some/model-on-the-hub") == 0
