"""Numbered pictures in a folder, taken as one clip: which they are, and whether one is missing."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final

from vidbg.errors import DecodeError, InputError
from vidbg.frames import PictureSequence, VideoInfo
from vidbg.media.formats import SEQUENCE_SUFFIXES, VIDEO_SUFFIXES

DEFAULT_RATE: Final = Fraction(25)
"""Frames a second of pictures of which nobody says it; FFmpeg's default too."""

# What a printf pattern may say: "%d", or "%05d" with zeros in front. "%%" is a percent sign.
_PLACE = re.compile(r"%%|%(?:0(\d{1,2}))?d", re.ASCII)
_NUMBER = re.compile(r"([0-9]+)")
# FFmpeg's image2 demuxer counts in 32 bits.
_HIGHEST_NUMBER = 2**31 - 1
# Our own results are no clips to work on.
_OWN_RESULT = re.compile(r"\.vidbg\.\w+\Z")


def is_sequence(path: Path) -> bool:
    """Say whether an INPUT means numbered pictures that make up one clip.

    So it is with a printf pattern, ``frames/%05d.png``, unless a file has just that name, and
    with a directory that holds numbered pictures and no video. A directory with a video in it
    is one of clips, whatever pictures lie beside them; ``NAME.vidbg.EXT`` does not count, which
    is what vidbg's own results are called.

    Nothing is raised for what :func:`find_sequence` refuses, such as two sequences in one
    directory: it is a sequence, though not a good one.

    Args:
        path: What was given as INPUT.
    """
    try:
        if not path.is_dir():
            return _is_pattern(path)
        names = [name for name in os.listdir(path) if not _OWN_RESULT.search(name)]
    except OSError:
        return False
    suffixes = {os.path.splitext(name)[1].lower() for name in names}
    return not suffixes & VIDEO_SUFFIXES and any(map(_is_numbered_picture, names))


def find_sequence(path: Path) -> PictureSequence | None:
    """Return the pictures that a directory or a printf pattern means, or None for a plain file.

    Args:
        path: What was given as INPUT.

    Raises:
        InputError: There are no numbered pictures, or those in the directory are not one
            sequence, or most of their numbers are missing.
    """
    if path.is_dir():
        return _in_folder(path)
    return _by_pattern(path) if _is_pattern(path) else None


def result_name(path: Path) -> Path | None:
    """Return what results of a sequence are named after, or None where it is none.

    A directory's results lie beside it and have its name. Those of a pattern lie with the
    pictures and are named by what comes before the number, or else as the directory is.

    Args:
        path: What was given as INPUT.
    """
    if path.is_dir():
        return Path(os.path.abspath(path)) if path.name in ("", "..") else path
    if not _is_pattern(path):
        return None
    (place,) = _places(path.name)
    stem = path.name[: place.start()].replace("%%", "%").rstrip(" ._-")
    return path.with_name(stem or path.absolute().parent.name or "pictures")


def gap_error(info: VideoInfo) -> DecodeError:
    """Return the error for a sequence with missing pictures, which names the first of them."""
    sequence = info.sequence
    if sequence is None or sequence.first_missing is None:
        raise ValueError(f"no picture of {info.path} is missing")
    name = sequence.path_of(sequence.first_missing).name
    others = sequence.missing - 1
    more = f", and {others} more" if others else ""
    return DecodeError(
        f"there is no picture number {sequence.first_missing}, {name}{more}",
        path=info.path,
        hint="Use --allow-damaged to repeat the picture before it",
    )


@contextmanager
def without_gaps(info: VideoInfo) -> Iterator[VideoInfo]:
    """Give a clip as FFmpeg can read it to its end: links stand for a sequence's missing pictures.

    Args:
        info: Any clip; one that lacks no pictures comes back as it is.

    Raises:
        InputError: There is no place for the links, or the pictures went away.
    """
    sequence = info.sequence
    if sequence is None or not sequence.missing:
        yield info
        return
    folder = Path(tempfile.mkdtemp(prefix="vidbg-pictures-"))
    try:
        suffix = sequence.path_of(0).suffix
        linked = PictureSequence(folder, "", suffix, 1, sequence.first, sequence.last)
        shown = sequence.path_of(sequence.first).absolute()
        for number in range(sequence.first, sequence.last + 1):
            found = sequence.path_of(number).absolute()
            if found.exists():
                shown = found
            _link(shown, linked.path_of(number))
        yield replace(info, sequence=linked)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link(file: Path, name: Path) -> None:
    """Make a file readable under another name; a copy where the system allows no links."""
    ways: tuple[Callable[[Path, Path], object], ...] = (os.symlink, os.link, shutil.copyfile)
    for way in ways:
        with suppress(OSError, NotImplementedError):
            way(file, name)
            return
    raise InputError("cannot be read under another name", path=file)


def _is_pattern(path: Path) -> bool:
    """Say whether a path's name has one place for a number, and is no file's own name."""
    return len(_places(path.name)) == 1 and not os.path.lexists(path)


def _places(name: str) -> list[re.Match[str]]:
    """Return where a pattern has numbers."""
    return [place for place in _PLACE.finditer(name) if place[0] != "%%"]


