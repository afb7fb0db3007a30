"""What a method traces is read inside its data only, whole, and as its numbers were planted."""

from __future__ import annotations

import random
import subprocess
import sys
from math import log, sqrt
from typing import Any

import numpy as np
import pytest
from scipy import stats

from alignbench.errors import UserError
from alignbench.scoring.frontier import areas, common_range, hypervolumes, matched, matched_values, to_target
from alignbench.scoring.record import Knob, Record
from alignbench.scoring.traces import KL, at, frontier, row_of, traces


def record(
    label: str, kl: float | None, gains: list[float], seed: int = 0, knob: Knob | None = None, **changes: Any
) -> Record:
    """A cell of gains per prompt at an exact KL; `metrics`, `snapshot`, `status`, ... replace fields."""
    name, _, value = label.rpartition(" ")[2].partition("=")
    values: dict[str, Any] = {
        "suite": "planted", "label": label, "method": label.split()[0], "distribution": "d", "version": "1",
        "seed": seed, "knob": knob or (Knob(name=name, value=float(value)) if value else None), "status": "ok",
        "key": "ab12", "metrics": {"kl_nats_exact": kl}, "per_prompt": {"reward_gold_gain": gains},
    }  # fmt: skip
    return Record.model_validate({**values, **changes})


def step(number: int) -> Knob:
    return Knob(name="step", value=number)


def seconds(spent: float) -> dict[str, Any]:
    return {"total": {"seconds": spent}, "marginal": {"seconds": spent / 2}}


HUMP = [  # mean gains 1, 2 and 0.5 at 1, 4 and 9 nats: over-optimised at the end
    record("dpo beta=1", 1.0, [0.5, 1.5]),
    record("dpo beta=0.5", 4.0, [1.0, 3.0]),
    record("dpo beta=0.1", 9.0, [1.0, 0.0]),
]


def test_a_planted_curve_is_recovered_over_replicates_and_matches_by_hand_at_its_points() -> None:
    """gain = a sqrt(KL) - b KL, with the KL reached, the replicate and the prompts all drawn anew."""
    rng, a, b, prompts = np.random.default_rng(0), 0.9, 0.12, 64
    records = []
    for seed in range(40):
        shift = rng.normal(0, 0.1)
        for beta, mean_kl in ((2, 0.5), (1, 2.0), (0.5, 5.0), (0.2, 10.0), (0.1, 18.0)):
            kl = mean_kl * rng.uniform(0.8, 1.2)
            gains = a * sqrt(kl) - b * kl + shift + rng.normal(0, 0.5, prompts)
            records.append(record(f"dpo beta={beta}", kl, gains.tolist(), seed))
    for place in (0.2, 1.0, 3.0, 8.0, 14.0):
        found = matched_values(records, KL, place)["dpo"].estimate()
        assert found is not None
        truth = a * sqrt(place) - b * place
        # the chord of -b d^2 lies at most b h^2 / 4 below it, h the gap in d: 1.2 at most here
        assert abs(found.mean - truth) < 3 * found.se + b * 1.2**2 / 4, place
    exactly = [record(f"dpo beta={kl}", kl, [a * sqrt(kl) - b * kl] * 2) for kl in (1.0, 4.0, 9.0)]
    for kl in (1.0, 4.0, 9.0):
        assert matched_values(exactly, KL, kl)["dpo"].mean == pytest.approx(a * sqrt(kl) - b * kl, abs=1e-12)


def test_the_optimum_of_a_normal_reward_is_exact_between_its_points() -> None:
    """q = N(0, 1) and r = y: the optimum at beta is N(1 / beta, 1), with gain m = 1 / beta and KL m^2 / 2."""
    records = [record(f"ideal beta={1 / m}", m * m / 2, [m, m]) for m in (0.5, 3.0)]
    for m in (0.1, 0.5, 1.7, 3.0):
        assert matched_values(records, KL, m * m / 2)["ideal"].mean == pytest.approx(m, abs=1e-12)


