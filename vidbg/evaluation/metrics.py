"""How good mattes are, with the definitions of the field: arrays in, numbers out.

Every figure of a clip is a mean over all its frames, the first and last included, which the
DAVIS benchmark leaves out. Clips are iterables of frames, so that none has to lie in memory as
a whole. Values are fractions of 1, but for those in the units in which papers print them: the two
over time, and gradient and connectivity error, which are sums over a picture's pixels.

A figure over time is a class that takes one frame after another, and a function over it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
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
# The S-measure's weight of objects against regions, and what keeps its quotients finite.
_OBJECT_SHARE: Final = 0.5
_TINY: Final = float(np.spacing(1.0))
# Rhemann et al.: the Gaussian whose derivatives are the gradient, and where its tail is cut off.
_GRADIENT_SIGMA_PX: Final = 1.4
_GRADIENT_TAIL: Final = 0.01
# Levels at which pixels may lose their connection, and the loss from which one is seen.
_CONNECTIVITY_STEPS: Final = 10
_CONNECTIVITY_THRESHOLD: Final = 0.15
_SOFT_BAND: Final = (0.05, 0.95)
# Sums over a picture are printed in thousands.
_THOUSAND: Final = 1000.0
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


def s_measure(alpha: Matte, truth: Matte) -> float:
    """Return the structure measure S, 0 to 1.

    D.-P. Fan et al., "Structure-measure: A new way to evaluate foreground maps", ICCV 2017:
    ``S = 0.5 S_o + 0.5 S_r``, or 0 where that is less. ``S_o`` (section 3.2) is the mean of
    ``2 x / (x^2 + 1 + s)`` over the true foreground and of the same for 1 - alpha over the true
    background, weighted by their areas, with x the mean and s the standard deviation there
    (lambda is 0.5). ``S_r`` (section 3.1) is the mean of the structural similarity
    ``4 x y s_xy / ((x^2 + y^2) (s_x^2 + s_y^2))`` in the four quarters around the true
    foreground's centroid, weighted by area; two quarters without structure, or black, are
    alike. Where the truth is all background S is the mean of 1 - alpha, where it is all
    foreground that of alpha.

    As in the authors' code, variances are those of samples and the pixel at the centroid belongs
    to the upper left quarter.

    Args:
        alpha: float ``(H, W)``, 0 to 1, taken as it is and not stretched by its extremes.
        truth: float ``(H, W)``, 0 to 1; what is above one half is foreground.

    Raises:
        ValueError: The two differ in shape, or are no single pictures.
    """
    _check_alike(alpha, truth)
    found = alpha.astype(np.float64)
    foreground = truth > _REGION_THRESHOLD
    share = float(foreground.mean())
    if share in (0.0, 1.0):
        mean = float(found.mean())
        return mean if share else 1.0 - mean
    objects = share * _likeness(found[foreground])
    objects += (1.0 - share) * _likeness(1.0 - found[~foreground])
    row, column = (round(float(at.mean())) + 1 for at in np.nonzero(foreground))
    regions = 0.0
    for rows in (slice(row), slice(row, None)):
        for columns in (slice(column), slice(column, None)):
            quarter = found[rows, columns]
            weight = quarter.size / found.size
            if weight:
                regions += weight * _structure(quarter, foreground[rows, columns])
    return max(0.0, _OBJECT_SHARE * objects + (1.0 - _OBJECT_SHARE) * regions)


def gradient_error(alpha: Matte, truth: Matte) -> float:
    """Return how far edges differ: the sum over pixels in thousands, 0 or more.

    Grad of C. Rhemann et al., CVPR 2009: ``sum |g(alpha) - g(truth)|^2``, with g the length of
    the gradient, by the first derivatives of a Gaussian of 1.4 pixels, each filter of length 1
    as a vector. Over the whole picture for want of a trimap, and in thousands as S. Lin et al.
    print it ("Robust high-resolution video matting with temporal guidance", WACV 2022); unlike
    in their code, mattes are not first stretched from 0 to 1 by their own extremes.

    Args:
        alpha: float ``(H, W)``, 0 to 1.
        truth: float ``(H, W)``, 0 to 1.

    Raises:
        ValueError: The two differ in shape, or are no single pictures.
    """
    _check_alike(alpha, truth)
    difference = _slope(alpha) - _slope(truth)
    return float(np.square(difference).sum(dtype=np.float64)) / _THOUSAND


def connectivity_error(alpha: Matte, truth: Matte) -> float:
    """Return how much hangs in the air: the sum over pixels in thousands, 0 or more.

    Conn of C. Rhemann et al., CVPR 2009: ``sum |phi(alpha) - phi(truth)|`` with
    ``phi = 1 - d`` where ``d = alpha - l`` is 0.15 or more, else 1 (their weight lambda is 1).
    l is the highest level, in steps of 0.1, down to which a pixel has always belonged to the
    largest 4-connected region of what is at that level or above in matte and truth alike, as in
    the authors' code. Over the whole picture for want of a trimap, and in thousands as S. Lin et
    al., WACV 2022, print it.

    Args:
        alpha: float ``(H, W)``, 0 to 1.
        truth: float ``(H, W)``, 0 to 1.

    Raises:
        ValueError: The two differ in shape, or are no single pictures.
    """
    _check_alike(alpha, truth)
    found, true = alpha.astype(np.float32), truth.astype(np.float32)
    common = np.minimum(found, true)
    connected = np.ones(common.shape, bool)
    steps = np.zeros(common.shape, np.uint8)
    for step in range(1, _CONNECTIVITY_STEPS + 1):
        connected &= _largest_region(common >= np.float32(step / _CONNECTIVITY_STEPS))
        if not connected.any():
            break
        steps += connected
    level = (steps / np.float32(_CONNECTIVITY_STEPS)).astype(np.float32)
    losses = [matte - level for matte in (found, true)]
    seen = [loss * (loss >= _CONNECTIVITY_THRESHOLD) for loss in losses]
    return float(np.abs(seen[0] - seen[1]).sum(dtype=np.float64)) / _THOUSAND


class Change:
    """How much the matte changes where the truth does not, frame after frame; see :func:`dtssd`."""

    def __init__(self) -> None:
        self._before: Matte | None = None

    def add(self, alpha: Matte, truth: Matte) -> float | None:
        """Return the figure of this frame and the one before, times 100; None of the first.

        Args:
            alpha: float ``(H, W)``, 0 to 1.
            truth: float ``(H, W)``, 0 to 1.

        Raises:
            ValueError: The two differ in shape, from each other or from the frame before.
        """
        _check_alike(alpha, truth)
        error = alpha - truth
        before, self._before = self._before, error
        if before is None:
            return None
        _check_alike(error, before)
        # The change of the matte less that of the truth is the change of their difference.
        return 100.0 * math.sqrt(np.square(error - before).mean(dtype=np.float64))


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
    change = Change()
    return _mean(change.add(alpha, truth) for alpha, truth in zip(alphas, truths, strict=True))


class WarpError:
    """How much the matte changes along the motion, frame after frame; see :func:`warp_error`."""

    def __init__(self) -> None:
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._before: tuple[NDArray[np.float32], NDArray[np.uint8]] | None = None

    def add(self, alpha: Matte, frame: NDArray[np.uint8]) -> float | None:
        """Return the figure of this frame and the one before, times 1000.

        None of the first frame, and where no pixel can be followed.

        Args:
            alpha: float ``(H, W)``, 0 to 1.
            frame: uint8 ``(H, W, 3)``, R'G'B' full range.

        Raises:
            ValueError: The two differ in size.
        """
        grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)
        _check_alike(alpha, grey)
        size = (_WARP_WIDTH_PX, _WARP_HEIGHT_PX)
        matte = np.asarray(
            cv2.resize(alpha.astype(np.float32), size, interpolation=cv2.INTER_AREA), np.float32
        )
        luma = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
        before, self._before = self._before, (matte, luma)
        if before is None:
            return None
        matte_before, luma_before = before
        motion = self._search.calc(luma, luma_before, _NONE).astype(np.float32)
        agrees = cv2.absdiff(warp(luma_before, motion), luma) < _WARP_LUMA_LEVELS
        if not agrees.any():
            return None
        off = np.abs(warp(matte_before, motion) - matte)
        return 1000.0 * float(off[agrees].mean(dtype=np.float64))


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
    error = WarpError()
    return _mean(error.add(alpha, frame) for alpha, frame in zip(alphas, frames, strict=True))


class FBeta:
    """Precision and recall at every threshold, picture after picture; see :func:`max_f_beta`."""

    def __init__(self) -> None:
        self._count = 0
        self._precision, self._recall = np.zeros(255), np.zeros(255)

    def add(self, alpha: Matte, truth: Matte) -> None:
        """Take in a picture.

        Args:
            alpha: float ``(H, W)``, 0 to 1.
            truth: float ``(H, W)``, 0 to 1; what is above one half is foreground.

        Raises:
            ValueError: Shapes differ, or the truth is empty.
        """
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
        self._precision += right / np.maximum(found, 1)
        self._recall += right / total
        self._count += 1

    def best(self) -> float:
        """Return the best F-measure that one threshold gives, 0 to 1.

        Raises:
            ValueError: There are no pictures.
        """
        if not self._count:
            raise ValueError("there are no pictures")
        curve = zip(self._precision / self._count, self._recall / self._count, strict=True)
        return max(_f_measure(p, r, beta_squared=_BETA_SQUARED) for p, r in curve)


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
    curve = FBeta()
    for alpha, truth in zip(alphas, truths, strict=True):
        curve.add(alpha, truth)
    return curve.best()


def soft_band_error(
    composite: NDArray[np.uint8], true_composite: NDArray[np.uint8], truth: Matte
) -> float | None:
    """Return how far a composite is off where the truth is soft, in levels of 255.

    The mean absolute difference over the pixels whose true alpha is above 0.05 and below 0.95,
    and over R', G' and B': there a foreground colour that has kept some of the old background
    shows. None where the truth has no such pixel.

    Args:
        composite: uint8 ``(H, W, 3)``, R'G'B' full range.
        true_composite: uint8 ``(H, W, 3)``, likewise.
        truth: float ``(H, W)``, 0 to 1.

    Raises:
        ValueError: The three differ in size.
    """
    for picture in (composite, true_composite):
        _check_alike(picture[..., 0], truth)
    soft = (truth > _SOFT_BAND[0]) & (truth < _SOFT_BAND[1])
    if not soft.any():
        return None
    return float(cv2.absdiff(composite, true_composite)[soft].mean(dtype=np.float64))


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


def _likeness(alpha: NDArray[np.float64]) -> float:
    """Return how near values that should all be 1 are to that, by mean and spread, 0 to 1."""
    mean = float(alpha.mean())
    spread = float(alpha.std(ddof=1)) if alpha.size > 1 else 0.0
    return 2.0 * mean / (mean**2 + 1.0 + spread + _TINY)


def _structure(alpha: NDArray[np.float64], foreground: NDArray[np.bool_]) -> float:
    """Return the structural similarity of two pictures of at least one pixel, -1 to 1."""
    true = foreground.astype(np.float64)
    mean, true_mean = float(alpha.mean()), float(true.mean())
    off, true_off = alpha - mean, true - true_mean
    count = alpha.size - 1 + _TINY
    variances = (float((off**2).sum()) + float((true_off**2).sum())) / count
    upper = 4.0 * mean * true_mean * float((off * true_off).sum()) / count
    lower = (mean**2 + true_mean**2) * variances
    return upper / (lower + _TINY) if upper else float(lower == 0)


def _slope(alpha: Matte) -> NDArray[np.float32]:
    """Return the length of a matte's gradient; beyond its edges it goes on as at them."""
    sigma = _GRADIENT_SIGMA_PX
    # Where the Gaussian, as a density, falls below the tail.
    reach = math.sqrt(-2.0 * math.log(math.sqrt(2.0 * math.pi) * sigma * _GRADIENT_TAIL))
    radius_px = math.ceil(sigma * reach)
    offsets = np.arange(-radius_px, radius_px + 1)
    bell = np.exp(-(offsets**2) / (2.0 * sigma**2))
    # Filters of length 1: any factor of the two falls out.
    bell, ramp = bell / np.linalg.norm(bell), offsets * bell / np.linalg.norm(offsets * bell)
    matte, edge = alpha.astype(np.float32), cv2.BORDER_REPLICATE
    across = cv2.sepFilter2D(matte, cv2.CV_32F, ramp, bell, borderType=edge)
    down = cv2.sepFilter2D(matte, cv2.CV_32F, bell, ramp, borderType=edge)
    return np.asarray(cv2.magnitude(across, down), np.float32)


def _largest_region(binary: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest 4-connected region of what is set, all False where nothing is."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(
        binary.astype(np.uint8), connectivity=4
    )
    areas = statistics[1:, cv2.CC_STAT_AREA]
    if not len(areas):
        return np.zeros(binary.shape, bool)
    return np.asarray(labels == 1 + int(np.argmax(areas)), np.bool_)


def _mean(values: Iterable[float | None]) -> float:
    """Return the mean of the values that there are."""
    collected = [value for value in values if value is not None]
    if not collected:
        raise ValueError("no two frames of the clip can be compared")
    return math.fsum(collected) / len(collected)


def _check_alike(one: NDArray[Any], other: NDArray[Any]) -> None:
    """Raise ValueError unless both are pictures of one size: nothing is to be broadcast."""
    if one.ndim != 2 or one.shape != other.shape:
        raise ValueError(f"expected two (H, W) of one size, got {one.shape} and {other.shape}")
