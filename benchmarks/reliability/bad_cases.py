"""Malformed inputs: every field of a suite with values that its type forbids, and what people get wrong elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

from benchmarks.reliability.runs import ORACLE

DPO = {"method": "dpo", "config": {"beta": 0.1}}
GOOD: dict[str, Any] = {**ORACLE, "methods": ["sft", DPO]}
OPEN = {"options", "config"}  # mappings that a plugin's own schema checks
WRONG = {
    "a number": ["text", True, -1, float("nan"), [1], {"a": 1}],
    "a text": [5, True, "", "two\nlines", ["x"], {"a": 1}],
    "a list": [5, {"a": 1}, [], [None]],
    "a mapping": [5, [1], True],
}


@dataclass(frozen=True)
class Case:
    what: str
    arguments: Sequence[str]
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    says: Sequence[str] = ()  # words that the line must hold: the place, the remedy
    environment: Mapping[str, str] = field(default_factory=dict)

    def lay(self, place: Path) -> None:
        """Write its files into a folder."""
        place.mkdir(parents=True)
        for name, content in self.files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def suite_case(what: str, suite: Any, *says: str, command: str = "plan") -> Case:
    text = suite if isinstance(suite, str | bytes) else json.dumps(suite, indent=1).replace("NaN", ".nan")
    return Case(what, (command, "suite.yaml"), {"suite.yaml": text}, ("suite.yaml", *says))


# ---------------------------------------------------------------------------------------------------- from the schema


def from_schema() -> list[Case]:
    """One for each field and wrong value."""
    from alignbench.suite.spec import Suite

    cases = []
    for path, kind in _fields(Suite, ()):
        for value in WRONG[kind]:
            cases.append(suite_case(f"{'.'.join(path)}: {json.dumps(value)}", _with(path, value), path[-1]))
        if path[-1] not in OPEN:
            misspelt = (*path[:-1], path[-1] + "z")
            cases.append(suite_case(f"{'.'.join(misspelt)}", _with(misspelt, 1), f"did you mean '{path[-1]}'?"))
    return cases


def _fields(model: Any, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every field below a model, and what kind of value it takes. A list of models is entered at its last element."""
    from pydantic import BaseModel

    for name, about in model.model_fields.items():
        types = [inner for inner in _flat(about.annotation) if inner is not type(None)]
        models = [inner for inner in types if isinstance(inner, type) and issubclass(inner, BaseModel)]
        path = (*above, name)
        if any(get_origin(inner) is tuple or inner is tuple for inner in types):
            if str not in types and not any(_is_word(inner) for inner in types):
                yield path, "a list"
        elif models or name in OPEN:
            yield path, "a mapping"
        elif any(inner in (int, float) for inner in types):
            yield path, "a number"
        else:
            yield path, "a text"
        for inner in models:
            yield from _fields(inner, path)


def _is_word(annotation: Any) -> bool:
    return isinstance(annotation, str)


def _flat(annotation: Any) -> Iterator[Any]:
    """The alternatives of a union, the models inside a list, words of a Literal; annotations taken off."""
    origin = get_origin(annotation)
    if hasattr(annotation, "__metadata__"):
        yield from _flat(annotation.__origin__)
    elif origin is tuple:
        yield tuple
        yield from (inner for inner in map(_bare, get_args(annotation)) if hasattr(inner, "model_fields"))
    elif origin is not None and origin not in (dict, list):
        for inner in get_args(annotation):
            yield from _flat(inner)
    else:
        yield annotation


def _bare(annotation: Any) -> Any:
    return annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation


def _with(path: Sequence[str], value: Any) -> dict[str, Any]:
    """The good suite with one value replaced, on the way through the last element of a list."""
    suite: dict[str, Any] = json.loads(json.dumps(GOOD))
    at: Any = suite
    for name in path[:-1]:
        below = at.get(name)
        if name == "task" or below is None:
            below = at[name] = {"name": "oracle"} if name in ("task", "reward") else {}
        at = below[-1] if isinstance(below, list) else below
    if path[0] == "methods" and isinstance(at, dict) and "name" in at:
        suite["methods"][-1]["method"] = "ppo"
        suite["methods"][-1].pop("config", None)
    at[path[-1]] = value
    return suite


# ------------------------------------------------------------------------------------------------------------ by hand


