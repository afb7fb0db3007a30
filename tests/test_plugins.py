"""The loader closes what pluggy leaves open: nothing offered is lost in silence, and nothing broken stops the rest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent, indent

import pytest

from alignbench import hookspecs
from alignbench.errors import UserError
from alignbench.planning.layout import make_plan
from alignbench.plugins import CONTRACTS, Catalog, Failure, load_catalog
from alignbench.suite.spec import load_suite

Install = Callable[..., None]

METHOD = """
class Method(alignbench.AlignmentMethod):
    name = "{name}"
    def train(self, trial, config): ...
"""
HOOK = """
@alignbench.hookimpl
def alignbench_methods():
    return [Method]
"""


def method(name: str) -> str:
    return METHOD.format(name=name) + HOOK


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution of one module on sys.path, as pip would leave it there."""

    def put(distribution: str, source: str, *, entry_point: str = "", target: str = "", version: str = "1.0") -> None:
        module = distribution.replace("-", "_")
        site = tmp_path / distribution
        info = site / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        points = f"[alignbench]\n{entry_point or distribution} = {target or module}\n"
        (info / "entry_points.txt").write_text(points)
        (site / f"{module}.py").write_text("import alignbench\n" + dedent(source))
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return put


def causes(catalog: Catalog, distribution: str) -> list[str]:
    return [failure.cause for failure in catalog.failures if failure.distribution == distribution]


def test_a_sound_plugin_is_found_and_attributed(install: Install) -> None:
    install("alignbench-fifth", method("fifth"), version="2.3")
    catalog = load_catalog()
    plugin = catalog.method("fifth")
    assert (plugin.distribution, plugin.version, plugin.kind) == ("alignbench-fifth", "2.3", "method")
    assert isinstance(plugin.cls(), plugin.cls)
    assert causes(catalog, "alignbench-fifth") == []


def test_each_kind_comes_through_its_hook(install: Install) -> None:
    install(
        "three",
        method("m")
        + """
class Source(alignbench.RewardSource):
    name = "s"
    def score(self, prompts, completions): ...

class Task(alignbench.Task):
    name = "t"
    def digest(self): ...
    def prompts(self, split): ...
    def demonstrations(self): ...
    def human_pairs(self, count, seed): ...
    def held_out_pairs(self): ...
    def gold(self, build): ...
    def load_gold(self, folder, base): ...

@alignbench.hookimpl
def alignbench_reward_sources(): return [Source]

@alignbench.hookimpl
def alignbench_tasks(): return [Task]
""",
    )
    catalog = load_catalog()
    assert causes(catalog, "three") == []
    assert [catalog.method("m").kind, catalog.source("s").kind, catalog.task("t").kind] == ["method", "source", "task"]


def test_every_hook_has_a_contract() -> None:
    assert {name for name in vars(hookspecs) if name.startswith("alignbench_")} == set(CONTRACTS)


@pytest.mark.parametrize("name", ["alignbench_metods", "alinbench_methods", "_alignbench_methods"])
def test_a_misspelt_hook_is_named_with_the_right_one(install: Install, name: str) -> None:
    install("typo", method("lost").replace("alignbench_methods", name))
    (cause,) = causes(load_catalog(), "typo")
    assert cause == f"'{name}' is marked as a hook, but no such hook exists: did you mean 'alignbench_methods'?"


def test_a_specname_is_what_counts(install: Install) -> None:
    install(
        "renamed",
        METHOD.format(name="r")
        + '@alignbench.hookimpl(specname="alignbench_methods")\ndef offer():\n    return [Method]\n',
    )
    assert load_catalog().method("r").distribution == "renamed"


def test_a_hook_without_its_marker_is_reported(install: Install) -> None:
    install(
        "bare", "def alignbench_tasks(): return []\ndef alignbench_method(): return []\ndef alignbench_main(): ...\n"
    )
    assert causes(load_catalog(), "bare") == [
        "function alignbench_method lacks the decorator @alignbench.hookimpl, and did you mean 'alignbench_methods'?",
        "function alignbench_tasks lacks the decorator @alignbench.hookimpl",
    ]


def test_a_module_without_hooks_is_reported(install: Install) -> None:
    install("empty", "")
    (cause,) = causes(load_catalog(), "empty")
    assert cause.startswith("empty implements no hook; allowed: alignbench_methods")


def test_an_unknown_argument_of_a_hook_is_reported(install: Install) -> None:
    install("greedy", method("g").replace("alignbench_methods()", "alignbench_methods(config)"))
    (cause,) = causes(load_catalog(), "greedy")
    assert "alignbench_methods(config)" in cause
    assert "\n" not in cause


def test_two_distributions_with_one_entry_point_are_both_refused(install: Install) -> None:
    install("one", method("a"), entry_point="kto")
    install("two", method("b"), entry_point="kto", version="2.0")
    catalog = load_catalog()
    assert causes(catalog, "one") == ["the entry point's name is also taken by two 2.0; uninstall one"]
    assert causes(catalog, "two") == ["the entry point's name is also taken by one 1.0; uninstall one"]
    with pytest.raises(UserError, match=r"no method 'kto'; .* one 1\.0, .* two 2\.0, "):
        catalog.method("kto")
    assert {"a", "b"}.isdisjoint(catalog.methods)


