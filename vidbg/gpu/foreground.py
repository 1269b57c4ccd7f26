"""The subject's own colour at soft edges, on a device: sibling of :mod:`vidbg.matting.foreground`.

The same estimate by the same pyramid. The sibling spares itself the tiles without a soft edge; here
everything is computed for whole frames, and those tiles keep what they have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - the name that everybody knows

from vidbg.gpu.composite import TOPS
from vidbg.gpu.resize import grown, padded, shrunk
from vidbg.matting import foreground as sibling
from vidbg.profile import stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vidbg.frames import PlaneFormat
    from vidbg.gpu.frames import Tensors


@stage("foreground")
def estimate_foreground(planes: Tensors, alphas: Tensors, format: PlaneFormat) -> Tensors:
    """Return frames with the subject's own colour at soft edges.

    Samples are the sibling's, or off by one where floating point rounds a tie another way. Those
    of alpha 1 stay as they are, bit for bit.

    Args:
        planes: Three tensors ``(B, H, W)``, ``(B, h, w)``, ``(B, h, w)``, uint8 or uint16.
        alphas: Straight alpha at each plane's size, of the samples' dtype, full range.
        format: The planes' working format.

    Returns:
        Tensors of the shapes and dtype of ``planes``.
    """
    highest = (1 << format.depth) - 1
    first, second, third = (
        estimate
        for group, alpha, subsampling in _groups(planes, alphas, format)
        for estimate in _estimated(group, alpha, subsampling, highest)
    )
    return first, second, third


@stage("foreground")
def extend_foreground(planes: Tensors, alphas: Tensors, format: PlaneFormat) -> Tensors:
    """Return frames that continue the subject's colour smoothly where nothing of it is.

    Samples under alpha 0 are the sibling's or off by one, where floating point rounds a tie another
    way. All others stay, bit for bit.

    Args:
        planes: Three tensors ``(B, H, W)``, ``(B, h, w)``, ``(B, h, w)``, uint8 or uint16.
        alphas: Straight alpha at each plane's size, of the samples' dtype, full range.
        format: The planes' working format.

    Returns:
        New tensors of the shapes and dtype of ``planes``.
    """
    first, second, third = (
        extended
        for group, alpha, subsampling in _groups(planes, alphas, format)
        for extended in _extended(group, alpha, subsampling)
    )
    return first, second, third


def _groups(
    planes: Tensors, alphas: Tensors, format: PlaneFormat
) -> list[tuple[Sequence[torch.Tensor], torch.Tensor, tuple[int, int]]]:
    """Return planes that share one alpha, this alpha, and their log2 (vertical, horizontal)."""
    subsampling = (format.log2_chroma_h, format.log2_chroma_w)
    if subsampling == (0, 0):
        return [(planes, alphas[0], subsampling)]
    return [(planes[:1], alphas[0], (0, 0)), (planes[1:], alphas[1], subsampling)]


def _estimated(
    planes: Sequence[torch.Tensor],
    alpha: torch.Tensor,
    log2_subsampling: tuple[int, int],
    highest: int,
) -> tuple[torch.Tensor, ...]:
    """Return planes ``(B, H, W)`` that share one alpha with the foreground's colour."""
    cell = _cell(log2_subsampling)
    tile = cell[0] * sibling.TILE_CELLS, cell[1] * sibling.TILE_CELLS
    top = TOPS[alpha.dtype]
    codes = _whole(alpha.float(), tile)
    opacity = codes / top
    samples = torch.stack([_whole(plane.float(), tile) for plane in planes], dim=1)

    margin = int(sibling.CERTAIN * top)
    is_soft = ((codes > margin) & (codes < top - margin)).float()
    soft_tiles = F.max_pool2d(is_soft, tile) > 0
    soft_cells = _enlarged(soft_tiles, sibling.TILE_CELLS, sibling.TILE_CELLS).unsqueeze(1)
    corners = codes[:, :: tile[0], :: tile[1]] > top / 2
    settled = _enlarged(corners, sibling.TILE_CELLS, sibling.TILE_CELLS).unsqueeze(1).float()

    power = sibling.LOG2_POWER_SUBSAMPLED if any(log2_subsampling) else sibling.LOG2_POWER
    means = F.avg_pool2d(samples, cell)
    sums = []
    for share, is_certain in ((opacity, settled), (1 - opacity, 1 - settled)):
        weight = share
        for _ in range(power):
            weight = weight * weight
        weight = weight.unsqueeze(1)
        # What settled tiles say of their whole area, and soft ones of each pixel.
        soft = F.avg_pool2d(torch.cat([samples * weight, weight], dim=1), cell)
        certain = torch.cat([means * is_certain, is_certain], dim=1)
        sums.append(torch.where(soft_cells, soft, certain))
    fallback = means.mean(dim=(2, 3), keepdim=True)
    filled = _pull_push(torch.cat(sums), torch.cat([fallback, fallback]))
    foreground, background = grown(filled, *codes.shape[1:]).chunk(2)

    shares = opacity.unsqueeze(1)
    # F + a·(I - B - a·(F - B)).
    rest = (foreground - background) * shares + background
    estimate = ((samples - rest) * shares + foreground).round_().clamp_(0, highest)
    # The largest alpha makes it the sample itself but for rounding; that is left out too.
    is_estimated = _enlarged(soft_tiles, *tile) & (codes != top)
    height, width = alpha.shape[1:]
    chosen = torch.where(is_estimated.unsqueeze(1), estimate, samples)[..., :height, :width]
    return chosen.to(planes[0].dtype).unbind(dim=1)


