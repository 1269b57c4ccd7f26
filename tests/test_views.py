"""The ways in which frames are looked at, and what comes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg.matting.views import (
    LOOKS,
    Box,
    View,
    box_around,
    closer_size,
    seen,
    seen_closer,
    turns,
)

OWN, SQUARE = (4, 8), (6, 6)


def ramp(size: tuple[int, int], numbers: Sequence[int]) -> NDArray[np.uint8]:
    """Pictures that are 0 at the left and 200 at the right, and their number in green."""
    height, width = size
    pictures = np.zeros((len(numbers), height, width, 3), np.uint8)
    pictures[..., 0] = ((np.arange(width) + 0.5) / width * 200).round()
    pictures[..., 1] = np.array(numbers, np.uint8)[:, None, None]
    return pictures


def red(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Call a pixel's red its matte."""
    return (rgb[..., 0] / 255).astype(np.float32)


def test_neighbours_are_seen_in_different_shapes_and_directions() -> None:
    cycle = turns(OWN, SQUARE)

    assert len({view for (view,) in cycle}) == 4
    for (one,), (other,) in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
        assert one.size != other.size
    assert cycle[0] == (View(OWN),)


@pytest.mark.parametrize("looks", LOOKS)
def test_every_way_comes_as_often_as_any_other(looks: int) -> None:
    cycle = turns(OWN, SQUARE, looks)

    assert {len(chosen) for chosen in cycle} == {looks}
    views = [view for chosen in cycle for view in chosen]
    assert len(views) == len(set(views)) == 4


def test_two_looks_at_a_frame_differ_in_shape_and_direction() -> None:
    for one, other in turns(OWN, SQUARE, 2):
        assert one.size != other.size
        assert one.is_mirrored != other.is_mirrored


@pytest.mark.parametrize("looks", LOOKS)
def test_frames_that_are_not_smoothed_are_all_seen_alike(looks: int) -> None:
    cycle = turns(OWN, SQUARE, looks, in_turn=False)

    assert cycle == turns(OWN, SQUARE, looks)[:1]


@pytest.mark.parametrize("looks", [0, 3, 5])
def test_other_numbers_of_looks_are_refused(looks: int) -> None:
    with pytest.raises(ValueError, match=f"{looks} looks"):
        turns(OWN, SQUARE, looks)


@given(st.lists(st.sampled_from(turns(OWN, OWN, 4)[0]), min_size=1, max_size=5))
def test_a_matte_is_in_its_frame_however_it_was_seen(views: list[View]) -> None:
    mattes = seen(red, ramp, [(view,) for view in views], OWN)

    assert mattes.shape == (len(views), *OWN)
    assert mattes.dtype == np.float32
    expected = red(ramp(OWN, range(len(views))))
    assert np.abs(mattes - expected).max() < 1e-6


def test_squeezed_views_are_brought_back_to_size() -> None:
    (mattes,) = seen(red, ramp, [(View(SQUARE, True),)], OWN)

    # Linear in x, so that linear interpolation between pixel centres gives it back.
    inside = slice(1, -1)
    assert np.abs(mattes - red(ramp(OWN, [0]))[0])[:, inside].max() < 2 / 255


def test_several_looks_at_a_frame_give_their_mean() -> None:
    asked: list[tuple[int, ...]] = []

    def by_width(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        asked.append(rgb.shape[:3])
        return np.full(rgb.shape[:3], rgb.shape[2] / 10, np.float32)

    mattes = seen(by_width, ramp, turns(OWN, SQUARE, 4) * 2, OWN)

    assert np.abs(mattes - 0.7).max() < 1e-6
    # One call for each size, whatever the number of frames.
    assert sorted(asked) == [(4, *OWN), (4, *SQUARE)]


def test_each_frame_gets_its_own_matte() -> None:
    def green(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        return rgb[..., 1].astype(np.float32)

    mattes = seen(green, ramp, [*turns(OWN, SQUARE), *turns(OWN, SQUARE)], OWN)

    assert (mattes == np.arange(8)[:, None, None]).all()


# ---- Closer looks ------------------------------------------------------------------------------

FRAME = (180, 320)
THUMBNAIL = (36, 64)


def block(rows: tuple[int, int], columns: tuple[int, int]) -> NDArray[np.float32]:
    matte = np.zeros(THUMBNAIL, np.float32)
    matte[slice(*rows), slice(*columns)] = 1
    return matte


def test_a_box_is_around_its_subject_and_has_the_shape_of_the_frame() -> None:
    # A sixth of the rows: with a fifth of that and a fiftieth of the frame on either side 27.3 %,
    # and the least is 30 %, around the middle of 18 of 36 rows and 16 of 64 columns.
    box = box_around(block((15, 21), (14, 18)), (1800, 3200))

    assert box is not None
    found = [box.top, box.bottom, box.left, box.right]
    np.testing.assert_allclose(found, [630, 1170, 320, 1280], atol=1)


@given(
    rows=st.tuples(st.integers(0, 35), st.integers(1, 36)).filter(lambda ends: ends[0] < ends[1]),
    columns=st.tuples(st.integers(0, 63), st.integers(1, 64)).filter(lambda e: e[0] < e[1]),
    frame=st.tuples(st.integers(1, 2200), st.integers(1, 4100)),
    steps=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])),
)
def test_boxes_are_in_the_frame_and_hold_the_subject_and_a_margin(
    rows: tuple[int, int], columns: tuple[int, int], frame: tuple[int, int], steps: tuple[int, int]
) -> None:
    box = box_around(block(rows, columns), frame, steps)

    shares = [(rows[0] / 36, rows[1] / 36), (columns[0] / 64, columns[1] / 64)]
    margins = [0.2 * (stop - start) + 0.02 for start, stop in shares]
    widest = max(
        stop - start + 2 * margin for (start, stop), margin in zip(shares, margins, strict=True)
    )
    if box is None:
        assert widest > 0.5 - 1e-9
        return
    assert widest < 0.5 + 1e-9
    sides = (box.top, box.bottom), (box.left, box.right)
    for (begin, end), (start, stop), margin, size, step in zip(
        sides, shares, margins, frame, steps, strict=True
    ):
        assert 0 <= begin < end <= size
        assert begin % step == 0
        assert end % step == 0 or end == size
        assert begin <= max(0, start - margin) * size + 1e-6
        assert end >= min(1, stop + margin) * size - 1e-6
        assert end - begin <= 0.5 * size + 2 * step


