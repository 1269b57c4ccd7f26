"""Put a foreground over a background, plane by plane: arrays in, arrays out.

Alpha is straight and in the samples' own integer type: uint8 0..255 beside uint8 samples,
uint16 0..65535 beside uint16 samples of any depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from vidbg.profile import stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vidbg.frames import Plane, PlaneFormat, Planes

    FloatArray = NDArray[np.floating[Any]]

# Work is done in bands of rows whose scratch arrays, this size each, stay in a core's second-level
# cache. At 1080p a band of 64 rows takes 0.7 ms where whole planes take 0.9.
_SCRATCH_BYTES = 1 << 18

# From this alpha on a sample is no part of the background that is to be blurred.
_SUBJECT_ALPHA = 1 / 6
# Nor are samples this near to one that is not, since a soft edge has the subject's colour in it.
_KEEP_AWAY_PX = 3
# The coarsest grid on which a blur may be computed, in cells per standard deviation. Linear
# interpolation between cells then stays within about one 8-bit code of the true blur even on a
# black and white chequerboard, and natural frames do not show it.
_CELLS_PER_SIGMA = 3
# Octaves end at a grid this small, whose mean answers for the rest.
_COARSEST_CELLS = 4
# The share of a frame below which what is left of the background gives way to the frame's mean.
_LEAST_BACKGROUND = 1e-4


@stage("composite")
def alpha_planes(alpha: Plane, format: PlaneFormat) -> Planes:
    """Return the alpha of each plane: luma's as it is, chroma's resampled to where chroma sits.

    A chroma sample is the mean of the luma positions around it, weighted as the format's siting
    has it. Amid its cell ("center"): the mean of the cell. On a luma sample ("left"
    horizontally, "topleft" also vertically): a triangle centred there, which is
    [1 2 1] / 4 for a subsampling of 2 and [1 2 3 4 3 2 1] / 16 for one of 4. Both let each
    luma position count the same in all, so coverage is kept. Edges are replicated; each result
    is rounded once, to nearest, halves up.

    Args:
        alpha: uint8 or uint16 ``(B, H, W)``, at luma size.
        format: The working format.

    Returns:
        Three arrays of alpha's dtype: ``(B, H, W)`` (``alpha`` itself), and the same
        ``(B, h, w)`` twice. Where nothing is subsampled, ``alpha`` three times.

    Raises:
        ValueError: Alpha is of another dtype, or the format's chroma location is unknown.
    """
    if alpha.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"alpha of {alpha.dtype} is neither uint8 nor uint16")
    if format.log2_chroma_w == format.log2_chroma_h == 0:
        return alpha, alpha, alpha
    if format.chroma_location not in ("left", "center", "topleft"):
        raise ValueError(f"unknown chroma location {format.chroma_location!r}")
    frame_count, height, width = alpha.shape
    chroma = np.empty((frame_count, *format.plane_sizes(width, height)[1]), alpha.dtype)
    for frame, target in zip(alpha, chroma, strict=True):
        _sample_at_chroma(frame, format, target)
    return alpha, chroma, chroma


@stage("composite")
def over(planes: Planes, background: Planes, alphas: Planes) -> Planes:
    """Return ``planes`` composited over ``background``: F·a + B·(1 - a), plane by plane.

    Rounded exactly, to nearest (there are no ties). Alpha at its top gives the foreground and
    alpha 0 the background, bit for bit.

    Args:
        planes: The foreground F: three arrays ``(B, H, W)``, ``(B, h, w)``, ``(B, h, w)``,
            uint8 or uint16.
        background: The background, in the same format; ``(B, ...)``, or ``(1, ...)`` for a
            still behind all frames.
        alphas: What :func:`alpha_planes` returns, of the samples' dtype.

    Returns:
        New arrays of the foreground's shapes and dtype.

    Raises:
        ValueError: Shapes or dtypes do not fit each other.
    """
    composite = tuple(
        _plane_over(plane, behind, alpha)
        for plane, behind, alpha in zip(planes, background, alphas, strict=True)
    )
    return cast("Planes", composite)


def blurred_background(
    planes: Planes, alphas: Planes, format: PlaneFormat, radius_px: float
) -> Planes:
    """Return the clip's own background out of focus, without the subject in it.

    A normalised convolution (Knutsson and Westin, "Normalized and differential convolution",
    CVPR 1993) with a Gaussian: each sample is weighted by how surely it is background, and the
    sum is divided by the weights' own. The weight is 0 from alpha 1/6 on, and within 3 luma
    pixels of there (one cell of the grid that a large blur is computed on, if that is more).
    Where too few weights are near, the next octave of a pyramid answers, with twice the
    standard deviation, and at last the mean of all that is background: so what lies behind
    the subject is filled smoothly from around it. Where a frame shows no background at all, the
    result is the frame's mean.

    The division by the weights' sum d is its series 1/d = Σ (1 - d)^i cut after the fourth term,
    and (1 - d)^4 is the share of the next octave. That is finite everywhere, exact for d = 1,
    and varies smoothly with alpha, so that the fill does not flicker.

    Args:
        planes: Three arrays ``(B, H, W)``, ``(B, h, w)``, ``(B, h, w)``, uint8 or uint16.
        alphas: What :func:`alpha_planes` returns, of the samples' dtype.
        format: The planes' working format.
        radius_px: The Gaussian's standard deviation in luma pixels, above 0. Frames are
            mirrored at their edges.

    Returns:
        New arrays of the shapes and dtype of ``planes``.

    Raises:
        ValueError: ``radius_px`` is not above 0, or not finite.
    """
    if not 0 < radius_px < math.inf:
        raise ValueError(f"a blur's radius is above 0 pixels, not {radius_px}")
    subsampled = (1 << format.log2_chroma_h, 1 << format.log2_chroma_w)
    steps = ((1, 1), subsampled, subsampled)
    blurred = tuple(np.empty_like(plane) for plane in planes)
    for index in range(planes[0].shape[0]):
        weights: _Weights | None = None
        for number, step in enumerate(steps):
            # Chroma planes share one alpha, and planes of one size all do.
            if weights is None or alphas[number] is not alphas[number - 1]:
                weights = _background_weights(alphas[number][index], radius_px, step)
            _blur_into(blurred[number][index], planes[number][index], weights)
    return cast("Planes", blurred)


def _sample_at_chroma(alpha: Plane, format: PlaneFormat, target: Plane) -> None:
    """Write ``alpha``, ``(H, W)``, to ``target``, ``(h, w)``, at the chroma siting."""
    rows, columns = 1 << format.log2_chroma_h, 1 << format.log2_chroma_w
    is_left = format.chroma_location != "center" and columns > 1
    is_top = format.chroma_location == "topleft" and rows > 1
    # Weights add up to a power of two, 256 at most. OpenCV knows no uint32.
    wide = np.dtype(np.uint16 if alpha.dtype == np.uint8 else np.int32)
    log2_weights = format.log2_chroma_h * (1 + is_top) + format.log2_chroma_w * (1 + is_left)

    missing = (-alpha.shape[0] % rows, -alpha.shape[1] % columns)
    whole_cells: NDArray[Any] = alpha
    if any(missing):
        whole_cells = np.pad(alpha, ((0, missing[0]), (0, missing[1])), mode="edge")
    sums = _weighted_sum([whole_cells[phase::rows] for phase in range(rows)], is_top, wide)
    # OpenCV has vector code that takes columns apart, and NumPy has not.
    parts = cv2.split(sums.reshape(*target.shape, columns))
    sums = _weighted_sum([part.T for part in parts], is_left, wide).T
    sums += wide.type(1 << log2_weights >> 1)
    sums >>= wide.type(log2_weights)
    np.copyto(target, sums, casting="unsafe")


def _weighted_sum(
    phases: Sequence[NDArray[Any]], is_cosited: bool, wide: np.dtype[Any]
) -> NDArray[Any]:
    """Return sums over cells along the first axis, weighted for the siting.

    Args:
        phases: The first, second, ... sample of every cell, each ``(n, m)``.
        is_cosited: Weigh by a triangle about the cell's first sample instead of equally.
        wide: A type that holds the sums.

    Returns:
        ``(n, m)`` of type ``wide``; weights add up to len(phases), or its square if cosited.
    """
    sums: NDArray[Any] = phases[0].astype(wide)
    if not is_cosited:
        for phase in phases[1:]:
            sums += phase
        return sums
    factor = len(phases)
    edge = sums[0] * wide.type(factor * (factor - 1) // 2)
    sums *= wide.type(factor)
    for position in range(1, factor):
        phase = phases[position].astype(wide)
        sums += phase * wide.type(factor - position)
        # The triangle's other side lies in the cell before; the first cell has the edge there.
        sums[1:] += phase[:-1] * wide.type(position)
    sums[0] += edge
    return sums


def _plane_over(plane: Plane, background: Plane, alpha: Plane) -> Plane:
    """Return one plane composited; shapes as in :func:`over`."""
    frame_count, height, width = plane.shape
    if (
        alpha.shape != plane.shape
        or background.shape[1:] != plane.shape[1:]
        or background.shape[0] not in (1, frame_count)
    ):
        raise ValueError(
            f"planes of shapes {plane.shape}, {background.shape} and alpha of {alpha.shape} "
            "do not fit each other"
        )
    if not plane.dtype == background.dtype == alpha.dtype or plane.dtype not in (
        np.uint8,
        np.uint16,
    ):
        raise ValueError(
            f"planes of {plane.dtype}, {background.dtype} and alpha of {alpha.dtype} "
            "are not all uint8 or all uint16"
        )

    wide = np.dtype(np.uint16 if plane.dtype == np.uint8 else np.uint32)
    rows = max(1, _SCRATCH_BYTES // (width * wide.itemsize))
    scratch = np.empty((3, rows * width), wide)
    composite = np.empty_like(plane)
    for index in range(frame_count):
        behind = background[index if background.shape[0] > 1 else 0]
        for top in range(0, height, rows):
            band = slice(top, min(top + rows, height))
            # Where alpha is 0 in whole columns of the band, beside the subject, copying is all
            # there is to do: a third off the time of an ordinary frame. Finer tiles lose more in
            # calls than they save.
            covered = np.flatnonzero(alpha[index, band].max(axis=0))
            left, right = (covered[0], covered[-1] + 1) if covered.size else (0, 0)
            composite[index, band, :left] = behind[band, :left]
            composite[index, band, right:] = behind[band, right:]
            if right > left:
                shape = (band.stop - band.start, right - left)
                buffers = scratch[:, : shape[0] * shape[1]].reshape(3, *shape)
                _blend(
                    plane[index, band, left:right],
                    behind[band, left:right],
                    alpha[index, band, left:right],
                    composite[index, band, left:right],
                    buffers,
                )
    return composite


def _blend(
    foreground: Plane, background: Plane, alpha: Plane, target: Plane, buffers: NDArray[Any]
) -> None:
    """Write (F·a + B·(top - a)) / top, rounded to nearest, to ``target``.

    The sum is at most top², so it fits twice the samples' width, and as B·top + (F - B)·a it
    costs one multiplication less; that F - B wraps round does no harm modulo the width.
    Dividing by top = 2ⁿ - 1 with rounding is t = sum + 2ⁿ⁻¹, (t + (t >> n)) >> n (Blinn, "Three
    wrongs make a right", IEEE Computer Graphics and Applications 15(6), 1995).

    Args:
        foreground: ``(h, w)``, uint8 or uint16.
        background: The same.
        alpha: The same.
        target: The same.
        buffers: Scratch, ``(3, h, w)``, of twice the samples' width.
    """
    bits = 8 * foreground.itemsize
    total, scaled, wide_alpha = buffers
    np.copyto(total, foreground)
    np.copyto(scaled, background)
    np.copyto(wide_alpha, alpha)
    total -= scaled
    total *= wide_alpha
    scaled *= buffers.dtype.type((1 << bits) - 1)
    total += scaled
    total += buffers.dtype.type(1 << (bits - 1))
    np.right_shift(total, buffers.dtype.type(bits), out=scaled)
    total += scaled
    total >>= buffers.dtype.type(bits)
    np.copyto(target, total, casting="same_kind")


@dataclass(frozen=True, slots=True, eq=False)
class _Weights:
    """How surely each sample of a plane is background, at full size and on the blur's grid.

    Attributes:
        full: float32 ``(H, W)``, 0 to 1.
        gain: What brings means over grid cells of samples times ``full`` to the weight that
            is left after keeping away from the subject; float32 ``(h, w)``, 0 to 1.
        sigmas: The Gaussian's standard deviation in grid cells, (vertical, horizontal).
        octaves: For each level of the pyramid, finest first, with d its blurred weights: the
            series that stands for 1/d, and (1 - d)^4, the share of the next level; float32.
        mean: The mean of the coarsest level's blurred weights.
    """

    full: FloatArray
    gain: FloatArray
    sigmas: tuple[float, float]
    octaves: tuple[tuple[FloatArray, FloatArray], ...]
    mean: float


def _background_weights(alpha: Plane, radius_px: float, step: tuple[int, int]) -> _Weights:
    """Return the weights of one plane of one frame.

    Args:
        alpha: ``(H, W)``, uint8 or uint16.
        radius_px: As in :func:`blurred_background`.
        step: Luma pixels from one of the plane's samples to the next, (vertical, horizontal).
    """
    full = alpha.astype(np.float32)
    full *= -1 / (_SUBJECT_ALPHA * np.iinfo(alpha.dtype).max)
    full += 1
    np.maximum(full, 0, out=full)

    grid, reach, sigmas = [], [], []
    for length, distance_px in zip(alpha.shape, step, strict=True):
        # Of a mirrored frame, twice its length leaves nothing but the mean, and more would only
        # make the kernel larger.
        sigma = min(radius_px / distance_px, 2 * length)
        factor = 1
        while 2 * factor * _CELLS_PER_SIGMA <= sigma:
            factor *= 2
        cells = -(-length // factor)
        grid.append(cells)
        reach.append(-(-_KEEP_AWAY_PX // (factor * distance_px)))
        # Averaging over cells and interpolating between them blur by themselves, by variances
        # of (factor² - 1) / 12 and twice that.
        factor_exactly = length / cells
        sigmas.append(math.sqrt(sigma**2 - (factor_exactly**2 - 1) / 4) / factor_exactly)

    certain = _resized(full, (grid[0], grid[1]), cv2.INTER_AREA)
    kept = cv2.erode(certain, np.ones((2 * reach[0] + 1, 2 * reach[1] + 1), np.uint8))
    gain = np.divide(kept, certain, out=np.zeros_like(certain), where=certain > 0)

    octaves = []
    blurred = _gaussian(cast("FloatArray", kept), (sigmas[0], sigmas[1]))
    while True:
        missing = 1 - blurred
        squared = missing * missing
        # 1 + (1 - d) + (1 - d)^2 + (1 - d)^3, factored.
        octaves.append(((1 + missing) * (1 + squared), squared * squared))
        if max(blurred.shape) <= _COARSEST_CELLS:
            break
        blurred = _gaussian(_halved(blurred), (sigmas[0], sigmas[1]))
    return _Weights(full, gain, (sigmas[0], sigmas[1]), tuple(octaves), float(blurred.mean()))


def _blur_into(target: Plane, plane: Plane, weights: _Weights) -> None:
    """Write one plane ``(H, W)`` of one frame, blurred, to ``target``."""
    samples = plane.astype(np.float32)
    samples *= weights.full
    sums = _resized(samples, weights.gain.shape, cv2.INTER_AREA)
    sums *= weights.gain
    octaves = [_gaussian(sums, weights.sigmas)]
    while len(octaves) < len(weights.octaves):
        octaves.append(_gaussian(_halved(octaves[-1]), weights.sigmas))

    frame_mean = cv2.mean(plane)[0]
    fill = (float(octaves[-1].mean()) + _LEAST_BACKGROUND * frame_mean) / (
        weights.mean + _LEAST_BACKGROUND
    )
    blurred = np.full_like(octaves[-1], fill)
    for octave, (series, rest) in zip(reversed(octaves), reversed(weights.octaves), strict=True):
        blurred = _resized(blurred, octave.shape, cv2.INTER_LINEAR)
        blurred *= rest
        octave *= series
        blurred += octave

    full_size = _resized(blurred, plane.shape, cv2.INTER_LINEAR)
    np.copyto(target, np.rint(full_size, out=full_size), casting="unsafe")


def _gaussian(samples: FloatArray, sigmas: tuple[float, float]) -> FloatArray:
    """Return ``samples``, ``(h, w)``, blurred, the frame mirrored at its edges."""
    vertical, horizontal = sigmas
    # A kernel of no size asks for one that reaches four standard deviations.
    blurred = cv2.GaussianBlur(
        samples, (0, 0), sigmaX=horizontal, sigmaY=vertical, borderType=cv2.BORDER_REFLECT
    )
    return cast("FloatArray", blurred)


def _halved(samples: FloatArray) -> FloatArray:
    """Return ``samples``, ``(h, w)``, averaged down to half the size, rounded up."""
    height, width = samples.shape
    return _resized(samples, (-(-height // 2), -(-width // 2)), cv2.INTER_AREA)


def _resized(samples: FloatArray, shape: tuple[int, ...], interpolation: int) -> FloatArray:
    """Return ``samples``, ``(h, w)``, at another shape, (height, width)."""
    height, width = shape
    return cast("FloatArray", cv2.resize(samples, (width, height), interpolation=interpolation))
