"""Gold gain over exact KL as one SVG: a line per row, a dot per setting or snapshot, every replicate thin behind it.

    if can_draw():
        svg = to_svg(ends_and_snapshots)

KL runs on a square-root scale, on which what `scoring.traces` reads between two points is the straight line drawn. A
dot is the mean over replicates of both KL and gain. The same records give the same bytes: nothing is measured by the
machine's fonts, and no path, date or host goes in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from math import dist
from typing import Any

from alignbench.report.frontier_lines import HEIGHT, WIDTH, Frame, Line, frame_of, lines_of, ticks_of
from alignbench.report.label_places import FONT, Box, Point, nearest, place
from alignbench.scoring.glossary import GLOSSARY
from alignbench.scoring.record import Record

INSTALL = "pip install 'alignbench[report]'"
LEFT, TOP, BOTTOM = 62, 62, 52  # px around the plot
# Okabe and Ito's colours, which the colour-blind can tell apart, darker where white would drown them; without yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#A8558A", "#B87700", "#222222", "#3D9BD6", "#7B4B2A", "#6B7A00")
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down")  # as many as share no factor with the colours
DASHED, SOLID = "bound", "exact"
ALIGNED = {"left": 0.0, "center": 0.5, "right": 1.0}  # the share of a name that lies left of where it is held


def can_draw() -> bool:
    return all(find_spec(name) is not None for name in ("altair", "vl_convert"))


def to_svg(records: Sequence[Record]) -> str:
    """`records`: a suite's ends and snapshots, of which at least one moved from the start; UserError as
    `scoring.traces`."""
    import vl_convert  # slow to load, and an extra

    return vl_convert.vegalite_to_svg(chart(records).to_dict())


# ---------------------------------------------------------------------------------------------------------- the chart


def chart(records: Sequence[Record]) -> Any:
    """An altair chart with all its numbers inside: layers from the back to the front."""
    import altair as alt  # as above

    lines = lines_of(records)
    frame = frame_of(lines)
    boxes = place(
        [line.name for line in lines], [[frame.px(d.kl, d.gain) for d in line.dots] for line in lines], HEIGHT
    )
    x, y = _axes(frame)
    own, order, detail = alt.Color("colour:N", scale=None), alt.Order("order:Q"), alt.Detail("line:N")
    dash = alt.StrokeDash("dash:N", scale=alt.Scale(domain=[SOLID, DASHED], range=[[1, 0], [6, 4]]), legend=None)

    def layer(values: Iterable[dict[str, Any]]) -> Any:
        return alt.Chart(alt.Data(values=list(values)))

    def drawn(values: Iterable[dict[str, Any]], width: float, opacity: float) -> Any:
        marked = layer(values).mark_line(strokeWidth=width, opacity=opacity, aria=False)
        return marked.encode(x=x, y=y, color=own, strokeDash=dash, order=order, detail=detail)

    def written(**rim: Any) -> Iterator[Any]:
        for align, share in ALIGNED.items():
            if values := list(_names(lines, boxes, frame, align, share)):
                marked = layer(values).mark_text(align=align, baseline="middle", fontSize=FONT, aria=False, **rim)
                yield marked.encode(x=x, y=y, text="name:N", **({} if rim else {"color": own}))

    layers = [
        layer([{"gain": 0.0}]).mark_rule(color="#999999", aria=False).encode(y=y),
        drawn(_replicates(lines), 1, 0.3),
        *written(stroke="white", strokeWidth=3, color="white"),
        drawn(_ways(lines, boxes, frame), 0.8, 0.8),
        drawn(_means(lines), 2.2, 1),
        layer(_dot_values(lines)).mark_point(size=50, opacity=1, strokeWidth=1.5, aria=False).encode(
            x=x, y=y, stroke=alt.Stroke("colour:N", scale=None), fill=alt.Fill("fill:N", scale=None),
            shape=alt.Shape("shape:N", scale=None),
        ),
        *written(),
    ]  # fmt: skip
    right = max([box.x + box.width - WIDTH for box in boxes] + [0.0]) + 14
    size = {"width": WIDTH, "height": HEIGHT, "padding": {"left": LEFT, "top": TOP, "right": right, "bottom": BOTTOM}}
    fixed = alt.AutoSizeParams(type="none")  # else text would be measured by the machine's fonts
    drawing = alt.layer(*layers).properties(**size, autosize=fixed, background="white", title=_title(lines))
    return drawing.configure_view(stroke=None).configure_axis(
        titleFontSize=12, titleFontWeight="normal", titlePadding=8
    )


def _axes(frame: Frame) -> tuple[Any, Any]:
    import altair as alt  # as above

    gain, kl = GLOSSARY["reward_gold_gain"], GLOSSARY["kl_nats_exact"]
    ticks = alt.Axis(values=ticks_of(frame.most_kl), format=".6~g", labelOverlap=False, labelFlush=False, grid=False)
    along = alt.Scale(type="sqrt", domain=[0, frame.most_kl], nice=False)
    signed = "datum.value == 0 ? '0' : datum.label"
    steps = alt.Axis(format="+~g", labelExpr=signed, labelOverlap=False, tickCount=6, gridColor="#eeeeee")
    up = alt.Scale(domain=[frame.low, frame.high], nice=False)
    return (
        alt.X("kl:Q", title=f"{kl.heading} (square-root scale)", scale=along, axis=ticks),
        alt.Y("gain:Q", title=f"{gain.heading}, {gain.unit}", scale=up, axis=steps),
    )


def _title(lines: Sequence[Line]) -> Any:
    import altair as alt  # as above

    most = max(len(line.replicates) for line in lines)
    said = ["one run" if most == 1 else f"mean of {most} replicates, each of them thin"]
    if any(line.is_bound for line in lines):
        said.append("dashed: at the upper bound of its KL")
    if not all(dot.is_whole for line in lines for dot in line.dots):
        said.append("hollow: some replicates lack it")
    heading = f"{GLOSSARY['reward_gold_gain'].heading} against {GLOSSARY['kl_nats_exact'].heading.partition(',')[0]}"
    return alt.TitleParams(
        heading, subtitle="; ".join(said), anchor="start", fontSize=15, subtitleFontSize=11, subtitleColor="#555555",
        offset=12,
    )  # fmt: skip


def _dash(line: Line) -> str:
    return DASHED if line.is_bound else SOLID


def _look(i: int) -> dict[str, Any]:
    return {"colour": COLOURS[i % len(COLOURS)], "shape": SHAPES[i % len(SHAPES)]}


def _path(i: int, name: str, dash: str, points: Iterable[tuple[float, float]]) -> Iterator[dict[str, Any]]:
    for order, (kl, gain) in enumerate(points):
        yield {**_look(i), "line": name, "dash": dash, "order": order, "kl": kl, "gain": gain}


def _replicates(lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    for i, line in enumerate(lines):
        for k, trace in enumerate(line.replicates if len(line.replicates) > 1 else ()):
            yield from _path(i, f"{i} {k}", _dash(line), ((point.x, point.gain) for point in trace.points))


def _means(lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    for i, line in enumerate(lines):
        yield from _path(i, str(i), _dash(line), ((dot.kl, dot.gain) for dot in line.dots))


def _dot_values(lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    yield {"colour": "#555555", "fill": "#555555", "shape": "circle", "kl": 0.0, "gain": 0.0}
    for i, line in enumerate(lines):
        for dot in line.dots[1:]:
            fill = _look(i)["colour"] if dot.is_whole else "white"
            yield {**_look(i), "fill": fill, "kl": dot.kl, "gain": dot.gain}


def _names(
    lines: Sequence[Line], boxes: Sequence[Box], frame: Frame, align: str, share: float
) -> Iterator[dict[str, Any]]:
    """Those held at their left end, middle or right end: at what is next to the line's end, for no width is exact."""
    for i, (line, box) in enumerate(zip(lines, boxes, strict=True)):
        end = frame.px(line.dots[-1].kl, line.dots[-1].gain).x
        if align == ("left" if box.x >= end else "right" if box.x + box.width <= end else "center"):
            kl, gain = frame.data(Point(box.x + share * box.width, box.y))
            yield {**_look(i), "name": line.name, "kl": kl, "gain": gain}


def _ways(lines: Sequence[Line], boxes: Sequence[Box], frame: Frame) -> Iterator[dict[str, Any]]:
    """From a line's end to its name, where that is not right beside it."""
    for i, (line, box) in enumerate(zip(lines, boxes, strict=True)):
        end = frame.px(line.dots[-1].kl, line.dots[-1].gain)
        to = nearest(box, end)
        if dist(end, to) > FONT:
            yield from _path(i, str(i), SOLID, (frame.data(point) for point in (end, to)))
