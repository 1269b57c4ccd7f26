from __future__ import annotations

import base64
import json
import math
from array import array
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidbg.evaluation import report as reports
from vidbg.evaluation.measure import DTSSD, MAX_F_BETA, MSE, Exhibit, J, Report

VOID = {"meta", "img", "br", "line", "polyline"}


class Page(HTMLParser):
    """Checks that what is opened is closed, and remembers tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def jpeg() -> bytes:
    done, coded = cv2.imencode(".jpg", np.full((20, 30, 3), 77, np.uint8))
    assert done
    return coded.tobytes()


def make_report(source: str = "clip.mp4", frames: int = 4) -> Report:
    overlap = array("d", [1.0, 0.25, 0.5, 0.75] * (frames // 4))
    change = array("d", [math.nan] + [7.0] * (frames - 1))
    return Report(
        source=Path(source),
        truth=Path("truth"),
        kind="binary",
        made_by="u2netp, smooth 0.5",
        names=(),
        frame_rate=Fraction(30000, 1001),
        start_s=Fraction(0),
        frames=frames,
        series={J: overlap, DTSSD: change},
        means={J: 0.625, MAX_F_BETA: 0.8, DTSSD: 7.0},
        ranked_by=J,
        worst=(Exhibit(1, 0.25, (("source", jpeg()), ("matte", jpeg()))),),
    )


def test_a_minute_has_sixty_seconds() -> None:
    report = replace(make_report(), frame_rate=Fraction(240))
    assert report.label(14398) == "frame 14398, 0:59.99"
    assert report.label(14399) == "frame 14399, 1:00.00"  # 59.996 s
    assert reports._tick_label(report, 14399) == "1:00.0"


def test_the_table_says_mean_and_worst_in_columns() -> None:
    lines = reports.table(make_report())
    assert [line.split() for line in lines] == [
        ["mean", "worst", "at"],
        ["J", "0.625", "0.250", "frame", "1,", "0:00.03"],
        [*MAX_F_BETA.name.split(), "0.800"],
        ["dtSSD", "7.0", "7.0", "frame", "1,", "0:00.03"],
    ]
    assert lines[0].index("at") == lines[1].index("frame") == lines[3].index("frame")
    assert {line[:12].rindex(".") for line in lines[1:3]} == {lines[1].index("0.625") + 1}


def test_json_holds_every_frame_and_null_for_what_is_not_defined() -> None:
    told = json.loads(reports.as_json(make_report()))
    assert told["mean"] == {"J": 0.625, MAX_F_BETA.name: 0.8, "dtSSD": 7.0}
    assert told["frame_rate"] == "30000/1001"
    assert [frame["J"] for frame in told["per_frame"]] == [1, 0.25, 0.5, 0.75]
    assert [frame["dtSSD"] for frame in told["per_frame"]] == [None, 7, 7, 7]
    assert told["worst"] == [{"frame": 1, "J": 0.25}]
    assert (told["source"], told["truth"], told["truth_kind"]) == ("clip.mp4", "truth", "binary")


def test_the_page_is_whole_and_fetches_nothing() -> None:
    text = reports.as_html(make_report())
    page = Page(text)
    assert "http" not in text
    assert len(page.all("svg")) == 2
    # The curve of the change begins at the second frame, where it is defined.
    curves = [line["points"] or "" for line in page.all("polyline")]
    assert [len(points.split()) for points in curves] == [4, 3]
    pictures = [image["src"] or "" for image in page.all("img")]
    assert len(pictures) == 2
    for source in pictures:
        kind, _, coded = source.partition(",")
        assert kind == "data:image/jpeg;base64"
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(coded), np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        assert decoded.shape == (20, 30, 3)


def test_curves_lie_within_the_plot_and_in_the_right_place() -> None:
    page = Page(reports.as_html(make_report()))
    curve = page.all("polyline")[0]["points"] or ""
    places = [tuple(map(float, point.split(","))) for point in curve.split()]
    columns, rows = zip(*places, strict=True)
    assert columns[0] == 48
    assert columns[-1] == 852
    assert list(columns) == sorted(columns)
    # 1 is at the top; 0.25, 0.5 and 0.75 are evenly spaced below it.
    assert rows[0] == 8
    assert rows[1] - rows[2] == pytest.approx(rows[2] - rows[3], abs=0.11)
    assert rows[3] - rows[0] == pytest.approx(rows[2] - rows[3], abs=0.11)


def test_names_are_text_and_no_markup() -> None:
    hostile = '<script>alert(1)</script>&\udce9".mp4'
    text = reports.as_html(make_report(hostile))
    assert "<script" not in text
    page = Page(text)
    assert any("<script>alert(1)" in found for found in page.texts)


def test_pictures_go_by_name() -> None:
    report = make_report()
    pictures = Report(
        **{name: getattr(report, name) for name in Report.__slots__}
        | {"frame_rate": None, "names": ("a.jpg", "b.jpg", "c.jpg", "d.jpg")}
    )
    assert reports.summary(pictures).startswith("clip.mp4: 4 pictures, against truth (binary)")
    assert "b.jpg" in reports.table(pictures)[1]
    assert "Worst pictures" in reports.as_html(pictures)


def test_a_long_clip_is_thinned_for_its_curve() -> None:
    values = array("d", [float(n % 10) for n in range(100_000)])
    points = reports._thinned(values)
    assert len(points) == 800
    assert all(4 < value < 5 for _, value in points)
    assert points[0][0] == 62
    assert reports._thinned(array("d", [math.nan, 3.0])) == [
        (0, pytest.approx(math.nan, nan_ok=True)),
        (1, 3),
    ]


def test_curves_break_where_nothing_is_defined() -> None:
    nan = math.nan
    points = list(enumerate([nan, 1.0, 2.0, nan, nan, 3.0]))
    assert list(reports._pieces(points)) == [[(1, 1.0), (2, 2.0)], [(5, 3.0)]]


@given(
    values=st.lists(st.floats(0, 1e4), min_size=1, max_size=20),
    figure=st.sampled_from([MSE, J, DTSSD]),
)
def test_the_scale_holds_all_values_in_few_round_steps(
    values: list[float], figure: reports.Figure
) -> None:
    if figure is J:
        values = [value / 1e4 for value in values]
    ticks = reports._ticks(figure, values)
    assert ticks[0] <= min(values) + 1e-6
    assert ticks[-1] >= max(values) - 1e-6
    assert 2 <= len(ticks) <= 6
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    assert f"{steps[0]:e}"[0] in "125"
    assert ticks[-1] >= 1 if figure is J else ticks[0] == 0
