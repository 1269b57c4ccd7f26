"""Examples to learn from, read one at a time out of the folders people keep them in.

:func:`find` knows a data set by how its folder is laid out; :func:`coco` reads the instances of
one category out of annotations in COCO's format. Both look at names only; pixels are read when
a data set's examples are iterated, and what cannot be read is left out with a warning.

All colours are 8-bit sRGB, all alpha is straight and 8-bit. Nothing is larger than
:data:`LONGEST_SIDE_PX`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import io
import itertools
import json
import logging
import math
import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from vidbg.errors import InputError, VidbgError

logger = logging.getLogger(__name__)

Kind = Literal["pair", "photo", "cutout", "background"]

# Twice what networks of this kind see, so that crops of half the picture are still sharp.
LONGEST_SIDE_PX = 640
# Consecutive frames teach little.
CLIP_FRAME_STEP = 5
# How far the shape of a mask may be from its image's: scaling to whole pixels moves it a little.
ASPECT_TOLERANCE = 0.02
# How many levels below the folder that was named a data set may lie.
MAX_DEPTH = 5

LAYOUTS = (
    "images/ with masks/ of the same names, images/ alone, clips/ with masks/ of the same names, "
    "cutouts/ with alpha, or backgrounds/"
)

# Lossless ones first: of two files with one stem the first is read.
_PICTURES = (".png", ".tif", ".tiff", ".bmp", ".webp", ".jpg", ".jpeg")
_VIDEOS = (".mkv", ".mp4", ".mov", ".m4v", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
# What people append to a clip's name for the masks of it, as in NAME.gt.mkv.
_MASK_TAGS = ("", ".gt", ".mask", ".masks", ".matte", ".alpha")
_LAID_OUT = ("images", "clips", "masks")
_WHOLE_FOLDERS: dict[str, Kind] = {"cutouts": "cutout", "backgrounds": "background"}
# As vidbg.colour.resolve takes untagged Y'CbCr.
_HD_LINES = 720
_UNSPECIFIED_MATRICES = (0, 2)  # H.273: 2 is "unspecified"; 0, RGB, on a Y'CbCr frame is wrong
# EXIF 2.32, tag 0x0112: orientations that exchange rows and columns.
_ORIENTATION, _LYING = 0x0112, frozenset({5, 6, 7, 8})
# What Pillow's colour management takes; other modes are converted first.
_MANAGED_MODES = frozenset({"L", "RGB", "RGBA", "CMYK", "LAB"})


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One thing to learn from.

    Attributes:
        kind: What it is: "pair", a picture and its alpha; "photo", a picture whose subject
            nobody has marked; "cutout", a subject on nothing; "background", a picture
            without a subject.
        name: "dataset/stem", unique in its data set, with forward slashes. It depends on
            nothing but the names of files below the folder that was searched.
        rgb: uint8 sRGB ``(h, w, 3)``; of a cut-out its straight colours.
        alpha: uint8 ``(h, w)``, straight, 255 where the subject is. None for a photo and
            a background.
    """

    kind: Kind
    name: str
    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples of one kind from one place.

    Attributes:
        name: The folder below the one that was searched, with forward slashes.
        kind: What all of its examples are.
        count: How many examples it names, those included that will turn out unreadable.
        examples: Starts reading them: one at a time, always in the same order. It can be
            called again, and pickled for another process. Iterating raises
            :class:`~vidbg.errors.InputError` where a clip and its masks part.
        identity: Digest of what it would read: paths, sizes and times of change of its files,
            and how they are read.
    """

    name: str
    kind: Kind
    count: int
    examples: Callable[[], Iterator[Example]]
    identity: str


class _UnreadableError(Exception):
    """A file that gives no example; its text says why."""


def find(folder: Path) -> list[Dataset]:
    """Return the data sets in a folder and below it, sorted by name.

    What is understood, at most :data:`MAX_DEPTH` levels down (links are followed, but no
    folder is visited twice; names that begin with a dot are left out):

    * ``images/`` and ``masks/``: pairs, by names that agree up to the suffix, sub-folders
      included. Images without a mask are left out with a warning.
    * ``images/`` alone: photos.
    * ``clips/`` and ``masks/``: videos, and for each a video of its masks (NAME.mkv or
      NAME.gt.mkv for NAME.mp4) or a folder NAME of numbered pictures; every
      :data:`CLIP_FRAME_STEP`-th frame and its mask are a pair.
    * ``cutouts/``: pictures with alpha. ``backgrounds/``: pictures without a subject.

    Args:
        folder: Where to look.

    Raises:
        InputError: There is no such folder, it holds nothing of the kind, no image or clip of
            a data set has a mask, or a clip has more or fewer frames than masks.
    """
    if not os.path.isdir(folder):
        raise InputError(
            "is not a folder" if os.path.exists(folder) else "no such folder", path=folder
        )
    root = Path(os.path.abspath(folder))
    found: list[Dataset] = []
    visited = {root.resolve()}
    level = [root]
    for _ in range(MAX_DEPTH + 1):
        below: list[Path] = []
        for place in level:
            name = _spelled(place.relative_to(root)) if place != root else _spelled(Path(root.name))
            if place.name in _WHOLE_FOLDERS:
                found += _pictures_dataset(place, name, _WHOLE_FOLDERS[place.name])
                continue
            inside = {child.name: child for child in _inside(place) if os.path.isdir(child)}
            used = [part for part in _LAID_OUT if part in inside]
            recognised = _laid_out(place, name, used)
            found += recognised
            below += [child for part, child in inside.items() if not (recognised and part in used)]
        level = []
        for place in below:
            target = place.resolve()
            if target not in visited:
                visited.add(target)
                level.append(place)
    if not found:
        raise InputError("no data set in it", path=folder, hint=f"Understood are {LAYOUTS}")
    return sorted(found, key=lambda dataset: dataset.name)


def _laid_out(folder: Path, name: str, parts: Sequence[str]) -> list[Dataset]:
    """Return the data set that a folder's images, clips and masks make, if they make one."""
    if "clips" in parts and "masks" not in parts:
        logger.warning("%s: left out, no masks/ beside it", folder / "clips")
    if "images" in parts and "masks" not in parts:
        return _pictures_dataset(folder / "images", name, "photo")
    if parts == ["images", "masks"]:
        return [_pairs_dataset(folder, name)]
    if parts == ["clips", "masks"]:
        return [_clips_dataset(folder, name)]
    if len(parts) == len(_LAID_OUT):
        raise InputError(
            "holds images, clips and masks, and whose the masks are is not clear",
            path=folder,
            hint="Give the clips and their masks a folder of their own",
        )
    return []


