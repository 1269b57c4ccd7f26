"""Results in segments: what is finished lies in a folder beside the output until all is there.

A clip is cut on a fixed grid, counted from the job's first frame. Each segment is a video file
of its own, made by an encoder of its own, so that it begins with a key frame and depends on no
other. A job that was ended anyhow goes on behind its last finished segment; at the end the
segments are joined without encoding them again, and sound and all else is put in.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from vidbg import machine
from vidbg.errors import EncodeError, FFmpegError, Interrupted, OutputError, VidbgError
from vidbg.frames import VideoInfo
from vidbg.lock import take_lock
from vidbg.media import audio, encode, formats, sinks
from vidbg.media import ffmpeg as ff

if TYPE_CHECKING:
    from vidbg.frames import Plane, Planes

logger = logging.getLogger(__name__)

# Ten seconds at 30 frames a second: what is redone at most. A key frame that often costs a few
# per cent of the size at worst, since encoders put one every 250 frames anyway.
SEGMENT_FRAMES = 300

_JOURNAL = "journal"
_LOCK = "lock"
_OURS = re.compile(r"\d{6}\.\d+\..*|journal(\.new)?|lock")
_SUFFIX = ".vidbg-resume"
_MAX_NAME_BYTES = 200
_JOINABLE = frozenset({"mp4", "mov", "matroska", "webm"})

# Bytes a second of sound, at the most, and what a container adds: for the space that a join takes.
_LOSSLESS = ("pcm_", "flac", "alac", "tta", "wavpack", "truehd", "mlp", "dts")
_LOSSLESS_BYTES_PER_SAMPLE = 4
_LOSSY_BYTES_PER_S = 80_000
_SPARE_BYTES = 1 << 20
_SPARE_SHARE = 0.01


def is_resumable(output: encode.Output) -> bool:
    """Say whether an output can be made in segments: video files at the clip's own rate can."""
    if output.is_sequence or output.frame_rate is not None:
        return False
    return encode.container_of(output.path, output.container).muxer in _JOINABLE


def work_folder(path: Path) -> Path:
    """Return the folder in which the segments of an output lie: hidden, and beside it.

    Args:
        path: The output's final name.
    """
    name = path.name
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:  # no longer a name with what is added to it
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        name = f"{path.stem[:40]}.{digest}{path.suffix}"
    return path.with_name(f".{name}{_SUFFIX}")


def is_work_folder(path: Path) -> bool:
    """Say whether a folder's name is one that :func:`work_folder` gives."""
    return path.name.startswith(".") and path.name.endswith(_SUFFIX)


def pieces(position: int, count: int, segment_frames: int) -> list[slice]:
    """Return the slices of a batch that lie in one segment each, in order, none empty.

    Args:
        position: Frames of the job before the batch.
        count: Frames in the batch.
        segment_frames: Frames in a segment.
    """
    first = position // segment_frames + 1
    borders = range(first * segment_frames - position, count, segment_frames)
    edges = [0, *borders, count] if count else []
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


