"""A clip's frames, in its own planes: an FFmpeg process that writes raw video to a pipe."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction

from vidbg.errors import DecodeError, FFmpegError, InputError
from vidbg.frames import FrameBatch, VideoInfo
from vidbg.media import ffmpeg as ff
from vidbg.media.formats import alpha_layout
from vidbg.media.rawvideo import read_batches
from vidbg.media.sequence import gap_error, without_gaps
from vidbg.media.source import (
    exact_format,
    may_begin_anywhere,
    opened_at,
    raw_pix_fmt,
    seconds,
    seek_point,
    size_error,
)

logger = logging.getLogger(__name__)

_CHANGED = "changed while it was read"


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
        gpu: The number of the CUDA device that decodes (see :mod:`vidbg.media.nvdec`), or None
            for the CPU. Where it fails, the CPU goes on from the frame after the last that came.
    """

    def __init__(
        self,
        info: VideoInfo,
        *,
        batch_size: int = 1,
        first: int = 0,
        stop: int | None = None,
        allow_damaged: bool = False,
        gpu: int | None = None,
    ) -> None:
        self.info = info
        self.frames_read = 0
        self.damage: str | None = None
        self.batch_size = batch_size
        self.first = first
        self._begin = first
        self._gpu = gpu
        self._stop = stop
        self._allow_damaged = allow_damaged
        self._cancelled = False
        self._complaints_at_start: int | None = None
        self._process: ff.Process | None = None
        self._stamp = _stamp(info)

    def cancel(self) -> None:
        """End the decoder, from any thread; iteration then stops early."""
        self._cancelled = True
        if self._process is not None:
            self._process.kill()

    def __iter__(self) -> Iterator[FrameBatch]:
        """Yield the batches.

        Raises:
            DecodeError: The decoder failed, or the clip is damaged and that was not allowed.
            InputError: Its later frames have too many pixels.
        """
        if self._gpu is not None:
            try:
                yield from self._read()
                return
            except DecodeError as error:
                if self._cancelled:
                    return
                logger.warning(
                    "%s: decoded in software from frame %d on (cuda:%d: %s)",
                    self.info.path,
                    self.first + self.frames_read,
                    self._gpu,
                    error.message,
                )
            self._gpu, self._begin = None, self.first + self.frames_read
        yield from self._read()

    def _read(self) -> Iterator[FrameBatch]:
        """Yield the batches from where reading begins."""
        info = self.info
        if info.sequence is not None and info.missing_frames and not self._allow_damaged:
            raise gap_error(info)  # FFmpeg would take the first gap for the end
        with (
            without_gaps(info) as whole,
            ff.Process(self._arguments(whole), reads=True) as process,
        ):
            self._process = process
            if self._cancelled:
                return
            try:
                for batch in read_batches(
                    process,
                    info.format,
                    (info.width, info.height),
                    batch_size=self.batch_size,
                    first=self._begin,
                    alpha_depth=alpha_layout(info.format)[1] if info.has_alpha else None,
                ):
                    if self._is_damaged(process):
                        if not self._allow_damaged:
                            raise self._damaged(process)
                        # Known even if nobody waits for the end.
                        self.damage = process.first_damage or process.cause()
                    self.frames_read += len(batch)
                    yield batch
                    del batch
                status = process.wait()
            except DecodeError:
                raise
            except FFmpegError as error:
                raise DecodeError(error.message, path=info.path, hint=error.hint) from error
            if not self._cancelled:
                self._finish(process, status)

    def _finish(self, process: ff.Process, status: int) -> None:
        self._check_outside(process)
        if status or self._is_damaged(process):
            if not self._allow_damaged:
                raise self._damaged(process)
            self.damage = process.first_damage or process.cause()
        if not self.frames_read:
            raise DecodeError(
                "no frame of it can be decoded"
                if self.first == 0
                else "the clip ends before the requested start",
                path=self.info.path,
                returncode=status,
                stderr_tail=tuple(process.tail),
            )
        expected = self._count(self.first)
        if expected is not None and self.frames_read < expected:
            if self.info.sequence is not None and not self._allow_damaged:
                number = self.info.sequence.first + self.first + self.frames_read
                raise DecodeError(f"picture number {number} went away", path=self.info.path)
            logger.warning(
                "%s: %d frames were expected, %d came",
                self.info.path,
                expected,
                self.frames_read,
            )
            if not self._allow_damaged and _stamp(self.info) != self._stamp:
                raise DecodeError(_CHANGED, path=self.info.path)

    def _check_outside(self, process: ff.Process) -> None:
        """Raise DecodeError for what is no fault of the clip's, of which there is more."""
        error = outside_error(self.info, process)
        if error is not None:
            raise error

    def _is_damaged(self, process: ff.Process) -> bool:
        """Say whether the decoder complained, of more than what a stream may begin with."""
        if not process.damage_count:
            return False
        if self._complaints_at_start is None:
            self._complaints_at_start = (
                complaints_at_start(self.info) if may_begin_anywhere(self.info) else 0
            )
        return process.damage_count > self._complaints_at_start

    def _damaged(self, process: ff.Process) -> DecodeError | InputError:
        self._check_outside(process)
        cause = process.first_damage or process.cause()
        process.kill()
        error = size_error(self.info.path, [cause], self.info.max_pixels)
        if error is not None:
            return error
        if _stamp(self.info) != self._stamp:
            return DecodeError(
                f"{_CHANGED} ({cause})", path=self.info.path, stderr_tail=tuple(process.tail)
            )
        return damaged_error(self.info, cause, tuple(process.tail), process.returncode)

    def _count(self, first: int) -> int | None:
        """Return how many frames are wanted from one on, as far as that is known."""
        ends = [end for end in (self._stop, self.info.frame_count) if end is not None]
        return max(0, min(ends) - first) if ends else None

    def _arguments(self, info: VideoInfo) -> list[str]:
        """Return FFmpeg's arguments for the clip, without its gaps."""
        first = self._begin
        rate = info.frame_rate
        first_s = info.start + first / rate
        seek_s = seek_point(info, first_s) if first else Fraction(0)
        resampled = info.is_vfr or self._allow_damaged
        node = opened_at(info, seek_s, gpu=self._gpu)
        count = self._count(first)
        if resampled:
            # The last frame goes on until the count is full. Without this FFmpeg 5 takes the
            # time at which it begins for the end of the clip, and drops it.
            stop = -1 if count is not None else 0
            node = node.filter("tpad", stop_mode="clone", stop=stop)
            # Slots are counted from the clip's beginning, wherever reading begins: a frame
            # midway between two goes to the same one.
            node = node.filter("setpts", f"PTS-round({info.start - seek_s}/TB)")
            origin = {} if seek_s else {"start_time": 0}
            node = node.filter("fps", fps=str(rate), round="near", **origin)
            if first:
                node = node.filter("trim", start_pts=first)
        elif seek_s:
            # FFmpeg rounds to ticks, of which there may be one a frame: up, so that half a frame
            # before the wanted one never means the frame before it.
            bound_s = first_s - seek_s - 1 / (2 * rate) + info.time_base * 49 / 100
            node = node.filter("trim", start=seconds(bound_s))
        elif first:
            node = node.filter("trim", start_frame=first)
        node = exact_format(node, info, (info.width, info.height))
        # Which frames come is decided above; their times no longer matter to anyone.
        node = node.filter("setpts", f"N/({rate})/TB")
        options: dict[str, object] = {
            "fps_mode": "passthrough",
            "format": "rawvideo",
            "pix_fmt": raw_pix_fmt(info),
            **ff.few_waiting(),
        }
        if not resampled:  # the number of packets is no bound where every frame is passed on
            count = None if self._stop is None else max(0, self._stop - first)
        if count is not None:
            options["frames:v"] = count
        return ["-nostdin", *node.output("pipe:1", **options).get_args()]


