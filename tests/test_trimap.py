from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vidbg.matting.trimap import BACKGROUND, FOREGROUND, UNKNOWN, trimap


def test_the_band_grows_with_the_frame() -> None:
    for height in (120, 480, 1080):
        matte = np.zeros((height, 2 * height), np.float32)
        matte[:, height:] = 1
        row = trimap(matte)[height // 2]
        # One pixel for every 120 lines, on both sides.
        reach = height // 120
        np.testing.assert_array_equal(row[: height - reach], BACKGROUND)
        np.testing.assert_array_equal(row[height - reach : height + reach], UNKNOWN)
        np.testing.assert_array_equal(row[height + reach :], FOREGROUND)


def test_what_is_not_sure_is_unknown() -> None:
    for value, expected in (
        (0.0, BACKGROUND),
        (0.09, BACKGROUND),
        (0.11, UNKNOWN),
        (0.5, UNKNOWN),
        (0.89, UNKNOWN),
        (0.91, FOREGROUND),
        (1.0, FOREGROUND),
    ):
        assert (trimap(np.full((9, 11), value, np.float32)) == expected).all()


@given(height=st.integers(1, 30), width=st.integers(1, 30), seed=st.integers(0, 9))
def test_no_sure_pixel_contradicts_the_matte(height: int, width: int, seed: int) -> None:
    matte = np.random.default_rng(seed).random((height, width), np.float32)
    result = trimap(matte)
    assert set(np.unique(result)) <= {BACKGROUND, UNKNOWN, FOREGROUND}
    assert (matte[result == FOREGROUND] > 0.9).all()
    assert (matte[result == BACKGROUND] < 0.1).all()
