"""The loop of the tutorials: one frame after another through PyTorch, blended by NumPy.

    python benchmarks/naive.py CLIP BACKGROUND OUTPUT.mp4 --weights u2netp.pth

OpenCV decodes; each frame is squeezed to 320x320 and goes through the network by itself, in eager
mode; the map is stretched between its own extremes, as the scripts of U-2-Net do, enlarged, and
frame and background are blended as float32. OpenCV encodes (MPEG-4), without sound. Nothing waits
for nothing: no threads but those of PyTorch and OpenCV.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidbg.matting.architectures import IMAGENET_MEAN, IMAGENET_STD, load_network

SIDE_PX = 320

Picture = NDArray[np.uint8]
Matte = NDArray[np.float32]


def matte_of(frame: Picture, network: Callable[[torch.Tensor], torch.Tensor]) -> Matte:
    """Return the matte of a frame at its own size.

    Args:
        frame: uint8 (H, W, 3), B, G, R.
        network: Maps normalised RGB (1, 3, 320, 320) to logits (1, 1, 320, 320).

    Returns:
        float32 (H, W), 0 to 1.
    """
    rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    small = cv2.resize(rgb, (SIDE_PX, SIDE_PX)).astype(np.float32) / 255
    normalised = (small - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    with torch.no_grad():
        logits = network(torch.from_numpy(normalised.transpose(2, 0, 1)[None].copy()))
    saliency = torch.sigmoid(logits)[0, 0].numpy()
    low, high = saliency.min(), saliency.max()
    stretched = (saliency - low) / max(high - low, np.float32(1e-6))
    height, width = frame.shape[:2]
    return np.asarray(cv2.resize(stretched, (width, height)), np.float32)


def blended(frame: Picture, background: Picture, matte: Matte) -> Picture:
    """Return a frame over a background of its size, uint8 (H, W, 3), by a matte of 0 to 1."""
    alpha = matte[..., None]
    mixture = frame.astype(np.float32) * alpha + background.astype(np.float32) * (1 - alpha)
    return mixture.astype(np.uint8)


def frames_of(path: Path) -> Iterator[Picture]:
    """Yield a clip's frames as OpenCV gives them, uint8 (H, W, 3), B, G, R."""
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        sys.exit(f"naive: {path} cannot be opened")
    while True:
        is_there, frame = capture.read()
        if not is_there:
            break
        yield np.asarray(frame, np.uint8)
    capture.release()


def looped(path: Path) -> Iterator[Picture]:
    """Yield a clip's frames again and again."""
    while True:
        yield from frames_of(path)


def rate_of(path: Path) -> float:
    """Return a clip's frames a second."""
    capture = cv2.VideoCapture(str(path))
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return rate


def composite(clip: Path, background: Path, output: Path, network: Any) -> int:
    """Write a clip over a background; return how many frames."""
    writer = None
    count = 0
    for frame, behind in zip(frames_of(clip), looped(background), strict=False):
        height, width = frame.shape[:2]
        if writer is None:
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(output), codec, rate_of(clip), (width, height))
        if behind.shape != frame.shape:
            behind = np.asarray(cv2.resize(behind, (width, height)), np.uint8)
        writer.write(blended(frame, behind, matte_of(frame, network)))
        count += 1
    if writer is None:
        sys.exit(f"naive: {clip} has no frames")
    writer.release()
    return count


def main() -> None:
    """Run the loop on one clip."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("background", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    options = parser.parse_args()
    network = load_network(options.weights).network.eval()
    composite(options.clip, options.background, options.output, network)


if __name__ == "__main__":
    main()