def test_two_plugins_with_one_name_are_both_refused_and_their_siblings_stay(install: Install) -> None:
    sibling = METHOD.format(name="solo").replace("Method(", "Solo(")
    install("one", sibling + method("kto").replace("[Method]", "[Method, Solo]"))
    install("two", method("kto"), version="2.0")
    catalog = load_catalog()
    assert causes(catalog, "one") == ["method 'kto' is also offered by two 2.0; rename or uninstall one"]
    assert causes(catalog, "two") == ["method 'kto' is also offered by one 1.0; rename or uninstall one"]
    assert catalog.method("solo").distribution == "one"
    with pytest.raises(UserError, match=r"no method 'kto'; .* one 1\.0, .* two 2\.0, "):
        catalog.method("kto")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import absent_module", "ModuleNotFoundError: No module named 'absent_module'"),
        ("def broken(:", "SyntaxError: "),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
    ],
)
def test_a_failing_import_leaves_the_others_standing(install: Install, source: str, said: str) -> None:
    install("alignbench-bad", source)
    install("good", method("good"))
    catalog = load_catalog()
    (cause,) = causes(catalog, "alignbench-bad")
    assert cause.startswith(said)
    assert cause.endswith("the traceback: python -c 'import alignbench_bad'")
    assert "\n" not in cause
    assert catalog.method("good")
    with pytest.raises(UserError, match=f"no method 'bad'; .*alignbench-bad 1.0, entry point 'alignbench-bad': {said}"):
        catalog.method("bad")


def test_an_entry_point_names_a_module_not_an_object(install: Install) -> None:
    install("pointed", method("p"), target="pointed:Method")
    assert causes(load_catalog(), "pointed") == [
        "it names 'pointed:Method', an object; name the module alone: 'pointed'"
    ]


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("return Method", "alignbench_methods returned <class "),
        ("return None", "alignbench_methods returned None; a list of classes is allowed"),
        ("yield Method", "alignbench_methods returned <generator "),
        ("raise KeyError('x')", "alignbench_methods raised KeyError: 'x'"),
        ("return [int]", "alignbench_methods offers int: not a subclass of AlignmentMethod"),
        ("return [Method()]", "alignbench_methods offers <"),
    ],
)
def test_what_a_hook_may_return(install: Install, body: str, cause: str) -> None:
    install("hooked", METHOD.format(name="h") + HOOK.replace("return [Method]", body))
    (seen,) = causes(load_catalog(), "hooked")
    assert seen.startswith(cause)


@pytest.mark.parametrize(
    ("attributes", "breach"),
    [
        ("def train(self, trial, config): ...", 'it has no name; add `name = "method"`'),
        ("name = 'My Method'\ndef train(self, trial, config): ...", "name 'My Method' is not lower-case letters,"),
        (
            "name = 'x'\ndef train(self, trial, config): ...\ndef __init__(self, beta): ...",
            "its constructor must accept no argument: missing a required argument: 'beta'",
        ),
        (
            "name, needs = 'x', {'preference'}\ndef train(self, trial, config): ...",
            "needs names 'preference': did you mean 'preferences'?",
        ),
        ("name, needs = 'x', 'reward'\ndef train(self, trial, config): ...", "needs is 'reward'; a set is allowed"),
        (
            "name, Config = 'x', alignbench.Config\ndef train(self, trial, config): ...",
            "Config is not a subclass of MethodConfig",
        ),
        ("name, Config = 'x', dict\ndef train(self, trial, config): ...", "Config is not a subclass of MethodConfig"),
        (
            "name, kl_knob = 'x', 'weight_decai'\ndef train(self, trial, config): ...",
            "kl_knob 'weight_decai' is no option of its Config: did you mean 'weight_decay'?",
        ),
    ],
)
def test_a_class_that_breaks_its_contract_is_refused_with_the_reason(
    install: Install, attributes: str, breach: str
) -> None:
    install("broken", f"class Method(alignbench.AlignmentMethod):\n{indent(attributes, '    ')}\n{HOOK}")
    catalog = load_catalog()
    (cause,) = causes(catalog, "broken")
    assert cause.startswith(f"alignbench_methods offers Method: {breach}")
    with pytest.raises(UserError, match="no method 'x'"):
        catalog.method("x")


def test_an_unknown_name_gets_the_nearest(install: Install) -> None:
    install("fifth", method("fifth"))
    with pytest.raises(UserError, match=r"^no method 'fith': did you mean 'fifth'\?"):
        load_catalog().method("fith")


def test_an_unknown_name_recalls_that_something_failed(install: Install) -> None:
    install("bad", "raise ValueError")
    with pytest.raises(UserError, match=r"failed to load, `alignbench plugins` says why"):
        load_catalog().task("elsewhere")


def test_a_module_is_loaded_without_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loose_method.py").write_text("import alignbench\n" + method("loose"))
    monkeypatch.syspath_prepend(tmp_path)
    catalog = load_catalog(["loose_method", "loose_method", "alignbench_nowhere"])
    plugin = catalog.method("loose")
    assert (plugin.distribution, plugin.version) == ("module loose_method", "-")
    with pytest.raises(UserError, match=r"module alignbench_nowhere, .*No module named 'alignbench_nowhere'"):
        catalog.method("nowhere")


def test_naming_an_installed_module_again_changes_nothing(install: Install) -> None:
    install("fifth", method("fifth"))
    assert load_catalog(["fifth"]).method("fifth").distribution == "fifth"


def test_neither_the_package_nor_its_loader_imports_torch() -> None:
    code = "import sys, alignbench, alignbench.plugins; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_suite_that_names_a_method_which_failed_to_load_is_told_why(suite_file) -> None:
    failure = Failure("kto", "alignbench-kto", "1.0", "ImportError: no module")
    catalog = replace(load_catalog(), failures=(failure,))
    said = r"methods\[0\].method: no method 'kto'; what may bring it failed to load: alignbench-kto 1.0, .*ImportError"
    with pytest.raises(UserError, match=said):
        make_plan(load_suite(suite_file(["kto"])), catalog)
    with pytest.raises(UserError, match=r"no method 'dpoo' is installed, or .*; did you mean 'dpo'\?"):
        make_plan(load_suite(suite_file(["dpoo"])), catalog)
