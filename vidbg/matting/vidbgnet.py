"""vidbg-s, the network whose weights come with vidbg.

A U of residual U-blocks like U-2-Net (see :mod:`vidbg.matting.u2net`), laid out for what it
costs: U-2-Net-p spends more than half of its multiplications in the last block of the decoder,
which runs at full size. Here a stem halves the picture first, the blocks at half size are thin
and shallow, the channels go where the maps are small, and the map at full size is made from
four channels at half size (sub-pixel convolution: Shi et al., "Real-Time Single Image and Video
Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016).

Convolutions are dense. Separable ones have a tenth of the multiplications, but a depthwise
convolution runs at a seventh of a dense one's rate on a CPU (measured: 70 against 430 GFLOP/s),
so that little of it is left as time.

Modules only: tensors in, tensors out, no paths, no devices, no video.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidbg.matting.u2net import RSU, RSU4F, ConvNormReLU, halving_pool, resize_like

_STEM_CHANNELS = 16


class VidbgS(nn.Module):
    """The network: 2.27 GMAC at 320x320, 2.35 million parameters (4.7 MB in float16).

    Five levels, at 1/2 to 1/32 of the picture's size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormReLU(3, _STEM_CHANNELS, stride=2)
        self.stage1 = RSU(4, _STEM_CHANNELS, 8, 16)
        self.stage2 = RSU(6, 16, 24, 48)
        self.stage3 = RSU(5, 48, 48, 96)
        self.stage4 = RSU(4, 96, 48, 128)
        self.stage5 = RSU4F(128, 48, 128)
        self.stage4d = RSU(4, 128 + 128, 48, 96)
        self.stage3d = RSU(5, 96 + 96, 40, 64)
        self.stage2d = RSU(6, 64 + 48, 24, 48)
        self.stage1d = RSU(3, 48 + 16, 8, 16)
        self.side1 = nn.Conv2d(16, 4, 3, padding=1)
        self.side2 = nn.Conv2d(48, 1, 3, padding=1)
        self.side3 = nn.Conv2d(64, 1, 3, padding=1)
        self.side4 = nn.Conv2d(96, 1, 3, padding=1)
        self.side5 = nn.Conv2d(128, 1, 3, padding=1)
        self.outconv = nn.Conv2d(5, 1, 1)
        self._pool = halving_pool()

    def forward(self, x: Tensor, side_outputs: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Return the saliency of every pixel as a logit.

        Args:
            x: RGB in 0..1 less ImageNet's mean over its standard deviation, floating,
                (B, 3, H, W); H and W even. Multiples of 32 avoid rounding in the pooling.
            side_outputs: Also return the five maps that are fused, as training needs them.

        Returns:
            Logits of the fused map, (B, 1, H, W); with ``side_outputs`` a tuple of six
            tensors, the fused map first and then those of levels 1 to 5, each at its own
            size: (H, W), then 1/4, 1/8, 1/16 and 1/32 of it, rounded up.
        """
        map1 = self.stage1(self.stem(x))
        map2 = self.stage2(self._pool(map1))
        map3 = self.stage3(self._pool(map2))
        map4 = self.stage4(self._pool(map3))
        map5 = self.stage5(self._pool(map4))
        map4 = self.stage4d(torch.cat((resize_like(map5, map4), map4), dim=1))
        map3 = self.stage3d(torch.cat((resize_like(map4, map3), map3), dim=1))
        map2 = self.stage2d(torch.cat((resize_like(map3, map2), map2), dim=1))
        map1 = self.stage1d(torch.cat((resize_like(map2, map1), map1), dim=1))
        finest = functional.pixel_shuffle(self.side1(map1), 2)
        coarse = (self.side2(map2), self.side3(map3), self.side4(map4), self.side5(map5))
        maps = (finest, *(resize_like(side, finest) for side in coarse))
        fused: Tensor = self.outconv(torch.cat(maps, dim=1))
        return (fused, finest, *coarse) if side_outputs else fused