def _stamp(info: VideoInfo) -> tuple[int, int, int] | None:
    """Return what tells a clip's file from what it was before; None if it is gone, or is many."""
    if info.sequence is not None:
        return None
    try:
        found = info.path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def outside_error(info: VideoInfo, process: ff.Process) -> DecodeError | None:
    """Return the error for a decoder that something from outside ended, or None if nothing did."""
    ended_by = process.ended_by()
    if ended_by is None:
        return None
    return DecodeError(
        ended_by,
        path=info.path,
        hint=ff.hint_for(ended_by),
        returncode=process.returncode,
        stderr_tail=tuple(process.tail),
    )


def damaged_error(
    info: VideoInfo, cause: str, tail: tuple[str, ...] = (), returncode: int | None = None
) -> DecodeError:
    """Return the error for a damaged clip, after counting what can be decoded of it."""
    if info.sequence is not None and info.missing_frames:
        return gap_error(info)
    total, lost = promised_frames(info), lost_frames(info)
    if lost >= total > 0:  # and --allow-damaged is no way out
        return DecodeError(
            f"cannot be decoded ({cause})",
            path=info.path,
            returncode=returncode,
            stderr_tail=tail,
        )
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


def promised_frames(info: VideoInfo) -> int:
    """Return how many frames the file says it has, before any resampling."""
    present = (info.frame_count or 0) - info.repeated_frames + info.dropped_frames
    return present + info.missing_frames


def lost_frames(info: VideoInfo) -> int:
    """Decode a clip to nowhere and return how many of its promised frames did not come."""
    return max(info.missing_frames, promised_frames(info) - count_decodable(info))


def complaints_at_start(info: VideoInfo) -> int:
    """Return of how many errors FFmpeg speaks before the first frame that it can decode.

    A recording of a broadcast begins anywhere, mostly between two key frames. What cannot be
    decoded there is no damage, and the clip is taken to begin after it.
    """
    # One thread, or complaints about later frames come between.
    node = opened_at(info, Fraction(0), threads=1).filter("showinfo", checksum=0)
    arguments = node.output("pipe:", format="null", **{"frames:v": 1}).get_args()
    ran = ff.run(["-nostdin", "-v", "level+info", *arguments])
    count = 0
    for line in ran.lines:
        if "showinfo" in line and " pts:" in line:
            break
        count += ff.is_complaint(line)
    return count


def count_decodable(info: VideoInfo) -> int:
    """Decode a clip to nowhere and return how many frames came.

    Raises:
        DecodeError: The decoder stalled.
    """
    count = 0
    with ExitStack() as cleanup:
        node = opened_at(cleanup.enter_context(without_gaps(info)), Fraction(0))
        output = node.output("pipe:", format="null", fps_mode="passthrough", progress="pipe:1")
        arguments = ["-nostdin", *output.get_args()]
        process = cleanup.enter_context(ff.Process(arguments, reads=True))
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
            raise DecodeError(error.message, path=info.path, hint=error.hint) from error
    return count


def read_frames(info: VideoInfo, *, batch_size: int = 1) -> FrameReader:
    """Return an iterable over all of a clip's frames.

    Args:
        info: What :func:`vidbg.media.probe.probe` returned.
        batch_size: Frames per batch, at least 1.
    """
    return FrameReader(info, batch_size=batch_size)
