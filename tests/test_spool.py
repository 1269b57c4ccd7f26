"""Standard input and URLs as files: all bytes, for as long as the block lasts, and no longer."""

from __future__ import annotations

import io
import os
import shutil
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vidbg.errors import InputError
from vidbg.media import spool
from vidbg.media.probe import probe

CONTENT = os.urandom(3_000_000)
Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(autouse=True)
def no_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")


def pipe_of(content: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(content))  # type: ignore[arg-type]


def free(monkeypatch: pytest.MonkeyPatch, *sizes: int) -> None:
    """Let the disk have so many bytes free, one size each time it is asked."""
    left = list(sizes)

    def usage(_: object) -> Any:
        size = left.pop(0) if len(left) > 1 else left[0]
        return shutil._ntuple_diskusage(1 << 50, 0, size)  # type: ignore[attr-defined]

    monkeypatch.setattr(shutil, "disk_usage", usage)


def test_a_pipe_is_a_file_while_it_is_needed(tmp_path: Path) -> None:
    with spool.from_pipe(pipe_of(CONTENT), tmp_path) as path:
        assert path.parent == tmp_path
        assert path.read_bytes() == CONTENT
        assert path.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="nothing that is open can be removed")
def test_what_a_killed_job_stored_goes_with_the_next(tmp_path: Path) -> None:
    holder = f"""
        import io, sys
        from pathlib import Path
        from vidbg.media import spool
        with spool.from_pipe(io.BytesIO(b"abc"), Path({str(tmp_path)!r})):
            print(flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(holder)]
    jobs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    ]
    for job in jobs:
        assert job.stdout is not None
        job.stdout.readline()
    with jobs[0] as killed:
        killed.kill()
    assert len(list(tmp_path.iterdir())) == 2
    with spool.from_pipe(pipe_of(b"def"), tmp_path) as path:
        assert len(list(tmp_path.iterdir())) == 2  # the other job runs
        assert path.read_bytes() == b"def"
    with jobs[1] as running:
        running.communicate(b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_goes_with_any_error(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), spool.from_pipe(pipe_of(b"abc"), tmp_path):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_it_goes_when_reading_breaks_off(tmp_path: Path) -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        spool.from_pipe(io.BufferedReader(Broken()), tmp_path),
    ):
        pytest.fail("nothing was read")
    assert list(tmp_path.iterdir()) == []


def test_tmpdir_has_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with spool.from_pipe(pipe_of(b"abc"), tmp_path) as path:
        assert path.parent == tmp_path / "tmp"


def test_a_full_disk_is_said_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "SPARE_BYTES", 1 << 20)
    free(monkeypatch, 2 << 20, 2 << 20, 1 << 19)
    with (
        pytest.raises(InputError, match=r"standard input: there is no room left.*TMPDIR"),
        spool.from_pipe(pipe_of(bytes(8 << 20)), tmp_path),
    ):
        pytest.fail("it did not fit")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_said_when_the_system_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_make_private", lambda path: path.symlink_to("/dev/full"))
    with pytest.raises(InputError, match="no room left"), spool.from_pipe(pipe_of(b"x"), tmp_path):
        pytest.fail("it did not fit")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"standard input: cannot be stored in .*no"),
        spool.from_pipe(pipe_of(b"abc"), tmp_path / "no"),
    ):
        pytest.fail("there is no such folder")


def test_errors_say_where_it_came_from(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="standard input: not a video"),
        spool.from_pipe(pipe_of(b"text\n" * 99), tmp_path) as path,
    ):
        probe(path)
    with (
        pytest.raises(InputError, match="standard input: the file is empty"),
        spool.from_pipe(pipe_of(b""), tmp_path) as path,
    ):
        probe(path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("http://a/b.mp4", True),
        ("HTTPS://a/b.mp4", True),
        ("rtmp://a", True),
        ("file:///etc/passwd", True),
        ("C://clip.mp4", False),
        ("C:/clip.mp4", False),
        ("clip.mp4", False),
        ("a/b://c", False),
        ("-", False),
    ],
)
def test_what_is_a_url(text: str, wanted: bool) -> None:
    assert spool.is_url(text) is wanted


# ---- The network -------------------------------------------------------------------------------


@contextmanager
def serving(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve what ``answer`` writes, on this machine; give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sends(content: bytes, length: int | None = None) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def redirects(to: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.end_headers()

    return answer


def download(url: str, folder: Path) -> bytes:
    with spool.from_url(url, folder) as path:
        content = path.read_bytes()
    assert list(folder.iterdir()) == []
    return content


@pytest.mark.parametrize("length", [len(CONTENT), None])
def test_a_url_is_a_file_while_it_is_needed(tmp_path: Path, length: int | None) -> None:
    with serving(sends(CONTENT, length)) as address:
        assert download(f"{address}/clip.mp4?key=1", tmp_path) == CONTENT


def test_redirections_are_followed_on_the_web_only(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    with serving(sends(CONTENT)) as address, serving(redirects(f"{address}/x")) as first:
        folder = tmp_path / "in"
        folder.mkdir()
        assert download(first, folder) == CONTENT
    secret.write_text("secret")
    for target in (f"file://{secret}", "ftp://127.0.0.1/x", "data:,x"):
        with serving(redirects(target)) as address:
            with pytest.raises(InputError, match="cannot be downloaded"):
                download(address, folder)
            assert list(folder.iterdir()) == []


def test_https_is_not_left(tmp_path: Path) -> None:
    handler = spool._Redirects()
    request = spool.urllib.request.Request("https://example.invalid/a")
    with pytest.raises(OSError, match="from https to http"):
        handler.redirect_request(
            request,
            None,
            302,
            "",
            {},  # type: ignore[arg-type]
            "http://example.invalid/a",
        )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_certificates_are_checked(tmp_path: Path) -> None:
    names = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    made = ("-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem")
    subprocess.run(
        ["openssl", "req", "-x509", *names, *made], cwd=tmp_path, check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    folder = tmp_path / "in"
    folder.mkdir()
    with (
        serving(sends(CONTENT), context) as address,
        pytest.raises(InputError, match="certificate verify failed"),
    ):
        download(address, folder)


def test_what_goes_wrong_is_said(tmp_path: Path) -> None:
    def missing(handler: BaseHTTPRequestHandler) -> None:
        handler.send_error(404)

    with serving(missing) as address, pytest.raises(InputError, match="HTTP 404"):
        download(f"{address}/a.mp4", tmp_path)
    with serving(sends(b"abc", 1000)) as address, pytest.raises(InputError, match="broke off"):
        download(address, tmp_path)
    with pytest.raises(InputError, match="cannot be downloaded"):
        download(address, tmp_path)  # nobody answers any more
    with pytest.raises(InputError, match="file in place of http"):
        download("file:///etc/hostname", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_keys_in_a_url_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        download("http://user:pass@127.0.0.1:9/a.mp4?token=key", tmp_path)
    assert str(raised.value).startswith("http://127.0.0.1:9/a.mp4: cannot be downloaded")
    assert "pass" not in str(raised.value)
    assert "token" not in str(raised.value)


def test_a_file_too_large_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, spool.SPARE_BYTES + 1000)
    with serving(sends(CONTENT, len(CONTENT))) as address:
        with pytest.raises(InputError, match="no room left"):
            download(address, tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_server_that_falls_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "NETWORK_TIMEOUT_S", 0.3)
    released = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        sends(b"abc", 1000)(handler)
        handler.wfile.flush()
        released.wait(20)

    def trickles(handler: BaseHTTPRequestHandler) -> None:
        sends(b"", 100_000)(handler)
        while not released.is_set():
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.02)

    for answer, message in ((silent, "timed out"), (trickles, "too slow")):
        released.clear()
        with serving(answer) as address:
            began = time.monotonic()
            with pytest.raises(InputError, match=message):
                download(address, tmp_path)
            released.set()
            assert time.monotonic() - began < 10