def test_prompts_are_interpolated_with_the_weights_of_the_mean() -> None:
    reading = at(traces(HUMP, KL)["dpo"][0], 2.25)  # sqrt is half way from 1 to 2
    assert reading.values == pytest.approx((0.75, 2.25))
    assert reading.gain == pytest.approx(1.5)


def test_the_trace_keeps_over_optimisation_and_the_frontier_does_not() -> None:
    trace = traces(HUMP, KL)["dpo"][0]
    assert at(trace, 6.25).gain == pytest.approx(1.25)  # half way from (2, 2) to (3, 0.5)
    assert at(frontier(trace), 6.25).gain == pytest.approx(2.0)
    assert at(frontier(trace), 9.0).values == (1.0, 3.0)
    assert [point.where for point in frontier(trace).points] == ["start", *["dpo beta=1"], *["dpo beta=0.5"] * 2]
    assert matched_values(HUMP, KL, 6.25)["dpo"].mean == pytest.approx(1.25)
    assert matched_values(HUMP, KL, 6.25, view="frontier")["dpo"].mean == pytest.approx(2.0)


def test_nothing_is_read_outside_the_data() -> None:
    far = matched_values(HUMP, KL, 9.001)["dpo"]
    assert (far.values, far.mean, far.reached) == ({}, None, "reached in 0 of 1")
    assert far.missed[0] == "not reached: 9.001 is beyond the largest, 9"
    by_seconds = [record("ppo", 1.0, [1.0], cost=seconds(30.0)), record("ppo", 2.0, [3.0], cost=seconds(50.0))]
    by_seconds[0] = by_seconds[0].model_copy(update={"snapshot": step(8)})
    assert matched_values(by_seconds, "seconds", 40.0)["ppo"].mean == pytest.approx(2.0)
    early, late = (matched_values(by_seconds, "seconds", place)["ppo"].missed[0] for place in (29.0, 51.0))
    assert (early, late) == ("not reached: 29 is below the smallest, 30", "not reached: 51 is beyond the largest, 50")


def test_no_mean_is_taken_over_the_replicates_that_happened_to_get_there() -> None:
    records = [record("dpo beta=1", kl, [1.0, 1.0], seed) for seed, kl in enumerate((4.0, 4.0, 2.0))]
    [(row, place, read)] = matched(records, KL, [3.0])
    assert (row, place, read.reached, read.mean, read.estimate()) == ("dpo", 3.0, "reached in 2 of 3", None, None)
    assert sorted(read.values) == [0, 1]
    whole = matched_values(records, KL, 2.0)["dpo"]
    assert whole.matrix is not None
    assert whole.matrix.shape == (3, 2)
    assert whole.matrix[2].tolist() == [1.0, 1.0]


def test_a_gains_interval_over_replicates_alike_in_all_prompts_is_that_of_t() -> None:
    means = [0.2, 0.5, 0.4, 0.9]
    records = [record("dpo beta=1", 1.0, [mean] * 5, seed) for seed, mean in enumerate(means)]
    found = matched_values(records, KL, 1.0)["dpo"].estimate()
    assert found is not None
    low, high = stats.t.interval(0.95, 3, np.mean(means), stats.sem(means))
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, low, high))
    assert matched_values(records[:2], KL, 1.0)["dpo"].estimate() is None


def test_failed_cells_and_absent_ones_are_named() -> None:
    failed = record("dpo beta=2", None, [], status="failed", cause="out of memory", metrics={}, per_prompt={})
    records = [*HUMP, failed, *(r.model_copy(update={"seed": 1, "label": "ppo", "knob": None}) for r in HUMP[:1])]
    read = matched_values(records, KL, 1.0)
    assert read["dpo"].gaps == ("dpo beta=2, seed 0: failed: out of memory", "dpo has no record of seed 1")
    assert (read["dpo"].reached, read["dpo"].mean) == ("reached in 1 of 2", None)
    assert "beyond the largest, 0" in read["ppo"].missed[0]
    assert matched_values([failed], KL, 0.0)["dpo"].missed[0].endswith("failed: out of memory)")
    unmeasured = traces(HUMP, "seconds")["dpo"][0]
    assert unmeasured.points == ()
    assert unmeasured.gaps[0] == "dpo beta=1, seed 0: seconds not measured"


