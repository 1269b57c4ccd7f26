"""Planes at other sizes, as OpenCV makes them, and the sums over windows that filters are made of.

Averaging over area is a product with two matrices, one for each axis: exact at any ratio, and what
a device does best.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - the name that everybody knows


def shrunk(planes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return planes averaged over area: OpenCV's INTER_AREA.

    Args:
        planes: float32 ``(..., h, w)``.
        height: Rows wanted, no more than there are.
        width: Columns wanted, no more than there are.
    """
    rows, columns = planes.shape[-2:]
    if height != rows:
        planes = _averaging(rows, height, planes.device) @ planes
    if width != columns:
        planes = planes @ _averaging(columns, width, planes.device).T
    return planes


def grown(
    planes: torch.Tensor, height: int, width: int, *, is_smooth: bool = False
) -> torch.Tensor:
    """Return planes interpolated between their pixels' centres: INTER_LINEAR or INTER_CUBIC.

    Args:
        planes: float32 ``(B, h, w)`` or ``(B, C, h, w)``.
        height: Rows wanted. Where there are more, those between are left out.
        width: Columns wanted, likewise.
        is_smooth: Interpolate by cubics.
    """
    if planes.shape[-2:] == (height, width):
        return planes
    whole = planes if planes.ndim == 4 else planes.unsqueeze(1)
    mode = "bicubic" if is_smooth else "bilinear"
    found = F.interpolate(whole, (height, width), mode=mode, align_corners=False)
    return found.reshape(*planes.shape[:-2], height, width)


def resized(
    planes: torch.Tensor, height: int, width: int, *, is_smooth: bool = False
) -> torch.Tensor:
    """Return planes averaged along an axis that shrinks, interpolated along one that grows.

    Args:
        planes: float32 ``(B, h, w)`` or ``(B, C, h, w)``.
        height: Rows wanted.
        width: Columns wanted.
        is_smooth: Interpolate by cubics.
    """
    rows, columns = planes.shape[-2:]
    planes = shrunk(planes, min(height, rows), min(width, columns))
    return grown(planes, height, width, is_smooth=is_smooth)


def box_mean(planes: torch.Tensor, side: int) -> torch.Tensor:
    """Return the mean over a window about each pixel, frames mirrored at their edges: cv2.blur.

    Args:
        planes: float32 ``(B, C, h, w)``.
        side: The window's, odd.
    """
    return F.avg_pool2d(mirrored(planes, side // 2), side, stride=1)


def gaussian(planes: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return planes blurred, frames mirrored at their edges: cv2.GaussianBlur of floats.

    Args:
        planes: float32 ``(B, C, h, w)``.
        sigma: Standard deviation in pixels.
    """
    # OpenCV's kernel reaches four standard deviations to either side.
    side = round(8 * sigma + 1) | 1
    weights = np.asarray(cv2.getGaussianKernel(side, sigma, cv2.CV_32F)).ravel().tolist()
    height, width = planes.shape[-2:]
    framed = mirrored(planes, side // 2)
    rows = torch.zeros_like(framed[..., :height, :])
    for place, weight in enumerate(weights):
        rows += weight * framed[..., place : place + height, :]
    blurred = torch.zeros_like(planes)
    for place, weight in enumerate(weights):
        blurred += weight * rows[..., place : place + width]
    return blurred


def mirrored(planes: torch.Tensor, margin: int) -> torch.Tensor:
    """Return planes continued beyond their edges as in a mirror: OpenCV's BORDER_REFLECT_101.

    Args:
        planes: ``(B, C, h, w)``. One that is smaller than the margin goes to and fro.
        margin: Pixels on all sides.
    """
    height, width = planes.shape[-2:]
    if margin < min(height, width):
        return F.pad(planes, (margin,) * 4, mode="reflect")
    for axis, size in ((-2, height), (-1, width)):
        period = max(1, 2 * (size - 1))
        places = torch.arange(-margin, size + margin, device=planes.device) % period
        planes = planes.index_select(axis, torch.minimum(places, period - places))
    return planes


def padded(planes: torch.Tensor, above: int, below: int, left: int, right: int) -> torch.Tensor:
    """Return planes ``(B, h, w)``, float32, with their outermost samples repeated."""
    if not (above or below or left or right):
        return planes
    return F.pad(planes.unsqueeze(1), (left, right, above, below), mode="replicate").squeeze(1)


@cache  # for good: recorded graphs read them
def _averaging(count: int, wanted: int, device: torch.device) -> torch.Tensor:
    """Return what takes ``count`` samples to the means of ``wanted`` parts of equal length."""
    scale = count / wanted
    ends = np.arange(wanted + 1)[:, None] * scale
    places = np.arange(count)
    shares = np.minimum(ends[1:], places + 1) - np.maximum(ends[:-1], places)
    matrix = np.maximum(shares, 0) / scale
    return torch.from_numpy(matrix.astype(np.float32)).to(device)
