"""Registry, download and reading of checkpoints, and the command that lists them.

Downloads come from a server on this machine that can be told to misbehave.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from checkpoints import random_network, random_u2netp
from click.testing import CliRunner
from safetensors.numpy import save
from safetensors.torch import save_file

from vidbg.cli.models import models
from vidbg.errors import WeightsError
from vidbg.matting import weights
from vidbg.matting.architectures import NAMES

CONTENT = bytes(range(256)) * 4000  # 1 MB


class FileServer(ThreadingHTTPServer):
    """Serves one file over HTTP on the loopback interface, in the way a test asks for."""

    daemon_threads = False  # so that closing waits for them

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FileHandler)
        self.content = CONTENT
        self.ranges = True
        self.status = 200
        self.content_type = "application/octet-stream"
        self.length: int | None = None  # what Content-Length says; None for the truth
        self.cut_after: int | None = None  # bytes of body per connection
        self.location: str | None = None
        self.hang_s = 0.0
        self.byte_every_s = 0.0
        self.release = threading.Event()
        self.asked: list[str | None] = []  # the Range of every request
        self.sent = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up: some tests are about that."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/u2netp.pth"


class FileHandler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(self.headers["Range"])
        if server.location is not None:
            self.send_response(302)
            self.send_header("Location", server.location)
            self.end_headers()
            return
        if server.status != 200:
            self.send_error(server.status)
            return
        server.release.wait(server.hang_s)
        body, span = server.content, self.headers["Range"]
        if span is not None and server.ranges:
            start = int(span.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            total = len(body)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            body = body[start:]
        else:
            self.send_response(200)
        self.send_header("Content-Type", server.content_type)
        self.send_header("Content-Length", str(server.length or len(body)))
        self.end_headers()
        piece = body if server.cut_after is None else body[: server.cut_after]
        while server.byte_every_s and not server.release.wait(server.byte_every_s):
            self.wfile.write(piece[:1])
            piece = piece[1:]
        self.wfile.write(piece)
        server.sent += len(piece)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with FileServer() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.release.set()
        running.shutdown()
        thread.join()


def spec_for(*urls: str, content: bytes = CONTENT) -> weights.ModelSpec:
    return replace(
        weights.spec_of("u2netp"),
        urls=urls,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "weights"
    monkeypatch.setenv("VIDBG_WEIGHTS_DIR", str(path))
    return path


@pytest.fixture
def known(server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> weights.ModelSpec:
    """The registry's u2netp as this server has it."""
    spec = spec_for(server.url)
    monkeypatch.setattr(weights, "registry", lambda: {"u2netp": spec})
    monkeypatch.setattr(weights, "default_model", lambda: "u2netp")
    return spec


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


# Registry


def test_registry_is_complete_and_well_formed() -> None:
    registry = weights.registry()
    assert {"vidbg-s", "u2net", "u2netp", "u2net_human_seg"} <= set(registry)
    assert weights.default_model() == "vidbg-s"
    assert registry["vidbg-s"].embedded
    assert registry["vidbg-s"].size_bytes < 5_000_000
    assert next(iter(registry)) == weights.default_model()
    for name, spec in registry.items():
        assert spec.name == name
        assert spec.architecture in NAMES
        assert Path(spec.file).stem == name
        assert bool(spec.urls) != spec.embedded
        assert all(url.startswith("https://") for url in spec.urls)
        assert re.fullmatch("[0-9a-f]{64}", spec.sha256)
        own = "LicenseRef-research-data"  # which weights/MODEL_CARD.md explains
        assert spec.licence == (own if spec.embedded else "Apache-2.0")
        assert spec.input_side_px == 320
    # float32 parameters and little else.
    assert registry["u2netp"].size_bytes == pytest.approx(1_131_181 * 4, rel=0.05)
    assert registry["u2net"].size_bytes == pytest.approx(44_009_869 * 4, rel=0.01)
    assert registry["u2net_human_seg"].size_bytes == pytest.approx(44_009_869 * 4, rel=0.01)


