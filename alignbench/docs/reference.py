"""docs/reference.md: the hooks, the contract, a suite's keys, the conformance kit's checks, the commands and theirs.

Nothing here is written twice: signatures, docstrings, the comments beside attributes and the kit's own list are the
source, so the page cannot differ from the code. No torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

from alignbench import api, hookspecs
from alignbench.docs.commands import commands
from alignbench.docs.contract import Call, Contract, contract
from alignbench.docs.markdown import code, prose, table
from alignbench.plugins import CONTRACTS
from alignbench.suite import spec

TITLE = """\
<!-- generated: python -m alignbench.docs docs/reference.md -->

# Reference

What a plugin may implement, define and call; what a suite may say; what the conformance kit holds a plugin to; the
commands. The way from nothing to a published row is in [plugins/README.md](../plugins/README.md).
"""
MADE = {  # classes a plugin defines, and what the harness passes to their constructors
    "AlignmentMethod": "The harness calls the class without an argument.",
    "RewardSource": "The harness calls the class with a validated `Config`.",
    "Task": "The harness calls the class with a validated `Config`.",
    "Decoding": "A method's `decoding` makes it.",
}
GIVEN = ("Trial", "Budget", "RecipeBuilder", "Work")  # classes a plugin is handed
TUPLES = ("TokenBatch", "PreferenceBatch", "Rollout", "ActorCritic", "Inputs", "SourceRef", "SourceRoom")
SUITE = {  # keys of a suite that hold more keys, and what they hold
    "the file": spec.Suite,
    "budget": spec.Allowance,
    "lora": spec.Lora,
    "task": spec.Named,
    "sft": spec.Training,
    "comparisons": spec.Comparisons,
    "samples": spec.Sampling,
    "reward_model": spec.RewardModelConfig,
    "evaluation": spec.Evaluation,
    "methods[i]": spec.Row,
    "methods[i].comparisons": spec.OwnComparisons,
}


def reference_page() -> str:
    sections = (_hooks(), _made(), _given(), _options(), _tuples(), _suite(), _checks(), _commands())
    return "\n\n".join([TITLE.rstrip(), *(paragraph for section in sections for paragraph in section)]) + "\n"


def _hooks() -> Iterator[str]:
    yield "## Hooks"
    yield prose(
        "A distribution names a module under the entry-point group `alignbench`; the module implements one or more of "
        "these, each under the decorator `@alignbench.hookimpl`."
    )
    for name in CONTRACTS:
        hook = getattr(hookspecs, name)
        signature = inspect.signature(hook)
        arguments = ", ".join(signature.parameters) or "none"
        yield f"### {code(name)}"
        yield prose(inspect.getdoc(hook) or "")
        yield f"- arguments: {arguments}\n- returns: {code(str(signature.return_annotation))}"


def _made() -> Iterator[str]:
    yield "## Classes a plugin defines"
    for name, made in MADE.items():
        it = contract(getattr(api, name))
        yield f"### {code(name)}"
        yield prose(f"{it.meaning} {made}")
        if it.attributes:
            yield _attributes(it)
        for head, calls in (
            ("Must be defined:", [call for call in it.calls if call.is_required]),
            ("May be overridden:", [call for call in it.calls if not call.is_required]),
        ):
            if calls:
                yield head
                yield _calls(calls)


def _given() -> Iterator[str]:
    yield "## Objects a plugin is handed"
    for name in GIVEN:
        it = contract(getattr(api, name))
        yield f"### {code(name)}"
        yield prose(it.meaning)
        if it.attributes:
            yield _attributes(it)
        yield _calls(it.calls)


def _options() -> Iterator[str]:
    yield "## Options every method has"
    yield prose(contract(api.OptimizerConfig).meaning + " `MethodConfig` inherits them.")
    yield _attributes(contract(api.OptimizerConfig))


def _tuples() -> Iterator[str]:
    yield "## What passes between them"
    for name in TUPLES:
        yield f"### {code(name)}"
        it = contract(getattr(api, name))
        yield prose(it.meaning)
        yield _attributes(it)


def _calls(calls: Sequence[Call]) -> str:
    return "\n".join(f"- {code(call.signature)}<br>{prose(call.meaning)}".removesuffix("<br>") for call in calls)


def _attributes(it: Contract) -> str:
    return table(
        ("name", "type", "default", "meaning"),
        [(code(row.name), code(row.type), code(row.default), prose(row.meaning)) for row in it.attributes],
    )


def _suite() -> Iterator[str]:
    yield "## A suite"
    yield prose(
        "A YAML file. `methods` is a list of rows, a row a method's name or a mapping; every other key may be left "
        "out. A task's and a reward source's options are those of its `Config`. A `Count` is 1 to 1000000."
    )
    for name, part in SUITE.items():
        it = contract(part)
        yield f"### {code(name)}"
        yield prose(it.meaning)
        yield _attributes(it)


def _checks() -> Iterator[str]:
    from alignbench.testing import TRAPS, all_checks

    yield "## Checks of the conformance kit"
    yield prose("`alignbench check NAME` runs those whose subject is the plugin's kind; learning comes on request.")
    for check in all_checks():
        yield f"### {code(check.name)}"
        lines = [f"- subject: {check.subject}; speed: {check.speed}", f"- requires: {prose(check.requires)}"]
        if check.traps:
            lines.append("- kills: " + "; ".join(f"{n} {prose(TRAPS[n])}" for n in check.traps))
        yield "\n".join(lines)


def _commands() -> Iterator[str]:
    yield "## Commands"
    for command in commands():
        yield f"### {code(command.usage)}"
        yield prose(command.help)
        if command.parameters:
            yield table(
                ("parameter", "value", "default", "meaning"),
                [(code(one.name), prose(one.values), code(one.default), prose(one.help)) for one in command.parameters],
            )
