from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg.frames import FrameBatch, MattedBatch, PlaneFormat
from vidbg.matting.refine import EDGES, Controls, finish_matte

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


def controlled(matte: NDArray[Any], **controls: Any) -> NDArray[Any]:
    """A matte at frame size, as 0..1, after some controls."""
    batch = matted(np.asarray(matte, np.float32)[None], *matte.shape, depth=16)
    return finish_matte(batch, "off", Controls(**controls))[0] / 65535


def half_plane(size: int = 80, edge: int = 40) -> NDArray[np.float32]:
    matte = np.zeros((size, size), np.float32)
    matte[:, edge:] = 1
    return matte


@pytest.mark.parametrize("by_px", [1, 3, -1, -4])
def test_growing_moves_the_edge_by_so_many_pixels(by_px: int) -> None:
    np.testing.assert_array_equal(
        controlled(half_plane(), grow_px=by_px), half_plane(edge=40 - by_px)
    )


@pytest.mark.parametrize("by_px", [0.5, 2.25, -0.5, -2.25])
def test_growing_by_parts_of_a_pixel_covers_as_much(by_px: float) -> None:
    row = controlled(half_plane(), grow_px=by_px)[20]
    assert row.sum() == pytest.approx(40 + by_px, abs=1e-3)


def test_growing_is_round() -> None:
    matte = np.zeros((41, 41), np.float32)
    matte[20, 20] = 1
    y, x = np.mgrid[:41, :41]
    grown = controlled(matte, grow_px=9)
    np.testing.assert_array_equal(grown, np.hypot(y - 20, x - 20) <= 9)


def test_feathering_turns_a_step_into_the_normal_distribution() -> None:
    row = controlled(half_plane(), feather_px=16)[40]
    for column in range(25, 55):
        # Two standard deviations to each side are the feather.
        expected = 0.5 * (1 + math.erf((column + 0.5 - 40) / (4 * math.sqrt(2))))
        assert row[column] == pytest.approx(expected, abs=0.01)
    assert row[20] == 0
    assert row[60] == 1


def test_the_largest_object_stays_with_its_soft_edge() -> None:
    matte = np.zeros((60, 120), np.float32)
    matte[10:50, 10:50] = 1
    matte[9, 10:50] = 0.3
    matte[20:40, 80:100] = 1
    matte[19, 80:100] = 0.3
    expected = matte.copy()
    expected[:, 70:] = 0
    np.testing.assert_allclose(controlled(matte, keep="largest"), expected, atol=1e-5)
    np.testing.assert_allclose(controlled(matte, keep="all"), matte, atol=1e-5)


def test_holes_are_filled_and_bays_are_not() -> None:
    matte = np.zeros((80, 120), np.float32)
    matte[10:80, 20:100] = 1
    matte[30:40, 40:50] = 0  # a hole
    matte[29, 40:50] = 0.7  # and its soft edge
    matte[50:80, 60:70] = 0  # between the legs, down to the frame's edge
    matte[10:12, 20:100] = 0.6  # the soft edge outside
    expected = matte.copy()
    expected[29:40, 40:50] = 1
    np.testing.assert_allclose(controlled(matte, fill_holes=True), expected, atol=1e-5)


def test_a_hole_within_a_slanting_line_is_filled() -> None:
    y, x = np.mgrid[:41, :41]
    around = np.abs(y - 20) + np.abs(x - 20)
    ring = (around == 12).astype(np.float32)  # its pixels touch at their corners
    np.testing.assert_array_equal(controlled(ring, fill_holes=True), around <= 12)


@pytest.mark.parametrize("value", [0.0, 0.3, 0.7, 1.0])
def test_controls_leave_frames_without_an_edge(value: float) -> None:
    matte = np.full((30, 40), value, np.float32)
    everything = {"keep": "largest", "fill_holes": True, "grow_px": 3.5, "feather_px": 7.0}
    np.testing.assert_allclose(controlled(matte, **everything), value, atol=1e-5)


def test_controls_come_before_the_sources_own_alpha() -> None:
    own = np.zeros((1, 80, 80), np.uint8)
    own[:, :, 60:] = 255
    batch = matted(half_plane()[None], 80, 80, source_alpha=own)
    alpha = finish_matte(batch, "off", Controls(grow_px=30))
    np.testing.assert_array_equal(alpha, own)


