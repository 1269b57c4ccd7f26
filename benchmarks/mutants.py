"""What vidbg makes of broken files: real ones, changed where it hurts, by the hundred.

    python benchmarks/mutants.py [--count 500] [--seed 0] [--through-command] [--only NUMBER]
                                 [--keep FOLDER]

Small clips and pictures of seven kinds (mp4, mov, mkv, webm, gif, png, jpg) are made with FFmpeg,
taken apart into their boxes, elements, chunks and segments, and changed there: sizes, fields of
headers, tables, time stamps; parts are removed, repeated, moved, emptied; files are cut and
spliced. Where a format has a checksum it is put right again, so that the change gets past it. A
number and a seed make the same mutant on every machine that makes the same originals.

Each is given to vidbg within limits of time and memory, and has to end in one of two ways:

* exit status 0, and the result can be played and has every frame that FFmpeg decodes of the mutant;
* exit status 1 or 2, and one line on standard error that names the file.

A frame that says it is shown for minutes is rightly made into thousands: what is well under way on
such a clip when its time is up counts as "long", and is no failure.

By default in processes that are forked from one that has vidbg loaded already; with
--through-command through the command line of a fresh interpreter, as users do. A table says at the
end what came out, and the numbers of those that failed: --seed and --only repeat one, --keep keeps
the files of those that fail.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import psutil

KINDS = ("mp4", "mov", "mkv", "webm", "gif", "png", "jpg")
PICTURES = frozenset({"png", "jpg"})

TIME_LIMIT_S = 60.0
"""How long one may take: a hundred times what a healthy one takes."""

PEAK_LIMIT_BYTES = 600 << 20
"""What one process of vidbg's may hold in memory at most."""

MAX_PIXELS = 2_000_000
"""What mutants may claim to measure and still be worked on; the originals are 64x48."""

# Address space: allocations that nobody would notice, since no page of them is touched, fail.
_ADDRESS_SPACE_BYTES = 6 << 30
_POLL_S = 0.02
# Frames that no mutant has but by its time stamps.
_MANY = 1000
_SIZE = "64x48"
_FRAMES = 12
_OPTIONS = ("--model", "chroma", "--key", "#00ff00", "--bg", "#123456")

# --- originals ---------------------------------------------------------------------------------

_PICTURE = f"testsrc2=size={_SIZE}:rate=25:duration={_FRAMES / 25}"
_SOUND = f"sine=frequency=440:sample_rate=48000:duration={_FRAMES / 25}"
_H264 = (
    "-c:v",
    "libx264",
    "-preset",
    "veryfast",
    "-pix_fmt",
    "yuv420p",
    "-g",
    "6",
    "-threads",
    "1",
)
_CODECS: dict[str, tuple[str, ...]] = {
    "mp4": (*_H264, "-c:a", "aac"),
    "mov": (*_H264, "-c:a", "pcm_s16le"),
    "mkv": ("-c:v", "ffv1", "-pix_fmt", "yuv420p", "-c:a", "pcm_s16le"),
    "webm": (
        *("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "200k"),
        *("-pix_fmt", "yuv420p", "-threads", "1", "-c:a", "libopus"),
    ),
    "gif": (),
    "png": ("-frames:v", "1", "-update", "1"),
    "jpg": ("-frames:v", "1", "-update", "1"),
}


def ffmpeg() -> str:
    """Return the FFmpeg that vidbg uses."""
    from vidbg.media.ffmpeg import executable

    return executable()


@functools.cache
def originals() -> dict[str, bytes]:
    """Return a healthy file of each kind."""
    made = {}
    with tempfile.TemporaryDirectory(prefix="vidbg-originals-") as folder:
        for kind in KINDS:
            path = Path(folder, f"original.{kind}")
            has_sound = kind not in {"gif", *PICTURES}
            sound = ("-f", "lavfi", "-i", _SOUND) if has_sound else ()
            command = [ffmpeg(), "-nostdin", "-v", "error", "-f", "lavfi", "-i", _PICTURE, *sound]
            command += [*_CODECS[kind], "-bitexact", f"file:{path}"]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=120)
            made[kind] = path.read_bytes()
    return made


