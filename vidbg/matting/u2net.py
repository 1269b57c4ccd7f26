"""U-2-Net and U-2-Net-p, the salient-object networks that make the matte.

Qin, Zhang, Huang, Dehghan, Zaiane, Jagersand: "U²-Net: Going deeper with nested U-structure
for salient object detection", Pattern Recognition 106 (2020) 107404. The widths and heights
are those of its table 1; parameter names are those of the checkpoints that the authors
publish, so that these load with ``strict=True``.

Modules only: tensors in, tensors out, no paths, no devices, no video.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE_COUNT = 6


def resize_like(x: Tensor, reference: Tensor) -> Tensor:
    """Resample ``x`` bilinearly to the height and width of ``reference``."""
    return functional.interpolate(x, size=reference.shape[2:], mode="bilinear", align_corners=False)


def halving_pool() -> nn.Module:
    """2x2 maximum; an odd row or column left over makes a pixel of its own."""
    return nn.MaxPool2d(2, stride=2, ceil_mode=True)


class ConvNormReLU(nn.Module):
    """3x3 convolution, batch norm, ReLU.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        dilation: Distance in pixels between the taps of the convolution.
        stride: 1 keeps the size, 2 halves it.
    """

    def __init__(
        self, in_channels: int, out_channels: int, dilation: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(
            in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation
        )
        self.bn_s1: nn.Module = nn.BatchNorm2d(out_channels)
        self.relu_s1 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H / stride, W / stride), values ≥ 0."""
        out: Tensor = self.relu_s1(self.bn_s1(self.conv_s1(x)))
        return out


class _ResidualU(nn.Module):
    """A small U-Net added to its own first convolution: the ReSidual U-block of the paper.

    Level 1 of the encoder is the widest, level ``len(encoder_dilations)`` the bottom, and
    decoder level n joins encoder level n with what comes from below.

    Args:
        in_channels: Channels of the input.
        mid_channels: Channels inside the U.
        out_channels: Channels of the output.
        encoder_dilations: Dilation of each encoder level, top to bottom.
        decoder_dilations: Dilation of each decoder level, top to bottom; one fewer.
        pool: What stands before every encoder level but the first and the bottom.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        encoder_dilations: tuple[int, ...],
        decoder_dilations: tuple[int, ...],
        pool: nn.Module,
    ) -> None:
        super().__init__()
        self.rebnconvin = ConvNormReLU(in_channels, out_channels)
        for level, dilation in enumerate(encoder_dilations, start=1):
            width = out_channels if level == 1 else mid_channels
            self.add_module(f"rebnconv{level}", ConvNormReLU(width, mid_channels, dilation))
        for level, dilation in reversed(list(enumerate(decoder_dilations, start=1))):
            width = out_channels if level == 1 else mid_channels
            self.add_module(f"rebnconv{level}d", ConvNormReLU(2 * mid_channels, width, dilation))
        self._pool = pool
        self._height = len(encoder_dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H, W), values ≥ 0."""
        residual = self.rebnconvin(x)
        skips = [self.get_submodule("rebnconv1")(residual)]
        for level in range(2, self._height):
            skips.append(self.get_submodule(f"rebnconv{level}")(self._pool(skips[-1])))
        below = self.get_submodule(f"rebnconv{self._height}")(skips[-1])
        for level in range(self._height - 1, 0, -1):
            skip = skips[level - 1]
            if below.shape[2:] != skip.shape[2:]:
                below = resize_like(below, skip)
            below = self.get_submodule(f"rebnconv{level}d")(torch.cat((below, skip), dim=1))
        out: Tensor = below + residual
        return out


class RSU(_ResidualU):
    """RSU-L: halves the size between its encoder levels; only the bottom is dilated.

    Args:
        height: L, the number of encoder levels, 3 or more. The smallest map inside is
            2^(L-2) times smaller than the input.
        in_channels: Channels of the input.
        mid_channels: Channels inside the U (M in the paper).
        out_channels: Channels of the output.
    """

    def __init__(self, height: int, in_channels: int, mid_channels: int, out_channels: int) -> None:
        undilated = (1,) * (height - 1)
        super().__init__(
            in_channels, mid_channels, out_channels, (*undilated, 2), undilated, halving_pool()
        )


