"""The clips that jobs are broken on, and jobs that are ended whatever a test does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clips import make_clip
from jobs import FRAMES, RATE, SIZE, Job


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip where processes cannot be looked into as these tests do."""
    if sys.platform != "linux":
        pytest.skip("faults are put into processes as Linux shows them")


@pytest.fixture(scope="session")
def slow_clip(clips_dir: Path) -> Path:
    """64x48, 1000 counted frames at 50 fps (20 s), MPEG-4 in MP4 with AAC sound."""
    return make_clip(
        clips_dir / "slow.mp4", size=SIZE, frames=FRAMES, rate=str(RATE), codec="mpeg4", audio="aac"
    )


@pytest.fixture(scope="session")
def behind(clips_dir: Path) -> Path:
    """64x48, 50 counted frames at 25 fps with sound, for the background: "behind.mp4"."""
    return make_clip(clips_dir / "behind.mp4", size=SIZE, frames=50, audio="aac")


@pytest.fixture
def start(tmp_path: Path, slow_clip: Path, behind: Path) -> Iterator[Callable[..., Job]]:
    """Start jobs, see :class:`jobs.Job`; what they leave running is ended with the test."""
    started: list[Job] = []

    def begin(*arguments: Any, clip: Path = slow_clip, **options: Any) -> Job:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        job = Job(folder, clip, behind, *arguments, **options)
        started.append(job)
        return job

    yield begin
    for job in started:
        job.close()


@pytest.fixture(scope="session")
def large_clip(clips_dir: Path) -> Path:
    """640x480, 60 counted frames at 50 fps (1.2 s): no heap has room for its frames unasked."""
    return make_clip(
        clips_dir / "large.mp4", size=(640, 480), frames=60, rate=str(RATE), codec="mpeg4"
    )


@pytest.fixture(scope="session")
def raw_clip(clips_dir: Path) -> Path:
    """64x48, 1000 counted frames at 50 fps (20 s), raw video: no part of it depends on another."""
    return make_clip(clips_dir / "raw.nut", size=SIZE, frames=FRAMES, rate=str(RATE))
