"""What passes between the stages on a device: the records of :mod:`vidbg.frames`, of tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vidbg.frames import PlaneFormat

    Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class DeviceFrames:
    """Consecutive decoded frames in a device's memory.

    Attributes:
        planes: Three tensors ``(B, H, W)``, ``(B, h, w)``, ``(B, h, w)``, uint8 or uint16.
        format: The working format.
        first_index: Index in the clip of the first frame; the others follow it.
        source_alpha: The source's own straight alpha ``(B, H, W)`` in the samples' dtype,
            full range at the format's depth, or None.
    """

    planes: Tensors
    format: PlaneFormat
    first_index: int
    source_alpha: torch.Tensor | None = None

    def __len__(self) -> int:
        return int(self.planes[0].shape[0])

    def part(self, start: int, stop: int) -> DeviceFrames:
        """Return the frames from ``start`` to before ``stop`` as views."""
        own = self.source_alpha
        return replace(
            self,
            planes=part(self.planes, start, stop),
            first_index=self.first_index + start,
            source_alpha=None if own is None else own[start:stop],
        )


@dataclass(frozen=True, slots=True, eq=False)
class DeviceMatted:
    """Frames in a device's memory with their mattes.

    Attributes:
        frames: The frames.
        thumbnails: The frames at the network's own size, uint8 R'G'B' ``(B, h, w, 3)``.
        matte: float32 ``(B, h, w)`` in 0..1, straight, at the thumbnails' size.
    """

    frames: DeviceFrames
    thumbnails: torch.Tensor
    matte: torch.Tensor

    def part(self, start: int, stop: int) -> DeviceMatted:
        """Return the frames from ``start`` to before ``stop`` as views."""
        chosen = slice(start, stop)
        return DeviceMatted(
            self.frames.part(start, stop),
            self.thumbnails[chosen],
            self.matte[chosen],
        )


def part(planes: Tensors, start: int, stop: int) -> Tensors:
    """Return the frames from ``start`` to before ``stop`` as views."""
    first, second, third = (plane[start:stop] for plane in planes)
    return first, second, third


def joined(parts: Sequence[Tensors]) -> Tensors:
    """Return consecutive frames as one batch."""
    if len(parts) == 1:
        return parts[0]
    first, second, third = (
        # As bytes: not every operator knows uint16.
        torch.cat([plane.view(torch.uint8) for plane in planes]).view(planes[0].dtype)
        for planes in zip(*parts, strict=True)
    )
    return first, second, third


def chosen(frames: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
    """Return copies of some frames of a batch ``(B, ...)``, by their numbers."""
    # Not by an index, which would be an array to send; as bytes, as above.
    some = frames.view(torch.uint8)
    return torch.stack([some[number] for number in numbers]).view(frames.dtype)
