"""An audit against numbers by hand and against judges whose bias was planted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from alignbench.errors import UserError
from alignbench.scoring.agreement import interval_of_pairs, wilson_of_credit
from alignbench.scoring.judge_audit import Answers, Asked, audit, check_labelled, corrected_win_rate, stability

NAN = math.nan


def asked(human: list[float], words: list[tuple[int, int]] | None = None) -> Asked:
    """Pairs that share no text."""
    n = len(human)
    return Asked(np.array(human, dtype=float), np.array(words or [(1, 1)] * n), np.arange(n), np.arange(n, 2 * n))


def many(n: int, seed: int = 0) -> Asked:
    rng = np.random.default_rng(seed)
    words = rng.integers(5, 40, (n, 2))
    return Asked(rng.integers(0, 2, n).astype(float), words, np.arange(n), np.arange(n, 2 * n))


def fair(chance: np.ndarray) -> Answers:
    """A judge without a place."""
    return Answers(chance, 1 - chance)


def test_every_number_of_four_pairs_by_hand() -> None:
    """Averaged: 0.9, 0.5, 0.3, 0.6 for the first text; people chose the first, first, second, second."""
    answers = Answers(np.array([0.9, 0.8, 0.2, 0.7]), np.array([0.1, 0.8, 0.6, 0.5]))
    found = audit(asked([1, 1, 0, 0], [(3, 1), (2, 2), (1, 5), (4, 2)]), answers)
    assert (found.asked, found.answered, found.answered_once) == (4, 4, 0)
    assert found.accuracy == pytest.approx(wilson_of_credit(1 + 0.5 + 1 + 0, 4))
    # in one order: right both times; right, then wrong; right both times; wrong, then a tie
    assert found.accuracy_once.mean == pytest.approx((1 + 0.5 + 1 + 0.25) / 4)
    assert found.same_place.mean == 1 / 4
    assert found.first_place_bias.mean == pytest.approx((0 + 0.3 - 0.1 + 0.1) / 4)
    assert found.win_rate_once.mean == pytest.approx(2.6 / 4)
    assert found.win_rate.mean == pytest.approx(2.3 / 4)
    assert found.length is not None
    assert found.length[:1] == (3,)
    # the longer text: the first, the second, the first; the judge takes it each time, people twice
    assert (found.length.judge.mean, found.length.people.mean) == pytest.approx((1, 2 / 3))
    assert found.length.excess.mean == pytest.approx(1 / 3)
    assert found.brier.mean == pytest.approx((0.1**2 + 0.5**2 + 0.3**2 + 0.6**2) / 4)
    assert found.overconfidence.mean == pytest.approx((0.9 + 0.5 + 0.7 + 0.6) / 4 - 2.5 / 4)
    assert found.ece == pytest.approx((0.1 + 0 + 0.3 + 0.6) / 4)  # 0.9, 0.5, 0.7, 0.6 lie in four bins


def test_a_judge_of_places_alone_has_its_bias_told_and_no_win_rate_left() -> None:
    pairs = many(400)
    found = audit(pairs, Answers(np.full(400, 0.9), np.full(400, 0.9)))
    assert found.same_place.mean == 1
    assert found.same_place.low > 0.98
    assert found.first_place_bias == pytest.approx((0.4, 0.4, 0.4))
    assert found.win_rate_once.mean == pytest.approx(0.9)
    assert found.win_rate == (0.5, 0.5, 0.5)  # to the bit, or every tie would go one way
    assert found.accuracy.mean == 0.5
    assert found.accuracy_once.mean == 0.5
    assert found.length is not None
    assert found.length.judge.mean == 0.5


def test_a_place_bias_on_top_of_a_good_judge_goes_with_the_second_order() -> None:
    """Log-odds 2 for people's choice, 3 for the place: alone the place wins, averaged people's choice does."""
    pairs = many(300)
    margin = 2 * (2 * pairs.human - 1)
    biased = Answers(1 / (1 + np.exp(-margin - 3)), 1 / (1 + np.exp(margin - 3)))
    found = audit(pairs, biased)
    assert (found.accuracy.mean, found.accuracy_once.mean, found.same_place.mean) == (1, 0.5, 1)
    likes_second = audit(pairs, Answers(1 - biased.back, 1 - biased.forth))  # the same odds, the other place
    assert likes_second.first_place_bias.mean == pytest.approx(-found.first_place_bias.mean)
    assert found.first_place_bias.low > 0.3


def test_a_judge_that_answers_alike_in_both_orders_has_no_place() -> None:
    pairs = many(300)
    found = audit(pairs, fair(np.random.default_rng(1).random(300)))
    assert found.same_place.mean == 0
    assert found.first_place_bias == pytest.approx((0, 0, 0), abs=1e-12)
    assert found.accuracy == pytest.approx(found.accuracy_once)


def test_a_planted_liking_for_length_is_found_and_a_fair_judge_has_none() -> None:
    pairs = many(2000)
    gap = (pairs.words[:, 0] - pairs.words[:, 1]) / 10
    rng = np.random.default_rng(2)

    def judged(by_length: float) -> Answers:
        odds = 1.0 * (2 * pairs.human - 1) + by_length * gap
        return fair((rng.random(2000) < 1 / (1 + np.exp(-odds))).astype(float))

    likes_long, is_fair = (audit(pairs, judged(by_length)).length for by_length in (0.8, 0.0))
    assert likes_long is not None
    assert likes_long.log_odds is not None
    assert is_fair is not None
    assert is_fair.log_odds is not None
    assert likes_long.log_odds.low < 0.8 < likes_long.log_odds.high
    assert likes_long.log_odds.low > 0.5
    assert likes_long.excess.low > 0.1
    assert abs(is_fair.log_odds.mean) < 0.15
    assert is_fair.excess.low < 0 < is_fair.excess.high
    only_length = audit(pairs, fair(1 / (1 + np.exp(-gap)))).length
    assert only_length is not None
    assert (only_length.judge.mean, only_length.log_odds) == (1, None)
    assert "together decide" in only_length.why_not


def test_an_unanswered_pair_is_missing_and_stands_in_no_number() -> None:
    pairs = many(200)
    answers = fair(np.where(pairs.human == 1, 0.8, 0.2))
    whole = audit(pairs, answers)
    forth, back = answers.forth.copy(), answers.back.copy()
    forth[:40], back[:30] = NAN, NAN
    found = audit(pairs, Answers(forth, back))
    assert (found.asked, found.answered, found.answered_once) == (200, 160, 10)
    assert found.accuracy.mean == whole.accuracy.mean == 1
    kept = Asked(*(values[40:] for values in pairs))
    alone = audit(kept, answers.take(np.arange(200) >= 40))
    assert found[3:] == alone[3:]
    with pytest.raises(ValueError, match="two pairs that are answered in both orders, got 1 of 3"):
        audit(asked([1, 1, 1]), Answers(np.array([0.5, NAN, 0.5]), np.array([0.5, 0.5, NAN])))


def test_intervals_count_pairs_that_share_texts_for_what_they_say() -> None:
    pairs = many(200)
    copies = Asked(*(np.concatenate([values] * 4) for values in pairs))
    rng = np.random.default_rng(3)
    answers = fair(rng.random(200))
    four = Answers(*(np.tile(values, 4) for values in answers))
    once, again = audit(pairs, answers), audit(copies, four)
    for name in ("accuracy", "brier", "overconfidence"):
        one, other = getattr(once, name), getattr(again, name)
        assert other.mean == pytest.approx(one.mean)
        assert other.high - other.low == pytest.approx(one.high - one.low, rel=1e-6)


def test_calibration_agrees_with_scikit_learn_and_is_good_where_the_judge_is_calibrated() -> None:
    rng = np.random.default_rng(4)
    chance = rng.random(20_000)
    pairs = asked((rng.random(20_000) < chance).astype(float).tolist())
    found = audit(pairs, fair(chance))
    assert found.brier.mean == pytest.approx(brier_score_loss(pairs.human, chance))
    assert found.ece < 0.02
    assert found.overconfidence.low < 0 < found.overconfidence.high
    assert found.length is None
    sure = audit(pairs, fair((chance > 0.5).astype(float)))
    assert sure.overconfidence.mean == pytest.approx(1 - sure.accuracy.mean)


def test_order_stays_where_both_wordings_name_the_same_text() -> None:
    pairs = asked([1, 1, 0, 0, 1])
    one = fair(np.array([0.9, 0.6, 0.4, 0.5, 0.7]))
    two = fair(np.array([0.6, 0.4, 0.1, 0.5, NAN]))
    found = stability(one, two, pairs)
    assert found is not None
    assert (found.pairs, found.stays.mean, found.accuracy.mean) == (4, 3 / 4, (1 + 0 + 1 + 0.5) / 4)
    assert stability(one, fair(np.array([0.5, NAN, NAN, NAN, NAN])), pairs) is None


def test_few_labels_and_the_judge_tell_people_s_win_rate_of_the_longer_text() -> None:
    pairs = many(2000)
    is_longer = pairs.words[:, 0] > pairs.words[:, 1]
    rng = np.random.default_rng(5)
    human = np.where(rng.random(2000) < 0.7, is_longer, ~is_longer).astype(float)  # people like long texts too
    judged = np.where(rng.random(2000) < 0.9, human, is_longer)  # and the judge more so
    answers = fair(np.where(judged == 1, 0.8, 0.3))
    found = corrected_win_rate(pairs._replace(human=human), answers, 200)
    assert found is not None
    differing = int((pairs.words[:, 0] != pairs.words[:, 1]).sum())
    assert (found.labelled, found.judged_alone) == (200, differing - 200)
    assert found.judge > found.truth.high
    assert found.powered.interval.low < found.truth.mean < found.powered.interval.high
    wide = [one.high - one.low for one in (found.powered.interval, found.powered.people_alone)]
    assert wide[0] < 0.7 * wide[1]
    quarter = corrected_win_rate(pairs._replace(human=human), answers)
    assert quarter is not None
    assert quarter.labelled == differing // 4


def test_the_longer_text_of_the_last_pairs_is_judged_without_their_label() -> None:
    pairs, answers = many(100), fair(np.random.default_rng(6).random(100))
    turned = pairs.human.copy()
    turned[60:] = 1 - turned[60:]
    one, other = (corrected_win_rate(pairs._replace(human=human), answers, 50) for human in (pairs.human, turned))
    assert one is not None
    assert other is not None
    assert one.powered == other.powered
    assert one.truth != other.truth


def test_labels_must_be_ten_and_leave_pairs_to_judge_alone() -> None:
    pairs = many(40)._replace(words=np.tile([1, 2], (40, 1)))
    answers = fair(np.random.default_rng(7).random(40))
    allowed = "40 answered pairs differ in length; name 10 to 38"
    for labelled, said in ((39, f"--labelled 39: {allowed}"), (9, f"--labelled 9: {allowed}")):
        with pytest.raises(UserError, match=said):
            corrected_win_rate(pairs, answers, labelled)
    few, said_few = Asked(*(values[:11] for values in pairs)), answers.take(np.arange(40) < 11)
    assert corrected_win_rate(few, said_few) is None
    with pytest.raises(
        UserError, match="--labelled 10: 11 answered pairs differ in length; raise --pairs, or leave it"
    ):
        check_labelled(10, 11)


def test_labels_that_are_all_alike_have_no_interval() -> None:
    pairs = many(40)._replace(words=np.tile([2, 1], (40, 1)))
    human = np.where(np.arange(40) < 10, 1.0, pairs.human)
    found = corrected_win_rate(pairs._replace(human=human), fair(np.random.default_rng(8).random(40)), 10)
    assert found is not None
    assert (found.powered.weight, found.powered.people_alone.mean) == (0, 1)
    assert math.isnan(found.powered.interval.low)
    assert math.isnan(found.powered.people_alone.high)


def test_an_interval_of_pairs_may_lie_below_zero() -> None:
    values = np.array([-0.2, 0.1, -0.3, 0.2])
    found = interval_of_pairs(values, np.arange(4), np.arange(4, 8), bounds=(-0.5, 0.5))
    assert found.low < -0.05 < found.high