@dataclass(frozen=True, slots=True)
class Terms:
    """What finished segments have to agree on with a job that wants to go on with them.

    Attributes:
        fingerprint: What the job makes.
        segment_frames: The grid.
        suffixes: What kind of file the segments of each output are.
        hardware: What hardware encodes each output, or "none". "auto" may find another later,
            or none at all.
        ffmpeg: Which encoder made them: segments of two may not fit together.
        processors: How many the first run had. What some encoders make depends on it; later
            runs go on with the same.
    """

    fingerprint: str
    segment_frames: int
    suffixes: tuple[str, ...]
    hardware: tuple[str, ...]
    ffmpeg: str
    processors: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished segment.

    Attributes:
        frames: Frames in it.
        sizes: Bytes of its files, one of each output.
        is_last: The clip ends with it.
    """

    frames: int
    sizes: tuple[int, ...]
    is_last: bool


@dataclass(frozen=True, slots=True)
class Journal:
    """What is known to be done.

    Attributes:
        terms: What the segments agree on.
        segments: The finished ones, in order.
        published: By number of the output, inode and size of each file that was about to get
            its final name.
        network: What ran the network, in the last run; "" where there was none to speak of.
    """

    terms: Terms
    segments: tuple[Finished, ...] = ()
    published: tuple[tuple[int, tuple[int, int]], ...] = ()
    network: str = ""

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the file."""
        yield _line(asdict(self.terms))
        if self.network:
            yield _line({"network": self.network})
        for number, segment in enumerate(self.segments):
            yield _line({"segment": number, **asdict(segment)})
        for number, identity in self.published:
            yield _line({"published": number, "identity": identity})


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def parse_journal(content: bytes) -> Journal | None:
    """Return what a journal says, as far as it is whole; None if not even its head is.

    What follows a line that is torn, damaged or out of its turn is not believed.

    Args:
        content: The file.
    """
    head, *rest = content.split(b"\n")[:-1] or [b""]
    try:
        given = json.loads(head)
        lists = {name: tuple(given[name]) for name in ("suffixes", "hardware")}
        terms = Terms(**{**given, **lists})
        if terms.segment_frames < 1 or terms.processors < 1 or not terms.suffixes:
            return None
    except (ValueError, TypeError, KeyError):
        return None
    network = ""
    segments: list[Finished] = []
    published: list[tuple[int, tuple[int, int]]] = []
    for line in rest:
        try:
            record = json.loads(line)
            if "published" in record:
                inode, size = record["identity"]
                published.append((int(record["published"]), (int(inode), int(size))))
                continue
            if "network" in record:
                network = str(record["network"])
                continue
            sizes = tuple(int(size) for size in record["sizes"])
            segment = Finished(int(record["frames"]), sizes, bool(record["is_last"]))
            if record["segment"] != len(segments) or not _follows(segment, segments, terms):
                break
        except (ValueError, TypeError, KeyError):
            break
        segments.append(segment)
    return Journal(terms, tuple(segments), tuple(published), network)


def _follows(segment: Finished, before: Sequence[Finished], terms: Terms) -> bool:
    """Say whether a segment can come after those before it."""
    if before and before[-1].is_last:
        return False
    if len(segment.sizes) != len(terms.suffixes):
        return False
    if segment.is_last:
        return 1 <= segment.frames <= terms.segment_frames
    return segment.frames == terms.segment_frames


def _read_journal(folder: Path) -> Journal | None:
    try:
        return parse_journal((folder / _JOURNAL).read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"cannot be read ({error.strerror})", path=folder / _JOURNAL) from error


def is_published(outputs: Sequence[encode.Output], number: int, fingerprint: str) -> bool:
    """Say whether an output is there already, and was made by this very job.

    So it is after a job was killed when it had named the file, but not cleaned up.

    Args:
        outputs: All outputs of the job.
        number: Which of them.
        fingerprint: What the job makes.

    Raises:
        OutputError: The journal cannot be read.
    """
    journal = _read_journal(work_folder(outputs[0].path))
    if journal is None or journal.terms.fingerprint != fingerprint:
        return False
    return _is_at(outputs[number].path, dict(journal.published).get(number))


def _is_at(path: Path, identity: tuple[int, int] | None) -> bool:
    return identity is not None and path.exists() and _identity(path) == identity


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_size


