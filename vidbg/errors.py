"""The exceptions that vidbg raises on purpose.

Everything a caller may want to catch derives from :class:`VidbgError`. The message is
one line that names the cause; ``path`` is the file it is about and ``hint`` the way out.
"""

from __future__ import annotations

import errno
import re
from os import PathLike
from typing import Final

MEMORY_HINT: Final = "Close other programs, or try --batch-size 1, fewer --jobs or smaller frames"
"""What helps against a lack of memory."""

# In the words of libc, Python, FFmpeg and its encoders, OpenCV, OpenVINO, PyTorch and the C++
# library. Threads need room for their stacks, and libraries to be mapped to; for that a system has
# two ways to say no.
_NO_MEMORY = re.compile(
    r"out of memory|insufficient memory|not enough memory|can(?:not|'t) alloc|bad_alloc"
    r"|malloc of size \d+ failed|failed to map segment from shared object$"
    r"|can't start new thread|resource temporarily unavailable",
    re.IGNORECASE | re.MULTILINE,
)


class VidbgError(Exception):
    """A failure that the user can act on.

    Args:
        message: One line, without the file's name and without a final full stop.
        path: The file that the failure is about.
        hint: What to do about it, as a short imperative sentence.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | PathLike[str] | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.hint = hint

    def __str__(self) -> str:
        text = self.message if self.path is None else f"{self.path}: {self.message}"
        return text if self.hint is None else f"{text}. {self.hint}"


class InputError(VidbgError):
    """A file that cannot be used as input: missing, unreadable, not a video, empty."""


class OutputError(VidbgError):
    """An output path that cannot be used: it exists, is the source, or has no known format."""


class WeightsError(VidbgError):
    """Weights that are missing, damaged, or made for another architecture."""


class DeviceError(VidbgError):
    """A device or precision that this machine does not offer."""


class FFmpegError(VidbgError):
    """FFmpeg failed.

    Args:
        message: One line.
        path: The file being read or written.
        hint: What to do about it.
        returncode: FFmpeg's exit status; negative for a signal, None while it ran.
        stderr_tail: The last lines that FFmpeg wrote, newest last.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | PathLike[str] | None = None,
        hint: str | None = None,
        returncode: int | None = None,
        stderr_tail: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, path=path, hint=hint)
        self.returncode = returncode
        self.stderr_tail = stderr_tail


class DecodeError(FFmpegError):
    """A clip, or a part of it, could not be decoded."""


class EncodeError(FFmpegError):
    """The result could not be written."""


def tells_of_no_memory(text: str) -> bool:
    """Say whether a message of any library's, or of FFmpeg's, comes of a lack of memory."""
    return _NO_MEMORY.search(text) is not None


def as_ours(error: BaseException) -> VidbgError:
    """Return any failure as one that names its cause in a line."""
    if isinstance(error, VidbgError):
        return error
    is_errno = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or is_errno or tells_of_no_memory(str(error)):
        return VidbgError("out of memory", hint=MEMORY_HINT)
    if isinstance(error, OSError):
        return VidbgError(error.strerror or str(error), path=error.filename)
    what = f"unexpected {type(error).__name__}: {error}"
    return VidbgError(what, hint="Run with --debug for details")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a signal like it, ended a job that can go on later; the text says how."""
