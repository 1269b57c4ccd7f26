"""Contact sheets, and ``vidbg preview`` as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import frame_numbers, make_clip
from numpy.typing import NDArray
from PIL import Image

from vidbg import pipeline, preview
from vidbg.errors import InputError
from vidbg.job import Job
from vidbg.media import background, encode
from vidbg.media.probe import probe

WIDTH, HEIGHT = 64, 48
VIDBG = str(Path(sys.executable).with_name("vidbg"))
Picture = NDArray[np.uint8]


class LeftHalf:
    """A segmenter that finds its subject in the left half of every picture."""

    name = "left half"

    def __init__(self) -> None:
        self.asked = 0

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        return height, width

    def batch_size(self, height: int, width: int) -> int:
        return 4

    def __call__(self, rgb: Picture) -> NDArray[np.float32]:
        self.asked += len(rgb)
        mattes = np.zeros(rgb.shape[:3], np.float32)
        mattes[:, :, : rgb.shape[2] // 2] = 1
        return mattes


class Network(LeftHalf):
    """One that knows squeezed and mirrored pictures too; its subject is in the upper half."""

    square_size = (48, 48)
    is_slow = False

    def prepare(self, sizes: Iterable[tuple[int, int]]) -> None:
        pass

    def __call__(self, rgb: Picture) -> NDArray[np.float32]:
        return super().__call__(rgb.swapaxes(1, 2)).swapaxes(1, 2)


def cell(sheet: Picture, row: int, column: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Picture:
    """Cut a cell out of a sheet: strips of 26 pixels for text, gaps of 6."""
    width, height = size
    left = 6 + column * (width + 6)
    top = 2 * 26 + row * (26 + height + 6) + 26
    return sheet[top : top + height, left : left + width]


def numbers(*cells: Picture) -> list[int]:
    return frame_numbers(np.stack(cells).mean(axis=3).astype(np.uint8))


def job(clip: Path, bg: object = None, **fields: Any) -> Job:
    # What is looked at here are the cells, with mattes as the segmenter makes them.
    fields = {"edges": "off", "smooth": 0.0} | fields
    kind = "alpha" if bg is None else "composite"
    output = encode.Output(clip.with_suffix(".png"), kind, "png")
    return Job(clip, output, background=bg, **fields)  # type: ignore[arg-type]


def test_four_frames_evenly_spread(exact_clip: Path) -> None:
    sheet = preview.draw_sheet({"": job(exact_clip)}, segmenter=LeftHalf())
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * 26 + 4 * (26 + HEIGHT + 6), 6 + 3 * (WIDTH + 6), 3)
    # Ten frames in four parts: amid each of them.
    assert numbers(*(cell(sheet, row, 0) for row in range(4))) == [1, 3, 6, 8]


def test_what_the_cells_show(exact_clip: Path) -> None:
    over_blue = job(exact_clip, background.Solid((20, 30, 200)))
    sheet = preview.draw_sheet({"": over_blue}, [Fraction(1, 5)], segmenter=LeftHalf())
    source, matte, cut_out, composite = (cell(sheet, 0, column) for column in range(4))
    assert numbers(source) == [5]
    half = WIDTH // 2
    assert (matte[:, :half] == 255).all()
    assert (matte[:, half:] == 0).all()
    for picture in (cut_out, composite):
        np.testing.assert_array_equal(picture[:, : half - 4], source[:, : half - 4])
    # Squares of a 32nd of the width, in two greys, as dark as light.
    squares = cut_out[:, half:]
    assert set(np.unique(squares)) == {102, 153}
    assert (squares[::4, ::4] == squares[0, 0]).all()
    assert (squares[2::4, ::4] != squares[0, 0]).all()
    assert squares.mean() == (102 + 153) / 2
    flat = composite[:, half + 4 :].reshape(-1, 3).astype(int)
    assert np.abs(flat - [20, 30, 200]).max() <= 2


def test_times_choose_frames(exact_clip: Path) -> None:
    times = [Fraction(9, 25), Fraction(0), Fraction(101, 1000)]
    sheet = preview.draw_sheet({"": job(exact_clip)}, times, segmenter=LeftHalf())
    # The frame at the time, or next after it.
    assert numbers(*(cell(sheet, row, 0) for row in range(3))) == [9, 0, 3]
    with pytest.raises(InputError, match=r"ends at 0\.400 s, there is no frame at 0\.5 s"):
        preview.draw_sheet({"": job(exact_clip)}, [Fraction(1, 2)], segmenter=LeftHalf())


def test_few_frames_are_decoded(long_clip: Path) -> None:
    segmenter = LeftHalf()
    sheet = preview.draw_sheet({"": job(long_clip, smooth=0.0)}, segmenter=segmenter)
    assert numbers(*(cell(sheet, row, 0) for row in range(4))) == [62, 187, 312, 437]
    assert segmenter.asked <= 4 * segmenter.batch_size(HEIGHT, WIDTH)


def test_the_background_is_that_of_the_moment(exact_clip: Path, long_clip: Path) -> None:
    class Nothing(LeftHalf):
        def __call__(self, rgb: Picture) -> NDArray[np.float32]:
            return 0 * super().__call__(rgb)

    over = job(exact_clip, long_clip, bg_start_s=Fraction(2))
    sheet = preview.draw_sheet({"": over}, [Fraction(0), Fraction(7, 25)], segmenter=Nothing())
    assert numbers(cell(sheet, 0, 3), cell(sheet, 1, 3)) == [50, 57]


def test_its_own_background_blurred(exact_clip: Path) -> None:
    sheet = preview.draw_sheet(
        {"": job(exact_clip, background.Blur(None))}, [Fraction(1, 5)], segmenter=LeftHalf()
    )
    source, composite = cell(sheet, 0, 0), cell(sheet, 0, 3)
    np.testing.assert_array_equal(composite[:, :28], source[:, :28])
    assert (composite[:, 36:] != source[:, 36:]).any()


def test_settings_side_by_side_share_the_network(
    exact_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[LeftHalf] = []

    def load(*_: object, **__: object) -> LeftHalf:
        loaded.append(Network())
        return loaded[-1]

    monkeypatch.setattr(pipeline, "load", load)
    jobs = {f"smooth={s}": job(exact_clip, smooth=s) for s in (0.5, 1.0)}
    sheet = preview.draw_sheet(jobs, [Fraction(1, 5)])
    assert sheet.shape[1] == 6 + 5 * (WIDTH + 6)
    mattes = (cell(sheet, 0, column).astype(int) for column in (1, 2))
    assert np.abs(np.subtract(*mattes)).mean() < 3
    assert len(loaded) == 1
    asked = loaded[0].asked
    preview.draw_sheet({"smooth=1": jobs["smooth=1.0"]}, [Fraction(1, 5)])
    assert asked == loaded[1].asked  # no picture was asked about twice

    preview.draw_sheet({"a": job(exact_clip), "b": job(exact_clip, model="u2net")}, [Fraction(0)])
    assert len(loaded) == 4


@pytest.mark.parametrize("looks", [1, 4])
def test_frames_are_looked_at_as_in_the_whole_job(
    exact_clip: Path, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    class ByShape(Network):
        def __call__(self, rgb: Picture) -> NDArray[np.float32]:
            share = 0.2 if rgb.shape[1] == rgb.shape[2] else 0.8
            return np.full(rgb.shape[:3], share, np.float32)

    monkeypatch.setattr(pipeline, "load", lambda *_, **__: ByShape())
    looked = job(exact_clip, smooth=1.0, looks=looks)
    sheet = preview.draw_sheet({"": looked}, [Fraction(0), Fraction(1, 5)])
    info = probe(exact_clip)
    mattes = np.concatenate(
        [batch.matte for batch in pipeline.read_mattes(looked, info, ByShape())]
    )
    assert (mattes[5] < 0.6).all()  # not in the clip's own shape alone
    for row, frame in enumerate((0, 5)):
        shown = cell(sheet, row, 1)[..., 0]
        np.testing.assert_array_equal(shown, np.rint(255 * mattes[frame]).astype(np.uint8))


def test_a_picture_of_another_shape_is_another_picture() -> None:
    remembering = preview._Remembering(LeftHalf(), Network())
    for size in ((16, 64), (32, 32)):
        assert remembering(np.zeros((1, *size, 3), np.uint8)).shape == (1, *size)


def test_wide_frames_are_made_smaller_and_pixels_square(tmp_path: Path) -> None:
    wide = make_clip(tmp_path / "wide.mkv", size=(1200, 300), frames=1)
    assert preview.draw_sheet({"": job(wide)}, segmenter=LeftHalf()).shape[1] == 6 + 3 * 486
    tall = make_clip(tmp_path / "tall.mkv", frames=1, sar="1/2")
    sheet = preview.draw_sheet({"": job(tall)}, segmenter=LeftHalf())
    assert sheet.shape[1] == 6 + 3 * (WIDTH // 2 + 6)
    assert numbers(cell(sheet, 0, 0, (WIDTH // 2, HEIGHT))) == [0]


def test_a_photograph_is_one_frame(tmp_path: Path) -> None:
    photograph = make_clip(tmp_path / "me.png", frames=1, first_number=77, pix_fmt="rgb24")
    sheet = preview.draw_sheet({"": job(photograph)}, segmenter=LeftHalf())
    assert numbers(cell(sheet, 0, 0)) == [77]
    assert sheet.shape[0] == 2 * 26 + (26 + HEIGHT + 6)


@pytest.mark.parametrize(("suffix", "kind", "off"), [(".png", "PNG", 0), (".JPG", "JPEG", 12)])
def test_sheets_as_files(tmp_path: Path, suffix: str, kind: str, off: int) -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    sheet = np.dstack([np.tile(ramp, (32, 1))] * 3)
    path = tmp_path / "sheet"
    path.write_bytes(preview.as_file(sheet, suffix))
    with Image.open(path) as opened:
        assert opened.format == kind
        assert np.abs(np.asarray(opened).astype(int) - sheet).max() <= off


# ---- The command -------------------------------------------------------------------------------


def vidbg_preview(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [VIDBG, "preview", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


KEYED = ("--model", "chroma", "--key", "green")


def test_the_command_writes_beside_the_input(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "my clip.mp4")
    run = vidbg_preview(clip, *KEYED, "--bg", "red", "--compare", "smoothness=0.1,smoothness=1")
    assert run.returncode == 0, run.stderr
    sheet = tmp_path / "my clip.preview.png"
    assert run.stdout == f"{sheet}\n"
    with Image.open(sheet) as opened:
        assert opened.width == 6 + 7 * (WIDTH + 6)
    run = vidbg_preview(clip, *KEYED)
    assert run.returncode == 1
    assert "-y" in run.stderr
    assert vidbg_preview(clip, *KEYED, "-y", "-q").stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "my clip.mp4",
        "my clip.preview.png",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "sheet.mp4"], ["-o", ".png"]),
        (["--at", "1:99"], ["--at", "not a time"]),
        (["--compare", "chroma"], ["--compare", "'chroma'", "OPTION=VALUE"]),
        (["--compare", "smooth=0,"], ["--compare", "OPTION=VALUE"]),
        (["--compare", "smoth=0"], ["--compare", "'smoth'", "smooth"]),
        (["--compare", "smooth=0,smooth=7"], ["--smooth", "7"]),
        (["--compare", "model=nonesuch"], ["--model", "nonesuch"]),
        (["--compare", "key=blue+smooth=0"], ["--model chroma"]),
        (["--bg", "blur:wide"], ["--bg", "wide"]),
        (["--bg-end", "hold"], ["--bg-end is for --bg"]),
        (["--compare", "bg-fit=cover,bg-fit=contain"], ["--bg-fit is for --bg"]),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    plain_clip: Path, arguments: list[str], words: list[str]
) -> None:
    run = vidbg_preview(plain_clip, *arguments)
    assert run.returncode == 2, run.stderr
    lines = [line for line in run.stderr.splitlines() if line.startswith("Error")]
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


def test_what_cannot_be_shown_is_one_line_and_code_1(plain_clip: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "sheet.png")
    for arguments, words in (
        (["no.mp4"], "no.mp4: no such file"),
        ([plain_clip, "--at", "9"], "there is no frame at 9 s"),
        ([plain_clip, "--bg", "no.jpg"], "no.jpg: no such file"),
    ):
        run = vidbg_preview(*arguments, *KEYED, *out)
        assert run.returncode == 1, run.stderr
        assert len(run.stderr.splitlines()) == 1, run.stderr
        assert words in run.stderr
    assert list(tmp_path.iterdir()) == []
