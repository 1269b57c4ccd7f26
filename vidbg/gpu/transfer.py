"""Arrays to a device and tensors back, beside its other work.

On CUDA both go through page-locked memory and on streams of their own (CUDA C++ Programming Guide,
"Asynchronous concurrent execution"), so that the copy engines work while kernels run. All kernels
are on the device's default stream, whichever thread starts them: they take turns there in the
order in which they were started, and only a copy has to be waited for. Elsewhere a copy is a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _own_stream(device: torch.device) -> torch.cuda.Stream | None:
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Arriving:
    """Tensors that are on their way to a device.

    Args:
        tensors: The tensors.
        event: Recorded behind their copies, or None where they are there already.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], event: torch.cuda.Event | None) -> None:
        self._tensors, self._event = tensors, event

    def arrived(self) -> Sequence[torch.Tensor]:
        """Return the tensors. What the device does with them from here on waits for the copies."""
        if self._event is not None:
            kernels = torch.cuda.current_stream(self._tensors[0].device)
            kernels.wait_event(self._event)
            for tensor in self._tensors:
                # Or its memory might be given to the next copy while a kernel still reads it.
                tensor.record_stream(kernels)
        return self._tensors


class Uploads:
    """Sends arrays to a device.

    Args:
        device: Where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _own_stream(device)

    def send(self, arrays: Sequence[NDArray[Any]]) -> Arriving:
        """Begin to copy arrays.

        Args:
            arrays: Of any dtype that PyTorch has. They must not be changed any more: on the CPU
                the tensors are the same memory.
        """
        if self._stream is None:
            # from_numpy warns of arrays that are not writable, as those from a pipe are.
            given = (np.require(array, requirements=["C", "W", "A"]) for array in arrays)
            return Arriving([torch.from_numpy(array).to(self._device) for array in given], None)
        with torch.cuda.stream(self._stream):
            sent = [_staged(array).to(self._device, non_blocking=True) for array in arrays]
            return Arriving(sent, self._stream.record_event())


def _staged(array: NDArray[Any]) -> torch.Tensor:
    """Return an array in page-locked memory, which PyTorch keeps until what reads it is done."""
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    staged = torch.empty(array.shape, dtype=dtype, pin_memory=True)
    np.copyto(staged.numpy(), array)
    return staged


class Leaving:
    """Tensors that are on their way to the host.

    Args:
        tensors: The copies in the host's memory.
        event: Recorded behind the copying, or None where it is done.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], event: torch.cuda.Event | None) -> None:
        self._tensors, self._event = tensors, event

    def arrays(self) -> list[NDArray[Any]]:
        """Wait for the copies and return them."""
        if self._event is not None:
            self._event.synchronize()
        return [tensor.numpy() for tensor in self._tensors]


class Downloads:
    """Brings tensors of a device to the host.

    Args:
        device: Where from.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _own_stream(device)

    def fetch(self, tensors: Sequence[torch.Tensor]) -> Leaving:
        """Begin to copy tensors, behind what the device has been given to do so far.

        Args:
            tensors: Of any dtype that NumPy has. They must not be changed any more.
        """
        if self._stream is None:
            return Leaving([tensor.cpu().contiguous() for tensor in tensors], None)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            fetched = []
            for tensor in tensors:
                target = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                fetched.append(target.copy_(tensor, non_blocking=True))
                tensor.record_stream(self._stream)
            return Leaving(fetched, self._stream.record_event())
