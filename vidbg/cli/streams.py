"""Standard output and error whose readers go away: a pipe that closes, a terminal that is shut."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class _Talk:
    """Standard error that may lose its reader: what is said is then lost, and nothing else.

    Args:
        stream: The real one.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_heard = True

    def write(self, text: str) -> int:
        """Write a text, if anybody hears it."""
        if self._is_heard:
            with self._until_lost():
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Send what was written."""
        if self._is_heard:
            with self._until_lost():
                self._stream.flush()

    @contextmanager
    def _until_lost(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._is_heard = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def let_talk_be_lost() -> None:
    """Let nothing fail because nobody reads standard error."""
    if sys.stderr is not None:
        sys.stderr = cast("TextIO", _Talk(sys.stderr))


def end_output() -> OSError | None:
    """Send what is left of standard output; return the error if that cannot be done.

    Python would try again at its own end, and print what failed.
    """
    if sys.stdout is None:
        return None
    try:
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        return error
    return None
