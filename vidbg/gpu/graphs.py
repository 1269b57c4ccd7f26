"""Hundreds of kernels started at once: a function recorded as a CUDA graph for each shape."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch

logger = logging.getLogger(__name__)

# Each holds its input and output, and they share the memory of all that is computed on the way.
_MOST_SHAPES = 8
# Recording begins by waiting for the device, which must not be while another thread records.
_TURN = threading.Lock()

_Function = Callable[[torch.Tensor], torch.Tensor]


class Graphs:
    """The recordings of one function of a tensor, which starts faster with them.

    The first call of a shape runs the function as it is, which also has libraries choose their
    kernels; the second records it (CUDA C++ Programming Guide, "CUDA graphs"); that and later ones
    replay the recording. Where it cannot be recorded, and on other devices than CUDA, it runs as it
    is. All calls of one device are on its default stream (see :mod:`vidbg.gpu.transfer`): what is
    replayed has its input, its output and the memory in between to itself.
    """

    def __init__(self) -> None:
        self._recorded: dict[Hashable, _Recording | None] = {}
        self._met: set[Hashable] = set()
        self._pool: Any = None  # PyTorch has no public name for its type

    def run(self, function: _Function, given: torch.Tensor) -> torch.Tensor:
        """Return the function of a tensor.

        Args:
            function: Makes a tensor by kernels alone: nothing that it does depends on their
                results, and what they read besides ``given`` stays where it is. The same at every
                call; it is not kept.
            given: What of.
        """
        if given.device.type != "cuda":
            return function(given)
        shape = (given.device, given.dtype, *given.shape)
        if shape not in self._recorded:
            if shape not in self._met or len(self._recorded) >= _MOST_SHAPES:
                self._met.add(shape)
                return function(given)
            self._recorded[shape] = self._record(function, given)
        recording = self._recorded[shape]
        return function(given) if recording is None else recording.replayed(given)

    def _record(self, function: _Function, given: torch.Tensor) -> _Recording | None:
        try:
            with _TURN:
                if self._pool is None:
                    self._pool = torch.cuda.graph_pool_handle()
                return _Recording(function, given, self._pool)
        except RuntimeError as error:  # unsupported by an operator or the driver, or no memory
            logger.info("no CUDA graph: %s", str(error).splitlines()[0])
            return None


class _Recording:
    """A function recorded with one shape."""

    def __init__(self, function: _Function, given: torch.Tensor, pool: Any) -> None:
        self._given = given.clone()
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may allocate memory meanwhile.
        with (
            torch.cuda.device(given.device),
            torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"),
        ):
            self._made = function(self._given)

    def replayed(self, given: torch.Tensor) -> torch.Tensor:
        """Return the function of ``given``, which is of the recorded shape."""
        self._given.copy_(given)
        self._graph.replay()
        return self._made.clone()
