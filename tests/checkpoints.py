"""Checkpoints with random weights, for tests of mechanics where what is seen does not matter."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from vidbg.matting.u2net import U2NETP


def random_network(seed: int = 0) -> U2NETP:
    """Return a U-2-Net-p whose matte varies over the picture, the same for the same seed.

    Batch norms get statistics far from 0 and 1, so that folding them in has something to do.
    """
    generator = torch.Generator().manual_seed(seed)
    network = U2NETP()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            nn.init.normal_(module.bias, std=0.1, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(module.bias, std=0.2, generator=generator)
            nn.init.normal_(module.running_mean, std=0.2, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 2.0, generator=generator)
    return network.eval()


def random_u2netp(path: Path, seed: int = 0) -> Path:
    """Save such a network to ``path``, as safetensors or PyTorch checkpoint by its ending."""
    state_dict = random_network(seed).state_dict()
    if path.suffix == ".safetensors":
        save_file(state_dict, path)
    else:
        torch.save(state_dict, path)
    return path
