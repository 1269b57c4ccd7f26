from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg.frames import Motion
from vidbg.temporal.flow import agreement, flow, full_places, joined, motion_between, warp


def texture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Structure at several scales, as pictures have it."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width))
    for sigma in (2, 5, 12):
        layer = cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), sigma)
        total += layer / layer.std()
    return np.clip(128 + 30 * total, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("dx", "dy"), [(4, 0), (0, -3), (-6, 5)])
def test_points_from_a_frame_to_where_its_pixels_are_in_the_other(dx: int, dy: int) -> None:
    scene = texture(200, 280)
    here = scene[20:180, 20:260]
    # The content of `here` moved by (dx, dy).
    there = scene[20 - dy : 180 - dy, 20 - dx : 260 - dx]

    found = flow(np.ascontiguousarray(here), np.ascontiguousarray(there))

    inside = found[16:-16, 16:-16]
    assert np.abs(np.median(inside, axis=(0, 1)) - (dx, dy)).max() < 0.1
    assert np.abs(inside - (dx, dy)).mean() < 0.3


def test_warping_along_the_flow_gives_the_frame_back() -> None:
    scene = texture(200, 280, seed=1)
    here, there = (
        np.ascontiguousarray(scene[y : y + 160, x : x + 240]) for y, x in ((9, 4), (12, 9))
    )

    aligned = warp(there, flow(here, there))

    before = np.abs(there.astype(int) - here)[16:-16, 16:-16].mean()
    after = np.abs(aligned.astype(int) - here)[16:-16, 16:-16].mean()
    assert after < 0.1 * before


def test_nothing_moves_between_equal_frames() -> None:
    scene = texture(96, 128)
    assert np.abs(flow(scene, scene)).max() < 1e-3


@settings(deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), level=st.integers(0, 255))
def test_flat_frames_of_any_size_do_not_move(height: int, width: int, level: int) -> None:
    frame = np.full((height, width), level, np.uint8)

    found = flow(frame, frame)

    assert found.shape == (height, width, 2)
    assert found.dtype == np.float32
    assert not found.any()