def test_the_start_is_where_kl_and_gain_are_0_whatever_a_policy_that_did_not_move_scored() -> None:
    trace = traces([*HUMP, record("dpo beta=9", 0.0, [0.3, 0.3])], KL)["dpo"][0]
    assert at(trace, 0.0).values == (0.0, 0.0)
    assert at(trace, 0.25).gain == pytest.approx(0.5)


def test_best_of_n_stands_at_its_bound_where_it_samples_from_the_start_alone() -> None:
    bound = log(4) - 3 / 4
    rows = [
        record("best_of_n n=4", 0.0, [1.0], metrics={"kl_nats_exact": 0.0, "kl_nats_bound": bound}),
        record("best_of_n n=4", 0.0, [0.5], metrics={"kl_nats_exact": 0.0, "kl_nats_bound": log(2) - 1 / 2},
               snapshot=Knob(name="n", value=2)),
        record("best_of_ppo n=4", 2.0, [1.0], metrics={"kl_nats_exact": 2.0, "kl_nats_bound": bound}),
    ]  # fmt: skip
    found = traces(rows, KL)
    assert [(p.x, p.gain) for p in found["best_of_n"][0].points] == [(0, 0), (log(2) - 1 / 2, 0.5), (bound, 1.0)]
    assert found["best_of_n"][0].points[1].where == "best_of_n n=4, n 2"
    assert "not the start" in found["best_of_ppo"][0].gaps[0]


def test_points_at_one_x_are_their_mean_in_a_trace_and_their_best_in_a_frontier() -> None:
    records = [
        record(f"ppo kl_coef={i}", None, [gain], cost={"total": {"labels_human": 768}}) for i, gain in enumerate((1, 3))
    ]
    assert matched_values(records, "labels_human", 768, view="trace")["ppo"].mean == 2.0
    assert matched_values(records, "labels_human", 768)["ppo"].mean == 3.0


def test_the_order_of_records_changes_nothing() -> None:
    records = [
        record(f"{row} beta={beta}", kl * (1 + seed / 10), [kl - beta, beta, seed / 7], seed, cost=seconds(kl + seed))
        for row in ("dpo", "ipo")
        for seed in range(3)
        for beta, kl in ((1.0, 1.0), (0.5, 3.0), (0.1, 3.0), (0.05, 7.0))
    ]
    shuffled = random.Random(0).sample(records, len(records))
    for axis in (KL, "seconds"):
        assert traces(records, axis) == traces(shuffled, axis)
        for of in (areas, hypervolumes):
            assert of(records, axis) == of(shuffled, axis)
        assert to_target(records, 0.5, axis) == to_target(shuffled, 0.5, axis)
        assert matched_values(records, axis, 3.0) == matched_values(shuffled, axis, 3.0)


def test_areas_equal_integrals_by_hand() -> None:
    """Gain sqrt(x) from 0 to 4 is 16 / 3; then, flat at 2 on the frontier, 10 more up to 9, and on the trace
    5 - 1.5 d, whose integral 5 x - x^1.5 is 6."""
    assert areas(HUMP, KL)["dpo"].mean == pytest.approx(16 / 3 + 10)
    assert areas(HUMP, KL, view="trace")["dpo"].mean == pytest.approx(16 / 3 + 6)
    assert areas(HUMP, KL)["dpo"].values[0] == pytest.approx(((16 / 3 + 10) / 2, (16 / 3 + 10) * 3 / 2))
    paid = [record("ppo", 1.0, [1.0], snapshot=step(i), cost=seconds(x)) for i, x in enumerate((10.0, 30.0))]
    paid.append(record("ppo", 1.0, [2.0], cost=seconds(40.0)))
    assert areas(paid, "seconds", view="trace")["ppo"].mean == pytest.approx(20 * 1 + 10 * 1.5)
    assert areas(paid, "seconds")["ppo"].mean == pytest.approx(30 * 1.5)  # 1 at 30 seconds is beaten: 1 at 10 is there


