"""A clip's frames, in its own planes: an FFmpeg process that writes raw video to a pipe."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from vidbg.errors import DecodeError, FFmpegError
from vidbg.frames import FrameBatch, VideoInfo
from vidbg.media import ffmpeg as ff
from vidbg.media.formats import alpha_layout
from vidbg.media.rawvideo import read_batches
from vidbg.media.source import opened_at, seconds, seek_point

logger = logging.getLogger(__name__)


class FrameReader:
    """An iterable of :class:`FrameBatch` over a clip's frames.

    Frames come in the clip's working format, rotated, deinterlaced where stored as fields,
    frame for frame (CFR) or resampled by time (VFR).

    Args:
        info: The clip.
        batch_size: Frames per batch; the last may be shorter.
        first: Index of the first frame.
        stop: Index after the last frame, or None for the end.
        allow_damaged: Go on where frames are missing or broken: the time line is kept by
            repeating the frame before a gap.
    """

    def __init__(
        self,
        info: VideoInfo,
        *,
        batch_size: int = 1,
        first: int = 0,
        stop: int | None = None,
        allow_damaged: bool = False,
    ) -> None:
        self.info = info
        self.frames_read = 0
        self.damage: str | None = None
        self._batch_size = batch_size
        self._first = first
        self._stop = stop
        self._allow_damaged = allow_damaged
        self._cancelled = False
        self._process: ff.Process | None = None

    def cancel(self) -> None:
        """End the decoder, from any thread; iteration then stops early."""
        self._cancelled = True
        if self._process is not None:
            self._process.kill()

    def __iter__(self) -> Iterator[FrameBatch]:
        """Yield the batches.

        Raises:
            DecodeError: The decoder failed, or the clip is damaged and that was not allowed.
        """
        arguments, depth = self._arguments("rawvideo")
        with ff.Process(arguments, reads=True) as process:
            self._process = process
            if self._cancelled:
                return
            for batch in read_batches(
                process,
                self.info.format,
                (self.info.width, self.info.height),
                batch_size=self._batch_size,
                first=self._first,
                alpha_depth=depth if self.info.has_alpha else None,
            ):
                if process.damage_count and not self._allow_damaged:
                    raise self._damaged(process)
                self.frames_read += len(batch)
                yield batch
                del batch
            self._finish(process)

    def _finish(self, process: ff.Process) -> None:
        if self._cancelled:
            return
        try:
            status = process.wait()
        except FFmpegError as error:
            raise DecodeError(error.message, path=self.info.path) from error
        if status or process.damage_count:
            if not self._allow_damaged:
                raise self._damaged(process)
            self.damage = process.first_damage or process.cause()
        if not self.frames_read:
            raise DecodeError(
                "no frame of it can be decoded"
                if self._first == 0
                else "the clip ends before the requested start",
                path=self.info.path,
                returncode=status,
                stderr_tail=tuple(process.tail),
            )

    def _damaged(self, process: ff.Process) -> DecodeError:
        cause = process.cause() if process.first_damage is None else process.first_damage
        process.kill()
        return damaged_error(self.info, cause, tuple(process.tail), process.returncode)

    def _arguments(self, muxer: str) -> tuple[list[str], int]:
        """Return FFmpeg's arguments, and the depth of the alpha plane if there is one."""
        info = self.info
        rate = info.frame_rate
        start_s = info.start + self._first / rate
        seek_s = seek_point(info, start_s) if self._first else Fraction(0)
        node = opened_at(info, seek_s)
        if info.is_interlaced and info.height >= 4 and info.width >= 3:
            node = node.filter("bwdif", mode="send_frame", parity="auto", deint="interlaced")
        if info.is_vfr or self._allow_damaged:
            origin = start_s - seek_s if self._first else Fraction(0)
            shift = f"PTS-({origin})/TB" if self._first else "PTS-STARTPTS"
            node = node.filter("setpts", shift)
            node = node.filter("fps", fps=str(rate), start_time=0, round="near")
            # FFmpeg rounds a clip's end by its own rule; never a frame less than ours.
            node = node.filter("tpad", stop_mode="clone", stop=2)
        elif self._first:
            half_frame_s = Fraction(1, 2) / rate
            begin_s = start_s - half_frame_s - seek_s
            node = node.filter("trim", start=seconds(begin_s))
        node = exact_format(node, info, alpha=info.has_alpha)
        if info.is_image and info.rotation:
            for _ in range(info.rotation // 90):
                node = node.filter("transpose", "clock")
        count = None if self._stop is None else self._stop - self._first
        if count is None and (info.is_vfr or self._allow_damaged) and info.frame_count is not None:
            count = info.frame_count - self._first
        options: dict[str, object] = {"fps_mode": "passthrough", "format": muxer}
        if muxer == "rawvideo":
            options["pix_fmt"] = (
                alpha_layout(info.format)[0] if info.has_alpha else info.format.pix_fmt
            )
        if count is not None:
            options["frames:v"] = max(1, count)
        # Which frames come is decided above; their times no longer matter to anyone.
        node = node.filter("setpts", f"N/({rate})/TB")
        arguments = node.output("pipe:1", **options).get_args()
        return ["-nostdin", *arguments], alpha_layout(info.format)[1]


def exact_format(node: Any, info: VideoInfo, *, alpha: bool) -> Any:
    """Bring decoded frames to the working format and to one size, sample values unchanged."""
    wanted = alpha_layout(info.format)[0] if alpha else info.format.pix_fmt
    turned = info.is_image and info.rotation % 180 != 0
    width, height = (info.height, info.width) if turned else (info.width, info.height)
    spread = "pc" if info.colour.range == "pc" else "tv"
    node = node.filter(
        "scale",
        w=width,
        h=height,
        flags=f"bicubic+{ff.EXACT_FLAGS}",
        in_range=spread,
        out_range=spread,
    )
    return node.filter("format", wanted)


def damaged_error(
    info: VideoInfo, cause: str, tail: tuple[str, ...] = (), returncode: int | None = None
) -> DecodeError:
    """Return the error for a damaged clip, after counting what can be decoded of it."""
    total = (info.frame_count or 0) + info.missing_frames
    lost = max(info.missing_frames, total - count_decodable(info))
    what = (
        f"damaged: {lost} of {total} frames would be lost"
        if lost
        else "damaged: some frames decode with errors"
    )
    return DecodeError(
        f"{what} ({cause})",
        path=info.path,
        hint="Use --allow-damaged to keep what decodes",
        returncode=returncode,
        stderr_tail=tail,
    )


def count_decodable(info: VideoInfo) -> int:
    """Decode a clip to nowhere and return how many frames came.

    Raises:
        DecodeError: The decoder stalled.
    """
    node = opened_at(info, Fraction(0))
    arguments = node.output("pipe:", format="null", fps_mode="passthrough", progress="pipe:1")
    count = 0
    with ff.Process(["-nostdin", *arguments.get_args()], reads=True) as process:
        pending = b""
        buffer = bytearray(1)
        try:
            while process.read_into(memoryview(buffer)):
                if buffer != b"\n":
                    pending += buffer
                    continue
                if pending.startswith(b"frame="):
                    count = int(pending[6:] or 0)
                pending = b""
        except FFmpegError as error:
            raise DecodeError(error.message, path=info.path) from error
    return count


def read_frames(info: VideoInfo, *, batch_size: int = 1) -> FrameReader:
    """Return an iterable over all of a clip's frames.

    Args:
        info: What :func:`vidbg.media.probe.probe` returned.
        batch_size: Frames per batch, at least 1.
    """
    return FrameReader(info, batch_size=batch_size)
