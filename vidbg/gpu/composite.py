"""A foreground over a background, on a device: sibling of :mod:`vidbg.composite`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from vidbg.gpu.resize import padded
from vidbg.profile import stage

if TYPE_CHECKING:
    from vidbg.frames import PlaneFormat
    from vidbg.gpu.frames import Tensors

TOPS: Final = {torch.uint8: 255, torch.uint16: 65535}
"""Full alpha, by dtype."""


@stage("composite")
def alpha_planes(alpha: torch.Tensor, format: PlaneFormat) -> Tensors:
    """Return the alpha of each plane, as :func:`vidbg.composite.alpha_planes` does, exactly.

    Args:
        alpha: uint8 or uint16 ``(B, H, W)``, at luma size.
        format: The working format.

    Returns:
        Three tensors of alpha's dtype: ``(B, H, W)`` (``alpha`` itself), and the same
        ``(B, h, w)`` twice. Where nothing is subsampled, ``alpha`` three times.

    Raises:
        ValueError: The format's chroma location is unknown.
    """
    if format.log2_chroma_w == format.log2_chroma_h == 0:
        return alpha, alpha, alpha
    if format.chroma_location not in ("left", "center", "topleft"):
        raise ValueError(f"unknown chroma location {format.chroma_location!r}")
    rows, columns = 1 << format.log2_chroma_h, 1 << format.log2_chroma_w
    is_left = format.chroma_location != "center" and columns > 1
    is_top = format.chroma_location == "topleft" and rows > 1
    height, width = alpha.shape[1:]
    framed = padded(
        alpha.float(),
        is_top * (rows - 1),
        -height % rows,
        is_left * (columns - 1),
        -width % columns,
    )
    # Sums of integers below 2^24, and divisions by powers of two: float32 has them exactly.
    sums = _cell_sums(framed.transpose(1, 2), columns, is_left).transpose(1, 2)
    weight = rows ** (1 + is_top) * columns ** (1 + is_left)
    chroma = (_cell_sums(sums, rows, is_top) / weight).add_(0.5).floor_().to(alpha.dtype)
    return alpha, chroma, chroma


def _cell_sums(samples: torch.Tensor, factor: int, is_cosited: bool) -> torch.Tensor:
    """Return weighted sums over cells along axis 1.

    Args:
        samples: float32 ``(B, n, m)``: ``factor`` for each cell, and ``factor - 1`` in front of
            them all if cosited.
        factor: Samples in a cell.
        is_cosited: Weigh by a triangle about the cell's first sample instead of equally.
    """
    count = samples.shape[1] // factor
    first, last = (1 - factor, factor - 1) if is_cosited else (0, factor - 1)
    sums = torch.zeros_like(samples[:, :count])
    for place in range(first, last + 1):
        weight = factor - abs(place) if is_cosited else 1
        sums += weight * samples[:, place - first :: factor][:, :count]
    return sums


@stage("composite")
def over(planes: Tensors, background: Tensors, alphas: Tensors) -> Tensors:
    """Return ``planes`` composited over ``background``: F·a + B·(1 - a), plane by plane.

    Rounded to nearest; the sibling's samples exactly up to 8 bits, and within one code beyond,
    where float32 does not tell the nearest ties apart. Alpha at its top gives the foreground and
    alpha 0 the background, bit for bit.

    Args:
        planes: The foreground F: three tensors ``(B, H, W)``, ``(B, h, w)``, ``(B, h, w)``,
            uint8 or uint16.
        background: The background; ``(B, ...)``, or ``(1, ...)`` for a still behind all frames.
        alphas: What :func:`alpha_planes` returns.

    Returns:
        New tensors of the foreground's shapes and dtype.
    """
    first, second, third = (
        _plane_over(plane, behind, alpha)
        for plane, behind, alpha in zip(planes, background, alphas, strict=True)
    )
    return first, second, third


def _plane_over(plane: torch.Tensor, background: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    behind = background.float()
    blend = plane.float() - behind
    blend *= alpha.float().div_(TOPS[alpha.dtype])
    blend += behind
    return blend.round_().to(plane.dtype)
