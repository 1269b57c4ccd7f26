"""Is a result what it has to be? Looked at with PyAV, which has FFmpeg libraries of its own."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from soak_kinds import Kind, Wanted, number_in

from vidbg.ledger import NAME as LEDGER
from vidbg.media.segments import is_work_folder

# A frame of sound at each end, which encoders fill up or leave out.
_SOUND_SLACK_S = 0.1
_DIGEST_BYTES = 8


@dataclass(frozen=True)
class Facts:
    """What is in a result.

    Attributes:
        frames: A digest of each decoded frame, with the time that it is shown at.
        rate: Frames a second, or None for pictures.
        size: Width and height.
        sound: Digest of the first sound track's packets with their times; "" for none.
        sound_s: From its beginning to its end, in seconds; None for none.
        numbers: What each frame spells.
        beside: Digest of what lies beside the packets: the alpha of VP9, which is not decoded.
    """

    frames: tuple[str, ...]
    rate: Fraction | None
    size: tuple[int, int]
    sound: str
    sound_s: Fraction | None
    numbers: tuple[int, ...]
    beside: str = ""


def _digest(*parts: bytes) -> str:
    found = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _rows(plane: av.video.plane.VideoPlane, row_bytes: int) -> NDArray[np.uint8]:
    """Return a plane without what stands behind its rows, which nobody has cleared."""
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, :row_bytes]


def _planes(frame: av.VideoFrame) -> Iterator[NDArray[np.uint8]]:
    parts = frame.format.components
    for number, plane in enumerate(frame.planes):
        # Packed formats have several components in a plane. A palette stands in one of its own.
        each = sum(-(-part.bits // 8) for part in parts if part.plane == number)
        if each:
            yield _rows(plane, plane.width * each)
        else:
            yield np.frombuffer(plane, np.uint8)[None]


def _readable(frame: av.VideoFrame, *, is_clear: bool) -> NDArray[np.float32]:
    """Return a frame's alpha or its brightness, in 0..1."""
    if is_clear:
        return np.asarray(frame.to_ndarray(format="rgba")[..., 3], np.float32) / 255
    return np.asarray(frame.to_ndarray(format="gray"), np.float32) / 255


def facts_of(path: Path, wanted: Wanted) -> Facts:
    """Return what is in a result.

    Raises:
        OSError: It cannot be read.
        av.FFmpegError: It cannot be decoded.
    """
    if path.is_dir():
        parts = [facts_of(part, wanted) for part in sorted(path.iterdir())]
        names = [path.name for path in sorted(path.iterdir())]
        return Facts(
            tuple(name + "".join(part.frames) for name, part in zip(names, parts, strict=True)),
            None,
            parts[0].size if parts else (0, 0),
            "",
            None,
            tuple(number for part in parts for number in part.numbers),
        )
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            inside = [name + _digest(archive.read(name)) for name in archive.namelist()]
        return Facts(tuple(inside), None, (0, 0), "", None, ())
    frames: list[str] = []
    numbers: list[int] = []
    with av.open(f"file:{path}") as container:
        video = container.streams.video[0]
        is_clip = wanted.rate is not None
        for frame in container.decode(video):
            time = f"{frame.pts} {frame.time_base}".encode() if is_clip else b""
            frames.append(_digest(time, *(rows.tobytes() for rows in _planes(frame))))
            if wanted.first is not None:
                numbers.append(number_in(_readable(frame, is_clear=wanted.is_clear), wanted.turned))
        rate = Fraction(video.average_rate) if is_clip and video.average_rate else None
        size = video.width, video.height
    sound, sound_s = _sound(path)
    return Facts(tuple(frames), rate, size, sound, sound_s, tuple(numbers), _beside(path))


def _beside(path: Path) -> str:
    with av.open(f"file:{path}") as container:
        return _digest(
            *(bytes(part) for packet in container.demux(video=0) for part in packet.iter_sidedata())
        )


