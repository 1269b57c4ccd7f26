"""Ledgers: what is finished stays known, whatever cuts a run off."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidbg import ledger
from vidbg.errors import OutputError
from vidbg.ledger import Ledger


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A root, a clip and its finished result, noted with the mark "m"."""
    root = tmp_path / "out"
    (root / "sub").mkdir(parents=True)
    source, output = tmp_path / "a.mp4", root / "sub/a.vidbg.mp4"
    source.write_bytes(b"clip")
    with Ledger(root) as book:
        book.begin(output, source)
        output.write_bytes(b"result")
        book.finish(output, source, "m", 25, 1.5)
    return root, source, output


def test_what_is_finished_is_known_again(made: tuple[Path, Path, Path]) -> None:
    root, source, output = made
    with Ledger(root) as book:
        entry = book.finished(output, "m")
        assert entry is not None
        assert (entry.frames, entry.seconds, entry.source) == (25, 1.5, source)
        assert book.finished(output, "other options") is None
        assert book.finished(root / "b.vidbg.mp4", "m") is None
        assert book.owns(output, source)
        assert not book.owns(output, source.with_name("other.mp4"))
        output.write_bytes(b"longer result")
        assert book.finished(output, "m") is None
        assert not book.owns(output, source)
        output.unlink()
        assert book.finished(output, "m") is None
        assert not book.owns(output, source)


