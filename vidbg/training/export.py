"""A trained network as a file to hand on: safetensors in half precision, or ONNX.

Every file is checked against the checkpoint's network before it gets its name, and a file
under its final name is always whole.
"""

from __future__ import annotations

import logging
import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidbg.errors import OutputError, VidbgError, WeightsError
from vidbg.matting.architectures import TrainedNetwork, load_network
from vidbg.whole import take_name

logger = logging.getLogger(__name__)

OPSET = 17
"""Version of ONNX's operators: what inference engines of 2022 and later read."""

# Of the matte, whose range is 0 to 1. A step of an 8-bit matte is 0.004.
SAFETENSORS_TOLERANCE = 0.01
"""How far mattes may move by rounding weights to half precision."""
ONNX_TOLERANCE = 1e-3
"""How far mattes may move by another order of the same float32 operations."""

# (batch, height, width): two shapes, so that none of them can have been built in.
_CHECKED_SHAPES = ((1, 64, 96), (2, 128, 128))
# Not among those that are checked, and large enough that the maps at a network's bottom are
# more than one pixel, as they are at any size that networks are used with.
_TRACED_SHAPE = (1, 160, 192)


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written.

    Attributes:
        path: The file.
        architecture: What network it holds.
        size_bytes: Its size.
        difference: Largest difference of its mattes, 0 to 1, from the checkpoint's in the check.
    """

    path: Path
    architecture: str
    size_bytes: int
    difference: float


def export(checkpoint: Path, outputs: Sequence[Path], *, overwrite: bool = False) -> list[Exported]:
    """Write a checkpoint's network to files, checked.

    Args:
        checkpoint: What :func:`vidbg.matting.weights.load_checkpoint` reads.
        outputs: The files, .safetensors or .onnx each.
        overwrite: Replace files that exist.

    Returns:
        One entry a file, in the order of ``outputs``. All of them, or an exception: files that
        were finished before it stay.

    Raises:
        OutputError: An output is the checkpoint, exists, has another ending or cannot be
            written.
        WeightsError: The checkpoint cannot be used, or what was written differs from it.
        VidbgError: A package is missing: the extra ``train`` for ONNX, ``unet`` for a
            unet-resnet34.
    """
    for path in outputs:
        _check_writable(path, checkpoint, overwrite)
    if any(path.suffix.lower() == ".onnx" for path in outputs):
        _onnx_packages()
    trained = load_network(checkpoint)
    trained.network.eval()
    expected = [matte(trained.network, pictures(*shape)) for shape in _CHECKED_SHAPES]
    if not all(torch.isfinite(each).all() for each in expected):
        raise WeightsError("the output of its network is not finite", path=checkpoint)
    done = []
    for path in outputs:
        write = FORMATS[path.suffix.lower()]
        with _published(path, overwrite) as part:
            difference = write(trained, part, expected)
            size_bytes = part.stat().st_size
        done.append(Exported(path, trained.architecture.name, size_bytes, difference))
    return done


def pictures(count: int, height: int, width: int) -> Tensor:
    """Return normalised pictures to compare networks on, the same for the same size.

    Args:
        count: B, how many.
        height: Rows, 16 or more.
        width: Columns, 16 or more.

    Returns:
        float32 (B, 3, H, W), mean 0 and standard deviation about 1: smooth shades with some
        noise on top, so that there is something to see at every scale of a network.
    """
    generator = torch.Generator().manual_seed(0)
    size = (height, width)
    picture = torch.zeros(count, 3, height, width)
    for cells in (2, 5, 16):
        coarse = torch.randn(count, 3, cells, cells, generator=generator)
        picture += nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)
    picture += 0.2 * torch.randn(picture.shape, generator=generator)
    return (picture - picture.mean()) / picture.std()


@torch.inference_mode()
def matte(network: nn.Module, x: Tensor) -> Tensor:
    """Return the mattes (B, 1, H, W), 0 to 1, that a network makes of normalised pictures."""
    return torch.sigmoid(network(x))


def _write_safetensors(trained: TrainedNetwork, path: Path, expected: list[Tensor]) -> float:
    """Write the weights in half precision; return how far that moved the mattes.

    What half precision does not hold, as the variances of a batch norm may be, stays in single.
    """
    from safetensors.torch import save

    largest = torch.finfo(torch.float16).max
    state_dict = {}
    for name, tensor in trained.network.state_dict().items():
        is_real = tensor.is_floating_point()
        fits = is_real and bool((tensor.abs() <= largest).all())
        if is_real and not fits:
            logger.info("%s is beyond half precision: kept in single", name)
        state_dict[name] = (tensor.half() if fits else tensor).contiguous()
    facts = {"architecture": trained.architecture.name}
    if trained.input_side_px is not None:
        facts["input_side_px"] = str(trained.input_side_px)
    path.write_bytes(save(state_dict, facts))
    network = load_network(path, expected=trained.architecture.name).network.eval()
    found = [matte(network, pictures(*shape)) for shape in _CHECKED_SHAPES]
    return _difference("safetensors", expected, found, SAFETENSORS_TOLERANCE)


class _Matte(nn.Module):
    """A network that answers with the matte, as those who have only the ONNX file expect."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised (B, 3, H, W) to (B, 1, H, W), 0 background to 1 foreground."""
        return torch.sigmoid(self.network(x))


