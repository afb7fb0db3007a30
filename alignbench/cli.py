"""The command line. Each command is a few lines over the rooms below; none imports torch before it has to."""

from __future__ import annotations

import errno
import json
import logging
import os
import shlex
import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from alignbench import __version__
from alignbench.agreement_cli import agreement
from alignbench.audit_cli import audit
from alignbench.cache_cli import cache
from alignbench.errors import Interrupted, PluginError, UserError, in_words, printable
from alignbench.init_cli import init
from alignbench.judge_cli import judge
from alignbench.plugin_option import PluginModules, catalog_with
from alignbench.terminal import (
    add_current_folder,
    finish_streams,
    leave_current_folder,
    new_console,
    open_streams,
    refuse_to_vanish,
)

# Set before any library reads them: no telemetry, and no bars or warnings of theirs across ours.
for _name, _value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}.items():
    os.environ.setdefault(_name, _value)

app = typer.Typer(
    help="Compare alignment methods for language models.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
app.add_typer(cache, name="cache")
app.command()(agreement)
app.command()(audit)
app.command()(init)
app.command()(judge)
console = new_console()

USAGE: Any = typer.BadParameter.__base__  # click's UsageError, of whichever click this typer carries
CELL = 200  # characters of a cell that a plugin's author wrote

SuiteName = Annotated[str, typer.Argument(help="a suite file, or the name of one in benchmarks/")]


@app.command()
def run(
    suite: SuiteName,
    results: Annotated[Path, typer.Option(help="folder that receives <suite>/")] = Path("results"),
    plugin: PluginModules = None,
    workers: Annotated[int | None, typer.Option(min=1, help="stages at once; default: one per GPU, else one")] = None,
    timeout: Annotated[float | None, typer.Option(min=0.001, help="seconds a stage may take")] = None,
    memory: Annotated[
        float | None, typer.Option(min=0.1, max=2**20, help="GiB a stage may hold; default: most of it")
    ] = None,
    engine: Annotated[
        Literal["worker", "ray"], typer.Option(help="who computes: child processes here, or Ray tasks")
    ] = "worker",
    address: Annotated[str | None, typer.Option(help="a Ray cluster's; default: one for this run")] = None,
    collect: Annotated[bool, typer.Option("--collect", help="publish what is done so far; compute nothing")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="in this process; stop at the first failure")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace a published table that has fewer failures")] = False,
    prices: Annotated[Path | None, typer.Option(help="YAML of prices; adds dollars to every cost")] = None,
) -> None:
    """Train and score every row of a suite, reuse what is cached, and print the table."""
    from alignbench.report.table import check_writable
    from alignbench.run.command import Limits, check_engine, run_suite
    from alignbench.run.crew import memory_limit
    from alignbench.scoring.prices import load_prices

    check_engine(engine, address, strict)
    known = None if prices is None else load_prices(prices)
    if strict:
        refuse_to_vanish()
    limits = Limits(workers, timeout, None if memory is None else int(memory * 2**30))
    plan = _plan(suite, plugin, is_apart=not strict, timeout=timeout, memory=limits.memory or memory_limit())
    check_writable(results / plan.suite.name)
    outcome = run_suite(
        plan,
        console,
        limits=limits,
        engine=engine,
        address=address,
        is_strict=strict,
        is_collecting=collect,
        prices=known,
    )
    _publish(plan, outcome, results, force)


@app.command()
def plan(
    suite: SuiteName,
    plugin: PluginModules = None,
    json_: Annotated[bool, typer.Option("--json", help="print the plan as data, for `alignbench stage`")] = False,
    export: Annotated[
        Literal["slurm", "jsonl"] | None, typer.Option(help="write plan.json and a job per missing stage")
    ] = None,
    output: Annotated[Path, typer.Option(help="folder that receives what --export writes")] = Path("jobs"),
    timeout: Annotated[float | None, typer.Option(min=0.001, help="seconds one step of a plugin's may take")] = None,
) -> None:
    """Print the stages of a suite, which of them are cached, and an estimate of the time the rest takes."""
    from alignbench.run.export import export as export_jobs
    from alignbench.run.preview import plan_table
    from alignbench.store import Store

    made = _plan(suite, plugin, is_apart=True, timeout=timeout)
    if json_:
        print(json.dumps(made.to_dict(), indent=1))
    elif export is not None:
        console.print(f"{export_jobs(made, Store(), output, export)} written", highlight=False, markup=False)
    else:
        console.print(plan_table(made, Store()))


@app.command()
def stage(
    key: Annotated[str, typer.Argument(help="the stage's key, or how it begins")],
    plan: Annotated[Path, typer.Option(help="what `alignbench plan SUITE --json` wrote")],
) -> None:
    """Compute exactly one stage of a plan from the store, or say that it is there."""
    from alignbench.run.command import compute_stage

    refuse_to_vanish()
    console.print(compute_stage(key, plan), highlight=False, markup=False)


@app.command()
def log(key: Annotated[str, typer.Argument(help="the stage's key, or how it begins")]) -> None:
    """Print what a stage printed, and the traceback it ended with."""
    from alignbench.run.logs import read_log
    from alignbench.store import Store

    for line in read_log(Store(), key).splitlines():
        print(printable(line))


@app.command()
def plugins(plugin: PluginModules = None) -> None:
    """List every method, reward source and task, where it comes from, and what failed to load, and why."""
    from alignbench.plugins import Plugin

    refuse_to_vanish()
    catalog = catalog_with(plugin)
    kinds: list[tuple[str, dict[str, Plugin[Any]]]] = [
        ("method", catalog.methods), ("source", catalog.sources), ("task", catalog.tasks)
    ]  # fmt: skip
    table = Table("kind", "name", "needs", "distribution", "version", "what it is", box=None, pad_edge=False)
    for kind, found in kinds:
        for name, entry in sorted(found.items()):
            needs = ", ".join(sorted(getattr(entry.cls, "needs", ()))) or getattr(entry.cls, "labels", "")
            cells = (kind, name, needs, entry.distribution, entry.version, entry.cls.summary)
            table.add_row(*(escape(printable(str(cell), CELL)) for cell in cells))
    console.print(table)
    for failure in catalog.failures:
        _complain(f"failed to load: {failure}")


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="methods, reward sources, or `harness`")] = None,
    plugin: PluginModules = None,
    learning: Annotated[bool, typer.Option("--learning", help="train to the optimum too; under a minute")] = False,
    list_: Annotated[bool, typer.Option("--list", help="print the checks, and the bugs each fails on")] = False,
) -> None:
    """Hold a method, a reward source or the harness against its contract. Exit code 1 if a check fails."""
    from alignbench.testing.report import list_checks, run_checks

    if list_:
        list_checks(console)
        return
    if not names:
        raise UserError(
            "nothing to check: name a method, a reward source or `harness`; `alignbench plugins` lists them"
        )
    refuse_to_vanish()
    raise typer.Exit(run_checks(names, catalog_with(plugin), "learning" if learning else "contract", console))


