"""What a key sees beside code: versions, device and dtype, the kind of stage, a source's own digest."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

import alignbench
from alignbench.api import Config, RewardSource
from alignbench.engine.device import resolve_device, resolve_dtype
from alignbench.errors import UserError
from alignbench.planning import closure, code, keys
from alignbench.stages.registry import KINDS
from alignbench.suite import machine


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    """Nothing is kept outside the test's folder."""
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    code._answers.cache_clear()


def shared() -> dict[str, object]:
    return keys.environment(model="m", task={}, lora={}, device="cpu", dtype="float32", kernels="fast")


@pytest.mark.parametrize("library", ["torch", "datasets", "safetensors", "pydantic", "peft", "PyYAML"])
def test_a_librarys_version_counts(monkeypatch, library):
    before, version = shared(), importlib.metadata.version
    assert shared() == before
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0" if name == library else version(name))
    after = shared()
    assert after["libraries"] == {**before["libraries"], library: "0"}


def test_auto_and_what_it_comes_to_are_one_key_and_another_dtype_is_not():
    def asked(device: str, dtype: str) -> dict[str, object]:
        return keys.environment(model="m", task={}, lora={}, device=device, dtype=dtype, kernels="fast")

    assert asked("auto", "auto") == asked(*machine.resolved("auto", "auto"))
    assert asked("cpu", "float32") != asked("cpu", "bfloat16")
    assert asked("cpu", "float32") != asked("cuda", "float32")


def test_fast_and_plain_kernels_are_two_keys():
    facts = {"model": "m", "task": {}, "lora": {}, "device": "cpu", "dtype": "float32"}
    fast, plain = (keys.environment(**facts, kernels=kernels) for kernels in ("fast", "plain"))
    assert {name for name in fast if fast[name] != plain[name]} == {"kernels"}


def test_pythons_version_counts():
    assert keys.libraries()["python"] == ".".join(map(str, sys.version_info[:3]))


ALL = set(KINDS)


@pytest.mark.parametrize(
    ("file", "redone"),
    [
        ("stages/train.py", {"train"}),
        ("engine/trial.py", {"train"}),
        ("engine/supervised.py", {"sft"}),
        (
            "feedback/reward_model.py",
            {"reward_model", "reward_ensemble"},
        ),  # whoever uses one has its stage's key among its inputs
        ("feedback/reward_ensemble.py", {"reward_ensemble"}),
        ("scoring/evaluate.py", {"completions", "lm_loss", "score"}),
        ("scoring/reward_card.py", {"reward_card", "score"}),
        ("scoring/closed_form.py", {"closed_form"}),
        ("engine/resident.py", ALL),
        ("engine/sampling.py", ALL),
        ("stages/work.py", ALL),
        ("feedback/judge.py", set()),  # what labels is in the source's own key
        ("tasks/oracle.py", set()),
        ("planning/rows.py", set()),
        ("suite/spec.py", set()),
        ("store/artefacts.py", set()),
        ("run/execute.py", set()),
        ("report/table.py", set()),
    ],
)
def test_an_edit_redoes_the_kinds_that_run_it_and_no_others(monkeypatch, file, redone):
    def asked() -> dict[str, str]:
        closure._MEMO.clear()
        return {name: keys.stage_source(type(kind)) for name, kind in KINDS.items()}

    path = Path(alignbench.__file__).parent / file
    assert path.exists()
    before, facts = asked(), code.facts
    monkeypatch.setattr(code, "facts", lambda at: facts(at)._replace(digest="edited") if at == path else facts(at))
    after = asked()
    monkeypatch.undo()
    assert {name for name in KINDS if before[name] != after[name]} == redone
    assert asked() == before


def test_a_plugins_own_stage_rests_on_what_it_is_handed():
    said = closure.contents(["alignbench.stages.work"], core_only=True, without=keys.ASIDE)
    assert {"alignbench/stages/work.py", "alignbench/stages/view.py", "alignbench/engine/sampling.py"} <= said.keys()
    assert keys.stage_source(None) == keys.digest(said)


def test_a_tasks_data_does_not_rest_on_the_engine_that_its_gold_runs_on():
    data = closure.contents(["alignbench.tasks.sentiment"], without=keys.NOT_DATA)
    gold = closure.contents(["alignbench.tasks.sentiment"], without=keys.ASIDE)
    assert "alignbench/tasks/ratings.py" in data
    assert not any(name.startswith("alignbench/engine/") for name in data)
    assert "alignbench/engine/resident.py" in gold


def test_a_module_that_is_not_there_is_no_key():
    with pytest.raises(ModuleNotFoundError, match="no module"):
        keys.module_source(["alignbench.absent"])


class Weighted(RewardSource):
    name = "weighted"

    class Config(Config):
        folder: str

    def digest(self) -> str:
        path = Path(self.config.folder) / "weights"
        if not path.exists():
            raise UserError(f"{path} is missing")
        return code.bytes_digest(path)

    def score(self, prompts, completions):
        raise NotImplementedError


def test_what_a_source_reads_counts_and_its_folders_name_does_not(tmp_path):
    for folder, weights in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "weights").write_text(weights)
    a, b, c = (keys.source_facts(Weighted, Weighted.Config(folder=str(tmp_path / name))) for name in "abc")
    assert a == b
    assert a["code"] == c["code"]
    assert a["digest"] != c["digest"]
    with pytest.raises(UserError, match="is missing"):
        keys.source_facts(Weighted, Weighted.Config(folder=str(tmp_path)))


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_plan_and_the_engine_make_the_same_of_auto(device, dtype):
    device_, dtype_ = machine.resolved(device, dtype)
    torch_device = resolve_device(device)
    assert device_ == torch_device.type
    assert f"torch.{dtype_}" == str(resolve_dtype(dtype, torch_device))
    assert machine.resolved(device_, dtype_) == (device_, dtype_)


@pytest.mark.parametrize(
    ("build", "node", "hidden", "device"),
    [
        ("2.13.0", "/dev/nvidiactl", None, "cuda"),
        ("2.13.0+cu126", "/dev/nvidiactl", None, "cuda"),
        ("2.13.0+cpu", "/dev/nvidiactl", None, "cpu"),
        ("2.13.0", "/dev/nvidiactl", "-1", "cpu"),
        ("2.13.0", "/dev/kfd", None, "cpu"),
        ("2.13.0+rocm6.3", "/dev/kfd", None, "cuda"),
        ("2.13.0", "/dev/null", None, "cpu"),
    ],
)
def test_auto_takes_the_gpu_that_torchs_build_can_use(monkeypatch, build, node, hidden, device):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: build)
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == node)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert machine.resolved("auto", "float32") == (device, "float32")
    if device == "cuda":
        assert machine.resolved("auto", "auto") == machine.resolved("cuda:0", "bfloat16") == ("cuda", "bfloat16")
    assert machine.resolved("cuda:1", "auto") == ("cuda:1", "bfloat16")
