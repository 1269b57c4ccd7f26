from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg.composite import alpha_planes, over
from vidbg.frames import PlaneFormat
from vidbg.matting import foreground
from vidbg.matting.foreground import estimate_foreground

if TYPE_CHECKING:
    from vidbg.frames import Planes

SUBSAMPLINGS = [(0, 0), (1, 0), (1, 1), (0, 1), (2, 0), (2, 2)]


def make_format(subsampling: tuple[int, int] = (1, 1), depth: int = 8) -> PlaneFormat:
    return PlaneFormat("of no matter", depth, *subsampling, is_rgb=False)


def disc(height: int, width: int, soft_px: float, dtype: Any = np.uint8) -> NDArray[Any]:
    """Alpha of a disc with a linear ramp at its edge, ``(1, height, width)``."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height / 2, x - width / 2)
    alpha = np.clip((height / 4 - distance) / soft_px + 0.5, 0, 1)
    return np.rint(alpha * np.iinfo(dtype).max).astype(dtype)[np.newaxis]


def mixed(foreground: Any, background: Any, alphas: Planes, depth: int = 8) -> Planes:
    """The frame in which two pictures, planes or numbers, are mixed, rounded to codes."""
    planes = []
    for f, b, alpha in zip(foreground, background, alphas, strict=True):
        share = alpha / np.iinfo(alpha.dtype).max
        planes.append(np.rint(f * share + b * (1 - share)).astype(alpha.dtype))
    return tuple(planes)  # type: ignore[return-value]


def worst(estimate: Planes, truth: Any, alphas: Planes) -> float:
    """The largest error that the foreground makes in any composite."""
    errors = []
    for plane, true, alpha in zip(estimate, truth, alphas, strict=True):
        top = np.iinfo(alpha.dtype).max
        errors.append((np.abs(plane.astype(float) - true) * alpha / top).max())
    return float(max(errors))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("depth", [8, 10, 16])
def test_two_flat_colours_are_told_apart(subsampling: tuple[int, int], depth: int) -> None:
    format = make_format(subsampling, depth)
    alphas = alpha_planes(disc(120, 150, 12, np.uint8 if depth == 8 else np.uint16), format)
    foreground, background = (
        np.array(colour) << (depth - 8) for colour in ((200, 90, 160), (60, 140, 50))
    )
    frame = mixed(foreground, background, alphas)

    estimate = estimate_foreground(frame, alphas, format)

    # a·(1 - a)·(B - F) is at its largest a quarter of the difference.
    untouched = worst(frame, foreground, alphas)
    assert untouched == pytest.approx(np.abs(foreground - background).max() / 4, rel=0.02)
    assert worst(estimate, foreground, alphas) < 0.2 * untouched


def test_over_another_background_nothing_of_the_old_one_is_left() -> None:
    format = make_format()
    alphas = alpha_planes(disc(180, 240, 20), format)
    y, x = np.mgrid[:180, :240]
    luma = 150 + 30 * np.sin(x / 23) + 20 * np.cos(y / 17)
    foreground = (luma, luma[::2, ::2] / 2 + 20, 200 - luma[::2, ::2] / 3)
    old = (40 + y / 3, 150 + y[::2, ::2] / 9, 80 + x[::2, ::2] / 9)
    new = tuple(
        np.full_like(alpha, level) for alpha, level in zip(alphas, (230, 30, 30), strict=True)
    )
    frame = mixed(foreground, old, alphas)
    truth = mixed(foreground, new, alphas)

    estimate = estimate_foreground(frame, alphas, format)

    def errors(planes: Planes) -> NDArray[np.float64]:
        composite = over(planes, new, alphas)  # type: ignore[arg-type]
        return np.array(
            [
                np.abs(c.astype(float) - t)[(a > 0) & (a < 255)].mean()
                for c, t, a in zip(composite, truth, alphas, strict=True)
            ]
        )

    assert (errors(estimate) < errors(frame) / 3).all()


@settings(deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    subsampling=st.sampled_from(SUBSAMPLINGS),
    depth=st.sampled_from([8, 10, 16]),
    seed=st.integers(0, 99),
)
def test_opaque_samples_stay_bit_for_bit_and_codes_in_range(
    height: int, width: int, subsampling: tuple[int, int], depth: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    format = make_format(subsampling, depth)
    dtype = np.uint8 if depth == 8 else np.uint16
    top = np.iinfo(dtype).max
    alpha = rng.choice(np.array([0, 1, top // 2, top - 1, top], dtype), (2, height, width))
    alphas = alpha_planes(alpha, format)
    planes = tuple(
        rng.integers(0, 1 << depth, (2, *size)).astype(dtype)
        for size in format.plane_sizes(width, height)
    )
    before = [plane.copy() for plane in planes]

    estimate = estimate_foreground(planes, alphas, format)  # type: ignore[arg-type]

    for plane, given_plane, kept, plane_alpha in zip(estimate, planes, before, alphas, strict=True):
        assert plane.dtype == dtype
        assert plane.max(initial=0) < 1 << depth
        np.testing.assert_array_equal(plane[plane_alpha == top], kept[plane_alpha == top])
        np.testing.assert_array_equal(given_plane, kept)


@pytest.mark.parametrize("code", [0, 1, 254, 255])
def test_frames_without_an_edge_stay_as_they_are(code: int) -> None:
    format = make_format()
    planes = tuple(np.full((2, *s), 77, np.uint8) for s in format.plane_sizes(50, 40))
    alphas = alpha_planes(np.full((2, 40, 50), code, np.uint8), format)
    for before, after in zip(planes, estimate_foreground(planes, alphas, format), strict=True):  # type: ignore[arg-type]
        assert after is before


@pytest.mark.parametrize("code", [40, 128, 220])
def test_haze_all_over_is_taken_as_it_is(code: int) -> None:
    """With neither foreground nor background to look at, the frame's own colour is the guess."""
    format = make_format((0, 0))
    planes = tuple(np.full((1, 64, 96), level, np.uint8) for level in (10, 120, 250))
    alphas = (np.full((1, 64, 96), code, np.uint8),) * 3
    for before, after in zip(planes, estimate_foreground(planes, alphas, format), strict=True):  # type: ignore[arg-type]
        np.testing.assert_array_equal(after, before)