def _pictures_dataset(folder: Path, name: str, kind: Kind) -> list[Dataset]:
    files = _by_stem(folder, _PICTURES)
    if not files:
        logger.warning("%s: left out, no pictures in it", folder)
        return []
    reading = partial(_read_pictures, kind, name, files)
    return [Dataset(name, kind, len(files), reading, _identity(kind, files.values()))]


def _pairs_dataset(folder: Path, name: str) -> Dataset:
    images, masks = (_by_stem(folder / part, _PICTURES) for part in ("images", "masks"))
    pairs = {stem: (path, masks[stem]) for stem, path in images.items() if stem in masks}
    if not pairs:
        raise InputError(
            f"none of its {len(images)} images has a mask of the same name among {len(masks)}",
            path=folder,
            hint="The mask of images/a.jpg is masks/a.png",
        )
    _report_without_mask(folder, "images", len(images) - len(pairs), len(images))
    identity = _identity("pair", itertools.chain.from_iterable(pairs.values()))
    return Dataset(name, "pair", len(pairs), partial(_read_pairs, name, pairs), identity)


def _report_without_mask(folder: Path, what: str, without: int, of: int) -> None:
    if without:
        logger.warning("%s: %d of %d %s left out, they have no mask", folder, without, of, what)


def _identity(how: str, paths: Iterable[Path]) -> str:
    """Return a digest of files as they are now, and of a word on how they are read."""
    digest = hashlib.sha256(how.encode())
    for path in paths:
        try:
            facts = os.stat(path)
        except OSError:  # it will be left out, or is there the next time
            continue
        digest.update(f"{str(path)!a} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


# Names ----------------------------------------------------------------------------------------


def _spelled(relative: PurePosixPath | Path) -> str:
    """Return a relative path as part of a name: the same on every file system.

    Some file systems keep letters and their accents apart, and some names are not UTF-8.
    """
    text = (
        relative.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    )
    return unicodedata.normalize("NFC", text)


def _inside(folder: Path) -> list[Path]:
    """Return the visible files and folders in a folder, sorted by name."""
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        logger.warning("%s: left out, it cannot be read (%s)", folder, error.strerror or error)
        return []
    # What archives made on a Mac leave behind looks like pictures.
    return [c for c in children if not c.name.startswith(".") and c.name != "__MACOSX"]


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files of some kinds in a folder and below it, sorted by name, by levels."""
    found: list[Path] = []
    visited = {folder.resolve()}
    level = [folder]
    while level:
        below: list[Path] = []
        for place in level:
            for child in _inside(place):
                # Those of os.path, as pathlib's raise where a link or a name cannot be followed.
                if child.suffix.lower() in suffixes and os.path.isfile(child):
                    found.append(child)
                elif os.path.isdir(child) and child.resolve() not in visited:
                    visited.add(child.resolve())
                    below.append(child)
        level = below
    return found


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the files of some kinds below a folder by their name without suffix, sorted."""
    chosen: dict[str, Path] = {}
    files = _files(folder, suffixes)
    for path in sorted(files, key=lambda path: suffixes.index(path.suffix.lower())):
        chosen.setdefault(_spelled(path.relative_to(folder).with_suffix("")), path)
    if len(chosen) < len(files):
        logger.warning(
            "%s: %d files left out, they have the names of others", folder, len(files) - len(chosen)
        )
    return dict(sorted(chosen.items()))


def _in_number_order(paths: Sequence[Path]) -> list[Path]:
    """Return files sorted by the numbers in their names: 2.png before 10.png."""

    def key(path: Path) -> list[tuple[int, str]]:
        # Text and digits alternate, so that like is compared with like.
        parts = re.split(r"([0-9]+)", path.name)
        return [(int(part), "") if n % 2 else (0, part) for n, part in enumerate(parts)]

    return sorted(paths, key=key)


# Pictures -------------------------------------------------------------------------------------


def _read_pictures(kind: Kind, name: str, files: Mapping[str, Path]) -> Iterator[Example]:
    for stem, path in files.items():
        try:
            if kind == "cutout":
                rgb, alpha = _read_cutout(path)
                yield Example(kind, f"{name}/{stem}", rgb, alpha)
            else:
                yield Example(kind, f"{name}/{stem}", _read_rgb(path)[0], None)
        except _UnreadableError as error:
            _report_left_out(path, error)


def _read_pairs(name: str, pairs: Mapping[str, tuple[Path, Path]]) -> Iterator[Example]:
    for stem, (image, mask) in pairs.items():
        path = image
        try:
            rgb, size = _read_rgb(image)
            path = mask
            alpha = _fitted(_read_matte(mask), rgb, size)
        except _UnreadableError as error:
            _report_left_out(path, error)
            continue
        yield Example("pair", f"{name}/{stem}", rgb, alpha)


def _report_left_out(path: Path, reason: Exception) -> None:
    logger.warning("%s: left out, %s", path, reason)


@contextmanager
def _reading() -> Iterator[None]:
    """Turn whatever Pillow stumbles over into :class:`_UnreadableError`."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, which is no reason not to use a picture.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except _UnreadableError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _UnreadableError("a picture of too many pixels") from error
    except UnidentifiedImageError as error:
        raise _UnreadableError("not a picture that can be read") from error
    except Exception as error:
        # Pillow's readers raise whatever a damaged file makes them stumble over.
        raise _UnreadableError(f"not a picture that can be read ({error})") from error


def _read_rgb(path: Path) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return a picture's RGB ``(h, w, 3)``, upright, and the width and height of its file.

    Transparent parts are shown over black, as the main job shows a background's.

    Raises:
        _UnreadableError: It is damaged, too large, or has no defined white.
    """
    with _reading(), Image.open(path) as opened:
        width, height = opened.size
        if opened.getexif().get(_ORIENTATION, 1) in _LYING:
            width, height = height, width
        # JPEG decodes to a half, quarter or eighth at a fraction of the cost; other formats
        # ignore this. What is left to shrink is done exactly.
        opened.draft(None, _limited(*opened.size))
        picture = _in_srgb(ImageOps.exif_transpose(opened), path)
        if picture.mode == "RGBA":
            black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
            picture = Image.alpha_composite(black, picture)
        rgb = np.asarray(picture.convert("RGB"))
    return _resized(rgb, _limited(width, height)), (width, height)


def _read_cutout(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a cut-out's straight RGB ``(h, w, 3)`` and its alpha ``(h, w)``.

    Raises:
        _UnreadableError: It is damaged or too large, or has no alpha.
    """
    with _reading(), Image.open(path) as opened:
        if not opened.has_transparency_data:
            raise _UnreadableError("a cut-out without alpha")
        rgba = np.asarray(_in_srgb(ImageOps.exif_transpose(opened), path).convert("RGBA"))
    rgb, alpha = np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
    size = _limited(alpha.shape[1], alpha.shape[0])
    if size == alpha.shape[::-1]:
        return rgb, alpha
    # Averaged with its alpha as weight: what lies under transparent pixels is nobody's colour.
    weight = alpha[..., None].astype(np.float32)
    premultiplied = cv2.resize(rgb * weight, size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)[..., None]
    mixed = premultiplied / np.maximum(total, np.finfo(np.float32).tiny)
    straight = np.where(total > 0, mixed, _resized(rgb, size))
    return _to_uint8(straight), _to_uint8(total[..., 0])


def _in_srgb(picture: Image.Image, path: Path) -> Image.Image:
    """Return a picture with 8 bits a sample, in sRGB where a colour profile says how.

    Raises:
        _UnreadableError: Its samples are floating-point numbers, which have no white.
    """
    if picture.mode.startswith("I"):
        return Image.fromarray(_from_16_bits(np.asarray(picture)))
    if picture.mode == "F":
        raise _UnreadableError("a picture of floating-point samples, which have no white")
    profile = picture.info.get("icc_profile")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
    elif picture.mode not in _MANAGED_MODES:
        picture = picture.convert("RGB")
    if not profile:
        return picture
    try:
        shown = ImageCms.profileToProfile(
            picture,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGBA" if picture.mode == "RGBA" else "RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        logger.warning("%s: its colour profile is left out (%s)", path, error)
        return picture
    return picture if shown is None else shown


def _from_16_bits(samples: NDArray[Any]) -> NDArray[np.uint8]:
    clipped = np.clip(samples.astype(np.int64), 0, 65535)
    return ((clipped + 128) // 257).astype(np.uint8)


def _to_uint8(values: NDArray[Any]) -> NDArray[np.uint8]:
    rounded: NDArray[Any] = np.clip(np.rint(values), 0, 255)
    return rounded.astype(np.uint8)


def _limited(width: int, height: int) -> tuple[int, int]:
    """Return the width and height that a picture is used at: its own, or smaller."""
    longest = max(width, height)
    if longest <= LONGEST_SIDE_PX:
        return width, height
    return (
        max(1, round(width * LONGEST_SIDE_PX / longest)),
        max(1, round(height * LONGEST_SIDE_PX / longest)),
    )


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return pixels ``(h, w)`` or ``(h, w, 3)`` at another width and height."""
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels.copy()  # of its own: Pillow's are read-only
    shrinks = size[0] <= width and size[1] <= height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cast("NDArray[np.uint8]", cv2.resize(pixels, size, interpolation=method))


# Masks ----------------------------------------------------------------------------------------


def _read_matte(path: Path) -> NDArray[np.uint8]:
    """Return the matte ``(h, w)`` that a picture of any mode stands for, 255 = subject.

    Raises:
        _UnreadableError: It is damaged or too large.
    """
    with _reading(), Image.open(path) as opened:
        return _matte(ImageOps.exif_transpose(opened), is_exact=opened.format != "JPEG")


def _matte(picture: Image.Image, *, is_exact: bool) -> NDArray[np.uint8]:
    """Return the matte ``(h, w)`` that a picture stands for.

    Args:
        picture: Bilevel: its two values. Grey: its values, of 8 or 16 bits, or 0 and 1; a
            floating-point one 0 to 1 or 0 to 255. Palette: where the colours are classes or
            only one is not black, all but black is subject, else as grey. RGB: its luma.
            Alpha of its own is ignored.
        is_exact: A maximum of 1 means zeros and ones. Not so after lossy compression, where
            an empty mask has stray ones.
    """
    values: NDArray[Any]
    if picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture), posinf=255, neginf=0)
        return _to_uint8(values * 255.0 if values.max() <= 1 else values)
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        # Tools write 8-bit masks into 16-bit files; a real 16-bit one reaches further.
        grey = _from_16_bits(values) if values.max() > 255 else _to_uint8(values)
    elif picture.mode in ("P", "PA"):
        grey = _palette_matte(np.asarray(picture.convert("RGB")))
    elif picture.mode in ("1", "L", "LA", "La"):
        grey = np.asarray(picture.convert("L"))
    else:
        grey = np.asarray(picture.convert("RGB").convert("L"))
    return _scaled_ones(grey) if is_exact else grey


