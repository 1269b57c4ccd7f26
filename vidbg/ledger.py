"""What batches have finished: in each folder with results a file of one line of JSON a change."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vidbg.errors import OutputError
from vidbg.lock import take_lock
from vidbg.media import pngs

logger = logging.getLogger(__name__)

NAME = ".vidbg-batch.jsonl"
# Files are stamped by another clock than ours: of a server, or in steps of two seconds (FAT).
_CLOCK_SLACK_NS = 3_000_000_000
# Far beyond the end, where Windows' locks, which nobody can read through, are in no one's way.
_LOCK_AT = 1 << 40


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one result.

    Attributes:
        output: The result; like the source as :func:`located` has it.
        source: The clip it was made of.
        fingerprint: Of the job that made it; None if it was never finished.
        size: Its bytes when it was finished.
        mtime_ns: Its time of last change then.
        frames: Frames in it.
        seconds: Wall-clock seconds that it took.
        begun_ns: When the run began that has neither finished nor failed, or None.
    """

    output: Path
    source: Path
    fingerprint: str | None = None
    size: int = -1
    mtime_ns: int = -1
    frames: int = 0
    seconds: float = 0.0
    begun_ns: int | None = None


def read(folder: Path) -> dict[Path, Entry]:
    """Return what the ledger of a folder says, by output, the last word on each.

    A line that was not written whole, or that another version wrote otherwise, says nothing.

    Args:
        folder: The folder; without a ledger there is nothing in it.

    Raises:
        OutputError: The ledger cannot be read.
    """
    folder = Path(os.path.realpath(folder))
    try:
        lines = (folder / NAME).read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise OutputError(f"cannot be read ({error.strerror})", path=folder / NAME) from error
    entries: dict[Path, Entry] = {}
    for line in lines:
        entry = _entry(line, folder)
        if entry is not None:
            entries[entry.output] = entry
    return entries


def located(path: Path) -> Path:
    """Return a path by the folder that it is really in: one for all ways that lead there.

    A link in that folder keeps its own name.
    """
    return Path(os.path.realpath(path.parent), path.name)


class Ledger:
    """The ledgers of a folder and of those below it, locked for one batch. A context manager.

    Each folder with results has its own, so that they are known whichever folder a batch is for.
    A change is on disk before the call returns. Threads may share it, each with outputs of its own.

    Args:
        root: The folder; it has to be there.

    Raises:
        OutputError: Another batch works on the folder, or it cannot be written to.
    """

    def __init__(self, root: Path) -> None:
        self._writing = threading.Lock()
        self._known: dict[Path, dict[Path, Entry]] = {}  # by folder
        path = root / NAME
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", path=path) from error
        try:
            _lock(self._fd, path)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)  # which ends the lock

    def _entry(self, output: Path) -> Entry | None:
        folder = place_of(output).parent
        with self._writing:
            if folder not in self._known:
                self._known[folder] = read(folder)
            return self._known[folder].get(output)

    def finished(self, output: Path, fingerprint: str) -> Entry | None:
        """Return what is known of a result if it is finished, of this job, and still there."""
        entry = self._entry(located(output))
        if entry is None or entry.fingerprint != fingerprint:
            return None
        found = _state(output)
        return entry if found is not None and found[0] == entry.size else None

    def owns(self, output: Path, source: Path) -> bool:
        """Say whether what is there under a result's name was made here, of the same clip.

        It is as we left it, or it appeared while a run made it that was killed before it could
        say so.
        """
        entry = self._entry(located(output))
        found = _state(output)
        if entry is None or found is None or entry.source != located(source):
            return False
        if found == (entry.size, entry.mtime_ns):
            return True
        return entry.begun_ns is not None and found[1] >= entry.begun_ns - _CLOCK_SLACK_NS

    def begin(self, output: Path, source: Path) -> None:
        """Note that a result is being made."""
        output, source = located(output), located(source)
        before = self._entry(output)
        if before is None or before.source != source:
            before = Entry(output, source)
        self._note(replace(before, begun_ns=time.time_ns()))

    def give_up(self, output: Path) -> None:
        """Note that it is not going to be there: the run failed."""
        begun = self._entry(located(output))
        if begun is not None:
            self._note(replace(begun, begun_ns=None))

    def finish(
        self, output: Path, source: Path, fingerprint: str, frames: int, seconds: float
    ) -> None:
        """Note that a result is there.

        Raises:
            OutputError: It is not, or the ledger cannot be written to.
        """
        found = _state(output)
        if found is None:
            raise OutputError("is gone again", path=output)
        _sync(output)
        made = located(output), located(source), fingerprint
        self._note(Entry(*made, *found, frames, seconds))

    def _note(self, entry: Entry) -> None:
        folder = place_of(entry.output).parent
        fields = {
            "output": _relative(entry.output, folder),
            "source": _relative(entry.source, folder),
            "fingerprint": entry.fingerprint,
            "size": entry.size,
            "mtime_ns": entry.mtime_ns,
            "frames": entry.frames,
            "seconds": round(entry.seconds, 3),
            "begun_ns": entry.begun_ns,
        }
        line = json.dumps(fields).encode("ascii") + b"\n"
        with self._writing:
            try:
                _append(folder / NAME, line)
            except OSError as error:
                why = f"cannot be written ({error.strerror})"
                raise OutputError(why, path=folder / NAME) from error
            self._known.setdefault(folder, {})[entry.output] = entry


