"""Planted curves come back within their intervals, one without a peak in the data has none, and hacking is named."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from alignbench.scoring.crossed import estimate
from alignbench.scoring.overoptimisation import Curve, Form, curve, curves, hacked, interval
from alignbench.scoring.record import Record
from alignbench.scoring.traces import KL, Point, Trace

PROMPTS = 48
TABLES = 200
KLS = {"best-of-n": (0.2, 0.7, 1.2, 2.0, 4.0), "RL": (0.5, 2.0, 5.0, 10.0, 20.0)}


def height(form: Form, d: float | np.ndarray, alpha: float, beta: float) -> float | np.ndarray:
    return d * (alpha - beta * (d if form == "best-of-n" else np.log(d)))


def planted(form: Form, alpha: float, beta: float, replicates: int, rng: np.random.Generator) -> list[Trace]:
    """Replicates with parameters of their own about the planted ones, prompts that differ, KL that differs."""
    slopes = 0.3 * rng.normal(size=PROMPTS)
    lines = []
    for seed in range(replicates):
        own = alpha + 0.05 * rng.normal(), beta + 0.02 * rng.normal()
        kls = np.sort(np.array(KLS[form]) * np.exp(0.2 * rng.normal(size=len(KLS[form]))))
        points = [Point(0.0, 0.0, (0.0,) * PROMPTS, "start")]
        for kl in kls:
            d = math.sqrt(kl)
            gains = height(form, d, *own) + d * (slopes - slopes.mean()) + 0.5 * rng.normal(size=PROMPTS)
            points.append(Point(float(kl), float(gains.mean()), tuple(gains.tolist()), f"{kl:g}"))
        lines.append(Trace("row", seed, KL, tuple(points), ()))
    return lines


def fits(form: Form, alpha: float, beta: float, replicates: int = 5) -> list[Curve]:
    rng = np.random.default_rng([replicates, round(1000 * alpha), round(1000 * beta)])
    return [curve(planted(form, alpha, beta, replicates, rng), form) for _ in range(TABLES)]


@pytest.mark.parametrize("replicates", [3, 5])
@pytest.mark.parametrize(("form", "alpha", "beta"), [("best-of-n", 0.9, 0.3), ("RL", 0.5, 0.35)])
def test_planted_parameters_and_peak_lie_within_their_intervals(
    form: Form, alpha: float, beta: float, replicates: int
) -> None:
    top = optimize.minimize_scalar(lambda d: -height(form, d, alpha, beta), bounds=(1e-6, 20), method="bounded")
    found = fits(form, alpha, beta, replicates)

    def share(hits: list[bool]) -> float:
        return sum(hits) / len(hits)

    assert share([c.alpha.low <= alpha <= c.alpha.high for c in found]) >= 0.9
    assert share([c.beta.low <= beta <= c.beta.high for c in found]) >= 0.9
    peaks = [c.peak for c in found if c.peak is not None]
    assert len(peaks) > 0.9 * TABLES
    assert share([peak.kl_nats.low <= top.x**2 <= peak.kl_nats.high for peak in peaks]) >= 0.9
    assert share([peak.gain.low <= -top.fun <= peak.gain.high for peak in peaks]) >= 0.9
    assert np.median([c.alpha.high - c.alpha.low for c in found]) < alpha  # not by intervals that hold everything


@pytest.mark.parametrize("form", ["best-of-n", "RL"])
@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_a_flat_or_rising_curve_is_not_identifiable(form: Form, alpha: float) -> None:
    found = fits(form, alpha, 0.0)
    told = [c for c in found if c.peak is not None or "not identifiable" not in c.why_not]
    assert len(told) <= 0.05 * TABLES


def test_a_peak_beyond_the_points_is_not_told() -> None:
    rng = np.random.default_rng(0)
    found = curve(planted("RL", 1.5, 0.5, 5, rng), "RL")  # peak at exp(4) = 55 nats
    assert found.beta.low > 0
    assert found.peak is None
    assert found.why_not.startswith("not identifiable: gold still rises at ")


def test_a_fit_is_each_replicates_least_squares() -> None:
    lines = planted("RL", 0.5, 0.3, 3, np.random.default_rng(1))
    by_hand = []
    for line in lines:
        d = np.sqrt([point.x for point in line.points[1:]])
        basis = np.column_stack([d, -d * np.log(d)])
        by_hand.append(np.linalg.lstsq(basis, [point.gain for point in line.points[1:]], rcond=None)[0])
    found = curve(lines, "RL")
    assert (found.alpha.mean, found.beta.mean) == pytest.approx(tuple(np.mean(by_hand, axis=0)))


def test_the_peaks_interval_is_fiellers_where_replicates_alone_vary() -> None:
    """One prompt: means of S pairs (alpha, beta), and the ratio's interval has its closed form."""
    lines = [
        line._replace(points=tuple(point._replace(values=(point.gain,)) for point in line.points))
        for line in planted("best-of-n", 0.9, 0.3, 6, np.random.default_rng(2))
    ]
    each = []
    for line in lines:
        d = np.sqrt([point.x for point in line.points[1:]])
        each.append(np.linalg.lstsq(np.column_stack([d, -(d**2)]), [p.gain for p in line.points[1:]], rcond=None)[0])
    (a, b), covariance = np.mean(each, axis=0), np.cov(np.transpose(each)) / len(each)
    t2 = stats.t.ppf(0.975, len(each) - 1) ** 2
    ends = np.sort(
        np.roots([b**2 - t2 * covariance[1, 1], -2 * (a * b - t2 * covariance[0, 1]), a**2 - t2 * covariance[0, 0]])
    )
    peak = curve(lines, "best-of-n").peak
    assert peak is not None
    assert peak.kl_nats == pytest.approx(((a / b / 2) ** 2, *((ends / 2) ** 2)), rel=1e-6)


