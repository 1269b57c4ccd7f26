"""The guard: a process that ends our FFmpegs when we are killed and can no longer do so.

FFmpeg ends by itself when its pipes break, but only when it next reads or writes one. Until then
it may look for a place in a file for minutes, or copy hours of sound into a result that nobody
waits for. Linux can signal a child whose parent ends (PR_SET_PDEATHSIG), but takes the end of the
thread that started it for that, and has to be asked between fork and exec, where Python promises
nothing in a program with threads. A shell that reads from a pipe works on every POSIX system: the
system closes the pipe when we end, however we do.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from contextlib import suppress

logger = logging.getLogger(__name__)

_SHELL = "/bin/sh"
# In a session of its own, where nothing that is sent to us or our terminal reaches it.
_SCRIPT = """
groups=
while read -r change group; do
  case $change in
    +) groups="$groups $group" ;;
    -) left=
       for other in $groups; do [ "$other" = "$group" ] || left="$left $other"; done
       groups=$left ;;
  esac
done
for group in $groups; do kill -9 "-$group"; done
"""
_END_S = 5.0

_lock = threading.RLock()
_watched: set[int] = set()
_guard: subprocess.Popen[bytes] | None = None


def watch(group: int) -> None:
    """End a process group if this process is killed, until :func:`forget` is called.

    The guard runs while there is something to watch. Where it cannot, its absence does no harm
    but to what it is for.

    Args:
        group: Its number, that of its first process.
    """
    global _guard
    if os.name != "posix":
        return
    with _lock:
        _watched.add(group)
        if _guard is None or _guard.poll() is not None:
            try:
                _guard = subprocess.Popen(  # noqa: S603 - argv list, nothing of the user's in it
                    [_SHELL, "-c", _SCRIPT],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    start_new_session=True,
                    cwd="/",
                )
            except OSError as error:
                logger.debug("no guard (%s)", error)
                return
            for earlier in _watched - {group}:  # the last guard was killed
                _tell("+", earlier)
        _tell("+", group)


def forget(group: int) -> None:
    """Watch a process group no more, because it has ended."""
    global _guard
    with _lock:
        if group not in _watched:
            return
        _watched.discard(group)
        if _guard is None:
            return
        _tell("-", group)
        if not _watched:
            guard, _guard = _guard, None
            if guard.stdin is not None:
                guard.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                guard.wait(_END_S)


def _tell(change: str, group: int) -> None:
    if _guard is not None and _guard.stdin is not None:
        with suppress(OSError):  # it was killed: the next that is watched starts another
            _guard.stdin.write(f"{change} {group}\n".encode())


def _start_over() -> None:
    """Leave the guard to the parent after a fork: it lives until all have closed its pipe."""
    global _lock, _guard
    _lock = threading.RLock()
    _watched.clear()
    if _guard is not None and _guard.stdin is not None:
        _guard.stdin.close()
        _guard.returncode = 0  # not ours to wait for
    _guard = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)