def by_hand() -> list[Case]:
    good = json.dumps(GOOD)
    plan, stage = {"suite.yaml": good}, ("stage", "ab12cd34", "--plan", "plan.json")
    return [
        suite_case("an empty suite", ""),
        suite_case("a suite that is a list", "[1, 2]"),
        suite_case("a suite that is a word", "hello"),
        suite_case("a suite that is no YAML", "a: [1,"),
        suite_case("a suite that is no text", b"\xff\xfe\x00\x01\x80"),
        suite_case("a tab for an indent", "task:\n\tname: oracle"),
        suite_case("a key twice", "max_steps: 1\nmax_steps: 2\nmethods: [sft]"),
        suite_case("an alias", "a: &x [1]\nb: *x", "alias"),
        suite_case("a tag", "model: !!python/object:os.system x"),
        suite_case("base 60", "max_steps: 1:30:00\nmethods: [sft]", "max_steps"),
        suite_case("400 digits", f"max_steps: {'9' * 400}\nmethods: [sft]"),
        suite_case("a key that is a number", "1: 2\nmethods: [sft]"),
        suite_case("nested a thousand deep", "a: " + "[" * 1000 + "]" * 1000),
        suite_case("a name of 300 letters", {**GOOD, "name": "x" * 300}, "name"),
        suite_case("a name that leaves the folder", {**GOOD, "name": "../x"}, "name"),
        suite_case("seeds that are words", {**GOOD, "seeds": ["0"]}, "seeds"),
        suite_case("a seed twice", {**GOOD, "seeds": [1, 1]}, "seeds", "distinct"),
        suite_case("a seed beyond 32 bits", {**GOOD, "seeds": [2**32]}, "seeds"),
        suite_case("a billion resamples", _with(("evaluation", "bootstrap"), 10**9), "bootstrap", "100000"),
        suite_case("more pairs than memory", _with(("comparisons", "pairs"), 10**17), "comparisons.pairs", "1000000"),
        suite_case(
            "a split too large", {**GOOD, "task": {"name": "oracle", "options": {"eval": 10**17}}}, "eval", "1000000"
        ),
        suite_case(
            "a reward beyond numbers", {**GOOD, "task": {"name": "oracle", "options": {"reward_scale": 1e308}}},
            "reward_scale", "1000000",
        ),
        suite_case("a rank beyond memory", _with(("lora", "r"), 10**9), "lora.r", "16384"),
        suite_case("a confidence of 1", _with(("evaluation", "confidence"), 1), "confidence"),
        suite_case("two rows of one label", {**GOOD, "methods": ["sft", "sft"]}, "label"),
        suite_case("no such method", {**GOOD, "methods": ["dpoo"]}, "did you mean 'dpo'?"),
        suite_case("no such task", {**GOOD, "task": "oracel"}, "did you mean 'oracle'?"),
        suite_case("no such reward", {**GOOD, "methods": [{"method": "ppo", "reward": "lenght"}]}, "mean 'length'?"),
        suite_case("no such source", _with(("comparisons", "source"), "pannel"), "source"),
        suite_case("no such model", {**GOOD, "model": "nowhere"}, "model"),
        suite_case("no such device", {**GOOD, "device": "gpu"}, "device", "cuda"),
        suite_case("no such dtype", {**GOOD, "dtype": "float16"}, "dtype", "bfloat16"),
        suite_case("a sweep without a knob", {**GOOD, "methods": [{"method": "sft", "sweep": [1]}]}, "sweep"),
        suite_case("an option twice", {**GOOD, "methods": [{**DPO, "sweep": [1]}]}, "beta", "remove one"),
        suite_case("a beta of 0", {**GOOD, "methods": [{"method": "dpo", "config": {"beta": 0}}]}, "greater than 0"),
        suite_case("an unknown option", {**GOOD, "methods": [{"method": "dpo", "config": {"bta": 1}}]}, "'beta'?"),
        suite_case("more prompts than there are", _with(("evaluation", "prompts"), 999), "prompts", "lower it"),
        suite_case("a run of a bad suite", {**GOOD, "max_steps": -1}, "max_steps", command="run"),
        Case("no such suite", ("run", "quikstart"), says=("did you mean 'quickstart'?",)),
        Case("a suite that is a folder", ("plan", "folder"), {"folder/x": ""}, ("folder",)),
        Case("no command of that name", ("runn",), says=("--help",)),
        Case("no suite given", ("run",), says=("suite", "--help")),
        Case("an unknown option", ("run", "suite.yaml", "--wrokers", "2"), plan, ("--wrokers", "--help")),
        Case("workers: 0", ("run", "suite.yaml", "--workers", "0"), plan, ("--workers", "1")),
        Case("workers: a word", ("run", "suite.yaml", "--workers", "two"), plan, ("--workers",)),
        Case("timeout: below 0", ("run", "suite.yaml", "--timeout", "-1"), plan, ("--timeout",)),
        Case("timeout: nan", ("run", "suite.yaml", "--timeout", "nan"), plan, ("--timeout",)),
        Case("memory: 0", ("run", "suite.yaml", "--memory", "0"), plan, ("--memory",)),
        Case("memory: inf", ("run", "suite.yaml", "--memory", "inf"), plan, ("--memory",)),
        Case("export: no such form", ("plan", "suite.yaml", "--export", "csv"), plan, ("slurm",)),
        Case("results that are a file", ("run", "suite.yaml", "--results", "suite.yaml"), plan, ("suite.yaml",)),
        Case("a plugin that is not there", ("plan", "suite.yaml", "--plugin", "zz_no"), plan, ("--plugin zz_no",)),
        Case("a plugin with a path's name", ("plan", "suite.yaml", "--plugin", "a/b.py"), plan, ("--plugin a/b.py",)),
        Case("a plugin without a name", ("plan", "suite.yaml", "--plugin", ""), plan, ("--plugin",)),
        Case("a plugin with dots alone", ("plan", "suite.yaml", "--plugin", ".."), plan, ("--plugin ..",)),
        Case(
            "a plugin that raises", ("plan", "suite.yaml", "--plugin", "zz_raises"), {**plan, "zz_raises.py": "1 / 0"},
            ("--plugin zz_raises", "ZeroDivisionError"),
        ),
        Case(
            "a plugin that ends the process", ("plugins", "--plugin", "zz_exits"),
            {"zz_exits.py": "import os\nos._exit(0)"}, ("--plugin zz_exits", "os._exit(0)"),
        ),
        Case("a plan that is not there", stage, says=("plan.json", "alignbench plan")),
        Case("a plan that is no JSON", stage, {"plan.json": "{"}, ("plan.json", "alignbench plan")),
        Case("a plan that is no text", stage, {"plan.json": b"\xff\x80"}, ("plan.json",)),
        Case("a plan nested without end", stage, {"plan.json": "[" * 200_000}, ("plan.json", "alignbench plan")),
        Case("a plan that is a list", stage, {"plan.json": "[]"}, ("plan.json", "alignbench plan")),
        Case("a plan without stages", stage, {"plan.json": json.dumps({"suite": GOOD})}, ("plan.json",)),
        Case("a plan with a wrong suite", stage, {"plan.json": '{"suite": {"max_steps": "x"}}'}, ("plan.json",)),
        Case(
            "a plan of other modules", stage, {"plan.json": json.dumps({"suite": GOOD, "modules": 5})}, ("plan.json",)
        ),
        Case("no such log", ("log", "ab12cd34"), says=("ab12cd34", "alignbench plan")),
        Case("a log by a path", ("log", "../../etc/passwd"), says=("key that begins",)),
        Case("a table that is not there", ("table", "nothing"), says=("results/nothing/table.md", "alignbench run")),
        Case("no such asset", ("fetch", "smollm"), says=("smollm2-135m",)),
        Case("nothing to check", ("check",), says=("harness",)),
        Case("no such thing to check", ("check", "dpoo"), says=("dpoo",)),
        Case("a plugin's name with a space", ("new", "method", "my method"), says=("my method",)),
        Case("a plugin's name that is taken", ("new", "method", "dpo"), says=("dpo",)),
        Case("a plugin's folder that is not there", ("new", "method", "zz", "--into", "no/where"), says=("--into",)),
        Case("prune by nan", ("cache", "prune", "--older-than", "nan"), says=("--older-than",)),
        Case("prune by a word", ("cache", "prune", "--larger-than", "much"), says=("--larger-than",)),
        Case(
            "a home that nobody has", ("cache", "list"), says=("ALIGNBENCH_HOME",),
            environment={"ALIGNBENCH_HOME": "~nobody-here/x"},
        ),
        Case(
            "a home that is a file", ("run", "suite.yaml"), plan, ("ALIGNBENCH_HOME",),
            {"ALIGNBENCH_HOME": "suite.yaml"},
        ),
    ]  # fmt: skip
