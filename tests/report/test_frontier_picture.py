"""The picture holds every row, dot and replicate where the records have them, the same bytes each time, and no code."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import combinations
from math import log
from pathlib import Path

import pytest

from alignbench.report.frontier_lines import HEIGHT, LONGEST, WIDTH, lines_of
from alignbench.report.frontier_picture import to_svg
from alignbench.report.label_places import LINE, Point, place, width_of
from alignbench.scoring.record import Record, read_records, write_records

pytest.importorskip("altair", reason="pip install 'alignbench[report]'")
pytest.importorskip("vl_convert", reason="pip install 'alignbench[report]'")

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def cell(label: str, kl: float, gain: float, seed: int = 0, bound: float | None = None, status: str = "ok") -> Record:
    name, _, value = label.rpartition(" ")[2].partition("=")
    is_ok = status == "ok"
    return Record.model_validate(
        {"suite": "s", "label": label, "method": "m", "distribution": "d", "version": "0", "seed": seed, "key": "k",
         "status": status, "cause": None if is_ok else "boom",
         "knob": {"name": name, "value": float(value)} if value else None,
         "metrics": {"kl_nats_exact": kl, "kl_nats_bound": bound} if is_ok else {},
         "per_prompt": {"reward_gold_gain": [gain - 0.1, gain + 0.1]} if is_ok else {}}
    )  # fmt: skip


def sweep(row: str, seeds: int, slope: float) -> list[Record]:
    return [
        cell(f"{row} beta={beta}", beta * (1 + 0.2 * seed), slope * beta + 0.1 * seed, seed)
        for seed in range(seeds)
        for beta in (1, 4, 9)
    ]


SIX = [r for i, row in enumerate("abcdef") for r in sweep(row, 5, 0.3 - 0.1 * i)]


def texts(svg: str) -> list[str]:
    return [str(element.text) for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_a_dot_is_the_mean_of_kl_and_gain_over_replicates_and_hollow_where_one_is_missing() -> None:
    records = [*sweep("dpo", 2, 0.5), cell("dpo beta=20", 20, 1.0), cell("dpo beta=20", 0, 0, 1, status="failed")]
    records += [cell("sft", 0.0, 0.0), cell("sft", 0.0, 0.0, 1)]
    (line,) = lines_of(records)  # the start alone is no line
    assert [(dot.kl, dot.gain) for dot in line.dots] == [
        (0, 0), pytest.approx((1.1, 0.55)), pytest.approx((4.4, 2.05)), pytest.approx((9.9, 4.55)), (20, 1)
    ]  # fmt: skip
    assert [dot.is_whole for dot in line.dots] == [True, True, True, True, False]
    assert any("hollow: some replicates lack it" in text for text in texts(to_svg(records)))


def test_the_lines_lie_in_the_svg_where_the_square_root_scale_puts_them() -> None:
    records = [cell("dpo beta=1", 1.0, 1.0), cell("dpo beta=4", 4.0, 2.0)]
    most = 4.0 * 1.03
    low, high = -0.12, 2.12  # 6 % around 0 to 2
    svg = to_svg(records)
    (drawn,) = re.findall(r'd="(M[-\d.,L]+)" stroke="#0072B2" stroke-width="2.2"', svg)
    seen = [tuple(map(float, pair.split(","))) for pair in re.split("[ML]", drawn)[1:]]
    expected = [
        (WIDTH * (kl / most) ** 0.5, HEIGHT * (high - gain) / (high - low)) for kl, gain in ((0, 0), (1, 1), (4, 2))
    ]
    assert [xy for point in seen for xy in point] == pytest.approx([xy for point in expected for xy in point], abs=0.01)


def test_one_run_says_so_and_several_are_drawn_thin_behind_their_mean() -> None:
    one, three = to_svg(sweep("dpo", 1, 0.5)), to_svg(sweep("dpo", 3, 0.5))
    assert "one run" in texts(one)
    assert "mean of 3 replicates, each of them thin" in texts(three)
    assert (one.count('opacity="0.3"'), three.count('opacity="0.3"')) == (0, 3)


def test_a_decoding_rule_is_dashed_and_a_trained_policy_is_not() -> None:
    rule = [cell(f"best_of_n n={n}", 0.0, 0.1 * n, bound=log(n) - (n - 1) / n) for n in (2, 4)]
    trained = to_svg(sweep("dpo", 1, 0.5))
    both = to_svg([*sweep("dpo", 1, 0.5), *rule])
    assert 'stroke-dasharray="6,4"' in both
    assert 'stroke-dasharray="6,4"' not in trained
    assert "one run; dashed: at the upper bound of its KL" in texts(both)


def test_titles_are_the_glossarys() -> None:
    said = texts(to_svg(sweep("dpo", 1, 0.5)))
    assert {
        "Gain over SFT against KL",
        "KL, nats (square-root scale)",
        "Gain over SFT, points of the task's scale",
    } <= set(said)
    assert "0" in said


HOSTILE = ("<script>alert(1)</script>", "a\"b'&c", "</svg><x onload=1>", "datum.kl \x1b[31m\u202e", "x" * 999)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_label_is_text_and_never_code(name: str) -> None:
    svg = to_svg([cell(f"{name} beta={beta}", beta, 0.1 * beta) for beta in (1, 2)])
    tags = {element.tag for element in ET.fromstring(svg).iter()}
    assert tags <= {f"{SVG}{tag}" for tag in ("svg", "rect", "g", "path", "line", "text", "defs", "clipPath")}
    assert not re.search(r"<script|onload=1>", svg)
    assert not {"\x1b", "\u202e"} & set(svg)
    (shown,) = {text for text in texts(svg) if text[:4] == name[:4]}
    assert len(shown) <= LONGEST
    assert name == shown or len(name) > LONGEST or "\x1b" in name


def test_the_same_records_give_the_same_bytes_in_another_process_and_nothing_of_this_machine(tmp_path: Path) -> None:
    write_records(tmp_path / "records.jsonl", SIX)
    code = (
        "import sys; from pathlib import Path; from alignbench.report.frontier_picture import to_svg; "
        "from alignbench.scoring.record import read_records; print(to_svg(read_records(Path(sys.argv[1]))), end='')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "records.jsonl")]
    elsewhere = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    other = subprocess.run(command, env=elsewhere, cwd=ROOT, capture_output=True, check=True)
    svg = to_svg(SIX)
    assert other.stdout.decode() == svg
    assert not re.search(r"/(home|tmp|root|usr|work)/|file:|20\d\d-\d\d", svg)
    assert socket.gethostname() not in svg
    links = set(re.findall(r'https?://[^"\s<]+', svg))
    assert links <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


@pytest.mark.parametrize(
    "records", [SIX, read_records(ROOT / "results/quickstart/records.jsonl")], ids=["six", "quickstart"]
)
def test_every_row_is_named_once_within_the_picture(records: list[Record]) -> None:
    root = ET.fromstring(to_svg(records))
    names = {line.name for line in lines_of(records)}
    shown = [element.text for element in root.iter(f"{SVG}text") if element.text in names]
    assert sorted(map(str, shown)) == sorted([*names, *names])  # over a white rim of its own
    assert float(root.attrib["width"]) >= WIDTH
    assert not any(re.fullmatch(r"[\d.]+e[+-]?\d+", element.text or "") for element in root.iter(f"{SVG}text"))


def test_names_do_not_meet_even_where_all_lines_end_at_one_point() -> None:
    names = [f"method number {i}" for i in range(10)]
    ends = [[Point(0, 300), Point(500, 100)] for _ in names]
    boxes = place(names, ends, HEIGHT)
    assert not any(a.meets(b) for a, b in combinations(boxes, 2))
    assert all(box.x >= 0 and 0 <= box.y <= HEIGHT for box in boxes)


def test_a_lone_name_stands_right_beside_its_line() -> None:
    (box,) = place(["dpo"], [[Point(0, 300), Point(500, 100)]], HEIGHT)
    assert (box.x > 500, box.y, box.width) == (True, 100, width_of("dpo"))
    assert width_of("漢字") > width_of("dpo") / 3 * 2
    (below,) = place(["dpo"], [[Point(0, 300), Point(500, 2)]], HEIGHT)
    assert 0 <= below.y <= 2 + LINE


def test_rows_of_one_picture_look_different() -> None:
    svg = to_svg([r for i in range(12) for r in sweep(f"row{i}", 1, 0.1 * i)])
    dots = re.findall(r'd="([^"]*)" fill="([^"]*)" stroke="([^"]*)" stroke-width="1.5"', svg)
    assert len(dots) == 12 * 3 + 1, svg[:9000]
    looks = set(dots)
    assert len(looks) == 12 + 1  # and the start
