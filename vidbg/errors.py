"""The exceptions that vidbg raises on purpose.

Everything a caller may want to catch derives from :class:`VidbgError`. The message is
one line that names the cause; ``path`` is the file it is about and ``hint`` the way out.
"""

from __future__ import annotations

from os import PathLike


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


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a signal like it, ended a job that can go on later; the text says how."""