def test_below_three_replicates_an_interval_is_over_prompts() -> None:
    values = np.random.default_rng(3).normal(size=(2, 20))
    by_prompt = values.mean(axis=0)
    ends = stats.t.interval(0.95, 19, by_prompt.mean(), stats.sem(by_prompt))
    assert interval(values)[1:] == pytest.approx(ends)
    assert interval(values[:, :1]).high == math.inf
    three = np.random.default_rng(3).normal(size=(3, 20))
    assert interval(three) == pytest.approx(estimate(three)[:3])


def record(label: str, seed: int, kl: float, proxy: np.ndarray, gold: np.ndarray, step: float | None = None) -> Record:
    return Record.model_validate(
        {"suite": "s", "label": label, "method": "m", "distribution": "d", "version": "0", "seed": seed, "key": "k",
         "status": "ok", "snapshot": None if step is None else {"name": "step", "value": step},
         "metrics": {"kl_nats_exact": kl},
         "per_prompt": {"reward_proxy": proxy.tolist(), "reward_gold": gold.tolist(),
                        "reward_gold_gain": gold.tolist()}}
    )  # fmt: skip


def run_of(
    golds: dict[float, float], proxies: dict[float, float], rng: np.random.Generator, seeds: int = 5
) -> list[Record]:
    """A row's snapshots by step and its end (step 0), at a KL that rises with the step."""
    hard = rng.normal(size=PROMPTS)
    found = []
    for seed in range(seeds):
        for step, gold in golds.items():
            noisy = [
                hard + mean + 0.1 * rng.normal() + 0.5 * rng.normal(size=PROMPTS) for mean in (proxies[step], gold)
            ]
            found.append(record("ppo", seed, step or 99.0, *noisy, step or None))
    return found


def test_a_proxy_that_rises_while_gold_falls_is_named_with_the_place_it_falls_from() -> None:
    rng = np.random.default_rng(4)
    found = hacked(run_of({8: 0.5, 16: 1.0, 0: 0.2}, {8: 0.5, 16: 1.0, 0: 2.0}, rng))["ppo"]
    assert (found.where, found.before) == ("ppo", "ppo, step 16")
    assert found.gold.mean == pytest.approx(-0.8, abs=0.2)
    assert found.proxy.mean == pytest.approx(1.0, abs=0.2)
    assert found.p < 0.05


def began(records: list[Record], proxy: float, gold: float) -> list[Record]:
    """The same records, which say how much each prompt's rewards are above those of a start."""

    def told(told: dict[str, list[float]]) -> dict[str, list[float]]:
        starts = {"reward_proxy": proxy, "reward_gold": gold}
        return {**told, **{f"{name}_gain": [x - start for x in told[name]] for name, start in starts.items()}}

    return [record.model_copy(update={"per_prompt": told(dict(record.per_prompt))}) for record in records]


def test_the_start_is_a_point_too_so_that_a_row_of_one_setting_can_be_hacked() -> None:
    one = run_of({0: 0.2}, {0: 2.0}, np.random.default_rng(4))
    assert hacked(one) == {}  # nothing to hold it against
    found = hacked(began(one, 0.5, 1.0))["ppo"]
    assert (found.where, found.before) == ("ppo", "the start")
    assert found.gold.mean == pytest.approx(np.mean([r.per_prompt["reward_gold"] for r in one]) - 1.0)
    assert found.proxy.mean == pytest.approx(np.mean([r.per_prompt["reward_proxy"] for r in one]) - 0.5)
    assert hacked(began(one, 0.5, -1.0)) == {}  # both rose


@pytest.mark.parametrize(
    ("golds", "proxies"),
    [
        ({8: 0.5, 0: 1.0}, {8: 0.5, 0: 2.0}),  # both rise
        ({8: 1.0, 0: 0.2}, {8: 2.0, 0: 0.5}),  # both fall
        ({8: 1.0, 0: 0.2}, {8: 0.5, 0: 0.5}),  # gold alone falls
    ],
)
def test_nothing_else_is_called_so(golds: dict[float, float], proxies: dict[float, float]) -> None:
    assert hacked(run_of(golds, proxies, np.random.default_rng(5))) == {}


def test_gold_that_stands_still_is_seldom_called_falling() -> None:
    rng = np.random.default_rng(6)
    level = {8: 0.5, 16: 0.5, 0: 0.5}
    called = sum(bool(hacked(run_of(level, {8: 0.5, 16: 1.0, 0: 2.0}, rng))) for _ in range(TABLES))
    assert called <= 0.05 * TABLES


def test_a_row_that_lacks_a_replicate_is_not_called_hacked_over_fewer() -> None:
    rng = np.random.default_rng(8)
    records = run_of({8: 1.0, 0: 0.2}, {8: 1.0, 0: 2.0}, rng)
    assert set(hacked(records)) == {"ppo"}
    lost = [r.model_copy(update={"status": "failed", "cause": "boom"}) if r.seed == 2 else r for r in records]
    assert hacked(lost) == {}


def test_points_at_one_kl_are_in_no_order() -> None:
    records = run_of({8: 1.0, 0: 0.2}, {8: 1.0, 0: 2.0}, np.random.default_rng(9))
    level = [r.model_copy(update={"metrics": {"kl_nats_exact": 4.0}}) for r in records]
    assert hacked(level) == {}


def test_a_row_has_a_curve_where_every_replicate_has_three_points() -> None:
    rng = np.random.default_rng(7)
    records = run_of({8: 0.5, 16: 0.8, 0: 1.0}, {8: 0.5, 16: 1.0, 0: 2.0}, rng)
    assert set(curves(records)) == {"ppo"}
    assert curves(records[1:]) == {}
