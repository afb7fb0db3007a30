"""What a stage spent, in dollars: sums by hand, and one line for a file that is no price list."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from alignbench.errors import UserError
from alignbench.scoring.prices import PriceList, Prices, load_prices

COST = {
    "seconds": 1800.0, "cpu_seconds": 7200.0, "labels_human": 20, "labels_ai": 3, "tokens_judged": 500_000
}  # fmt: skip
EXAMPLE = Path(__file__).parents[2] / "benchmarks" / "prices" / "example.yaml"


def dollars(device: str = "cpu: Some Processor", cost: dict[str, float] = COST, **prices: object) -> float | None:
    return Prices(PriceList.model_validate(prices), "p.yaml", "").dollars(cost, device)


def test_half_an_hour_of_a_device_is_half_its_price() -> None:
    hours = {"*H100*": 3.0, "*": 100.0}  # the first that fits
    assert dollars("cuda: NVIDIA H100 80GB HBM3", device_hour=hours, human_label=0) == 1.5
    assert dollars("cuda: NVIDIA A100", device_hour=hours, human_label=0) == 50


def test_two_hours_of_cores_labels_and_tokens_are_added() -> None:
    assert dollars(cpu_core_hour=0.05, human_label=0.1, ai_tokens_million=4) == pytest.approx(2 * 0.05 + 2 + 2)


def test_a_reward_models_tokens_are_paid_for_by_its_device_alone() -> None:
    assert dollars(cost={**COST, "labels_ai": 0}, cpu_core_hour=0.05, human_label=0, ai_tokens_million=4) == 0.1


@pytest.mark.parametrize(
    ("device", "prices"),
    [
        ("cuda: NVIDIA A100", {"cpu_core_hour": 0.05, "human_label": 0.1}),  # a device that is no processor
        ("cpu: Some", {"human_label": 0.1}),
        ("cpu: Some", {"cpu_core_hour": 0.05}),  # people who were asked
    ],
)
def test_what_has_no_price_leaves_the_sum_unknown(device: str, prices: dict[str, float]) -> None:
    assert dollars(device, **prices) is None


def test_a_file_is_known_by_its_name_and_digest() -> None:
    assert load_prices(EXAMPLE).source == {
        "name": "example.yaml",
        "sha256": hashlib.sha256(EXAMPLE.read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cpu_hour: 1", ":1 cpu_hour: unknown key; did you mean 'cpu_core_hour'?"),
        ("cpu_core_hour: -1", ":1 cpu_core_hour: should be greater than or equal to 0, got -1"),
        ("device_hour: {H100: .nan}", ":1 device_hour.H100: should be a finite number, got .nan"),
        ("cpu_core_hour: true", ":1 cpu_core_hour: should be a number, got true or false"),
        ("human_label: yes", ":1 human_label: should be a number, got true or false"),
        ('human_label: "0.1"', ":1 human_label: should be a number, got the text"),
        ("cpu_core_hour: 1:30", ':1 cpu_core_hour: "1:30" would be read as a number in base 60'),
        ("human_label: 1\nhuman_label: 2", ":2 human_label: this key stands on line 1 already; remove one"),
        ("- 1", ":1: should be a mapping; it needs at least `cpu_core_hour: 0.05`"),
        ("[1", ":1: cannot be read as YAML"),
        ("\xff\x00", ":1: this is not UTF-8 text"),
        ("!!python/object/apply:os.system [ls]", ":1: should be a mapping"),
    ],
)
def test_what_is_no_price_list_is_refused_in_one_line(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as refused:
        load_prices(file)
    assert str(refused.value).startswith(f"{file}{problem}")
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    problem = r"none\.yaml: cannot be read: No such file or directory; give the path of a file of prices"
    with pytest.raises(UserError, match=problem):
        load_prices(tmp_path / "none.yaml")
