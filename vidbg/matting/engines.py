"""The networks on a CPU without PyTorch: built for OpenVINO layer by layer, in fp32 or int8.

A network here is its parameters, by the names that they have in checkpoints, and a function that
writes its layers down for one size of pictures. Nothing is converted by anybody's tool, and nothing
is imported before an engine is made. What is the same in every picture is worked out beforehand:
batch norm goes into the convolution before it, the network's last layer, which weighs its side
maps, into the convolutions that make them, and what enlarges those maps is a product with two small
matrices.

What OpenVINO makes of a network for one size takes it up to half a second. It is kept in the
weights folder for the next job, under a name that tells of all that it was made from.

In int8 every map between two layers is 8 bits a sample, and so are weights, with a scale for each
channel of a map (R. Krishnamoorthi, "Quantizing deep convolutional networks for efficient
inference: A whitepaper", 2018). Because a ReLU lets positive factors through, a map's scale can
be put into the weights on both sides of it (M. Nagel et al., "Data-free quantization through
weight equalization and bias correction", ICCV 2019): every map then runs from 0 to 1, so that
pooling, enlarging and joining maps need no scales. How large channels become is measured on
pictures once, by benchmarks/calibrate.py.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import logging
import os
import platform
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbg import __version__, machine
from vidbg.matting.weights import shelf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidbg.matting.architectures import Architecture
    from vidbg.matting.weights import ModelSpec, Ranges

logger = logging.getLogger(__name__)

_BATCH_NORM_EPS = 1e-5
# A clip is looked at in two sizes, its own and a square; a folder of clips has a few more. Each
# holds its own weights and maps, 20 to 100 MB for the small networks.
_SIZES_KEPT = 4
# On the disk: of the small networks 3 to 10 MB for each size, so that a few clips of different
# shapes, in two precisions, have theirs; with another number of threads it is another one. The
# large one would take 177 MB, and longer to be read and checked than the 0.15 s that importing
# saves.
_COMPILED_KEPT = 8
_MOST_COMPILED_BYTES = 1 << 25
_LARGEST_INT8 = 127
_CPU_INFO = Path("/proc/cpuinfo")
_REPORTER = "openvino_telemetry"

_importing = threading.Lock()


class NotConvertible(Exception):  # noqa: N818 - an answer, not a fault
    """These parameters are not those of a network that can be built here."""


def _openvino() -> Any:
    """Return OpenVINO, which is imported here only.

    Merely importing it has it report to its makers that it was imported, unless the package that
    does so is not there. Here it is not.

    Raises:
        NotConvertible: It cannot be loaded.
    """
    loaded = sys.modules.get("openvino")
    if loaded is not None and hasattr(loaded, "opset13"):
        return loaded
    with _importing:
        reporter = sys.modules.pop(_REPORTER, None)
        # How to have no such package.
        sys.modules[_REPORTER] = None  # type: ignore[assignment]
        try:
            return importlib.import_module("openvino")
        except (ImportError, OSError) as error:
            raise NotConvertible(f"OpenVINO cannot be loaded: {error}") from error
        finally:
            del sys.modules[_REPORTER]
            if reporter is not None:
                sys.modules[_REPORTER] = reporter


def is_installed() -> bool:
    """Return whether OpenVINO is there; whether it works shows when an engine is made."""
    return find_spec("openvino") is not None


@dataclass(frozen=True, slots=True)
class _Map:
    """A feature map while the graph is written down.

    Attributes:
        node: OpenVINO's node, (1, C, h, w).
        size: (h, w).
        scale: float64 (C,): the map's own values are the node's times this.
        is_bytes: In int8: it has been rounded to steps from 0 to 1.
    """

    node: Any
    size: tuple[int, int]
    scale: NDArray[np.float64]
    is_bytes: bool = False


class Engine:
    """A network that OpenVINO runs on the CPU.

    Pictures go through one by one, so that a batch of N is N batches of one bit for bit, and
    whatever the number of threads is, the same operations are added up in the same order.
    Calls from several threads take turns.

    Attributes:
        precision: "int8" with ranges, "fp32" without.

    Args:
        architecture: A name from :data:`LAYOUTS`.
        parameters: Those of the network by their names in a checkpoint, of any floating dtype.
        spec: The normalisation of its input.
        threads: How many threads it uses; None for the cores of this process, or as few as
            OMP_NUM_THREADS asks for, which OpenVINO by itself does not know.
        ranges: How large its maps become, for int8.

    Raises:
        NotConvertible: Another architecture, parameters that are not its own, or OpenVINO cannot
            be loaded.
    """

    def __init__(
        self,
        architecture: str,
        parameters: Mapping[str, NDArray[Any]],
        spec: ModelSpec | Architecture,
        threads: int | None = None,
        ranges: Ranges | None = None,
    ) -> None:
        if architecture not in LAYOUTS:
            raise NotConvertible(f"{architecture} is not built here")
        openvino = _openvino()
        self.precision = "fp32" if ranges is None else "int8"
        self._architecture = architecture
        self._layers = _Layers(parameters)
        self._spec = spec
        self._ranges = ranges
        self._core = openvino.Core()
        self._options = {
            "INFERENCE_NUM_THREADS": threads or _threads(),
            "NUM_STREAMS": 1,
            # Maps and weights that are not int8 stay float32 where the CPU could do with less.
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            # Pinned to the first cores, two runs at once would share these and leave others idle.
            "ENABLE_CPU_PINNING": False,
        }
        self._requests: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._turn = threading.Lock()
        # Once at any size: whether the parameters are all there, and no others.
        _written(architecture, self._layers, spec, (32, 32), ranges)
        if unused := self._layers.unused():
            raise NotConvertible(f"{unused[0]} is not known")

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return mattes (B, h, w), float32, 0 background to 1 foreground.

        Args:
            rgb: uint8 (B, h, w, 3), R'G'B' full range; h and w multiples of 32.
        """
        mattes = np.empty(rgb.shape[:3], np.float32)
        with self._turn:
            request = self._request((rgb.shape[1], rgb.shape[2]))
            for picture, matte in zip(rgb, mattes, strict=True):
                request.infer({0: np.ascontiguousarray(picture[None])})
                matte[:] = request.get_output_tensor(0).data[0]
        return mattes

    def prepare(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Make ready for pictures of some sizes, on as many cores.

        Args:
            sizes: (height, width), multiples of 32. Of more than are kept, the first.
        """
        with self._turn, ThreadPoolExecutor(machine.cores(), "compile") as pool:
            missing = [size for size in dict.fromkeys(sizes) if size not in self._requests]
            del missing[_SIZES_KEPT:]
            made = pool.map(self._made, missing, repeat(self._basis))
            for size, request in zip(missing, made, strict=True):
                self._keep(size, request)

    def _request(self, size: tuple[int, int]) -> Any:
        """Return what runs pictures of a size, made on first use."""
        if size not in self._requests:
            self._keep(size, self._made(size, self._basis))
        self._requests.move_to_end(size)
        return self._requests[size]

    def _made(self, size: tuple[int, int], basis: str | None) -> Any:
        """Return what runs pictures of a size: from what an earlier job has kept, or anew."""
        place = shelf("compiled", ".blob", _COMPILED_KEPT, _MOST_COMPILED_BYTES)
        if basis is None or place is None:
            return self._compiled(size).create_infer_request()
        origin = hashlib.sha256(f"{basis} {size}".encode()).hexdigest()
        content = place.find(origin)
        if content is not None:
            try:
                imported = self._core.import_model(io.BytesIO(content), "CPU", self._options)
                return imported.create_infer_request()
            except Exception as error:
                # Any exception: it is of no use, whatever OpenVINO says about it.
                logger.debug("what was kept for %s cannot be used: %s", size, error)
                place.discard(origin, content)
        compiled = self._compiled(size)
        try:
            exported = io.BytesIO()
            compiled.export_model(exported)
            place.keep(origin, exported.getvalue())
        except Exception as error:  # it will take as long again
            logger.debug("what was compiled for %s is not kept: %s", size, error)
        return compiled.create_infer_request()

    def _compiled(self, size: tuple[int, int]) -> Any:
        model = _written(self._architecture, self._layers, self._spec, size, self._ranges)
        return self._core.compile_model(model, "CPU", self._options)

    @cached_property
    def _basis(self) -> str | None:
        """The digest of all that decides what is compiled but the size; None: it is not kept."""
        # No smaller than its weights: spares the large network the export of what is too large.
        sample_bytes = 4 if self._ranges is None else 1
        if self._layers.samples() * sample_bytes > _MOST_COMPILED_BYTES:
            return None
        try:
            capabilities = sorted(self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
            device = self._core.get_property("CPU", "FULL_DEVICE_NAME")
        except RuntimeError as error:
            logger.debug("nothing is known of the CPU: %s", error)
            return None
        if "EXPORT_IMPORT" not in capabilities:
            return None
        decisive = (
            __version__,
            _source_digest(),
            # Batch norm is folded by NumPy.
            np.__version__,
            _openvino().get_version(),
            device,
            capabilities,
            # Where it runs in the cloud a CPU is called "AMD EPYC", whichever of them it is.
            _instructions(),
            _adds_pairs_exactly(),
            sorted(self._options.items()),
            self._architecture,
            [float(value) for value in (*self._spec.mean, *self._spec.std)],
            self._layers.digest(),
            None if self._ranges is None else _digest_of(self._ranges.largest),
            None if self._ranges is None else sorted(self._ranges.exact),
        )
        return hashlib.sha256(repr(decisive).encode()).hexdigest()

    def _keep(self, size: tuple[int, int], request: Any) -> None:
        if len(self._requests) >= _SIZES_KEPT:
            self._requests.popitem(last=False)
        self._requests[size] = request


def _threads() -> int:
    """Return how many threads a network uses unless somebody says: as PyTorch would have it."""
    # OpenMP allows one number for each level of nesting.
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    cores = machine.cores()
    return min(cores, int(wanted)) if wanted.isdecimal() and int(wanted) else cores


def _source_digest() -> str:
    """Return what tells this file from others that write a network down otherwise.

    Empty where it cannot be read; vidbg's version has to do then.
    """
    try:
        return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    except OSError:
        return ""


def _digest_of(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the digest of arrays and their names, in whatever order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        # Shape and type say where an array ends and the next name begins.
        digest.update(repr((name, values.dtype.str, arrays[name].shape)).encode())
        digest.update(values.data)
    return digest.hexdigest()


def multiplies_bytes() -> bool:
    """Return whether int8 pays on this CPU, by what OpenVINO says of it.

    Raises:
        NotConvertible: OpenVINO cannot be loaded.
    """
    return "INT8" in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def peaks(
    architecture: str, parameters: Mapping[str, NDArray[Any]], spec: ModelSpec | Architecture
) -> Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
    """Return what measures how large each channel of each map becomes in a picture, in fp32.

    It takes a picture, uint8 (1, h, w, 3), and returns the largest values, float32 (C,), by the
    names that :class:`vidbg.matting.weights.Ranges` has. Arguments are those of :class:`Engine`.
    """
    openvino = _openvino()
    core, layers = openvino.Core(), _Layers(parameters)
    compiled: dict[tuple[int, int], tuple[Any, list[str]]] = {}

    def measured(rgb: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        size = (rgb.shape[1], rgb.shape[2])
        if size not in compiled:
            graph = _Graph(layers, None)
            LAYOUTS[architecture](graph, graph.picture(size, spec))
            model = openvino.Model([graph.largest(name) for name in graph.maps], [graph.rgb])
            options = {"INFERENCE_PRECISION_HINT": "f32"}
            compiled[size] = core.compile_model(model, "CPU", options), list(graph.maps)
        network, names = compiled[size]
        found = network([rgb])
        return {name: np.array(found[number]) for number, name in enumerate(names)}

    return measured


def rounding_errors(
    architecture: str,
    parameters: Mapping[str, NDArray[Any]],
    spec: ModelSpec | Architecture,
    ranges: Ranges,
) -> dict[str, float]:
    """Return how much 8-bit weights move what each convolution says, by the convolution's name.

    The mean over its channels of the square root of the sum of squares of the weights' errors,
    both sides scaled to maps from 0 to 1. Where large terms cancel each other it is large.
    Arguments are those of :class:`Engine`.
    """
    graph = _Graph(_Layers(parameters), ranges)
    LAYOUTS[architecture](graph, graph.picture((32, 32), spec))
    return graph.rounding


def _written(
    architecture: str,
    layers: _Layers,
    spec: ModelSpec | Architecture,
    size: tuple[int, int],
    ranges: Ranges | None,
) -> Any:
    """Return a network as OpenVINO's model: pictures uint8 (1, h, w, 3) to mattes (1, h, w)."""
    graph = _Graph(layers, ranges)
    logits = LAYOUTS[architecture](graph, graph.picture(size, spec))
    openvino = _openvino()
    op = openvino.opset13
    matte = op.squeeze(op.sigmoid(logits), np.array([1]))
    return openvino.Model([matte], [graph.rgb])


class _Layers:
    """The convolutions of a checkpoint, batch norm folded in, by their names.

    Raises:
        NotConvertible: A parameter is not finite in float32, or is no array of floating-point
            numbers.
    """

    def __init__(self, parameters: Mapping[str, NDArray[Any]]) -> None:
        self._parameters: dict[str, NDArray[np.float32]] = {}
        for name, values in parameters.items():
            if name.endswith(".num_batches_tracked"):
                continue
            with np.errstate(over="ignore"):  # what is too large shows below
                self._parameters[name] = values.astype(np.float32)
            if values.dtype.kind != "f" or not np.isfinite(self._parameters[name]).all():
                raise NotConvertible(f"{name} is not made of finite numbers")
        self._used: set[str] = set()

    def samples(self) -> int:
        """Return how many numbers there are."""
        return sum(values.size for values in self._parameters.values())

    def digest(self) -> str:
        """Return what tells them from others."""
        return _digest_of(self._parameters)

    def unused(self) -> list[str]:
        """Return the names of parameters that nobody has asked for."""
        return [name for name in self._parameters if name not in self._used]

    def convolution(
        self, name: str, in_channels: int, kernel: int = 3
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return a convolution's weight (out, in, k, k) and bias (out,).

        Raises:
            NotConvertible: It is not there, or of another shape.
        """
        weight = self._parameter(f"{name}.weight")
        bias = self._parameter(f"{name}.bias")
        shape = (bias.size, in_channels, kernel, kernel)
        if bias.ndim != 1 or weight.shape != shape:
            raise NotConvertible(f"{name} is {weight.shape} in place of {shape}")
        return weight, bias

    def block(self, name: str, in_channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the convolution of a block with batch norm, which is folded into it.

        Raises:
            NotConvertible: As :meth:`convolution`, or the batch norm is none.
        """
        weight, bias = self.convolution(f"{name}.conv_s1", in_channels)
        norm = {
            part: self._parameter(f"{name}.bn_s1.{part}")
            for part in ("weight", "bias", "running_mean", "running_var")
        }
        if any(values.shape != bias.shape for values in norm.values()):
            raise NotConvertible(f"the batch norm of {name} has another width")
        variance = norm["running_var"] + _BATCH_NORM_EPS
        if not (variance > 0).all():
            raise NotConvertible(f"the batch norm of {name} has a negative variance")
        factor = norm["weight"] / np.sqrt(variance)
        folded = weight * factor[:, None, None, None]
        return folded, (bias - norm["running_mean"]) * factor + norm["bias"]

    def _parameter(self, name: str) -> NDArray[np.float64]:
        if name not in self._parameters:
            raise NotConvertible(f"{name} is missing")
        self._used.add(name)
        return self._parameters[name].astype(np.float64)


class _Graph:
    """A network on its way into OpenVINO's operators, for pictures of one size.

    Attributes:
        rgb: The input.
        maps: The maps that have a range, by name.
        rounding: See :func:`rounding_errors`; filled in int8.

    Args:
        layers: Its convolutions.
        ranges: How large its maps become; None for fp32.
    """

    rgb: Any

    def __init__(self, layers: _Layers, ranges: Ranges | None) -> None:
        self.maps: dict[str, _Map] = {}
        self.rounding: dict[str, float] = {}
        self._op = _openvino().opset13
        self._layers = layers
        self._ranges = ranges
        self._largest_weight = _LARGEST_INT8 if _adds_pairs_exactly() else _LARGEST_INT8 // 2

    def picture(self, size: tuple[int, int], spec: ModelSpec | Architecture) -> _Map:
        """Return the normalised picture, of which uint8 (1, h, w, 3) is the input."""
        op = self._op
        self.rgb = op.parameter([1, *size, 3], np.uint8, name="rgb")
        x = op.transpose(op.convert(self.rgb, np.float32), np.array([0, 3, 1, 2]))
        mean, std = np.array(spec.mean), np.array(spec.std)
        # (x / 255 - mean) / std with one multiplication and one addition.
        x = op.multiply(x, _column(1 / (255 * std)))
        return _Map(op.add(x, _column(-mean / std)), size, np.ones(3))

    def block(
        self, name: str, x: _Map, *, dilation: int = 1, stride: int = 1, whole: bool = True
    ) -> _Map:
        """Return what a 3x3 convolution with batch norm and ReLU makes.

        Args:
            name: Its name in the checkpoint.
            x: What it reads.
            dilation: Distance in pixels between its taps.
            stride: 1 keeps the size, 2 halves it.
            whole: It makes a map. Otherwise one that is still to be added to another: the
                map that it belongs to is called as the block that it is in.
        """
        weight, bias = self._layers.block(name, len(x.scale))
        named = name if whole else name.rpartition(".")[0]
        scale = self._scale(named, len(bias))
        out = self._convolution(name, x, weight, bias, scale, dilation, stride)
        out = replace(out, node=self._op.relu(out.node))
        return self._made(named, out) if whole else out

    def added(self, name: str, x: _Map, residual: _Map) -> _Map:
        """Return the sum of two maps of one size, in the first one's scale."""
        node = residual.node
        if self._ranges is not None:
            node = self._op.multiply(node, _column(residual.scale / x.scale))
        return self._made(name, _Map(self._op.add(x.node, node), x.size, x.scale))

    def halved(self, x: _Map) -> _Map:
        """Return the maxima of 2x2; an odd row or column left over makes a pixel of its own."""
        kernel = [min(2, length) for length in x.size]
        none = [0, 0]
        node = self._op.max_pool(x.node, [2, 2], [1, 1], none, none, kernel, rounding_type="ceil")
        return replace(x, node=node.output(0), size=(-(-x.size[0] // 2), -(-x.size[1] // 2)))

    def like(self, x: _Map, reference: _Map) -> _Map:
        """Return a map at the size of another, bilinearly, with pixels' centres as in PyTorch."""
        if x.size == reference.size:
            return x
        node = self._op.interpolate(
            x.node,
            np.array(reference.size),
            "linear_onnx",
            "sizes",
            axes=np.array([2, 3]),
            coordinate_transformation_mode="half_pixel",
        )
        return self._in_bytes(replace(x, node=node, size=reference.size))

    def joined(self, first: _Map, second: _Map) -> _Map:
        """Return two maps of one size as one."""
        node = self._op.concat([first.node, second.node], 1)
        return replace(first, node=node, scale=np.concatenate([first.scale, second.scale]))

    def logits(self, maps: Sequence[_Map], *, finest_factor: int = 1) -> Any:
        """Return what the side maps come to, (1, 1, h, w).

        Args:
            maps: What the convolutions side1, side2 … read, finest first.
            finest_factor: 2 where side1 makes four maps that are the pixels of one.
        """
        op = self._op
        weight, bias = self._layers.convolution("outconv", len(maps), kernel=1)
        if len(bias) != 1:
            raise NotConvertible(f"outconv makes {len(bias)} maps")
        total = None
        size = maps[0].size
        for number, x in enumerate(maps):
            name = f"side{number + 1}"
            side_weight, side_bias = self._layers.convolution(name, len(x.scale))
            if len(side_bias) != (1 if number else finest_factor**2):
                raise NotConvertible(f"{name} makes {len(side_bias)} maps")
            # Weighing maps and enlarging them can change places.
            share = weight[0, number, 0, 0]
            offset = side_bias * share + (0 if number else bias[0])
            side = self._convolution(name, x, side_weight * share, offset, np.ones(len(side_bias)))
            if number:
                total = op.add(total, self._enlarged(side, size))
                continue
            total = side.node
            if finest_factor > 1:
                total = op.depth_to_space(total, "depth_first", finest_factor)
                size = (size[0] * finest_factor, size[1] * finest_factor)
        return total

    def largest(self, name: str) -> Any:
        """Return the largest value of each channel of a map, (C,)."""
        return self._op.reduce_max(self.maps[name].node, np.array([0, 2, 3]))

    def _made(self, name: str, x: _Map) -> _Map:
        self.maps[name] = x
        return self._in_bytes(x)

    def _scale(self, name: str, channels: int) -> NDArray[np.float64]:
        if self._ranges is None:
            return np.ones(channels)
        found = self._ranges.largest.get(name)
        if found is None or len(found) != channels:
            raise NotConvertible(f"the range of {name} is not known")
        return found

    def _in_bytes(self, x: _Map) -> _Map:
        """Round a map to 255 steps from 0 to 1, in int8; what is above becomes 1."""
        if self._ranges is None:
            return x
        ends = np.float32(0), np.float32(1)
        return replace(x, node=self._op.fake_quantize(x.node, *ends, *ends, 256), is_bytes=True)

    def _convolution(
        self,
        name: str,
        x: _Map,
        weight: NDArray[np.float64],
        bias: NDArray[np.float64],
        scale: NDArray[np.float64],
        dilation: int = 1,
        stride: int = 1,
    ) -> _Map:
        """Return a convolution that keeps the size but for its stride, scales taken into it."""
        op = self._op
        scaled = weight * x.scale[None, :, None, None] / scale[:, None, None, None]
        # A layer that is not finite would not show: what OpenVINO makes of NaN in a ReLU is 0.
        if max(np.abs(scaled).max(), np.abs(bias / scale).max()) > np.finfo(np.float32).max:
            raise NotConvertible(f"{name} is too large for float32")
        taps: Any = op.constant(scaled.astype(np.float32))
        # Pictures are not from 0 to 1; the layer that reads them costs next to nothing.
        if self._ranges is not None and x.is_bytes:
            largest = np.abs(scaled).max(axis=(1, 2, 3), keepdims=True)
            largest = np.maximum(largest, np.finfo(np.float32).tiny)
            steps = largest / self._largest_weight
            errors = np.rint(scaled / steps) * steps - scaled
            self.rounding[name] = float(np.sqrt((errors**2).sum(axis=(1, 2, 3))).mean())
            if name not in self._ranges.exact:
                # 255 levels all the same, of which the outer ones stay unused.
                end = (steps * _LARGEST_INT8).astype(np.float32)
                taps = op.fake_quantize(taps, -end, end, -end, end, 255)
        border = [dilation * (weight.shape[2] // 2)] * 2
        node = op.convolution(x.node, taps, [stride] * 2, border, border, [dilation] * 2)
        node = op.add(node, _column(bias / scale))
        size = (-(-x.size[0] // stride), -(-x.size[1] // stride))
        return _Map(node, size, scale)

    def _enlarged(self, x: _Map, size: tuple[int, int]) -> Any:
        """Return a map of one channel at a larger size, as :meth:`like` does.

        OpenVINO's own way is made for many channels, and took a quarter of vidbg-s's time.
        """
        op = self._op
        rows, columns = (_bilinear(*lengths) for lengths in zip(x.size, size, strict=True))
        wide = op.matmul(x.node, op.constant(columns), False, True)
        return op.matmul(op.constant(rows), wide, False, False)


def _column(values: NDArray[np.float64]) -> Any:
    """Return a constant for each channel."""
    return _openvino().opset13.constant(values.astype(np.float32).reshape(1, -1, 1, 1))


def _bilinear(length: int, target: int) -> NDArray[np.float32]:
    """Return what a line of samples has to be multiplied with to have another length.

    Pixels' centres are at halves, and what lies beyond the outer ones is like them.

    Returns:
        float32 (1, 1, target, length), rows that sum to 1.
    """
    places = (np.arange(target) + 0.5) * length / target - 0.5
    places = places.clip(0, length - 1)
    before = np.floor(places).astype(int)
    after = np.minimum(before + 1, length - 1)
    weights = np.zeros((1, 1, target, length))
    number = np.arange(target)
    weights[0, 0, number, before] += 1 - (places - before)
    weights[0, 0, number, after] += places - before
    return weights.astype(np.float32)


def _adds_pairs_exactly(cpu_info: Path = _CPU_INFO) -> bool:
    """Return whether the CPU is known to add products of bytes without running over.

    x86 without VNNI multiplies pairs of bytes and adds them in 16 bits, saturating: two products
    of 255 and 127 are beyond, of 255 and 63 not. Other processors have no such instruction.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return True
    return bool({"avx512_vnni", "avx_vnni"} & set(_instructions(cpu_info).split()))


def _instructions(cpu_info: Path = _CPU_INFO) -> str:
    """Return what Linux calls the CPU's sets of instructions, with spaces; elsewhere ""."""
    try:
        with cpu_info.open(encoding="ascii", errors="replace") as lines:
            named = (line for line in lines if line.startswith(("flags", "Features")))
            return next(named, "").partition(":")[2].strip()
    except OSError:  # another system than Linux
        return ""


def _residual_u(graph: _Graph, name: str, x: _Map, dilations: tuple[int, ...] | int) -> _Map:
    """Write down a residual U-block: RSU of a height, or RSU-4F with its dilations."""
    is_flat = not isinstance(dilations, int)
    steps = dilations if not isinstance(dilations, int) else (*(1,) * (dilations - 1), 2)
    height = len(steps)
    residual = graph.block(f"{name}.rebnconvin", x)
    skips = [graph.block(f"{name}.rebnconv1", residual)]
    for level in range(2, height):
        above = skips[-1] if is_flat else graph.halved(skips[-1])
        skips.append(graph.block(f"{name}.rebnconv{level}", above, dilation=steps[level - 1]))
    below = graph.block(f"{name}.rebnconv{height}", skips[-1], dilation=steps[-1])
    for level in range(height - 1, 0, -1):
        skip = skips[level - 1]
        joined = graph.joined(graph.like(below, skip), skip)
        dilation = steps[level - 1] if is_flat else 1
        below = graph.block(f"{name}.rebnconv{level}d", joined, dilation=dilation, whole=level > 1)
    return graph.added(name, below, residual)


_FLAT = (1, 2, 4, 8)


def _u2net(graph: _Graph, picture: _Map) -> Any:
    """Write down U-2-Net or U-2-Net-p, which differ in widths only."""
    blocks: tuple[tuple[int, ...] | int, ...] = (7, 6, 5, 4, _FLAT, _FLAT)
    maps: list[_Map] = []
    for level, block in enumerate(blocks, start=1):
        x = graph.halved(maps[-1]) if maps else picture
        maps.append(_residual_u(graph, f"stage{level}", x, block))
    return graph.logits(_decoded(graph, maps, blocks[:-1]))


def _vidbg_s(graph: _Graph, picture: _Map) -> Any:
    """Write down vidbg-s."""
    x = graph.block("stem", picture, stride=2)
    encoder: tuple[tuple[int, ...] | int, ...] = (4, 6, 5, 4, _FLAT)
    maps: list[_Map] = []
    for level, block in enumerate(encoder, start=1):
        above = graph.halved(maps[-1]) if maps else x
        maps.append(_residual_u(graph, f"stage{level}", above, block))
    return graph.logits(_decoded(graph, maps, (3, 6, 5, 4)), finest_factor=2)


def _decoded(
    graph: _Graph, maps: list[_Map], blocks: tuple[tuple[int, ...] | int, ...]
) -> list[_Map]:
    """Return the maps on the way up again, finest first, from those on the way down."""
    found = list(maps)
    for level in range(len(blocks), 0, -1):
        skip = found[level - 1]
        joined = graph.joined(graph.like(found[level], skip), skip)
        found[level - 1] = _residual_u(graph, f"stage{level}d", joined, blocks[level - 1])
    return found


LAYOUTS: Mapping[str, Callable[[_Graph, _Map], Any]] = {
    "vidbg-s": _vidbg_s,
    "u2net": _u2net,
    "u2netp": _u2net,
}
"""What writes the layers of an architecture down and returns the node of its logits."""
