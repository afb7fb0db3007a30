"""The curves of swept rows stand in the table with why a peak is missing, and hacked rows by name."""

from __future__ import annotations

import numpy as np
import pytest

from alignbench.report.overoptimisation import section
from alignbench.report.table import to_markdown
from alignbench.scoring.overoptimisation import curves
from alignbench.scoring.record import Exploit, Record

PROMPTS = 30


def swept(
    label: str, alpha: float, beta: float, proxies: tuple[float, ...] = (1, 2, 3, 4), seeds: int = 5
) -> list[Record]:
    """RL's curve at four settings of a knob."""
    rng = np.random.default_rng([seeds, *label.encode()])
    found = []
    for seed in range(seeds):
        for value, (kl, proxy) in enumerate(zip((1.0, 4.0, 9.0, 25.0), proxies, strict=True), start=1):
            d = kl**0.5
            gold = (d * (alpha - beta * np.log(d)) + 0.05 * rng.normal(size=PROMPTS)).tolist()
            found.append(
                Record.model_validate(
                    {"suite": "s", "label": f"{label} kl_coef={value}", "method": "m", "distribution": "d",
                     "version": "0", "seed": seed, "key": "k", "status": "ok",
                     "knob": {"name": "kl_coef", "value": value},
                     "metrics": {"kl_nats_exact": kl, "reward_gold": float(np.mean(gold))},
                     "context": {"start_gold_sd": 1.0, "delta": 0.2},
                     "per_prompt": {"reward_gold": gold, "reward_gold_gain": gold,
                                    "reward_proxy": (proxy + 0.05 * rng.normal(size=PROMPTS)).tolist()}}
                )
            )  # fmt: skip
    return found


def test_a_peak_is_told_with_its_place_and_height_and_the_row_that_went_beyond_it_is_named() -> None:
    records = swept("ppo", 0.6, 0.5)  # peak at exp(0.4) = 1.49 nats
    text = "\n".join(section(records))
    peak = curves(records)["ppo"].peak
    assert peak is not None
    assert f"| {peak.kl_nats.mean:.3g} [{peak.kl_nats.low:.3g}, {peak.kl_nats.high:.3g}] |" in text
    assert f"| {peak.gain.mean:+.2f} [{peak.gain.low:.2f}, {peak.gain.high:.2f}] |" in text
    assert "- ppo kl_coef=4 is over-optimised: against ppo kl_coef=" in text
    assert "No row's proxy rises" not in text
    assert text in to_markdown(records)


def test_a_hacked_rows_worst_completions_are_shown_each_replicates_first_in_turn_and_harmless() -> None:
    def worst(seed: int, rank: int) -> dict[str, object]:
        return {"prompt": f"s{seed} ", "completion": f"r{rank} <b>|`x`\n", "proxy_gain": 2.0, "gold_gain": -1.0}

    records = [
        r.model_copy(update={"exploits": tuple(Exploit(**worst(r.seed, rank)) for rank in range(4))})
        for r in swept("ppo", 0.6, 0.5)
    ]
    lines = [line for line in section(records) if "against the start's on the prompt" in line]
    assert len(lines) == 10
    assert [line.partition("prompt: ")[2].split()[:2] for line in lines[:6]] == [
        *([f"s{seed}", "r0"] for seed in range(5)), ["s0", "r1"]
    ]  # fmt: skip
    assert lines[0] == (
        "- ppo kl_coef=4, seed 0: proxy +2.00, gold -1.00 against the start's on the prompt: "
        "s0 r0 &lt;b&gt;&#124;\\`x\\`"
    )
    assert "on the prompt:" not in "\n".join(section(swept("ppo", 0.5, 0.0)))


def test_a_row_that_still_rises_has_no_peak_and_the_table_says_why() -> None:
    text = "\n".join(section(swept("ppo", 0.5, 0.0)))
    assert "- ppo: not identifiable" in text
    assert "- No row's proxy rises while its gold falls" in text


@pytest.mark.parametrize(("seeds", "over"), [(1, "prompts alone: this run only"), (3, "other replicates")])
def test_what_the_intervals_are_over_is_said(seeds: int, over: str) -> None:
    assert over in "\n".join(section(swept("ppo", 0.6, 0.5, seeds=seeds)))


def test_a_row_that_lacks_points_in_one_replicate_is_named() -> None:
    records = [r for r in swept("ppo", 0.6, 0.5) if r.seed != 2 or r.knob is None or r.knob.value < 3]
    text = "\n".join(section([*records, *swept("rlaif", 0.6, 0.5)]))
    assert "- ppo: no curve, too few points in seed 2" in text
    assert "| rlaif |" in text
    assert "| ppo |" not in text


def test_two_settings_make_no_curve_and_a_hostile_label_acts_on_nobody() -> None:
    records = swept("<b>|ppo", 0.6, 0.5)
    assert "<b>" not in "\n".join(section(records))
    rising = [r for r in swept("ppo", 0.6, 0.0) if r.knob is not None and r.knob.value < 3]
    assert section(rising) == []
    fallen = "\n".join(section([r for r in records if r.knob is not None and r.knob.value < 3]))
    assert "is over-optimised" in fallen  # two settings are enough to see that
    assert "alpha" not in fallen.split("Forms of")[0]
    assert section([]) == []
