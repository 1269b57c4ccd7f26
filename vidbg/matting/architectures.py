"""The networks that vidbg knows: how to build one, and how to tell whose weights a file has.

Every network maps RGB (B, 3, H, W), normalised, H and W multiples of 32, to the logits of the
matte (B, 1, H, W); called with ``side_outputs=True``, to a tuple with those logits first and
then, where it makes them, the coarser maps that training looks at too.

Nothing here imports torch before a network is built, so that its names cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidbg.errors import WeightsError
from vidbg.matting.weights import load_checkpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network without its weights, and the input it expects where a file does not say.

    Attributes:
        name: What the user calls it.
        build: Returns the network with random weights, float32 on the CPU.
        signature: Names and shapes of parameters that tell it from all others.
        input_side_px: Side of the square that it is usually trained on.
        mean: Mean of R, G, B in 0..1 that its input is normalised with.
        std: Standard deviation of R, G, B in 0..1 that its input is normalised with.
    """

    name: str
    build: Callable[[], nn.Module]
    signature: Mapping[str, tuple[int, ...]]
    input_side_px: int = 320
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def _vidbg_s() -> nn.Module:
    from vidbg.matting.vidbgnet import VidbgS

    return VidbgS()


def _u2net() -> nn.Module:
    from vidbg.matting.u2net import U2NET

    return U2NET()


def _u2netp() -> nn.Module:
    from vidbg.matting.u2net import U2NETP

    return U2NETP()


def _unet_resnet34() -> nn.Module:
    from vidbg.matting.resnet_unet import ResNet34Unet

    return ResNet34Unet()


ARCHITECTURES: Mapping[str, Architecture] = {
    known.name: known
    for known in (
        Architecture(
            "vidbg-s",
            _vidbg_s,
            {
                "stem.conv_s1.weight": (16, 3, 3, 3),
                "side1.weight": (4, 16, 3, 3),
                "outconv.weight": (1, 5, 1, 1),
            },
        ),
        Architecture(
            "u2net",
            _u2net,
            {
                "stage1.rebnconvin.conv_s1.weight": (64, 3, 3, 3),
                "stage1.rebnconv1.conv_s1.weight": (32, 64, 3, 3),
                "outconv.weight": (1, 6, 1, 1),
            },
        ),
        Architecture(
            "u2netp",
            _u2netp,
            {
                "stage1.rebnconvin.conv_s1.weight": (64, 3, 3, 3),
                "stage1.rebnconv1.conv_s1.weight": (16, 64, 3, 3),
                "outconv.weight": (1, 6, 1, 1),
            },
        ),
        Architecture(
            "unet-resnet34",
            _unet_resnet34,
            {
                "unet.encoder.conv1.weight": (64, 3, 7, 7),
                # Deeper ResNets have this name too, with other shapes; ResNet-18 has not.
                "unet.encoder.layer3.5.conv1.weight": (256, 256, 3, 3),
                "unet.segmentation_head.0.weight": (1, 16, 3, 3),
            },
            input_side_px=256,
        ),
    )
}

NAMES: tuple[str, ...] = tuple(ARCHITECTURES)
"""The names that :func:`build` takes."""


def build(name: str) -> nn.Module:
    """Return a network with random weights, float32 on the CPU, in training mode.

    Raises:
        WeightsError: No architecture has this name.
        VidbgError: It needs a package that is not installed.
    """
    if name not in ARCHITECTURES:
        raise WeightsError(
            f"there is no architecture called {name!r}", hint=f"Known are {', '.join(NAMES)}"
        )
    return ARCHITECTURES[name].build()


def architecture_of(state_dict: Mapping[str, Tensor] | Mapping[str, NDArray[Any]]) -> str:
    """Return the architecture that weights are for, by the names and shapes that tell it.

    Whether every other tensor fits as well shows when the network loads them.

    Raises:
        WeightsError: They are those of another network.
    """
    found = None
    for name, known in ARCHITECTURES.items():
        if all(parameter in state_dict for parameter in known.signature):
            shapes = {
                parameter: tuple(state_dict[parameter].shape) for parameter in known.signature
            }
            if shapes == known.signature:
                return name
            found = ", ".join(f"{parameter} {shape}" for parameter, shape in shapes.items())
    if found is None:
        first = next(iter(state_dict), "nothing")
        found = f"{len(state_dict)} tensors, the first called {first}"
    raise WeightsError(
        f"is of none of the networks {', '.join(NAMES)} with one matte as output and their "
        f"usual names of parameters: found {found}"
    )


@dataclass(frozen=True, slots=True, eq=False)
class TrainedNetwork:
    """A network with its weights.

    Attributes:
        architecture: Which network.
        network: It, float32 on the CPU, in training mode.
        input_side_px: Side of the square that it was trained on, if its file says.
    """

    architecture: Architecture
    network: nn.Module
    input_side_px: int | None


def load_network(
    path: Path, expected: str | None = None, content: bytes | None = None
) -> TrainedNetwork:
    """Return the network that a checkpoint is for, with its weights.

    Args:
        path: What :func:`vidbg.matting.weights.load_checkpoint` reads.
        expected: The architecture that it has to be.
        content: What :func:`vidbg.matting.weights.read_once` returned of it, or None to read it
            here.

    Raises:
        WeightsError: The file cannot be used, or is for another network.
        VidbgError: The network needs a package that is not installed.
    """
    checkpoint = load_checkpoint(path, content)
    state_dict = checkpoint.state_dict
    try:
        name = architecture_of(state_dict)
    except WeightsError as error:
        error.path = path
        raise
    if expected is not None and name != expected:
        raise WeightsError(
            f"holds a {name}, but what was asked for is a {expected}",
            path=path,
            hint=f"Ask for a {name}, or use another file",
        )
    network = build(name)
    own = network.state_dict()
    differences = [
        f"{parameter} is missing"
        for parameter in own
        # This one counts training steps; checkpoints of old versions of PyTorch do without.
        if parameter not in state_dict and not parameter.endswith(".num_batches_tracked")
    ]
    differences += [f"{parameter} is not known" for parameter in state_dict if parameter not in own]
    differences += [
        f"{parameter} is {tuple(tensor.shape)} in place of {tuple(own[parameter].shape)}"
        for parameter, tensor in state_dict.items()
        if parameter in own and tensor.shape != own[parameter].shape
    ]
    if differences:
        more = f", and {len(differences) - 1} more" if len(differences) > 1 else ""
        raise WeightsError(f"does not fit {name}: {differences[0]}{more}", path=path)
    network.load_state_dict(state_dict, strict=True)
    return TrainedNetwork(ARCHITECTURES[name], network, checkpoint.input_side_px)
