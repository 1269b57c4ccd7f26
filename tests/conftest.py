"""What every test relies on: nothing is left behind, and clips that many tests look at."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from clips import make_clip

_GRACE_S = 3.0


def shared_folder() -> Path:
    """Return the folder of real clips and weights, whether or not it is there."""
    repository = Path(__file__).parent.parent
    return Path(os.environ.get("VIDBG_SHARED", repository.parent / "shared"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests whose clips or hardware this machine does not have."""
    if item.get_closest_marker("shared") and not (shared_folder() / "data").is_dir():
        pytest.skip(f"no data folder in {shared_folder()}; set VIDBG_SHARED")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real clips and weights, for tests marked shared."""
    return shared_folder()


@pytest.fixture(scope="session", autouse=True)
def _weights_folder_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests out of the user's folder of weights, and what lies there out of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDBG_WEIGHTS_DIR", str(tmp_path_factory.mktemp("weights")))
        yield


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread of ours, an FFmpeg process or a part file."""
    uses_tmp_path = "tmp_path" in request.fixturenames
    folder: Path | None = request.getfixturevalue("tmp_path") if uses_tmp_path else None
    threads_before = set(threading.enumerate())
    processes_before = set(_ffmpeg_children())
    yield
    deadline = time.monotonic() + _GRACE_S
    while True:
        left = [
            *(f"thread {t.name}" for t in set(threading.enumerate()) - threads_before if _ours(t)),
            *(f"process {p.pid}" for p in set(_ffmpeg_children()) - processes_before),
        ]
        if folder is not None:
            left += [f"file {path}" for path in folder.rglob("*.part.*")]
        if not left:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {', '.join(left)}")
        time.sleep(0.02)


def _ours(thread: threading.Thread) -> bool:
    return thread.name.startswith("vidbg-")


def _ffmpeg_children() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "ffmpeg" in child.name().lower():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(scope="session")
def clips_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for clips that several tests read; none may write to it."""
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def plain_clip(clips_dir: Path) -> Path:
    """64x48, 10 counted frames at 25 fps, H.264 4:2:0 in MP4, no sound."""
    return make_clip(clips_dir / "plain.mp4")


@pytest.fixture(scope="session")
def talking_clip(clips_dir: Path) -> Path:
    """64x48, 50 counted frames at 25 fps, H.264 with B-frames in MP4, AAC sound of 2 s."""
    return make_clip(clips_dir / "talking.mp4", frames=50, audio="aac")


@pytest.fixture(scope="session")
def exact_clip(clips_dir: Path) -> Path:
    """64x48, 10 counted frames at 25 fps, lossless FFV1 4:2:0 in Matroska, no sound."""
    return make_clip(clips_dir / "exact.mkv")


@pytest.fixture(scope="session")
def long_clip(clips_dir: Path) -> Path:
    """64x48, 500 counted frames at 25 fps (20 s), H.264 with B-frames and one key frame a 10 s."""
    return make_clip(clips_dir / "long.mp4", frames=500, options=("-g", "250"))


@pytest.fixture(scope="session")
def uneven_clip(clips_dir: Path) -> Path:
    """64x48, 40 counted frames, H.264 in MP4: 20 of 1/30 s, then 20 of 1/10 s (VFR)."""
    durations = ["1/30"] * 20 + ["1/10"] * 20
    return make_clip(clips_dir / "uneven.mp4", frames=40, rate="30", durations=durations)