@app.command()
def fetch(names: Annotated[list[str] | None, typer.Argument(help="assets; default: all")] = None) -> None:
    """Fetch the model and the human ratings, verify them, keep them in the cache."""
    from alignbench.assets.fetch import fetch as fetch_assets

    for name, folder in fetch_assets(names).items():
        console.print(f"{name}: {folder}", highlight=False, markup=False)


@app.command()
def table(
    suite: Annotated[str, typer.Argument(help="name of a folder in results/")],
    results: Annotated[Path, typer.Option(help="folder that holds <suite>/")] = Path("results"),
    readme: Annotated[Path | None, typer.Option(help="put the table between this file's result markers")] = None,
) -> None:
    """Print a published table as Markdown, or put its first part, with what is decided, into a README."""
    from alignbench.report.publish import FILES
    from alignbench.report.table import inject, to_brief
    from alignbench.scoring.record import read_records

    page = results / suite / "table.md"
    if not page.is_file():
        raise UserError(f"{page}: no such table; run `alignbench run {suite}` first")
    if readme is None:
        print(page.read_text(encoding="utf-8"))
        return
    ends, along = (page.with_name(name) for name in FILES[:4:3])
    if not ends.is_file():
        raise UserError(f"{ends}: no such records, so there is nothing to tell; run `alignbench run {suite}` first")
    records = [record for file in (ends, along) if file.is_file() for record in read_records(file)]
    link = Path(os.path.relpath(page, readme.parent)).as_posix()
    inject(readme, suite, f"{to_brief(records)}\nAll of it: [{link}]({link}).")


@app.command()
def new(
    kind: Annotated[Literal["method", "reward"], typer.Argument(help="an alignment method or a reward source")],
    name: Annotated[str, typer.Argument(help="what suites will call it, such as my-method")],
    into: Annotated[Path, typer.Option(help="folder that receives NAME/")] = Path(),
) -> None:
    """Write a plugin that works: a distribution with its module, tests and README, to change into your own."""
    from alignbench.scaffold.write import new_distribution

    folder = new_distribution(kind, name, into)
    place = shlex.quote(str(folder))
    console.print(f"{place}/ written; next: cd {place} && pip install -e . && pytest", highlight=False, markup=False)


