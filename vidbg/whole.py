"""Files that appear under their names only when they are complete."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from vidbg.errors import OutputError
from vidbg.lock import take_distant_lock

_MAX_STEM = 40
# Windows would change the ends of lines.
_AS_BYTES = getattr(os, "O_BINARY", 0)


class Part:
    """A file or folder beside a result, which holds it until it is whole; made here, and empty.

    It is locked as long as the job runs. What a job was killed over is locked by nobody, and goes
    when the same result is made again, or the next of that stem. Not on Windows, where nothing that
    is open can be renamed.

    Attributes:
        path: Its name, which no other job uses.

    Args:
        stem: What its name begins with; a long one is cut, or the part's would be too long where
            the result's own is not.
        suffix: What its name ends in, with a dot in front.
        folder: Where it lies.
        make: Makes it, and fails if there is such a thing.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, folder: Path, stem: str, suffix: str, make: Callable[[Path], None]) -> None:
        self._lock: int | None = None
        stem = stem[:_MAX_STEM]
        _sweep(folder, re.compile(rf"{re.escape(stem)}\.[0-9a-f]{{8}}\.part{re.escape(suffix)}"))
        while True:
            self.path = folder / f"{stem}.{secrets.token_hex(4)}.part{suffix}"
            make(self.path)
            if sys.platform == "win32" or self._is_locked():
                return
            self.release()

    def _is_locked(self) -> bool:
        """Lock it; say whether it is still there, and was not swept away before it was locked."""
        try:
            self._lock = _opened(self.path)
            with suppress(OSError):  # some file systems have no locks, which is no reason to fail
                try:
                    take_distant_lock(self._lock)
                except BlockingIOError:
                    return False
        except FileNotFoundError:
            return False
        # Its own name tells: the numbers of files are no constants on every file system.
        return self.path.exists()

    def release(self) -> None:
        """Let go of it: it has its final name, or is gone."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _sweep(folder: Path, pattern: re.Pattern[str]) -> None:
    """Remove the parts of such names that nobody works on any more."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        for path in [path for path in folder.iterdir() if pattern.fullmatch(path.name)]:
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                continue  # somebody else's
            with suppress(OSError):  # locked: somebody does
                lock = _opened(path, os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    take_distant_lock(lock)
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink()
                finally:
                    os.close(lock)


def _opened(path: Path, flags: int = 0) -> int:
    """Open a part to lock it."""
    return os.open(path, flags | (os.O_RDONLY if path.is_dir() else os.O_RDWR))


def take_name(part: Path, path: Path, overwrite: bool) -> None:
    """Give a complete file its final name.

    Args:
        part: The file, in the same file system.
        path: Its name.
        overwrite: Replace an existing file, at once.

    Raises:
        OutputError: There is such a file, or the name cannot be given.
    """
    taken = OutputError("appeared while the job ran", path=path, hint="Use -y to overwrite it")
    try:
        if overwrite:
            part.replace(path)
            return
        try:
            os.link(part, path)  # fails where the name is taken: no gap to lose a race in
        except FileExistsError:
            raise taken from None
        except OSError:  # a file system without hard links
            if os.path.lexists(path):
                raise taken from None
            part.rename(path)
    except OSError as error:
        raise OutputError(f"cannot be named ({error.strerror})", path=path) from error


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file; what is there under its name is replaced at once, or stays.

    Args:
        path: The file.
        content: What goes in.
        mode: Who may do what with it, as far as the process's umask allows it.

    Raises:
        OutputError: It cannot be written.
    """
    make = partial(_write_new, content=content, mode=mode)
    try:
        part = Part(path.parent, f".{path.stem}", path.suffix, make)
        try:
            os.replace(part.path, path)
        finally:  # an interruption too leaves nothing
            with suppress(OSError):
                part.path.unlink(missing_ok=True)
            part.release()
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror or error})", path=path) from error


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that is not there yet.

    Raises:
        OSError: It cannot be written, or there is such a file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _AS_BYTES, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
