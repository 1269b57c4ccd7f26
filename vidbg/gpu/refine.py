"""Mattes brought to frame size and to code values, on a device: sibling of :mod:`.matting.refine`.

Without what has no sensible form here: closed-form matting, a sparse system for each frame, and an
editor's controls, which look for connected parts of a matte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from vidbg.gpu.appearance import corrected
from vidbg.gpu.composite import TOPS
from vidbg.gpu.resize import resized
from vidbg.profile import stage

if TYPE_CHECKING:
    from vidbg.gpu.frames import DeviceMatted

EDGES: Final = ("off", "fast")
"""The refinements that there are on a device."""


@stage("refine")
def finish_matte(matted: DeviceMatted, edges: str) -> torch.Tensor:
    """Return the alphas of frames, at luma size: the sibling's, mostly to the code.

    Args:
        matted: Frames with their mattes.
        edges: "off", or "fast", the matte corrected by the picture's colours.

    Returns:
        Straight alpha ``(B, H, W)``: uint8 0..255 for 8-bit formats, uint16 0..65535 for deeper
        ones, the source's own alpha multiplied in.

    Raises:
        ValueError: ``edges`` is neither.
    """
    if edges not in EDGES:
        raise ValueError(f"{edges!r} is none of {', '.join(EDGES)}")
    frames = matted.frames
    is_smooth = edges != "off"
    matte = corrected(matted.thumbnails, matted.matte) if is_smooth else matted.matte
    matte = resized(matte, *frames.planes[0].shape[1:], is_smooth=is_smooth)
    dtype = torch.uint8 if frames.format.depth == 8 else torch.uint16
    # Cubics leave 0..1.
    codes = matte.clamp(0, 1) * TOPS[dtype]
    if frames.source_alpha is not None:
        codes = codes * frames.source_alpha.float() / ((1 << frames.format.depth) - 1)
    return codes.round_().to(dtype)