# --- parts of files ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A piece of a file that has a meaning of its own.

    Attributes:
        name: What its format calls it.
        start: Where its header begins.
        body: Where what it holds begins.
        stop: Where it ends.
        size_at: Where its size is written, or -1.
        size_bytes: How many bytes that has.
    """

    name: str
    start: int
    body: int
    stop: int
    size_at: int = -1
    size_bytes: int = 0


_BOXES_OF_BOXES = frozenset(
    {"moov", "trak", "edts", "mdia", "minf", "stbl", "dinf", "udta", "mvex", "moof", "traf"}
)


def boxes(content: bytes, start: int = 0, stop: int | None = None) -> Iterator[Part]:
    """Yield the boxes of an MP4 or MOV file (ISO/IEC 14496-12), outer ones first."""
    stop = len(content) if stop is None else stop
    while start + 8 <= stop:
        size, name = struct.unpack(">I4s", content[start : start + 8])
        if size < 8 or start + size > stop:
            return
        part = Part(name.decode("latin-1"), start, start + 8, start + size, start, 4)
        yield part
        if part.name in _BOXES_OF_BOXES:
            yield from boxes(content, part.body, part.stop)
        elif part.name in ("stsd", "dref"):
            yield from boxes(content, part.body + 8, part.stop)
        start = part.stop


_MASTER_ELEMENTS = frozenset(
    {
        *(0x18538067, 0x1549A966, 0x1654AE6B, 0xAE, 0xE0, 0xE1, 0x1F43B675, 0xA0),
        *(0x1C53BB6B, 0xBB, 0xB7, 0x114D9B74, 0x4DBB, 0x1A45DFA3, 0x1254C367),
    }
)


def elements(content: bytes, start: int = 0, stop: int | None = None) -> Iterator[Part]:
    """Yield the elements of a Matroska or WebM file (RFC 8794, RFC 9559), outer ones first."""
    stop = len(content) if stop is None else stop
    while start + 2 <= stop:
        id_bytes = 9 - content[start].bit_length()
        size_at = start + id_bytes
        if id_bytes > 4 or size_at >= stop or not content[size_at]:
            return
        size_bytes = 9 - content[size_at].bit_length()
        body = size_at + size_bytes
        stated = int.from_bytes(content[size_at:body], "big") & ((1 << 7 * size_bytes) - 1)
        ends = stop if stated == (1 << 7 * size_bytes) - 1 else body + stated
        if ends > stop:
            return
        number = int.from_bytes(content[start:size_at], "big")
        yield Part(f"{number:X}", start, body, ends, size_at, size_bytes)
        if number in _MASTER_ELEMENTS:
            yield from elements(content, body, ends)
        start = ends


def chunks(content: bytes) -> Iterator[Part]:
    """Yield the chunks of a PNG file, checksums included."""
    start = 8
    while start + 12 <= len(content):
        length, name = struct.unpack(">I4s", content[start : start + 8])
        stop = start + 12 + length
        if stop > len(content):
            return
        yield Part(name.decode("latin-1"), start, start + 8, stop, start, 4)
        start = stop


def segments(content: bytes) -> Iterator[Part]:
    """Yield the marker segments of a JPEG file; the last one is all from its scan header on."""
    start = 2
    while start + 4 <= len(content) and content[start] == 0xFF:
        marker = content[start + 1]
        (length,) = struct.unpack(">H", content[start + 2 : start + 4])
        stop = len(content) if marker == 0xDA else start + 2 + length
        yield Part(f"{marker:02X}", start, start + 4, stop, start + 2, 2)
        if marker == 0xDA:
            return
        start = stop


def blocks(content: bytes) -> Iterator[Part]:
    """Yield the blocks of a GIF file (GIF89a, appendix B)."""
    flags = content[10]
    start = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    yield Part("screen", 0, 6, start)
    while start < len(content):
        kind = content[start]
        if kind == 0x21:
            name, body = f"21{content[start + 1]:02X}", start + 2
        elif kind == 0x2C:
            name, body = "2C", start + 10
            local = content[start + 9]
            body += 1 + (3 << (local & 7) + 1 if local & 0x80 else 0)
        else:
            yield Part("3B", start, start + 1, len(content))
            return
        stop = body
        while stop < len(content) and content[stop]:
            stop += 1 + content[stop]
        yield Part(name, start, body, min(stop + 1, len(content)), body, 1)
        start = stop + 1


_PARTS: dict[str, Callable[[bytes], Iterator[Part]]] = {
    "mp4": boxes,
    "mov": boxes,
    "mkv": elements,
    "webm": elements,
    "gif": blocks,
    "png": chunks,
    "jpg": segments,
}

# --- changes -----------------------------------------------------------------------------------

_ODD = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0xFFFFFF, 0x7FFFFFFF)
_ODDER = (*_ODD, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 33, 1 << 62, (1 << 63) - 1, 1 << 63)


def _odd_number(chance: random.Random, size: int, now: int = 0) -> bytes:
    """Return a number of so many bytes that nobody expects, big end first."""
    near = [now + 1, now - 1, now * 2, now // 2, -now, chance.getrandbits(8 * size)]
    return (chance.choice([*_ODDER, (1 << 64) - 1, *near]) % (1 << 8 * size)).to_bytes(size, "big")


def _put(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def _change_number(content: bytes, at: int, size: int, chance: random.Random) -> bytes:
    now = int.from_bytes(content[at : at + size], "big")
    return _put(content, at, _odd_number(chance, size, now))


# Fields of boxes: offsets after the eight bytes of the header, and bytes.
_BOX_FIELDS: dict[str, tuple[tuple[int, int], ...]] = {
    "mvhd": ((12, 4), (16, 4), (20, 4)),  # time scale, duration, rate
    "tkhd": ((3, 1), (12, 4), (20, 4), (40, 4), (44, 4), (76, 4), (80, 4)),  # ..., matrix, size
    "mdhd": ((12, 4), (16, 4)),
    "hdlr": ((8, 4),),
    "elst": ((4, 4), (8, 4), (12, 4), (16, 4)),
    "stts": ((4, 4), (8, 4), (12, 4)),
    "ctts": ((4, 4), (8, 4), (12, 4), (20, 4), (28, 4)),
    "stsz": ((4, 4), (8, 4), (12, 4), (16, 4), (20, 4)),
    "stco": ((4, 4), (8, 4), (12, 4)),
    "stsc": ((4, 4), (8, 4), (12, 4), (16, 4)),
    "stss": ((4, 4), (8, 4), (12, 4)),
    "stsd": ((4, 4), (8, 4), (12, 4)),
    "avc1": ((6, 2), (24, 2), (26, 2), (40, 2), (74, 2)),
    "avcC": ((1, 1), (3, 1), (4, 1), (5, 1), (6, 2), (9, 1), (11, 2), (13, 4)),
    "mp4a": ((16, 2), (18, 2), (24, 4)),
    "sowt": ((16, 2), (18, 2), (24, 4)),
    "pasp": ((0, 4), (4, 4)),
    "dref": ((4, 4), (8, 4), (12, 4)),
}
# Elements with a number in them that decides something.
_ELEMENT_FIELDS = frozenset(
    {
        *("B0", "BA", "54B0", "54BA", "54B2", "23E383", "2AD7B1", "4489", "E7", "9B", "D7", "83"),
        *("9F", "B5", "6264", "56AA", "56BB", "53B8", "53C0", "9A", "55B0", "A3", "63A2", "86"),
        *("B3", "F7", "F1", "53AC", "42F7", "4282", "88", "B9", "9C"),
    }
)


def _change_field(kind: str, content: bytes, chance: random.Random) -> bytes:
    """Change what a header says."""
    parts = list(_PARTS[kind](content))
    if kind in ("mp4", "mov"):
        part = chance.choice([p for p in parts if p.name in _BOX_FIELDS])
        fields = [f for f in _BOX_FIELDS[part.name] if part.body + sum(f) <= part.stop]
        offset, size = chance.choice(fields)
        return _change_number(content, part.body + offset, size, chance)
    if kind in ("mkv", "webm"):
        part = chance.choice([p for p in parts if p.name in _ELEMENT_FIELDS and p.stop > p.body])
        if part.name == "A3":  # SimpleBlock: track, time stamp, flags
            return _change_number(content, part.body + chance.choice([0, 1, 1, 1, 3]), 2, chance)
        size = min(8, part.stop - part.body)
        if part.name in ("4489", "B5") and chance.random() < 0.5:  # floating point
            value = chance.choice([float("nan"), float("inf"), -1.0, 0.0, 1e300, 1e-300])
            packed = struct.pack(">d", value) if size == 8 else struct.pack(">f", min(value, 1e38))
            return _put(content, part.body, packed)
        return _change_number(content, part.body, size, chance)
    if kind == "gif":
        part = chance.choice([p for p in parts if p.name in ("screen", "2C", "21F9")])
        at = {"screen": (6, 8, 10, 11), "2C": (1, 3, 5, 7, 9, 10), "21F9": (3, 4, 6)}[part.name]
        # Not the upper byte of a delay: minutes of one frame are rightly made, which takes long.
        size = 1 if part.name == "21F9" else chance.choice([1, 2])
        odd = int.from_bytes(_odd_number(chance, size), "big").to_bytes(size, "little")
        return _put(content, part.start + chance.choice(at), odd)
    if kind == "png":
        part = chance.choice([p for p in parts if p.name != "IDAT" and p.stop - p.body > 4])
        if part.name == "IHDR":
            offset, size = chance.choice(
                [(0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1)]
            )
        else:
            offset, size = chance.randrange(part.stop - part.body - 4), 1
        return checked(_change_number(content, part.body + offset, size, chance), part)
    part = chance.choice(
        [p for p in parts if p.name[0] == "C" or p.name in ("DA", "DB", "DD", "E0")]
    )
    offset = (
        chance.choice([1, 3, 1, 3, 0, 5, 6, 7, 8]) if part.name[0] == "C" else chance.randrange(8)
    )
    return _change_number(content, part.body + offset, chance.choice([1, 2]), chance)


def checked(content: bytes, chunk: Part) -> bytes:
    """Return a PNG file with the checksum of one of its chunks put right."""
    crc = zlib.crc32(content[chunk.start + 4 : chunk.stop - 4])
    return _put(content, chunk.stop - 4, struct.pack(">I", crc))


def _change_size(kind: str, content: bytes, chance: random.Random) -> bytes:
    """Change how long a part says that it is."""
    part = chance.choice([part for part in _PARTS[kind](content) if part.size_at >= 0])
    if kind in ("mkv", "webm"):
        size = part.size_bytes
        top = 1 << 7 * size
        stated = part.stop - part.body
        wanted = chance.choice([0, 1, stated + 1, max(0, stated - 1), stated * 2, top - 2, top - 1])
        return _put(content, part.size_at, (wanted % top | top).to_bytes(size, "big"))
    return _change_number(content, part.size_at, part.size_bytes, chance)


def _change_times(kind: str, content: bytes, chance: random.Random) -> bytes:
    """Change when frames are shown: all of them, in one way."""
    how = chance.choice(["equal", "shuffled", "backwards", "huge", "one far away"])
    if kind in ("mp4", "mov"):
        name = chance.choice(["stts", "ctts"])
        tables = [p for p in boxes(content) if p.name == name and p.stop - p.body >= 16]
        if not tables:
            return _change_field(kind, content, chance)
        table = chance.choice(tables)
        places = list(range(table.body + 12, table.stop - 3, 8))
        old = [int.from_bytes(content[at : at + 4], "big") for at in places]
        for at, new in zip(places, _other_times(old, how, 32, chance), strict=True):
            content = _put(content, at, new.to_bytes(4, "big"))
        return content
    if kind in ("mkv", "webm"):
        held = [p for p in elements(content) if p.name == "A3" and p.stop - p.body > 4]
        places = [p.body + 1 for p in held]
        old = [int.from_bytes(content[at : at + 2], "big") for at in places]
        for at, new in zip(places, _other_times(old, how, 16, chance), strict=True):
            content = _put(content, at, new.to_bytes(2, "big"))
        return content
    if kind == "gif":
        places = [p.start + 4 for p in blocks(content) if p.name == "21F9"]
        old = [int.from_bytes(content[at : at + 2], "little") for at in places]
        for at, new in zip(places, _other_times(old, how, 11, chance), strict=True):
            content = _put(content, at, new.to_bytes(2, "little"))
        return content
    return _change_field(kind, content, chance)


def _other_times(old: list[int], how: str, bits: int, chance: random.Random) -> list[int]:
    new = list(old)
    if how == "equal":
        new = [chance.choice([0, 1, old[0]])] * len(old)
    elif how == "shuffled":
        chance.shuffle(new)
    elif how == "backwards":
        new = [-time for time in old]
    elif how == "huge":
        new = [time + (1 << bits - 1) - 3 for time in old]
    else:
        new[chance.randrange(len(new))] = chance.choice([(1 << bits - 1) - 1, 1 << bits - 1, -1])
    return [time % (1 << bits) for time in new]


def _rearrange(kind: str, content: bytes, chance: random.Random) -> bytes:
    """Remove, repeat, empty, rename or swap parts."""
    parts = list(_PARTS[kind](content))
    part, other = chance.choice(parts), chance.choice(parts)
    inside = content[part.start : part.stop]
    how = chance.choice(["removed", "repeated", "emptied", "all ones", "renamed", "swapped"])
    if how == "removed":
        return content[: part.start] + content[part.stop :]
    if how == "repeated":
        return content[: part.stop] + inside * chance.choice([1, 2, 50]) + content[part.stop :]
    if how == "swapped" and (part.stop <= other.start or other.stop <= part.start):
        first, last = sorted((part, other), key=lambda one: one.start)
        middle = content[first.stop : last.start]
        swapped = content[last.start : last.stop] + middle + content[first.start : first.stop]
        return content[: first.start] + swapped + content[last.stop :]
    if how == "renamed":
        at = part.start + (4 if kind in ("mp4", "mov", "png") else 0)
        return _put(content, at, content[other.start : other.start + 4])
    filler = b"\xff" if how == "all ones" else b"\0"
    return _put(content, part.body, filler * (part.stop - part.body))


def _cut(kind: str, content: bytes, chance: random.Random) -> bytes:
    """End the file early: anywhere, or near where a part begins or ends."""
    part = chance.choice(list(_PARTS[kind](content)))
    near = chance.choice([part.start, part.body, part.stop]) + chance.choice([-1, 0, 1, 3])
    return content[: max(1, chance.choice([near, chance.randrange(1, len(content))]))]


def _splice(kind: str, content: bytes, chance: random.Random) -> bytes:
    """Go on in the middle as another file does, or as this one does elsewhere."""
    other = originals()[chance.choice([kind, chance.choice(KINDS)])]
    ours = [len(content), *(part.stop for part in _PARTS[kind](content))]
    at = chance.choice([chance.choice(ours), chance.randrange(1, len(content))])
    return content[:at] + other[chance.choice([0, chance.randrange(len(other))]) :]


def _scramble(kind: str, content: bytes, chance: random.Random) -> bytes:
    """Change bits, bytes or runs of them, mostly near the beginning, where headers are."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        reach = chance.choice([200, 2000, len(content)])
        at = chance.randrange(min(reach, len(content)))
        how = chance.randrange(4)
        if how == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            changed[at] = chance.choice([0, 0xFF, 0x80, 0x7F, chance.randrange(256)])
        elif how == 2:
            run = chance.choice([2, 4, 16, 64])
            changed[at : at + run] = chance.choice([b"\0", b"\xff"]) * len(changed[at : at + run])
        else:
            run = chance.choice([1, 4, 16])
            changed[at:at] = chance.randbytes(run)
    return bytes(changed)


