"""``vidbg eval`` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import make_clip

SAMPLES = Path(__file__).parent.parent / "samples"
VIDBG = str(Path(sys.executable).with_name("vidbg"))
FRAMES = 6


def vidbg_eval(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [VIDBG, "eval", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def masks(folder: Path, width: int, frames: int = FRAMES) -> Path:
    """Numbered masks of 64x48, white in their first columns."""
    folder.mkdir()
    mask = np.zeros((48, 64), np.uint8)
    mask[:, :width] = 255
    for number in range(frames):
        cv2.imwrite(str(folder / f"{number:05}.png"), mask)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("eval") / "clip.mp4", frames=FRAMES)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return masks(tmp_path_factory.mktemp("eval") / "truth", 32)


def assert_one_line(run: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert run.returncode == code, run.stderr
    lines = run.stderr.strip().splitlines()
    if code == 2:  # click shows the usage above the line that counts
        lines = [line for line in lines if line.startswith("Error")]
    assert len(lines) == 1, run.stderr
    assert run.stdout == ""
    for word in words:
        assert word in lines[0]


def test_figures_on_standard_output_and_in_files(clip: Path, truth: Path, tmp_path: Path) -> None:
    matte = masks(tmp_path / "matte", 16)
    told, page = tmp_path / "told.json", tmp_path / "page.html"
    run = vidbg_eval(clip, truth, "--matte", matte, "--json", told, "--html", page)
    assert run.returncode == 0, run.stderr
    rows = {line[:6].strip(): line[6:].split() for line in run.stdout.splitlines()[1:]}
    assert rows["J"][0] == "0.500"
    assert rows["MAE"][0] == "0.2500"
    assert "6 frames" in run.stderr
    assert "(binary)" in run.stderr
    document = json.loads(told.read_text(encoding="utf-8"))
    assert document["mean"]["J"] == 0.5
    assert [frame["J"] for frame in document["per_frame"]] == FRAMES * [0.5]
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["matte", "page.html", "told.json"]


def test_a_keyed_clip_against_its_known_alpha() -> None:
    run = vidbg_eval(
        SAMPLES / "talk.green.mp4", SAMPLES / "talk.alpha.mkv", "--model", "chroma", "-q"
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    rows = {line.split()[0]: line.split()[1:] for line in run.stdout.splitlines()[1:]}
    assert list(rows) == ["MAD", "MSE", "Grad", "Conn", "dtSSD", "warp", "J", "F"]
    assert float(rows["MAD"][0]) < 3
    assert float(rows["J"][0]) > 0.99


def test_pictures_against_masks_of_the_same_names(tmp_path: Path) -> None:
    images, truths = tmp_path / "images", masks(tmp_path / "masks", 32, 2)
    images.mkdir()
    screen = np.zeros((48, 64, 3), np.uint8)
    screen[:] = (64, 177, 0)  # B, G, R
    screen[:, :32] = (60, 60, 200)
    for number in range(2):
        cv2.imwrite(str(images / f"{number:05}.png"), screen)
    run = vidbg_eval(images, truths, "--model", "chroma", "--key", "#00b140")
    assert run.returncode == 0, run.stderr
    assert "2 pictures" in run.stderr
    rows = {line[:6].strip(): line[6:].split() for line in run.stdout.splitlines()[1:]}
    assert "dtSSD" not in rows
    assert float(rows["J"][0]) > 0.95
    assert rows["J"][2] == "00000.png"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--matte", "x.mkv", "--smooth", "0.5"], ["--smooth", "--matte"]),
        (["--matte", "x.mkv", "--model", "u2netp"], ["--model", "--matte"]),
        (["--matte", "x.mkv", "--edges", "fine"], ["--edges", "--matte"]),
        (["--matte", "x.mkv", "--fill-holes"], ["--fill-holes", "--matte"]),
        (["--json", "told", "--html", "told"], ["--json", "--html", "same file"]),
        (["--model", "nonesuch"], ["nonesuch", "u2netp"]),
        (["--key", "blue"], ["--model chroma"]),
        (["--smooth", "2"], ["--smooth"]),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    clip: Path, truth: Path, arguments: list[str], words: list[str]
) -> None:
    assert_one_line(vidbg_eval(clip, truth, *arguments), 2, *words)


def test_a_folder_of_pictures_needs_a_folder_of_masks(clip: Path, truth: Path) -> None:
    assert_one_line(vidbg_eval(truth), 2, "TRUTH")
    assert_one_line(vidbg_eval(truth, clip), 2, "TRUTH")


def test_what_cannot_be_measured_is_one_line_and_code_1(
    clip: Path, truth: Path, tmp_path: Path
) -> None:
    short = masks(tmp_path / "short", 8, 3)
    existing = tmp_path / "page.html"
    existing.write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    chroma = ("--model", "chroma", "--key", "green", "-q")
    assert_one_line(vidbg_eval("no.mp4", truth, *chroma), 1, "no.mp4", "no such file")
    assert_one_line(vidbg_eval(clip, "no.mkv", *chroma), 1, "no.mkv", "no such file")
    assert_one_line(vidbg_eval(clip, short, *chroma), 1, "short", "3 frames", "6 frames")
    assert_one_line(vidbg_eval(clip, truth, "--matte", short, "-q"), 1, "short", "3 frames")
    assert_one_line(vidbg_eval(clip, truth, "--html", existing, *chroma), 1, "page.html", "-y")
    inputs = [masks(tmp_path / name, 32, 1) / "00000.png" for name in ("one", "other")]
    before = sorted(tmp_path.rglob("*"))
    for taken in inputs:
        arguments = (clip, inputs[0], "--matte", inputs[1], "--html", taken, "-y", "-q")
        assert_one_line(vidbg_eval(*arguments), 1, taken.name, "is the input itself")
    # --json names a file here: no JSON on standard output.
    missing = tmp_path / "no" / "told.json"
    assert_one_line(vidbg_eval(clip, truth, "--json", missing, *chroma), 1, "folder does not exist")
    assert existing.read_text() == "precious"
    assert sorted(tmp_path.rglob("*")) == before