def test_each_frame_is_by_itself() -> None:
    rng = np.random.default_rng(5)
    format = make_format()
    alpha = np.concatenate([disc(90, 100, 9), disc(90, 100, 30), disc(90, 100, 1)])
    alphas = alpha_planes(alpha, format)
    planes = tuple(rng.integers(0, 256, (3, *s), np.uint8) for s in format.plane_sizes(100, 90))
    together = estimate_foreground(planes, alphas, format)  # type: ignore[arg-type]
    for index in range(3):
        one = slice(index, index + 1)
        alone = estimate_foreground(
            tuple(p[one] for p in planes),  # type: ignore[arg-type]
            tuple(a[one] for a in alphas),  # type: ignore[arg-type]
            format,
        )
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_array_equal(a[one], b)


def test_transparent_samples_beside_the_edge_have_the_subjects_colour() -> None:
    format = make_format()
    alphas = alpha_planes(disc(128, 128, 8), format)
    frame = mixed((200, 90, 160), (60, 140, 50), alphas)
    estimate = estimate_foreground(frame, alphas, format)
    chroma, alpha = estimate[1][0].astype(int), alphas[1][0]
    for axis in (0, 1):
        for step in (-1, 1):
            # Transparent, next to something that is not.
            beside = (alpha == 0) & (np.roll(alpha, step, axis) > 0)
            assert beside.any()
            assert np.abs(chroma[beside] - 90).max() <= 3


def test_what_does_not_fit_is_refused() -> None:
    format = make_format((0, 0))
    plane = np.zeros((1, 8, 8), np.uint8)
    with pytest.raises(ValueError, match="do not fit"):
        estimate_foreground((plane,) * 3, (plane[:, 1:],) * 3, format)
    with pytest.raises(ValueError, match="do not fit"):
        estimate_foreground((plane,) * 3, (plane.astype(np.uint16),) * 3, format)


@pytest.mark.parametrize("subsampling", [(0, 0), (1, 1), (2, 2)])
def test_how_many_tiles_are_worked_on_at_once_changes_nothing(
    subsampling: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    format = make_format(subsampling)
    alphas = alpha_planes(disc(150, 203, 60), format)
    planes = tuple(rng.integers(0, 256, alpha.shape, np.uint8) for alpha in alphas)
    at_once = estimate_foreground(planes, alphas, format)  # type: ignore[arg-type]
    for samples in (1, 3000):
        monkeypatch.setattr(foreground, "_CHUNK_SAMPLES", samples)
        in_parts = estimate_foreground(planes, alphas, format)  # type: ignore[arg-type]
        for one, other in zip(at_once, in_parts, strict=True):
            np.testing.assert_array_equal(one, other)
