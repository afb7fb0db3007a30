"""Every hook is documented and used by something shipped; every shipped suite can be planned."""

from __future__ import annotations

import inspect
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from alignbench import MethodConfig, hookspecs
from alignbench.assets.fetch import asset_folder
from alignbench.assets.toys import TOYS
from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import CONTRACTS, load_catalog
from alignbench.suite.spec import load_suite
from alignbench_ppo import PPO

ROOT = Path(__file__).parents[1]
HOOKS = {
    name: hook for name, hook in inspect.getmembers(hookspecs, inspect.isfunction) if name.startswith("alignbench_")
}
SUITES = sorted((ROOT / "benchmarks").glob("*.yaml"))
OPTION = re.compile(r"^\| `(\w+)` \| `(.*?)` \|", re.MULTILINE)


def test_the_loader_knows_every_hook_and_no_other() -> None:
    assert set(HOOKS) == set(CONTRACTS)


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_says_what_it_is_for_and_what_it_returns(name: str) -> None:
    hook = HOOKS[name]
    base = CONTRACTS[name].base.__name__
    assert f"`{base}`" in (inspect.getdoc(hook) or "")
    assert hook.__annotations__["return"] == f"list[type[{base}]]"
    assert list(hook.__annotations__) == ["return"]  # an argument would have to be documented, here and in the text


@pytest.mark.parametrize(("name", "kind"), zip(HOOKS, ("methods", "sources", "tasks"), strict=True))
def test_a_hook_is_used_by_a_shipped_plugin(name: str, kind: str) -> None:
    catalog = load_catalog()
    shipped = [plugin for plugin in getattr(catalog, kind).values() if plugin.distribution.startswith("alignbench")]
    assert shipped, name
    assert all(plugin.cls.summary for plugin in shipped)
    assert all(issubclass(plugin.cls, CONTRACTS[name].base) for plugin in shipped)


def test_nothing_shipped_fails_to_load() -> None:
    assert load_catalog().failures == ()


def test_every_option_of_every_shipped_method_can_be_left_out() -> None:
    for plugin in load_catalog().methods.values():
        plugin.cls.Config()


def test_every_knob_is_an_option_with_a_number_as_default() -> None:
    knobs = {name: plugin.cls.kl_knob for name, plugin in load_catalog().methods.items()}
    assert knobs["sft"] is None
    for name, knob in knobs.items():
        if knob is not None:
            assert isinstance(getattr(load_catalog().method(name).cls.Config(), knob), int | float)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_a_shipped_suite_names_only_what_exists(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the assets the names and options are checked, and the digests are what stops it, but for a suite whose
    model is built where it is needed."""
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path))
    suite = load_suite(path)
    with nullcontext() if suite.model in TOYS else pytest.raises(UserError, match="run `alignbench fetch`"):
        make_plan(suite, load_catalog())


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_a_shipped_suite_can_be_planned(path: Path) -> None:
    try:
        asset_folder("smollm2-135m"), asset_folder("movie-ratings"), asset_folder("other-ratings")
    except UserError as absent:
        pytest.skip(str(absent))
    try:
        plan = make_plan(load_suite(path), load_catalog())
    except UserError as error:
        if "data set '" not in str(error):  # of a Hub that no test asks
            raise
        pytest.skip(str(error))
    assert len(plan.cells) >= len(plan.suite.methods)
    order = list(plan.stages)
    for key, stage in plan.stages.items():
        assert all(order.index(below) < order.index(key) for below in stage.inputs.values())


@pytest.mark.parametrize("name", ["best_of_n", "ppo", "dpo", "rlaif", "constitutional"])
def test_a_plugins_readme_lists_its_own_options_with_their_defaults(name: str) -> None:
    plugin = load_catalog().method(name)
    readme = ROOT / "plugins" / plugin.distribution.removeprefix("alignbench-") / "README.md"
    listed = {option: yaml.safe_load(value) for option, value in OPTION.findall(readme.read_text())}
    inherited = PPO.Config if issubclass(plugin.cls, PPO) and plugin.cls is not PPO else MethodConfig
    base, own = inherited(), plugin.cls.Config()
    changed = {
        option for option in plugin.cls.Config.model_fields if getattr(base, option, own) != getattr(own, option)
    }
    assert listed == {option: getattr(own, option) for option in changed}
