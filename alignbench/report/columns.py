"""The columns of the tables that people read: five for the short one, the rest below it, others for the oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from alignbench.scoring.glossary import GLOSSARY, kl_in_words
from alignbench.scoring.record import ENUMERATED

NONE = "–"  # noqa: RUF001
GIB = 2**30

Row = Mapping[str, Any]  # a row of `summary.summarise`


class Column(NamedTuple):
    heading: str
    names: tuple[str, ...]  # of the glossary
    cell: Callable[[Row], str]


def _spread(name: str, sign: str = "") -> Column:
    """`1.23 [1.05, 1.40]`; 'z' prints no minus before a zero."""
    return Column(GLOSSARY[name].heading, (name,), lambda row: _with_interval(row, name, sign))


def _with_interval(row: Row, name: str, sign: str = "") -> str:
    ends = "" if pd.isna(row[f"{name}_low"]) else f" [{row[f'{name}_low']:z.2f}, {row[f'{name}_high']:z.2f}]"
    return NONE if pd.isna(row[name]) else f"{row[name]:{sign}z.2f}{ends}"


def _range(name: str, sign: str = "") -> Column:
    """`0.0064 (0.0051 to 0.0082)`: no interval, for what was enumerated has no sampling error, but the seeds' range."""

    def cell(row: Row) -> str:
        ends = f" ({row[f'{name}_min']:z.4f} to {row[f'{name}_max']:z.4f})" if len(row["seeds"].split()) > 1 else ""
        return NONE if pd.isna(row[name]) else f"{row[name]:{sign}z.4f}{ends}"

    return Column(GLOSSARY[name].heading, (name,), cell)


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


def _plain(name: str, shown: Callable[[float], str] = "{:z.2f}".format, heading: str = "") -> Column:
    return Column(heading or GLOSSARY[name].heading, (name,), _joined(name, shown=shown))


def _cost(heading: str, *names: str, scopes: Sequence[str] = ("total",), shown: Callable[[float], str]) -> Column:
    return Column(heading, names, _joined(*(f"{name}_{scope}" for name in names for scope in scopes), shown=shown))


BOTH = ("marginal", "total")
GOLD, GAIN = _spread("reward_gold", "+"), _spread("reward_gold_gain", "+")
KL = Column(GLOSSARY["kl_nats_exact"].heading, ("kl_nats_exact", "kl_nats_bound"), _kl)
ACCURACY = _spread("reward_model_accuracy")
SECONDS = _cost("Seconds (marginal / total)", "seconds", scopes=BOTH, shown="{:,.1f}".format)
PROXY = (_spread("reward_proxy", "+"), _spread("reward_proxy_gain", "+"))
SCORES = (GOLD, GAIN, _spread("win_rate_gold"), KL, *PROXY, ACCURACY)
REWARDS = (
    Column(
        "Pairs / steps of the fit",
        ("fitted_pairs", "reward_model_steps"),
        _joined("fitted_pairs", "reward_model_steps", shown="{:,.0f}".format),
    ),
    _spread("reward_model_train_accuracy"),
    _spread("reward_model_start_accuracy"),
    _spread("reward_model_own_accuracy"),
    _spread("reward_model_best_of", "+"),
    _plain("reward_model_ece", "{:.3f}".format),
    _plain("reward_model_overconfidence", "{:+.3f}".format),
    _plain("reward_model_brier", "{:.3f}".format),
    _plain("reward_model_length", "{:+z.2f}".format),
    _plain("reward_model_cut", "{:.0%}".format),
    _spread("reward_model_accuracy_other"),
)
TEXTS = (
    _spread("reward_gold_second_gain", "+"),
    _plain("gold_extrapolates", "{:.1%}".format),
    _plain("forgetting_nats", "{:+z.2f}".format),
    _plain("surprise_nats", "{:+z.2f}".format),
    _plain("completion_tokens", "{:.1f}".format),
    _plain("eos_rate", "{:.0%}".format),
    _plain("distinct_2"),
)
COSTS = (
    SECONDS,
    _cost("CPU seconds (marginal / total)", "cpu_seconds", scopes=BOTH, shown="{:,.0f}".format),
    _cost("TFLOPs (marginal / total)", "flops", scopes=BOTH, shown=lambda count: f"{count / 1e12:,.3g}"),
    _cost("Peak GiB (marginal / total)", "peak_bytes", scopes=BOTH, shown=lambda size: f"{size / GIB:.2f}"),
    _cost(
        "Tokens (generated / trained / judged)", "tokens_generated", "tokens_trained", "tokens_judged", shown=_compact
    ),
    _cost("Labels (human / AI)", "labels_human", "labels_ai", shown="{:,.0f}".format),
    _cost("Dollars (marginal / total)", "dollars", scopes=BOTH, shown="{:,.4f}".format),
    Column(
        "A completion's tokens (sampled / judged)",
        ("deploy_tokens_generated", "deploy_tokens_judged"),
        _joined("deploy_tokens_generated", "deploy_tokens_judged", shown="{:.1f}".format),
    ),
    _plain("deploy_flops", lambda count: f"{count / 1e9:,.3g}", "A completion's GFLOPs"),
)
WIDE = (("Scores", SCORES), ("Reward models", REWARDS), ("Texts", TEXTS), ("Costs", COSTS))  # below the short table
SHORT = (
    GAIN,
    KL,
    ACCURACY,
    _cost("Labels (human / AI) / seconds", "labels_human", "labels_ai", "seconds", shown="{:,.0f}".format),
)

# In place of those above where the task lists every completion: the distance to the optimum, and each enumerated value
# beside the sampled one that estimates it elsewhere.
ENUMERATED_COLUMNS = (
    _range("optimum_tv"),
    _range("optimum_kl_nats"),
    _range("objective_share"),
    _range("reward_gold_enumerated", "+"),
    GOLD,
    _range("kl_nats_enumerated"),
    KL,
    ACCURACY,
    SECONDS,
)


def filled(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[Column, ...]:
    """Those in which any row has a value."""
    return tuple(column for column in columns if any(column.cell(row) != NONE for row in rows))


def is_enumerated(rows: Sequence[Row]) -> bool:
    return bool(rows) and ENUMERATED[0] in rows[0]


def columns_of(rows: Sequence[Row]) -> tuple[Column, ...]:
    """What the first table shows."""
    return ENUMERATED_COLUMNS if is_enumerated(rows) else SHORT


def title(row: Row) -> str:
    knob = f" ({row['knob']}={row['knob_value']:g})" if row["knob"] and f"{row['knob']}=" not in row["label"] else ""
    done = len(row["seeds"].split())
    return row["label"] + knob + (f" ({done} of {done + row['seeds_failed']} seeds)" if row["seeds_failed"] else "")