def test_an_area_is_taken_as_far_as_every_replicate_of_every_row_goes() -> None:
    records = [
        *HUMP,
        *(r.model_copy(update={"seed": 1}) for r in HUMP),
        record("ppo", 2.25, [1, 1]),
        record("ppo", 3.0, [1, 1], seed=1),
        record("sft", 0.0, [0, 0]),
        record("sft", 0.0, [0, 0], seed=1),
    ]
    assert common_range(records, KL) == (0.0, 2.25, "ppo, seed 0")
    found = areas(records, KL)
    assert found["ppo"].values[0] == pytest.approx([2 / 3 * 2.25] * 2)  # sqrt(x) / 1.5
    assert found["dpo"].mean == pytest.approx(2 / 3 * 2.25**1.5)  # sqrt(x) itself
    assert found["sft"].missed[0] == "not reached: 2.25 is beyond the largest, 0"
    with pytest.raises(UserError, match="no part of labels_human is covered by every row: 'dpo' seed 0 ends at 9"):
        areas([record("dpo", 1.0, [1.0], cost={"total": {"labels_human": 9}})], "labels_human")
    with pytest.raises(UserError, match="no row was measured along kl_nats"):
        areas(records[-1:], KL)


def test_hypervolume_equals_a_sum_of_rectangles_and_lies_within_the_area() -> None:
    found, reference = hypervolumes(HUMP, KL)
    assert reference == (9.0, 0.0)
    assert found["dpo"][0] == pytest.approx((4 - 1) * 1 + (9 - 4) * 2)  # 0.5 at 9 nats is beaten
    assert (areas(HUMP, KL)["dpo"].mean or 0) > found["dpo"][0]
    worse = [*HUMP, record("bad", 10.0, [-1.0, -1.0]), record("sft", 0.0, [0.0, 0.0])]
    assert hypervolumes(worse, KL)[0] == {"dpo": {0: 13.0}, "bad": {0: 0.0}, "sft": {0: None}}


def test_a_target_costs_what_its_first_measured_point_did() -> None:
    records = [
        record("ppo kl_coef=1", 1.0, [0.4], cost=seconds(20.0)),
        record("ppo kl_coef=0", 1.0, [0.9], cost=seconds(60.0)),
        record("ppo kl_coef=0", 1.0, [0.6], snapshot=step(8), cost=seconds(35.0)),
    ]
    found = to_target(records, 0.5, "seconds")["ppo"][0]
    assert (found.x, found.where) == (35.0, "ppo kl_coef=0, step 8")
    missed = to_target(records, 1.0, "seconds")["ppo"][0]
    assert (missed.x, missed.where) == (None, None)
    assert missed.why == "not reached: the most is 0.90, ppo kl_coef=0"


def test_a_sweeps_value_is_no_part_of_its_rows_name() -> None:
    knob = Knob(name="beta", value=2.0)
    names = {"dpo beta=2": "dpo", "my dpo beta=2e0": "my dpo", "dpo beta=3": "dpo beta=3", "dpo r=2": "dpo r=2"}
    names |= {"beta=2": "beta=2", "dpo beta=two": "dpo beta=two", "dpo": "dpo"}
    assert {label: row_of(record(label, 1.0, [1.0], knob=knob)) for label in names} == names


@pytest.mark.parametrize(
    ("records", "axis", "said"),
    [
        (HUMP, "second", "no axis 'second' to trace over; did you mean 'seconds'?"),
        ([*HUMP, HUMP[0]], KL, "'dpo beta=1' seed 0 is there twice; give each record once"),
        ([*HUMP, record("ppo", 1.0, [1.0])], KL, "different numbers of prompts, [1, 2]"),
    ],
)
def test_what_cannot_be_traced_is_refused_in_one_line(records: list[Record], axis: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        traces(records, axis)
    assert said in str(caught.value)


def test_it_needs_no_torch() -> None:
    code = "import sys, alignbench.scoring.frontier, alignbench.scoring.tuned; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
