"""A network that labels photos for another to learn from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from vidbg.errors import WeightsError
from vidbg.matting.segmenter import load_segmenter
from vidbg.matting.weights import ensure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidbg.matting.weights import Progress
    from vidbg.training.bank import Teacher


def load_teacher(
    model: str, weights: Path | None, device: str = "auto", progress: Progress | None = None
) -> tuple[Teacher, str]:
    """Return a function from a picture to its matte, and what identifies it.

    The function takes R'G'B' as uint8 (h, w, 3) and returns float32 (h', w') in 0..1, at the
    size that the network works at. In float32 whatever the device: labels are made once and
    learnt from for hours.

    Args:
        model: A name from the registry.
        weights: Its checkpoint; None for the registry's, downloaded if it is not there.
        device: As for :func:`vidbg.matting.segmenter.load_segmenter`.
        progress: Called during a download with the bytes that are there and will be.

    Raises:
        WeightsError: The checkpoint cannot be had or used.
        DeviceError: The device is not there.
    """
    path = ensure(model, progress) if weights is None else weights
    segmenter = load_segmenter(model, path, device, "fp32")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}", path=path) from error

    def label(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        height, width = segmenter.input_size(rgb.shape[1], rgb.shape[0])
        shrinks = height < rgb.shape[0] or width < rgb.shape[1]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        small = cv2.resize(rgb, (width, height), interpolation=method)
        matte: NDArray[np.float32] = segmenter(small[np.newaxis].astype(np.uint8))[0]
        return matte

    return label, f"{model} {digest}"
