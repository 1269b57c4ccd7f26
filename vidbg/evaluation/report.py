"""What was measured, as a table, as JSON, and as a page that opens in any browser.

The page is one file: curves are inline SVG, pictures are data URIs, nothing is fetched.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from vidbg import __version__

if TYPE_CHECKING:
    from vidbg.evaluation.measure import Exhibit, Figure, Report

_PLOT_WIDTH_PX, _PLOT_HEIGHT_PX = 860, 150
_MARGIN_LEFT_PX, _MARGIN_RIGHT_PX, _MARGIN_TOP_PX, _MARGIN_BOTTOM_PX = 48, 8, 8, 22
# More points than this say no more at that width: each is then the mean of several frames.
_MOST_POINTS: Final = 800
_TICKS: Final = 4

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1700px; margin: 2em auto; padding: 0 1.5em;
  color: #1c2126; background: #fff; }
h1 { font-size: 1.4em; margin-bottom: 0; } h2 { font-size: 1.1em; margin-top: 2em; }
p { max-width: 60em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .9em .25em 0; text-align: left; border-bottom: 1px solid #dde1e6; }
td.number { text-align: right; }
.plots { display: flex; flex-wrap: wrap; gap: 1em 2em; }
figure { margin: 0; } figcaption { color: #57606a; font-size: .9em; }
.panels { display: flex; flex-wrap: wrap; gap: .5em; margin: .3em 0 1.5em; }
.panels img { display: block; max-width: 100%; }
svg text { font: 11px system-ui, sans-serif; fill: #57606a; }
svg .grid { stroke: #e4e8ec; } svg .curve { fill: none; stroke: #0b62c4; stroke-width: 1.3; }
svg .mean { stroke: #0b62c4; stroke-dasharray: 4 4; opacity: .6; }
svg .worst { fill: #d1480a; }
@media (prefers-color-scheme: dark) {
  body { color: #d8dee4; background: #14181c; } th, td { border-color: #333b44; }
  svg .grid { stroke: #2a3138; } svg .curve, svg .mean { stroke: #6cb0ff; }
  figcaption, svg text { color: #9aa4ae; fill: #9aa4ae; }
}
"""


def summary(report: Report) -> str:
    """Return in one line what was measured."""
    count = "1 frame" if report.frames == 1 else f"{report.frames} frames"
    if report.frame_rate is None:
        count = "1 picture" if report.frames == 1 else f"{report.frames} pictures"
    against = "no truth" if report.truth is None else f"against {report.truth} ({report.kind})"
    return f"{report.source}: {count}, {against}, {report.made_by}"


def table(report: Report) -> list[str]:
    """Return the figures as lines of text in columns: mean, worst, and where that is."""
    rows = [("", "mean", "worst", "at")]
    for figure, mean in report.means.items():
        worst = report.worst_of(figure)
        where = ("", "") if worst is None else (_number(figure, worst[1]), report.label(worst[0]))
        rows.append((figure.name, _number(figure, mean), *where))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in (1, 2) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def as_json(report: Report) -> str:
    """Return all figures as a JSON document; what is not defined is null."""
    frames = [
        {"frame": index, "name": report.label(index)}
        | {
            figure.name: None if math.isnan(values[index]) else values[index]
            for figure, values in report.series.items()
        }
        for index in range(report.frames)
    ]
    document = {
        "vidbg": __version__,
        "source": str(report.source),
        "truth": None if report.truth is None else str(report.truth),
        "truth_kind": report.kind,
        "made_by": report.made_by,
        "frame_rate": None if report.frame_rate is None else str(report.frame_rate),
        "frames": report.frames,
        "mean": {figure.name: mean for figure, mean in report.means.items()},
        "meaning": {figure.name: figure.meaning for figure in report.means},
        "worst": [
            {"frame": exhibit.index, report.ranked_by.name: exhibit.value}
            for exhibit in report.worst
        ],
        "per_frame": frames,
    }
    return json.dumps(document, indent=1)


def as_html(report: Report) -> str:
    """Return the page: table, curves over time, pictures of the worst frames."""
    title = f"{report.source.name}: {report.made_by}"
    unit = "frames" if report.frame_rate else "pictures"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(report.source.name)}</h1>",
        f"<p>{escape(summary(report))}. vidbg {__version__}.</p>",
        *_html_table(report),
    ]
    if report.frames > 1:
        over = "time" if report.frame_rate else "the pictures"
        parts += [f"<h2>Over {over}</h2>", '<div class="plots">']
        parts += [_plot(report, figure, values) for figure, values in report.series.items()]
        parts.append("</div>")
    if report.worst:
        parts.append(f"<h2>Worst {unit}, by {escape(report.ranked_by.name)}</h2>")
        parts.append(
            "<p>In the difference, orange is what the matte has too much, blue what it lacks"
            f"{', against the frame before' if report.kind is None else ''}.</p>"
        )
        for exhibit in report.worst:
            parts += _html_exhibit(report, exhibit)
    return "\n".join([*parts, "</body></html>", ""])


def _number(figure: Figure, value: float) -> str:
    return f"{value:.{figure.decimals}f}"


