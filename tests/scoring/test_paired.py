"""Verdicts agree with statsmodels' tests, pool only what varies alike, and keep their level; planted bugs do not."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from alignbench.scoring import paired
from alignbench.scoring.crossed import mean_squares, spread_of
from alignbench.scoring.paired import Rows, Verdict, compare, holm


def rows_of(
    rows: int, replicates: int, prompts: int = 32, own: tuple[float, ...] = (0.1,), seed: int = 0, shift: float = 0.0
) -> dict[str, dict[int, list[float]]]:
    """Each row a little above the one before it; `own` standard deviations of replicate effects, repeated."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(replicates, 1)) + rng.normal(size=prompts)
    found: dict[str, dict[int, list[float]]] = {}
    for i in range(rows):
        effect = own[i % len(own)] * rng.normal(size=(replicates, 1))
        values = shift * i + common + effect + 0.4 * rng.normal(size=(replicates, prompts))
        found[f"row{i}"] = dict(enumerate(values.tolist()))
    return found


def by_pair(rows: Rows, delta: float = 0.1, **more: object) -> dict[tuple[str, str], Verdict]:
    return {(v.a, v.b): v for v in compare(rows, delta, **more)}  # type: ignore[arg-type]


def array(row: dict[int, list[float]]) -> np.ndarray:
    return np.array(list(row.values()))


def test_holm_is_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 15):
        p = (rng.uniform(size=size) ** 3).tolist()
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([]) == []
    assert holm([0.02, 0.02, 0.5]) == pytest.approx([0.06, 0.06, 0.5])


def test_with_one_value_per_replicate_it_is_the_paired_t_and_tost() -> None:
    rows = rows_of(3, 6, prompts=1, shift=0.05)
    found = by_pair(rows, delta=0.9)
    p_low, p_same = [], []
    for a, b in combinations(rows, 2):
        x, y = array(rows[a])[:, 0], array(rows[b])[:, 0]
        p_low.append(float(stats.ttest_rel(x, y).pvalue))
        p_same.append(float(ttost_paired(x, y, -0.9, 0.9)[0]))
        assert found[a, b].p == pytest.approx(p_low[-1], rel=1e-6)
    assert [v.p_holm for v in found.values()] == pytest.approx(multipletests(p_low, method="holm")[1], rel=1e-6)
    assert [v.p_equivalent for v in found.values()] == pytest.approx(multipletests(p_same, method="holm")[1], rel=1e-6)


def test_every_pair_is_judged_once_in_the_order_in_which_rows_come() -> None:
    rows = rows_of(4, 5)
    assert [(v.a, v.b) for v in compare(rows, 0.1)] == list(combinations(rows, 2))
    assert compare({}, 0.1) == compare({"one": rows["row0"]}, 0.1) == []


def test_the_three_verdicts() -> None:
    quiet = (0.01,)
    far = by_pair(rows_of(2, 6, own=quiet, shift=1.0))["row0", "row1"]
    assert (far.verdict, far.winner, far.next) == ("better", "row1", None)
    same = by_pair(rows_of(2, 6, own=quiet), delta=0.5)["row0", "row1"]
    assert (same.verdict, same.winner) == ("equivalent", None)
    small = by_pair(rows_of(2, 6, own=quiet, shift=0.3), delta=1.0)["row0", "row1"]
    assert (small.verdict, small.winner) == ("equivalent", "row1")  # ahead, by less than matters
    open_ = by_pair(rows_of(2, 3, own=(0.3,)))["row0", "row1"]
    assert (open_.verdict, open_.winner) == ("undecided", None)
    assert open_.detectable is not None
    assert open_.detectable > 0.1


def test_one_row_under_two_names_ties_and_does_not_make_the_others_look_quiet() -> None:
    rows = rows_of(4, 3)
    twice = by_pair({**rows, "again": rows["row0"]})
    tie = twice["row0", "again"]
    assert (tie.verdict, tie.p, tie.p_equivalent, tie.is_pooled) == ("equivalent", 1.0, 0.0, False)
    alone = by_pair(rows)
    assert any(v.is_pooled for v in alone.values())
    for pair, verdict in alone.items():
        assert twice[pair].difference == verdict.difference