class Work:
    """The folder of a job's segments, locked while the job runs.

    A context manager. A clean exit removes the folder, for then the outputs are there. After
    anything else it stays, with what is finished, and the error says so.

    Args:
        outputs: What the job writes; the folder lies beside the first.
        fingerprint: What the job makes. Segments of another are not used.

    Raises:
        OutputError: Another process works on it, or the folder cannot be made or read.
    """

    def __init__(self, outputs: Sequence[encode.Output], fingerprint: str) -> None:
        self.outputs = tuple(outputs)
        self.folder = work_folder(outputs[0].path)
        self._lock = _locked(self.folder, outputs[0].path)
        try:
            self.journal = self._taken_up(fingerprint)
        except BaseException:
            if (self.folder / _JOURNAL).exists():
                os.close(self._lock)
            else:  # a new folder, which could not be filled
                self._remove()
            raise

    @property
    def frames(self) -> int:
        """How many frames are in finished segments."""
        return sum(segment.frames for segment in self.journal.segments)

    @property
    def is_complete(self) -> bool:
        """Every segment is finished."""
        segments = self.journal.segments
        return bool(segments) and segments[-1].is_last

    def path(self, segment: int, output: int) -> Path:
        """Return the name of a segment's file.

        Args:
            segment: Number of the segment.
            output: Number of the output.
        """
        return self.folder / f"{segment:06}.{output}{self.journal.terms.suffixes[output]}"

    def part(self, output: int) -> Path:
        """Return the name that an output has while it is joined, on its own file system."""
        folder = work_folder(self.outputs[output].path)
        return folder.with_name(f"{folder.name}.part")

    def threads(self, output: int) -> int:
        """Return how many threads an output's encoder has, in every segment the same."""
        encoder = formats.CODECS[self.outputs[output].codec].encoder
        return encode.encoder_threads(encoder, self.journal.terms.processors)

    def made_by(self, network: str) -> None:
        """Note what runs the network from here on, and say so where it was another before.

        Args:
            network: Such as "OpenVINO in int8": what "auto" found here and now.

        Raises:
            OutputError: The journal cannot be written.
        """
        before = self.journal.network
        if network in ("", before):
            return
        if before and self.journal.segments:
            logger.warning(
                "%s: of the finished frames the network ran in %s, now it runs in %s: "
                "mattes may change a little where these meet",
                self.outputs[0].path,
                before,
                network,
            )
        self._append({"network": network})
        self.journal = replace(self.journal, network=network)

    def add(self, *, is_last: bool, frames: int) -> None:
        """Note that the next segment's files are there.

        Args:
            is_last: The clip ends with it.
            frames: Frames in it.

        Raises:
            OutputError: The journal cannot be written.
        """
        number = len(self.journal.segments)
        sizes = tuple(self.path(number, n).stat().st_size for n in range(len(self.outputs)))
        segment = Finished(frames, sizes, is_last)
        self._append({"segment": number, **asdict(segment)})
        self.journal = replace(self.journal, segments=(*self.journal.segments, segment))

    def is_published(self, output: int) -> bool:
        """Say whether an output has its final name already."""
        identity = dict(self.journal.published).get(output)
        return _is_at(self.outputs[output].path, identity)

    def publishing(self, output: int) -> None:
        """Note that an output, which is finished, is about to get its final name.

        Raises:
            OutputError: The journal cannot be written.
        """
        entry = (output, _identity(self.part(output)))
        self._append({"published": output, "identity": entry[1]})
        self.journal = replace(self.journal, published=(*self.journal.published, entry))

    def remove_segments(self, output: int) -> None:
        """Remove an output's segments, which are joined."""
        for number in range(len(self.journal.segments)):
            self.path(number, output).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        kept = self.frames if (self.folder / _JOURNAL).exists() else 0
        if exc is None or not kept:
            self._remove()
            return
        os.close(self._lock)
        frames = "1 frame is" if kept == 1 else f"{kept} frames are"
        how = f"{frames} kept: run it again with --resume to go on from there"
        if isinstance(exc, VidbgError):
            exc.hint = f"{exc.hint}. {how}" if exc.hint else how
        elif isinstance(exc, KeyboardInterrupt):
            raise Interrupted(f"interrupted, {how}") from exc
        else:
            logger.warning("%s: %s", self.outputs[0].path, how)

    def _taken_up(self, fingerprint: str) -> Journal:
        """Return what is done, of what the folder says and still has, and clear away the rest."""
        terms = Terms(
            fingerprint,
            SEGMENT_FRAMES,
            tuple(_segment_suffix(output) for output in self.outputs),
            tuple(output.hwaccel for output in self.outputs),
            _ffmpeg_version(),
            machine.cores(),
        )
        path = self.outputs[0].path
        found = _read_journal(self.folder)
        journal = Journal(terms)
        if found is None:
            if (self.folder / _JOURNAL).exists():
                logger.warning("%s: what was kept of it is damaged: it starts over", path)
        elif replace(found.terms, processors=terms.processors) != terms:
            logger.warning("%s: what was kept of it is of another job: it starts over", path)
        else:
            self.journal = found
            whole = list(itertools.takewhile(self._is_whole, range(len(found.segments))))
            journal = replace(found, segments=found.segments[: len(whole)])
            if len(whole) < len(found.segments):
                logger.warning(
                    "%s: segment %d of it is damaged and made again", path, len(whole) + 1
                )
        self.journal = journal
        try:
            self._clear(keep=len(journal.segments))
            new = self.folder / f"{_JOURNAL}.new"
            new.write_bytes(b"".join(journal.lines()))
            sinks.sync(new)
            new.replace(self.folder / _JOURNAL)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        _sync_folder(self.folder)
        if journal.segments:
            frames = sum(segment.frames for segment in journal.segments)
            logger.info("%s: goes on after %d finished frames", path, frames)
        return journal

    def _is_whole(self, number: int) -> bool:
        """Say whether a segment's files are all there, and as long as they were."""
        for output, size in enumerate(self.journal.segments[number].sizes):
            path = self.path(number, output)
            if self.is_published(output):
                continue
            if not path.is_file() or path.stat().st_size != size:
                return False
        return True

    def _clear(self, keep: int) -> None:
        """Remove files of segments that are not finished."""
        outputs = range(len(self.outputs))
        kept = {self.path(number, output).name for number in range(keep) for output in outputs}
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in (*kept, _LOCK, _JOURNAL):
                path.unlink(missing_ok=True)
        for output in outputs:
            self.part(output).unlink(missing_ok=True)

    def _append(self, record: dict[str, Any]) -> None:
        """Write a line behind the journal's others, on the disk for good when this returns.

        The files that it speaks of were brought there before; that they are found under their
        names is seen to here.
        """
        _sync_folder(self.folder)
        try:
            with (self.folder / _JOURNAL).open("ab") as file:
                file.write(_line(record))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def _remove(self) -> None:
        """Remove all that is ours in the folder, and the folder if that was all."""
        # The journal goes last: ended before that, the next run sees that all is done, and goes
        # on clearing away.
        last = (_LOCK, _JOURNAL)
        if sys.platform == "win32":  # where an open file cannot be removed
            os.close(self._lock)
        with suppress(OSError):
            for path in list(self.folder.iterdir()):
                if _OURS.fullmatch(path.name) and path.name not in last:
                    path.unlink(missing_ok=True)
            for name in last:
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()
        if sys.platform != "win32":
            os.close(self._lock)


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot be written ({error.strerror})", path=path)


