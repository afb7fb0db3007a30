"""Records to tables: CSV with every number, a short Markdown table with its legend, the same for the terminal.

    write_results(Path("results/quick"), records)
    inject(Path("README.md"), "quick", to_markdown(records))

Labels and causes may hold what a model or a stranger's plugin wrote: each target has its own escape in `escape`, and
nothing reaches a file or the terminal around it. What stands below a table is in `notes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.table import Table
from rich.text import Text

from alignbench.errors import UserError
from alignbench.report import notes
from alignbench.report.escape import for_csv, for_markdown, one_line
from alignbench.report.publish import FILES, better_kept
from alignbench.report.publish import check_writable as check_writable  # for those who import it from here
from alignbench.scoring.glossary import GLOSSARY, kl_in_words
from alignbench.scoring.record import COUNTS, ENUMERATED, METRICS, PER_PROMPT, Ledger, Record, parted, write_records
from alignbench.scoring.stats import CONFIDENCE, RESAMPLES, interval_of_mean, wilson
from alignbench.store import write_text

NONE = "–"  # noqa: RUF001
TEXT = ("label", "method", "distribution", "version", "knob", "proxy", "seeds")
LEDGER = tuple(Ledger.model_fields)
GIB = 2**30

# ---------------------------------------------------------------------------------------------------------- numbers


def summarise(records: Sequence[Record], confidence: float = CONFIDENCE, resamples: int = RESAMPLES) -> pd.DataFrame:
    """One row per label in first-seen order: means over the seeds that ended well, with `_low` and `_high` where there
    is an interval; costs as `_marginal` and `_total`; what was enumerated, if anything was, with the `_min` and `_max`
    of its seeds. What does not exist is NaN."""
    names = ENUMERATED if any(set(ENUMERATED) & set(record.metrics) for record in records) else ()
    rows = [_summary(label, group, confidence, resamples, names) for label, group in _by_label(records).items()]
    columns = list(rows[0] if rows else _summary("", [], confidence, resamples, names))
    frame = pd.DataFrame(rows, columns=columns, dtype=object)  # hostile text may not fit pandas' own text type
    return frame.astype({name: int if name == "seeds_failed" else float for name in columns if name not in TEXT})


def _by_label(records: Iterable[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        group = groups.setdefault(record.label, [])
        if twin := next((other for other in group if other.seed == record.seed), None):
            suites = " and ".join(dict.fromkeys((twin.suite, record.suite)))
            raise UserError(f"'{record.label}' seed {record.seed} is there twice (suite {suites}); keep one of them")
        group.append(record)
    return groups


def _summary(
    label: str, group: Sequence[Record], confidence: float, resamples: int, enumerated: Sequence[str]
) -> dict[str, Any]:
    done = [record for record in group if record.status == "ok"]
    first = group[0].model_dump(include={"method", "distribution", "version"}) if group else {}
    knob = group[0].knob if group else None
    row: dict[str, Any] = {"label": label} | {
        name: first.get(name, "") for name in ("method", "distribution", "version")
    }
    row |= {"knob": knob.name if knob else "", "knob_value": knob.value if knob else None}
    row["proxy"] = next((record.proxy for record in done if record.proxy), "")
    row["seeds"] = " ".join(str(record.seed) for record in done)
    row["seeds_failed"] = len(group) - len(done)
    for name in dict.fromkeys((*METRICS, *PER_PROMPT)):
        row[name] = _mean(record.metrics.get(name) for record in done)
        if name in PER_PROMPT:
            row |= _prompt_interval(name, row[name], done, confidence, resamples)
        elif name in COUNTS:
            row |= _count_interval(name, row[name], done, confidence)
    for name in enumerated:
        values = [record.metrics.get(name) for record in done]
        row |= {name: _mean(values), f"{name}_min": _min(values), f"{name}_max": _max(values)}
    for name in LEDGER:
        for scope in ("marginal", "total"):
            spent = [getattr(getattr(record.cost, scope), name) for record in done]
            row[f"{name}_{scope}"] = _max(spent) if name == "peak_bytes" else _mean(spent)
    return row


def _prompt_interval(
    name: str, mean: float | None, done: Sequence[Record], confidence: float, resamples: int
) -> dict[str, Any]:
    values = [record.per_prompt[name] for record in done if record.per_prompt.get(name)]
    if len({len(prompts) for prompts in values}) > 1:
        raise UserError(f"the seeds of '{done[0].label}' were scored on different numbers of prompts; run them again")
    if not values or len(values[0]) < 2:
        return _with_ends(name, _mean(prompts[0] for prompts in values) if values else mean)
    return _with_ends(name, *interval_of_mean(values, confidence, resamples))


def _count_interval(name: str, mean: float | None, done: Sequence[Record], confidence: float) -> dict[str, Any]:
    """Every seed judges the same held-out pairs, so seeds are averaged and do not add to the number of trials. Wilson's
    interval takes whole hits; the share itself keeps its halves."""
    counts = [record.counts[name] for record in done if record.counts.get(name, (0, 0))[1]]
    if not counts:
        return _with_ends(name, mean)
    share = sum(hits / n for hits, n in counts) / len(counts)
    fewest = min(n for _, n in counts)
    return _with_ends(name, share, *wilson(round(share * fewest), fewest, confidence)[1:])


def _with_ends(name: str, mean: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def _min(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _max(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


# ------------------------------------------------------------------------------------------------------ short table

Row = Mapping[str, Any]  # a row of `summarise`


class _Column(NamedTuple):
    heading: str
    names: tuple[str, ...]  # of the glossary
    cell: Callable[[Row], str]


def _spread(name: str, sign: str = "") -> _Column:
    """`1.23 [1.05, 1.40]`; 'z' prints no minus before a zero."""
    return _Column(GLOSSARY[name].heading, (name,), lambda row: _with_interval(row, name, sign))


def _with_interval(row: Row, name: str, sign: str = "") -> str:
    ends = "" if pd.isna(row[f"{name}_low"]) else f" [{row[f'{name}_low']:z.2f}, {row[f'{name}_high']:z.2f}]"
    return NONE if pd.isna(row[name]) else f"{row[name]:{sign}z.2f}{ends}"


def _range(name: str, sign: str = "") -> _Column:
    """`0.0064 (0.0051 to 0.0082)`: no interval, for what was enumerated has no sampling error, but the seeds' range."""

    def cell(row: Row) -> str:
        ends = f" ({row[f'{name}_min']:z.4f} to {row[f'{name}_max']:z.4f})" if len(row["seeds"].split()) > 1 else ""
        return NONE if pd.isna(row[name]) else f"{row[name]:{sign}z.4f}{ends}"

    return _Column(GLOSSARY[name].heading, (name,), cell)


