"""`alignbench agreement`: how far raters agree, and what each way of aggregating their votes is worth."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alignbench.errors import UserError, blamed, printable
from alignbench.plugin_option import PluginModules, catalog_with
from alignbench.terminal import new_console, refuse_to_vanish, stdout_kept_for_data

if TYPE_CHECKING:
    from alignbench.api import RatedText
    from alignbench.scoring.rated_texts import DomainAgreement

RATERS = (1, 3, 5)


def agreement(
    subject: Annotated[
        str, typer.Argument(help="a task with single ratings, such as sentiment, or a file of votes, .csv or .jsonl")
    ],
    level: Annotated[
        Literal["nominal", "ordinal", "interval"] | None,
        typer.Option(help="what a file's labels are; default: nominal"),
    ] = None,
    raters: Annotated[
        list[int] | None, typer.Option(min=1, max=1000, help="votes a pair of a task; default: 1, 3 and 5")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="write a file's aggregated labels here, as CSV")] = None,
    seed: Annotated[int, typer.Option(min=0, help="draws resamples, pairs and which ratings vote")] = 0,
    plugin: PluginModules = None,
    json_: Annotated[bool, typer.Option("--json", help="print everything as data")] = False,
) -> None:
    """Say how far raters agree, and what majority, Dawid-Skene, Bradley-Terry and Elo make of their votes."""
    refuse_to_vanish()
    path = Path(subject)
    if path.suffix or os.sep in subject or (os.path.lexists(subject) and subject not in catalog_with(plugin).tasks):
        _refuse("a file", ("--raters", raters), ("--plugin", plugin))
        _of_file(path, level or "nominal", output, seed, json_)
    else:
        _refuse("a task", ("--level", level), ("--output", output))
        with stdout_kept_for_data() if json_ else nullcontext():
            found = _of_task(subject, tuple(sorted(set(raters or RATERS))), seed, plugin)
        _print_task(found, max(raters or RATERS), json_)


def _of_task(name: str, raters: tuple[int, ...], seed: int, plugin: list[str] | None) -> list[DomainAgreement]:
    from alignbench.api import Task
    from alignbench.feedback.aggregate import require_libraries
    from alignbench.scoring.rated_texts import domain_agreement

    task = catalog_with(plugin).task(name)
    domains: Mapping[str, Sequence[RatedText]] = {}
    if task.cls.single_ratings is not Task.single_ratings:
        with blamed(name, task.distribution, "single_ratings()"):
            domains = task.cls(task.cls.Config()).single_ratings()
    if not domains:
        raise UserError(
            f"task '{name}' has no single ratings; name one that has, such as sentiment, or a file of votes"
        )
    require_libraries()
    with blamed(name, task.distribution, "reading its single_ratings()"):
        return [domain_agreement(domain, texts, raters, seed) for domain, texts in domains.items()]


def _print_task(found: Sequence[DomainAgreement], most: int, is_json: bool) -> None:
    from alignbench.report.agreement import domain_notes, domain_tables, to_data

    if is_json:
        print(json.dumps(to_data(found), indent=1))
        return
    console = new_console()
    for table in domain_tables(found):
        console.print(table)
    for note in domain_notes(found, most):
        console.print(note, highlight=False, markup=False)


def _of_file(
    path: Path, level: Literal["nominal", "ordinal", "interval"], output: Path | None, seed: int, is_json: bool
) -> None:
    from alignbench.feedback.aggregate import require_libraries
    from alignbench.feedback.votes import read_votes
    from alignbench.report.agreement import (
        labels_csv,
        player_notes,
        player_table,
        rater_table,
        summary_data,
        summary_notes,
    )
    from alignbench.scoring.vote_summary import summarise

    if output is not None and _is_same(output, path):
        raise UserError(f"--output {printable(str(output), 400)}: would replace the votes; name another file")
    votes = read_votes(path, level)
    if votes.comparisons is not None:
        require_libraries()
    found = summarise(votes, level, seed)
    if output is not None:
        _write(output, labels_csv(votes, found))
    if is_json:
        print(json.dumps(summary_data(votes, found, level), indent=1))
        return
    console = new_console()
    for note in summary_notes(votes, found, level):
        console.print(note, highlight=False, markup=False)
    console.print(rater_table(found))
    if votes.comparisons is not None:
        console.print(player_table(found))
        for note in player_notes(found):
            console.print(note, highlight=False, markup=False)
    if output is not None:
        console.print(f"{printable(str(output), 400)} written; a tie is an empty cell", highlight=False, markup=False)


def _write(output: Path, text: str) -> None:
    """Whole, or what was there stays. A link stays a link, and what is no file, such as a pipe, is written to."""
    from alignbench.store import write_text

    try:
        if output.exists() and not output.is_file():
            output.write_text(text, encoding="utf-8")
        else:
            write_text(output.resolve(), text)
    except OSError as error:
        where = printable(str(output), 400)
        raise UserError(f"--output {where}: cannot be written ({error.strerror}); name another file") from None


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there, or cannot be
        return False


def _refuse(subject: str, *options: tuple[str, object]) -> None:
    for option, value in options:
        if value is not None:
            raise UserError(f"{option} means nothing for {subject}; leave it out")
