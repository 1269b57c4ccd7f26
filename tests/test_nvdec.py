"""Decoding by a GPU: an FFmpeg that pretends to, since the trial and what follows it count."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip

from vidbg.errors import DecodeError
from vidbg.frames import FrameBatch
from vidbg.media import ffmpeg as ff
from vidbg.media import nvdec
from vidbg.media.decode import FrameReader
from vidbg.media.probe import probe

# Takes "-hwaccel cuda -hwaccel_device 0" for no more than a wish, unless told otherwise.
_PRETENDER = """#!{python}
import os, subprocess, sys
arguments = sys.argv[1:]
if "-hwaccel" not in arguments:
    os.execv({ffmpeg!r}, [{ffmpeg!r}, *arguments])
for name, value in (("-hwaccel", "cuda"), ("-hwaccel_device", "0")):
    place = arguments.index(name)
    assert arguments[place + 1] == value
    del arguments[place : place + 2]
is_trial = "framemd5" in arguments
{does}
os.execv({ffmpeg!r}, [{ffmpeg!r}, *arguments])
"""


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, does: str = "") -> None:
    script = folder / "pretender"
    script.write_text(_PRETENDER.format(python=sys.executable, ffmpeg=ff.executable(), does=does))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(ff, "executable", lambda: str(script))


def luma(batches: list[FrameBatch]) -> np.ndarray:
    return np.concatenate([batch.planes[0] for batch in batches])


def test_a_gpu_that_gives_the_same_frames_decodes(
    tmp_path: Path, plain_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = probe(plain_clip)
    expected = luma(list(FrameReader(info, batch_size=4)))
    pretend(tmp_path, monkeypatch)
    assert nvdec.decodes(info, 0)
    np.testing.assert_array_equal(luma(list(FrameReader(info, batch_size=4, gpu=0))), expected)


@pytest.mark.parametrize(
    "does",
    [
        'sys.exit("[error] Unrecognized hwaccel: cuda.")',
        'print("[h264 @ 0x0] [error] hwaccel initialisation returned error.", file=sys.stderr)',
        """
place = arguments.index("-filter_complex") + 1
assert "]scale=" in arguments[place]
arguments[place] = arguments[place].replace("]scale=", "]negate,scale=")
""",
    ],
    ids=["no such build", "a complaint", "other samples"],
)
def test_a_gpu_that_does_not_is_left_alone(
    tmp_path: Path, plain_clip: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    info = probe(plain_clip)
    pretend(tmp_path, monkeypatch, does)
    assert not nvdec.decodes(info, 0)


def test_what_standards_leave_open_is_not_tried(exact_clip: Path, uneven_clip: Path) -> None:
    for clip in (exact_clip, uneven_clip):
        assert not nvdec.decodes(probe(clip), 0)


def test_software_goes_on_where_the_gpu_fails(
    tmp_path: Path,
    talking_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After 7 frames of a trim from 5 to 45, in batches of 3: none is lost, none comes twice."""
    info = probe(talking_clip)
    expected = list(FrameReader(info, batch_size=3, first=5, stop=45))
    does = """
place = arguments.index("-frames:v")
arguments[place + 1] = "7"
print(end="", flush=True)
code = subprocess.call([{ffmpeg!r}, *arguments])
print("[error] the GPU has fallen off the bus", file=sys.stderr)
sys.exit(1)
""".replace("{ffmpeg!r}", repr(ff.executable()))
    pretend(tmp_path, monkeypatch, does)
    found = list(FrameReader(info, batch_size=3, first=5, stop=45, gpu=0))
    assert "decoded in software from frame" in caplog.text
    np.testing.assert_array_equal(luma(found), luma(expected))
    places = [batch.first_index + n for batch in found for n in range(len(batch))]
    assert places == list(range(5, 45))


def test_what_is_damaged_is_an_error_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=50)
    content = bytearray(source.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    source.write_bytes(content)
    pretend(tmp_path, monkeypatch)
    with pytest.raises(DecodeError):
        list(FrameReader(probe(source), gpu=0))
