"""``vidbg train`` as a user runs it, on a few pictures, and what it leaves used by ``vidbg``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip, stream_facts
from PIL import Image

from vidbg.training import BEST, CHECKPOINT, record

VIDBG = str(Path(sys.executable).with_name("vidbg"))
SMALL = ("--size", "32", "--batch-size", "4", "--device", "cpu", "--precision", "fp32")


def vidbg(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [VIDBG, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pairs, of which some are for validation, three cut-outs and three backgrounds."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(4)
    for name in ("shapes/images", "shapes/masks", "cutouts", "backgrounds"):
        (root / name).mkdir(parents=True)
    for number in range(20):
        noise = rng.integers(0, 90, (40, 56, 3), dtype=np.uint8)
        mask = np.zeros((40, 56), np.uint8)
        top, left = rng.integers(0, 20, 2)
        mask[top : top + 18, left : left + 24] = 255
        shown = np.where(mask[..., None] > 0, np.uint8(220), noise)
        Image.fromarray(shown).save(root / f"shapes/images/{number:03}.png")
        Image.fromarray(mask).save(root / f"shapes/masks/{number:03}.png")
        if number < 3:
            Image.fromarray(np.dstack((shown, mask))).save(root / f"cutouts/{number}.png")
            Image.fromarray(noise).save(root / f"backgrounds/{number}.png")
    return root


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "new"
    run = vidbg("train", data, "-o", folder, "--steps", 3, "--validate-every", 2, *SMALL)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{folder / BEST}\n"
    assert "pairs" in run.stderr
    assert "validation IoU" in run.stderr
    return folder


def test_what_a_training_leaves(trained: Path) -> None:
    assert (trained / CHECKPOINT).exists()
    rows = record.read(trained)
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert [bool(row["validation_iou"]) for row in rows] == [False, True, True]
    assert not list(trained.glob("*.part"))
    with Image.open(trained / record.CURVES) as picture:
        assert picture.format == "PNG"


def test_it_goes_on_where_it_was(data: Path, trained: Path) -> None:
    again = vidbg("train", data, "-o", trained, "--steps", 5, *SMALL)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    run = vidbg("train", data, "-o", trained, "--steps", 5, "--resume", *SMALL)
    assert run.returncode == 0, run.stderr
    assert [row["step"] for row in record.read(trained)] == ["1", "2", "3", "4", "5"]
    other = vidbg("train", data, "-o", trained, "--steps", 9, "--resume", "--lr", "0.1", *SMALL)
    assert other.returncode == 1
    (line,) = [line for line in other.stderr.splitlines() if line.startswith("vidbg: ")]
    assert "another recipe" in line
    assert "Traceback" not in other.stderr


def test_the_result_cuts_out_and_is_a_start(data: Path, trained: Path, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", size=(96, 64), frames=3)
    out = tmp_path / "out.mp4"
    run = vidbg(clip, "--bg", "red", "--weights", trained / BEST, "-o", out)
    assert run.returncode == 0, run.stderr
    assert stream_facts(out).frames == 3
    start = ("--init", trained / BEST, "--steps", 1)
    run = vidbg("train", data, "-o", tmp_path / "more", *start, *SMALL)
    assert run.returncode == 0, run.stderr
    wrong = vidbg("train", data, "-o", tmp_path / "w", "--arch", "u2netp", *start, *SMALL)
    assert wrong.returncode == 1
    assert "vidbg-s" in wrong.stderr


def test_coco_and_an_interrupted_training(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="COCO needs vidbg[train]")
    images = tmp_path / "photos"
    images.mkdir()
    document: dict[str, list[object]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}],
    }
    for number in range(12):
        Image.new("RGB", (64, 48), (10 * number, 90, 60)).save(images / f"{number}.png")
        entry = {"id": number, "file_name": f"{number}.png", "width": 64, "height": 48}
        document["images"].append(entry)
        outline = [8, 8, 40, 8, 40, 40, 8, 40]
        found = {"id": number + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
        document["annotations"].append(
            found | {"segmentation": [outline], "area": 1024, "bbox": [8, 8, 32, 32]}
        )
    instances = tmp_path / "instances.json"
    instances.write_text(json.dumps(document))
    folder = tmp_path / "run"
    source = ("--coco", instances, "--coco-images", images)
    command = [VIDBG, "train", *map(str, source), "-o", str(folder), "--time-budget", "10", *SMALL]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: (folder / record.LOG).exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert "stopped after step" in told
    assert "--resume" in told
    assert "nothing was written" not in told
    assert (folder / CHECKPOINT).exists()
    steps = len(record.read(folder))
    more = vidbg(
        "train", *source, "-o", folder, "--resume", "--time-budget", "10", "--steps", 1, *SMALL
    )
    assert more.returncode == 0, more.stderr  # one step was asked for and is long done
    assert len(record.read(folder)) == steps


def wait_until(is_so: Callable[[], bool], most_s: float = 60.0) -> None:
    deadline = time.monotonic() + most_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "1"], ["DATA", "--coco"]),
        (["DATA"], ["--time-budget", "--steps"]),
        (["DATA", "--steps", "1", "--size", "100"], ["multiples of 32"]),
        (["DATA", "--steps", "1", "--size", "64,nine"], ["multiples of 32"]),
        (["DATA", "--steps", "1", "--teacher", "nobody"], ["nobody", "u2netp"]),
        (["DATA", "--steps", "1", "--teacher-weights", "x.pth"], ["--teacher"]),
        (["DATA", "--steps", "1", "--coco", "x.json"], ["--coco-images"]),
        (["DATA", "--steps", "1", "--resume"], ["no training"]),
        (["DATA", "--steps", "1", "--arch", "vgg"], ["vidbg-s"]),
    ],
)
def test_wrong_usage(data: Path, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    given = [str(data) if word == "DATA" else word for word in arguments]
    run = vidbg("train", *given, "-o", tmp_path / "run")
    assert run.returncode == 2, run.stderr
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("Error")]
    for word in words:
        assert word in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing-here"], ["nothing-here"]),
        (["EMPTY"], ["images/"]),
        (["DATA", "--init", "nothing.pth"], ["nothing.pth", "no such file"]),
        (["DATA", "--device", "cuda:7"], ["CUDA", "cuda:7"]),
    ],
)
def test_jobs_that_fail(data: Path, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    places = {"DATA": str(data), "EMPTY": str(tmp_path / "empty")}
    given = [places.get(word, word) for word in arguments]
    run = vidbg("train", *given, "--steps", "1", "-o", tmp_path / "run")
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("vidbg: ")]
    assert any(word in line for word in words)