def _sound(path: Path) -> tuple[str, Fraction | None]:
    with av.open(f"file:{path}") as container:
        if not container.streams.audio:
            return "", None
        found = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        starts, ends = [], []
        for packet in container.demux(audio=0):
            if packet.pts is None or not packet.size:
                continue
            found.update(f"{packet.pts} {packet.duration} ".encode() + bytes(packet))
            starts.append(packet.pts * packet.time_base)
            ends.append((packet.pts + packet.duration) * packet.time_base)
    return found.hexdigest(), max(ends) - min(starts) if ends else Fraction(0)


def unlike_expected(wanted: Wanted, facts: Facts) -> list[str]:
    """Return what is wrong with a result by what was known of it before it was made.

    Args:
        wanted: What was known.
        facts: What is in the result.
    """
    found = []
    if len(facts.frames) != wanted.frames:
        found.append(f"{len(facts.frames)} frames, not {wanted.frames}")
    if wanted.rate is not None and facts.rate != wanted.rate:
        found.append(f"{facts.rate} frames a second, not {wanted.rate}")
    if (facts.sound_s is None) != (wanted.sound_s is None):
        found.append("no sound" if facts.sound_s is None else "sound that nobody asked for")
    elif abs((facts.sound_s or 0) - (wanted.sound_s or 0)) > _SOUND_SLACK_S:
        lengths = float(facts.sound_s or 0), float(wanted.sound_s or 0)
        found.append("{:.3f} s of sound, not {:.3f}".format(*lengths))
    if wanted.first is not None:
        found += _misplaced(wanted, list(facts.numbers))
    return found


def _misplaced(wanted: Wanted, numbers: list[int]) -> list[str]:
    """Return which frame of a result is not the clip's, by the numbers that they spell."""
    first = wanted.first or 0
    if wanted.source_frames is not None:
        every = range(first, first + wanted.source_frames)
        is_right = numbers == sorted(numbers) and set(numbers) == set(every)
    else:
        expected = list(range(first, first + wanted.frames))
        is_right = numbers == expected
        for place, (found, right) in enumerate(zip(numbers, expected, strict=False)):
            if found != right:
                return [f"frame {place} is the clip's {found}, not {right}"]
    return [] if is_right else ["its frames are not the clip's in their order"]


def differences(reference: Facts, facts: Facts) -> list[str]:
    """Return in what a result differs from the one that was left alone."""
    found = []
    if len(facts.frames) != len(reference.frames):
        found.append(f"{len(facts.frames)} frames, {len(reference.frames)} if left alone")
    for number, (one, other) in enumerate(zip(facts.frames, reference.frames, strict=False)):
        if one != other:
            unlike = sum(a != b for a, b in zip(facts.frames, reference.frames, strict=False))
            found.append(f"frame {number} is another, the first of {unlike}")
            break
    for name in ("sound", "beside"):
        if getattr(facts, name) != getattr(reference, name):
            what = "the sound" if name == "sound" else "what lies beside the frames"
            found.append(f"{what} is another")
    for name in ("rate", "size"):
        if getattr(facts, name) != getattr(reference, name):
            found.append(f"{name} {getattr(facts, name)}, {getattr(reference, name)} if left alone")
    return found


def strangers(kind: Kind, folder: Path, *, is_over: bool) -> list[str]:
    """Return what lies in a folder of results and has no business there.

    Args:
        kind: The job that made them.
        folder: The folder.
        is_over: The job is done, and only its results stay; else also what it goes on from.
    """
    named = {result.name for result in kind.results}
    if kind.is_folder:
        named.add(LEDGER)
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in named and (is_over or not is_work_folder(path))
    )


def parts_in(folder: Path) -> list[str]:
    """Return files below a folder, work folders included, that are under a part's name."""
    found = [*folder.rglob("*.part.*"), *folder.rglob("*.part"), *folder.rglob("journal.new")]
    return sorted(str(path.relative_to(folder)) for path in found)


def fingerprints(folder: Path) -> dict[str, str]:
    """Return a digest of every file below a folder, by its name there."""
    return {
        str(path.relative_to(folder)): _digest(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
