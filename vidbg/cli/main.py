"""The entry point: it heeds signals before it imports anything that takes time."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
INTERRUPTED = "interrupted, nothing was written"

# The last is sent by ourselves.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 the job failed, 2 wrong usage, 130 interrupted.

    Args:
        argv: Arguments without the program's name; None for the process's own.
    """
    heed_signals(_end)
    try:
        from vidbg.cli.dispatch import dispatch

        status = dispatch(list(sys.argv[1:] if argv is None else argv))
        heed_signals(signal.SIG_IGN)  # the interpreter's own end is soon over, and no job
    except KeyboardInterrupt:  # when the job was over, and its end perhaps waits for a reader
        os._exit(EXIT_INTERRUPTED)
    sys.exit(status)


def heed_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """Handle the signals that end a job, but for those that were ignored before."""
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _end(signum: int, frame: FrameType | None) -> None:
    """End the process at once: an exception in the midst of an import may come out as another."""
    with suppress(OSError):
        os.write(2, f"vidbg: {INTERRUPTED}\n".encode())
    os._exit(EXIT_INTERRUPTED)
