"""A clip as PNG files: numbered in a folder, or in one archive; there whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from vidbg.errors import OutputError
from vidbg.media import ffmpeg as ff
from vidbg.whole import Part, take_name

# A printf pattern with one number in it; "%%" is a percent sign.
_PATTERN = re.compile(r"((?:[^%]|%%)*)%(?:0(\d{1,2}))?d((?:[^%]|%%)*)", re.ASCII)
_DIGITS: Final = 6
_BLOCK_BYTES: Final = 1 << 16
# PNG specification, third edition, 5.2 and 5.3: a signature, then chunks of a length, a type, as
# many bytes and a checksum, of which the last is of the type IEND.
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CHUNK: Final = struct.Struct(">I4s")
_CHECKSUM_BYTES: Final = 4


def is_pattern(path: Path) -> bool:
    """Say whether a name stands for numbered PNG files, as ``name_%06d.png`` does."""
    return path.suffix.lower() == ".png" and _PATTERN.fullmatch(path.name) is not None


def pattern_in(folder: Path, stem: str) -> Path:
    """Return the pattern of a sequence that was given no more than its folder.

    Args:
        folder: Where the files go.
        stem: What their names begin with.
    """
    return folder / f"{stem.replace('%', '%%')}_%0{_DIGITS}d.png"


def frame_name(pattern: str, number: int) -> str:
    """Return the name of a frame.

    Args:
        pattern: A file name of which :func:`is_pattern` is true.
        number: The frame's, from 1 on.
    """
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        raise ValueError(f"{pattern!r} has no number in it")
    before, digits, after = match.groups()
    shown = f"{number:0{digits or 1}d}"
    return f"{before}{shown}{after}".replace("%%", "%")


def frames_of(pattern: Path) -> list[Path]:
    """Return the files of a sequence that are there, in no order."""
    match = _PATTERN.fullmatch(pattern.name)
    if match is None:
        raise ValueError(f"{pattern.name!r} has no number in it")
    before, digits, after = (part and part.replace("%%", "%") for part in match.groups())
    number = rf"\d{{{digits},}}" if digits else r"\d+"
    name = re.compile(re.escape(before or "") + number + re.escape(after or ""), re.ASCII)
    try:
        return [path for path in pattern.parent.iterdir() if name.fullmatch(path.name)]
    except FileNotFoundError:
        return []


def check_writable(pattern: Path, source: Path, overwrite: bool) -> None:
    """Raise :class:`OutputError` unless a sequence can become a result of ``source``."""
    folder = pattern.parent
    if source.is_dir() and folder.is_dir() and folder.samefile(source):
        raise OutputError("is the input itself", path=folder, hint="Choose another -o")
    if os.path.abspath(source) == os.path.abspath(pattern):
        raise OutputError("is the input itself", path=pattern, hint="Choose another -o")
    if folder.exists() and not folder.is_dir():
        raise OutputError("is a file, and the frames need a folder", path=folder)
    there = frames_of(pattern)
    if there and any(path.samefile(source) for path in there if source.exists()):
        raise OutputError("the input is one of its files", path=pattern, hint="Choose another -o")
    if there and not overwrite:
        raise OutputError(
            f"exists already ({min(there).name})", path=pattern, hint="Use -y to overwrite it"
        )
    beside = folder if folder.is_dir() else folder.parent
    if not beside.is_dir():
        raise OutputError("its folder does not exist", path=folder)
    if not os.access(beside, os.W_OK):
        raise OutputError("its folder cannot be written to", path=folder)


class Folder:
    """Where FFmpeg writes a sequence, until it is whole.

    A new folder of frames lies beside its final place and is renamed at once. Into a folder that
    has files in it already, the frames are moved one by one when all are there.

    Attributes:
        path: Where the frames are until then.

    Args:
        pattern: The final names.

    Raises:
        OutputError: The folder cannot be made.
    """

    def __init__(self, pattern: Path) -> None:
        self._pattern = pattern
        folder = pattern.parent
        try:
            self._is_new = not folder.exists()
            around = folder.parent if self._is_new else folder
            name = folder.name if self._is_new else ""
            self._part = Part(around, name, ".frames", Path.mkdir)
            self.path = self._part.path
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", path=folder) from error
        self._named: list[Path] = []

    @property
    def url(self) -> str:
        """What FFmpeg is to write to."""
        escaped = str(self.path).replace("%", "%%")
        return ff.file_url(Path(escaped, self._pattern.name))

    def publish(self, overwrite: bool) -> None:
        """Give the frames their final names.

        Args:
            overwrite: Replace the frames of a sequence of that name, and those alone.

        Raises:
            OutputError: Such frames appeared meanwhile, or a name cannot be given.
        """
        folder = self._pattern.parent
        try:
            if self._is_new and not folder.exists():
                self.path.rename(folder)
                self._named = frames_of(self._pattern)
                return
        except OSError as error:
            raise OutputError(f"cannot be named ({error.strerror})", path=folder) from error
        old = set(frames_of(self._pattern))
        try:
            for part in sorted(self.path.iterdir()):
                path = folder / part.name
                take_name(part, path, overwrite)
                self._named.append(path)
        except BaseException:
            if not overwrite:
                self.retract()
            raise
        for path in old - set(self._named):
            path.unlink(missing_ok=True)

    def retract(self) -> None:
        """Take away what :meth:`publish` named."""
        for path in self._named:
            path.unlink(missing_ok=True)
        if self._is_new:
            with suppress(OSError):
                self._pattern.parent.rmdir()

    def discard(self) -> None:
        """Remove what is not published."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._part.release()


