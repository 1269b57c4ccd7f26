"""Mattes and truths that lie in files: videos, pictures, folders of numbered pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from vidbg import colour as colours
from vidbg.errors import InputError
from vidbg.media.decode import FrameReader
from vidbg.media.formats import IMAGE_SUFFIXES
from vidbg.media.probe import check_readable, probe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidbg.frames import FrameBatch, VideoInfo

BINARY, ALPHA = "binary", "alpha"
"""The kinds of truth: regions with hard edges, and soft mattes."""

# A truth is soft when more than this share of a picture is neither 0 nor 1, give or take what an
# encoder's rounding leaves.
_SOFT_SHARE: Final = 1e-3
_HARD_TOLERANCE: Final = 3 / 255

_NUMBER: Final = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class MatteFile:
    """A matte in files, read anew by each iteration, one picture after another.

    What counts is a file's alpha channel where it has one that is anywhere transparent, else how
    light it is, from black (0) to white (1): its luma, or the mean of R', G' and B'.

    Attributes:
        path: A video, a picture or a folder of pictures.
        count: Pictures in it, or None when unknown.
    """

    path: Path
    count: int | None
    _info: VideoInfo | None
    _pictures: tuple[Path, ...]

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield the pictures, float32 ``(H, W)`` in 0..1.

        Raises:
            VidbgError: One cannot be read.
        """
        if self._info is None:
            yield from map(read_picture, self._pictures)
            return
        has_alpha = self._info.has_alpha and _is_transparent(self._info)
        for batch in FrameReader(self._info):
            yield from _alpha(batch) if has_alpha else _lightness(batch, self._info)


def open_matte(path: Path) -> MatteFile:
    """Return the matte in a video, a picture, or a folder of pictures in the order of numbers.

    Args:
        path: A file or folder.

    Raises:
        InputError: There is none, or the folder holds no pictures.
    """
    if path.is_dir():
        found = pictures_in(path)
        return MatteFile(path, len(found), None, tuple(found))
    if path.suffix.lower() in IMAGE_SUFFIXES:
        check_readable(path)
        return MatteFile(path, 1, None, (path,))
    info = probe(path)
    return MatteFile(path, info.frame_count, info, ())


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures of a folder, those with numbers in their names in the order of these.

    Raises:
        InputError: There are none, or the folder cannot be read.
    """
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", path=folder) from error
    if not found:
        raise InputError("holds no pictures", path=folder)
    return sorted(found, key=_by_numbers)


def matching(pictures: Path, truths: Path) -> list[tuple[Path, Path]]:
    """Return the pictures of a folder with the truths of the same names, endings aside.

    Args:
        pictures: The folder of pictures.
        truths: The folder of truths.

    Raises:
        InputError: A picture has no truth or several; a truth without a picture is left out.
    """
    by_stem: dict[str, list[Path]] = {}
    for path in pictures_in(truths):
        by_stem.setdefault(path.stem, []).append(path)
    pairs = []
    for path in pictures_in(pictures):
        found = by_stem.get(path.stem, [])
        if len(found) != 1:
            what = "no truth" if not found else "more than one truth"
            raise InputError(f"has {what} for {path.name}", path=truths)
        pairs.append((path, found[0]))
    return pairs


def read_picture(path: Path) -> NDArray[np.float32]:
    """Return the matte in a picture file, float32 ``(H, W)`` in 0..1.

    Raises:
        InputError: It cannot be read.
    """
    check_readable(path)
    # Not by its name, which OpenCV reads in the system's own encoding on Windows.
    try:
        coded = np.frombuffer(path.read_bytes(), np.uint8)
        samples = cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error) as error:
        raise InputError("cannot be read as a picture", path=path) from error
    if samples is None or samples.dtype not in (np.uint8, np.uint16):
        raise InputError("cannot be read as a picture", path=path)
    top = np.float32(255 if samples.dtype == np.uint8 else 65535)
    if samples.ndim == 3 and samples.shape[2] in (2, 4):
        opacity = samples[..., -1]
        if opacity.min() < top:
            return np.asarray(opacity / top, np.float32)
        samples = samples[..., :-1]
    lightness = samples.mean(axis=2, dtype=np.float32) if samples.ndim == 3 else samples
    return np.asarray(lightness / top, np.float32)


def kind_of(truths: Iterable[NDArray[np.float32]], path: Path) -> str:
    """Return what a truth is by its values: :data:`BINARY` or :data:`ALPHA`.

    Reads no further than the first soft picture.

    Args:
        truths: float32 ``(H, W)`` each, 0 to 1.
        path: What the truths were read from.

    Raises:
        InputError: There is no foreground in any of them.
    """
    has_foreground = False
    for truth in truths:
        soft = (truth > _HARD_TOLERANCE) & (truth < 1 - _HARD_TOLERANCE)
        if soft.mean() > _SOFT_SHARE and truth.max() > 0.5:
            return ALPHA
        has_foreground = has_foreground or bool(truth.max() > 0.5)
    if not has_foreground:
        raise InputError("has no foreground: it is black, or darker than half, all over", path=path)
    return BINARY


def _by_numbers(path: Path) -> list[tuple[int, str]]:
    """Return a key that puts 2 before 10."""
    # Text and numbers alternate.
    words = _NUMBER.split(path.stem)
    return [(int(word), "") if word.isdecimal() else (0, word) for word in words]


def _is_transparent(info: VideoInfo) -> bool:
    """Return whether a clip with alpha is transparent anywhere; reads up to there."""
    top = (1 << info.format.depth) - 1
    return any(
        batch.source_alpha is not None and batch.source_alpha.min() < top
        for batch in FrameReader(info)
    )


def _alpha(batch: FrameBatch) -> Iterator[NDArray[np.float32]]:
    """Yield each frame's own alpha, float32 ``(H, W)`` in 0..1."""
    if batch.source_alpha is None:
        raise ValueError("frames without alpha")
    top = np.float32((1 << batch.format.depth) - 1)
    for alpha in batch.source_alpha:
        yield np.asarray(alpha / top, np.float32)


def _lightness(batch: FrameBatch, info: VideoInfo) -> Iterator[NDArray[np.float32]]:
    """Yield each frame's luma, or the mean of R', G' and B', float32 ``(H, W)`` in 0..1."""
    top = np.float32((1 << batch.format.depth) - 1)
    colour = colours.resolve(info.colour, batch.format, info.height)
    for index in range(len(batch)):
        if batch.format.is_rgb:
            total = sum(plane[index].astype(np.float32) for plane in batch.planes)
            yield np.asarray(total / (3 * top), np.float32)
        else:
            black, white = _luma_range(batch.format.depth, colour.range)
            luma = (batch.planes[0][index] - np.float32(black)) / np.float32(white - black)
            yield np.clip(luma, 0, 1, dtype=np.float32)


def _luma_range(depth: int, spread: str) -> tuple[int, int]:
    """Return the code values of black and white; ITU-R BT.709, section 3.4, for limited range."""
    if spread == "pc":
        return 0, (1 << depth) - 1
    return 16 << (depth - 8), 235 << (depth - 8)
