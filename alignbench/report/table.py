"""Records to tables: CSV with every number, a short Markdown table with its legend, the same for the terminal.

    write_results(Path("results/quick"), records)
    inject(Path("README.md"), "quick", to_markdown(records))

Labels and causes may hold what a model or a stranger's plugin wrote: each target has its own escape in `escape`, and
nothing reaches a file or the terminal around it. Numbers are `summary`'s, columns `columns`', claims `verdicts`', best
settings `tunings`', gold at matched KL `frontiers`', and what else stands below a table is in `notes`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from alignbench.errors import UserError
from alignbench.report import (
    at_cost,
    best_of,
    frontier_picture,
    frontiers,
    notes,
    overoptimisation,
    reward_models,
    taken_over,
    tunings,
    verdicts,
)
from alignbench.report.columns import (
    ENUMERATED_COLUMNS,
    NONE,
    WIDE,
    Column,
    columns_of,
    filled,
    is_enumerated,
    title,
)
from alignbench.report.escape import for_csv, for_markdown, one_line
from alignbench.report.publish import FILES, better_kept
from alignbench.report.publish import check_writable as check_writable  # for those who import it from here
from alignbench.report.summary import TEXT, summarise
from alignbench.scoring.glossary import GLOSSARY
from alignbench.scoring.record import Context, Record, parted, write_records
from alignbench.scoring.stats import CONFIDENCE, RESAMPLES
from alignbench.store import write_text


def to_rich(
    records: Sequence[Record],
    states: Mapping[str, str] | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Table:
    """The short table for the terminal. `states`: what each label is doing now, also where it has no record yet."""
    rows = {row["label"]: row for row in _rows(records, confidence, resamples)}
    columns = columns_of(list(rows.values()))
    table = Table()
    for heading in ("Method", *(["State"] if states else [])):
        table.add_column(heading, overflow="fold")  # a narrow terminal may cut a word in two, never drop a digit
    for column in columns:
        table.add_column(column.heading, justify="right", overflow="fold")
    for label in dict.fromkeys((*(states or {}), *rows)):
        row = rows.get(label)
        state = [states.get(label, NONE)] if states else []
        cells = [_folded(column.cell(row)) if row else NONE for column in columns]
        texts = [one_line(text) for text in (title(row) if row else label, *state)]
        table.add_row(*(Text(cell) for cell in (*texts, *cells)))  # Text reads no markup, a plain string would
    return table


def _folded(cell: str) -> str:
    return cell.replace(" [", "\n[").replace(" (", "\n(")


def _rows(records: Sequence[Record], confidence: float, resamples: int) -> list[dict[str, Any]]:
    return [dict(row) for row in summarise(records, confidence, resamples).to_dict("records")]


# --------------------------------------------------------------------------------------------------------- documents


def to_csv(records: Sequence[Record], confidence: float = CONFIDENCE, resamples: int = RESAMPLES) -> str:
    """All of `summarise`, unrounded; what does not exist is an empty cell."""
    frame = summarise(records, confidence, resamples)
    return frame.assign(**{name: frame[name].map(for_csv) for name in TEXT}).to_csv(index=False, lineterminator="\n")


def to_markdown(records: Sequence[Record], confidence: float = CONFIDENCE, resamples: int = RESAMPLES) -> str:
    """The short table, what may be said of its rows, gold at matched KL and cost if rows were swept or snapshots of
    theirs are among `records`, all scores, texts and costs, and what a reader needs to judge them."""
    ends, _ = parted(records)
    rows = _rows(ends, confidence, resamples)
    traced = frontiers.frontiers(records, confidence)
    short = columns_of(rows)
    wide = () if is_enumerated(rows) else [(heading, filled(columns, rows)) for heading, columns in WIDE]
    said = verdicts.claims(ends, confidence)
    bound = any(not pd.isna(row["kl_nats_bound"]) for row in rows)
    table = _table(rows, short)
    lines = [*table, ""]
    if any(NONE in line for line in table):
        lines += [f"{NONE} There is no such value: every seed failed, or the quantity does not apply to the row.", ""]
    by_second = verdicts.agreement(said, verdicts.by_the_second_gold(ends, confidence))
    lines += _part("Verdicts", [for_markdown(line) for line in (*verdicts.lines(said, confidence), *by_second)])
    lines += _part("Spread of the gain, SD", [for_markdown(line) for line in verdicts.spread(ends)])
    lines += tunings.section(tuned, confidence) if (tuned := tunings.tunings(records, confidence)) else []
    lines += frontiers.section(traced, confidence) if traced else []
    lines += at_cost.section(records, confidence)
    lines += overoptimisation.section(records, confidence)
    lines += best_of.section(ends)
    lines += taken_over.section(ends, confidence)
    lines += _part("Failed", notes.failures(ends))
    remarks = (*reward_models.warnings(ends), *notes.remarks(ends))
    lines += _part("Notes", [for_markdown(remark) for remark in remarks])
    lines += _part("Context", [*notes.context(ends), *map(for_markdown, notes.whole_suite(records))])
    for heading, columns in wide:
        lines += [f"{heading}:", "", *_table(rows, columns), ""] if columns else []
    shown = (*short, *(column for _, columns in wide for column in columns))
    legend = _legend(shown, confidence, bound, replicates=_replicates(rows))
    return "\n".join([*lines, "Legend:", "", *(f"- {item}" for item in legend), ""])


def to_brief(records: Sequence[Record]) -> str:
    """For a README: the short table with what is decided of its rows, or of their best settings if they were swept. The
    level of intervals and claims is what the first record's suite asked for."""
    ends, _ = parted(records)
    asked = ends[0].context if ends else Context()
    confidence, resamples = asked.confidence or CONFIDENCE, asked.bootstrap or RESAMPLES
    rows = _rows(ends, confidence, resamples)
    said = verdicts.claims(ends, confidence)
    tuned = tunings.tunings(records, confidence)
    lines = [*_table(rows, columns_of(rows)), ""]
    if tuned and tuned.said.verdicts:
        lines += tunings.section(tuned, confidence, is_brief=True)
    else:
        lines += _part("Verdicts", [for_markdown(line) for line in verdicts.lines(said, confidence, is_brief=True)])
    lines += _part("Failed", notes.failures(ends))
    return "\n".join(lines)