def _write_onnx(trained: TrainedNetwork, path: Path, expected: list[Tensor]) -> float:
    """Write the network as ONNX; return how far its mattes are from PyTorch's.

    Input "input": normalised R'G'B', float32 (batch, 3, height, width), height and width
    multiples of 32. Output "matte": float32 (batch, 1, height, width), 0 to 1. The metadata
    state the architecture, the mean and standard deviation to normalise with, and the input
    size if it is known.
    """
    onnx, onnxruntime = _onnx_packages()
    axes = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings(), torch.no_grad():
        # That this exporter is the older one (the newer needs another package), and that
        # tracing keeps one side of conditions: the check runs at other sizes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Matte(trained.network).eval(),
            (pictures(*_TRACED_SHAPE),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["matte"],
            dynamic_axes={"input": axes, "matte": axes},
        )
    model = onnx.load(path)
    facts = {
        "architecture": trained.architecture.name,
        "mean": " ".join(map(str, trained.architecture.mean)),
        "std": " ".join(map(str, trained.architecture.std)),
    }
    if trained.input_side_px is not None:
        facts["input_side_px"] = str(trained.input_side_px)
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = []
    for shape in _CHECKED_SHAPES:
        (output,) = session.run(["matte"], {"input": pictures(*shape).numpy()})
        found.append(torch.tensor(output))
    return _difference("ONNX", expected, found, ONNX_TOLERANCE)


FORMATS: dict[str, Callable[[TrainedNetwork, Path, list[Tensor]], float]] = {
    ".safetensors": _write_safetensors,
    ".onnx": _write_onnx,
}
"""What writes and checks a file, by its ending."""


def _onnx_packages() -> tuple[Any, Any]:
    """Return onnx and onnxruntime.

    Raises:
        VidbgError: They are not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ModuleNotFoundError as error:
        raise VidbgError(
            f"writing ONNX needs the Python package {error.name}",
            hint='Install it: pip install "vidbg[train]"',
        ) from error
    return onnx, onnxruntime


def _difference(what: str, expected: list[Tensor], found: list[Tensor], tolerance: float) -> float:
    """Return the largest difference of mattes.

    Raises:
        WeightsError: It is beyond the tolerance, or a shape is another.
    """
    for ours, theirs in zip(expected, found, strict=True):
        if ours.shape != theirs.shape:
            raise WeightsError(
                f"the {what} file gives a matte of {tuple(theirs.shape)} in place of "
                f"{tuple(ours.shape)}; it was not kept"
            )
    largest = max(
        float((ours - theirs).abs().max()) for ours, theirs in zip(expected, found, strict=True)
    )
    if not largest <= tolerance:  # a NaN is not, either
        raise WeightsError(
            f"mattes of the {what} file differ by up to {largest:.3g} from the checkpoint's, "
            f"where {tolerance:g} is allowed; it was not kept"
        )
    return largest


def _check_writable(path: Path, checkpoint: Path, overwrite: bool) -> None:
    """Refuse an output before any work is done for it."""
    if path.suffix.lower() not in FORMATS:
        raise OutputError(
            f"{path.suffix or 'no ending'} is no format to export to",
            path=path,
            hint=f"Use {' or '.join(FORMATS)}",
        )
    if path.exists() and checkpoint.exists() and path.samefile(checkpoint):
        raise OutputError("is the checkpoint itself", path=path, hint="Choose another -o")
    if path.is_dir():
        raise OutputError("is a directory", path=path, hint="Give a file name with -o")
    if os.path.lexists(path) and not overwrite:
        raise OutputError("exists already", path=path, hint="Use -y to overwrite it")
    if not path.parent.is_dir():
        raise OutputError("its folder does not exist", path=path)


@contextmanager
def _published(path: Path, overwrite: bool) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; what lies there is renamed if all went well."""
    # A name of its own each time, so that two exports do not mix; long names are cut, or the
    # part's would be too long where the result's own is not.
    part = path.with_name(f"{path.stem[:40]}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield part
        take_name(part, path, overwrite)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror or error})", path=path) from error
    finally:
        part.unlink(missing_ok=True)
