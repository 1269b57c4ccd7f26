"""FFmpeg's process: chosen, started, fed, watched, ended."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import psutil
import pytest

from vidbg.errors import FFmpegError
from vidbg.media import ffmpeg as ff

posix_only = pytest.mark.skipif(os.name != "posix", reason="a shell script stands for FFmpeg")

MakeProgram = Callable[[str], Path]


@pytest.fixture
def make_program(tmp_path: Path) -> MakeProgram:
    """Write a shell script that can be run."""

    def make(body: str) -> Path:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def as_ffmpeg(make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch) -> MakeProgram:
    """Let a shell script stand for FFmpeg."""

    def stand_in(body: str) -> Path:
        path = make_program(body)
        monkeypatch.setattr(ff, "executable", lambda: str(path))
        return path

    return stand_in


@pytest.fixture
def _chosen_anew() -> Iterator[None]:
    """Forget which binary was chosen, before and after."""
    ff.executable.cache_clear()
    yield
    ff.executable.cache_clear()


# --- which binary ------------------------------------------------------------------------------


@pytest.mark.usefixtures("_chosen_anew")
def test_the_bundled_binary_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDBG_FFMPEG", raising=False)
    assert ff.executable() == imageio_ffmpeg.get_ffmpeg_exe()


@posix_only
@pytest.mark.usefixtures("_chosen_anew")
@pytest.mark.parametrize(
    ("banner", "has_queues"),
    [
        ("ffmpeg version 5.1.2-0+deb12u1 Copyright", False),
        ("ffmpeg version 6.0", True),
        ("ffmpeg version n9.0.2-17-g2a571b6068 Copyright", True),
        ("ffmpeg version 7.1-full_build-www.example.org", True),
        ("ffmpeg version N-117770-g322b240cea Copyright", True),  # between releases: trusted
    ],
)
def test_a_binary_of_ones_own(
    banner: str, has_queues: bool, make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_program(f"echo '{banner}'")
    monkeypatch.setenv("VIDBG_FFMPEG", str(path))
    assert ff.executable() == str(path)
    assert ff.few_waiting() == ({"thread_queue_size": 1} if has_queues else {})


@posix_only
@pytest.mark.usefixtures("_chosen_anew")
def test_system_means_the_first_on_the_path(
    make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_program("echo ffmpeg version 6.0").rename(make_program("").parent / "ffmpeg")
    monkeypatch.setenv("PATH", str(path.parent))
    monkeypatch.setenv("VIDBG_FFMPEG", "system")
    assert ff.executable() == str(path)


@pytest.mark.usefixtures("_chosen_anew")
def test_a_binary_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDBG_FFMPEG", "/no/such/ffmpeg")
    with pytest.raises(FFmpegError, match="VIDBG_FFMPEG=/no/such/ffmpeg names no program"):
        ff.executable()


@posix_only
@pytest.mark.usefixtures("_chosen_anew")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo ffmpeg version 4.4.2-0ubuntu0.22.04.1", r"FFmpeg 4\.4 is too old, 5\.1 is needed"),
        ("echo ffmpeg version 5.0.1", r"FFmpeg 5\.0 is too old"),
        ("exit 3", "FFmpeg does not run"),
    ],
)
def test_a_binary_that_will_not_do(
    body: str, message: str, make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDBG_FFMPEG", str(make_program(body)))
    with pytest.raises(FFmpegError, match=message):
        ff.executable()


# --- reading and writing -----------------------------------------------------------------------


def copying_arguments(frames: int) -> list[str]:
    """Return arguments that send raw grey frames of 1 MiB from stdin to stdout."""
    raw = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", "1024x1024"]
    return [*raw, "-i", "pipe:0", "-frames:v", str(frames), *raw, "pipe:1"]


def test_what_is_written_is_read() -> None:
    """More than pipes hold, in both directions at once."""
    sent = os.urandom(1 << 20) * 6
    received = bytearray(len(sent) + 10)
    with ff.Process(copying_arguments(6), writes=True, reads=True) as process:

        def feed() -> None:
            process.write(memoryview(sent))
            process.close_stdin()

        writer = threading.Thread(target=feed)
        writer.start()
        count = process.read_into(memoryview(received))
        writer.join()
        assert process.wait() == 0
        assert process.returncode == 0
    assert count == len(sent)
    assert received[:count] == sent


def test_reading_needs_a_pipe() -> None:
    with ff.Process(["-version"]) as process:
        with pytest.raises(ValueError, match="reads=True"):
            process.read_into(memoryview(bytearray(1)))
        with pytest.raises(ValueError, match="writes=True"):
            process.write(memoryview(b"x"))


def test_nothing_left_to_read_is_nothing() -> None:
    with ff.Process(["-version"], reads=True) as process:
        everything = bytearray(1 << 20)
        assert process.read_into(memoryview(everything)) > 100
        assert process.read_into(memoryview(everything)) == 0


def test_writing_to_a_process_that_ended(as_ffmpeg: MakeProgram) -> None:
    as_ffmpeg("exit 0")
    with ff.Process([], writes=True) as process:
        process.wait()
        with pytest.raises(BrokenPipeError):
            process.write(memoryview(bytes(1 << 22)))


# --- stalls, kills, children -------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["reading", "writing"])
def test_a_process_that_neither_takes_nor_gives_is_given_up(
    direction: str, as_ffmpeg: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ff, "STALL_TIMEOUT_S", 0.3)
    as_ffmpeg("exec sleep 600")
    begun = time.monotonic()
    with ff.Process([], writes=True, reads=True) as process:
        transfer = process.read_into if direction == "reading" else process.write
        with pytest.raises(FFmpegError, match="no progress"):
            transfer(memoryview(bytearray(1 << 24)))
    assert time.monotonic() - begun < 5
    assert process.returncode is not None


def test_slow_is_not_stalled(as_ffmpeg: MakeProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ff, "STALL_TIMEOUT_S", 1.5)
    as_ffmpeg("for n in 1 2 3 4 5 6; do printf x; sleep 0.3; done")
    with ff.Process([], reads=True) as process:
        assert process.read_into(memoryview(bytearray(100))) == 6


@posix_only
@pytest.mark.parametrize("direction", ["reading", "writing"])
def test_a_kill_from_another_thread_ends_a_wait(direction: str, as_ffmpeg: MakeProgram) -> None:
    as_ffmpeg("exec sleep 600")
    with ff.Process([], writes=True, reads=True) as process:
        timer = threading.Timer(0.3, process.kill)
        timer.start()
        begun = time.monotonic()
        if direction == "reading":
            assert process.read_into(memoryview(bytearray(10))) == 0
        else:
            with pytest.raises(BrokenPipeError):
                process.write(memoryview(bytes(1 << 24)))
        assert time.monotonic() - begun < 5
        assert process.was_killed
        assert process.wait() < 0
        process.kill()  # again, of what is no more
        timer.join()


@posix_only
def test_children_end_with_the_process(as_ffmpeg: MakeProgram, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    as_ffmpeg(f"sleep 600 & echo $! > {note}.new; mv {note}.new {note}; wait")
    with ff.Process([], reads=True) as process:
        pid = process._popen.pid
        deadline = time.monotonic() + 20
        while not note.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        child = psutil.Process(int(note.read_text()))
        assert os.getsid(pid) != os.getsid(0)  # a Ctrl-C in the terminal is ours to handle
    assert not psutil.pid_exists(pid)  # not even as a zombie
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:  # init's to reap
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_exception_ends_the_process(as_ffmpeg: MakeProgram) -> None:
    as_ffmpeg("exec sleep 600")
    with pytest.raises(KeyError), ff.Process([], reads=True, writes=True) as process:
        raise KeyError
    assert process.returncode is not None
    assert not psutil.pid_exists(process._popen.pid)


def test_no_threads_no_process(as_ffmpeg: MakeProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    as_ffmpeg("exec sleep 600")

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = set(psutil.Process().children())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(FFmpegError, match="cannot be watched"):
        ff.Process([])
    assert set(psutil.Process().children()) == before


def test_a_program_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ff, "executable", lambda: "/no/such/ffmpeg")
    with pytest.raises(FFmpegError, match="cannot be started"):
        ff.Process([])
    with pytest.raises(FFmpegError, match="cannot be started"):
        ff.run([])


def test_waiting_has_an_end(as_ffmpeg: MakeProgram) -> None:
    as_ffmpeg("exec sleep 600")
    with (
        ff.Process([]) as process,
        pytest.raises(FFmpegError, match=r"did not end within 0\.1 seconds"),
    ):
        process.wait(0.1)
    assert process.returncode is not None


def test_the_exit_status_is_told(as_ffmpeg: MakeProgram) -> None:
    as_ffmpeg("exit 7")
    with ff.Process([]) as process:
        assert process.wait() == 7


@pytest.mark.parametrize("wrong", ["soon", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_none(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDBG_STALL_S", wrong)
    with pytest.raises(FFmpegError, match=f"VIDBG_STALL_S={wrong} is no number of seconds"):
        ff.Process(["-version"])


# --- messages ----------------------------------------------------------------------------------


@posix_only
def test_a_flood_of_messages_is_drained_and_bounded(as_ffmpeg: MakeProgram) -> None:
    as_ffmpeg("yes '[error] a line of a flood' | head -c 5200000 >&2; printf done")
    received = bytearray(10)
    with ff.Process([], reads=True) as process:
        assert process.read_into(memoryview(received)) == 4
        assert process.wait() == 0
    assert len(process.tail) == 40
    assert set(process.tail) == {"[error] a line of a flood"}
    assert process.damage_count == 5_200_000 // len("[error] a line of a flood\n")


@posix_only
def test_a_message_without_an_end_is_bounded(as_ffmpeg: MakeProgram) -> None:
    as_ffmpeg("(printf BEGIN; head -c 5000000 /dev/zero | tr '\\0' x) >&2")
    with ff.Process([]) as process:
        process.wait()
    (line,) = process.tail
    assert set(line) == {"x"}  # its beginning has been let go


@posix_only
def test_the_cause_of_a_failure(as_ffmpeg: MakeProgram) -> None:
    as_ffmpeg(
        "echo '[mp4 @ 0x55] [error] No space left on device' >&2;"
        "echo '[out#0/mp4 @ 0x55] [error] Conversion failed!' >&2; exit 1"
    )
    with ff.Process([]) as process:
        assert process.wait() == 1
    assert process.cause() == "No space left on device"
    assert process.first_damage == "No space left on device"
    assert process.damage_count == 2


@posix_only
def test_without_a_complaint_the_last_message_is_the_cause(as_ffmpeg: MakeProgram) -> None:
    as_ffmpeg("echo '[warning] one' >&2; echo '[warning] two' >&2; exit 1")
    with ff.Process([]) as process:
        process.wait()
    assert process.cause() == "two"
    as_ffmpeg("exit 1")
    with ff.Process([]) as process:
        process.wait()
    assert process.cause() == "no message"


@pytest.mark.parametrize(
    ("line", "is_complaint"),
    [
        ("[h264 @ 0x5] [error] error while decoding MB 3 4, bytestream -5", True),
        ("[fatal] Conversion failed!", True),
        ("[panic] what now", True),
        ("[vist#0:0/h264 @ 0x5] [warning] corrupt decoded frame", True),
        ("[warning] file:a.mp4: corrupt decoded frame in stream 0", True),
        ("[h264 @ 0x5] [error] mmco: unref short failure", False),
        ("[h264 @ 0x5] [error] co located POCs unavailable", False),
        ("[in#0/mpegts @ 0x5] [warning] Packet corrupt (stream = 0, dts = 302400).", False),
        ("[swscaler @ 0x5] [warning] deprecated pixel format used", False),
        ("[info] Stream #0:0: Video: h264", False),
        ("", False),
    ],
)
def test_complaints_are_told_from_chatter(line: str, is_complaint: bool) -> None:
    assert ff.is_complaint(line) == is_complaint


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        ("[h264 @ 0x55fa] [error] left block unavailable", "left block unavailable"),
        ("[fatal] Conversion failed!", "Conversion failed!"),
        ("file:[a].mp4: Invalid data", "file:[a].mp4: Invalid data"),
        ("[error] [a] b", "b"),
    ],
)
def test_messages_without_their_prefixes(line: str, plain: str) -> None:
    assert ff.plain(line) == plain


# --- run ---------------------------------------------------------------------------------------


def test_run_returns_what_ffmpeg_wrote() -> None:
    frames = bytes(range(256)) * 4096
    ran = ff.run(copying_arguments(1), feed=frames)
    assert (ran.returncode, ran.stdout) == (0, frames)


def test_run_feeds_the_slow(as_ffmpeg: MakeProgram) -> None:
    """More than a pipe holds, by far, to a program that begins to read after a while."""
    as_ffmpeg("sleep 0.5\nexec wc -c\n")
    ran = ff.run([], feed=bytes(5_000_000), timeout_s=10)
    assert ran.stdout.split() == [b"5000000"]


def test_run_tells_the_first_complaint() -> None:
    ran = ff.run(["-i", "file:/no/such/file", "-f", "null", "-"])
    assert ran.returncode != 0
    assert "No such file" in ran.cause()


@posix_only
def test_run_has_an_end(as_ffmpeg: MakeProgram) -> None:
    as_ffmpeg("exec sleep 600")
    with pytest.raises(FFmpegError, match="did not end within"):
        ff.run([], timeout_s=0.2)


@posix_only
def test_run_without_messages(as_ffmpeg: MakeProgram) -> None:
    as_ffmpeg("exit 2")
    assert ff.run([]).cause() == "no message"


def test_paths_are_never_protocols_or_options() -> None:
    assert ff.file_url(Path("-i.mp4")) == "file:-i.mp4"
    assert ff.file_url(Path("http://x")) == "file:http:/x"
    assert ff.file_url(Path("a%03d.png")) == "file:a%03d.png"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have pipes of one size")
def test_pipes_hold_a_frame() -> None:
    import fcntl

    with ff.Process(["-version"], reads=True) as process:
        stream = process._popen.stdout
        assert stream is not None
        size = fcntl.fcntl(stream.fileno(), fcntl.F_GETPIPE_SZ)
    # Where the user's quota for pipes is used up, the default has to do.
    assert size in (1 << 20, 1 << 16, 4096)
