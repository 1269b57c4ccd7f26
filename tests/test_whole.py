from __future__ import annotations

from pathlib import Path

import pytest

from vidbg.errors import OutputError
from vidbg.whole import write_whole


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