class Archive:
    """Writes PNG files, as they come out of FFmpeg, to a ZIP archive; not compressed again.

    An iterable for a thread of its own, which yields the number of files at the end.

    Args:
        process: The FFmpeg that writes PNG files one after another to its standard output.
        part: The archive.
        stem: What the files' names begin with.
    """

    def __init__(self, process: ff.Process, part: Path, stem: str) -> None:
        self._process = process
        self._part = part
        self._pattern = pattern_in(Path(), stem).name
        self.error: OSError | None = None

    def __iter__(self) -> Iterator[int]:
        count = 0
        now = time.localtime()[:6]
        try:
            with zipfile.ZipFile(self._part, "w", zipfile.ZIP_STORED) as archive:
                for content in split_pngs(self._read):
                    count += 1
                    entry = zipfile.ZipInfo(frame_name(self._pattern, count), now)
                    entry.external_attr = 0o644 << 16
                    archive.writestr(entry, content)
        except OSError as error:
            self.error = error
            self._process.kill()  # or it would wait for ever that its output be taken
            raise
        yield count

    def cancel(self) -> None:
        """End a wait for FFmpeg, from any thread."""
        self._process.kill()

    def _read(self) -> bytes:
        block = bytearray(_BLOCK_BYTES)
        count = self._process.read_into(memoryview(block))
        return bytes(block[:count])


def split_pngs(read: Callable[[], bytes]) -> Iterator[bytes]:
    """Yield the files of a stream of PNG files; a last one that is cut short is left out.

    Args:
        read: Returns the next bytes, any number of them; none at the end.

    Raises:
        OSError: It is no such stream.
    """
    pending = bytearray()

    def has(count: int) -> bool:
        while len(pending) < count:
            block = read()
            if not block:
                return False
            pending.extend(block)
        return True

    while has(len(_SIGNATURE)):
        if not pending.startswith(_SIGNATURE):
            raise OSError(0, "no PNG where one should begin")
        end = len(_SIGNATURE)
        kind = b""
        while kind != b"IEND":
            if not has(end + _CHUNK.size):
                return
            length, kind = _CHUNK.unpack_from(pending, end)
            end += _CHUNK.size + length + _CHECKSUM_BYTES
        if not has(end):
            return
        yield bytes(pending[:end])
        del pending[:end]
