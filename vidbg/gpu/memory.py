"""Work on batches in parts that a device's memory holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from vidbg.errors import DeviceError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Portions:
    """Halves what is done at once whenever the device's memory runs out, for good.

    Attributes:
        limit: How many are done at once.

    Args:
        limit: How many to begin with, 1 or more.
        what: What is done, for messages.
    """

    def __init__(self, limit: int, what: str) -> None:
        self.limit = limit
        self._what = what

    def work_off(self, count: int, work: Callable[[int, int], T]) -> Iterator[T]:
        """Yield what ``work`` makes of the parts of a batch, in order.

        Args:
            count: Size of the batch.
            work: Takes the first of a part and the one after its last.

        Raises:
            DeviceError: There is no memory for a single one.
        """
        start = 0
        while start < count:
            stop = min(start + self.limit, count)
            try:
                made = work(start, stop)
            except torch.cuda.OutOfMemoryError as error:
                if stop - start == 1:
                    raise DeviceError(
                        f"the device's memory does not hold {self._what} of one frame",
                        hint="Close other programs that use it, or use --device cpu",
                    ) from error
                self.limit = (stop - start) // 2
            else:
                start = stop
                yield made
                del made
                continue
            # Out of the except clause: its traceback kept the failed part's tensors alive.
            logger.warning(
                "the device is out of memory: going on with %s of %d frames at once",
                self._what,
                self.limit,
            )
            torch.cuda.empty_cache()
