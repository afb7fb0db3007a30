"""`alignbench audit`: a blinded sheet of a suite's completions for people, and their answers beside the gold."""

from __future__ import annotations

import errno
import hashlib
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from alignbench.errors import UserError, printable
from alignbench.plugin_option import PluginModules, catalog_with
from alignbench.terminal import new_console, refuse_to_vanish

PAIRS = 40
DRAWN = ".drawn"  # folder of a sheet and key that are not in place yet


def audit(
    suite: Annotated[str, typer.Argument(help="a suite file, or the name of one in benchmarks/, that was run")],
    out: Annotated[Path, typer.Option(help="folder that receives the sheet and its key, and later the votes")],
    pairs: Annotated[int | None, typer.Option(min=1, max=10_000, help="questions; default: 40")] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(help="only these, the others against the first; default: all against the supervised start"),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="draws pairs and sides; default: 0")] = None,
    plugin: PluginModules = None,
    force: Annotated[bool, typer.Option("--force", help="replace a sheet and the key to its answers")] = False,
    read: Annotated[
        list[Path] | None, typer.Option(help="answers to the sheet in --out; may be repeated, once a rater")
    ] = None,
) -> None:
    """Write pairs of completions for people to judge blind, or with --read take their answers back as votes."""
    if not read:
        _draw(suite, out, pairs or PAIRS, rows, seed or 0, plugin, force)
        return
    drawing = {"--pairs": pairs, "--rows": rows, "--seed": seed, "--plugin": plugin, "--force": force or None}
    for option, value in drawing.items():
        if value is not None:
            raise UserError(f"{option} draws a sheet; leave it out with --read")
    _read(suite, out, read)


def _draw(
    name: str, out: Path, count: int, rows: list[str] | None, seed: int, modules: list[str] | None, force: bool
) -> None:
    from alignbench.planning.layout import make_plan
    from alignbench.report.audit_results import drawn_notes, gold_of_rows
    from alignbench.report.audit_sheet import CSV, GUIDELINES, PAGE, to_csv, to_guidelines, to_html
    from alignbench.run.answers import chosen, finished
    from alignbench.scoring.audit import KEY, Key, draw
    from alignbench.store import Store
    from alignbench.suite.spec import find_suite, load_suite

    _refuse_to_replace(out, KEY, (CSV, PAGE, GUIDELINES), force)
    refuse_to_vanish()
    plan = make_plan(load_suite(find_suite(name)), catalog_with(modules), modules or ())
    found = finished(plan, Store())
    against, answers = chosen(found, rows)
    drawn = draw(answers, against, count, seed)
    page = to_html(drawn.questions, drawn.sheet, plan.task.rubric)
    gold = gold_of_rows(found.records, plan.suite.evaluation.confidence, plan.suite.evaluation.bootstrap)
    key = Key(
        suite=plan.suite.name, seed=seed, against=against, sheet=drawn.sheet,
        page=hashlib.sha256(page.encode()).hexdigest(),
        rows={one: gold[one] for one in dict.fromkeys(each.label for each in answers) if one in gold},
        equal=drawn.equal, shown=drawn.shown, pairs=tuple(drawn.pairs),
    )  # fmt: skip
    with _writing(out):
        sheets = {CSV: to_csv(drawn.questions), GUIDELINES: to_guidelines(plan.task.rubric), PAGE: page}
        texts = {**sheets, KEY: f"{key.model_dump_json(indent=1)}\n"}
        _replace(out, texts, KEY)
    for note in drawn_notes(key, count, found.left_out):
        _say(note)
    folder = shlex.quote(str(out))
    _say(f"{folder}/ written: give people {PAGE}, or {CSV} with {GUIDELINES}, and keep {KEY} from them")
    _say(f"next: alignbench audit {shlex.quote(name)} --out {folder} --read answers.csv")


def _refuse_to_replace(out: Path, key: str, sheets: tuple[str, ...], force: bool) -> None:
    from alignbench.report.audit_results import VOTES

    if (out / VOTES).exists():
        problem = "it has what people answered to a sheet, whose key would be lost; move it away"
        raise UserError(f"{out / VOTES} is there: {problem}, or name another --out")
    is_cut_off = (out / DRAWN).exists() and not (out / key).exists()  # nobody can have that sheet's answers read
    there = next((out / name for name in (key, *sheets) if (out / name).exists()), None)
    if there is not None and not (force or is_cut_off):
        raise UserError(f"{there} is there, and people may be answering it; name another --out, or add --force")


def _replace(out: Path, texts: Mapping[str, str], key: str) -> None:
    """Put the sheet and its key in place of older ones, which stay if the new ones cannot be written. The old key goes
    before anything else changes and the new one comes last, so that a key is always that of the sheet beside it."""
    from alignbench.store import write_text

    drawn = out / DRAWN
    shutil.rmtree(drawn, ignore_errors=True)
    try:
        for name, text in texts.items():
            write_text(drawn / name, text)
            if (out / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{name} is a folder")
    except BaseException:
        shutil.rmtree(drawn, ignore_errors=True)
        raise
    (out / key).unlink(missing_ok=True)
    for name in (*(name for name in texts if name != key), key):
        (drawn / name).replace(out / name)
    drawn.rmdir()


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); mend that, or name another --out") from None


def _read(name: str, out: Path, files: list[Path]) -> None:
    from alignbench.report.audit_results import VOTES, notes, table, votes_csv
    from alignbench.report.audit_sheet import PAGE
    from alignbench.scoring.audit import KEY, read_key
    from alignbench.scoring.audit_votes import read_answers, tallies
    from alignbench.store import write_text
    from alignbench.suite.spec import find_suite, load_suite

    key = read_key(out)
    suite = load_suite(find_suite(name)).name
    if suite != key.suite:
        raise UserError(f"{out / KEY} is of suite '{printable(key.suite, 100)}', not '{suite}'; name that suite")
    _check_page(out / PAGE, key)
    votes = out / VOTES
    if any(file.resolve() == votes.resolve() for file in files):
        raise UserError(f"--read {printable(str(votes), 400)}: it is what --read writes; name the answers")
    read = read_answers(files, key)
    with _writing(out):
        write_text(votes, votes_csv(read.votes, key))
    console = new_console()
    console.print(table(tallies(read.votes, key), key))
    for note in notes(read, key):
        _say(note)
    _say(f"{shlex.quote(str(votes))} written; `alignbench agreement` reads it")


def _check_page(page: Path, key: Any) -> None:
    """A page that is not the key's has asked something else."""
    if page.is_file() and hashlib.sha256(page.read_bytes()).hexdigest() != key.page:
        raise UserError(f"{page} is not the page that the key beside it is of; restore it, or draw another sheet")


def _say(text: str) -> None:
    new_console().print(printable(text), highlight=False, markup=False)
