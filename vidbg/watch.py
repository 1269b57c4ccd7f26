"""Clips that arrive in a folder while we look: given out when they are there whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vidbg.errors import VidbgError
from vidbg.media.formats import VIDEO_SUFFIXES
from vidbg.media.probe import probe

# Between two looks; and how long a file must not have changed.
INTERVAL_S = 2.0
# What cannot be read for so long though it does not change is no longer arriving, but broken.
_PATIENCE_S = 60.0
# Who copies a file sets its old time of change last, if at all.
_OLD_S = 600.0


@dataclass(slots=True)
class _Seen:
    """What a file was when it was looked at: its size and time of change, since when."""

    stamp: tuple[int, int]
    since_s: float
    probe_at_s: float
    is_given: bool = False


class Arrivals:
    """Looks for files and gives each out once: when its copy or recording has come to its end.

    That is when size and time of change have been the same over an interval, and all frames that
    the file promises are in it. A file that changes later is given out again.

    Args:
        look: Returns the files that are there now.
        clock: Returns seconds, from any beginning.
        is_whole: Says whether a file can be read and lacks nothing.
    """

    def __init__(
        self,
        look: Callable[[], Iterable[Path]],
        clock: Callable[[], float] = time.monotonic,
        is_whole: Callable[[Path], bool] | None = None,
    ) -> None:
        self._look = look
        self._clock = clock
        self._is_whole = is_whole or _reads_whole
        self._seen: dict[Path, _Seen] = {}
        self._look_at_s: float | None = None

    def __call__(self) -> list[Path]:
        """Return what has arrived since the last call; returns at once between two looks."""
        now_s = self._clock()
        if self._look_at_s is not None and now_s < self._look_at_s:
            return []
        arrived = []
        here: dict[Path, _Seen] = {}
        for path in self._look():
            try:
                found = path.stat()
            except OSError:  # gone again
                continue
            stamp = (found.st_size, found.st_mtime_ns)
            seen = self._seen.get(path)
            if seen is None or seen.stamp != stamp:
                seen = _Seen(stamp, now_s, now_s + INTERVAL_S)
            elif not seen.is_given and now_s >= seen.probe_at_s:
                arrived += self._settled(path, seen, now_s)
            here[path] = seen
        self._seen = here
        self._look_at_s = self._clock() + INTERVAL_S
        return arrived

    def _settled(self, path: Path, seen: _Seen, now_s: float) -> list[Path]:
        """Return a file that has stopped changing, if it is to be given out now."""
        unchanged_s = now_s - seen.since_s
        is_named_video = path.suffix.lower() in VIDEO_SUFFIXES
        is_old = is_named_video and time.time() - seen.stamp[1] / 1e9 > _OLD_S
        if is_old or self._is_whole(path):
            seen.is_given = True
            return [path]
        seen.probe_at_s = now_s + max(INTERVAL_S, unchanged_s)
        if unchanged_s >= _PATIENCE_S:
            seen.is_given = True
            return [path] if is_named_video else []  # it fails, which says why
        return []


def _reads_whole(path: Path) -> bool:
    try:
        info = probe(path)
    except VidbgError:
        return False
    return not info.is_image and not info.missing_frames