def test_under_three_replicates_in_common_there_is_no_comparison_and_no_winner() -> None:
    rows = rows_of(3, 4, shift=5.0)
    del rows["row2"][0], rows["row2"][1]  # its cells failed
    found = by_pair(rows)
    assert found["row0", "row1"].verdict == "better"
    assert found["row0", "row1"].p_holm == found["row0", "row1"].p  # one pair is compared, so one is in the family
    for pair in (("row0", "row2"), ("row1", "row2")):
        assert found[pair] == Verdict(*pair, "not compared", 2, reason="2 replicates in common, a comparison needs 3")


def test_a_missing_replicate_leaves_the_others_paired_by_seed() -> None:
    rows = rows_of(2, 6)
    full, mixed = dict(rows["row0"]), dict(reversed(rows["row1"].items()))
    del mixed[2]
    verdict = by_pair({"a": full, "b": mixed})["a", "b"]
    assert verdict.replicates == 5
    kept = [0, 1, 3, 4, 5]
    values = np.array([full[s] for s in kept]) - np.array([mixed[s] for s in kept])
    assert verdict.difference is not None
    assert verdict.difference.mean == pytest.approx(values.mean())
    assert verdict.difference.se == pytest.approx(spread_of(mean_squares(values)).se)


def test_what_all_rows_share_changes_no_difference() -> None:
    rows = rows_of(4, 3)
    rng = np.random.default_rng(5)
    shared = 10 * rng.normal(size=(3, 1)) + 10 * rng.normal(size=32)
    moved = {label: dict(enumerate((array(row) + shared).tolist())) for label, row in rows.items()}
    for before, after in zip(compare(rows, 0.1), compare(moved, 0.1), strict=True):
        assert after.difference is not None
        assert after.difference[:4] == pytest.approx(before.difference[:4])  # type: ignore[index]
        assert (after.p_holm, after.is_pooled) == (pytest.approx(before.p_holm), before.is_pooled)


def test_order_and_scale() -> None:
    rows = rows_of(4, 4, shift=0.1)
    found, turned = by_pair(rows), by_pair(dict(reversed(rows.items())))
    for (a, b), verdict in found.items():
        other = turned[b, a]
        assert (other.verdict, other.winner, other.is_pooled) == (verdict.verdict, verdict.winner, verdict.is_pooled)
        assert other.difference is not None
        assert verdict.difference is not None
        assert -other.difference.mean == pytest.approx(verdict.difference.mean)
        assert other.p_holm == pytest.approx(verdict.p_holm)
    larger = {label: {s: [7 * x for x in cells] for s, cells in row.items()} for label, row in rows.items()}
    for (a, b), verdict in by_pair(larger, delta=0.7).items():
        assert verdict.p_equivalent == pytest.approx(found[a, b].p_equivalent)
        assert verdict.next == found[a, b].next
        assert verdict.detectable == pytest.approx(7 * found[a, b].detectable)  # type: ignore[operator]


def test_pooled_variance_is_the_interaction_of_rows_and_replicates() -> None:
    rows = rows_of(5, 3, seed=2)
    means = np.array([array(row).mean(axis=1) for row in rows.values()])  # (R, S)
    interaction = mean_squares(means).rest  # the residual mean square of the two-way layout rows x replicates
    pooled = [v for v in compare(rows, 0.1) if v.is_pooled]
    assert pooled
    for v in pooled:
        own = mean_squares(array(rows[v.a]) - array(rows[v.b]))
        ours = spread_of(own._replace(replicate=2 * 32 * interaction), 4 * 2)
        assert v.difference is not None
        assert v.difference.high - v.difference.mean == pytest.approx(ours.half_width(0.05))