class RSU4F(_ResidualU):
    """RSU-4F: the same U at one size, with growing dilations in place of pooling.

    Used where the maps are too small to be halved four more times.

    Args:
        in_channels: Channels of the input.
        mid_channels: Channels inside the U (M in the paper).
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__(
            in_channels, mid_channels, out_channels, (1, 2, 4, 8), (1, 2, 4), nn.Identity()
        )


class _Stage(NamedTuple):
    """One row of the paper's table 1; ``height`` None means RSU-4F."""

    height: int | None
    in_channels: int
    mid_channels: int
    out_channels: int

    def build(self) -> _ResidualU:
        if self.height is None:
            return RSU4F(self.in_channels, self.mid_channels, self.out_channels)
        return RSU(self.height, self.in_channels, self.mid_channels, self.out_channels)


class _NestedU(nn.Module):
    """A U of residual U-blocks with a saliency map at every level of its decoder."""

    encoder: ClassVar[tuple[_Stage, ...]]
    """Stages En_1 … En_6, top to bottom."""

    decoder: ClassVar[tuple[_Stage, ...]]
    """Stages De_1 … De_5, top to bottom."""

    def __init__(self) -> None:
        super().__init__()
        for level, stage in enumerate(self.encoder, start=1):
            self.add_module(f"stage{level}", stage.build())
        for level, stage in reversed(list(enumerate(self.decoder, start=1))):
            self.add_module(f"stage{level}d", stage.build())
        # The lowest side map comes from the bottom of the encoder.
        for level, stage in enumerate((*self.decoder, self.encoder[-1]), start=1):
            self.add_module(f"side{level}", nn.Conv2d(stage.out_channels, 1, 3, padding=1))
        self.outconv = nn.Conv2d(SIDE_COUNT, 1, 1)
        self._pool = halving_pool()

    def forward(self, x: Tensor, side_outputs: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Return the saliency of every pixel as a logit.

        Logits instead of the probabilities of the published code, so that a loss can be
        taken from them without underflow and the sigmoid be done in float32 whatever the
        precision of the network. ``torch.sigmoid`` gives the published values.

        Args:
            x: RGB in 0..1 less ImageNet's mean over its standard deviation, floating,
                (B, 3, H, W). Any size; multiples of 32 avoid rounding in the pooling.
            side_outputs: Also return the six maps that are fused, as training needs them.

        Returns:
            Logits of the fused map, (B, 1, H, W); with ``side_outputs`` a tuple of seven
            such tensors, the fused one first and then those of levels 1 to 6.
        """
        maps: list[Tensor] = []
        for level in range(1, len(self.encoder) + 1):
            below = self._pool(maps[-1]) if maps else x
            maps.append(self.get_submodule(f"stage{level}")(below))
        # maps[n] turns from encoder into decoder map on the way up.
        for level in range(len(self.decoder), 0, -1):
            skip = maps[level - 1]
            joined = torch.cat((resize_like(maps[level], skip), skip), dim=1)
            maps[level - 1] = self.get_submodule(f"stage{level}d")(joined)
        sides = [
            self.get_submodule(f"side{level}")(features) for level, features in enumerate(maps, 1)
        ]
        sides = [sides[0], *(resize_like(side, sides[0]) for side in sides[1:])]
        fused: Tensor = self.outconv(torch.cat(sides, dim=1))
        return (fused, *sides) if side_outputs else fused


class U2NET(_NestedU):
    """The full network, 44 million parameters (176 MB)."""

    encoder = (
        _Stage(7, 3, 32, 64),
        _Stage(6, 64, 32, 128),
        _Stage(5, 128, 64, 256),
        _Stage(4, 256, 128, 512),
        _Stage(None, 512, 256, 512),
        _Stage(None, 512, 256, 512),
    )
    decoder = (
        _Stage(7, 128, 16, 64),
        _Stage(6, 256, 32, 64),
        _Stage(5, 512, 64, 128),
        _Stage(4, 1024, 128, 256),
        _Stage(None, 1024, 256, 512),
    )


class U2NETP(_NestedU):
    """The small network, 1.1 million parameters (4.7 MB): every stage 16 wide, 64 out."""

    encoder = (
        _Stage(7, 3, 16, 64),
        _Stage(6, 64, 16, 64),
        _Stage(5, 64, 16, 64),
        _Stage(4, 64, 16, 64),
        _Stage(None, 64, 16, 64),
        _Stage(None, 64, 16, 64),
    )
    decoder = (
        _Stage(7, 128, 16, 64),
        _Stage(6, 128, 16, 64),
        _Stage(5, 128, 16, 64),
        _Stage(4, 128, 16, 64),
        _Stage(None, 128, 16, 64),
    )