@app.command()
def version() -> None:
    """Print alignbench's version."""
    print(__version__)


def _plan(name: str, modules: list[str] | None, is_apart: bool, **limits: Any):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    from alignbench.planning.layout import make_plan
    from alignbench.plugins import NO_STEPS
    from alignbench.run.planner import plan_apart
    from alignbench.suite.spec import find_suite, load_suite

    suite = load_suite(find_suite(name))
    if modules:
        add_current_folder()  # here too: workers are told this process's path

    def make(steps: Any):  # type: ignore[no-untyped-def]  # as above
        return make_plan(suite, catalog_with(modules, steps), modules or (), steps)

    if not is_apart:
        return make(NO_STEPS)
    return replace(plan_apart(make, **limits), suite=suite)  # ours knows its file and lines


def _publish(plan: Any, outcome: Any, results: Path, force: bool) -> None:
    """Write the results, print the table, even if it may not replace a better one, and end with the run's exit code."""
    from alignbench.report import verdicts
    from alignbench.report.fitting import fitting
    from alignbench.report.notes import remarks, whole_suite
    from alignbench.report.table import to_rich, write_results
    from alignbench.run.logs import traced
    from alignbench.run.schedule import NOT_YET
    from alignbench.scoring.record import parted
    from alignbench.store import Store

    evaluation, folder, refusal = plan.suite.evaluation, results / plan.suite.name, None
    try:
        write_results(folder, outcome.records, evaluation.confidence, evaluation.bootstrap, force)
    except UserError as error:
        refusal = error
    ends, _ = parted(outcome.records)
    table = to_rich(ends, confidence=evaluation.confidence, resamples=evaluation.bootstrap)
    for part in fitting(table, console):
        console.print(part)
    console.print(
        f"{outcome.computed} stages computed, {outcome.cached} reused; "
        + ("not written" if refusal else f"written to {folder}/"),
        highlight=False, markup=False,
    )  # fmt: skip
    said = verdicts.lines(verdicts.claims(ends, evaluation.confidence), is_brief=True)
    for remark in (*said, *remarks(ends), *whole_suite(outcome.records)):
        console.print(printable(remark), highlight=False, markup=False)
    logs = traced(Store(), outcome.failures)
    for record in ends:
        if record.status == "failed":
            cause = str(record.cause)
            more = f"; `alignbench log {logs[cause][:12]}` has the traceback" if cause in logs else ""
            failed = "" if cause.startswith(NOT_YET) else " failed"
            _complain(f"{record.label} (seed {record.seed}){failed}: {cause}{more}")
    if refusal is not None:
        raise refusal
    raise typer.Exit(outcome.exit_code)


def _complain(text: str) -> None:
    with suppress(OSError):  # nobody reads it
        print(f"alignbench: {printable(text)}", file=sys.stderr)


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise Interrupted("interrupted", 128 + number)


def main() -> None:
    """Entry point: a user's or a plugin's mistake is one line and exit code 2; a bug keeps its traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as for a job in the background
            signal.signal(number, _interrupted)
    leave_current_folder()
    open_streams()
    warnings.simplefilter("ignore")  # of libraries; our own come through the filter below
    warnings.filterwarnings("default", module=r"alignbench.*")
    # The engine packs a batch into one row, with no padding to mask; transformers takes an end token there for padding.
    logging.getLogger("transformers.modeling_utils").addFilter(lambda said: "attention_mask" not in said.getMessage())
    warnings.showwarning = lambda message, *args, **kwargs: _complain(str(message))
    code: Any = 0
    try:
        code = app(prog_name="alignbench", standalone_mode=False) or 0
    except USAGE as error:
        code = 2
        if sys.argv[1:] and (said := error.format_message()) and "\n" not in said:
            command = error.ctx.command_path if error.ctx is not None else "alignbench"
            _complain(f"{said.rstrip('.')}; `{command} --help` says what is allowed")
        else:  # a command without what it needs shows its help
            error.show()
    except Interrupted as end:
        _complain(str(end))
        code = end.exit_code
    except (UserError, PluginError) as error:
        _complain(in_words(error))
        code = 2
    except SystemExit as end:
        code = end.code
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _complain("no space left on the disk; free some and run again: every finished stage is kept")
        code = 2
    for number in (signal.SIGINT, signal.SIGTERM):  # all is done: what comes now would only cost the exit code
        signal.signal(number, signal.SIG_IGN)
    problem = finish_streams()
    if problem:
        _complain(problem)
        code = code or 2
    sys.exit(code or (1 if problem == "" else 0))


if __name__ == "__main__":
    main()
