"""How good mattes are, with the definitions of the field: arrays in, numbers out.

Every figure of a clip is a mean over all its frames, the first and last included, which the
DAVIS benchmark leaves out. Clips are iterables of frames, so that none has to lie in memory as
a whole. Values are fractions of 1, but for the two over time, which come in the units in which
papers print them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, cast

import cv2
import numpy as np

from vidbg.temporal.flow import warp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matte = NDArray[np.float32] | NDArray[np.float64]

_REGION_THRESHOLD: Final = 0.5
# How far contours may be apart and still be the same, as a share of the picture's diagonal.
_CONTOUR_TOLERANCE: Final = 0.008
# Precision weighs more than recall: Achanta et al., and all who came after.
_BETA_SQUARED: Final = 0.3
_WARP_WIDTH_PX, _WARP_HEIGHT_PX = 427, 240
_WARP_LUMA_LEVELS: Final = 12
# OpenCV's stubs do not know that this argument may be left out.
_NONE: Final = cast("Any", None)


def jaccard(alpha: Matte, truth: Matte) -> float:
    """Return the region similarity J: intersection over union of what is above one half.

    F. Perazzi et al., "A benchmark dataset and evaluation methodology for video object
    segmentation", CVPR 2016, section 4. Two empty regions are alike: 1.

    Args:
        alpha: float ``(H, W)``, 0 to 1.
        truth: float ``(H, W)``, 0 to 1.

    Raises:
        ValueError: The two differ in shape, or are no single pictures.
    """
    _check_alike(alpha, truth)
    region, true_region = alpha > _REGION_THRESHOLD, truth > _REGION_THRESHOLD
    union = np.count_nonzero(region | true_region)
    return np.count_nonzero(region & true_region) / union if union else 1.0


def boundary_f(alpha: Matte, truth: Matte) -> float:
    """Return the contour accuracy F: harmonic mean of the contours' precision and recall.

    F. Perazzi et al., CVPR 2016, section 4: regions are what is above one half; a pixel of
    one contour is right where the other has one within 0.008 of the diagonal, rounded up to
    whole pixels. Dilation stands in for the one-to-one matching of D. Martin, C. Fowlkes and
    J. Malik, TPAMI 2004. Two pictures without contours are alike, 1; one without matches no
    other, 0. A region that fills its picture has no contour.

    Two details are not those of the benchmark's own code: a pixel belongs to the contour when
    its neighbour to the right or below is on the other side, where theirs asks the one below
    to the right as well; and the rows of the disk are rounded, where theirs are cut off. On a
    clip at 854x480 that makes F larger by 0.004.

    Args:
        alpha: float ``(H, W)``, 0 to 1.
        truth: float ``(H, W)``, 0 to 1.

    Raises:
        ValueError: The two differ in shape, or are no single pictures.
    """
    _check_alike(alpha, truth)
    contour, true_contour = (_contour(array > _REGION_THRESHOLD) for array in (alpha, truth))
    length, true_length = np.count_nonzero(contour), np.count_nonzero(true_contour)
    if not length or not true_length:
        return float(length == true_length)
    disk = _disk(math.ceil(_CONTOUR_TOLERANCE * math.hypot(*alpha.shape)))
    near, near_true = (cv2.dilate(line, disk) > 0 for line in (contour, true_contour))
    precision = np.count_nonzero(contour[near_true]) / length
    recall = np.count_nonzero(true_contour[near]) / true_length
    return _f_measure(precision, recall, beta_squared=1.0)


def mad(alpha: Matte, truth: Matte) -> float:
    """Return the mean absolute difference, 0 to 1.

    MAD in the literature on matting, where it is printed times 1000; MAE in that on salient
    objects (F. Perazzi et al., "Saliency filters", CVPR 2012).

    Args:
        alpha: float ``(H, W)``, 0 to 1.
        truth: float ``(H, W)``, 0 to 1.

    Raises:
        ValueError: The two differ in shape, or are no single pictures.
    """
    _check_alike(alpha, truth)
    return float(np.abs(alpha - truth).mean(dtype=np.float64))


def mse(alpha: Matte, truth: Matte) -> float:
    """Return the mean squared difference, 0 to 1; printed times 1000 in the literature.

    C. Rhemann et al., "A perceptually motivated online benchmark for image matting",
    CVPR 2009, over the whole picture for want of a trimap.

    Args:
        alpha: float ``(H, W)``, 0 to 1.
        truth: float ``(H, W)``, 0 to 1.

    Raises:
        ValueError: The two differ in shape, or are no single pictures.
    """
    _check_alike(alpha, truth)
    return float(np.square(alpha - truth).mean(dtype=np.float64))


def dtssd(alphas: Iterable[Matte], truths: Iterable[Matte]) -> float:
    """Return how much the matte changes where the truth does not, times 100.

    M. Erofeev et al., "Perceptually motivated benchmark for video matting", BMVC 2015: the
    root of the mean squared difference between the change of the matte and the change of the
    truth from one frame to the next, as a mean over the frames.

    Args:
        alphas: float ``(H, W)`` each, 0 to 1.
        truths: float ``(H, W)`` each, 0 to 1, as many.

    Raises:
        ValueError: Counts or shapes differ, or there are fewer than two frames.
    """

    def error(alpha: Matte, truth: Matte) -> Matte:
        _check_alike(alpha, truth)
        return alpha - truth

    errors = (error(alpha, truth) for alpha, truth in zip(alphas, truths, strict=True))
    # The change of the matte less that of the truth is the change of their difference.
    return 100.0 * _mean(
        math.sqrt(np.square(after - before).mean(dtype=np.float64))
        for before, after in pairwise(errors)
    )


def warp_error(alphas: Iterable[Matte], frames: Iterable[NDArray[np.uint8]]) -> float:
    """Return how much the matte changes along the picture's motion, times 1000. Needs no truth.

    W.-S. Lai et al., "Learning blind video temporal consistency", ECCV 2018: the frame before
    is warped along optical flow, and what then differs is no motion. Here at 427x240, with the
    flow of T. Kroeger et al., ECCV 2016 (DIS, the preset "fast"); absolute differences; in the
    place of a test for occlusion only pixels count whose luma, warped likewise, is less than
    12 of 255 levels off. The mean over pixels, then over pairs of frames; pairs without such
    a pixel, as cuts may be, are left out.

    Args:
        alphas: float ``(H, W)`` each, 0 to 1.
        frames: uint8 ``(H, W, 3)`` each, R'G'B' full range, as many.

    Raises:
        ValueError: Counts or shapes differ, or no pixel can be followed from frame to frame.
    """
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def small(alpha: Matte, frame: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
        luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        _check_alike(alpha, luma)
        size = (_WARP_WIDTH_PX, _WARP_HEIGHT_PX)
        return (
            cv2.resize(alpha.astype(np.float32), size, interpolation=cv2.INTER_AREA),
            cv2.resize(luma, size, interpolation=cv2.INTER_AREA),
        )

    def errors() -> Iterable[float]:
        pairs = (small(alpha, frame) for alpha, frame in zip(alphas, frames, strict=True))
        for (alpha_before, luma_before), (alpha, luma) in pairwise(pairs):
            motion = search.calc(luma, luma_before, _NONE).astype(np.float32)
            agrees = cv2.absdiff(warp(luma_before, motion), luma) < _WARP_LUMA_LEVELS
            if agrees.any():
                off = np.abs(warp(alpha_before, motion) - alpha)
                yield float(off[agrees].mean(dtype=np.float64))

    return 1000.0 * _mean(errors())


def max_f_beta(alphas: Iterable[Matte], truths: Iterable[Matte]) -> float:
    """Return the best F-measure that one threshold for all pictures can give, 0 to 1.

    R. Achanta et al., "Frequency-tuned salient region detection", CVPR 2009: beta squared is
    0.3. As in X. Qin et al., "U2-Net", Pattern Recognition 2020: precision and recall are
    means over the pictures at each of 255 thresholds; the F-measure is that of the means;
    precision is 0 where nothing is above the threshold. Unlike there, mattes are taken as they
    are and not first stretched from 0 to 1 by their own extremes.

    Args:
        alphas: float ``(H, W)`` each, 0 to 1; sizes may differ from picture to picture.
        truths: float ``(H, W)`` each, 0 to 1, as many; what is above one half is foreground.

    Raises:
        ValueError: Counts or shapes differ, there are no pictures, or a truth is empty.
    """
    count = 0
    precision, recall = np.zeros(255), np.zeros(255)
    for alpha, truth in zip(alphas, truths, strict=True):
        _check_alike(alpha, truth)
        foreground = truth > _REGION_THRESHOLD
        total = np.count_nonzero(foreground)
        if not total:
            raise ValueError("recall is not defined on a picture without foreground")
        levels = np.rint(np.clip(alpha, 0, 1) * 255).astype(np.uint8)
        found, right = (
            # How many pixels are at each level or above: 255, 254 ... 1.
            np.cumsum(np.bincount(chosen.ravel(), minlength=256)[:0:-1])
            for chosen in (levels, levels[foreground])
        )
        precision += right / np.maximum(found, 1)
        recall += right / total
        count += 1
    if not count:
        raise ValueError("there are no pictures")
    return max(
        _f_measure(p, r, beta_squared=_BETA_SQUARED)
        for p, r in zip(precision / count, recall / count, strict=True)
    )


def _f_measure(precision: float, recall: float, *, beta_squared: float) -> float:
    """Return the weighted harmonic mean, 0 where both are 0."""
    weighted = beta_squared * precision + recall
    return float((1 + beta_squared) * precision * recall / weighted) if weighted else 0.0


def _contour(region: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return 1 where the pixel to the right or below is on the other side, else 0."""
    contour = np.zeros(region.shape, np.uint8)
    contour[:, :-1] |= region[:, :-1] != region[:, 1:]
    contour[:-1] |= region[:-1] != region[1:]
    return contour


def _disk(radius_px: int) -> NDArray[np.uint8]:
    """Return 1 in a disk, else 0; each row's half width is rounded to whole pixels."""
    offsets = np.arange(-radius_px, radius_px + 1)
    half_widths = np.rint(np.sqrt(radius_px**2 - offsets**2))
    return (np.abs(offsets) <= half_widths[:, None]).astype(np.uint8)


def _mean(values: Iterable[float]) -> float:
    collected = list(values)
    if not collected:
        raise ValueError("no two frames of the clip can be compared")
    return math.fsum(collected) / len(collected)


def _check_alike(one: NDArray[Any], other: NDArray[Any]) -> None:
    """Raise ValueError unless both are pictures of one size: nothing is to be broadcast."""
    if one.ndim != 2 or one.shape != other.shape:
        raise ValueError(f"expected two (H, W) of one size, got {one.shape} and {other.shape}")
