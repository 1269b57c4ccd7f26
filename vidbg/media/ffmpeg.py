"""The FFmpeg binary: which one, how its processes are started, watched and ended."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import select
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from vidbg.errors import MEMORY_HINT, FFmpegError, tells_of_no_memory
from vidbg.media import guard
from vidbg.profile import bill, waiting

logger = logging.getLogger(__name__)

OLDEST_VERSION = (5, 1)
# A process that neither takes nor gives a byte for this long is taken for dead. Generous:
# a slow encoder with a long look-ahead on a busy machine may need a minute for a 4K frame.
# The environment variable VIDBG_STALL_S says otherwise.
STALL_TIMEOUT_S = 300.0
# Bit-exact and with chroma of every pixel: conversions here are between layouts of the same
# samples, and must not change them.
EXACT_FLAGS = "accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
# The first version that can be told how many frames wait before a pipe.
_QUEUE_VERSION = (6, 0)
_MAYBE_SLOW = "If it is only slow, set VIDBG_STALL_S to more seconds"
_POLL_S = 0.2
# Between two looks at a clock that lie further apart we did not run: Ctrl-Z, a closed lid.
_LONGEST_STEP_S = 1.0
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.0005, 0.05
_TAIL_LINES = 40
# FFmpeg's exit status after a signal that it catches, as SIGTERM. Of the error of the same number,
# that something is not permitted, it speaks.
_SIGNALLED = 255
# PEP 383's stand-ins for undecodable bytes, and the end of the last private use plane.
_HIDDEN = {0xDC80 + n: 0x10FF00 + n for n in range(128)}
_SHOWN = {private: stand_in for stand_in, private in _HIDDEN.items()}
_PIPE_BYTES = 1 << 20
# Every FFmpeg that runs now, of all threads.
_running: set[_Child] = set()

# Messages of level "error" that healthy files cause, by decoder bookkeeping alone.
_HARMLESS = re.compile(
    r"mmco: unref short failure|co located POCs unavailable"
    r"|number of reference frames .* exceeds max|non monotonically increasing dts"
    r"|Could not find codec parameters|Referenced QT chapter track not found"
)
# Not "Packet corrupt": that is also where recordings of a broadcast were joined.
_DAMAGE = re.compile(r"\[(?:error|fatal|panic)\]|corrupt decoded frame")


@cache
def executable() -> str:
    """Return the path of the FFmpeg binary.

    The one that the imageio-ffmpeg wheel carries, unless the environment variable
    VIDBG_FFMPEG says "system" (the first on PATH) or names a file.

    Raises:
        FFmpegError: There is no such binary, it does not run, or it is older than 5.1.
    """
    choice = os.environ.get("VIDBG_FFMPEG", "")
    if not choice:
        import imageio_ffmpeg

        try:
            path = str(imageio_ffmpeg.get_ffmpeg_exe())
        except RuntimeError as error:
            raise FFmpegError(
                "no FFmpeg binary came with imageio-ffmpeg",
                hint="Install FFmpeg and set VIDBG_FFMPEG=system",
            ) from error
    else:
        found = shutil.which("ffmpeg" if choice == "system" else choice)
        if found is None:
            raise FFmpegError(
                f"VIDBG_FFMPEG={choice} names no program", hint="Unset it to use the bundled one"
            )
        path = found
    found_version = _version(path)
    if found_version is not None and found_version < OLDEST_VERSION:
        raise FFmpegError(
            f"FFmpeg {'.'.join(map(str, found_version))} is too old, 5.1 is needed",
            path=path,
            hint="Unset VIDBG_FFMPEG to use the bundled one",
        )
    return path


def few_waiting() -> dict[str, int]:
    """Return the options of an output to a pipe before which few raw frames are to wait.

    FFmpeg's own 8 of them are 100 MB at 4K, and are always full, since a decoder is faster than
    what follows. Before version 6 it has no such option.
    """
    version = _version(executable())
    return {} if version is not None and version < _QUEUE_VERSION else {"thread_queue_size": 1}


@cache
def _version(path: str) -> tuple[int, int] | None:
    """Return FFmpeg's (major, minor), or None for a build that has no release number."""
    try:
        shown = subprocess.run(  # noqa: S603 - argv list, no shell
            [path, "-hide_banner", "-version"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=True,
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError) as error:
        raise FFmpegError(f"FFmpeg does not run ({error})", path=path) from error
    match = re.match(r"ffmpeg version n?(\d+)\.(\d+)", shown)
    return None if match is None else (int(match[1]), int(match[2]))


def file_url(path: Path) -> str:
    """Return a path in the form that FFmpeg never takes for a protocol or an option.

    Bytes of a name that are no UTF-8 are moved to characters that nobody uses, because
    ffmpeg-python encodes its arguments; :func:`command` moves them back.
    """
    return f"file:{path}".translate(_HIDDEN)


def command(arguments: Sequence[str]) -> list[str]:
    """Return a full argv: the binary, our logging options, then ``arguments``.

    Args:
        arguments: What ffmpeg-python compiled, without the binary's name.
    """
    shown = [argument.translate(_SHOWN) for argument in arguments]
    return [executable(), "-hide_banner", "-nostats", "-v", "level+warning", *shown]


def stall_limit_s() -> float:
    """Return for how many seconds a process may stand still.

    Raises:
        FFmpegError: VIDBG_STALL_S is no number above 0.
    """
    choice = os.environ.get("VIDBG_STALL_S", "")
    if not choice:
        return STALL_TIMEOUT_S
    try:
        limit_s = float(choice)
    except ValueError:
        limit_s = 0.0
    if not 0 < limit_s < math.inf:
        raise FFmpegError(f"VIDBG_STALL_S={choice} is no number of seconds above 0")
    return limit_s


class _Patience:
    """How much longer a wait may take, of the time in which we run: a suspended job waits too.

    Args:
        limit_s: Seconds in all.
    """

    def __init__(self, limit_s: float) -> None:
        self._left_s = limit_s
        self._last_s = time.monotonic()

    def is_over(self) -> bool:
        """Say whether the time is up. To be asked at least once a second."""
        now_s = time.monotonic()
        self._left_s -= min(now_s - self._last_s, _LONGEST_STEP_S)
        self._last_s = now_s
        return self._left_s <= 0


class _Child(subprocess.Popen[bytes]):
    """A process that tells at its end what it took of the processors.

    The system says that once, to whoever collects the exit status; all ways to that lead here.

    Attributes:
        cpu_s: Seconds of CPU time that it took, once it has ended; None where the system has no
            word on that.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._collecting = threading.Lock()
        self.cpu_s: float | None = None
        super().__init__(*arguments, **options)

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        if not hasattr(os, "wait4"):  # Windows
            return super().poll()
        with self._collecting:
            if self.returncode is None:
                try:
                    pid, status, used = os.wait4(self.pid, os.WNOHANG)
                except ChildProcessError:  # whoever started us lets the system collect
                    return super().poll()
                if pid:
                    guard.forget(pid)  # from now on it may be another process's number
                    self.returncode = os.waitstatus_to_exitcode(status)
                    self.cpu_s = used.ru_utime + used.ru_stime
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status.

        Raises:
            subprocess.TimeoutExpired: It runs longer than ``timeout`` seconds.
        """
        if not hasattr(os, "wait4"):
            return super().wait(timeout)
        patience = _Patience(math.inf if timeout is None else timeout)
        delay_s = _SHORTEST_WAIT_S
        while (status := self.poll()) is None:
            if patience.is_over():
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            time.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_WAIT_S)
        return status


