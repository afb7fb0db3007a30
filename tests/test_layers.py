"""Who may import whom. The table is exact: a new import across rooms, and a permission nobody uses, both fail."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

from alignbench.stages.registry import KINDS

ROOT = Path(__file__).parents[1]
# Each room, and the rooms its imports name, at run time or for annotations; a room may always import itself.
# The loader and the store come before the plan, which asks them; engine and feedback read frozen options of suite.spec.
TABLE = {
    "errors": "",
    "terminal": "",
    "api": "",
    "rl": "",
    "best_of": "",
    "hookspecs": "api",
    "__init__": "api errors hookspecs",
    "plugins": "api errors hookspecs",
    "store": "errors",
    "assets": "errors store",
    "suite": "api errors plugins",
    "engine": "api errors suite.machine suite.spec",
    "feedback": "api engine errors hookspecs suite.spec",
    "tasks": "api assets engine errors feedback hookspecs store",
    "scoring": "api best_of engine errors feedback rl store suite tasks",
    "stages": "api engine errors feedback scoring store suite",
    "planning": "api assets errors plugins stages store suite",
    "report": "api errors feedback scoring.audit scoring.audit_votes scoring.crossed scoring.frontier "
    "scoring.glossary scoring.judge_answers scoring.judge_audit scoring.length_effect scoring.overoptimisation "
    "scoring.paired scoring.rated_texts scoring.record scoring.stats scoring.taken_over scoring.traces "
    "scoring.tuned scoring.vote_summary store",
    "scaffold": "errors hookspecs plugins",
    "run": "__init__ assets engine errors feedback planning plugins scoring stages store suite terminal",
    "testing": "api assets engine errors feedback planning plugins run scoring stages store suite",
    "plugin_option": "errors plugins terminal",
    "agreement_cli": "api errors feedback plugin_option report scoring store terminal",
    "audit_cli": "errors planning plugin_option report run scoring store suite terminal",
    "cache_cli": "errors store",
    "init_cli": "api errors store tasks terminal",
    "judge_cli": "api assets engine errors plugin_option plugins report scoring suite terminal",
    "cli": "__init__ agreement_cli assets audit_cli cache_cli errors init_cli judge_cli planning plugin_option plugins "
    "report run scaffold scoring store suite terminal testing",
    "docs": "api cli hookspecs plugins suite testing",
}
ORDER = tuple(TABLE)
FINE = {
    "suite.machine",
    "suite.spec",
    "scoring.audit",
    "scoring.audit_votes",
    "scoring.glossary",
    "scoring.judge_answers",
    "scoring.judge_audit",
    "scoring.length_effect",
    "scoring.overoptimisation",
    "scoring.record",
    "scoring.stats",
    "scoring.crossed",
    "scoring.paired",
    "scoring.frontier",
    "scoring.taken_over",
    "scoring.traces",
    "scoring.tuned",
    "scoring.rated_texts",
    "scoring.vote_summary",
}  # where a part of a room is meant
PLUGINS = {"alignbench_baselines": "", "alignbench_constitutional": "alignbench_ppo", "alignbench_dpo": "",
           "alignbench_ppo": "", "alignbench_rlaif": "alignbench_ppo"}  # fmt: skip


def imported(file: Path) -> set[str]:
    """Dotted names of the modules that a file imports, names after `from` included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str, allowed: set[str]) -> str:
    """'alignbench.suite.spec.Lora' -> 'suite.spec' where that part alone is allowed, else 'suite'."""
    parts = module.split(".")[1:]
    if not parts or parts[0] not in TABLE:
        return "__init__"  # a name of the package itself
    part = ".".join(parts[:2])
    return part if part in allowed & FINE else parts[0]


def test_the_core_imports_as_the_table_says_and_only_from_the_left() -> None:
    seen: dict[str, set[str]] = defaultdict(set)
    for file in (ROOT / "alignbench").rglob("*.py"):
        own = file.relative_to(ROOT / "alignbench").parts[0].removesuffix(".py")
        allowed = set(TABLE[own].split())
        rooms = {room(name, allowed) for name in imported(file) if name.split(".")[0] == "alignbench"}
        seen[own] |= rooms - {own}
    assert {own: " ".join(sorted(rooms)) for own, rooms in seen.items()} == TABLE
    for own, rooms in seen.items():
        assert all(ORDER.index(other.split(".")[0]) < ORDER.index(own) for other in rooms), own


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports for the type checker and inside functions count too. A package's own face hands names on, no more."""
    files = {module(file): file for file in (ROOT / "alignbench").rglob("*.py") if file.stem != "__init__"}
    named = {name: {found for found in imported(file) if found != name} for name, file in files.items()}
    graph = {
        name: {found if found in files else found.rpartition(".")[0] for found in names} & files.keys() - {name}
        for name, names in named.items()
    }
    assert sum(map(len, graph.values())) > 200
    list(TopologicalSorter(graph).static_order())


def module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def test_a_shipped_plugin_sees_the_public_names_alone() -> None:
    for file in (ROOT / "plugins").rglob("*.py"):
        if "tests" in file.parts or "build" in file.parts:
            continue
        own = file.stem if file.stem != "__init__" else file.parent.name
        ours = {name for name in imported(file) if name.startswith("alignbench")}
        public = {name for name in ours if name == "alignbench" or name.count(".") == 1}
        public |= {
            name for name in ours if name.startswith(("alignbench.engine.", "alignbench.rl.", "alignbench.best_of."))
        }
        others = {name.split(".")[0] for name in ours} - {"alignbench"}
        assert ours - public == set(), file
        assert others == set(PLUGINS[own].split()), file


def test_no_file_of_a_kind_imports_another_kinds() -> None:
    """A kind's key hashes what its file imports: an edit of one must not redo another."""
    folder = ROOT / "alignbench" / "stages"
    shared = {"kind", "source", "work", "view", "registry", "__init__"}
    kinds = [file for file in folder.glob("*.py") if file.stem not in shared]
    assert len(kinds) == len(KINDS)
    for file in kinds:
        others = {name.split(".")[2] for name in imported(file) if name.startswith("alignbench.stages.")}
        assert others <= {"kind", "source", "view", "work"}, file


def test_torch_free_rooms_import_nothing_heavy_when_loaded() -> None:
    """At the top of a file; inside a function, with the reason, it is fine."""
    files = (
        "errors.py",
        "rl.py",
        "hookspecs.py",
        "plugins.py",
        "cli.py",
        "terminal.py",
        "cache_cli.py",
        "agreement_cli.py",
        "audit_cli.py",
        "judge_cli.py",
        "plugin_option.py",
    )
    for name in (*files, "api", "store", "assets", "suite", "planning", "report", "tasks", "scaffold", "docs"):
        path = ROOT / "alignbench" / name
        for file in [path] if path.is_file() else path.rglob("*.py"):
            top = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
            names = {a.name for n in top if isinstance(n, ast.Import) for a in n.names}
            names |= {str(n.module) for n in top if isinstance(n, ast.ImportFrom)}
            heavy = {n for n in names if n.split(".")[0] in ("torch", "transformers", "peft", "trl", "datasets")}
            assert not heavy, file
