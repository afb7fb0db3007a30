"""Which rewards are warned of, at what bounds, once for all rows that share one."""

from __future__ import annotations

from alignbench.report.reward_models import warnings
from alignbench.report.table import to_markdown
from alignbench.scoring.record import Record

SOUND = {"train": (85, 100), "held_out": (75, 100), "excess": 0.05}


def record(label: str = "ppo", seed: int = 0, proxy: str = "reward_model(panel)", **changes) -> Record:
    told = {**SOUND, **changes}
    return Record.model_validate(
        {"suite": "s", "label": label, "method": "m", "distribution": "d", "version": "0", "seed": seed, "key": "k",
         "status": "ok", "proxy": proxy, "metrics": {"reward_model_overconfidence": told["excess"], "reward_gold": 0.0},
         "per_prompt": {"reward_gold": [0.0, 0.0]},
         "counts": {"reward_model_train_accuracy": told["train"], "reward_model_accuracy": told["held_out"]}}
    )  # fmt: skip


def test_a_sound_one_is_not_warned_of() -> None:
    assert warnings([record()]) == []


def test_each_bound_has_its_warning_with_the_numbers() -> None:
    (heart,) = warnings([record(train=(96, 100), held_out=(90, 100))])
    assert heart.endswith("so it has learned their noise (seed 0: 96.0% of training pairs, 90.0% of held-out ones)")
    (gap,) = warnings([record(train=(90, 100), held_out=(65, 100))])
    assert "training pairs are more than 15 points of accuracy above held-out ones" in gap
    (sure,) = warnings([record(excess=0.12)])
    assert sure.endswith("it is surer than it is right by more than 10 points on held-out pairs (seed 0: 12.0%)")
    assert warnings([record(excess=-0.4)]) == []  # less sure than it might be


def test_a_gap_within_two_standard_errors_is_no_warning() -> None:
    assert warnings([record(train=(9, 10), held_out=(7, 10))]) == []  # 20 points, of which chance makes 35
    assert warnings([record(train=(900, 1000), held_out=(700, 1000))]) != []


def test_rows_that_share_a_proxy_are_one_line_and_replicates_are_named() -> None:
    twice = [record(label, seed, excess=0.2) for label in ("ppo", "best_of_n") for seed in (0, 3)]
    (line,) = warnings(twice)
    assert line.startswith("reward_model(panel): it is surer")
    assert line.endswith("(seed 0: 20.0%; seed 3: 20.0%)")
    implicit = "reward_model(panel), accuracy of the implicit reward"
    said = warnings([record(label, proxy=implicit, excess=0.2) for label in ("dpo beta=0.1", "dpo beta=0.3")])
    assert [line.partition(":")[0] for line in said] == ["dpo beta=0.1", "dpo beta=0.3"]


def test_a_warning_stands_in_the_tables_notes() -> None:
    written = to_markdown([record(excess=0.2)])
    assert "it is surer than it is right" in written.split("Notes:")[1]
    assert "Reward models:" in written


def test_that_a_fitted_reward_is_of_the_policys_family_is_said() -> None:
    fitted = record()
    fitted = fitted.model_copy(update={"metrics": {**fitted.metrics, "reward_model_steps": 16}})
    assert "- Family: fitted reward models grow from the policy's own base model" in to_markdown([fitted])
    assert "Family:" not in to_markdown([record()])
