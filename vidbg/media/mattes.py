"""Mattes that lie ready in a file, in step with a clip's frames: no network is asked."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidbg import colour as colours
from vidbg.errors import DecodeError, InputError
from vidbg.frames import MAX_PIXELS, FrameBatch, MattedBatch, VideoInfo
from vidbg.media.decode import FrameReader
from vidbg.media.probe import probe

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ReadyMattes:
    """Mattes in a video, a picture sequence or a picture, and which of the clip's frames they fit.

    What counts is the file's alpha channel where it has one that is anywhere not opaque, else how
    light it is, from black (0) to white (1): its luma, or the mean of R', G' and B'.

    Attributes:
        info: The file.
        first: Index of the clip's frame that the file's first picture belongs to.
        stop: Index after the clip's last frame that it has a matte for; None where a picture
            serves all frames, or where the file does not say how many it holds.
        uses_alpha: Its alpha channel is the matte.
    """

    info: VideoInfo
    first: int
    stop: int | None
    uses_alpha: bool

    def within(self, first: int, stop: int | None) -> tuple[int, int | None]:
        """Return the part of a range of the clip's frames that there are mattes for."""
        if self.info.is_image:
            return first, stop
        # An end that nobody set stays open: counts are estimates, and no frame is to be lost.
        if stop is not None and self.stop is not None:
            stop = min(stop, self.stop)
        return max(first, self.first), stop


def open_mattes(
    path: Path,
    clip: VideoInfo,
    first: int = 0,
    stop: int | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
) -> ReadyMattes:
    """Return the mattes in a file, which has as many frames as the clip, or as its trim.

    Frames go together by number. Rates are not compared: numbered pictures have none.

    Args:
        path: A video, a picture, or numbered pictures (a directory or a printf pattern).
        clip: The clip.
        first: Index of the first frame of the trim.
        stop: Index after its last frame, or None for the clip's end.
        max_pixels: The most pixels that a matte may have.

    Raises:
        InputError: It cannot be read, is too large, or has another number of frames.
        DecodeError: Its first frame cannot be decoded.
    """
    info = probe(path, clip.frame_rate, max_pixels=max_pixels)
    place = 0
    count, whole = info.frame_count, clip.frame_count
    if not info.is_image and count is not None and whole is not None:
        end = whole if stop is None else stop
        if count != whole:
            if count != end - first:
                wanted = (
                    f"{whole}" if end - first == whole else f"{whole}, or {end - first} trimmed"
                )
                raise InputError(
                    f"has {count} frames where {clip.path.name} has {wanted}",
                    path=path,
                    hint="A matte has a frame for each of the clip's",
                )
            place = first
    last = None if info.is_image or count is None else place + count
    return ReadyMattes(info, place, last, info.has_alpha and _is_anywhere_clear(info))


class MatteReader:
    """An iterable that joins a clip's frames with their ready mattes.

    Args:
        frames: Consecutive frames of the clip.
        mattes: What :func:`open_mattes` returned.
        clip: What reads the frames, perhaps ahead in a thread; its first frame tells theirs.
        wants_pictures: Those who finish the mattes look at the frames at the mattes' size.

    Raises:
        DecodeError: The file ends before the frames do, or cannot be decoded.
    """

    def __init__(
        self,
        frames: Iterable[FrameBatch],
        mattes: ReadyMattes,
        clip: FrameReader,
        *,
        wants_pictures: bool,
    ) -> None:
        self._frames = frames
        self._mattes = mattes
        self._clip = clip.info
        self._wants_pictures = wants_pictures
        at = 0 if mattes.info.is_image else clip.first - mattes.first
        self._reader = FrameReader(mattes.info, batch_size=clip.batch_size, first=at)

    def cancel(self) -> None:
        """End the decoder, from any thread; iteration then stops early."""
        self._reader.cancel()

    def __iter__(self) -> Iterator[MattedBatch]:
        """Yield the frames with their mattes, in the batches in which they came."""
        with closing(self._one_by_one()) as found:
            still = next(found, None) if self._mattes.info.is_image else None
            for batch in self._frames:
                yield self._with_mattes(batch, found, still)
                del batch

    def _with_mattes(
        self,
        batch: FrameBatch,
        found: Iterator[NDArray[np.float32]],
        still: NDArray[np.float32] | None,
    ) -> MattedBatch:
        """Return frames with the next mattes, or with the one that serves all."""
        count = len(batch)
        if still is not None:
            mattes = np.broadcast_to(still, (count, *still.shape))
        else:
            taken = list(itertools.islice(found, count))
            if len(taken) < count:
                raise DecodeError(
                    f"its frames end before those of {self._clip.path.name}, at frame "
                    f"{batch.first_index + len(taken)}",
                    path=self._mattes.info.path,
                )
            mattes = np.stack(taken)
        if not self._wants_pictures:
            return MattedBatch(batch, np.empty((count, 0, 0, 3), np.uint8), mattes)
        colour = colours.resolve(self._clip.colour, self._clip.format, self._clip.height)
        size = (mattes.shape[1], mattes.shape[2])
        pictures = colours.planes_to_rgb(batch.planes, batch.format, colour, size)
        return MattedBatch(batch, pictures, mattes)

    def _one_by_one(self) -> Generator[NDArray[np.float32], None, None]:
        """Yield the mattes, float32 ``(h, w)`` in 0..1."""
        info = self._mattes.info
        for batch in self._reader:
            yield from _mattes_of(batch, info, self._mattes.uses_alpha)
            del batch


def _is_anywhere_clear(info: VideoInfo) -> bool:
    """Say whether a file's alpha is not opaque all over. Mostly its first frame tells."""
    top = (1 << info.format.depth) - 1
    for batch in FrameReader(info):
        if batch.source_alpha is not None and batch.source_alpha.min() < top:
            return True
    return False


def _mattes_of(
    batch: FrameBatch, info: VideoInfo, uses_alpha: bool
) -> Iterator[NDArray[np.float32]]:
    """Yield the mattes in decoded frames, float32 ``(H, W)`` in 0..1."""
    top = np.float32((1 << batch.format.depth) - 1)
    colour = colours.resolve(info.colour, batch.format, info.height)
    black, white = np.float32(0), top
    if not batch.format.is_rgb and colour.range != "pc":  # ITU-R BT.709, 3.4
        step = np.float32(1 << (batch.format.depth - 8))
        black, white = 16 * step, 235 * step
    for index in range(len(batch)):
        if uses_alpha and batch.source_alpha is not None:
            yield batch.source_alpha[index] / top
        elif batch.format.is_rgb:
            red_green_blue = [plane[index].astype(np.float32) for plane in batch.planes]
            yield np.asarray(sum(red_green_blue) / (3 * top), np.float32)
        else:
            light = (batch.planes[0][index] - black) / (white - black)
            yield np.clip(light, 0, 1, dtype=np.float32)
