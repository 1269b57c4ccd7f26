"""What is kept for the next job: found while it is whole, ours, and used now and then."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from vidbg.matting.kept import Shelf

SUFFIX = ".blob"
ORIGIN = "0123abcd"
CONTENT = b"what took a while"
NAME = f"{ORIGIN}.{hashlib.sha256(CONTENT).hexdigest()}{SUFFIX}"

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX has owners and modes")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "some" / "folder", SUFFIX, 3, 1 << 20)


def names(shelf: Shelf) -> set[str]:
    return {path.name for path in shelf.folder.iterdir()}


def test_what_is_kept_is_found_by_its_origin_alone(shelf: Shelf) -> None:
    assert shelf.find(ORIGIN) is None
    shelf.keep(ORIGIN, CONTENT)
    assert names(shelf) == {NAME}
    assert shelf.find(ORIGIN) == CONTENT
    for other in ("0123abce", "0123", "0123abcd0", "123abcd"):
        assert shelf.find(other) is None
    shelf.keep(ORIGIN, CONTENT)
    shelf.keep("other", b"")
    assert shelf.find(ORIGIN) == CONTENT
    assert shelf.find("other") == b""
    assert len(names(shelf)) == 2


def test_what_is_made_twice_is_kept_once(shelf: Shelf) -> None:
    """Networks do not come out of their compiler the same each time."""
    shelf.keep("other", b"")
    for number in range(5):
        shelf.keep(ORIGIN, CONTENT + bytes([number]))
    assert shelf.find(ORIGIN) == CONTENT + b"\4"
    assert shelf.find("other") == b""
    assert len(names(shelf)) == 2


def test_what_is_too_large_is_not_read(shelf: Shelf) -> None:
    shelf.keep(ORIGIN, CONTENT)
    assert replace(shelf, most_bytes=len(CONTENT)).find(ORIGIN) == CONTENT
    assert replace(shelf, most_bytes=len(CONTENT) - 1).find(ORIGIN) is None
    assert names(shelf) == {NAME}


@pytest.mark.parametrize("spoiled", [CONTENT[:-1], b"", CONTENT + b"\0", b"V" + CONTENT[1:]])
def test_what_is_spoiled_goes(shelf: Shelf, spoiled: bytes) -> None:
    shelf.keep(ORIGIN, CONTENT)
    (shelf.folder / NAME).write_bytes(spoiled)
    assert shelf.find(ORIGIN) is None
    assert names(shelf) == set()
    shelf.keep(ORIGIN, CONTENT)
    assert shelf.find(ORIGIN) == CONTENT


def test_a_whole_one_is_found_beside_a_spoiled_one(shelf: Shelf) -> None:
    shelf.keep(ORIGIN, CONTENT)
    for number in range(4):
        (shelf.folder / f"{ORIGIN}.{number:064}{SUFFIX}").write_bytes(b"")
    assert shelf.find(ORIGIN) == CONTENT


def test_what_was_of_no_use_is_gone(shelf: Shelf) -> None:
    shelf.keep(ORIGIN, CONTENT)
    shelf.keep(ORIGIN, b"another")
    shelf.discard(ORIGIN, CONTENT)
    assert shelf.find(ORIGIN) == b"another"
    shelf.discard(ORIGIN, CONTENT)
    shelf.discard(ORIGIN, b"another")
    assert names(shelf) == set()


def test_those_used_last_stay(shelf: Shelf) -> None:
    for number in range(3):
        shelf.keep(f"{number}", CONTENT)
        (file,) = shelf.folder.glob(f"{number}.*")
        os.utime(file, (number, number))
    other = shelf.folder / "not one of them"
    other.touch()
    os.utime(other, (0, 0))
    assert shelf.find("0") == CONTENT
    shelf.keep("3", CONTENT)
    assert {name.partition(".")[0] for name in names(shelf)} == {"0", "2", "3", other.name}


def test_what_is_being_written_takes_no_place(shelf: Shelf) -> None:
    shelf.folder.mkdir(parents=True)
    part = shelf.folder / f".another.0123abcd.part{SUFFIX}"
    part.touch()
    os.utime(part, (0, 0))
    for number in range(3):
        shelf.keep(f"{number}", CONTENT)
    part.unlink()  # is still there
    assert all(shelf.find(f"{number}") == CONTENT for number in range(3))


def test_what_is_too_large_is_not_kept(shelf: Shelf) -> None:
    shelf.keep(ORIGIN, bytes(shelf.most_bytes + 1))
    assert not shelf.folder.exists()
    shelf.keep(ORIGIN, bytes(shelf.most_bytes))
    assert shelf.find(ORIGIN) == bytes(shelf.most_bytes)


@posix
@pytest.mark.parametrize("mode", [0o646, 0o666, 0o777, 0o602])
def test_what_everybody_may_write_to_is_ignored(shelf: Shelf, mode: int) -> None:
    shelf.keep(ORIGIN, CONTENT)
    (shelf.folder / NAME).chmod(mode)
    assert shelf.find(ORIGIN) is None
    # Not even for being spoiled, or one too many: it is none of ours.
    (shelf.folder / NAME).write_bytes(b"spoiled")
    assert shelf.find(ORIGIN) is None
    for number in range(4):
        shelf.keep(f"{number}", CONTENT)
    assert len(names(shelf)) == 4
    assert (shelf.folder / NAME).read_bytes() == b"spoiled"
    shelf.keep(ORIGIN, CONTENT)
    assert shelf.find(ORIGIN) == CONTENT


@posix
def test_what_belongs_to_another_user_is_ignored(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.keep(ORIGIN, CONTENT)
    me = os.geteuid()
    if me == 0:
        os.chown(shelf.folder / NAME, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert shelf.find(ORIGIN) is None
    assert names(shelf) == {NAME}
    if me == 0:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert shelf.find(ORIGIN) == CONTENT


@posix
def test_what_belongs_to_root_is_everybodys(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make it")
    shelf.keep(ORIGIN, CONTENT)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert shelf.find(ORIGIN) == CONTENT


@posix
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_nobody_else_may_write_to_what_is_kept(shelf: Shelf, umask: int) -> None:
    before = os.umask(umask)
    try:
        shelf.keep(ORIGIN, CONTENT)
    finally:
        os.umask(before)
    assert (shelf.folder / NAME).stat().st_mode & 0o777 == 0o644 & ~umask
    assert shelf.find(ORIGIN) == CONTENT


@posix
@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", ["pipe", "folder", "loop", "link to nothing", "link to a file"])
def test_what_is_no_file_is_neither_waited_for_nor_followed(shelf: Shelf, what: str) -> None:
    shelf.folder.mkdir(parents=True)
    path = shelf.folder / NAME
    elsewhere = shelf.folder.parent / "elsewhere"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    else:
        path.symlink_to(elsewhere)
    if what == "link to a file":
        elsewhere.write_bytes(CONTENT)
    assert shelf.find(ORIGIN) is None
    assert names(shelf) == {NAME}
    shelf.keep(ORIGIN, CONTENT)
    assert names(shelf) == {NAME}
    if what != "folder":
        assert not path.is_symlink()
        assert shelf.find(ORIGIN) == CONTENT
    shelf.keep(ORIGIN, b"another")  # as where what is made is never twice the same
    assert shelf.find(ORIGIN) in (CONTENT, b"another")
    assert elsewhere.exists() == (what == "link to a file")


def test_a_folder_that_cannot_be_made(shelf: Shelf) -> None:
    shelf.folder.parent.parent.joinpath("some").write_bytes(b"a file")
    shelf.keep(ORIGIN, CONTENT)
    assert shelf.find(ORIGIN) is None
    shelf.discard(ORIGIN, CONTENT)


@posix
@pytest.mark.skipif(sys.platform != "win32" and os.geteuid() == 0, reason="root may do anything")
@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_a_folder_that_is_only_read_or_not_even_that(shelf: Shelf, mode: int) -> None:
    shelf.keep(ORIGIN, CONTENT)
    shelf.folder.chmod(mode)
    try:
        shelf.keep("other", CONTENT)
        assert shelf.find("other") is None
        assert shelf.find(ORIGIN) == (CONTENT if mode else None)
        shelf.discard(ORIGIN, CONTENT)
    finally:
        shelf.folder.chmod(0o700)
    assert names(shelf) == {NAME}


@posix
def test_a_disk_that_is_full_leaves_nothing(shelf: Shelf) -> None:
    import resource

    shelf.keep(ORIGIN, CONTENT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, hard))  # beyond, writing fails
    try:
        shelf.keep("other", bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(shelf) == {NAME}


def test_an_interruption_leaves_nothing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("vidbg.whole.os.fdopen", "vidbg.whole.os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                shelf.keep(ORIGIN, CONTENT)
        assert names(shelf) == set()


WORKER = """
import pathlib, sys
from vidbg.matting.kept import Shelf
shelf = Shelf(pathlib.Path(sys.argv[1]), ".blob", 3, 1 << 20)
sys.stdin.read()
wrong = found = 0
for number in range(60):
    origin = str(number % 5 % 4)
    content = shelf.find(origin)
    if content is None:
        shelf.keep(origin, origin.encode() * 100_000 + sys.argv[2].encode())
    else:
        found += 1
        wrong += content[:-1] != origin.encode() * 100_000
print(wrong, found)
"""


def test_several_processes_at_once(shelf: Shelf) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(shelf.folder), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    time.sleep(0.5)  # until they have loaded what they need
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
        worker.stdin = None
    told = [worker.communicate(timeout=60) for worker in workers]
    assert {error for _, error in told} == {""}
    wrong, found = zip(*(map(int, output.split()) for output, _ in told), strict=True)
    assert sum(wrong) == 0
    assert sum(found) > 0
    assert all(name.endswith(SUFFIX) for name in names(shelf))
    assert 1 <= len(names(shelf)) <= 3 + len(workers)
    shelf.keep("0", CONTENT)
    assert len(names(shelf)) <= 3
    assert sum(name.startswith("0.") for name in names(shelf)) == 1
