"""What makes mattes from thumbnails: the contract of a segmenter, and the networks.

A new network is a class that keeps to :class:`Segmenter`.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vidbg.errors import DeviceError, WeightsError
from vidbg.matting import engines
from vidbg.matting.architectures import ARCHITECTURES, architecture_of, load_network
from vidbg.matting.weights import (
    below_target_note,
    default_model,
    ensure,
    ranges_of,
    read_arrays,
    read_once,
    spec_of,
)

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from vidbg.matting.architectures import Architecture
    from vidbg.matting.weights import ModelSpec, Progress

logger = logging.getLogger(__name__)

PRECISIONS: Mapping[str, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""What PyTorch computes in, by the names of its types. OpenVINO has fp32 and "int8"."""

_SIZE_STEP_PX = 32  # five halvings
# Beyond this the clip is squeezed: at 4:1 the short side is down to 160 pixels, 5 at the
# network's bottom, and thinner bands leave it no context across.
_MAX_ASPECT = 4.0
# A wrong aspect distorts every shape in the picture, a few per cent more or fewer pixels only
# change the scale, which clips vary far more: 16:9 is to come out as 448x256, not 416x256.
_AREA_WEIGHT = 0.5

# A batch costs frames in memory and delay on top of the device's own memory.
_MAX_BATCH = 16
# Of the memory that is free when the batch size is chosen; other programs may need some too.
_MEMORY_SHARE = 0.5