def _palette_matte(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = rgb[..., 0]
    is_coloured = bool((rgb != grey[..., None]).any())
    if is_coloured or np.unique(grey[grey > 0]).size <= 1:
        return np.where(rgb.any(axis=2), np.uint8(255), np.uint8(0))
    return grey


def _scaled_ones(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # Only zeros and ones are left, so that this cannot wrap round.
    return np.multiply(grey, np.uint8(255)) if grey.max() == 1 else grey


def _fitted(
    matte: NDArray[np.uint8], rgb: NDArray[np.uint8], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return a matte at the size of a picture as it is used.

    Args:
        matte: uint8 ``(h, w)``.
        rgb: The picture as it is used.
        size: Width and height of the picture's file, which say its shape best.

    Raises:
        _UnreadableError: The two have different shapes.
    """
    (height, width), (image_width, image_height) = matte.shape, size
    # A ratio of ratios, so that neither portrait nor landscape is judged more strictly.
    ratio = (width * image_height) / (height * image_width)
    if max(ratio, 1 / ratio) > 1 + ASPECT_TOLERANCE:
        raise _UnreadableError(
            f"a mask of {width}x{height} for a picture of {image_width}x{image_height}"
        )
    return _resized(matte, (rgb.shape[1], rgb.shape[0]))


# Clips ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Clip:
    """A video and its masks: a video, or a folder of which the pictures are listed."""

    stem: str
    path: Path
    masks: Path
    mask_pictures: tuple[Path, ...]


def _clips_dataset(folder: Path, name: str) -> Dataset:
    files = _by_stem(folder / "clips", _VIDEOS)
    masks = _by_stem(folder / "masks", _VIDEOS)
    matched = [
        clip
        for stem, path in files.items()
        if (clip := _with_masks(stem, path, masks, folder / "masks")) is not None
    ]
    if not matched:
        raise InputError(
            f"none of its {len(files)} clips has masks of the same name",
            path=folder,
            hint="The masks of clips/a.mp4 are masks/a.mkv, masks/a.gt.mkv or the folder masks/a",
        )
    _report_without_mask(folder, "clips", len(files) - len(matched), len(files))
    clips: list[_Clip] = []
    count = 0
    for clip in matched:
        try:
            frames = _agreed_count(clip)
        except (av.FFmpegError, _UnreadableError) as error:
            _report_left_out(clip.path, error)
            continue
        clips.append(clip)
        count += -(-frames // CLIP_FRAME_STEP)
    if not clips:
        raise InputError("none of its clips can be read", path=folder)
    paths = [path for clip in clips for path in (clip.path, clip.masks, *clip.mask_pictures)]
    identity = _identity(f"every {CLIP_FRAME_STEP}", paths)
    return Dataset(name, "pair", count, partial(_read_clips, name, tuple(clips)), identity)


def _with_masks(stem: str, path: Path, masks: Mapping[str, Path], folder: Path) -> _Clip | None:
    """Return a clip with the masks that go by its name, or None."""
    for tag in _MASK_TAGS:
        if stem + tag in masks:
            return _Clip(stem, path, masks[stem + tag], ())
    pictures = _files(folder / stem, _PICTURES) if os.path.isdir(folder / stem) else []
    if not pictures:
        return None
    return _Clip(stem, path, folder / stem, tuple(_in_number_order(pictures)))


def _agreed_count(clip: _Clip) -> int:
    """Return how many frames a clip has, without decoding it if its packets can be trusted.

    Raises:
        InputError: Its masks are more or fewer.
        av.FFmpegError: One of the two cannot be read.
        _UnreadableError: One of the two has no video.
    """
    for count in (_packet_count, _decoded_count):
        frames = count(clip.path)
        mattes = len(clip.mask_pictures) or count(clip.masks)
        # Some codecs have packets that show nothing: only decoding can prove a difference.
        if frames == mattes:
            return frames
    raise _counts_differ(clip, frames, mattes)


def _counts_differ(clip: _Clip, frames: int, mattes: int) -> InputError:
    return InputError(
        f"{frames} frames, but {mattes} masks in {clip.masks}",
        path=clip.path,
        hint="A clip needs one mask a frame",
    )


def _packet_count(path: Path) -> int:
    with _video(path) as (container, stream):
        return sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)


def _decoded_count(path: Path) -> int:
    return sum(1 for _ in _decoded(path))


@contextmanager
def _video(path: Path) -> Iterator[tuple[Any, Any]]:
    # Only the file itself: never what a playlist in it points at.
    options = {"protocol_whitelist": "file"}
    with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
        if not container.streams.video:
            raise _UnreadableError("no video in it")
        yield container, container.streams.video[0]


def _decoded(path: Path) -> Generator[av.VideoFrame, None, None]:
    with _video(path) as (container, stream):
        stream.thread_type = "AUTO"
        yield from container.decode(stream)


def _read_clips(name: str, clips: Sequence[_Clip]) -> Iterator[Example]:
    for clip in clips:
        try:
            yield from _read_clip(name, clip)
        except (av.FFmpegError, _UnreadableError) as error:
            # One that is damaged in the middle: after that, frames and masks may be out of step.
            logger.warning("%s: the rest of it left out, %s", clip.path, error)


def _read_clip(name: str, clip: _Clip) -> Iterator[Example]:
    """Yield every :data:`CLIP_FRAME_STEP`-th frame and its mask.

    Raises:
        InputError: One of the two ends before the other.
        av.FFmpegError: One of the two is damaged.
        _UnreadableError: One of the two has no video.
    """
    with closing(_decoded(clip.path)) as frames, closing(_mattes(clip)) as mattes:
        for index in itertools.count():
            frame, matte = next(frames, None), next(mattes, None)
            if frame is None and matte is None:
                return
            if frame is None or matte is None:
                shown = index + (frame is not None) + sum(1 for _ in frames)
                masked = index + (matte is not None) + sum(1 for _ in mattes)
                raise _counts_differ(clip, shown, masked)
            if index % CLIP_FRAME_STEP:
                continue
            rgb = _frame_rgb(frame)
            size = rgb.shape[1], rgb.shape[0]
            rgb = _resized(rgb, _limited(*size))
            try:
                alpha = _fitted(matte(), rgb, size)
            except _UnreadableError as error:
                logger.warning("%s: its frame %d left out, %s", clip.path, index, error)
                continue
            yield Example("pair", f"{name}/{clip.stem}/{index:06d}", rgb, alpha)


def _mattes(clip: _Clip) -> Generator[Callable[[], NDArray[np.uint8]], None, None]:
    """Yield a function for each mask of a clip, that makes the matte where it is wanted."""
    if clip.mask_pictures:
        for path in clip.mask_pictures:
            yield partial(_read_matte, path)
        return
    with _video(clip.masks) as (_, stream):
        codec = stream.codec_context.codec
        # Some codecs can be both; then it cannot be told.
        is_exact = codec.lossless and not codec.lossy
    for frame in _decoded(clip.masks):
        yield partial(_frame_matte, frame, is_exact)


def _frame_matte(frame: av.VideoFrame, is_exact: bool) -> NDArray[np.uint8]:
    return _matte(Image.fromarray(_frame_rgb(frame)), is_exact=is_exact)


def _frame_rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Return a frame's RGB ``(h, w, 3)``, upright, full range, by the matrix it is tagged with."""
    matrix: int | None = None
    if not frame.format.is_rgb and frame.colorspace in _UNSPECIFIED_MATRICES:
        matrix = Colorspace.ITU709 if frame.height >= _HD_LINES else Colorspace.ITU601
    converted = frame.reformat(
        format="rgb24", src_colorspace=matrix, dst_color_range=ColorRange.JPEG
    )
    # The display matrix turns counter-clockwise, and so does rot90.
    turned = np.rot90(converted.to_ndarray(), round(frame.rotation / 90))
    return np.ascontiguousarray(turned)


# COCO -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Annotated:
    """A picture of a COCO data set, and the outlines of one category's instances in it."""

    path: Path
    width: int
    height: int
    segmentations: tuple[Any, ...]


def coco(annotations: Path, images: Path, category: str) -> Dataset:
    """Return the pictures that show a category, each with the union of its instances.

    The format is that of https://cocodataset.org/#format-data, "object detection": outlines
    are polygons or run lengths, crowds included. The data set goes by the annotations' name
    alone, so that a picture has the same name whatever the category.

    Args:
        annotations: The JSON file, e.g. instances_train2017.json.
        images: The folder that its file names are relative to.
        category: The category's name, e.g. "person".

    Raises:
        VidbgError: pycocotools is not installed.
        InputError: The annotations are missing or damaged, do not know the category, or none
            of the pictures they name is there.
    """
    _mask_functions()
    content = _read_json(annotations)
    try:
        shown, unmarked = _pictures_with(content, category, images, annotations)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise _not_coco(annotations, error) from error
    if unmarked:
        logger.warning(
            "%s: %d pictures left out, a %s has no outline", annotations, unmarked, category
        )
    found: dict[str, _Annotated] = {}
    alike = 0
    present = {name: picture for name, picture in shown.items() if os.path.isfile(picture.path)}
    for name in sorted(present):
        stem = _spelled(PurePosixPath(name).with_suffix(""))
        alike += stem in found
        found.setdefault(stem, present[name])
    if len(present) < len(shown):
        logger.warning(
            "%s: %d of %d pictures left out, they are not in %s",
            annotations,
            len(shown) - len(present),
            len(shown),
            images,
        )
    if alike:
        logger.warning(
            "%s: %d pictures left out, they have the names of others", annotations, alike
        )
    if not found:
        reason = f"none of the {len(shown)} pictures with a {category} is in {images}"
        raise InputError(reason if shown else f"no picture has a {category}", path=annotations)
    name = _spelled(Path(annotations.stem))
    paths = [annotations, *(picture.path for picture in found.values())]
    identity = _identity(category, paths)
    return Dataset(name, "pair", len(found), partial(_read_annotated, name, found), identity)


def _mask_functions() -> Any:
    """Return the module of pycocotools that fills polygons; it has no types of its own.

    The better known one, COCO, prints, wants matplotlib, and knows nothing that is needed here.

    Raises:
        VidbgError: It is not installed.
    """
    try:
        return importlib.import_module("pycocotools.mask")
    except ImportError as error:
        raise VidbgError(
            "reading COCO annotations needs pycocotools", hint='pip install "vidbg[train]"'
        ) from error


def _read_json(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            return json.load(stream)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", path=path) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"damaged JSON ({error})", path=path) from error


def _not_coco(path: Path, error: Exception) -> InputError:
    lacks = f"no {error}" if isinstance(error, KeyError) else str(error)
    return InputError(f"not COCO's instance annotations ({lacks})", path=path)


def _pictures_with(
    content: Any, category: str, folder: Path, annotations: Path
) -> tuple[dict[str, _Annotated], int]:
    """Return pictures with a category by file name, and how many lack an outline.

    One whose annotations leave out an outline is not among them: its truth is not known.

    Raises:
        InputError: No category has that name.
        KeyError: Something is missing in the annotations.
        TypeError: Something in them is of another type than the format's.
        AttributeError: As TypeError.
        ValueError: A size is not a number.
        OverflowError: A size is infinite.
    """
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    wanted = {key for key, name in names.items() if name == category}
    if not wanted:
        raise _unknown_category(category, list(names.values()), annotations)
    outlines: dict[Any, list[Any]] = {}
    unmarked = set()
    for entry in content["annotations"]:
        if entry["category_id"] in wanted:
            key, segmentation = entry["image_id"], entry.get("segmentation")
            if segmentation:
                outlines.setdefault(key, []).append(segmentation)
            else:
                unmarked.add(key)
    shown: dict[str, _Annotated] = {}
    for entry in content["images"]:
        key = entry["id"]
        if key in outlines and key not in unmarked:
            name = _kept_below(entry["file_name"])
            width, height = int(entry["width"]), int(entry["height"])
            shown[name] = _Annotated(folder / name, width, height, tuple(outlines[key]))
    return shown, len(unmarked)


def _kept_below(name: str) -> str:
    """Return a relative path that does not lead out of its folder, whatever annotations say."""
    return "/".join(part for part in PurePosixPath(name).parts if part not in ("/", ".."))


def _unknown_category(category: str, names: Sequence[str], path: Path) -> InputError:
    if not names:
        return InputError("has no categories", path=path)
    near = difflib.get_close_matches(category, names, n=5, cutoff=0)
    return InputError(
        f"no category {category!r} among {len(names)}",
        path=path,
        hint=f"There is {', '.join(near)}",
    )


def _read_annotated(name: str, pictures: Mapping[str, _Annotated]) -> Iterator[Example]:
    for stem, picture in pictures.items():
        try:
            rgb, size = _read_rgb(picture.path)
            alpha = _fitted(_union(picture), rgb, size)
        except _UnreadableError as error:
            _report_left_out(picture.path, error)
            continue
        yield Example("pair", f"{name}/{stem}", rgb, alpha)


def _union(picture: _Annotated) -> NDArray[np.uint8]:
    """Return the pixels of all instances of a picture, ``(h, w)``, 0 or 255.

    Raises:
        _UnreadableError: The size or an outline is damaged.
    """
    rle = _mask_functions()
    height, width = picture.height, picture.width
    if min(width, height) < 1 or width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise _UnreadableError(f"annotated as {width}x{height}")
    covered = np.zeros((height, width), bool)
    for segmentation in picture.segmentations:
        try:
            covered |= _covered(rle, segmentation, height, width)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise _UnreadableError(f"its outline is damaged ({error})") from error
    return np.where(covered, np.uint8(255), np.uint8(0))


def _covered(rle: Any, segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels ``(height, width)`` of one instance, its numbers checked first.

    pycocotools is C below, which allocates by what polygons say. It is left to fill them; run
    lengths are read here, because its reader leaves what they do not reach as memory had it.

    Raises:
        ValueError: The segmentation says what cannot be.
        TypeError: It is not made of numbers.
        KeyError: Run lengths lack their counts or size.
    """
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError("run lengths of another size")
        counts = segmentation["counts"]
    else:
        polygons = []
        # Outlines may stick out a little, but not by the picture's own size.
        bounds = np.array([width, height])
        for polygon in segmentation:
            corners = np.asarray(polygon, np.float64).reshape(-1, 2)
            if not ((corners >= -bounds) & (corners <= 2 * bounds)).all():
                raise ValueError("a corner far outside the picture")
            if len(corners) > 2:  # fewer enclose nothing, and pycocotools takes two for a box
                polygons.append(corners.ravel().tolist())
        if not polygons:
            return np.zeros((height, width), bool)
        counts = rle.merge(rle.frPyObjects(polygons, height, width))["counts"].decode("ascii")
    runs = np.array(_decompressed(counts) if isinstance(counts, str) else counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or (runs > height * width).any():
        raise ValueError("run lengths that cannot be")
    if runs.sum() != height * width:
        raise ValueError("run lengths that do not add up")
    # Runs of background and subject take turns, column by column.
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _decompressed(text: str) -> list[int]:
    """Return the run lengths in COCO's compressed text.

    Each is written in groups of five bits, lowest first, in characters from "0" on; bit 5 says
    that another follows, bit 4 of the last is the sign. From the fourth on they are written as
    the difference to the one before the one before (pycocotools, common/maskApi.h).

    Raises:
        ValueError: It ends in the middle of one, or has other characters.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 60:
            raise ValueError("run lengths that are not COCO's")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("run lengths that break off")
    return runs
