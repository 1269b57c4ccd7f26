"""Arrivals, with a clock of our own and files that grow."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from clips import make_clip

from vidbg.watch import INTERVAL_S, Arrivals


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def watched(folder: Path, clock: Clock, is_whole: bool = True) -> Arrivals:
    return Arrivals(lambda: sorted(folder.iterdir()), clock, lambda path: is_whole)


def looked(arrivals: Arrivals, clock: Clock, times: int = 1) -> list[str]:
    """What has arrived after so many more intervals."""
    names = []
    for _ in range(times):
        clock.now_s += INTERVAL_S
        names += [path.name for path in arrivals()]
    return names


def test_a_file_that_does_not_change_has_arrived_once(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    arrivals = watched(tmp_path, clock)
    assert arrivals() == []
    assert arrivals() == []  # no time has passed
    assert looked(arrivals, clock) == ["a.mp4"]
    assert looked(arrivals, clock, 40) == []


def test_a_file_that_grows_is_waited_for(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "a.mp4"
    arrivals = watched(tmp_path, clock)
    for size in range(1, 10):
        path.write_bytes(b"x" * size)
        assert looked(arrivals, clock) == []
    assert looked(arrivals, clock) == ["a.mp4"]


def test_a_file_that_changes_again_arrives_again(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1")
    arrivals = watched(tmp_path, clock)
    assert looked(arrivals, clock, 3) == ["a.mp4"]
    now = time.time()
    os.utime(path, (now + 5, now + 5))
    assert looked(arrivals, clock, 3) == ["a.mp4"]
    path.unlink()
    assert looked(arrivals, clock, 3) == []
    path.write_bytes(b"1")
    assert looked(arrivals, clock, 3) == ["a.mp4"]


def test_what_never_reads_is_given_up_in_the_end(tmp_path: Path, clock: Clock) -> None:
    """A video by its name fails, so that somebody hears of it; what may be one is no video."""
    (tmp_path / "a.mp4").write_bytes(b"1")
    (tmp_path / "a.upload").write_bytes(b"1")
    arrivals = watched(tmp_path, clock, is_whole=False)
    assert looked(arrivals, clock, 20) == []
    assert looked(arrivals, clock, 80) == ["a.mp4"]
    assert looked(arrivals, clock, 80) == []


def test_an_old_file_is_not_asked(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    os.utime(tmp_path / "a.mp4", (1e9, 1e9))
    arrivals = watched(tmp_path, clock, is_whole=False)
    assert looked(arrivals, clock, 2) == ["a.mp4"]


def test_half_a_clip_has_not_arrived(tmp_path: Path, clock: Clock) -> None:
    """With the real question: MP4 is unreadable without its end, Matroska lacks frames."""
    arrivals = Arrivals(lambda: sorted(tmp_path.iterdir()), clock)
    whole = {
        suffix: make_clip(tmp_path / f"a{suffix}", frames=60).read_bytes()
        for suffix in (".mp4", ".mkv")
    }
    for suffix, content in whole.items():
        (tmp_path / f"a{suffix}").write_bytes(content[: len(content) // 2])
    assert looked(arrivals, clock, 4) == []
    for suffix, content in whole.items():
        (tmp_path / f"a{suffix}").write_bytes(content)
    assert looked(arrivals, clock, 2) == ["a.mkv", "a.mp4"]
