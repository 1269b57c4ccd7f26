"""The lock of an open file: one process at a time, and the system lets go when a process ends."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import msvcrt

    def take_lock(descriptor: int) -> None:
        """Lock an open file until it is closed: on Windows, the byte that it stands at.

        Raises:
            PermissionError: Another process has locked it.
            OSError: It cannot be locked.
        """
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def take_lock(descriptor: int) -> None:
        """Lock an open file until it is closed.

        Raises:
            BlockingIOError: Another process has locked it.
            OSError: It cannot be locked, as on some network file systems.
        """
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