def _kl(row: Row) -> str:
    own, bound = (None if pd.isna(row[name]) else row[name] for name in ("kl_nats_exact", "kl_nats_bound"))
    return kl_in_words(own, bound, _with_interval(row, "kl_nats_exact"))


def _joined(*names: str, shown: Callable[[float], str]) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        parts = [NONE if pd.isna(row[name]) else shown(row[name]) for name in names]
        return NONE if set(parts) == {NONE} else " / ".join(parts)

    return cell


def _compact(count: float) -> str:
    """812, 12.3k, 1.2M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{suffix}"
    return f"{count:.0f}"


COLUMNS = (
    _spread("reward_gold", "+"),
    _spread("reward_gold_gain", "+"),
    _spread("win_rate_gold"),
    _Column(GLOSSARY["kl_nats_exact"].heading, ("kl_nats_exact", "kl_nats_bound"), _kl),
    _spread("reward_proxy", "+"),
    _spread("reward_model_accuracy"),
    _Column(
        "Seconds (marginal / total)", ("seconds",), _joined("seconds_marginal", "seconds_total", shown="{:,.1f}".format)
    ),
    _Column(
        "Peak GiB (marginal / total)",
        ("peak_bytes",),
        _joined("peak_bytes_marginal", "peak_bytes_total", shown=lambda size: f"{size / GIB:.2f}"),
    ),
    _Column(
        "Tokens (generated / trained / judged)",
        ("tokens_generated", "tokens_trained", "tokens_judged"),
        _joined("tokens_generated_total", "tokens_trained_total", "tokens_judged_total", shown=_compact),
    ),
    _Column(GLOSSARY["labels_human"].heading, ("labels_human",), _joined("labels_human_total", shown="{:,.0f}".format)),
    _Column(GLOSSARY["labels_ai"].heading, ("labels_ai",), _joined("labels_ai_total", shown="{:,.0f}".format)),
)


# In place of those above where the task lists every completion: the distance to the optimum, and each enumerated value
# beside the sampled one that estimates it elsewhere.
ENUMERATED_COLUMNS = (
    _range("optimum_tv"),
    _range("optimum_kl_nats"),
    _range("objective_share"),
    _range("reward_gold_enumerated", "+"),
    COLUMNS[0],
    _range("kl_nats_enumerated"),
    COLUMNS[3],
    *COLUMNS[5:7],
)


def _columns(rows: Sequence[Row]) -> tuple[_Column, ...]:
    return ENUMERATED_COLUMNS if rows and ENUMERATED[0] in rows[0] else COLUMNS


def _title(row: Row) -> str:
    knob = f" ({row['knob']}={row['knob_value']:g})" if row["knob"] and f"{row['knob']}=" not in row["label"] else ""
    done = len(row["seeds"].split())
    return row["label"] + knob + (f" ({done} of {done + row['seeds_failed']} seeds)" if row["seeds_failed"] else "")


def to_rich(
    records: Sequence[Record],
    states: Mapping[str, str] | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Table:
    """The short table for the terminal. `states`: what each label is doing now, also where it has no record yet."""
    rows = {row["label"]: row for row in _rows(records, confidence, resamples)}
    columns = _columns(list(rows.values()))
    table = Table()
    for heading in ("Method", *(["State"] if states else [])):
        table.add_column(heading, overflow="fold")  # a narrow terminal may cut a word in two, never drop a digit
    for column in columns:
        table.add_column(column.heading, justify="right", overflow="fold")
    for label in dict.fromkeys((*(states or {}), *rows)):
        row = rows.get(label)
        state = [states.get(label, NONE)] if states else []
        cells = [_folded(column.cell(row)) if row else NONE for column in columns]
        texts = [one_line(text) for text in (_title(row) if row else label, *state)]
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
    """The short table, and below it what a reader needs to judge it."""
    rows = _rows(records, confidence, resamples)
    columns = _columns(rows)
    lines = [
        _table_line("Method", *(column.heading for column in columns)),
        _table_line("---", *("---:" for _ in columns)),
        *(_table_line(for_markdown(_title(row)), *(column.cell(row) for column in columns)) for row in rows),
        "",
    ]
    if any(NONE in line for line in lines):
        lines += [f"{NONE} There is no such value: every seed failed, or the quantity does not apply to the row.", ""]
    parts = [
        ("Failed", notes.failures(records)),
        ("Notes", [for_markdown(remark) for remark in notes.remarks(records)]),
        ("Context", notes.context(records)),
        ("Legend", _legend(columns, confidence, any(not pd.isna(row["kl_nats_bound"]) for row in rows))),
    ]
    for heading, items in parts:
        lines += [f"{heading}:", "", *(f"- {item}" for item in items), ""] if items else []
    return "\n".join(lines)


def _table_line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _legend(columns: Sequence[_Column], confidence: float, has_bound: bool) -> list[str]:
    names = dict.fromkeys(name for column in columns for name in column.names if has_bound or name != "kl_nats_bound")
    bound = (
        "&lt;= x: a decoding rule's bound, beside the KL of the policy it samples from unless that is the reference."
    )
    directions = {"higher": ", higher is better", "lower": ", lower is better", "neither": ""}
    metrics = (GLOSSARY[name] for name in names)
    return [
        f"[low, high]: {100 * confidence:g} % interval; Wilson's for RM accuracy, else a percentile bootstrap over "
        "prompts of each prompt's mean over seeds.",
        "marginal: the row's own stages; total: with every stage they rest on. Tokens and labels are totals. "
        "Mean over seeds, memory their maximum.",
        *([bound] if has_bound else []),
        *(["(low to high): the smallest and the largest of the seeds."] if columns is ENUMERATED_COLUMNS else []),
        *(f"**{m.heading}** ({m.unit}{directions[m.direction]}): {for_markdown(m.definition)}" for m in metrics),
    ]


def write_results(
    folder: Path,
    records: Sequence[Record],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    force: bool = False,
) -> None:
    """records.jsonl, table.csv, table.md and, if there are any, snapshots.jsonl, each whole or not at all. Unless by
    `force`, they do not replace a table with fewer failures: UserError."""
    ends, along = parted(records)
    problem = None if force else better_kept(folder, ends)
    if problem:
        raise UserError(problem)
    csv, markdown = to_csv(ends, confidence, resamples), to_markdown(ends, confidence, resamples)
    try:
        write_records(folder / FILES[0], ends)
        write_text(folder / FILES[1], csv)
        write_text(folder / FILES[2], markdown)
        if along:
            write_records(folder / FILES[3], along)
        else:
            (folder / FILES[3]).unlink(missing_ok=True)  # of an earlier run
    except OSError as error:
        problem = f"{folder} cannot be written ({error.strerror}); mend that and run again: every stage is kept"
        raise UserError(problem) from None


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