class Process:
    """A running FFmpeg in a session of its own, with its stderr drained.

    As a context manager it never leaves a process behind: leaving the block kills
    whatever still runs.

    Args:
        arguments: FFmpeg's arguments, without the binary and logging options.
        writes: We will write to its standard input.
        reads: We will read from its standard output.
        folder: Where it runs, which relative names then start from; None for where we do.

    Raises:
        FFmpegError: The binary is missing or cannot be started, or VIDBG_STALL_S is no number.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        writes: bool = False,
        reads: bool = False,
        folder: Path | None = None,
    ) -> None:
        argv = command(arguments)
        argv[0] = os.path.abspath(argv[0])
        self._stall_s = stall_limit_s()
        self._bill = bill()
        logger.debug("start %s", argv)
        try:
            self._popen = _Child(
                argv,
                stdin=subprocess.PIPE if writes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if reads else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                cwd=folder,
            )
        except OSError as error:
            raise FFmpegError(
                f"FFmpeg cannot be started ({error})", path=argv[0], hint=hint_for(str(error))
            ) from error
        _take_note(self._popen)
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.damage_count = 0
        self.first_damage: str | None = None
        self.was_killed = False
        self._drain = threading.Thread(target=self._drain_stderr, name="vidbg-stderr", daemon=True)
        try:
            self._drain.start()
        except RuntimeError as error:  # no more threads: nobody would ever end the process
            self.kill()
            self._popen.wait()
            _let_go(self._popen)
            self._close_pipes()
            raise FFmpegError(
                f"FFmpeg cannot be watched ({error})", path=argv[0], hint=hint_for(str(error))
            ) from error
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                _prepare_pipe(pipe.fileno())

    @property
    def returncode(self) -> int | None:
        """FFmpeg's exit status, or None while it runs."""
        return self._popen.poll()

    def _drain_stderr(self) -> None:
        stream = self._popen.stderr
        if stream is None:
            return
        pending = b""
        while chunk := stream.read(65536):
            *lines, pending = (pending + chunk).split(b"\n")
            pending = pending[-4096:]  # a hostile file can make FFmpeg print without an end
            for line in lines:
                self._note(line)
        self._note(pending)

    def _note(self, raw: bytes) -> None:
        line = raw.decode("utf-8", "replace").strip()
        if not line:
            return
        self.tail.append(line[:1000])
        logger.debug("ffmpeg: %s", line)
        if is_complaint(line):
            self.damage_count += 1
            if self.first_damage is None:
                self.first_damage = plain(line)

    def read_into(self, buffer: memoryview) -> int:
        """Fill ``buffer`` from standard output; return how many bytes came before its end.

        Raises:
            FFmpegError: Nothing came for :func:`stall_limit_s` seconds.
        """
        stream = self._popen.stdout
        if stream is None:
            raise ValueError("the process was started without reads=True")
        filled = 0
        while filled < len(buffer):
            self._await(stream.fileno(), select.POLLIN if hasattr(select, "POLLIN") else 0)
            count = stream.readinto(buffer[filled:])  # type: ignore[attr-defined]
            if count is None:
                continue
            if count == 0:
                break
            filled += count
        return filled

    def write(self, chunk: memoryview) -> None:
        """Write all of ``chunk`` to standard input.

        Raises:
            BrokenPipeError: The process has ended.
            FFmpegError: It took nothing for :func:`stall_limit_s` seconds.
        """
        stream = self._popen.stdin
        if stream is None:
            raise ValueError("the process was started without writes=True")
        sent = 0
        while sent < len(chunk):
            self._await(stream.fileno(), select.POLLOUT if hasattr(select, "POLLOUT") else 0)
            sent += stream.write(chunk[sent:]) or 0  # None where there is no room after all

    def _await(self, fd: int, event: int) -> None:
        """Wait until a pipe is ready, in steps short enough for signals to be handled."""
        if not hasattr(select, "poll"):  # Windows: pipes block, and cannot be polled
            return
        poll = select.poll()
        poll.register(fd, event)
        patience = _Patience(self._stall_s)
        with waiting("ffmpeg"):
            while not poll.poll(_POLL_S * 1000):
                if self.was_killed:
                    return
                if patience.is_over():
                    raise FFmpegError(
                        f"FFmpeg made no progress for {self._stall_s:g} seconds",
                        hint=_MAYBE_SLOW,
                    )

    def close_stdin(self) -> None:
        """Tell the process that no more input comes."""
        if self._popen.stdin is not None:
            self._popen.stdin.close()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end of the process and of its messages; return its exit status.

        Args:
            timeout_s: For how long; None for as long as it may stand still.

        Raises:
            FFmpegError: It did not end within that time.
        """
        hint = None
        if timeout_s is None:
            timeout_s, hint = self._stall_s, _MAYBE_SLOW
        try:
            with waiting("ffmpeg"):
                status = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            what = f"FFmpeg did not end within {timeout_s:g} seconds"
            raise FFmpegError(what, hint=hint) from error
        self._drain.join(5)
        return status

    def kill(self) -> None:
        """End the process and its children at once. Safe to call twice and from any thread."""
        self.was_killed = True
        _kill(self._popen)

    def ended_by(self) -> str | None:
        """Return what came from outside and ended the process, or may have cost it frames.

        In words: a signal, but for our own, or a lack of memory; else None.
        """
        return None if self.was_killed else _ended_by(self._popen.poll(), self.tail)

    def cause(self) -> str:
        """Return what best says why FFmpeg failed: what came from outside, or a message of its."""
        ended_by = self.ended_by()
        if ended_by is not None:
            return ended_by
        lines = [plain(line) for line in self.tail]
        for line in reversed(lines):
            if re.search(r"No space left|Permission denied|File too large|Read-only|quota", line):
                return line
        return self.first_damage or (lines[-1] if lines else "no message")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._popen.wait()
        _let_go(self._popen)
        if self._bill is not None:
            self._bill(self._popen.cpu_s)
            self._bill = None
        self._drain.join(5)
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def is_complaint(line: str) -> bool:
    """Say whether a line of FFmpeg's tells of damage in what it reads, or of a failure."""
    return bool(_DAMAGE.search(line)) and not _HARMLESS.search(line)