class Segmenter(Protocol):
    """Makes a matte of each picture by itself.

    Stateless: a batch of N gives what N batches of one give. Memory over time is the
    business of :mod:`vidbg.temporal`.
    """

    @property
    def name(self) -> str:
        """Short name for logs."""
        ...

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        """Return the (height, width) that pictures of a clip must have.

        Args:
            width: Columns of the clip's frames.
            height: Rows of the clip's frames.
            sar: Width over height of the clip's pixels.
        """
        ...

    def batch_size(self, height: int, width: int) -> int:
        """Return how many pictures of this size to give at once, 1 or more."""
        ...

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return mattes (B, h, w), float32, straight, 0 background to 1 foreground.

        Args:
            rgb: Pictures of the input size, uint8 (B, h, w, 3), R'G'B' full range.
        """
        ...


class NetworkSegmenter:
    """A network on a device. Made by :func:`load_segmenter`.

    Attributes:
        name: Name of the model, or of its file without the ending.

    Args:
        network: An engine, or the network with its weights, in float32 on the CPU. That is
            taken over: batch norm is folded into the convolutions, weights are converted and
            moved.
        spec: What its input is: the side that it was trained on, and the normalisation.
        name: Name for logs.
        device: Where to run; an engine runs on the CPU.
        precision: "fp32", "fp16" or "bf16"; an engine has its own.
    """

    def __init__(
        self,
        network: nn.Module | engines.Engine,
        spec: ModelSpec | Architecture,
        name: str,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ) -> None:
        self.name = name
        self._device = device
        self._side_px = spec.input_side_px
        self._batch_limit = _MAX_BATCH
        self._engine = network if isinstance(network, engines.Engine) else None
        if isinstance(network, engines.Engine):
            self._precision = network.precision
            return
        import torch

        from vidbg.gpu.graphs import Graphs

        device = self.device
        # Before the conversion: with folded weights maps stay small, up to about 230 inside
        # U-2-Net-p on photos, where half precision ends at 65504.
        _fold_batch_norm(network)
        fits = _fits(network, getattr(torch, PRECISIONS[precision]))
        self._precision = precision if fits else "fp32"
        if self._precision != precision:
            logger.warning("the weights of %s overflow in %s: using fp32", name, precision)
        try:
            dtype = getattr(torch, PRECISIONS[self._precision])
            self._network = network.to(device=device, dtype=dtype)
        except RuntimeError as error:  # out of memory, or in use by another process
            reason = str(error).splitlines()[0]
            raise DeviceError(f"{device} cannot be used: {reason}") from error
        # Channels-last saves a quarter of the time on a CPU. On MPS it has a history of wrong
        # results without an error (pytorch/pytorch issues 174345 and 180984).
        self._memory_format = (
            torch.contiguous_format if device.type == "mps" else torch.channels_last
        )
        self._network.to(memory_format=self._memory_format)  # type: ignore[call-overload]
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        # (x / 255 - mean) / std with one multiplication and one addition.
        self._scale = (1.0 / (255.0 * std)).view(1, 3, 1, 1).to(device)
        self._shift = (-mean / std).view(1, 3, 1, 1).to(device)
        self._graphs = Graphs()

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        import torch

        return torch.device(self._device)

    @property
    def engine(self) -> str:
        """What runs it: "openvino" or "torch"."""
        return "openvino" if self._engine is not None else "torch"

    @property
    def precision(self) -> str:
        """What it computes in: "fp32", "int8", "fp16" or "bf16".

        Half turns into fp32 if it overflows.
        """
        return self._precision

    @property
    def way(self) -> str:
        """What runs it, where and in what, for people."""
        if self._engine is not None:
            return f"OpenVINO in {self.precision}"
        return f"PyTorch in {self.precision} on {self.device.type}"

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        """Return (height, width), multiples of 32, about as many pixels as in training.

        The aspect ratio is the clip's, to 8 %, between 1:4 and 4:1; a clip beyond is squeezed.

        Args:
            width: Columns of the clip's frames, 1 or more.
            height: Rows of the clip's frames, 1 or more.
            sar: Width over height of the clip's pixels, above 0.

        Raises:
            ValueError: A size or ratio is not positive.
        """
        if width < 1 or height < 1 or sar <= 0:
            raise ValueError(f"no such frame: {width}x{height}, pixel aspect {sar}")
        aspect = min(max(float(width * sar / height), 1 / _MAX_ASPECT), _MAX_ASPECT)

        def misfit(size: tuple[int, int]) -> float:
            rows, columns = size
            off_aspect = abs(math.log(columns / rows / aspect))
            off_area = abs(math.log(columns * rows / self._side_px**2))
            return off_aspect + _AREA_WEIGHT * off_area

        longest = math.ceil(self._side_px * math.sqrt(_MAX_ASPECT) / _SIZE_STEP_PX) + 1
        steps = [_SIZE_STEP_PX * n for n in range(1, longest + 1)]
        return min(itertools.product(steps, steps), key=misfit)

    @property
    def is_slow(self) -> bool:
        """Whether a call takes longer than all else that is done for a frame: on a CPU."""
        return self._engine is not None or self.device.type == "cpu"

    @property
    def square_size(self) -> tuple[int, int]:
        """The (height, width) of pictures that are squeezed into a square, as in training."""
        return self.input_size(1, 1)

    def prepare(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Make an engine ready for pictures of some sizes, all at the same time.

        Each takes it some half a second, on one core, when its first picture comes; what an
        earlier job has kept of it, a third of that.

        Args:
            sizes: (height, width), as :meth:`input_size` says.
        """
        if self._engine is not None:
            self._engine.prepare(sizes)

    def batch_size(self, height: int, width: int) -> int:
        """Return how many pictures to give at once: 1, or on CUDA what free memory allows.

        On a CPU larger batches were no faster per picture and took gigabytes. On CUDA the
        memory that one picture needs is measured by running one.

        Args:
            height: Rows of the pictures.
            width: Columns of the pictures.
        """
        if self._engine is not None or self.device.type != "cuda":
            return 1
        import torch

        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self(np.zeros((1, height, width, 3), np.uint8))
        needed = max(torch.cuda.max_memory_allocated(self.device) - before, 1)
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(1, min(self._batch_limit, int(free * _MEMORY_SHARE) // needed))

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return mattes (B, h, w), float32, straight, 0 background to 1 foreground.

        The network's probability as it is, never stretched by its own extremes. When memory
        of the device runs out the batch is halved, for later calls too, and a warning logged.

        Args:
            rgb: uint8 (B, h, w, 3), R'G'B' full range; h and w as :meth:`input_size` says.

        Raises:
            ValueError: The array has another shape or dtype.
            DeviceError: The device's memory does not hold one picture.
            WeightsError: The network's output is not finite.
        """
        if rgb.ndim != 4 or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
            raise ValueError(f"expected uint8 (B, h, w, 3), got {rgb.dtype} {rgb.shape}")
        if self._engine is not None:
            return self._checked(self._engine(rgb))
        import torch

        count = len(rgb)
        matte = np.empty(rgb.shape[:3], np.float32)
        start = 0
        while start < count:
            stop = min(start + self._batch_limit, count)
            try:
                matte[start:stop] = self._segment(rgb[start:stop])
            except torch.cuda.OutOfMemoryError as error:
                if stop - start == 1:
                    raise DeviceError(
                        f"the memory of {self.device} does not hold one picture of "
                        f"{rgb.shape[2]}x{rgb.shape[1]} in {self.name}",
                        hint="Close other programs that use it, or use --device cpu",
                    ) from error
                self._batch_limit = (stop - start) // 2
            else:
                start = stop
                continue
            # Out of the except clause: its traceback kept the failed batch's tensors alive.
            logger.warning(
                "%s is out of memory: going on with %d pictures at once",
                self.device,
                self._batch_limit,
            )
            torch.cuda.empty_cache()
        return matte

    def on_device(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return mattes of pictures that are in the device's memory already, and leave them there.

        Those of :meth:`__call__`, which says what is done when memory or precision runs out.

        Args:
            rgb: uint8 (B, h, w, 3) on :attr:`device`, R'G'B' full range; h and w as
                :meth:`input_size` says.

        Returns:
            float32 (B, h, w) on :attr:`device`.

        Raises:
            ValueError: An engine runs it, which knows nothing of tensors.
            DeviceError: The device's memory does not hold one picture.
            WeightsError: The network's output is not finite.
        """
        if self._engine is not None:
            raise ValueError(f"{self.name} runs in {self.engine}")
        import torch

        from vidbg.gpu.memory import Portions

        portions = Portions(self._batch_limit, self.name)
        with torch.no_grad():  # not inference_mode: what it returns is to be worked on elsewhere
            mattes = list(
                portions.work_off(len(rgb), lambda start, stop: self._finite(rgb[start:stop]))
            )
            self._batch_limit = portions.limit
            return torch.cat(mattes)

    def _finite(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return the mattes of one batch, in full precision if half precision overflows."""
        matte = self._graphs.run(self._probability_of, self._input_of(rgb))
        if bool(matte.isfinite().all()):
            return matte
        if self._precision != "fp32":
            logger.warning("%s overflows in %s: going on in fp32", self.name, self._precision)
            self._network.float()
            self._precision = "fp32"
            return self._finite(rgb)
        raise WeightsError(f"the output of {self.name} is not finite")

    def _segment(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the mattes of one batch, in full precision if half precision overflows."""
        matte = self._probability(rgb)
        if not np.isfinite(matte).all() and self._precision != "fp32":
            logger.warning("%s overflows in %s: going on in fp32", self.name, self._precision)
            self._network.float()
            self._precision = "fp32"
            matte = self._probability(rgb)
        return self._checked(matte)

    def _checked(self, matte: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(matte).all():
            raise WeightsError(f"the output of {self.name} is not finite")
        return matte

    def _probability(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        # inference_mode belongs to the thread that calls, hence here and not around the loop.
        with torch.inference_mode():
            # from_numpy warns of arrays that are not writable, as those from a pipe are.
            pixels = torch.from_numpy(np.require(rgb, requirements=["C", "W"])).to(self.device)
            matte: NDArray[np.float32] = self._probability_of(self._input_of(pixels)).cpu().numpy()
        return matte

    def _input_of(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return what the network takes for pictures uint8 (B, h, w, 3) on its device."""
        import torch

        # (B, h, w, 3) permuted is channels-last as it is.
        x = pixels.permute(0, 3, 1, 2).float().mul_(self._scale).add_(self._shift)
        x = x.to(getattr(torch, PRECISIONS[self._precision]))
        return x.contiguous(memory_format=self._memory_format)

    def _probability_of(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, h, w) on the device."""
        import torch

        # TF32 would make the "fp32" of the user a 10-bit mantissa.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            logits: torch.Tensor = self._network(x)
        return torch.sigmoid(logits.float())[:, 0]


def load_segmenter(
    model: str | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> NetworkSegmenter:
    """Return a network that is ready to run.

    On a CPU it runs in OpenVINO, where that is installed and the network is one that
    :mod:`vidbg.matting.engines` knows, and otherwise in PyTorch. Under glibc the whole process
    then keeps freed memory for reuse, which saves a quarter of PyTorch's time.

    Args:
        model: A name from the registry. Without it, what ``weights`` holds, or the default.
        weights: A checkpoint of the user's own, of any architecture in
            :mod:`vidbg.matting.architectures`. Without it, the registry's, downloaded if it
            is not on this machine.
        device: "cpu", "cuda", "cuda:N", "mps", or "auto" for the first of CUDA, MPS and CPU
            that is there.
        precision: "fp32", "fp16", "bf16", "int8", or "auto": fp16 on CUDA; on a CPU int8 where
            it pays and how large the network's maps become is known; fp32 elsewhere.
        threads: How many threads the network uses on a CPU; None for the cores of this process.
        progress: Called during a download with the bytes that are there and that there will be.

    Raises:
        DeviceError: The device or precision is unknown or not there.
        WeightsError: The model is unknown, or its file cannot be had or used.
        VidbgError: The network needs a package that is not installed.
        ValueError: ``threads`` is less than 1.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"{threads} threads")
    # Before a download of 176 MB.
    place = "cpu" if has_only_a_cpu(device) else resolve_device(device)
    is_cpu = str(place) == "cpu"
    chosen_precision = _resolve_precision(precision, place)
    if is_cpu:
        _keep_freed_memory()
    name = model or (default_model() if weights is None else Path(weights).stem)
    published = spec_of(name) if model or weights is None else None
    if model is None and published is not None and published.below_target is not None:
        logger.info("%s", below_target_note(published))
    path = ensure(name, progress) if weights is None else Path(weights)
    # Checked and used is the same content, should somebody replace the file meanwhile.
    content = read_once(path, published if weights is None else None)
    expected = published.architecture if published else None
    # An engine takes what it computes in by itself; PyTorch is only loaded for what needs it.
    for_engine = is_cpu and precision in ("auto", "fp32", "int8") and engines.is_installed()
    source = _without_torch(path, content, expected) if for_engine else None
    trained = None
    if source is None:
        trained = load_network(path, expected, content)
        source = _Source(
            trained.architecture,
            {key: tensor.numpy() for key, tensor in trained.network.state_dict().items()},
            trained.input_side_px,
        )
    spec: ModelSpec | Architecture = published or source.architecture
    if weights is not None and source.input_side_px is not None:
        spec = replace(spec, input_side_px=source.input_side_px)
    engine = _engine(path, content, source, spec, precision, threads) if for_engine else None
    if engine is not None:
        logger.info("%s runs in OpenVINO in %s", name, engine.precision)
        return NetworkSegmenter(engine, spec, name)
    if precision == "int8":
        raise DeviceError(
            f"{name} cannot run in int8, which takes OpenVINO and weights whose ranges are known",
            hint="Use --precision auto",
        )
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if trained is None:
        trained = load_network(path, expected, content)
    logger.info("%s runs in PyTorch in %s on %s", name, chosen_precision, place)
    return NetworkSegmenter(trained.network, spec, name, place, chosen_precision)


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """What an engine is made of.

    Attributes:
        architecture: Which network.
        parameters: Its own, by name.
        input_side_px: Side of the square that it was trained on, if its file says.
    """

    architecture: Architecture
    parameters: Mapping[str, NDArray[Any]]
    input_side_px: int | None


def _without_torch(path: Path, content: bytes, expected: str | None) -> _Source | None:
    """Return what is in a network's file, in a process that stays without PyTorch's 200 MB.

    None of one that is not as it should be: reading that again with PyTorch says what is wrong.
    """
    try:
        parameters, input_side_px = read_arrays(path, content)
        name = architecture_of(parameters)
    except WeightsError:
        return None
    if expected not in (None, name):
        return None
    return _Source(ARCHITECTURES[name], parameters, input_side_px)


def _engine(
    path: Path,
    content: bytes,
    source: _Source,
    spec: ModelSpec | Architecture,
    precision: str,
    threads: int | None,
) -> engines.Engine | None:
    """Return an engine for a network, or None if it cannot be had."""
    architecture = source.architecture.name
    ranges = None if precision == "fp32" else ranges_of(path, content)
    try:
        if precision == "auto" and ranges is not None and not engines.multiplies_bytes():
            ranges = None
        if precision == "int8" and ranges is None:
            return None
        return engines.Engine(architecture, source.parameters, spec, threads, ranges)
    except (engines.NotConvertible, RuntimeError) as reason:  # the latter is OpenVINO's own
        logger.info("not in OpenVINO: %s", str(reason).partition("\n")[0])
        return None


def _fold_batch_norm(network: nn.Module) -> None:
    """Put each batch norm's scale and offset into the convolution before it, in place.

    Only in the blocks of our own networks; elsewhere batch norm stays as it is. Exact but for
    rounding, and at inference only: ``weight * (conv(x) - mean) / sqrt(var + eps) +
    bias`` is a convolution again. One pass over memory less per layer.
    """
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    from vidbg.matting.u2net import ConvNormReLU

    network.eval()
    for block in network.modules():
        if isinstance(block, ConvNormReLU) and isinstance(block.bn_s1, nn.BatchNorm2d):
            block.conv_s1 = fuse_conv_bn_eval(block.conv_s1, block.bn_s1)
            block.bn_s1 = nn.Identity()


def _fits(network: nn.Module, dtype: torch.dtype) -> bool:
    """Whether every weight, and every statistic of a batch norm, is finite in ``dtype``."""
    import torch

    largest = torch.finfo(dtype).max
    values = itertools.chain(network.parameters(), network.buffers())
    # What is no floating-point number, such as a count of training steps, is not converted.
    return all(bool((v.abs() <= largest).all()) for v in values if v.is_floating_point())


def resolve_device(device: str) -> torch.device:
    """Return the device of a name: "cpu", "cuda", "cuda:N", "mps", or "auto" for the best.

    Raises:
        DeviceError: There is no such device.
    """
    import torch

    kind, _, index = device.partition(":")
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if device == "cpu":
        return torch.device("cpu")
    if device == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("there is no MPS device on this machine", hint="Use --device cpu")
        return torch.device("mps")
    if kind != "cuda" or (index and not index.isdecimal()) or device.endswith(":"):
        raise DeviceError(
            f"there is no device called {device!r}", hint="Use auto, cpu, cuda, cuda:N or mps"
        )
    if not torch.cuda.is_available():
        why = "" if torch.version.cuda else " (this build of PyTorch has no CUDA)"
        raise DeviceError(f"there is no CUDA device on this machine{why}", hint="Use --device cpu")
    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        raise DeviceError(
            f"there is no {device} on this machine", hint=f"The last one is cuda:{count - 1}"
        )
    return torch.device("cuda", int(index or 0))


def devices_of(device: str) -> tuple[str, ...]:
    """Return the devices that jobs at once are spread over: all of CUDA's, if it may be any.

    Args:
        device: "auto" and "cuda" stand for all CUDA devices that there are, every other name for
            itself.
    """
    if device not in ("auto", "cuda") or has_only_a_cpu(device):
        return (device,)
    import torch

    return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count())) or (device,)


def has_only_a_cpu(device: str) -> bool:
    """Return whether a device's name means the CPU, as far as can be told without PyTorch.

    Args:
        device: As :func:`resolve_device` takes it, which has the last word where this is False.
    """
    if device != "auto":
        return device == "cpu"
    if sys.platform == "darwin":
        return False
    if Path("/dev/kfd").exists():  # AMD's driver
        return False
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return True
    return False


def _resolve_precision(precision: str, device: torch.device | str) -> str:
    """Return what PyTorch is to compute in."""
    kind = str(device).partition(":")[0]
    if precision == "auto":
        return "fp16" if kind == "cuda" else "fp32"
    if precision == "int8":
        if kind != "cpu":
            raise DeviceError(f"int8 is for the CPU, not for {device}", hint="Use fp16 or fp32")
        return "fp32"
    if precision not in PRECISIONS:
        raise DeviceError(
            f"there is no precision called {precision!r}",
            hint=f"Use auto, {', '.join(PRECISIONS)}, int8",
        )
    if precision == "fp16" and kind == "cpu":
        # Measured: 8 times slower than fp32, as hardly any processor multiplies halves.
        raise DeviceError("fp16 is not for the CPU", hint="Use fp32")
    if precision == "bf16" and kind == "cuda":
        import torch

        if not torch.cuda.is_bf16_supported():
            raise DeviceError(f"{device} does not support bf16", hint="Use fp16 or fp32")
    return precision


def _keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of giving it back to the system, process-wide.

    The feature maps of one frame are hundreds of megabytes, in pieces of up to 29. By
    default each piece is mapped afresh, and the kernel clears it page by page: 50,000 page
    faults and a quarter of the time of U-2-Net-p at 448x256. What one thread has freed is
    kept for all of them, in one arena: with one each, which is glibc's default, a clip of
    1080p takes 50 MiB more.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # <malloc.h>
    limit_bytes = 1 << 30
    # The second alone would fix the first at its 128 KiB default and make all of it worse.
    if mallopt(mmap_threshold, limit_bytes):
        mallopt(trim_threshold, limit_bytes)
        mallopt(arena_max, 1)
