from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from vidbg.frames import PlaneFormat
from vidbg.matting.spill import colours_around, suppress_spill

if TYPE_CHECKING:
    from vidbg.frames import Planes

RGB = PlaneFormat("gbrp", 8, 0, 0, is_rgb=True)
YUV = PlaneFormat("yuv420p", 8, 1, 1, is_rgb=False)
# #00b140 in BT.709, limited range.
GREEN_SCREEN = (128, 96, 54)


def pixels(rgb: Any) -> Planes:
    """Return (N, 3) R, G, B as planes of one row."""
    red, green, blue = np.asarray(rgb, np.uint8).T[:, None, None]
    return green, blue, red


def test_for_pure_green_the_limit_is_the_larger_of_red_and_blue() -> None:
    """Vlahos's rule, which in exact arithmetic the limit of 60 degrees comes to."""
    rgb = np.random.default_rng(0).integers(0, 256, (4000, 3))
    before = pixels(rgb)
    green, blue, red = (
        plane.astype(int)[0, 0] for plane in suppress_spill(before, RGB, [(255, 0, 0)])
    )
    assert (green <= np.maximum(red, blue) + 1).all()
    spilled = rgb[:, 1] > np.maximum(rgb[:, 0], rgb[:, 2])
    assert 0.2 < spilled.mean() < 0.5
    for after, number in ((red, 0), (green, 1), (blue, 2)):
        np.testing.assert_array_equal(after[~spilled], rgb[~spilled, number])
    unclipped = spilled & (red < 255) & (blue < 255)
    sums = red + green + blue
    assert np.abs(sums - rgb.sum(axis=1))[unclipped].max() <= 2


@pytest.mark.parametrize("screen", [GREEN_SCREEN, (60, 180, 110), (90, 90, 220)])
@pytest.mark.parametrize("depth", [8, 10])
def test_a_tint_is_taken_off_and_luma_stays(screen: tuple[int, int, int], depth: int) -> None:
    scale = 1 << (depth - 8)
    dtype = np.uint8 if depth == 8 else np.uint16
    format = PlaneFormat("of no matter", depth, 1, 1, is_rgb=False)
    codes = tuple(code * scale for code in screen)
    amounts = np.linspace(0, 0.6, 40)
    luma = np.full((1, 2, 80), 140 * scale, dtype)
    cb, cr = (
        np.rint(128 * scale + amounts * (code - 128 * scale)).astype(dtype)[None, None]
        for code in codes[1:]
    )
    planes = (luma, cb, cr)
    after = suppress_spill(planes, format, [codes])  # type: ignore[arg-type]
    np.testing.assert_array_equal(after[0], luma)
    for plane in after[1:]:
        # Rounding turns a tint by a code, and the limit goes by what is across.
        assert np.abs(plane.astype(int) - 128 * scale).max() <= 1
    assert np.abs(cb.astype(int) - 128 * scale).max() > 8 * scale


def test_colours_of_other_hues_stay_bit_for_bit() -> None:
    luma = np.full((1, 2, 2 * 90), 120, np.uint8)
    hue = np.array(GREEN_SCREEN[1:], float) - 128
    angle = np.arctan2(hue[1], hue[0])
    for degrees in (62, 90, 135, 180, 225, 270, 298):
        turned = angle + np.radians(degrees)
        sizes = np.arange(90)
        cb, cr = (
            np.rint(128 + sizes * part).astype(np.uint8)[None, None]
            for part in (np.cos(turned), np.sin(turned))
        )
        planes = (luma, cb, cr)
        after = suppress_spill(planes, YUV, [GREEN_SCREEN])
        for kept, plane in zip(planes, after, strict=True):
            assert np.abs(plane.astype(int) - kept).max() <= (1 if degrees in (62, 298) else 0)


def scene(ground: tuple[int, int, int]) -> tuple[Planes, Planes]:
    """A subject tinted by the ground behind it, and its alpha."""
    alpha = np.zeros((1, 128, 192), np.uint8)
    alpha[:, 30:, 60:130] = 255
    alphas = alpha, alpha[:, ::2, ::2], alpha[:, ::2, ::2]
    planes = []
    for number, code in enumerate(ground):
        own = 150 if number == 0 else round(128 + 0.3 * (code - 128))
        planes.append(np.where(alphas[number] > 0, own, code).astype(np.uint8))
    return tuple(planes), alphas  # type: ignore[return-value]


def test_without_a_screen_the_background_around_says_the_colour() -> None:
    planes, alphas = scene(GREEN_SCREEN)
    after = suppress_spill(planes, YUV, colours_around(planes, alphas))
    inside = alphas[1] > 0
    for plane, before in zip(after[1:], planes[1:], strict=True):
        assert (np.abs(before[inside].astype(int) - 128) > 8).all()
        assert (np.abs(plane[inside].astype(int) - 128) <= 2).all()


def test_a_background_of_no_colour_has_no_spill() -> None:
    planes, alphas = scene((128, 124, 134))
    for before, after in zip(
        planes, suppress_spill(planes, YUV, colours_around(planes, alphas)), strict=True
    ):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("code", [0, 255])
def test_without_both_subject_and_background_it_is_the_frames_mean(code: int) -> None:
    planes, alphas = scene(GREEN_SCREEN)
    flat = tuple(np.full_like(alpha, code) for alpha in alphas)
    (around,) = colours_around(planes, flat)  # type: ignore[arg-type]
    for level, plane in zip(around, planes, strict=True):
        assert level == pytest.approx(plane.mean(), abs=1)


def test_the_colour_is_that_near_the_subject() -> None:
    planes, alphas = scene(GREEN_SCREEN)
    for plane in planes:
        plane[..., : plane.shape[2] // 12] = 200  # the studio beside the screen
    (around,) = colours_around(planes, alphas)
    assert around == pytest.approx(GREEN_SCREEN, abs=1)