_CHANGES: dict[str, tuple[int, Callable[[str, bytes, random.Random], bytes]]] = {
    "field": (6, _change_field),
    "size": (3, _change_size),
    "times": (3, _change_times),
    "parts": (3, _rearrange),
    "cut": (2, _cut),
    "splice": (1, _splice),
    "bytes": (2, _scramble),
}


@dataclass(frozen=True)
class Mutant:
    """A file that somebody has been at.

    Attributes:
        seed: What it was made from,
        number: and which of them it is.
        kind: What kind of file it was, which is its name's ending.
        change: What was done to it.
        content: Its bytes.
    """

    seed: int
    number: int
    kind: str
    change: str
    content: bytes

    @property
    def name(self) -> str:
        """Its file name."""
        return f"mutant-{self.seed}-{self.number}.{self.kind}"


def mutant(seed: int, number: int) -> Mutant:
    """Return one mutant: the kinds take turns, all else is chance."""
    chance = random.Random(f"{seed}/{number}")
    kind = KINDS[number % len(KINDS)]
    content = originals()[kind]
    weights = [weight for weight, _ in _CHANGES.values()]
    names = chance.choices(list(_CHANGES), weights, k=chance.choice([1, 1, 1, 2]))
    done = []
    for name in names:
        try:
            content = _CHANGES[name][1](kind, content, chance)
        except (IndexError, ValueError, struct.error):  # the first has left nothing to change
            continue
        done.append(name)
    return Mutant(seed, number, kind, "+".join(done), content)