def _append(path: Path, line: bytes) -> None:
    """Add a line to a file, on disk when this returns."""
    with path.open("a+b", buffering=0) as stream:
        size = stream.seek(0, os.SEEK_END)
        if size:
            stream.seek(size - 1)
            # A line that a power cut left without its end must not swallow this one.
            if stream.read(1) != b"\n":
                line = b"\n" + line
        if stream.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(stream.fileno())


def _entry(line: bytes, folder: Path) -> Entry | None:
    try:
        fields: dict[str, Any] = json.loads(line)
        entry = Entry(
            _key(folder / fields["output"]),
            _key(folder / fields["source"]),
            fields["fingerprint"],
            int(fields["size"]),
            int(fields["mtime_ns"]),
            int(fields["frames"]),
            float(fields["seconds"]),
            None if fields["begun_ns"] is None else int(fields["begun_ns"]),
        )
    except (ValueError, TypeError, KeyError):
        return None
    return entry if isinstance(entry.fingerprint, str | None) else None


def _relative(path: Path, folder: Path) -> str:
    """Return a path as seen from a folder: clips and results that move together stay known."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return str(path)


def _key(path: Path) -> Path:
    """Return what :func:`_relative` was given."""
    return Path(os.path.normpath(path))


def place_of(output: Path) -> Path:
    """Return what a user sees of a result: the file, or the folder of one of numbered files.

    Args:
        output: A file, or a printf pattern in a folder that is called after the clip.
    """
    is_ours = pngs.is_pattern(output) and ".vidbg" in output.parent.name
    return output.parent if is_ours else output


def _state(output: Path) -> tuple[int, int] | None:
    """Return size in bytes and time of last change (ns) of a result, or None if it is not there."""
    place = place_of(output)
    try:
        if place == output:
            found = place.stat()
            return found.st_size, found.st_mtime_ns
        # File managers leave notes of their own in folders.
        files = [frame.stat() for frame in pngs.frames_of(output)]
    except OSError:
        return None
    if not files:
        return None
    return sum(file.st_size for file in files), max(file.st_mtime_ns for file in files)


def _sync(output: Path) -> None:
    """Have a result on disk before it is noted as finished: power cuts keep no order."""
    place = place_of(output)
    for path in place.iterdir() if place.is_dir() else [place]:
        try:
            fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        except OSError:  # not ours to write to, which nobody needs to hear of
            continue
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _lock(fd: int, path: Path) -> None:
    """Lock an open file, for as long as it is open.

    Raises:
        OutputError: Another process has locked it.
    """
    try:
        if os.name == "nt":
            os.lseek(fd, _LOCK_AT, os.SEEK_SET)
        take_lock(fd)
    except (BlockingIOError, PermissionError) as error:
        raise OutputError(
            "another batch works on this folder", path=path.parent, hint="Wait until it ends"
        ) from error
    except OSError as error:
        # Network file systems without locks: what two batches do to one clip is then theirs.
        logger.warning("%s: cannot be locked (%s)", path, error.strerror)