def test_a_folder_that_moves_as_a_whole_stays_known(
    made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    root, source, _ = made
    moved = tmp_path / "moved"
    moved.mkdir()
    root.rename(moved / "out")
    source.rename(moved / "a.mp4")
    entries = ledger.read(moved / "out/sub")
    assert [(entry.output, entry.source) for entry in entries.values()] == [
        (moved / "out/sub/a.vidbg.mp4", moved / "a.mp4")
    ]


def test_a_path_is_the_same_from_wherever_it_is_named(
    made: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _, _ = made
    monkeypatch.chdir(root / "sub")
    with Ledger(Path("..")) as book:
        assert book.finished(Path("a.vidbg.mp4"), "m") is not None
        assert book.owns(Path("../sub/a.vidbg.mp4"), Path("../../a.mp4"))


def test_a_result_is_known_whichever_folder_a_batch_is_for(made: tuple[Path, Path, Path]) -> None:
    root, source, output = made
    for folder in (root.parent, root / "sub"):
        with Ledger(folder) as book:
            assert book.finished(output, "m") is not None
            assert book.owns(output, source)


def test_links_to_a_folder_lead_to_the_same_ledger(
    made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    root, source, output = made
    (tmp_path / "link").symlink_to(root / "sub")
    with Ledger(tmp_path / "link") as book:
        with pytest.raises(OutputError, match="another batch"):
            Ledger(root / "sub")
        linked = tmp_path / "link" / output.name
        assert book.finished(linked, "m") is not None
        assert book.owns(linked, source)


def test_a_result_that_appeared_before_it_was_noted_is_ours(tmp_path: Path) -> None:
    """Killed between the two: the next run makes it anew, and needs no leave to replace it."""
    source, output = tmp_path / "a.mp4", tmp_path / "a.vidbg.mp4"
    with Ledger(tmp_path) as book:
        book.begin(output, source)
    output.write_bytes(b"result")
    with Ledger(tmp_path) as book:
        assert book.owns(output, source)
        assert book.finished(output, "m") is None
        long_ago = time.time() - 100
        os.utime(output, (long_ago, long_ago))  # a file that was there before is somebody's
        assert not book.owns(output, source)


def test_a_failed_run_owns_nothing_that_comes_later(tmp_path: Path) -> None:
    source, output = tmp_path / "a.mp4", tmp_path / "a.vidbg.mp4"
    with Ledger(tmp_path) as book:
        book.begin(output, source)
        book.give_up(output)
        output.write_bytes(b"the user's own")
        assert not book.owns(output, source)


def test_the_old_result_stays_ours_while_a_new_one_is_made(made: tuple[Path, Path, Path]) -> None:
    root, source, output = made
    long_ago = time.time() - 100
    os.utime(output, (long_ago, long_ago))
    with Ledger(root) as book:
        book.begin(output, source)
        book.finish(output, source, "m", 25, 1.5)
        book.begin(output, source)  # and killed
    with Ledger(root) as book:
        assert book.owns(output, source)


def test_only_one_batch_at_a_time(tmp_path: Path) -> None:
    held = (
        "from pathlib import Path; from vidbg.ledger import Ledger; "
        f"Ledger(Path({str(tmp_path)!r}))"
    )
    with Ledger(tmp_path):
        with pytest.raises(OutputError, match="another batch works on this folder"):
            Ledger(tmp_path)
        other = subprocess.run([sys.executable, "-c", held], capture_output=True, text=True)
        assert "another batch works on this folder" in other.stderr
    with Ledger(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / ledger.NAME).mkdir()
    with pytest.raises(OutputError, match=r"batch\.jsonl: cannot be written"):
        Ledger(tmp_path)


@given(st.data())
def test_cut_off_anywhere_it_is_read_and_written_on(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Of a ledger cut at any byte every whole line counts, and what comes next is whole again."""
    root = tmp_path_factory.mktemp("cut")
    outputs = [root / f"{name}.vidbg.mp4" for name in "abc"]
    with Ledger(root) as book:
        for output in outputs:
            output.write_bytes(b"result")
            book.begin(output, root / "clip.mp4")
            book.finish(output, root / "clip.mp4", "m", 1, 1.0)
    whole = (root / ledger.NAME).read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    (root / ledger.NAME).write_bytes(whole[:cut])
    # JSON without its newline is whole too.
    lines = [line for line in whole[:cut].split(b"\n") if line.endswith(b"}")]
    finished = {n for n, name in enumerate("abc") if _has_finished(lines, name)}
    with Ledger(root) as book:
        assert {n for n, output in enumerate(outputs) if book.finished(output, "m")} == finished
        book.begin(outputs[0], root / "clip.mp4")
        book.finish(outputs[0], root / "clip.mp4", "m", 2, 1.0)
    entries = ledger.read(root)
    assert entries[outputs[0]].frames == 2
    assert {n for n, out in enumerate(outputs) if out in entries and entries[out].fingerprint} == (
        finished | {0}
    )


def _has_finished(lines: list[bytes], name: str) -> bool:
    mine = [line for line in lines if f'"{name}.vidbg.mp4"'.encode() in line]
    return bool(mine) and b'"fingerprint": "m"' in mine[-1]


def test_lines_that_say_something_else_say_nothing(made: tuple[Path, Path, Path]) -> None:
    root, _, output = made
    with (root / "sub" / ledger.NAME).open("ab") as stream:
        stream.write(b'{"output": 3}\n[]\n\xff\xfe\n{"output": "x", "source": "y"}\n')
    assert set(ledger.read(root / "sub")) == {output}


def test_a_folder_of_numbered_files_is_one_result(tmp_path: Path) -> None:
    source, output = tmp_path / "a.mp4", tmp_path / "a.vidbg/a_%06d.png"
    output.parent.mkdir()
    with Ledger(tmp_path) as book:
        book.begin(output, source)
        for number in range(3):
            (output.parent / f"a_{number:06}.png").write_bytes(b"frame")
        book.finish(output, source, "m", 3, 1.0)
    with Ledger(tmp_path) as book:
        assert book.finished(output, "m") is not None
        assert book.owns(output, source)
        (output.parent / "a_000001.png").unlink()
        assert book.finished(output, "m") is None
        assert not book.owns(output, source)


def test_a_result_that_is_not_there_is_not_finished(tmp_path: Path) -> None:
    with Ledger(tmp_path) as book:
        book.begin(tmp_path / "a.vidbg.mp4", tmp_path / "a.mp4")
        with pytest.raises(OutputError, match="is gone again"):
            book.finish(tmp_path / "a.vidbg.mp4", tmp_path / "a.mp4", "m", 1, 1.0)