def _locked(folder: Path, path: Path) -> int:
    """Make the folder, if need be, and return its lock, an open file, held until it is closed.

    The system lets go of the lock when the process ends, however it does.

    Args:
        folder: The folder.
        path: The output that it belongs to.
    """
    while True:
        try:
            folder.mkdir(exist_ok=True)
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if not folder.parent.is_dir():
                raise OutputError("its folder does not exist", path=path) from None
            continue  # removed by the job that it belonged to, since we made it
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            take_lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise OutputError(
                "another vidbg is working on it", path=path, hint="Wait for it or stop it"
            ) from error
        with suppress(FileNotFoundError):
            if os.path.samestat((folder / _LOCK).stat(), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)  # of a folder that its job has removed meanwhile


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system has a way to do that."""
    if sys.platform == "win32":
        return
    with suppress(OSError):  # some file systems have none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _ffmpeg_version() -> str:
    """Return what FFmpeg says that it is.

    Raises:
        FFmpegError: It does not: no reason to take what another made for another job's.
    """
    ran = ff.run(["-version"])
    if ran.returncode:
        raise FFmpegError(f"FFmpeg does not run ({ran.cause()})")
    return ran.stdout.decode("utf-8", "replace").partition("\n")[0]


def _segment_suffix(output: encode.Output) -> str:
    """Return which format the segments of an output have: MP4 or MOV, whose stamps are exact.

    FFV1, and VP9 with alpha, have no place there and go into Matroska, which has milliseconds.
    Neither reorders frames, and the join puts their stamps right.
    """
    codec = output.codec
    if output.kind != "alpha" and codec in formats.CONTAINERS[".mp4"].codecs:
        return ".mp4"
    mov = formats.CONTAINERS[".mov"]
    if codec in (mov.alpha_codecs if output.kind == "alpha" else mov.codecs):
        return ".mov"
    return ".mkv"


class SegmentedSinks:
    """Takes finished frames for one or more outputs, and writes these in segments.

    A context manager, as :class:`vidbg.media.sinks.Sink` is. A clean exit joins the segments
    and gives the outputs their names, one after the other; after an exception what is finished
    stays in the work folder.

    Args:
        work: Where the segments go, and what is there already.
        info: The clip that the frames, the sound and the tags come from.
        window: The part of the clip that is used, all of it, whatever is done already.
        background: The background's sound, if it has any.
    """

    def __init__(
        self,
        work: Work,
        info: VideoInfo,
        window: audio.Window,
        background: audio.BackgroundSound | None = None,
    ) -> None:
        self._work = work
        self._info = info
        self._window = window
        self._background = background
        self._sinks: list[sinks.Sink] = []
        self._open = ExitStack()

    @property
    def frames_written(self) -> int:
        """Frames of the job that are written, by this and earlier runs."""
        return self._work.frames + self._in_segment

    @property
    def _in_segment(self) -> int:
        return min((sink.frames_written for sink in self._sinks), default=0)

    def write(self, shown: Sequence[tuple[Planes | None, Plane | None]]) -> None:
        """Write a batch of frames, those that follow the ones written.

        Args:
            shown: Of each output, planes and alpha, as :meth:`vidbg.media.sinks.Sink.write`
                takes them.

        Raises:
            EncodeError: An FFmpeg ended early: a full disk, a codec's refusal.
            OutputError: A segment or the journal cannot be written.
        """
        segment_frames = self._work.journal.terms.segment_frames
        for piece in pieces(self.frames_written, _count(shown), segment_frames):
            # A segment that is full is closed when the frame after it is there, not before: so
            # the one that the clip ends with is known when it is noted.
            if self._in_segment == segment_frames:
                self._close(is_last=False)
            if not self._sinks:
                self._begin()
            with self._errors_named():
                for sink, (planes, alpha) in zip(self._sinks, shown, strict=True):
                    sink.write(_cut(planes, piece), None if alpha is None else alpha[piece])

    def _begin(self) -> None:
        """Start the encoders of the next segment."""
        work = self._work
        number = len(work.journal.segments)
        with self._errors_named():
            for n, output in enumerate(work.outputs):
                path = work.path(number, n)
                named = replace(output, path=path, container=None, overwrite=True)
                sink = sinks.Sink(named, self._info, None, threads=work.threads(n))
                self._sinks.append(self._open.enter_context(sink))

    def _close(self, *, is_last: bool) -> None:
        """Finish the segment and note it."""
        frames = self._in_segment
        with self._errors_named():
            self._open.close()
            self._work.add(is_last=is_last, frames=frames)
        self._sinks = []

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Let errors speak of the output where they are of one of its segments."""
        try:
            yield
        except (EncodeError, OutputError) as error:
            if error.path is not None and Path(error.path).parent == self._work.folder:
                _, _, rest = Path(error.path).name.partition(".")
                number = rest.partition(".")[0]
                error.path = self._work.outputs[int(number) if number.isdigit() else 0].path
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None:
            self._open.__exit__(exc_type, exc, traceback)
            return
        with self._open:
            if self._sinks:
                self._close(is_last=True)
        if not self._work.is_complete:
            raise EncodeError("no frame was written", path=self._work.outputs[0].path)
        for number in range(len(self._work.outputs)):
            if not self._work.is_published(number):
                self._join(number)
            self._work.remove_segments(number)

    def _join(self, number: int) -> None:
        """Make an output of its segments, and name it."""
        work, output = self._work, self._work.outputs[number]
        segments = [
            (work.path(n, number), segment.frames)
            for n, segment in enumerate(work.journal.segments)
        ]
        need = sum(segment.sizes[number] for segment in work.journal.segments)
        need += _sound_bytes(self._info, self._background, output, self._window)
        _check_space(output.path, round(need * (1 + _SPARE_SHARE)) + _SPARE_BYTES)
        part = work.part(number)
        join = sinks.Join(output, self._info, self._window, self._background, segments, part)
        try:
            join.finish()
            work.publishing(number)
            join.publish()
            _sync_folder(output.path.parent)  # perhaps on another disk than the segments
        finally:
            join.discard()