def test_pools_at_three_or_four_replicates_of_three_rows_and_never_for_a_wild_one() -> None:
    assert any(v.is_pooled for v in compare(rows_of(4, 4), 0.1))
    assert not any(v.is_pooled for v in compare(rows_of(4, 5), 0.1))
    assert not any(v.is_pooled for v in compare(rows_of(2, 3), 0.1))
    wild = compare(rows_of(6, 4, own=(0.05, 0.05, 0.05, 0.05, 0.05, 2.0)), 0.1)
    assert not any(v.is_pooled for v in wild if "row5" in (v.a, v.b))
    assert any(v.is_pooled for v in wild)


def false_winners(tables: int) -> float:
    return float(
        np.mean([any(v.winner for v in compare(rows_of(6, 3, own=(0.2,), seed=i), 0.1)) for i in range(tables)])
    )


def test_the_family_keeps_its_level_and_planted_bugs_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert false_winners(100) <= 0.07
    with monkeypatch.context() as bug:  # each pair at its own level
        bug.setattr(paired, "holm", lambda p: list(p))
        assert false_winners(40) > 0.12
    with monkeypatch.context() as bug:  # prompts alone
        bug.setattr(paired, "spread_of", lambda squares, df=None: spread_of(squares._replace(replicate=0.0), df))
        assert false_winners(40) > 0.5
    with monkeypatch.context() as bug:  # every one of the 15 pairs counted as independent
        real = paired._residual
        bug.setattr(paired, "_residual", lambda rows, seeds: real(rows, seeds)._replace(df=15 * 2))  # type: ignore[union-attr]
        assert false_winners(40) > 0.12


def bought(own: float, taste: float, drawn: float, seed: int) -> Verdict:
    """Two rows, 10 replicates, 40 prompts; standard deviations of the parts."""
    rng, rows = np.random.default_rng(seed), {}
    for label in "ab":
        parts = own * rng.normal(size=(10, 1)) + taste * rng.normal(size=40)
        rows[label] = dict(enumerate((parts + drawn * rng.normal(size=(10, 40))).tolist()))
    (verdict,) = compare(rows, 0.25, sampling={"a": drawn**2, "b": drawn**2})
    return verdict


@pytest.mark.parametrize(
    ("what", "parts"), [("replicates", (0.5, 0.1, 0.1)), ("prompts", (0.02, 2.0, 0.1)), ("samples", (0.02, 0.1, 3.0))]
)
def test_what_to_buy_is_what_varies_most(what: str, parts: tuple[float, float, float]) -> None:
    offers = [offer for seed in range(20) if (offer := bought(*parts, seed).next) is not None]
    counts = Counter(offer.what for offer in offers)  # components are estimated, and err
    assert len(offers) > 10
    assert counts.most_common(1)[0][0] == what, counts
    assert any(offer.number is not None for offer in offers if offer.what == what)


def test_the_number_to_buy_by_hand() -> None:
    verdict = bought(0.5, 0.0, 0.1, seed=3)
    assert verdict.next is not None
    assert verdict.next.number is not None
    assert verdict.difference is not None
    # the standard error shrinks as 1 / sqrt(S), and at so many replicates t is near the normal's quantile
    part = verdict.difference.split.replicate
    assert verdict.next.number == pytest.approx((1.96 + 0.84) ** 2 * part / 0.25**2, rel=0.1, abs=2)


def test_a_number_that_would_not_do_is_not_named() -> None:
    verdict = compare(rows_of(2, 3, own=(5.0,)), 0.001)[0]
    assert verdict.next == ("replicates", None)


@pytest.mark.parametrize("delta", [0.0, -1.0, math.nan])
def test_delta_must_be_above_zero(delta: float) -> None:
    with pytest.raises(ValueError, match="delta must be above 0"):
        compare(rows_of(2, 3), delta)


def test_rows_that_cannot_be_paired_are_refused_by_name() -> None:
    rows = rows_of(2, 3)
    with pytest.raises(ValueError, match=r"number of prompts: \{'row0': \[32\], 'row1': \[2, 32\]\}"):
        compare({**rows, "row1": {**rows["row1"], 1: [1.0, 2.0]}}, 0.1)
    with pytest.raises(ValueError, match="row 'row1', replicate 1, is not finite"):
        compare({**rows, "row1": {**rows["row1"], 1: [math.nan] * 32}}, 0.1)