def mutants(seed: int, count: int) -> Iterator[Mutant]:
    """Yield the first so many mutants of a seed."""
    return (mutant(seed, number) for number in range(count))


# --- running vidbg -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """How a run of vidbg ended.

    Attributes:
        status: Exit status, negative for a signal; None where it had to be killed.
        seconds: How long it took.
        peak_bytes: Resident memory of the largest of its processes.
        stdout: What it printed there.
        stderr: And there.
    """

    status: int | None
    seconds: float
    peak_bytes: int
    stdout: str
    stderr: str


def _waited_for(pid: int, limit_s: float) -> tuple[int | None, float, int]:
    """Wait for a child; return its exit status (None: killed), its time and its largest process."""
    began = time.monotonic()
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - began > limit_s:
            with contextlib.suppress(psutil.NoSuchProcess):
                family = psutil.Process(pid).children(recursive=True)
                os.kill(pid, signal.SIGKILL)
                for member in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.kill()
            _, _, usage = os.wait4(pid, 0)
            return None, time.monotonic() - began, _bytes_of(usage.ru_maxrss)
        time.sleep(_POLL_S)
    return os.waitstatus_to_exitcode(status), time.monotonic() - began, _bytes_of(usage.ru_maxrss)


def _bytes_of(maxrss: int) -> int:
    return maxrss * (1 if sys.platform == "darwin" else 1024)


# Started by a small process of its own: what one is started by counts as its peak too.
_LIMITED = """
import os, resource, sys
limit, told, *argv = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit)))
_, status, usage = os.wait4(os.posix_spawn(argv[0], argv, os.environ), 0)
with open(told, "w") as file:
    file.write(str(usage.ru_maxrss))
