"""Stages on a device against their siblings of arrays, and against known answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg import colour as colours
from vidbg import composite as array_composite
from vidbg.frames import Colour, FrameBatch, MattedBatch, PlaneFormat
from vidbg.gpu import appearance, composite, foreground, refine, resize, thumbnail
from vidbg.gpu.frames import DeviceFrames, DeviceMatted
from vidbg.matting import appearance as array_appearance
from vidbg.matting import foreground as array_foreground
from vidbg.matting import refine as array_refine

if TYPE_CHECKING:
    from vidbg.frames import Planes
    from vidbg.gpu.frames import Tensors

SUBSAMPLINGS = [(0, 0), (1, 0), (1, 1), (0, 1), (2, 0)]
SITINGS = ["left", "center", "topleft"]


def plane_format(
    subsampling: tuple[int, int] = (1, 1), depth: int = 8, siting: str = "left"
) -> PlaneFormat:
    return PlaneFormat("of no matter", depth, *subsampling, is_rgb=False, chroma_location=siting)


def waves(height: int, width: int, seed: int, count: int = 2) -> NDArray[np.float64]:
    """Smooth pictures in 0..1, ``(count, height, width)``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    angles = rng.uniform(0.05, 0.35, (count, 2)) @ np.stack([y.ravel(), x.ravel()])
    return np.asarray(0.5 + 0.5 * np.sin(angles.reshape(count, height, width)))


def picture(format: PlaneFormat, height: int, width: int, seed: int = 0) -> Planes:
    """Two frames of waves and noise in code values."""
    rng = np.random.default_rng(seed)
    dtype = np.uint8 if format.depth == 8 else np.uint16
    planes = []
    for number, size in enumerate(format.plane_sizes(width, height)):
        values = 0.1 + 0.8 * waves(*size, seed + number) + rng.normal(0, 0.02, (2, *size))
        top = (1 << format.depth) - 1
        planes.append(np.rint(np.clip(values, 0, 1) * top).astype(dtype))
    return tuple(planes)  # type: ignore[return-value]


def ellipse(height: int, width: int, softness: float = 8.0) -> NDArray[np.float32]:
    """Two mattes of ellipses with soft edges, ``(2, height, width)``."""
    y, x = np.mgrid[:height, :width]
    mattes = []
    for shift in (0, 5):
        away = np.hypot((y - height / 2) / height * 3, (x - width / 2 - shift) / width * 3)
        mattes.append(np.clip((1 - away) * softness + 0.5, 0, 1))
    return np.stack(mattes).astype(np.float32)


def alpha_of(matte: NDArray[np.float32], depth: int) -> NDArray[Any]:
    dtype = np.uint8 if depth == 8 else np.uint16
    return np.rint(matte * np.iinfo(dtype).max).astype(dtype)


def tensors(planes: Planes) -> Tensors:
    first, second, third = (torch.from_numpy(plane) for plane in planes)
    return first, second, third


def apart(one: torch.Tensor, other: NDArray[Any]) -> NDArray[np.int64]:
    assert tuple(one.shape) == other.shape
    return np.abs(one.numpy().astype(np.int64) - other.astype(np.int64))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_resizing_is_opencvs(rows: int, columns: int, height: int, width: int) -> None:
    values = np.random.default_rng(rows).random((rows, columns), np.float32)
    smaller = (min(width, columns), min(height, rows))
    expected = np.asarray(cv2.resize(values, smaller, interpolation=cv2.INTER_AREA))
    for is_smooth, interpolation in ((False, cv2.INTER_LINEAR), (True, cv2.INTER_CUBIC)):
        grown = np.asarray(cv2.resize(expected, (width, height), interpolation=interpolation))
        found = resize.resized(torch.from_numpy(values)[None], height, width, is_smooth=is_smooth)
        # OpenCV leaves out parts of pixels of less than a thousandth.
        np.testing.assert_allclose(found[0].numpy(), grown, atol=2e-3)


