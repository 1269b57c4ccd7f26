"""Smoothing on a device: known answers, and the sibling's ways with batches and cuts."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_smooth import batches, clip, mean_of_votes, texture

from vidbg.frames import PlaneFormat
from vidbg.gpu import flow as flows
from vidbg.gpu.frames import DeviceFrames, DeviceMatted
from vidbg.gpu.smooth import smooth
from vidbg.gpu.transfer import Downloads
from vidbg.temporal.smooth import smooth as array_smooth

FORMAT = PlaneFormat("gbrp", 8, 0, 0, is_rgb=True)


def smoothed(
    thumbnails: NDArray[np.uint8],
    mattes: NDArray[np.float32],
    strength: float = 0.8,
    size: int = 4,
) -> NDArray[np.float32]:
    """Return mattes after smoothing, and check that all else passes through."""
    nothing = torch.zeros(len(mattes), 1, 1, dtype=torch.uint8)
    rgb, matte = torch.from_numpy(thumbnails.copy()), torch.from_numpy(mattes)
    given = [
        DeviceMatted(
            DeviceFrames((nothing[n : n + size],) * 3, FORMAT, n),
            rgb[n : n + size],
            matte[n : n + size],
        )
        for n in range(0, len(mattes), size)
    ]

    made = list(smooth(iter(given), strength, Downloads(torch.device("cpu"))))
    assert [batch.frames for batch in made] == [batch.frames for batch in given]
    assert all(a.thumbnails is b.thumbnails for a, b in zip(made, given, strict=True))
    return torch.cat([batch.matte for batch in made]).numpy()


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_a_still_picture_gives_the_weighted_mean_of_the_window(strength: float) -> None:
    levels = np.random.default_rng(0).random(19)
    thumbnails = np.repeat(texture(48, 64, 0)[None], 19, axis=0)
    mattes = np.broadcast_to(levels[:, None, None], (19, 48, 64)).astype(np.float32)
    expected = mean_of_votes(levels, strength, 0.02 + 0.98 * (2 * levels - 1) ** 4)
    for size in (1, 5, 19):
        found = smoothed(thumbnails, mattes, strength, size)
        assert np.abs(found - expected[:, None, None]).max() < 1e-3


def test_votes_stop_at_a_cut() -> None:
    thumbnails, _ = clip(20, 3)
    mattes = np.zeros((20, 48, 64), np.float32)
    mattes[10:] = 1
    for size in (1, 4, 20):
        found = smoothed(thumbnails, mattes, size=size)
        np.testing.assert_allclose(found, mattes, atol=1e-6)


def test_batches_do_not_change_the_mattes() -> None:
    thumbnails, mattes = clip(21, 5)
    once = smoothed(thumbnails, mattes, size=21)
    assert np.abs(once - mattes).max() > 0.05
    for size in (1, 4, 8):
        np.testing.assert_allclose(smoothed(thumbnails, mattes, size=size), once, atol=1e-4)


def test_along_a_pan_flicker_falls_as_much_as_with_the_sibling() -> None:
    """The matte of a scene that passes by, with another noise in every frame."""
    rng = np.random.default_rng(1)
    thumbnails, _ = clip(14, 7, height=96, width=128, cut=99)
    scene = cv2.GaussianBlur(rng.random((96 + 14, 128 + 28), np.float32), (0, 0), 6)
    scene = (scene > np.median(scene)).astype(np.float32)
    truth = np.stack([scene[n : n + 96, 2 * n : 2 * n + 128] for n in range(14)])
    noise = [cv2.GaussianBlur(rng.normal(size=(96, 128)), (0, 0), 3) for _ in truth]
    mattes = np.clip(truth + 0.4 * np.stack(noise) / np.std(noise), 0, 1).astype(np.float32)
    theirs = np.concatenate([b.matte for b in array_smooth(batches(thumbnails, mattes), 0.8)])

    def error(found: NDArray[np.float32]) -> float:
        return float(np.abs(found - truth)[4:10, 16:-16, 16:-16].mean())

    assert error(theirs) < 0.6 * error(mattes)
    assert error(smoothed(thumbnails, mattes)) < 1.05 * error(theirs)


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-6, 5)])
def test_motion_is_found(shift: tuple[int, int]) -> None:
    """Where a texture moved, in pixels of half the size, and that the way back leads home."""
    whole = cv2.cvtColor(texture(160, 192, 4), cv2.COLOR_RGB2GRAY).astype(np.float32)
    x, y = shift
    first, second = whole[20:148, 20:180], whole[20 - y : 148 - y, 20 - x : 180 - x]
    both = torch.from_numpy(np.stack([first, second])).unsqueeze(1)
    onward, home = flows.motion_between(both)
    inner = onward[0, :, 10:-10, 10:-10]
    assert abs(float(inner[0].median()) - x / 2) < 0.1
    assert abs(float(inner[1].median()) - y / 2) < 0.1
    assert float(flows.agreement(onward, home, 0.25)[0, 10:-10, 10:-10].median()) > 0.9


def test_warping_takes_from_where_the_flow_leads() -> None:
    values = torch.arange(48.0).reshape(1, 1, 6, 8)
    motion = torch.zeros(1, 2, 6, 8)
    motion[:, 0], motion[:, 1] = 1.0, -0.5
    found = flows.warp(values, motion)[0, 0]
    y, x = np.mgrid[:6, :8]
    expected = np.clip(y - 0.5, 0, 5) * 8 + np.clip(x + 1, 0, 7)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        smooth([], strength, Downloads(torch.device("cpu")))