@settings(deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_noise_of_any_size_gives_finite_flow(height: int, width: int) -> None:
    here, there = np.random.default_rng(height * width).integers(
        0, 256, (2, height, width), np.uint8
    )

    found = flow(here, there)

    assert found.shape == (height, width, 2)
    assert np.isfinite(found).all()


def test_warp_looks_up_where_the_flow_points() -> None:
    array = np.arange(30, dtype=np.float32).reshape(5, 6)
    motion = np.zeros((5, 6, 2), np.float32)
    motion[..., 0], motion[..., 1] = 2, 1

    warped = warp(array, motion)

    rows = np.minimum(np.arange(5) + 1, 4)
    columns = np.minimum(np.arange(6) + 2, 5)
    assert (warped == array[np.ix_(rows, columns)]).all()


def test_warp_interpolates_between_pixels() -> None:
    array = np.array([[0.0, 1.0, 3.0]], np.float32)
    motion = np.zeros((1, 3, 2), np.float32)
    motion[..., 0] = 0.5

    assert warp(array, motion).tolist() == [[0.5, 2.0, 3.0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (7, 9, 1), (7, 9, 2), (7, 9, 4)])
def test_warp_keeps_shape_and_dtype(shape: tuple[int, ...], dtype: type) -> None:
    array = (np.random.default_rng(0).random(shape) * 200).astype(dtype)

    warped = warp(array, np.zeros((*shape[:2], 2), np.float32))

    assert warped.dtype == array.dtype
    assert warped.shape == array.shape
    assert (warped == array).all()


def constant(x: float, y: float, height: int = 6, width: int = 9) -> NDArray[np.float32]:
    return np.broadcast_to(np.array([x, y], np.float32), (height, width, 2)).copy()


@pytest.mark.parametrize(("x", "y"), [(0, 0), (3, -2), (0.25, 40)])
def test_a_way_there_and_back_agrees(x: float, y: float) -> None:
    assert agreement(constant(x, y), constant(-x, -y), 0.5) == pytest.approx(1.0)


@given(
    ways=st.tuples(*[st.floats(-9, 9)] * 4),
    slack_px=st.floats(0.1, 2),
)
def test_disagreement_is_what_the_equation_says(
    ways: tuple[float, float, float, float], slack_px: float
) -> None:
    fx, fy, bx, by = ways
    found = agreement(constant(fx, fy), constant(bx, by), slack_px)
    error = (fx + bx) ** 2 + (fy + by) ** 2
    allowed = 0.003 * (fx**2 + fy**2 + bx**2 + by**2) + slack_px**2
    np.testing.assert_allclose(found, np.exp(-error / allowed), rtol=1e-3, atol=1e-6)


def test_what_is_hidden_in_the_other_frame_is_found_out() -> None:
    ground, subject = texture(192, 256, seed=2), texture(96, 96, seed=3)
    frames = [ground.copy() for _ in range(2)]
    for frame, x in zip(frames, (40, 50), strict=True):
        frame[48:144, x : x + 96] = subject

    found = agreement(flow(frames[0], frames[1]), flow(frames[1], frames[0]), 0.5)

    # The ground that the subject is about to cover, the ground far from it, and the subject.
    assert found[52:140, 137:145].mean() < 0.3
    assert found[8:184, 180:].mean() > 0.95
    assert found[72:120, 64:112].mean() > 0.9


@given(ways=st.tuples(*[st.floats(-9, 9, width=32)] * 8))
def test_motion_that_is_the_same_everywhere_adds_up(ways: tuple[float, ...]) -> None:
    ax, ay, bx, by, cx, cy, dx, dy = ways
    first = Motion(constant(ax, ay), constant(bx, by))
    second = Motion(constant(cx, cy), constant(dx, dy))

    found = joined(first, second)

    np.testing.assert_allclose(found.onward, constant(ax + cx, ay + cy), atol=1e-4)
    np.testing.assert_allclose(found.home, constant(bx + dx, by + dy), atol=1e-4)


def test_joined_motion_goes_on_from_where_the_first_has_led() -> None:
    """What stands left of the middle moves right by 2, and then by 4; what is right of it rests."""
    still, rests = np.zeros((4, 8, 2), np.float32), np.zeros((4, 8, 2), np.float32)
    still[:, :4, 0] = 2
    onward = rests.copy()
    onward[:, 2:6, 0] = 4

    found = joined(Motion(still, rests), Motion(onward, rests))

    assert found.onward[0, :, 0].tolist() == [6, 6, 6, 6, 4, 4, 0, 0]


def test_motion_over_several_frames_is_that_of_its_steps() -> None:
    scene = texture(200, 280, seed=4)
    greys = [
        np.ascontiguousarray(scene[y : y + 120, x : x + 160])
        for x, y in ((8, 8), (11, 10), (15, 11))
    ]

    one, two = motion_between(greys[0], greys[1]), motion_between(greys[1], greys[2])
    inside = joined(one, two).onward[20:-20, 20:-20]

    assert np.abs(inside - (-7, -3)).mean() < 0.3
    back = joined(one, two).home[20:-20, 20:-20]
    assert np.abs(back - (7, 3)).mean() < 0.3


@given(height=st.integers(1, 40), width=st.integers(1, 40), x=st.floats(-9, 9), y=st.floats(-9, 9))
def test_places_of_a_thumbnail_are_twice_as_far_off(
    height: int, width: int, x: float, y: float
) -> None:
    half = constant(x, y, (height + 1) // 2, (width + 1) // 2)

    found = full_places(half, (height, width))

    assert found.shape == (height, width, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found[..., 0], np.arange(width)[None] + 2 * x + np.zeros((height, 1)), atol=1e-4
    )
    np.testing.assert_allclose(
        found[..., 1], np.arange(height)[:, None] + 2 * y + np.zeros(width), atol=1e-4
    )