def _is_numbered_picture(name: str) -> bool:
    stem, suffix = os.path.splitext(name)
    return suffix.lower() in SEQUENCE_SUFFIXES and bool(_NUMBER.search(stem))


@dataclass(slots=True)
class _Names:
    """Names that are alike but for their numbers, with those numbers as they are written."""

    texts: tuple[str, ...]
    rows: list[tuple[str, ...]]

    @property
    def example(self) -> str:
        """One of the names."""
        return _joined(self.texts, self.rows[0])


def _joined(texts: Iterable[str], numbers: Iterable[str]) -> str:
    parts = list(texts)
    return parts[0] + "".join(n + t for n, t in zip(numbers, parts[1:], strict=True))


def _in_folder(folder: Path) -> PictureSequence:
    """Return the one sequence in a folder."""
    alike: dict[tuple[str, ...], _Names] = {}
    for name in sorted(_listed(folder)):
        if not _is_numbered_picture(name) or _OWN_RESULT.search(name):
            continue
        stem, suffix = os.path.splitext(name)
        words = _NUMBER.split(stem)  # text and numbers alternate, with text at both ends
        texts = (*words[0:-1:2], words[-1] + suffix)
        alike.setdefault(texts, _Names(texts, [])).rows.append(tuple(words[1::2]))
    if not alike:
        raise InputError("is a directory without numbered pictures", path=folder)
    if len(alike) > 1:
        one, other = (names.example for names in list(alike.values())[:2])
        raise InputError(
            f"holds pictures of more than one sequence, such as {one} and {other}",
            path=folder,
            hint=f"Give a pattern, such as {_example_pattern(one)}",
        )
    (names,) = alike.values()
    changing = [
        place for place, column in enumerate(zip(*names.rows, strict=True)) if len(set(column)) > 1
    ]
    if len(changing) > 1:
        raise InputError(
            f"its pictures have more than one number that changes, such as {names.example}",
            path=folder,
            hint=f"Give a pattern, such as {_example_pattern(names.example)}",
        )
    place = changing[0] if changing else len(names.rows[0]) - 1
    row = names.rows[0]
    prefix = _joined(names.texts[: place + 1], row[:place])
    suffix = _joined(names.texts[place + 1 :], row[place + 1 :])
    return _numbered(folder, folder, prefix, suffix, [row[place] for row in names.rows])


def _example_pattern(name: str) -> str:
    """Return a name with a place for its last number."""
    stem, suffix = os.path.splitext(name)
    *before, number, after = _NUMBER.split(stem)
    place = f"%0{len(number)}d" if number.startswith("0") else "%d"
    return "".join(before).replace("%", "%%") + place + (after + suffix).replace("%", "%%")


def _by_pattern(path: Path) -> PictureSequence:
    """Return the sequence of a printf pattern."""
    (place,) = _places(path.name)
    prefix = path.name[: place.start()].replace("%%", "%")
    suffix = path.name[place.end() :].replace("%%", "%")
    if path.suffix.lower() not in SEQUENCE_SUFFIXES:
        known = " ".join(sorted(SEQUENCE_SUFFIXES))
        raise InputError(
            "a pattern of files that are no pictures", path=path, hint=f"Sequences are of {known}"
        )
    least = int(place[1] or 1)
    numbers = []
    for name in _listed(path.parent):
        end = len(name) - len(suffix)
        if not (name.startswith(prefix) and name.endswith(suffix) and len(prefix) < end):
            continue
        number = name[len(prefix) : end]
        if _NUMBER.fullmatch(number) and number == f"{int(number):0{least}d}":
            numbers.append(number)
    if not numbers:
        raise InputError("no file fits this pattern", path=path)
    return _numbered(path, path.parent, prefix, suffix, numbers, least)


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", path=folder) from error


def _numbered(
    path: Path, folder: Path, prefix: str, suffix: str, written: list[str], least: int | None = None
) -> PictureSequence:
    """Return the sequence of pictures whose numbers are written so.

    Args:
        path: What the user gave.
        folder: Where the pictures lie.
        prefix: What their names begin with.
        suffix: What their names end with.
        written: Their numbers, at least one.
        least: Digits of a number at least, or None to see it from the numbers.
    """
    if least is None:
        least = min(map(len, written))
        uneven = next((n for n in written if n != f"{int(n):0{least}d}"), None)
        if uneven is not None:
            shorter = min(written, key=len)
            raise InputError(
                "its numbers are written both with and without zeros in front: "
                f"{prefix}{shorter}{suffix} and {prefix}{uneven}{suffix}",
                path=path,
            )
    numbers = sorted(map(int, written))
    first, last = numbers[0], numbers[-1]
    if last > _HIGHEST_NUMBER:
        raise InputError(f"number {last} is too high for a sequence", path=path)
    missing = last - first + 1 - len(numbers)
    if missing > len(numbers):
        raise InputError(
            f"not a sequence: {len(numbers)} pictures, with numbers from {first} to {last}",
            path=path,
        )
    first_missing = None
    if missing:
        there = set(numbers)
        first_missing = next(number for number in range(first, last) if number not in there)
    return PictureSequence(folder, prefix, suffix, least, first, last, missing, first_missing)
