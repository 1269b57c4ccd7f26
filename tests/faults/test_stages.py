"""Every stage fails in turn: the job ends soon, says why, and nothing is lost or left behind."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from jobs import Job

from vidbg.cli import dispatch

Start = Callable[..., Job]

# For the FFmpeg that stands in: the real one, and then something happens.
AND_THEN = '"$ffmpeg" "$@"; code=$?; {}; exit $code'
SHORT = ("--end", "0.2")


# --- processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "role"),
    [
        ("plain", "decoder"),
        ("folder", "decoder"),
        ("over a video", "background"),
        ("alpha", "encoder"),
        ("sequence", "encoder"),
        ("resume", "encoder"),
    ],
)
def test_a_killed_ffmpeg(start: Start, behind: Path, kind: str, role: str) -> None:
    job = start(kind, pace={"resume": 10, "folder": 4}.get(kind, 1))
    if kind == "resume":
        job.until(job.kept_frames)
    job.ffmpeg("encoder")
    job.ffmpeg(role).kill()
    ended = job.end()
    path = {"decoder": job.source, "background": behind}.get(role)
    job.assert_failed(ended, "Killed", *job.says_what_is_kept(), path=path)
    also = [job.out / "behind.vidbg.mp4"] if kind == "folder" else []  # the other clip is done
    job.assert_nothing_lost(*also)


def test_a_killed_decoder_is_no_damage(start: Start) -> None:
    """What --allow-damaged keeps would be half of a clip that is whole."""
    job = start("plain", "--allow-damaged")
    job.ffmpeg("encoder")
    job.ffmpeg("decoder").terminate()  # which FFmpeg catches, and ends in good order
    job.assert_failed(job.end(), "ended by a signal", path=job.source)
    job.assert_nothing_lost()


@pytest.mark.parametrize(
    ("role", "body", "words"),
    [
        ("encoder", "exec sleep 600", ["no progress for 1.5 s"]),
        ("encoder", "cat > /dev/null; exec sleep 600", ["not end within 1.5 s"]),
        ("decoder", '"$ffmpeg" "$@" | {{ head -c 50000; exec sleep 600; }}', ["no progress"]),
        ("background", "exec sleep 600", ["no progress"]),
    ],
    ids=["full-pipe", "never-ends", "decoder", "background"],
)
def test_a_stuck_ffmpeg(
    start: Start, behind: Path, role: str, body: str, words: Sequence[str]
) -> None:
    more = SHORT if "cat" in body else ()
    environment = {"VIDBG_STALL_S": "1.5"}
    job = start("over a video", *more, stand_in={role: body}, environment=environment, pace=9)
    ended = job.end()
    path = {"decoder": job.source, "background": behind}.get(role)
    job.assert_failed(ended, *words, "VIDBG_STALL_S", path=path)
    job.assert_nothing_lost()


# --- disk and files ----------------------------------------------------------------------------


def test_a_file_that_may_not_grow(start: Start) -> None:
    """A limit on the size of files: a write fails, or its signal ends FFmpeg."""
    size = 15_000

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    job = start("resume", prepare=limit, pace=20)
    job.assert_failed(job.end(60), "cannot be written", *job.says_what_is_kept(), "Free some space")
    job.assert_nothing_lost()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, where one can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    options = ["-t", "tmpfs", "-o", "size=64k"]
    if subprocess.run([mount, *options, "none", folder], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kind", ["alpha", "sequence"])
def test_a_full_disk(start: Start, small_disk: Path, kind: str) -> None:
    job = start(kind, out=small_disk / "out", pace=20)
    job.assert_failed(job.end(60), "No space left", "Free some space")
    job.assert_nothing_lost()


@pytest.mark.parametrize("kind", ["plain", "sequence", "resume"])
def test_an_output_folder_that_is_removed(start: Start, kind: str) -> None:
    job = start(kind)
    job.ffmpeg("encoder")
    # In one step, out of the way of what is still being written: it cannot come back half removed.
    shutil.rmtree(job.out.rename(job.out.with_name("removed")))
    ended = job.end()
    job.assert_failed(ended)
    assert "kept" not in ended.stderr
    assert not job.out.exists()


@pytest.mark.parametrize("kind", ["plain", "sequence", "resume"])
def test_a_folder_that_may_no_longer_be_written_to(start: Start, kind: str) -> None:
    """The fault comes when all is encoded, and nothing but the last step is left to do."""
    happens = "chmod 555 {out} {out}/pictures 2> /dev/null"
    job = start(
        kind, *SHORT, stand_in={"encoder": AND_THEN.format(happens)}, prepare=obey_permissions
    )
    ended = job.end()
    for folder in (job.out, job.output.parent):
        folder.chmod(0o755)
    # What may not be written to cannot be cleared away either: that is said, beside the cause.
    *_, ended.stderr = sorted(ended.stderr.splitlines(), key=lambda line: "left behind" not in line)
    job.assert_failed(ended, "denied", *job.says_what_is_kept(), path=job.output.parent)
    parts = [*job.out.rglob("*.part.mp4"), *job.out.rglob("*.part.frames")]
    job.assert_nothing_lost(*parts, *job.out.rglob("*.part.frames/*"))
    shutil.rmtree(job.out)


def test_a_name_that_becomes_a_folders(start: Start) -> None:
    happens = AND_THEN.format("rm {out}/out.mp4; mkdir {out}/out.mp4")
    job = start("plain", *SHORT, stand_in={"encoder": happens})
    job.assert_failed(job.end(), "cannot be named", "directory")
    assert list(job.out.rglob("*")) == [job.output]


def obey_permissions() -> None:
    """Let root be refused what a file's mode refuses to its owner, from the next program on."""
    if os.geteuid() == 0:
        drop, override, read_search = 24, 1, 2  # PR_CAPBSET_DROP, CAP_DAC_...
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (override, read_search):
            if libc.prctl(drop, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "cannot be given up")