code = os.waitstatus_to_exitcode(status)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


class Command:
    """Runs vidbg as users do: a new interpreter for each file.

    Args:
        limit_s: How long each may take.
    """

    def __init__(self, limit_s: float = TIME_LIMIT_S) -> None:
        self._limit_s = limit_s

    def run(self, arguments: Sequence[str], folder: Path) -> Ran:
        """Run it in a folder, within the limits."""
        out, err, told = (folder / f"{name}.txt" for name in ("stdout", "stderr", "peak"))
        told.write_text("0")
        argv = [sys.executable, "-I", "-S", "-c", _LIMITED, str(_ADDRESS_SPACE_BYTES), told.name]
        argv += [sys.executable, "-m", "vidbg", *arguments]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=folder,
                env=_environment(),
            )
        status, seconds, _ = _waited_for(process.pid, self._limit_s)
        process.returncode = 0 if status is None else status  # it has been waited for
        peak = _bytes_of(int(told.read_text() or 0))
        return Ran(status, seconds, peak, _read(out), _read(err))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Forks:
    """Runs vidbg in processes forked from one that has loaded it, and has no threads yet.

    Args:
        limit_s: How long each may take.
    """

    def __init__(self, limit_s: float = TIME_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )

    def run(self, arguments: Sequence[str], folder: Path) -> Ran:
        """Run it in a folder, within the limits."""
        if self._server.stdin is None or self._server.stdout is None:
            raise ValueError("the server has no pipes")
        asked = {"arguments": list(arguments), "folder": str(folder), "limit_s": self._limit_s}
        self._server.stdin.write(json.dumps(asked).encode() + b"\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise RuntimeError(f"the server ended with status {self._server.wait()}")
        status, seconds, peak = json.loads(answer)
        out, err = _read(folder / "stdout.txt"), _read(folder / "stderr.txt")
        return Ran(status, seconds, peak, out, err)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pipe in (self._server.stdin, self._server.stdout):
            if pipe is not None:
                pipe.close()
        self._server.wait()


def _environment() -> dict[str, str]:
    # One thread of linear algebra: with more, a fork would lack the others.
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def _serve() -> None:
    """Run what comes on standard input, each in a process of its own; answer how it ended."""
    # Modules that no mutant needs anew.
    import vidbg.cli.reporting
    import vidbg.cli.run
    import vidbg.pipeline  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if not pid:
            _become(asked["arguments"], Path(asked["folder"]))
        print(json.dumps(_waited_for(pid, asked["limit_s"])), flush=True)


def _become(arguments: list[str], folder: Path) -> None:
    """Be the command: never returns."""
    import resource

    from vidbg.cli.main import main

    status = 70
    try:
        limit = resource.RLIMIT_AS
        resource.setrlimit(limit, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
        os.chdir(folder)
        for number, name in enumerate((os.devnull, "stdout.txt", "stderr.txt")):
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY
            os.dup2(os.open(name, flags, 0o600), number)
        try:
            main(arguments)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 0
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


# --- what has to hold --------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What came of a mutant.

    Attributes:
        mutant: Which.
        ran: How vidbg ended.
        problems: What should not be; empty where all is well.
    """

    mutant: Mutant
    ran: Ran
    problems: tuple[str, ...]

    @property
    def what(self) -> str:
        """In a word or two."""
        if self.problems:
            return "FAILED"
        return {0: "made", None: "long"}.get(self.ran.status, "refused")


def check(subject: Mutant, runner: Command | Forks, folder: Path) -> Outcome:
    """Give a mutant to vidbg and see what comes of it.

    Args:
        subject: The mutant.
        runner: What runs vidbg.
        folder: An empty folder.
    """
    path = folder / subject.name
    path.write_bytes(subject.content)
    output = folder / ("result.png" if subject.kind in PICTURES else "result.mp4")
    arguments = [subject.name, *_OPTIONS, "--max-pixels", str(MAX_PIXELS), "--json"]
    ran = runner.run([*arguments, "-o", output.name], folder)
    problems = list(_problems_of_run(ran, subject.name, output.name))
    if ran.status == 0:
        problems += _problems_of_result(path, output, ran)
    left = sorted(p.name for p in folder.iterdir())
    expected = {
        path.name,
        "stdout.txt",
        "stderr.txt",
        "peak.txt",
        *([output.name] if ran.status == 0 else []),
    }
    if ran.status is not None:  # nobody clears up after having been killed
        problems += [f"left {name} behind" for name in left if name not in expected]
    return Outcome(subject, ran, tuple(problems))


def _problems_of_run(ran: Ran, *names: str) -> Iterator[str]:
    if ran.peak_bytes > PEAK_LIMIT_BYTES:
        yield f"took {ran.peak_bytes >> 20} MiB"
    if ran.status is None:
        if not _is_long(ran):
            yield f"did not end within {TIME_LIMIT_S:.0f} s"
        return
    if ran.status not in (0, 1, 2):
        yield f"exit status {ran.status}"
    if "Traceback" in ran.stderr:
        yield "a traceback"
    if "unexpected" in ran.stderr:
        yield f"an error that nobody foresaw: {ran.stderr.strip()}"
    if ran.status in (1, 2):
        said = [line for line in ran.stderr.splitlines() if not _is_remark(line)]
        if len(said) != 1:
            yield f"{len(said)} lines of error: {said[:3]}"
        elif not any(name in said[0] for name in names):
            yield f"an error that does not name the file: {said[0]}"


def _is_long(ran: Ran) -> bool:
    """Say whether frames were coming still, of more than there could be time for."""
    lines = [line for line in ran.stdout.splitlines() if line.endswith("}")]
    events = [event for event in map(json.loads, lines) if event["event"] == "progress"]
    return bool(events) and events[-1]["frames"] > _MANY and events[-1]["total_frames"] > _MANY


def _is_remark(line: str) -> bool:
    """Say whether a line is a warning, or begins with the name of a clip that it tells of."""
    return line.startswith(("warning: ", "mutant-"))


def _problems_of_result(path: Path, output: Path, ran: Ran) -> Iterator[str]:
    """Yield what is wrong with a result that is said to be whole."""
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    claimed = next((event["frames"] for event in events if event["event"] == "done"), None)
    if claimed is None:
        yield "exit status 0 without a result"
        return
    try:
        with av.open(f"file:{output}") as container:
            there = sum(1 for _ in container.decode(container.streams.video[0]))
    except (av.FFmpegError, OSError, IndexError) as error:
        yield f"a result that cannot be played: {error}"
        return
    if there != claimed:
        yield f"{claimed} frames are claimed, {there} are there"
    wanted = frames_wanted(path)
    if there < wanted:
        yield f"{there} frames, where {wanted} decode"


def frames_wanted(path: Path) -> int:
    """Return how many frames a result needs so that none is missing that FFmpeg decodes.

    Of a clip of uneven frames that is one for each that has a moment of its own at the result's
    rate, before its end: others are dropped by design.
    """
    from vidbg.media.probe import probe

    info = probe(path, max_pixels=MAX_PIXELS)
    command = [ffmpeg(), "-nostdin", "-v", "level+info", "-max_pixels", str(MAX_PIXELS)]
    if info.is_image and info.container == "image2":
        command += ["-f", "image2", "-pattern_type", "none"]
    command += ["-i", f"file:{path}", "-map", f"0:{info.stream_index}", "-vf", "showinfo"]
    command += ["-fps_mode", "passthrough", "-f", "null", os.devnull]
    done = subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, timeout=TIME_LIMIT_S, check=False
    )
    said = done.stderr.decode("utf-8", "replace")
    seconds = [Fraction(text) for text in re.findall(r" pts_time:(-?[\d.]+)", said)]
    count = len(re.findall(r"showinfo.* n: *\d+ ", said))
    if not info.is_vfr or len(seconds) != count:
        return count
    half = Fraction(1, 2)
    slots = {floor((time - min(seconds)) * info.frame_rate + half) for time in seconds}
    return sum(1 for slot in slots if slot < floor(info.duration * info.frame_rate + half))


def check_all(
    subjects: Sequence[Mutant],
    make_runner: Callable[[], Command | Forks],
    *,
    jobs: int = 2,
    keep: Path | None = None,
) -> list[Outcome]:
    """Check mutants, some at a time; return their outcomes in the same order.

    Args:
        subjects: The mutants.
        make_runner: Makes what runs vidbg: one for each of the jobs.
        jobs: How many at a time.
        keep: A folder for the files of those that fail, or None.
    """
    originals()
    local = threading.local()
    with contextlib.ExitStack() as cleanup, tempfile.TemporaryDirectory() as folder:
        entering = threading.Lock()

        def one(subject: Mutant) -> Outcome:
            if not hasattr(local, "runner"):
                with entering:
                    local.runner = cleanup.enter_context(make_runner())
            own = Path(folder, str(subject.number))
            own.mkdir()
            outcome = check(subject, local.runner, own)
            if outcome.problems and keep is not None:
                shutil.copytree(own, keep / f"{subject.seed}-{subject.number}", dirs_exist_ok=True)
            shutil.rmtree(own, ignore_errors=True)
            return outcome

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(one, subjects))


# --- the table ---------------------------------------------------------------------------------


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the lines of a table: what came of which kind, what it took, and what failed."""
    counts = Counter((outcome.mutant.kind, outcome.what) for outcome in outcomes)
    whats = ("made", "refused", "long", "FAILED")
    yield f"{'kind':<8}" + "".join(f"{what:>9}" for what in whats) + f"{'longest':>11}{'peak':>11}"
    for kind in (*KINDS, "all"):
        of_kind = [o for o in outcomes if kind in ("all", o.mutant.kind)]
        if not of_kind:
            continue
        shown = [sum(counts[k, what] for k in KINDS if kind in ("all", k)) for what in whats]
        longest_s = max(o.ran.seconds for o in of_kind)
        peak = max(o.ran.peak_bytes for o in of_kind)
        yield (
            f"{kind:<8}"
            + "".join(f"{count:>9}" for count in shown)
            + f"{longest_s:>9.2f} s{peak / 2**20:>7.0f} MiB"
        )
    for outcome in outcomes:
        if outcome.problems:
            one = outcome.mutant
            yield (
                f"--seed {one.seed} --only {one.number} ({one.kind}, {one.change}): "
                f"{'; '.join(outcome.problems)}"
            )


def main() -> int:
    """Check mutants and print the table; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one mutant of the seed")
    parser.add_argument("--through-command", action="store_true")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keeps files of failures here")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        _serve()
        return 0
    log = logging.getLogger("vidbg")
    level = log.level
    log.setLevel(logging.CRITICAL)  # of our own look at a mutant
    try:
        return _checked(chosen)
    finally:
        log.setLevel(level)


def _checked(chosen: argparse.Namespace) -> int:
    """Check the mutants that were asked for and print the table; 1 if one failed."""
    if chosen.only is None:
        subjects = list(mutants(chosen.seed, chosen.count))
    else:
        subjects = [mutant(chosen.seed, chosen.only)]
    make_runner = Command if chosen.through_command else Forks
    began = time.monotonic()
    outcomes = check_all(subjects, make_runner, jobs=chosen.jobs, keep=chosen.keep)
    print("\n".join(table(outcomes)))
    print(f"{len(outcomes)} mutants of seed {chosen.seed} in {time.monotonic() - began:.0f} s")
    if chosen.only is not None:
        print(outcomes[0].ran.stdout + outcomes[0].ran.stderr, end="")
    return 1 if any(outcome.problems for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