def _count(shown: Sequence[tuple[Planes | None, Plane | None]]) -> int:
    planes, alpha = shown[0]
    return len(cast("Plane", alpha if planes is None else planes[0]))


def _cut(planes: Planes | None, piece: slice) -> Planes | None:
    if planes is None:
        return None
    first, second, third = planes
    return first[piece], second[piece], third[piece]


def _sound_bytes(
    info: VideoInfo,
    background: audio.BackgroundSound | None,
    output: encode.Output,
    window: audio.Window,
) -> int:
    """Return how much room an output's sound takes at the most, about."""
    tracks = list(info.audio) if output.sound in ("source", "mix") else []
    if background is not None and output.sound in ("bg", "mix"):
        tracks.append(background.info.audio[0])
    per_second = 0
    for track in tracks:
        is_lossless = track.codec.startswith(_LOSSLESS)
        samples = track.sample_rate * track.channels * _LOSSLESS_BYTES_PER_SAMPLE
        per_second += samples if is_lossless else _LOSSY_BYTES_PER_S
    return ceil(per_second * window.duration_s)


def _check_space(path: Path, need: int) -> None:
    free = shutil.disk_usage(path.absolute().parent).free
    if free < need:
        raise OutputError(
            f"joining its segments takes {need / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free",
            path=path,
            hint="Free some space",
        )