def _extended(
    planes: Sequence[torch.Tensor], alpha: torch.Tensor, log2_subsampling: tuple[int, int]
) -> tuple[torch.Tensor, ...]:
    """Return planes ``(B, H, W)`` that share one alpha with the subject's colour where it is 0."""
    cell = _cell(log2_subsampling)
    height, width = alpha.shape[1:]
    samples = torch.stack([plane.float() for plane in planes], dim=1)
    opacity = alpha.float().div_(TOPS[alpha.dtype]).unsqueeze(1)
    # Beyond the frame's edge there is nothing of the subject.
    beyond = (0, -width % cell[1], 0, -height % cell[0])
    sums = F.avg_pool2d(F.pad(torch.cat([samples * opacity, opacity], dim=1), beyond), cell)
    filled = _pull_push(sums, samples.mean(dim=(2, 3), keepdim=True))
    # Rounded before, as the sibling has it.
    whole = grown(filled.round(), sums.shape[2] * cell[0], sums.shape[3] * cell[1])
    colour = whole[..., :height, :width].round()
    chosen = torch.where(opacity == 0, colour, samples)
    return chosen.to(planes[0].dtype).unbind(dim=1)


def _cell(log2_subsampling: tuple[int, int]) -> tuple[int, int]:
    """Return the (rows, columns) of a cell of the pyramid's finest grid."""
    rows, columns = (1 << sibling.LOG2_CELL_PX >> log2 for log2 in log2_subsampling)
    return rows, columns


def _whole(plane: torch.Tensor, tile: tuple[int, int]) -> torch.Tensor:
    """Return planes ``(B, H, W)`` made whole tiles by repeating their edges."""
    height, width = plane.shape[1:]
    return padded(plane, 0, -height % tile[0], 0, -width % tile[1])


def _enlarged(flags: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return ``(B, h, w)`` with each element repeated so often along either axis."""
    return flags.repeat_interleave(rows, dim=1).repeat_interleave(columns, dim=2)


def _pull_push(sums: torch.Tensor, fallback: torch.Tensor) -> torch.Tensor:
    """Return means where there is weight, and what is around them elsewhere.

    Args:
        sums: float32 ``(B, C + 1, h, w)``: values times weights, and last the weights in 0..1.
        fallback: float32 ``(B, C, 1, 1)``, what answers where there is no weight at all.

    Returns:
        float32 ``(B, C, h, w)``.
    """
    levels = [sums]
    while max(sums.shape[2:]) > 1:
        sums = shrunk(sums, -(-sums.shape[2] // 2), -(-sums.shape[3] // 2))
        levels.append(sums)
    least = sibling.LEAST_WEIGHT
    filled = (sums[:, :-1] + fallback * least) / (sums[:, -1:] + least)
    for sums in levels[-2::-1]:
        filled = grown(filled, sums.shape[2], sums.shape[3])
        weight = sums[:, -1:]
        # own·(mean - filled), where own / weight has no division by zero in it.
        gain = weight.clamp_min(1e-12).reciprocal_().clamp_max_(sibling.OWN_SHARE)
        filled = filled + (sums[:, :-1] - filled * weight) * gain
    return filled
