"""Planes → R'G'B' thumbnails, on a device: sibling of :func:`vidbg.colour.planes_to_rgb`."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from vidbg import colour as colours
from vidbg.gpu.resize import padded, resized
from vidbg.profile import stage

if TYPE_CHECKING:
    from vidbg.frames import Colour, PlaneFormat
    from vidbg.gpu.frames import Tensors


@stage("thumbnail")
def planes_to_rgb(
    planes: Tensors, format: PlaneFormat, colour: Colour, size: tuple[int, int]
) -> torch.Tensor:
    """Return frames as 8-bit R'G'B' for a network to look at.

    Planes are brought to the size and rounded to their own depth where the sibling does that. Its
    results come out where planes shrink, but for ties that floating point breaks another way. Where
    they grow, OpenCV interpolates 8 bits by weights of 11, and a code is off by one now and then:
    R'G'B' by up to three levels, in one of fourteen samples, where chroma alone grows, and by up
    to four, in one of six, where luma does too. Those of deeper clips are off by one at most.

    Args:
        planes: Three tensors ``(B, H, W)``, ``(B, h, w)``, ``(B, h, w)``, uint8 or uint16.
        format: The planes' working format.
        colour: Resolved tags, not of HDR.
        size: (height, width) of the result in pixels.

    Returns:
        uint8 RGB ``(B, height, width, 3)``, full range, contiguous.

    Raises:
        ValueError: The tags are not resolved, do not fit the format, or are of HDR.
    """
    if colours.is_hdr(colour):
        raise ValueError(f"{colour.transfer} is shown by the CPU's sibling only")
    matrix, constant = _decoding(format, colour, planes[0].device)
    if tuple(planes[0].shape[1:]) == size:
        frames = [
            planes[0].float(),
            *(_chroma_at_luma(plane.float(), format, size) for plane in planes[1:]),
        ]
    else:
        frames = [_at_size(plane.float(), *size) for plane in planes]
    rgb = torch.stack(frames, dim=-1) @ matrix.T
    return (rgb + constant).add_(0.5).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=16)
def _decoding(
    format: PlaneFormat, colour: Colour, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what :func:`vidbg.colour.decoding` returns, on a device: sent there once."""
    matrix, constant = (
        torch.from_numpy(part.astype(np.float32)).to(device)
        for part in colours.decoding(format, colour)
    )
    return matrix, constant


def _at_size(plane: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return a plane ``(B, H, W)`` of code values at another size, rounded."""
    # As the sibling does it, and rounds: by two while that is possible.
    while (
        plane.shape[1] >= 4 * height
        and plane.shape[2] >= 4 * width
        and plane.shape[1] % 2 == plane.shape[2] % 2 == 0
    ):
        columns = plane[:, :, ::2] + plane[:, :, 1::2]
        plane = ((columns[:, ::2] + columns[:, 1::2]) * 0.25).add_(0.5).floor_()
    smaller = (min(height, plane.shape[1]), min(width, plane.shape[2]))
    plane = resized(plane, *smaller).round()
    return resized(plane, height, width).round()


def _chroma_at_luma(
    plane: torch.Tensor, format: PlaneFormat, size: tuple[int, int]
) -> torch.Tensor:
    """Return chroma ``(B, h, w)`` interpolated linearly at the luma positions, ``(B, *size)``."""
    samples = _between(
        plane, 1, 1 << format.log2_chroma_h, format.chroma_location == "topleft", size[0]
    )
    return _between(
        samples, 2, 1 << format.log2_chroma_w, format.chroma_location != "center", size[1]
    )


def _between(
    samples: torch.Tensor, axis: int, factor: int, is_cosited: bool, count: int
) -> torch.Tensor:
    """Return ``count`` luma positions of samples ``(B, h, w)`` along an axis."""
    length = samples.shape[axis]
    framed = padded(samples, 1, 1, 1, 1)
    framed = framed.narrow(3 - axis, 1, samples.shape[3 - axis])
    phases = []
    for distance in colours.chroma_distances(factor, is_cosited):
        neighbour = framed.narrow(axis, 2 if distance > 0 else 0, length)
        phases.append((1 - abs(distance)) * samples + abs(distance) * neighbour)
    return torch.stack(phases, dim=axis + 1).flatten(axis, axis + 1).narrow(axis, 0, count)
