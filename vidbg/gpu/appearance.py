"""Mattes corrected by colours, on a device: sibling of :mod:`vidbg.matting.appearance`.

The same three steps with the same numbers, for all frames of a batch at once. Histograms are summed
as integers, whose order does not matter: a device adds in another order every time.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import torch
from torch.nn import functional as F  # noqa: N812 - the name that everybody knows

from vidbg.gpu.resize import box_mean, gaussian
from vidbg.matting import appearance as sibling

# What a pixel adds to a histogram, in the integers that are summed.
_CODES: Final = float(1 << 24)

# sRGB to linear light (IEC 61966-2-1), to CIE 1931 XYZ over the D65 white, to CIE 1976 L*a*b*: in
# OpenCV's steps for 8 bits, light in parts of 2040 and weights of 4096, so that colours fall into
# the bins that the sibling has them in.
_LIGHT_TOP: Final = 2040.0
_XYZ_OF_RGB: Final = (
    (1777.0, 1541.0, 778.0),
    (871.0, 2929.0, 296.0),
    (73.0, 448.0, 3575.0),
)
_WEIGHT_SUM: Final = 4096.0
_LAB_KNEE: Final = (6 / 29) ** 3
# 116 · 2.55, as a whole number.
_L_SCALE: Final = 296.0


def corrected(rgb: torch.Tensor, matte: torch.Tensor) -> torch.Tensor:
    """Return mattes that agree better with the pictures.

    Within a thousandth of the sibling's on nearly all pixels. Where a colour lies between two bins
    of a histogram, another rounding of L*a*b* puts it into the other one.

    Args:
        rgb: The pictures at the mattes' size, uint8 R'G'B' ``(B, h, w, 3)``.
        matte: float32 ``(B, h, w)`` in 0..1.

    Returns:
        float32 ``(B, h, w)`` in 0..1.
    """
    side = sibling.WINDOW_PX
    least, most = sibling.SURE
    # How far the window's surest pixel is from sure background, and from sure foreground.
    both = torch.stack([matte, 1 - matte], dim=1)
    unsure = F.max_pool2d(both, side, stride=1, padding=side // 2).amin(dim=1)
    freedom = ((unsure - least) / (most - least)).clamp_(0, 1)
    lab = _lab(rgb)
    odds = _log_odds(matte) + sibling.RATIO_SHARE * _log_ratio(lab, matte)
    near = _log_odds(_local_mean(lab, torch.sigmoid(odds)))
    odds = odds + sibling.GRID_SHARE * (near - odds)
    drawn = _guided(rgb, torch.sigmoid(odds))
    drawn = gaussian(drawn.unsqueeze(1), sibling.STAIRCASE_SIGMA_PX).squeeze(1)
    drawn = (drawn - matte) * (freedom * _trust(matte)) + matte
    return drawn.clamp_(0, 1)


def _trust(matte: torch.Tensor) -> torch.Tensor:
    """Return how far each frame's matte is believed to know the subject, 0 to 1, ``(B, 1, 1)``."""
    least, most = sibling.UNSURE
    unsure = ((matte > least) & (matte < most)).sum(dim=(1, 2), keepdim=True)
    foreground = (matte > 0.5).sum(dim=(1, 2), keepdim=True)
    enough, too_much = (share * foreground for share in sibling.UNSURE_PER_FOREGROUND)
    share = (too_much - unsure) / (too_much - enough).clamp_min(1e-6)
    return torch.where(unsure <= enough, torch.ones_like(share), share.clamp(0, 1))


def _log_odds(probability: torch.Tensor) -> torch.Tensor:
    least = 1 / (1 + math.exp(sibling.LARGEST_LOG_ODDS))
    return torch.logit(probability, eps=least)


def _lab(rgb: torch.Tensor) -> torch.Tensor:
    """Return CIE L*a*b* of R'G'B' in 8 bits each, int32 ``(B, h, w, 3)``, as OpenCV has it."""
    signal = rgb.float() / 255
    light = torch.where(signal > 0.04045, ((signal + 0.055) / 1.055) ** 2.4, signal / 12.92)
    parts = (light * _LIGHT_TOP).round_()
    # Sums of integers below 2^24, so that float32 has them exactly.
    xyz = parts @ _xyz_of_rgb(rgb.device).T
    xyz = xyz.div_(_WEIGHT_SUM).add_(0.5).floor_().div_(_LIGHT_TOP)
    root = torch.where(xyz > _LAB_KNEE, xyz ** (1 / 3), xyz * (841 / 108) + 4 / 29)
    x, y, z = root.unbind(dim=-1)
    lab = torch.stack([_L_SCALE * y - 40.8, 500 * (x - y) + 128, 200 * (y - z) + 128], dim=-1)
    return lab.round_().clamp_(0, 255).to(torch.int32)


@lru_cache(maxsize=8)
def _xyz_of_rgb(device: torch.device) -> torch.Tensor:
    return torch.tensor(_XYZ_OF_RGB, device=device)


def _log_ratio(lab: torch.Tensor, matte: torch.Tensor) -> torch.Tensor:
    """Return how much likelier each pixel's colour is in the foreground, as a logarithm."""
    shape = sibling.GLOBAL_BINS
    bins = [lab[..., axis] * size >> 8 for axis, size in enumerate(shape)]
    place = (bins[0] * shape[1] + bins[1]) * shape[2] + bins[2]
    density = _densities(place, matte, sibling.GLOBAL_LOG2_POWER, shape, sibling.GLOBAL_SIGMA_BINS)
    density = density / density.sum(dim=2, keepdim=True).clamp_min(1e-6)
    density = density + sibling.LEAST_DENSITY / math.prod(shape)
    most = sibling.LARGEST_LOG_RATIO
    ratio = (density[:, 0] / density[:, 1]).log_().clamp_(-most, most)
    # Single pixels that fall into the wrong bin are specks.
    return box_mean(_looked_up(ratio, place).unsqueeze(1), 3).squeeze(1)