@pytest.mark.parametrize("size", [(3, 2), (7, 30)])
def test_windows_are_opencvs(size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).random(size, np.float32)
    given_values = torch.from_numpy(values)[None, None]
    for side in (3, 9):
        expected = cv2.blur(values, (side, side))
        np.testing.assert_allclose(resize.box_mean(given_values, side)[0, 0], expected, atol=1e-5)
    for sigma in (0.5, 1.0):
        expected = cv2.GaussianBlur(values, (0, 0), sigma)
        np.testing.assert_allclose(resize.gaussian(given_values, sigma)[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_thumbnails_of_one_colour_are_that_colour(subsampling: tuple[int, int], depth: int) -> None:
    format, colour = plane_format(subsampling, depth), Colour("tv", "bt709", "bt709", "bt709")
    codes = colours.rgb_to_codes((200, 30, 120), format, colour)
    dtype = np.uint8 if depth == 8 else np.uint16
    planes = tuple(
        np.full((1, *size), code, dtype)
        for size, code in zip(format.plane_sizes(66, 50), codes, strict=True)
    )
    for size in ((16, 32), (50, 66), (96, 64)):
        found = thumbnail.planes_to_rgb(tensors(planes), format, colour, size)  # type: ignore[arg-type]
        assert tuple(found.shape) == (1, *size, 3)
        assert found.is_contiguous()
        assert (apart(found, np.broadcast_to([200, 30, 120], found.shape)) <= 1).all()


@pytest.mark.parametrize("siting", SITINGS)
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize(
    ("size", "most"), [((24, 40), 1), ((97, 161), 1), ((60, 100), 3), ((32, 200), 4)]
)
def test_thumbnails_are_the_siblings(
    subsampling: tuple[int, int], siting: str, size: tuple[int, int], most: int
) -> None:
    format = plane_format(subsampling, siting=siting)
    planes, colour = picture(format, 97, 161), Colour("tv", "bt709", "unknown", "unknown")
    expected = colours.planes_to_rgb(planes, format, colour, size)
    off = apart(thumbnail.planes_to_rgb(tensors(planes), format, colour, size), expected)
    # A plane's code more or less, where OpenCV interpolates by weights of 11 bits.
    assert off.max() <= most
    assert (off > 1).mean() < 0.06
    assert off.mean() < 0.15


@pytest.mark.parametrize("size", [(24, 40), (60, 100), (150, 300)])
def test_deep_thumbnails_are_the_siblings_or_off_by_one(size: tuple[int, int]) -> None:
    format, colour = plane_format(depth=10), Colour("tv", "bt709", "unknown", "unknown")
    planes = picture(format, 97, 161)
    expected = colours.planes_to_rgb(planes, format, colour, size)
    off = apart(thumbnail.planes_to_rgb(tensors(planes), format, colour, size), expected)
    assert off.max() <= 1
    assert off.mean() < 0.01


def test_hdr_is_refused() -> None:
    format = plane_format(depth=10)
    colour = Colour("tv", "bt2020nc", "bt2020", "smpte2084")
    with pytest.raises(ValueError, match="smpte2084"):
        thumbnail.planes_to_rgb(tensors(picture(format, 16, 16)), format, colour, (8, 8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("siting", SITINGS)
@pytest.mark.parametrize("subsampling", [*SUBSAMPLINGS, (2, 2)])
def test_alpha_at_chroma_is_the_siblings_exactly(
    subsampling: tuple[int, int], siting: str, dtype: Any
) -> None:
    format = plane_format(subsampling, siting=siting)
    alpha = np.random.default_rng(1).integers(0, np.iinfo(dtype).max + 1, (2, 37, 53), dtype)
    found = composite.alpha_planes(torch.from_numpy(alpha), format)
    for one, other in zip(found, array_composite.alpha_planes(alpha, format), strict=True):
        assert not apart(one, other).any()


@pytest.mark.parametrize(("depth", "most"), [(8, 0), (10, 1), (16, 1)])
@pytest.mark.parametrize("backgrounds", [1, 2])
def test_over_is_the_siblings(depth: int, most: int, backgrounds: int) -> None:
    format = plane_format(depth=depth)
    planes, behind = picture(format, 40, 64), picture(format, 40, 64, seed=9)
    background: Planes = tuple(plane[:backgrounds] for plane in behind)  # type: ignore[assignment]
    alphas = array_composite.alpha_planes(alpha_of(ellipse(40, 64), depth), format)
    found = composite.over(tensors(planes), tensors(background), tensors(alphas))
    expected = array_composite.over(planes, background, alphas)
    for one, other, plane, alpha in zip(found, expected, planes, alphas, strict=True):
        assert apart(one, other).max() <= most
        opaque = alpha == np.iinfo(alpha.dtype).max
        assert opaque.any()
        assert (one.numpy()[opaque] == plane[opaque]).all()


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("depth", [8, 10])
def test_the_foreground_is_the_siblings(subsampling: tuple[int, int], depth: int) -> None:
    format = plane_format(subsampling, depth)
    planes = picture(format, 75, 130)
    alphas = array_composite.alpha_planes(alpha_of(ellipse(75, 130), depth), format)
    for on_device, of_arrays in (
        (foreground.estimate_foreground, array_foreground.estimate_foreground),
        (foreground.extend_foreground, array_foreground.extend_foreground),
    ):
        found = on_device(tensors(planes), tensors(alphas), format)
        expected = of_arrays(planes, alphas, format)
        for one, other, plane, alpha in zip(found, expected, planes, alphas, strict=True):
            off = apart(one, other)
            assert off.max() <= 1
            assert off.mean() < 0.15
            opaque = alpha == np.iinfo(alpha.dtype).max
            assert (one.numpy()[opaque] == plane[opaque]).all()


@pytest.mark.parametrize("depth", [8, 16])
def test_the_foreground_is_told_from_the_background(depth: int) -> None:
    """Two flat colours, mixed along a soft edge: of the error of a quarter, a fifth is left."""
    format = plane_format((0, 0), depth)
    alpha = alpha_of(ellipse(120, 150, softness=4), depth)
    share = alpha / np.iinfo(alpha.dtype).max
    front, back = (level << (depth - 8) for level in (200, 60))
    mixed = np.rint(front * share + back * (1 - share)).astype(alpha.dtype)
    (found, _, _) = foreground.estimate_foreground(
        tensors((mixed, mixed, mixed)), tensors((alpha, alpha, alpha)), format
    )
    error = (np.abs(found.numpy().astype(float) - front) * share).max()
    assert error < 0.2 * (front - back) / 4


def test_colours_are_opencvs() -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    expected = cv2.cvtColor(rgb[0], cv2.COLOR_RGB2LAB)
    off = apart(appearance._lab(torch.from_numpy(rgb))[0], np.asarray(expected))
    assert off.max() <= 1
    assert off.mean() < 0.01


def test_corrected_mattes_are_the_siblings() -> None:
    rgb = np.rint(255 * np.stack([waves(64, 96, seed) for seed in range(3)], axis=-1))
    matte = cv2.GaussianBlur(ellipse(64, 96).transpose(1, 2, 0), (0, 0), 2).transpose(2, 0, 1)
    rgb, matte = rgb.astype(np.uint8), np.ascontiguousarray(matte, np.float32)
    found = appearance.corrected(torch.from_numpy(rgb), torch.from_numpy(matte)).numpy()
    expected = np.stack([array_appearance.corrected(*one) for one in zip(rgb, matte, strict=True)])
    assert np.abs(expected - matte).max() > 0.05  # something was corrected
    assert np.abs(found - expected).max() < 0.02
    assert np.abs(found - expected).mean() < 2e-4


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_what_is_sure_stays(level: float) -> None:
    rgb = np.rint(255 * np.stack([waves(32, 48, seed) for seed in range(3)], axis=-1))
    matte = torch.full((2, 32, 48), level)
    assert (appearance.corrected(torch.from_numpy(rgb.astype(np.uint8)), matte) == level).all()


@pytest.mark.parametrize("edges", refine.EDGES)
@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("has_own", [False, True])
def test_finished_mattes_are_the_siblings(edges: str, depth: int, has_own: bool) -> None:
    format = plane_format(depth=depth)
    planes = picture(format, 90, 130)
    rgb = np.rint(255 * np.stack([waves(48, 64, seed) for seed in range(3)], axis=-1))
    rgb, matte = rgb.astype(np.uint8), ellipse(48, 64, softness=5)
    own = None
    if has_own:
        own = np.rint(waves(90, 130, 5) * ((1 << depth) - 1)).astype(planes[0].dtype)
    frames = FrameBatch(planes, format, 0, own)
    expected = array_refine.finish_matte(MattedBatch(frames, rgb, matte), edges)
    there = DeviceFrames(tensors(planes), format, 0, None if own is None else torch.from_numpy(own))
    found = refine.finish_matte(
        DeviceMatted(there, torch.from_numpy(rgb), torch.from_numpy(matte)), edges
    )
    level = np.iinfo(expected.dtype).max / 255
    off = apart(found, expected) / level
    assert off.mean() < 0.05
    assert off.max() <= (1 if edges == "off" else 4)


def test_edges_that_need_the_cpu_are_refused() -> None:
    with pytest.raises(ValueError, match="fine"):
        refine.finish_matte(None, "fine")  # type: ignore[arg-type]