def test_listing_models_needs_no_torch() -> None:
    program = (
        "import sys; from vidbg.cli.models import models; models(['--json'], "
        "standalone_mode=False); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        timeout=60,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr


def test_weights_folder_is_the_users_cache_unless_overridden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("VIDBG_WEIGHTS_DIR", raising=False)
    assert weights.cache_dir() == Path(platformdirs.user_cache_dir("vidbg", False)) / "weights"
    monkeypatch.setenv("VIDBG_WEIGHTS_DIR", str(tmp_path / "elsewhere"))
    assert weights.cache_dir() == tmp_path / "elsewhere"


@pytest.mark.parametrize("how", ["raises", "leaves it"])
def test_somebody_without_a_home_works_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A container's user who is in no list. platformdirs says so, or leaves the ~ where it is."""

    def nowhere(*_: object, **__: object) -> Path:
        if how == "raises":
            raise RuntimeError("Could not determine home directory.")
        return Path("~/.cache/vidbg")

    monkeypatch.delenv("VIDBG_WEIGHTS_DIR", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", nowhere)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="no such home") as caught:
        weights.cache_dir()
    assert "VIDBG_WEIGHTS_DIR" in str(caught.value.hint)
    assert weights.shelf("some", ".blob", 1, 1) is None
    arrays, _ = weights.read_arrays(saved(tmp_path / "some.pth", 1.5))
    np.testing.assert_array_equal(arrays["a"], [1.5] * 3)
    assert [path.name for path in tmp_path.iterdir()] == ["some.pth"]


def test_a_weights_folder_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDBG_WEIGHTS_DIR", "~no-such-user/weights")
    with pytest.raises(WeightsError, match="no such home") as caught:
        weights.locate("u2net")
    assert caught.value.path == Path("~no-such-user/weights")


def test_locate_finds_whole_files_only(known: weights.ModelSpec, folder: Path) -> None:
    assert weights.locate("u2netp") is None
    folder.mkdir()
    (folder / "u2netp.pth").write_bytes(CONTENT[:-1])
    assert weights.locate("u2netp") is None
    (folder / "u2netp.pth").write_bytes(CONTENT)
    assert weights.locate("u2netp") == folder / "u2netp.pth"
    with pytest.raises(WeightsError, match="no model called 'u4net'"):
        weights.locate("u4net")


# Download


def test_downloads_once_and_reports_progress(
    known: weights.ModelSpec, server: FileServer, folder: Path
) -> None:
    steps: list[tuple[int, int]] = []
    path = weights.ensure("u2netp", lambda done, total: steps.append((done, total)))
    assert path == folder / "u2netp.pth"
    assert contents(folder) == {"u2netp.pth": CONTENT}
    assert steps[0] == (0, len(CONTENT))
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert steps == sorted(steps)
    assert weights.ensure("u2netp", offline=True) == path
    assert server.asked == [None]


def test_a_partial_file_is_continued(
    known: weights.ModelSpec, server: FileServer, folder: Path
) -> None:
    folder.mkdir()
    (folder / "u2netp.pth.part").write_bytes(CONTENT[:700_000])
    weights.ensure("u2netp")
    assert contents(folder) == {"u2netp.pth": CONTENT}
    assert server.asked == ["bytes=700000-"]
    assert server.sent == len(CONTENT) - 700_000


def test_a_whole_part_file_needs_no_server(
    known: weights.ModelSpec, server: FileServer, folder: Path
) -> None:
    folder.mkdir()
    (folder / "u2netp.pth.part").write_bytes(CONTENT)
    weights.ensure("u2netp")
    assert contents(folder) == {"u2netp.pth": CONTENT}
    assert server.asked == []


def test_broken_connections_are_taken_up_where_they_broke(
    known: weights.ModelSpec, server: FileServer, folder: Path
) -> None:
    server.cut_after = 300_000
    weights.ensure("u2netp")
    assert contents(folder) == {"u2netp.pth": CONTENT}
    assert server.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert server.sent == len(CONTENT)


def test_a_download_that_fails_midway_is_continued_by_the_next(
    known: weights.ModelSpec, server: FileServer, folder: Path
) -> None:
    server.cut_after, server.ranges = 400_000, False
    with pytest.raises(WeightsError, match="broke off after 400000 of 1024000 bytes"):
        weights.ensure("u2netp")
    assert contents(folder) == {"u2netp.pth.part": CONTENT[:400_000]}
    server.cut_after, server.ranges = None, True
    weights.ensure("u2netp")
    assert contents(folder) == {"u2netp.pth": CONTENT}
    assert server.asked[-1] == "bytes=400000-"


def test_a_server_without_ranges_sends_all_of_it_again(
    known: weights.ModelSpec, server: FileServer, folder: Path
) -> None:
    server.ranges = False
    folder.mkdir()
    (folder / "u2netp.pth.part").write_bytes(b"x" * 700_000)
    weights.ensure("u2netp")
    assert contents(folder) == {"u2netp.pth": CONTENT}


@pytest.mark.parametrize("stale_bytes", [700_000, len(CONTENT), 2_000_000])
def test_a_part_of_something_else_is_thrown_away(
    known: weights.ModelSpec, server: FileServer, folder: Path, stale_bytes: int
) -> None:
    folder.mkdir()
    (folder / "u2netp.pth.part").write_bytes(b"x" * stale_bytes)
    weights.ensure("u2netp")
    assert contents(folder) == {"u2netp.pth": CONTENT}
    assert server.asked[-1] is None


def test_a_wrong_digest_deletes_the_part_and_says_so(
    known: weights.ModelSpec, server: FileServer, folder: Path
) -> None:
    server.content = b"x" + CONTENT[1:]
    with pytest.raises(WeightsError) as caught:
        weights.ensure("u2netp")
    assert hashlib.sha256(server.content).hexdigest() in str(caught.value)
    assert "was deleted" in str(caught.value)
    assert contents(folder) == {}


def test_the_next_url_is_tried_when_one_has_the_wrong_bytes(
    server: FileServer, tmp_path: Path
) -> None:
    with FileServer() as other:
        other.content = b"x" + CONTENT[1:]
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        weights.fetch(spec_for(other.url, server.url), tmp_path / "u2netp.pth")
        other.shutdown()
        thread.join()
    assert contents(tmp_path) == {"u2netp.pth": CONTENT}
    assert (len(other.asked), len(server.asked)) == (1, 1)


def misbehave_404(server: FileServer) -> None:
    server.status = 404


def misbehave_with_a_quota_page(server: FileServer) -> None:
    server.content_type = "text/html; charset=utf-8"


def misbehave_with_another_size(server: FileServer) -> None:
    server.content = CONTENT[:-7]


def misbehave_with_another_range(server: FileServer) -> None:
    server.content = CONTENT + b"more"


def misbehave_by_leading_to_a_file(server: FileServer) -> None:
    server.location = "file:///etc/hostname"


def misbehave_by_leading_nowhere(server: FileServer) -> None:
    server.location = "https://[::1/u2netp.pth"


def misbehave_by_leading_off_https(server: FileServer) -> None:
    server.location = "http://192.0.2.1/u2netp.pth"


@pytest.mark.parametrize(
    ("misbehave", "reason"),
    [
        (misbehave_404, "127.0.0.1: HTTP 404 Not Found"),
        (misbehave_with_a_quota_page, "a web page in place of the file"),
        (misbehave_with_another_size, r"has a file of 1023993 bytes|another part of the file"),
        (misbehave_with_another_range, r"has a file of 1024004 bytes|another part of the file"),
        (misbehave_by_leading_to_a_file, "file"),
        (misbehave_by_leading_off_https, "http in place of https"),
        (misbehave_by_leading_nowhere, "Invalid IPv6 URL"),
    ],
)
@pytest.mark.parametrize("have", [0, 500_000])
def test_answers_that_are_not_the_file(
    known: weights.ModelSpec,
    server: FileServer,
    folder: Path,
    misbehave: Callable[[FileServer], None],
    reason: str,
    have: int,
) -> None:
    folder.mkdir()
    if have:
        (folder / "u2netp.pth.part").write_bytes(CONTENT[:have])
    misbehave(server)
    with pytest.raises(WeightsError, match=reason) as caught:
        weights.ensure("u2netp")
    # What is there is kept for a better day, and the way out is named.
    assert contents(folder) == ({"u2netp.pth.part": CONTENT[:have]} if have else {})
    assert f"Put u2netp.pth (1024000 bytes, SHA-256 {known.sha256}) into {folder}" in str(
        caught.value
    )
    assert "--weights FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nobody_listening(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        spec = spec_for(f"http://127.0.0.1:{unused.getsockname()[1]}/u2netp.pth")
        with pytest.raises(WeightsError, match=r"could not be downloaded \(127.0.0.1: .*refused"):
            weights.fetch(spec, folder / "u2netp.pth")


def test_a_server_that_never_answers(
    known: weights.ModelSpec, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "NETWORK_TIMEOUT_S", 0.2)
    server.hang_s = 30
    start = time.monotonic()
    with pytest.raises(WeightsError, match="timed out"):
        weights.ensure("u2netp")
    assert time.monotonic() - start < 5


def test_a_server_that_sends_a_byte_now_and_then(
    known: weights.ModelSpec, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "NETWORK_TIMEOUT_S", 0.3)
    server.byte_every_s = 0.01
    start = time.monotonic()
    with pytest.raises(WeightsError, match="sends less than 65536 bytes in"):
        weights.ensure("u2netp")
    assert time.monotonic() - start < 5


def test_a_server_that_breaks_off_after_next_to_nothing(
    known: weights.ModelSpec, server: FileServer
) -> None:
    server.cut_after = 1000
    with pytest.raises(WeightsError, match="broke off after 1000 of"):
        weights.ensure("u2netp")
    assert server.asked == [None]


def test_proxies_are_honoured(
    server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_address[1]}")
    # Nobody listens on port 9; whoever answers is the proxy.
    weights.fetch(spec_for("http://localhost:9/u2netp.pth"), folder / "u2netp.pth")
    assert contents(folder) == {"u2netp.pth": CONTENT}
    assert server.asked == [None]


@pytest.mark.parametrize("url", ["http://example.com/w.pth", "file:///etc/hostname", "ftp://a/b"])
def test_only_https_is_spoken_with_other_machines(tmp_path: Path, url: str) -> None:
    with pytest.raises(WeightsError, match="in place of https"):
        weights.fetch(spec_for(url), tmp_path / "u2netp.pth")


def test_offline_nothing_is_asked_for(
    known: weights.ModelSpec, server: FileServer, folder: Path
) -> None:
    with pytest.raises(WeightsError, match=r"not on this machine\. Put u2netp\.pth"):
        weights.ensure("u2netp", offline=True)
    assert server.asked == []
    assert not folder.exists()


def test_a_damaged_file_is_named_and_kept(
    known: weights.ModelSpec, server: FileServer, folder: Path
) -> None:
    folder.mkdir()
    path = folder / "u2netp.pth"
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(WeightsError, match=r"not the published u2netp.pth.*Delete it") as caught:
        weights.ensure("u2netp")
    assert caught.value.path == path
    assert contents(folder).keys() == {"u2netp.pth"}
    assert server.asked == []


def test_a_folder_that_cannot_be_written(
    known: weights.ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIDBG_WEIGHTS_DIR", str(tmp_path / "file" / "weights"))
    with pytest.raises(WeightsError, match="cannot be written"):
        weights.ensure("u2netp")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_not_blamed_on_the_server(
    known: weights.ModelSpec, server: FileServer, folder: Path
) -> None:
    folder.mkdir()
    (folder / "u2netp.pth.part").symlink_to("/dev/full")
    with pytest.raises(WeightsError, match=r"u2netp.pth.part: cannot be written: No space left"):
        weights.ensure("u2netp")


def test_only_one_of_many_downloads(
    known: weights.ModelSpec, server: FileServer, folder: Path
) -> None:
    server.hang_s = 0.5
    results: list[Path] = []
    threads = [
        threading.Thread(target=lambda: results.append(weights.ensure("u2netp"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [folder / "u2netp.pth"] * 4
    assert server.asked == [None]


def test_waiting_for_a_process_that_stalls_ends(
    known: weights.ModelSpec, server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "LOCK_STALL_S", 0.3)
    server.hang_s = 30
    first = threading.Thread(target=weights.ensure, args=("u2netp",))
    first.start()
    while not server.asked:
        time.sleep(0.01)
    try:
        with pytest.raises(WeightsError, match="another process is downloading"):
            weights.ensure("u2netp")
    finally:
        server.release.set()
        first.join(30)
    assert contents(folder) == {"u2netp.pth": CONTENT}


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_a_killed_download_leaves_no_file_under_the_final_name(
    server: FileServer, folder: Path
) -> None:
    # Half of it comes, then the server hangs until the process is dead.
    spec = spec_for(server.url)
    server.cut_after = 600_000
    program = f"""
        from dataclasses import replace
        from pathlib import Path
        from vidbg.matting import weights
        spec = replace(weights.spec_of("u2netp"), urls=({server.url!r},),
                       size_bytes={spec.size_bytes}, sha256={spec.sha256!r})
        def progress(done, total):
            if done == 600_000:
                print("half", flush=True)
                input()
        weights.fetch(spec, Path({str(folder / "u2netp.pth")!r}), progress)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"no_proxy": "127.0.0.1"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert contents(folder) == {"u2netp.pth.part": CONTENT[:600_000]}
    server.cut_after = None
    weights.fetch(spec, folder / "u2netp.pth")
    assert contents(folder) == {"u2netp.pth": CONTENT}
    assert server.asked[-1] == "bytes=600000-"


# Embedded


TINY = replace(
    weights.spec_of("u2netp"),
    name="tiny",
    file="tiny.safetensors",
    urls=(),
    size_bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    embedded=True,
)


@pytest.fixture
def package(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package folder whose registry has u2netp and, as default, a model that is embedded."""
    path = tmp_path / "package"
    path.mkdir()
    document = json.loads((weights.package_dir() / "registry.json").read_text(encoding="utf-8"))
    entry = document["models"]["u2netp"] | {
        "file": TINY.file,
        "size_bytes": TINY.size_bytes,
        "sha256": TINY.sha256,
        "embedded": True,
    }
    del entry["urls"]
    models = {"tiny": entry, "u2netp": document["models"]["u2netp"]}
    text = json.dumps({"default": "tiny", "models": models})
    (path / "registry.json").write_text(text, encoding="utf-8")
    (path / TINY.file).write_bytes(CONTENT)
    monkeypatch.setattr(weights, "package_dir", lambda: path)
    monkeypatch.setattr(weights, "fetch", lambda *a: pytest.fail("went to the network"))
    weights._registry_document.cache_clear()
    yield path
    weights._registry_document.cache_clear()


def test_embedded_weights_are_used_where_they_lie(package: Path, folder: Path) -> None:
    assert weights.spec_of("tiny") == TINY
    assert not weights.spec_of("u2netp").embedded
    assert weights.locate("tiny") == package / TINY.file
    assert weights.ensure("tiny") == weights.ensure("tiny", offline=True) == package / TINY.file
    assert not folder.exists()
    assert weights.locate("u2netp") is None


def test_a_file_in_the_weights_folder_does_not_stand_in_for_an_embedded_one(
    package: Path, folder: Path
) -> None:
    (package / TINY.file).rename(package / "elsewhere")
    folder.mkdir()
    (folder / TINY.file).write_bytes(CONTENT)
    assert weights.locate("tiny") is None


@pytest.mark.parametrize("content", [None, CONTENT[:-1], b"x" + CONTENT[1:], b""])
def test_embedded_weights_that_are_missing_or_damaged(package: Path, content: bytes | None) -> None:
    path = package / TINY.file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="Reinstall vidbg") as caught:
        weights.ensure("tiny")
    assert caught.value.path == path
    assert "\n" not in str(caught.value)


def test_what_is_embedded_is_found_in_a_checkout_too() -> None:
    checkout = Path(__file__).parent.parent
    code = "from vidbg.matting import weights; print(weights.locate(weights.default_model()))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(checkout)},
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == checkout / "weights" / "vidbg-s.safetensors"


def test_models_shows_what_is_built_in(package: Path) -> None:
    run = CliRunner().invoke(models)
    assert re.search(r"^tiny \(default\) .* built in$", run.output, re.M)
    assert re.search(r"^u2netp .* no$", run.output, re.M)
    assert "Note" not in run.output
    entry = json.loads(CliRunner().invoke(models, ["--json"]).output)["models"][0]
    assert entry["embedded"] is True
    assert entry["path"] == str(package / TINY.file)
    (package / TINY.file).unlink()
    assert "missing: reinstall vidbg" in CliRunner().invoke(models).output


def test_models_says_that_the_default_is_below_target(package: Path) -> None:
    def mark(name: str) -> None:
        path = package / "registry.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        for entry in document["models"].values():
            entry["below_target"] = None
        document["models"][name]["below_target"] = "its mean J is 88 % of that of others"
        path.write_text(json.dumps(document), encoding="utf-8")
        weights._registry_document.cache_clear()

    mark("tiny")
    note = CliRunner().invoke(models).output.splitlines()[-1]
    assert "tiny" in note
    assert "its mean J is 88 % of that of others" in note
    assert "--model u2netp (downloads 4.7 MB once)" in note
    (tiny, _) = json.loads(CliRunner().invoke(models, ["--json"]).output)["models"]
    assert tiny["below_target"] == "its mean J is 88 % of that of others"
    mark("u2netp")  # which is not the default
    assert "88 %" not in CliRunner().invoke(models).output


# Reading


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors", "w.SafeTensors"])
def test_checkpoints_come_back_as_they_were_saved(tmp_path: Path, name: str) -> None:
    path = random_u2netp(tmp_path / name.lower()).rename(tmp_path / name)
    assert same(weights.load_state_dict(path), random_network().state_dict())


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "legacy", "parallel"])
def test_wrapped_checkpoints_are_unwrapped(tmp_path: Path, wrapper: str) -> None:
    state_dict = random_network().state_dict()
    path = tmp_path / "w.pth"
    if wrapper == "legacy":  # the format of the authors' files
        torch.save(state_dict, path, _use_new_zipfile_serialization=False)
    elif wrapper == "parallel":
        torch.save({f"module.{name}": tensor for name, tensor in state_dict.items()}, path)
    else:
        torch.save({"epoch": 3, wrapper: state_dict, "optimizer": {"lr": 0.1}}, path)
    assert same(weights.load_state_dict(path), state_dict)


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("how", ["pickle", "torch", "torch legacy"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, how: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "w.pth"
    content = {"state_dict": {"w": torch.zeros(1)}, "extra": Malicious(marker)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious(marker)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(WeightsError, match="not a checkpoint of plain tensors") as caught:
        weights.load_state_dict(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    # The trap is a live one.
    if how == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.is_dir()


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(10**6)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for record in plain.infolist():
            packed.writestr(record.filename, plain.read(record))
    assert torch.load(tmp_path / "packed.pth", weights_only=True)["w"].numel() == 10**6
    with pytest.raises(WeightsError, match="is compressed"):
        weights.load_state_dict(tmp_path / "packed.pth")


def truncated(path: Path, source: Path, share: float) -> Path:
    whole = source.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "legacy.pth"])
def test_truncated_checkpoints(tmp_path: Path, name: str, share: float) -> None:
    source = tmp_path / "whole.pth"
    if name == "legacy.pth":
        torch.save(random_network().state_dict(), source, _use_new_zipfile_serialization=False)
    else:
        source = random_u2netp(tmp_path / f"whole{Path(name).suffix}")
    with pytest.raises(WeightsError, match=r"is not a") as caught:
        weights.load_state_dict(truncated(tmp_path / name, source, share))
    assert "\n" not in str(caught.value)
    assert caught.value.path == tmp_path / name


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.bin"])
@pytest.mark.parametrize("content", [b"<html>404</html>", b"\x80\x04.", bytes(100), b"PK\x03\x04"])
def test_other_files_are_no_checkpoints(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=r"is not a|holds no state dict"):
        weights.load_state_dict(tmp_path / name)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(WeightsError, match="no such file"):
            weights.load_state_dict(path)


@pytest.mark.parametrize(
    "content",
    [{}, [torch.zeros(1)], torch.zeros(1), {"a": 1}, {1: torch.zeros(1)}, {"model": {}}],
    ids=repr,
)
def test_checkpoints_without_a_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        weights.load_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    state_dict = random_network().state_dict()
    state_dict["stage3.rebnconv2.conv_s1.weight"][3, 2, 1, 0] = value
    save_file(state_dict, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"stage3.rebnconv2.conv_s1.weight holds a NaN or"):
        weights.load_state_dict(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**6, 10**6),  # 4 TB, in a file of 1 KB
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, dtype=torch.float8_e4m3fn),
        torch.zeros(2, device="meta"),
    ],
    ids=["claims more than there is", "sparse", "complex", "float8", "meta"],
)
def test_tensors_that_are_no_plain_arrays(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"w": tensor}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="w is no plain tensor of numbers"):
        weights.load_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize("stated", ["0", "16", "4096", "", "-320", "320.0", "9" * 5000, "\n320"])
def test_sizes_of_training_that_cannot_be(tmp_path: Path, stated: str) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.zeros(1)}, path, {"input_side_px": stated})
    with pytest.raises(WeightsError, match="expected 32 to 2048") as caught:
        weights.load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("stated", [True, 3.5, torch.tensor(320), [320]])