def test_an_input_that_may_no_longer_be_read(start: Start) -> None:
    job = start(stand_in={"decoder": "chmod 000 {source}"}, prepare=obey_permissions)
    job.assert_failed(job.end(), "cannot be decoded", "ermission denied", path=job.source)
    job.assert_nothing_lost()


# --- memory ------------------------------------------------------------------------------------


# Until somebody says so.
HELD = "while [ ! -e {source}.go ]; do sleep 0.05; done"


def leave_no_memory(process: psutil.Process) -> None:
    """Let a running process have no more of the system than it has."""
    process.rlimit(psutil.RLIMIT_AS, (1 << 20, 1 << 20))


def test_no_memory_for_the_next_frames(start: Start, large_clip: Path) -> None:
    job = start("plain", clip=large_clip, stand_in={"decoder": HELD})
    leave_no_memory(job.waiting_itself())
    Path(f"{job.source}.go").touch()
    job.assert_failed(job.end(), "vidbg: out of memory", "--batch-size 1", path=Path())
    job.assert_nothing_lost()


def test_no_memory_for_an_encoder(start: Start, large_clip: Path) -> None:
    job = start("sequence", clip=large_clip, stand_in={"decoder": HELD})
    leave_no_memory(job.waiting_encoder())
    Path(f"{job.source}.go").touch()
    job.assert_failed(job.end(), "cannot be written", "out of memory", "--batch-size 1")
    job.assert_nothing_lost()


@pytest.mark.parametrize("options", [(), ("--allow-damaged",)])
def test_frames_that_no_memory_was_left_for_are_no_damage(
    start: Start, options: tuple[str, ...]
) -> None:
    """FFmpeg leaves them out, says so, and goes on."""
    said = "[vist#0:0/mpeg4 @ 0x5] [error] Error submitting packet: Cannot allocate memory"
    happens = AND_THEN.format(f"echo '{said}' >&2")
    job = start("plain", *SHORT, *options, stand_in={"decoder": happens})
    ended = job.end()
    job.assert_failed(ended, "out of memory", "--batch-size 1", path=job.source)
    assert "--allow-damaged" not in ended.stderr
    job.assert_nothing_lost()


def test_sound_that_is_gone(start: Start) -> None:
    """The encoder opens the clip once more, for its sound, and finds nothing there."""
    elsewhere = (
        'for part; do shift; [ "$part" = file:{source} ] && part=file:{source}.gone; '
        'set -- "$@" "$part"; done'
    )
    job = start(stand_in={"encoder": elsewhere})
    job.assert_failed(job.end(), "cannot be written", "No such file")
    job.assert_nothing_lost()


@pytest.mark.parametrize("clip", ["slow_clip", "raw_clip"])
def test_an_input_that_is_cut_short_while_it_is_read(
    start: Start, clip: str, request: pytest.FixtureRequest
) -> None:
    job = start(clip=request.getfixturevalue(clip), spoils_source=True, pace=4)
    job.ffmpeg("encoder")
    os.truncate(job.source, job.source.stat().st_size // 3)
    job.assert_failed(job.end(40), "changed while it was read", path=job.source)
    job.assert_nothing_lost()


# --- what is in the middle ---------------------------------------------------------------------


class Failing:
    """A segmenter that fails in the midst of a clip.

    Args:
        error: What it raises.
    """

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._calls = 0

    def input_size(self, width: int, height: int, sar: Any) -> tuple[int, int]:
        return 32, 32

    def batch_size(self, height: int, width: int) -> int:
        return 1

    def __call__(self, rgb: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self._calls += 1
        if self._calls > 3:
            raise self._error
        return np.ones(rgb.shape[:3], np.float32)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("the weights fell out"), ["unexpected RuntimeError: the weights fell out"]),
        (MemoryError(), ["out of memory", "--batch-size 1"]),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_a_network_that_fails(
    tmp_path: Path,
    plain_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    words: Sequence[str],
    debug: bool,
) -> None:
    out = tmp_path / "out.mp4"
    monkeypatch.setattr("vidbg.pipeline.load", lambda *_, **__: Failing(error))
    monkeypatch.setattr(dispatch, "_unwind_on_signals", lambda: None)
    arguments = [str(plain_clip), "--bg", "red", "-o", str(out), "-q"]
    if debug:
        with pytest.raises(type(error)) as caught:
            dispatch._run([*arguments, "--debug"])
        assert caught.value is error  # with its traceback, which Python prints
    else:
        assert dispatch._run(arguments) == 1
        said = capfd.readouterr().err
        assert said.startswith("vidbg: ")
        assert said.count("\n") == 1
        assert all(word in said for word in words), said
    assert list(tmp_path.iterdir()) == []