def _part(heading: str, items: Sequence[str]) -> list[str]:
    return [f"{heading}:", "", *(f"- {item}" for item in items), ""] if items else []


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> list[str]:
    return [
        _table_line("Method", *(column.heading for column in columns)),
        _table_line("---", *("---:" for _ in columns)),
        *(_table_line(for_markdown(title(row)), *(column.cell(row) for column in columns)) for row in rows),
    ]


def _table_line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _replicates(rows: Sequence[Mapping[str, Any]]) -> int:
    return max((len(row["seeds"].split()) for row in rows), default=0)


def _legend(columns: Sequence[Column], confidence: float, has_bound: bool, replicates: int) -> list[str]:
    names = dict.fromkeys(name for column in columns for name in column.names if has_bound or name != "kl_nats_bound")
    bound = (
        "&lt;= x: a decoding rule's bound, beside the KL of the policy it samples from unless that is the reference."
    )
    directions = {"higher": ", higher is better", "lower": ", lower is better", "neither": ""}
    over = (
        "over other replicates and other prompts; for RM accuracy over replicates or Wilson's, whichever is wider"
        if replicates >= verdicts.FEWEST_REPLICATES
        else "over prompts, of this run alone (percentile bootstrap); Wilson's for RM accuracy"
    )
    return [
        f"[low, high]: {100 * confidence:g} % interval {over}.",
        "marginal: the row's own stages; total: with every stage they rest on. Tokens, labels and the short table's "
        "costs are totals. Mean over replicates, memory their maximum.",
        *([bound] if has_bound else []),
        *(
            ["(low to high): the smallest and the largest of the replicates."]
            if ENUMERATED_COLUMNS[0] in columns else []
        ),
        *(f"**{m.heading}** ({m.unit}{directions[m.direction]}): {for_markdown(m.definition)}"
          for m in (GLOSSARY[name] for name in names)),
    ]  # fmt: skip


def write_results(
    folder: Path,
    records: Sequence[Record],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    force: bool = False,
) -> None:
    """records.jsonl, table.csv, table.md and, if there is any such thing, snapshots.jsonl, verdicts.csv, frontier.csv
    and frontier.svg, each whole or not at all. Unless by `force`, they do not replace a table with fewer failures:
    UserError. A picture that cannot be drawn for want of its libraries is a warning."""
    ends, along = parted(records)
    problem = None if force else better_kept(folder, ends)
    if problem:
        raise UserError(problem)
    texts = {
        FILES[1]: to_csv(ends, confidence, resamples),
        FILES[2]: to_markdown(records, confidence, resamples),
        **_extras(ends, records, confidence),
    }
    try:
        write_records(folder / FILES[0], ends)
        for name, text in texts.items():
            write_text(folder / name, text)
        if along:
            write_records(folder / FILES[3], along)
        for name in FILES[3 if not along else 4 :]:
            if name not in texts:
                (folder / name).unlink(missing_ok=True)  # of an earlier run
    except OSError as error:
        problem = f"{folder} cannot be written ({error.strerror}); mend that and run again: every stage is kept"
        raise UserError(problem) from None


def _extras(ends: Sequence[Record], records: Sequence[Record], confidence: float) -> dict[str, str]:
    """By file, what only some results have."""
    said, traced = verdicts.claims(ends, confidence), frontiers.frontiers(records, confidence)
    tuned = tunings.tunings(records, confidence)
    more = [verdicts.by_the_second_gold(ends, confidence), *(part.said for part in (tuned, traced) if part)]
    found = {FILES[4]: verdicts.to_csv(said, *more)} if any(each.verdicts for each in (said, *more)) else {}
    if traced is None:
        return found
    found[FILES[5]] = frontiers.to_csv(traced, confidence)
    if frontier_picture.can_draw():
        found[FILES[6]] = frontier_picture.to_svg(records)
    else:
        warnings.warn(f"{FILES[6]} is not written: it needs {frontier_picture.INSTALL}", stacklevel=2)
    return found


def inject(readme: Path, name: str, markdown: str) -> None:
    """Replace what stands between `<!-- results:NAME -->` and `<!-- /results:NAME -->`."""
    begin, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
    try:
        text = readme.read_bytes().decode()  # read_text would turn the line ends of the whole file
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{readme} cannot be read as UTF-8 text: {error}") from None
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if text.count(begin) != 1 or text.count(end) != 1 or end not in rest:
        raise UserError(f"{readme} needs one line '{begin}' and, below it, one line '{end}'")
    write_text(readme, f"{before}{begin}\n\n{markdown.strip()}\n\n{end}{after}")
