"""The reference page is what the code says today, and lists everything of its kinds."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from alignbench import AlignmentMethod, RewardSource, Task, Trial, hookspecs
from alignbench.cli import app
from alignbench.docs.commands import commands
from alignbench.docs.contract import contract
from alignbench.docs.markdown import code, prose, table
from alignbench.docs.reference import reference_page
from alignbench.testing import all_checks

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"


def section(title: str) -> str:
    return reference_page().split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_committed_page_is_the_generated_one() -> None:
    assert PAGE.read_text() == reference_page(), "run `python -m alignbench.docs docs/reference.md` and commit the page"


def test_every_hook_is_listed_with_what_it_takes_and_returns() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("alignbench_")]
    for name in hooks:
        entry = section("Hooks").split(f"### `{name}`\n")[1].split("###")[0]
        assert "- arguments: none" in entry
        assert f"- returns: `{inspect.signature(getattr(hookspecs, name)).return_annotation}`" in entry
    assert section("Hooks").count("###") == len(hooks) == 3


@pytest.mark.parametrize("cls", [AlignmentMethod, RewardSource, Task, Trial])
def test_every_public_method_of_the_contract_is_listed_with_its_own_arguments(cls: type) -> None:
    """Against inspect; the page itself is made from the syntax tree."""
    public = {name: f for name, f in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")}
    listed = {call.signature.partition("(")[0]: call for call in contract(cls).calls if "(" in call.signature}
    assert listed.keys() == public.keys()
    for name, function in public.items():
        bare = str(inspect.signature(function)).replace("'", "").replace("(self, ", "(").replace("(self)", "()")
        assert listed[name].signature == name + bare
        assert listed[name].is_required == (name in getattr(cls, "__abstractmethods__", ()))
        assert listed[name].meaning == inspect.getdoc(function)
        assert f"- {code(listed[name].signature)}<br>" in reference_page()


def test_an_attribute_is_listed_with_the_comment_beside_it() -> None:
    attributes = {one.name: one for one in contract(AlignmentMethod).attributes}
    assert attributes["kl_knob"].meaning == "the option a sweep turns; larger trains nearer the reference"
    assert attributes["needs"].default == "frozenset()"
    assert list(attributes) == list(inspect.get_annotations(AlignmentMethod))
    assert r"| `kl_knob` | `ClassVar[str \| None]` | `None` | the option" in section("Classes a plugin defines")


def test_every_check_is_listed_with_what_it_requires_and_kills() -> None:
    listed = section("Checks of the conformance kit")
    assert re.findall(r"^### `(\w+)`$", listed, re.MULTILINE) == [check.name for check in all_checks()]
    for check in all_checks():
        entry = listed.split(f"### `{check.name}`\n")[1].split("\n###")[0]
        assert f"subject: {check.subject}; speed: {check.speed}" in entry
        assert prose(check.requires) in entry
        kills = re.search("kills: (.*)", entry)
        assert tuple(map(int, re.findall(r"(?:^|; )(\d+) ", kills[1] if kills else ""))) == check.traps


def test_every_command_is_listed_with_every_parameter() -> None:
    click = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    known_by_name = {name: one for name, one in click.items() if not hasattr(one, "commands")}
    known_by_name |= {
        f"{group} {name}": inner for group, one in click.items() for name, inner in getattr(one, "commands", {}).items()
    }
    names = [
        " ".join(word for word in one.usage.split()[1:] if word.isalpha() and word.islower()) for one in commands()
    ]
    assert names == list(known_by_name)
    for one, name in zip(commands(), names, strict=True):
        known = known_by_name[name]
        assert one.help == known.help.strip()
        names = [p.opts[0] if p.opts[0].startswith("--") else p.opts[0].upper() for p in known.params]
        assert [parameter.name for parameter in one.parameters] == [name for name in names if name != "--help"]
        assert all(parameter.help for parameter in one.parameters)


def rendered(markdown: str) -> str:
    """The text of a rendered page: tags removed, entities resolved."""
    from html import unescape

    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark").enable("table").render(markdown)
    return unescape(re.sub(r"</?(p|code|table|thead|tbody|tr|t[hd])\b[^>]*>", "", html)).strip()


HOSTILE = ["a_b __c__ *d* [e](f) <img src=x> & &lt; | ~~g~~ \\h", "kl_nats_k1 < 2 * beta", "one ` tick", "<!-- x -->"]


@pytest.mark.parametrize("text", HOSTILE)
def test_prose_and_code_render_as_what_they_say(text: str) -> None:
    assert rendered(prose(text)) == text
    assert rendered(code(text)) == text
    assert rendered(code(f"`{text}`")) == f"`{text}`"
    assert [line for line in rendered(table(["x"], [[prose(text)], [code(text)]])).split("\n") if line][1:] == [
        text
    ] * 2


def test_code_within_prose_stays_code() -> None:
    assert prose("set `a_*` or *b*") == r"set `a_*` or \*b\*"


def test_the_command_that_renews_the_page_writes_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "alignbench.docs", tmp_path / "page.md"], check=True)
    assert (tmp_path / "page.md").read_text() == reference_page()
