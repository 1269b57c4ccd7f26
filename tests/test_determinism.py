"""What is made depends on clip and options: not on the run, the batches or the cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from clips import Array, cores_of_children, decode_planes

from vidbg.matting import engines
from vidbg.matting.segmenter import load_segmenter

SAMPLES = Path(__file__).parent.parent / "samples"
TALK = SAMPLES / "talk.mp4"
VIDBG = str(Path(sys.executable).with_name("vidbg"))

# What a matte may differ by, in codes of 8 bits, and on what share of all pixels.
LARGEST_CODE, LARGEST_SHARE = 1, 0.001


def hardly_differ(one: Array, other: Array) -> bool:
    """Say whether two mattes, uint8 of the same shape, are within what is promised."""
    assert one.shape == other.shape
    difference = np.abs(one.astype(int) - other)
    return bool(difference.max() <= LARGEST_CODE and (difference > 0).mean() <= LARGEST_SHARE)


def test_what_differs_is_told() -> None:
    one = np.zeros((2, 50, 20), np.uint8)
    other = one.copy()
    other[0, 0, :2] = 1
    assert hardly_differ(one, other)
    other[0, 0, 2] = 1
    assert not hardly_differ(one, other)
    other[0, 0, :3] = 2, 0, 0
    assert not hardly_differ(one, other)


def matte_of(out: Path, *options: str, cores: int | None = None, threads: str = "") -> Array:
    """Return the matte that the command makes of a part of a real clip, before any loss."""
    with cores_of_children(cores):
        subprocess.run(
            [VIDBG, TALK, "--matte", "--end", "0.3", "-q", "-o", out, *options],
            check=True,
            timeout=120,
            env=os.environ | {"OMP_NUM_THREADS": threads},
        )
    return decode_planes(out)[0]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity to set")
def test_neither_runs_nor_batches_nor_cores_change_a_matte(tmp_path: Path) -> None:
    first = matte_of(tmp_path / "first.mkv")
    assert len(first) == 9
    assert 0.1 < np.mean(first > 127) < 0.9
    np.testing.assert_array_equal(matte_of(tmp_path / "again.mkv"), first)
    # Every frame is asked for alone, on one core.
    other = matte_of(tmp_path / "other.mkv", "--batch-size", "1", cores=1, threads="1")
    assert hardly_differ(first, other)


def test_the_same_command_makes_the_same_frames(tmp_path: Path) -> None:
    made = []
    for out in (tmp_path / "one.mp4", tmp_path / "two.mp4"):
        command = [VIDBG, TALK, "--bg", SAMPLES / "stars.mp4", "--end", "0.5", "-q", "-o", out]
        subprocess.run(command, check=True, timeout=120)
        made.append(decode_planes(out))
    assert len(made[0][0]) == 15
    for one, two in zip(*made, strict=True):
        np.testing.assert_array_equal(one, two)


def test_pytorchs_threads_and_batches_change_next_to_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "is_installed", lambda: False)
    planes = decode_planes(TALK, "gbrp", count=3)
    frames = np.stack([planes[n] for n in (2, 0, 1)], axis=-1)
    rgb = np.stack(
        [cv2.resize(frame, (320, 192), interpolation=cv2.INTER_AREA) for frame in frames]
    )
    before = torch.get_num_threads()
    found = []
    try:
        for threads, batch in ((1, 1), (2, 3)):
            segmenter = load_segmenter(device="cpu", threads=threads)
            assert segmenter.engine == "torch"
            parts = [segmenter(rgb[n : n + batch]) for n in range(0, len(rgb), batch)]
            found.append(np.rint(np.concatenate(parts) * 255).astype(np.uint8))
    finally:
        torch.set_num_threads(before)
    assert 0.1 < np.mean(found[0] > 127) < 0.9
    assert hardly_differ(*found)