def plain(line: str) -> str:
    """Return a line of FFmpeg's without its "[h264 @ 0x55…] [error]" prefixes."""
    return re.sub(r"^(?:\[[^\]]*\]\s*)+", "", line)


def hint_for(cause: str) -> str | None:
    """Return what helps if a cause is a lack of memory, else None."""
    return MEMORY_HINT if tells_of_no_memory(cause) else None


def _ended_by(returncode: int | None, lines: Iterable[str]) -> str | None:
    """Return which signal ended an FFmpeg, or that it had too little memory, or None."""
    lines = list(lines)
    if returncode is not None and returncode < 0:
        return f"FFmpeg was ended: {signal.strsignal(-returncode)}"
    if returncode == _SIGNALLED and not any("not permitted" in line for line in lines):
        return "FFmpeg was ended by a signal"
    for line in lines:
        if is_complaint(line) and tells_of_no_memory(line):
            return f"FFmpeg ran out of memory or threads: {plain(line)}"
    return None


def run(arguments: Sequence[str], *, feed: bytes | None = None, timeout_s: float = 120.0) -> Ran:
    """Run FFmpeg to its end and return what it wrote.

    Args:
        arguments: FFmpeg's arguments, without the binary and logging options.
        feed: Bytes for its standard input.
        timeout_s: Seconds after which it is killed.

    Raises:
        FFmpegError: It cannot be started or fed, or ran out of time. Its exit status is the
            caller's to judge.
    """
    argv = command(arguments)
    charge = bill()
    logger.debug("run %s", argv)
    try:
        popen = _Child(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise FFmpegError(
            f"FFmpeg cannot be started ({error})", path=argv[0], hint=hint_for(str(error))
        ) from error
    with popen:
        _take_note(popen)
        try:
            with waiting("ffmpeg"):
                stdout, stderr = _communicate(popen, feed or b"", timeout_s)
        except subprocess.TimeoutExpired as error:
            raise FFmpegError(f"FFmpeg did not end within {timeout_s:g} seconds") from error
        finally:
            _kill(popen)
            _let_go(popen)
    if charge is not None:
        charge(popen.cpu_s)
    lines = tuple(stderr.decode("utf-8", "replace").splitlines())
    return Ran(popen.returncode, stdout, lines)


def _communicate(popen: _Child, feed: bytes, timeout_s: float) -> tuple[bytes, bytes]:
    """Return what a process writes to its standard output and error, until it ends.

    Raises:
        FFmpegError: It cannot be fed, for there are no more threads.
        subprocess.TimeoutExpired: It did not end in time.
    """
    patience = _Patience(timeout_s)
    with contextlib.ExitStack() as fed:
        if feed and popen.stdin is not None:
            # communicate() cannot do it: what one call has not written, the next does not either.
            feeder = threading.Thread(target=_feed, args=(popen.stdin, feed), daemon=True)
            try:
                feeder.start()
            except RuntimeError as error:
                raise FFmpegError(f"FFmpeg cannot be fed ({error})") from error
            fed.callback(feeder.join)
            fed.callback(_kill, popen)  # without which the thread may not end
            popen.stdin = None
        while True:
            try:
                return popen.communicate(timeout=min(_POLL_S, timeout_s))
            except subprocess.TimeoutExpired:
                if patience.is_over():
                    raise


def _feed(stdin: IO[bytes], feed: bytes) -> None:
    """Write to the standard input of a process, as much as it takes, and close it."""
    with contextlib.suppress(OSError), stdin:
        stdin.write(feed)


def _take_note(popen: _Child) -> None:
    """Let a process be ended with all others, and when we are killed."""
    _running.add(popen)
    guard.watch(popen.pid)


def _let_go(popen: _Child) -> None:
    """Undo that, of a process that has ended."""
    _running.discard(popen)
    guard.forget(popen.pid)


def kill_all() -> None:
    """End every FFmpeg that any thread of this process runs: jobs that are given up at once."""
    for popen in list(_running):
        _kill(popen)


def _kill(popen: _Child) -> None:
    """End a process and its children, if it still runs."""
    if popen.poll() is None:
        try:
            if os.name == "posix":
                os.killpg(popen.pid, signal.SIGKILL)
            else:
                popen.kill()
        except ProcessLookupError:
            pass


class Ran:
    """What a finished FFmpeg left: exit status, standard output, lines of messages."""

    def __init__(self, returncode: int, stdout: bytes, lines: tuple[str, ...]) -> None:
        self.returncode = returncode
        self.stdout = stdout
        self.lines = lines

    def cause(self) -> str:
        """Return what ended it from outside, else its first complaint or the last message."""
        ended_by = _ended_by(self.returncode, self.lines)
        if ended_by is not None:
            return ended_by
        first = next((line for line in self.lines if is_complaint(line)), None)
        lines = self.lines if first is None else (first,)
        return plain(lines[-1]) if lines else "no message"


def _prepare_pipe(fd: int) -> None:
    """Make a pipe large, so that a frame takes few wake-ups, and never block for good."""
    if os.name != "posix":
        return
    os.set_blocking(fd, False)
    try:
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)  # type: ignore[attr-defined,unused-ignore]
    except (AttributeError, OSError):
        # Not Linux, or the user's pipe quota is used up: the default size works, slower.
        logger.debug("pipe size stays at the default")