def test_sizes_of_training_that_are_no_numbers(tmp_path: Path, stated: object) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": {"w": torch.zeros(1)}, "input_side_px": stated}, path)
    with pytest.raises(WeightsError, match="expected 32 to 2048"):
        weights.load_checkpoint(path)


def test_the_size_of_training_is_read_where_it_is_stated(tmp_path: Path) -> None:
    tensors = {"w": torch.zeros(1)}
    torch.save({"model": tensors, "input_side_px": 288}, tmp_path / "a.pth")
    save_file(tensors, tmp_path / "b.safetensors", {"input_side_px": "2048"})
    save_file(tensors, tmp_path / "c.safetensors")
    sides = [weights.load_checkpoint(path).input_side_px for path in sorted(tmp_path.iterdir())]
    assert sides == [288, 2048, None]


# The command


def test_models_lists_what_is_on_this_machine(known: weights.ModelSpec, folder: Path) -> None:
    run = CliRunner().invoke(models)
    assert run.exit_code == 0
    assert re.search(r"^u2netp \(default\) +1\.0 MB +320 px +Apache-2\.0 +no$", run.output, re.M)
    assert f"Weights folder: {folder}" in run.output
    path = weights.ensure("u2netp")
    assert str(path) in CliRunner().invoke(models).output


