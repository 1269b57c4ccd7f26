from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg.frames import FrameBatch, MattedBatch, PlaneFormat
from vidbg.matting.refine import finish_matte

sides = st.integers(1, 40)


def matted(
    matte: NDArray[np.float32],
    height: int,
    width: int,
    depth: int = 8,
    source_alpha: NDArray[Any] | None = None,
) -> MattedBatch:
    plane = np.zeros((len(matte), height, width), np.uint8 if depth == 8 else np.uint16)
    frames = FrameBatch(
        planes=(plane, plane, plane),
        format=PlaneFormat("of no matter", depth, 0, 0, is_rgb=False),
        first_index=0,
        source_alpha=source_alpha,
    )
    return MattedBatch(frames, np.zeros((*matte.shape, 3), np.uint8), matte)


def interpolated(matte: NDArray[np.float32], height: int, width: int) -> NDArray[np.float64]:
    """Bilinear with half-pixel centres, axis by axis, by NumPy's own interpolation."""
    values = matte.astype(np.float64)
    for axis, size in ((0, height), (1, width)):
        known = np.arange(values.shape[axis]) + 0.5
        wanted = (np.arange(size) + 0.5) * (values.shape[axis] / size)
        values = np.apply_along_axis(
            lambda line, known=known, wanted=wanted: np.interp(wanted, known, line), axis, values
        )
    return values


def test_8_bit_codes_are_rounded_to_nearest() -> None:
    matte = np.array(
        [[[0.0, 0.4999 / 255, 0.5001 / 255, 100.4 / 255, 100.6 / 255, 1.0]]], np.float32
    )

    alpha = finish_matte(matted(matte, 1, 6))

    assert alpha.dtype == np.uint8
    assert alpha.tolist() == [[[0, 0, 1, 100, 101, 255]]]


@pytest.mark.parametrize("depth", [9, 10, 12, 16])
def test_deeper_formats_get_16_bit_codes(depth: int) -> None:
    matte = np.array([[[0.0, 0.4 / 65535, 0.6 / 65535, 0.5, 1.0]]], np.float32)

    alpha = finish_matte(matted(matte, 1, 5, depth))

    assert alpha.dtype == np.uint16
    assert alpha[0, 0, [0, 1, 2, 4]].tolist() == [0, 0, 1, 65535]
    assert alpha[0, 0, 3] in (32767, 32768)


def test_pixel_centres_are_kept() -> None:
    matte = np.array([[[0.0, 1.0]]], np.float32)

    alpha = finish_matte(matted(matte, 1, 4))

    # Centres at 1/8, 3/8, 5/8 and 7/8 of the width; those of the matte at 1/4 and 3/4.
    assert alpha.tolist() == [[[0, 64, 191, 255]]]


def test_an_axis_that_shrinks_is_averaged_while_the_other_grows() -> None:
    matte = np.array([[[0.0, 0.2, 0.4, 1.0]]], np.float32)

    alpha = finish_matte(matted(matte, 3, 2))

    # 0.1 and 0.7 of 255 are 25.5 and 178.5, which float32 may round either way.
    assert np.abs(alpha - [25.5, 178.5]).max() < 0.51
    assert alpha.shape == (1, 3, 2)


@given(st.data())
def test_agrees_with_interpolation_axis_by_axis(data: st.DataObject) -> None:
    rows, columns = data.draw(sides), data.draw(sides)
    height, width = data.draw(st.integers(rows, 90)), data.draw(st.integers(columns, 90))
    matte = np.random.default_rng(rows * columns).random((2, rows, columns), np.float32)

    alpha = finish_matte(matted(matte, height, width, depth=10))

    expected = np.stack([interpolated(frame, height, width) for frame in matte]) * 65535
    # OpenCV's weights are float32; half a code is the rounding.
    assert np.abs(alpha - expected).max() < 1.0


@given(rows=sides, columns=sides, height=sides, width=sides, depth=st.sampled_from([8, 10]))
def test_fully_transparent_and_opaque_are_exact(
    rows: int, columns: int, height: int, width: int, depth: int
) -> None:
    top = 255 if depth == 8 else 65535
    for value in (0, 1):
        matte = np.full((1, rows, columns), value, np.float32)
        assert (finish_matte(matted(matte, height, width, depth)) == value * top).all()


def test_keyer_mattes_are_not_resampled() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (3, 17, 23))

    alpha = finish_matte(matted((codes / 255).astype(np.float32), 17, 23))

    assert (alpha == codes).all()


@pytest.mark.parametrize(("depth", "top"), [(8, 255), (10, 65535), (16, 65535)])
def test_the_sources_own_alpha_is_multiplied_in(depth: int, top: int) -> None:
    rng = np.random.default_rng(1)
    matte = rng.random((2, 9, 11), np.float32)
    own = rng.integers(0, 1 << depth, (2, 9, 11)).astype(np.uint8 if depth == 8 else np.uint16)
    own[0, 0, 0], own[0, 0, 1] = 0, (1 << depth) - 1
    matte[0, 0, 1] = 1

    alpha = finish_matte(matted(matte, 9, 11, depth, own))

    expected = matte.astype(np.float64) * own / ((1 << depth) - 1) * top
    assert np.abs(alpha - expected).max() < 0.51
    assert alpha[0, 0, 0] == 0
    assert alpha[0, 0, 1] == top


def test_the_matte_is_left_as_it_is() -> None:
    matte = np.random.default_rng(2).random((1, 5, 5), np.float32)
    before = matte.copy()
    own = np.full((1, 5, 5), 7, np.uint8)

    finish_matte(matted(matte, 5, 5, source_alpha=own))

    assert (matte == before).all()
