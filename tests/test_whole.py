from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from vidbg.errors import OutputError
from vidbg.whole import Part, write_whole


def test_what_is_there_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "told.json"
    for content in (b"first", b"", b"third"):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "told.json"
    folder.mkdir()
    with pytest.raises(OutputError, match=r"told\.json: cannot be written"):
        write_whole(folder, b"text")
    assert list(tmp_path.iterdir()) == [folder]
    with pytest.raises(OutputError, match="cannot be written"):
        write_whole(tmp_path / "no" / "told.json", b"text")


def test_an_interruption_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "told.json"
    path.write_bytes(b"precious")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vidbg.whole.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"half")
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


# Makes a part of that name and is killed over it, or is asked whether it may wait.
HOLDER = """
import os, pathlib, signal, sys
from vidbg.whole import Part
part = Part(pathlib.Path(sys.argv[1]), "out", ".mp4", pathlib.Path.touch)
print(part.path.name, flush=True)
sys.stdin.read()
"""

posix = pytest.mark.skipif(sys.platform == "win32", reason="nothing is swept on Windows")


def held(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, folder / process.stdout.readline().strip()


@posix
def test_a_part_that_a_killed_job_left_goes_with_the_next(tmp_path: Path) -> None:
    with held(tmp_path)[0] as killed:
        (left,) = tmp_path.iterdir()
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    process, working = held(tmp_path)
    with process:
        assert not left.exists()
        part = Part(tmp_path, "out", ".mp4", Path.touch)
        assert working.exists()  # another job's, which runs
        process.kill()
    part.path.unlink()
    part.release()
    working.unlink()


@posix
def test_a_folder_of_parts_goes_too(tmp_path: Path) -> None:
    left = Part(tmp_path, "frames", ".frames", Path.mkdir)
    (left.path / "000001.png").touch()
    left.release()
    again = Part(tmp_path, "frames", ".frames", Path.mkdir)
    assert list(tmp_path.iterdir()) == [again.path]
    again.release()
    again.path.rmdir()


@pytest.mark.skipif(sys.platform != "linux", reason="locks of bytes that belong to an open file")
def test_a_part_may_be_written_to_while_it_is_locked(tmp_path: Path) -> None:
    """Also where a lock keeps others from writing what it covers: it covers no byte of a file."""
    import fcntl

    part = Part(tmp_path, "out", ".mp4", Path.touch)
    with part.path.open("r+b") as other:
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1 << 50, 0)
        fcntl.fcntl(other, fcntl.F_OFD_SETLK, request)  # none of these bytes is anybody's
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # to any length
        with pytest.raises(BlockingIOError):
            fcntl.fcntl(other, fcntl.F_OFD_SETLK, request)
    part.release()
    part.path.unlink()


@posix
def test_what_is_neither_a_file_nor_a_folder_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "out.0123abcd.part.mp4"
    os.mkfifo(pipe)
    link = tmp_path / "out.4567abcd.part.mp4"
    link.symlink_to(tmp_path / "precious")
    part = Part(tmp_path, "out", ".mp4", Path.touch)
    assert pipe.is_fifo()
    assert link.is_symlink()
    part.release()
    part.path.unlink()
    pipe.unlink()
    link.unlink()


def test_other_names_stay(tmp_path: Path) -> None:
    names = [
        "out.mp4", "out.1234567.part.mp4", "out.12345678.part.mkv", "b.out.12345678.part.mp4",
        "out.1234567g.part.mp4", "out.12345678.part.mp4.bak",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).touch()
    kept = tmp_path / "kept"
    kept.touch()
    (tmp_path / "out.00000000.part.mp4").symlink_to(kept)
    part = Part(tmp_path, "out", ".mp4", Path.touch)
    part.path.unlink()
    part.release()
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir() if path.name in names)
    assert kept.exists()
    for path in tmp_path.glob("*.part.*"):
        path.unlink()


@posix
def test_the_numbers_of_files_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on file systems that give a file a new one at each look."""
    real = os.fstat

    def renumbered(descriptor: int) -> os.stat_result:
        mode, number, *rest = real(descriptor)
        return os.stat_result((mode, number + 1, *rest))

    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        assert len(made) < 5
        path.touch()

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", renumbered)
        part = Part(tmp_path, "out", ".mp4", make)
    assert made == [part.path]
    part.path.unlink()
    part.release()


@posix
def test_a_part_that_is_swept_away_at_once_is_made_again(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        if len(made) > 1:
            path.touch()

    part = Part(tmp_path, "out", ".mp4", make)
    assert len(made) == 2
    assert list(tmp_path.iterdir()) == [part.path] == made[1:]
    os.unlink(part.path)
    part.release()