@pytest.mark.parametrize("rows", [(0, 0), (0, 36), (10, 23)])
def test_there_is_no_box_around_nothing_or_much(rows: tuple[int, int]) -> None:
    assert box_around(block(rows, (10, 20)), FRAME) is None


def test_specks_do_not_widen_a_box() -> None:
    subject = block((15, 21), (14, 24))
    box = box_around(subject, FRAME)
    subject[34, 60:62] = 1  # 2 of 60 pixels

    assert box is not None
    assert box_around(subject, FRAME) == box
    subject[33, 60:63] = 1
    assert box_around(subject, FRAME) is None


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_closer_looks_are_at_half_the_pixels(blocks: tuple[int, int]) -> None:
    size = (32 * blocks[0], 32 * blocks[1])
    closer = closer_size(size)

    assert all(side % 32 == 0 and side > 0 for side in closer)
    for side, whole in zip(closer, size, strict=True):
        assert abs(side - whole * 0.5**0.5) <= 16


def test_sizes_of_closer_looks() -> None:
    assert closer_size((256, 448)) == (192, 320)
    assert closer_size((320, 320)) == (224, 224)


def coded(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a picture that says values of 0 to 1 in 16 bits, as :func:`decoded` reads them."""
    codes = (values * 65535).round().astype(np.uint16)
    return np.dstack([codes >> 8, codes & 255, np.zeros_like(codes)]).astype(np.uint8)


def decoded(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    return ((rgb[..., 0] * np.float32(256) + rgb[..., 1]) / np.float32(65535)).astype(np.float32)


def sloped(frame: tuple[int, int], down: float, across: float) -> NDArray[np.float32]:
    """A matte of less than one half, linear in rows and columns."""
    rows = (np.arange(frame[0])[:, None] + 0.5) / frame[0]
    columns = (np.arange(frame[1]) + 0.5) / frame[1]
    return (0.05 + 0.2 * (down * rows + across * columns)).astype(np.float32)


@given(
    top=st.integers(0, 60),
    left=st.integers(0, 100),
    rows=st.integers(50, 90),
    columns=st.integers(60, 160),
    is_mirrored=st.booleans(),
    scale=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_a_closer_look_is_in_its_place(
    top: int, left: int, rows: int, columns: int, is_mirrored: bool, scale: float
) -> None:
    box = Box(top, top + rows, left, left + columns)
    truth = sloped(FRAME, 1, 1)
    part = truth[box.top : box.bottom, box.left : box.right]
    size = (round(rows * scale), round(columns * scale))
    down, across = (
        np.clip((np.arange(n) + 0.5) / n * len(along) - 0.5, 0, len(along) - 1)
        for n, along in zip(size, (part, part.T), strict=True)
    )
    # Linear: one row and one column say it all.
    values = np.interp(down, range(rows), part[:, 0])[:, None] + (
        np.interp(across, range(columns), part[0]) - part[0, 0]
    )
    expected = np.full(THUMBNAIL, 0.5, np.float32)
    found = seen_closer(decoded, coded(values), box, FRAME, expected, is_mirrored=is_mirrored)

    assert found is not None
    assert found.dtype == np.float32
    middles = [(np.arange(n) + 0.5) * whole / n for n, whole in zip(THUMBNAIL, FRAME, strict=True)]
    is_row = (middles[0] >= box.top) & (middles[0] <= box.bottom)
    is_column = (middles[1] >= box.left) & (middles[1] <= box.right)
    is_part = is_row[:, None] & is_column
    assert (found[~is_part] == 0.5).all()
    # Not those at its edge, beyond which nothing is known.
    inner = np.ix_(np.flatnonzero(is_row)[1:-1], np.flatnonzero(is_column)[1:-1])
    # Half a pixel would be 0.0016 across and 0.0028 down.
    assert np.abs(found - sloped(THUMBNAIL, 1, 1))[inner].max(initial=0) < 6e-4


@pytest.mark.parametrize(
    ("side", "at_the_end"),
    [
        (np.s_[:2, 20:40], Box(0, 90, 80, 240)),
        (np.s_[-2:, 20:40], Box(90, 180, 80, 240)),
        (np.s_[20:40, :2], Box(40, 130, 0, 160)),
        (np.s_[20:40, -2:], Box(40, 130, 160, 320)),
    ],
)
def test_a_subject_that_may_go_on_beyond_the_box_is_not_settled(
    side: tuple[slice, ...], at_the_end: Box
) -> None:
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[side] = 255
    expected = np.zeros(THUMBNAIL, np.float32)

    assert seen_closer(red, picture, Box(40, 130, 80, 240), FRAME, expected) is None
    # Where the frame itself ends there is nothing beyond.
    found = seen_closer(red, picture, at_the_end, FRAME, expected)
    assert found is not None
    assert found.max() > 0.5