def _html_table(report: Report) -> Iterator[str]:
    yield "<table><tr><th></th><th>mean</th><th>worst</th><th>at</th><th></th></tr>"
    for figure, mean in report.means.items():
        worst = report.worst_of(figure)
        value, where = ("", "") if worst is None else (_number(figure, worst[1]), worst[0])
        label = report.label(where) if isinstance(where, int) else ""
        arrow = "more is better" if figure.is_merit else "less is better"
        yield (
            f"<tr><th>{escape(figure.name)}</th>"
            f'<td class="number">{_number(figure, mean)}</td><td class="number">{value}</td>'
            f"<td>{escape(label)}</td><td>{escape(figure.meaning)}; {arrow}</td></tr>"
        )
    yield "</table>"


def _html_exhibit(report: Report, exhibit: Exhibit) -> Iterator[str]:
    name, value = report.ranked_by.name, _number(report.ranked_by, exhibit.value)
    yield f"<div>{escape(report.label(exhibit.index))}: {escape(name)} {value}</div>"
    yield '<div class="panels">'
    for caption, jpeg in exhibit.panels:
        coded = base64.b64encode(jpeg).decode("ascii")
        yield (
            f'<figure><img alt="{escape(caption)}" src="data:image/jpeg;base64,{coded}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    yield "</div>"


def _plot(report: Report, figure: Figure, values: Sequence[float]) -> str:
    """Return a figure's curve over the frames, its mean, and the worst frames, as SVG."""
    points = _thinned(values)
    ticks = _ticks(figure, [value for _, value in points if not math.isnan(value)])
    low, high = ticks[0], ticks[-1]
    left, right = _MARGIN_LEFT_PX, _PLOT_WIDTH_PX - _MARGIN_RIGHT_PX
    top, bottom = _MARGIN_TOP_PX, _PLOT_HEIGHT_PX - _MARGIN_BOTTOM_PX
    last = max(1, len(values) - 1)

    def x(frame: float) -> str:
        return f"{left + (right - left) * frame / last:.1f}"

    def y(value: float) -> str:
        share = (min(max(value, low), high) - low) / (high - low)
        return f"{bottom - (bottom - top) * share:.1f}"

    lines = []
    for tick in ticks:
        lines.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick)}" y2="{y(tick)}"/>'
            f'<text x="{left - 6}" y="{y(tick)}" text-anchor="end" dy="4">{tick:g}</text>'
        )
    for frame, anchor in ((0, "start"), (last // 2, "middle"), (last, "end")):
        lines.append(
            f'<text x="{x(frame)}" y="{_PLOT_HEIGHT_PX - 6}" text-anchor="{anchor}">'
            f"{escape(_tick_label(report, frame))}</text>"
        )
    mean = y(report.means[figure])
    lines.append(f'<line class="mean" x1="{left}" x2="{right}" y1="{mean}" y2="{mean}"/>')
    for piece in _pieces(points):
        line = " ".join(f"{x(frame)},{y(value)}" for frame, value in piece)
        lines.append(f'<polyline class="curve" points="{line}"/>')
    for exhibit in report.worst:
        value = values[exhibit.index]
        if not math.isnan(value):
            label = f"{report.label(exhibit.index)}: {_number(figure, value)}"
            lines.append(
                f'<circle class="worst" cx="{x(exhibit.index)}" cy="{y(value)}" r="3">'
                f"<title>{escape(label)}</title></circle>"
            )
    width, height = _PLOT_WIDTH_PX, _PLOT_HEIGHT_PX
    caption = f"{figure.name}: {figure.meaning}"
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(caption)}">{"".join(lines)}</svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _tick_label(report: Report, frame: int) -> str:
    if report.frame_rate is None:
        return str(frame + 1)
    at_s = round(float(report.start_s + frame / report.frame_rate), 1)
    return f"{int(at_s // 60)}:{at_s % 60:04.1f}"


def _thinned(values: Sequence[float]) -> list[tuple[float, float]]:
    """Return (frame, value) of at most so many points; each is the mean of what it stands for."""
    group = -(-len(values) // _MOST_POINTS)
    points = []
    for start in range(0, len(values), group):
        chosen = values[start : start + group]
        defined = [value for value in chosen if not math.isnan(value)]
        mean = math.fsum(defined) / len(defined) if defined else math.nan
        points.append((start + (len(chosen) - 1) / 2, mean))
    return points


def _pieces(points: list[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    """Yield runs of points whose values are defined."""
    piece: list[tuple[float, float]] = []
    for point in points:
        if math.isnan(point[1]):
            if piece:
                yield piece
            piece = []
        else:
            piece.append(point)
    if piece:
        yield piece


def _ticks(figure: Figure, values: Sequence[float]) -> list[float]:
    """Return round numbers that span the values, and 1 of a merit or 0 of an error besides."""
    low, high = min(values), max(values)
    least = _TICKS * 10.0**-figure.decimals
    if figure.is_merit:
        high = max(high, 1.0)
        low = min(low, high - least)
    else:
        low = min(low, 0.0)
        high = max(high, low + least)
    step = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    step = next(step * times for times in (1, 2, 5, 10) if (high - low) <= _TICKS * step * times)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 9) for number in range(first, max(last, first + 1) + 1)]