def _local_mean(lab: torch.Tensor, matte: torch.Tensor) -> torch.Tensor:
    """Return the mean of the matte over pixels near by and of like colour."""
    height, width = matte.shape[1:]
    side = -(-max(height, width) // sibling.GRID_CELLS)
    luma_bins, *chroma_bins = sibling.GRID_BINS
    shape = (-(-height // side), -(-width // side), luma_bins, *chroma_bins)
    rows, columns = (torch.arange(size, device=lab.device) // side for size in (height, width))
    place = rows[:, None] * shape[1] + columns
    place = place * luma_bins + (lab[..., 0] * luma_bins >> 8)
    for channel, bins in enumerate(chroma_bins, start=1):
        # Colours are few and near grey; the strong ones share the outermost bins.
        levels = sibling.GRID_CHROMA_LEVELS
        from_grey = lab[..., channel] - (128 - bins * levels // 2)
        place = place * bins + (from_grey // levels).clamp_(0, bins - 1)
    density = _densities(place, matte, sibling.GRID_LOG2_POWER, shape, sibling.GRID_SIGMA_BINS)
    # Every pixel is in its own bin, so that no sum is nought.
    total = (density[:, 0] + density[:, 1]).clamp_min(torch.finfo(torch.float32).tiny)
    return _looked_up(density[:, 0] / total, place).clamp_(0, 1)


def _looked_up(values: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Return each pixel's value from its frame's table ``(B, bins)``."""
    return values.gather(1, place.flatten(1).long()).view(place.shape)


def _densities(
    place: torch.Tensor,
    matte: torch.Tensor,
    log2_power: int,
    shape: tuple[int, ...],
    sigmas: tuple[float, ...],
) -> torch.Tensor:
    """Return the histograms of foreground and background, blurred along each axis.

    Args:
        place: Integers ``(B, h, w)``, each pixel's bin.
        matte: float32 ``(B, h, w)`` in 0..1.
        log2_power: A pixel counts for the foreground by the matte, and for the background by
            what is left of 1, to this power of two.
        shape: Of a histogram.
        sigmas: Standard deviations, in bins.

    Returns:
        float32 ``(B, 2, bins)``.
    """
    count = len(matte)
    shares = torch.stack([matte, 1 - matte], dim=1).flatten(2)
    for _ in range(log2_power):
        shares = shares * shares
    sums = torch.zeros((count, 2, math.prod(shape)), dtype=torch.int64, device=matte.device)
    places = place.flatten(1).long().unsqueeze(1).expand(-1, 2, -1)
    sums.scatter_add_(2, places, (shares * _CODES).round_().long())
    blurred = (sums.float() / _CODES).view(2 * count, *shape)
    # Each product blurs the last axis and brings it to the front; they come back in their order.
    for size, sigma in zip(reversed(shape), reversed(sigmas), strict=True):
        blurred = (blurred @ _blur(size, sigma, matte.device)).movedim(-1, 1)
    return blurred.reshape(count, 2, -1)


@lru_cache(maxsize=32)
def _blur(size: int, sigma: float, device: torch.device) -> torch.Tensor:
    """Return the matrix that blurs a row of ``size`` bins by the sibling's kernel."""
    kernel = sibling.gaussian(size, sigma)
    reach = len(kernel) // 2
    matrix = torch.zeros(size, size)
    for offset, weight in zip(range(-reach, reach + 1), kernel.tolist(), strict=True):
        matrix.diagonal(offset).fill_(weight)
    return matrix.to(device)


def _guided(rgb: torch.Tensor, matte: torch.Tensor) -> torch.Tensor:
    """Return mattes filtered along the edges of pictures, which may leave 0..1 a little.

    Args:
        rgb: uint8 ``(B, h, w, 3)``.
        matte: float32 ``(B, h, w)`` in 0..1.
    """
    side = sibling.WINDOW_PX
    guide = rgb.permute(0, 3, 1, 2).float() / 255
    values = torch.cat([guide, matte.unsqueeze(1)], dim=1)
    pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (0, 3), (1, 3), (2, 3))
    ones, others = (list(numbers) for numbers in zip(*pairs, strict=True))
    means = box_mean(torch.cat([values, values[:, ones] * values[:, others]], dim=1), side)
    first, products = means[:, :4], means[:, 4:]
    covariances = products - first[:, ones] * first[:, others]
    rr, rg, rb, gg, gb, bb, rm, gm, bm = covariances.unbind(dim=1)
    rr, gg, bb = (variance + sibling.FLAT_VARIANCE for variance in (rr, gg, bb))
    # The inverse of a symmetric matrix of three, by cofactors.
    c00, c01, c02 = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    c11, c12, c22 = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    determinant = rr * c00 + rg * c01 + rb * c02
    slopes = torch.stack(
        [
            c00 * rm + c01 * gm + c02 * bm,
            c01 * rm + c11 * gm + c12 * bm,
            c02 * rm + c12 * gm + c22 * bm,
        ],
        dim=1,
    ) / determinant.unsqueeze(1)
    offset = first[:, 3] - (slopes * first[:, :3]).sum(dim=1)
    lines = box_mean(torch.cat([slopes, offset.unsqueeze(1)], dim=1), side)
    return lines[:, 3] + (lines[:, :3] * guide).sum(dim=1)
