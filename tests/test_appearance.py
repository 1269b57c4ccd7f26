from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg.matting import appearance
from vidbg.matting.appearance import corrected

SUBJECT, GROUND = (180, 60, 50), (60, 110, 160)


def scene(noise: int = 12) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A red disc with an arm before a blue ground, noisy, and where it is."""
    y, x = np.mgrid[:128, :224]
    truth = (np.hypot(y - 60, x - 100) < 35) | ((np.abs(y - 60) < 9) & (x > 100) & (x < 190))
    picture = np.where(truth[..., None], SUBJECT, GROUND)
    picture = picture + np.random.default_rng(0).integers(-noise, noise + 1, picture.shape)
    return picture.astype(np.uint8), truth


def overlap(matte: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    region = matte > 0.5
    return float((region & truth).sum() / (region | truth).sum())


def test_a_part_that_the_network_did_not_know_is_found_by_its_colour() -> None:
    picture, truth = scene()
    matte = truth.astype(np.float32)
    matte[:, 135:] *= 0.42  # most of the arm
    matte = cv2.GaussianBlur(matte, (0, 0), 3)
    before = matte.copy()

    after = corrected(picture, matte)

    assert overlap(matte, truth) < 0.85
    assert overlap(after, truth) > 0.9
    np.testing.assert_array_equal(matte, before)


def test_what_looks_like_the_ground_is_given_up() -> None:
    picture, truth = scene()
    matte = truth.astype(np.float32)
    matte[90:125, 150:220] = 0.58  # a piece of nothing but ground
    after = corrected(picture, cv2.GaussianBlur(matte, (0, 0), 2))
    assert (after[95:120, 155:215] < 0.5).mean() > 0.95
    assert overlap(after, truth) > 0.95


def test_a_blurred_edge_is_drawn_along_the_picture() -> None:
    picture, truth = scene()
    matte = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 4)
    after = corrected(picture, matte)
    assert np.abs(after - truth).mean() < 0.8 * np.abs(matte - truth).mean()


def test_sure_parts_stay_exactly_so() -> None:
    picture, truth = scene()
    matte = truth.astype(np.float32)
    after = corrected(picture, matte)
    far = cv2.dilate(truth.astype(np.uint8), np.ones((5, 5))) == 0
    deep = cv2.erode(truth.astype(np.uint8), np.ones((5, 5))) == 1
    assert (after[far] == 0).all()
    assert (after[deep] == 1).all()


@pytest.mark.parametrize("value", [0.0, 0.004, 0.996, 1.0])
def test_a_matte_that_is_sure_everywhere_is_left_alone(value: float) -> None:
    picture, _ = scene()
    matte = np.full(picture.shape[:2], value, np.float32)
    assert corrected(picture, matte) is matte


def test_a_matte_that_is_mostly_unsure_does_not_know_the_colours() -> None:
    picture, truth = scene()
    matte = np.where(truth, 0.45, 0.4).astype(np.float32)
    np.testing.assert_array_equal(corrected(picture, matte), matte)


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    level=st.sampled_from([0, 128, 255]),
    seed=st.integers(0, 20),
)
def test_any_size_and_flat_pictures_stay_finite_and_in_range(
    height: int, width: int, level: int, seed: int
) -> None:
    matte = np.random.default_rng(seed).random((height, width), np.float32) ** 4
    after = corrected(np.full((height, width, 3), level, np.uint8), matte)
    assert after.dtype == np.float32
    assert after.shape == matte.shape
    assert np.isfinite(after).all()
    assert after.min() >= 0
    assert after.max() <= 1


def test_the_guided_filter_is_a_regression_in_each_window() -> None:
    """He et al., equations 14 to 16, window by window with a general solver."""
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (14, 15, 3)).astype(np.uint8)
    matte = rng.random((14, 15)).astype(np.float32)
    guide = picture / 255
    reach = appearance.WINDOW_PX // 2
    slopes, offsets = np.zeros((14, 15, 3)), np.zeros((14, 15))
    for y in range(reach, 14 - reach):
        for x in range(reach, 15 - reach):
            window = np.s_[y - reach : y + reach + 1, x - reach : x + reach + 1]
            colours, values = guide[window].reshape(-1, 3), matte[window].ravel()
            centred = colours - colours.mean(axis=0)
            covariance = centred.T @ centred / len(values)
            slope = np.linalg.solve(
                covariance + appearance.FLAT_VARIANCE * np.eye(3),
                centred.T @ values / len(values),
            )
            slopes[y, x], offsets[y, x] = slope, values.mean() - slope @ colours.mean(axis=0)
    filtered = appearance._guided(picture, matte)
    for y, x in ((4, 4), (6, 8), (7, 10), (9, 5)):
        window = np.s_[y - reach : y + reach + 1, x - reach : x + reach + 1]
        slope, offset = slopes[window].mean(axis=(0, 1)), offsets[window].mean()
        assert filtered[y, x] == pytest.approx(slope @ guide[y, x] + offset, abs=1e-4)


@pytest.mark.parametrize("place", [(0, 0, 20), (30, 50, 9), (81, 121, 19), (40, 0, 1)])
def test_looking_at_the_unsure_part_alone_changes_nothing(
    place: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    top, left, side = place
    rng = np.random.default_rng(side)
    picture = rng.integers(0, 256, (100, 140, 3), np.uint8)
    matte = np.zeros((100, 140), np.float32)
    matte[top : top + side, left : left + side] = rng.uniform(0.2, 0.9, (side, side))
    matte = matte[:100, :140]
    part = corrected(picture, matte)
    monkeypatch.setattr(appearance, "_MARGIN_PX", 1000)
    whole = corrected(picture, matte)
    assert (part != matte).any()
    # Means are running sums, rounded otherwise where they begin elsewhere.
    np.testing.assert_allclose(part, whole, atol=1e-5)
