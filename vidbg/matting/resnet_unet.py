"""A U-Net with a ResNet-34 encoder, from segmentation-models-pytorch.

Ronneberger, Fischer, Brox: "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015; He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", CVPR 2016.
A network of a well-known kind to train and compare with. Import this module only where the
network is asked for: what it builds on comes with the extra ``unet``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vidbg.errors import VidbgError


def _segmentation_models() -> Any:
    """Return the package segmentation_models_pytorch.

    It imports torchvision, whose wheels for Linux on the package index go with the CUDA build
    of PyTorch. Beside a CPU build they do not find their compiled operators, and then stop at
    the rules for the shapes of two that are declared nowhere. Neither is used here, so that
    declaring them is enough.

    Raises:
        VidbgError: It is not installed, or cannot be imported.
    """
    try:
        try:
            import torchvision  # noqa: F401
        except RuntimeError as error:
            if "operator torchvision::" not in str(error):
                raise
            for name in ("nms", "qnms"):
                torch.library.define(f"torchvision::{name}", "() -> ()")
        import segmentation_models_pytorch
    except ModuleNotFoundError as error:
        raise VidbgError(
            f"unet-resnet34 needs the Python package {error.name}",
            hint='Install it: pip install "vidbg[unet]"',
        ) from error
    except (ImportError, RuntimeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise VidbgError(
            f"segmentation-models-pytorch cannot be imported ({reason})",
            hint="Install a torchvision that was built for this torch",
        ) from error
    return segmentation_models_pytorch


class ResNet34Unet(nn.Module):
    """The network: 24.4 million parameters (49 MB in float16), random at first.

    Raises:
        VidbgError: segmentation-models-pytorch is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unet: nn.Module = _segmentation_models().Unet(
            "resnet34", encoder_weights=None, classes=1
        )

    def forward(self, x: Tensor, side_outputs: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Return the saliency of every pixel as a logit.

        Args:
            x: RGB in 0..1 less ImageNet's mean over its standard deviation, floating,
                (B, 3, H, W); H and W multiples of 32.
            side_outputs: Return a tuple, as the other networks do; there is one map in it.

        Returns:
            Logits, (B, 1, H, W); with ``side_outputs`` in a tuple of one.
        """
        logits: Tensor = self.unet(x)
        return (logits,) if side_outputs else logits