def test_models_as_json(known: weights.ModelSpec, folder: Path) -> None:
    document = json.loads(CliRunner().invoke(models, ["--json"]).output)
    assert document["weights_dir"] == str(folder)
    assert document["default"] == "u2netp"
    (entry,) = document["models"]
    assert entry["name"] == "u2netp"
    assert entry["sha256"] == known.sha256
    assert entry["path"] is None
    weights.ensure("u2netp")
    (entry,) = json.loads(CliRunner().invoke(models, ["--json"]).output)["models"]
    assert entry["path"] == str(folder / "u2netp.pth")


# ---- Without PyTorch ---------------------------------------------------------------------------


def test_a_checkpoint_is_read_by_another_process(tmp_path: Path) -> None:
    shared = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    tensors = {"a": shared, "b": shared.t(), "c": torch.tensor([1.5], dtype=torch.float16)}
    path = tmp_path / "some.pth"
    torch.save({"state_dict": tensors, "input_side_px": 256}, path)

    arrays, side_px = weights.read_arrays(path)

    assert side_px == 256
    assert {name: array.dtype for name, array in arrays.items()} == {
        "a": np.float32,
        "b": np.float32,
        "c": np.float16,
    }
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy())


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights with nothing in it; where what was read is kept."""
    monkeypatch.setenv("VIDBG_WEIGHTS_DIR", str(tmp_path / "weights"))
    return tmp_path / "weights" / "converted"


def saved(path: Path, value: float) -> Path:
    torch.save({"a": torch.full((3,), value)}, path)
    return path


def no_process(*_: object) -> bytes:
    raise AssertionError("another process is asked")


def test_a_checkpoint_is_read_by_another_process_once(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "some.pth", 1.5)
    first, _ = weights.read_arrays(path)
    monkeypatch.setattr(weights, "_unpickled", no_process)
    again, _ = weights.read_arrays(path.rename(tmp_path / "other.pth"))
    np.testing.assert_array_equal(first["a"], [1.5] * 3)
    np.testing.assert_array_equal(again["a"], [1.5] * 3)
    # Another content under that name is another file, and so is the same to another version.
    saved(tmp_path / "other.pth", 2.5)
    with pytest.raises(AssertionError):
        weights.read_arrays(tmp_path / "other.pth")
    saved(tmp_path / "some.pth", 1.5)
    monkeypatch.setattr(weights, "__version__", "0")
    with pytest.raises(AssertionError):
        weights.read_arrays(tmp_path / "some.pth")
    assert len(list(kept.iterdir())) == 1


@pytest.mark.parametrize("spoil", ["a bit", "the end", "everything"])
def test_what_is_kept_but_spoiled_is_read_anew(tmp_path: Path, kept: Path, spoil: str) -> None:
    path = saved(tmp_path / "some.pth", 1.5)
    weights.read_arrays(path)
    (file,) = kept.iterdir()
    content = file.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    file.write_bytes({"a bit": flipped, "the end": content[:-1], "everything": b""}[spoil])
    arrays, _ = weights.read_arrays(path)
    np.testing.assert_array_equal(arrays["a"], [1.5] * 3)
    assert [one.read_bytes() for one in kept.iterdir()] == [content]


def test_only_some_are_kept_those_used_last(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        weights, "_unpickled", lambda _, content: save({"a": np.frombuffer(content, np.uint8)})
    )
    monkeypatch.setattr(weights, "_CONVERTED_KEPT", 2)
    for number in range(3):
        (tmp_path / f"{number}.pth").write_bytes(b"checkpoint %d" % number)

    def read(number: int) -> None:
        weights.read_arrays(tmp_path / f"{number}.pth")

    read(0)
    (first,) = kept.iterdir()
    os.utime(first, (1, 1))
    read(1)
    for file in kept.iterdir():
        os.utime(file, (2 if file == first else 3,) * 2)
    read(0)  # is used again
    read(2)
    assert len(list(kept.iterdir())) == 2
    assert first.exists()


def test_nothing_has_to_be_kept(tmp_path: Path, kept: Path) -> None:
    kept.parent.write_bytes(b"a file where the folder would be")
    arrays, _ = weights.read_arrays(saved(tmp_path / "some.pth", 1.5))
    np.testing.assert_array_equal(arrays["a"], [1.5] * 3)


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_what_another_process_cannot_read_is_left_to_this_one(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "some.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        weights.read_arrays(path)
    with pytest.raises(WeightsError):
        weights.read_arrays(tmp_path / "missing.pth")


def test_numbers_that_numpy_has_not_are_left_to_pytorch(tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    torch.save({"a": torch.ones(2, dtype=torch.bfloat16)}, path)
    with pytest.raises(WeightsError):
        weights.read_arrays(path)


def test_a_folder_of_the_users_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "vidbg"
    package.mkdir()
    (package / "__init__.py").write_text("open('ran', 'w')")
    path = tmp_path / "some.pth"
    torch.save({"a": torch.ones(2)}, path)
    monkeypatch.setenv("VIDBG_WEIGHTS_DIR", str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)
    arrays, _ = weights.read_arrays(path)
    assert arrays.keys() == {"a"}
    assert not (tmp_path / "ran").exists()
