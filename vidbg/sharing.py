"""What jobs at once share: the network, the memory, the cores."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from vidbg import machine
from vidbg.profile import waiting

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from vidbg.frames import VideoInfo
    from vidbg.matting.segmenter import NetworkSegmenter

logger = logging.getLogger(__name__)

_POLL_S = 0.1
# By then encoders have filled their queues: a job takes no more memory than it has.
SETTLED_FRAMES = 100
# What a job takes outside of the network, FFmpeg's processes included, measured with the keyer
# and a network, H.264 at 1080p (670 MB) and 4K (1.6 GB), one frame and four at once.
_JOB_BYTES = 340 << 20
_FRAMES_HELD, _FRAMES_PER_BATCHED = 80, 16
# Encoders and decoders hold a frame or so in each of their threads.
_FRAMES_PER_CORE = 2


def memory_bytes(info: VideoInfo, batch_size: int, cores: int) -> int:
    """Return what a job is going to take of memory outside of the network, FFmpeg included.

    Args:
        info: The clip.
        batch_size: Frames per call of the network.
        cores: How many there are.
    """
    sizes = info.format.plane_sizes(info.width, info.height)
    samples = sum(height * width for height, width in sizes) + info.has_alpha * (
        info.width * info.height
    )
    held = _FRAMES_HELD + _FRAMES_PER_BATCHED * batch_size + _FRAMES_PER_CORE * cores
    return _JOB_BYTES + held * samples * info.format.bytes_per_sample


def may_start(needed: int, still_growing: Collection[int], running: int, free: int) -> bool:
    """Say whether there is memory for one more job. One alone always may.

    Args:
        needed: Bytes that it takes.
        still_growing: Bytes that running jobs take which may not have taken them all yet.
        running: How many jobs run.
        free: Bytes that are free now.
    """
    return running == 0 or needed + sum(still_growing) <= free


class Room:
    """The memory: lets jobs in as far as it holds them. Jobs are told apart by their results."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Path] = set()
        self._growing: dict[Path, int] = {}

    def enter(self, job: Path, needed: int, source: Path, stop: threading.Event) -> None:
        """Wait until there is memory for a job, or the batch is to end.

        Args:
            job: Its result.
            needed: Bytes that it takes.
            source: Its clip, for the log.
            stop: Set when the batch is to end.
        """
        has_said = False
        while not stop.is_set():
            with self._lock:
                free = machine.free_memory()
                others = self._running - {job}
                growing = [size for other, size in self._growing.items() if other != job]
                if may_start(needed, growing, len(others), free):
                    self._running.add(job)
                    self._growing[job] = needed
                    return
            if not has_said:
                logger.info(
                    "%s: waits for memory: takes %d MB, %d MB are free",
                    source,
                    needed >> 20,
                    max(0, free - sum(growing)) >> 20,
                )
                has_said = True
            with waiting("turn"):
                stop.wait(5 * _POLL_S)

    def settle(self, job: Path) -> None:
        """Take note that a job has all the memory that it is going to take."""
        with self._lock:
            self._growing.pop(job, None)

    def leave(self, job: Path) -> None:
        """Take note that a job has ended."""
        with self._lock:
            self._running.discard(job)
            self._growing.pop(job, None)


class SharedNetwork:
    """One job's hold on a network that several use, one call at a time.

    Each call has all cores or the whole device to itself; meanwhile the other jobs decode, finish
    and encode. Two calls at once would take twice the memory and be no faster.
    """

    def __init__(
        self, network: NetworkSegmenter, turn: threading.Lock, stop: threading.Event
    ) -> None:
        self.name = network.name
        self.last_batch_size = 1
        self._network, self._turn, self._stop = network, turn, stop

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        """Return the network's own (height, width)."""
        return self._network.input_size(width, height, sar)

    @property
    def is_slow(self) -> bool:
        """Whether the network is."""
        return self._network.is_slow

    @property
    def way(self) -> str:
        """What runs the network."""
        return self._network.way

    @property
    def square_size(self) -> tuple[int, int]:
        """The network's own (height, width) for squeezed pictures."""
        return self._network.square_size

    def prepare(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Make the network ready for pictures of some (height, width)."""
        with self._my_turn():
            self._network.prepare(sizes)

    def batch_size(self, height: int, width: int) -> int:
        """Return the network's own choice, which it may make by running."""
        with self._my_turn():
            self.last_batch_size = self._network.batch_size(height, width)
        return self.last_batch_size

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return mattes (B, h, w), as the network does."""
        with self._my_turn():
            return self._network(rgb)

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self._network.device

    def on_device(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return mattes (B, h, w) on the network's device, of pictures that are there."""
        with self._my_turn():
            return self._network.on_device(rgb)

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        with waiting("turn"):
            while not self._turn.acquire(timeout=_POLL_S):
                if self._stop.is_set():
                    raise KeyboardInterrupt
        try:
            yield
        finally:
            self._turn.release()


@contextmanager
def cores_for(jobs: int) -> Iterator[None]:
    """Give each of so many jobs its share of the cores, where that changes no result."""
    threads = cv2.getNumThreads()
    machine.share_cores(jobs)
    cv2.setNumThreads(machine.cores_per_stage())
    try:
        yield
    finally:
        machine.share_cores(1)
        cv2.setNumThreads(threads)
