"""What was worked out once and takes a while, kept in a folder for the next job.

A file's name says what it was made from and what is in it: ``ORIGIN.DIGEST.SUFFIX``, ORIGIN being
whatever tells one source from another and DIGEST the SHA-256 of the content, without which being
right it counts for nothing. That finds damage, not malice, since whoever writes a file can name it
too. So what others may have written is not read at all: it is parsed by libraries that take it for
their own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vidbg.errors import OutputError
from vidbg.whole import write_whole

logger = logging.getLogger(__name__)

# Root may have put it there for everybody.
_MODE = 0o644
# A pipe in a file's place is not waited for, and what a link leads to was not put there by us.
# Windows has neither flag, and one that keeps it from reading bytes as text.
_READING = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_BINARY", 0)
)


@dataclass(frozen=True, slots=True)
class Shelf:
    """A folder of files that can be made again, those used last.

    No method fails because of the folder: without one, everything takes as long as the first time.
    On POSIX only regular files count that belong to this user or to root and that not everybody
    may write to; others are neither read nor removed.

    Attributes:
        folder: Where they lie; made when it is needed.
        suffix: What their names end in, with a dot in front.
        most_files: How many there may be, 1 or more.
        most_bytes: How large one may be.
    """

    folder: Path
    suffix: str
    most_files: int
    most_bytes: int

    def find(self, origin: str) -> bytes | None:
        """Return what was kept of an origin, which is then the one used last; None if nothing was.

        Args:
            origin: Letters, digits, "-" and "_".
        """
        with suppress(OSError):
            for path in self.folder.glob(f"{origin}.*{self.suffix}"):
                with suppress(OSError):
                    content = _read(path, self.most_bytes)
                    if content is None:
                        continue
                    if path == self._path(origin, content):
                        with suppress(OSError):
                            os.utime(path)
                        return content
                    path.unlink()
        return None

    def keep(self, origin: str, content: bytes) -> None:
        """Keep what was made from an origin, in place of what was before or is not used any more.

        Args:
            origin: As in :meth:`find`.
            content: What was made from it.
        """
        if len(content) > self.most_bytes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self._path(origin, content)
            write_whole(path, content, _MODE)
            # Not all that is made twice comes out the same, and two jobs can be at it at once.
            others = [made for _, made in self._own(f"{origin}.*") if made != path]
            by_age = [made for _, made in sorted(self._own("[!.]*"), reverse=True)]
            for old in (*others, *by_age[self.most_files :]):
                with suppress(OSError):  # root's, or gone
                    old.unlink()
        except (OSError, OutputError) as error:
            logger.debug("nothing is kept in %s: %s", self.folder, error)

    def discard(self, origin: str, content: bytes) -> None:
        """Remove what :meth:`find` returned, which turned out to be of no use."""
        with suppress(OSError):
            self._path(origin, content).unlink(missing_ok=True)

    def _path(self, origin: str, content: bytes) -> Path:
        return self.folder / f"{origin}.{hashlib.sha256(content).hexdigest()}{self.suffix}"

    def _own(self, stem: str) -> list[tuple[float, Path]]:
        """Return when our own files of a pattern were used last, and the files."""
        found: list[tuple[float, Path]] = []
        for path in self.folder.glob(f"{stem}{self.suffix}"):
            with suppress(OSError):  # removed by another job
                status = path.lstat()
                if _is_ours(status):
                    found.append((status.st_mtime, path))
        return found


def _read(path: Path, most_bytes: int) -> bytes | None:
    """Return what is in a file of ours that is not too large, None of another.

    Raises:
        OSError: It cannot be opened or read.
    """
    descriptor = os.open(path, _READING)
    try:
        # Asked of what has been opened: a name can come to mean another file in between.
        status = os.fstat(descriptor)
        if not _is_ours(status) or status.st_size > most_bytes:
            return None
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _is_ours(status: os.stat_result) -> bool:
    """Return whether nobody but this user, or root, can have made a file as it is."""
    if not stat.S_ISREG(status.st_mode):
        return False
    if sys.platform == "win32":  # which keeps users apart by the folders that they have
        return True
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & stat.S_IWOTH