@pytest.mark.parametrize(
    ("controls", "named"),
    [
        ({"keep": "smallest"}, "smallest"),
        ({"grow_px": 201.0}, "201"),
        ({"grow_px": math.nan}, "nan"),
        ({"feather_px": -1.0}, "-1"),
        ({"feather_px": math.inf}, "inf"),
    ],
)
def test_controls_that_do_not_exist(controls: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Controls(**controls)


def test_edges_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="'best' is none of off, fast, fine"):
        finish_matte(matted(half_plane()[None], 80, 80), "best")


def coloured(matte: NDArray[np.float32], height: int, width: int, depth: int = 8) -> MattedBatch:
    """A red half before a blue one, the left and the right of the frame, in 4:2:0."""
    scale = 1 << (depth - 8)
    dtype = np.uint8 if depth == 8 else np.uint16
    format = PlaneFormat("of no matter", depth, 1, 1, is_rgb=False)
    codes = ((60, 120), (200, 100), (90, 190))
    planes = []
    for (left, right), (rows, columns) in zip(
        codes, format.plane_sizes(width, height), strict=True
    ):
        plane = np.full((len(matte), rows, columns), left * scale, dtype)
        plane[..., columns // 2 :] = right * scale
        planes.append(plane)
    thumbnails = np.zeros((*matte.shape, 3), np.uint8)
    thumbnails[..., : matte.shape[2] // 2, :] = (40, 60, 190)
    thumbnails[..., matte.shape[2] // 2 :, :] = (180, 60, 50)
    frames = FrameBatch((planes[0], planes[1], planes[2]), format, 0)
    return MattedBatch(frames, thumbnails, matte)


@pytest.mark.parametrize("depth", [8, 10])
def test_each_setting_is_nearer_to_the_edge_of_the_picture(depth: int) -> None:
    height, width = 240, 320
    ramp = np.clip((np.arange(80) + 0.5 - 34) / 12, 0, 1).astype(np.float32)
    batch = coloured(np.tile(ramp, (2, 60, 1)), height, width, depth)
    truth = np.zeros((2, height, width))
    truth[..., width // 2 :] = 1
    top = 255 if depth == 8 else 65535
    errors = [np.abs(finish_matte(batch, edges) / top - truth).mean() for edges in EDGES]
    assert errors[1] < 0.9 * errors[0]
    assert errors[2] < 0.8 * errors[1]


@pytest.mark.parametrize("edges", EDGES)
@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (37, 53)])
def test_sure_mattes_are_exact_whatever_the_edges(
    edges: str, depth: int, size: tuple[int, int]
) -> None:
    top = 255 if depth == 8 else 65535
    for value in (0, 1):
        matte = np.full((1, 16, 24), value, np.float32)
        assert (finish_matte(coloured(matte, *size, depth), edges) == value * top).all()


@pytest.mark.parametrize("edges", EDGES)
def test_frames_are_each_by_themselves(edges: str) -> None:
    rng = np.random.default_rng(7)
    matte = rng.random((3, 32, 48), np.float32) ** 3
    batch = coloured(matte, 64, 96)
    together = finish_matte(batch, edges)
    for index in range(3):
        one = slice(index, index + 1)
        luma, cb, cr = batch.frames.planes
        frames = FrameBatch((luma[one], cb[one], cr[one]), batch.frames.format, index)
        alone = MattedBatch(frames, batch.thumbnails[one], matte[one])
        np.testing.assert_array_equal(finish_matte(alone, edges), together[one])


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("edges", ["off", "fast"])
def test_codes_made_in_integers_are_those_made_in_floating_point(depth: int, edges: str) -> None:
    rng = np.random.default_rng(11)
    matte = np.clip(rng.normal(0.5, 0.6, (1, 40, 56)), 0, 1).astype(np.float32)
    # In order there is no hole, so that filling holes changes nothing but the arithmetic.
    batch = coloured(np.sort(np.sort(matte, axis=1), axis=2), 130, 201, depth)
    integers = finish_matte(batch, edges).astype(int)
    floats = finish_matte(batch, edges, Controls(fill_holes=True)).astype(int)
    assert len(np.unique(integers)) > 200
    assert np.abs(integers - floats).max() <= (1 if depth == 8 else 2)
