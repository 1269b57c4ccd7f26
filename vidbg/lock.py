"""The lock of an open file: one process at a time, and the system lets go when a process ends."""

from __future__ import annotations

import os
import stat
import struct
import sys
from typing import Final

_DISTANT_BYTE: Final = (1 << 62) - 1

if sys.platform == "win32":
    import msvcrt

    def take_lock(descriptor: int) -> None:
        """Lock an open file until it is closed: on Windows, the byte that it stands at.

        Raises:
            PermissionError: Another process has locked it.
            OSError: It cannot be locked.
        """
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    take_distant_lock = take_lock
else:
    import fcntl

    def take_lock(descriptor: int) -> None:
        """Lock an open file until it is closed.

        Raises:
            BlockingIOError: Another process has locked it.
            OSError: It cannot be locked, as on some network file systems.
        """
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def take_distant_lock(descriptor: int) -> None:
        """Lock an open file, which other programs go on writing to, until it is closed.

        On Windows' network shares a lock is no agreement among those who look at it: nobody else
        can write what is locked. So it is one byte, further back than any file reaches, where
        the system has locks of bytes that belong to an open file (Linux).

        Args:
            descriptor: Of a file open for writing, or of a folder.

        Raises:
            BlockingIOError: Another process has locked it.
            OSError: It cannot be locked.
        """
        if sys.platform != "linux" or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            take_lock(descriptor)
            return
        # struct flock of fcntl(2): type, whence, start, length and process, which has to be 0.
        what = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _DISTANT_BYTE, 1, 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, what)
