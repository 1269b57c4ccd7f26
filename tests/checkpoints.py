"""Checkpoints with random weights, for tests of mechanics where what is seen does not matter."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vidbg.matting.architectures import build
from vidbg.matting.u2net import U2NETP


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give a network weights whose matte varies over the picture, the same for the same seed.

    Batch norms get statistics far from 0 and 1, so that folding them in has something to do.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(module.bias, std=0.2, generator=generator)
            nn.init.normal_(module.running_mean, std=0.2, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 2.0, generator=generator)
    return network.eval()


def random_network(seed: int = 0) -> U2NETP:
    """Return a U-2-Net-p with such weights."""
    network = U2NETP()
    randomise(network, seed)
    return network


def built(name: str) -> nn.Module:
    """Return a network of this architecture, or skip the test if its package is not there."""
    if name == "unet-resnet34" and find_spec("segmentation_models_pytorch") is None:
        pytest.skip('segmentation-models-pytorch is not installed: pip install "vidbg[unet]"')
    return build(name)


def random_u2netp(path: Path, seed: int = 0) -> Path:
    """Save such a network to ``path``, as safetensors or PyTorch checkpoint by its ending."""
    state_dict = random_network(seed).state_dict()
    if path.suffix == ".safetensors":
        save_file(state_dict, path)
    else:
        torch.save(state_dict, path)
    return path
