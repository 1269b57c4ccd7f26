"""Which clips a folder holds, what their results are called, which background is whose."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from vidbg import ledger
from vidbg.errors import InputError, VidbgError
from vidbg.ledger import located
from vidbg.media.formats import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from vidbg.media.probe import probe
from vidbg.media.sequence import is_sequence, result_name

logger = logging.getLogger(__name__)

# What lies beside clips on cards and in projects. All else is asked what it is.
_OTHERS = """
7z aac ac3 aep aif aiff ass aup3 bak bim blend bup cdl cpi csv cube db dll dng doc docx drp edl eps
exe exr fcpxml flac gz htm html idx ifo ini iso jpe js json log look lrc lrf lut m3u m3u8 m4a md
mid mp3 nfo npy npz ogg onnx opus otf otio pdf pek pkf pmpd ppt pptx prproj psd pt pth py rar rtf
safetensors sfk sh smi srt ssa sub sup svg tar thm toml torrent ttf txt vtt wav wma xls xlsx xml
xmp yaml yml zip
"""
_OTHER_SUFFIXES = IMAGE_SUFFIXES | {f".{name}" for name in _OTHERS.split()}
# Part files, results, and what else we make beside them.
_OURS = re.compile(r"\.vidbg(?:\.|-|$)|\.part(?:\.|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Source:
    """A clip to work on, and where its result belongs.

    Attributes:
        path: The clip.
        folder: Where its result goes.
        place: The clip's own folder below the INPUT that it was found in, "." at its top.
        root: The folder that a batch locks for it.
    """

    path: Path
    folder: Path
    place: PurePath
    root: Path


def natural_order(path: PurePath) -> tuple[list[list[int | str]], str]:
    """Return a sort key that puts clip2 before clip10, whatever the case of the letters."""
    parts = [*path.parent.parts, path.stem, path.suffix]
    pieces = [re.split(r"(\d+)", alike(part)) for part in parts]
    return [[int(p) if n % 2 else p for n, p in enumerate(part)] for part in pieces], str(path)


def alike(name: str) -> str:
    """Return a name as file systems compare it that ignore case and how accents are written."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def sources_in(
    inputs: Iterable[Path],
    output: Path | None,
    *,
    recursive: bool,
    left_out: Collection[Path] = (),
    is_sure: bool = True,
) -> list[Source]:
    """Return the clips among files and in folders, each once, in the order of the inputs.

    What is not there counts as a clip, which then fails.

    Args:
        inputs: Files and picture sequences, which are taken as they are, and folders, of which
            the videos are.
        output: The folder for results; None for beside each clip.
        recursive: Sub-folders of folders too. Below ``output`` they are mirrored.
        left_out: Files and folders that are not looked at, such as backgrounds.
        is_sure: Leave out files of unknown extensions that are no videos, and take a folder of
            numbered pictures for a clip. Else more may come into it.
    """
    inputs = list(inputs)
    found: dict[Path, Source] = {}
    for given in inputs:
        if not given.is_dir() or (is_sure and is_sequence(given)):
            if _is_result_of_another(given, inputs):
                logger.info("%s: left out, as it is a result of another INPUT", given)
                continue
            home = output or (result_name(given) or given).parent
            found.setdefault(located(given), Source(given, home, PurePath(), _real(home)))
            continue
        find = find_clips if is_sure else find_files
        unwanted = [*left_out, *([] if output is None else [output])]
        for path in find(given, recursive=recursive, left_out=unwanted):
            found.setdefault(located(path), _placed(path, given, output, len(inputs) > 1))
    return list(found.values())


def _is_result_of_another(given: Path, inputs: Iterable[Path]) -> bool:
    """Say whether an INPUT is what vidbg made of another, as where a shell resolved ``*.mp4``."""
    stem, mark, _ = given.name.rpartition(".vidbg")
    return bool(mark) and any(
        re.fullmatch(rf"(?:{_own_stems(other)})(?:\.alpha|\.matte)?", stem)
        and located(other).parent == located(given).parent
        for other in inputs
    )


def _placed(path: Path, given: Path, output: Path | None, is_one_of_many: bool) -> Source:
    place = path.parent.relative_to(given)
    if output is None:
        return Source(path, path.parent, place, _real(given))
    # Folders with the same names inside must not meet in one.
    top = output / given.resolve().name if is_one_of_many else output
    return Source(path, top / place, place, _real(output))


def find_clips(folder: Path, *, recursive: bool, left_out: Collection[Path] = ()) -> Iterator[Path]:
    """Yield the videos in a folder, in natural order, each folder's own before its sub-folders'.

    Args:
        folder: Where to look.
        recursive: In sub-folders too, each once, however links lead to it.
        left_out: Files and folders that are not looked at.
    """
    for path in find_files(folder, recursive=recursive, left_out=left_out):
        if path.suffix.lower() in VIDEO_SUFFIXES or holds_video(path):
            yield path


def find_files(folder: Path, *, recursive: bool, left_out: Collection[Path] = ()) -> Iterator[Path]:
    """Yield files that are videos by their names, or may be: those of unknown extensions.

    Hidden files and folders, part files and results of ours are left out. Arguments are those
    of :func:`find_clips`.
    """
    unwanted = {_identity(path) for path in left_out}
    been: set[object] = set()
    todo = [folder]
    while todo:
        here = todo.pop()
        own = _identity(here)
        if own in been or (own in unwanted and here != folder):
            continue
        been.add(own)
        try:
            paths = sorted((Path(here, name) for name in os.listdir(here)), key=natural_order)
        except OSError as error:
            logger.warning("%s: cannot be looked into (%s)", here, error.strerror)
            continue
        folders = []
        made = ledger.read(here)
        for path in paths:
            if path.name.startswith(".") or _OURS.search(path.name) or located(path) in made:
                continue
            if path.is_dir():
                folders.append(path)
            elif (
                path.is_file()
                and path.suffix.lower() not in _OTHER_SUFFIXES
                and _identity(path) not in unwanted
            ):
                yield path
        if recursive:
            todo += reversed(folders)


def holds_video(path: Path) -> bool:
    """Say whether a file of any name is a video."""
    try:
        return not probe(path).is_image
    except VidbgError:
        return False


def result_path(
    plain: Path,
    source: Path,
    taken: Mapping[str, str],
    earlier: Iterable[Path] = (),
    *,
    mark: str = ".vidbg",
) -> Path:
    """Return the name of a result that no other clip's result has.

    Of ``talk.mp4`` and ``talk.mov`` the first gets ``talk.vidbg.mp4``, the other
    ``talk.mov.vidbg.mp4``; another ``talk.mov`` for the same folder gets ``talk.mov.2.vidbg.mp4``.
    A name that a clip has got it keeps.

    Args:
        plain: The name that it has by itself: the clip's stem, the mark and an extension, or
            none, for a folder of numbered files.
        source: The clip.
        taken: Whose names are whose: clips, as :func:`clip_key` has them, by names of results, as
            :func:`name_key` has those.
        earlier: What results of the clip were called before, as :func:`~vidbg.ledger.located` has
            them.
        mark: What comes behind the stem, other than which the clip may have other results.
    """
    ending = "".join(plain.name.rpartition(mark)[1:])
    own = _own_stems(source)
    for path in earlier:
        stem = path.name.removesuffix(ending)
        is_alike = path.parent == located(plain).parent and stem != path.name
        if is_alike and re.fullmatch(own, stem) and _is_free(path, source, taken):
            return plain.with_name(path.name)
    number = 1
    candidate = plain
    while not _is_free(candidate, source, taken):
        stem = source.name if number == 1 else f"{source.name}.{number}"
        candidate = plain.with_name(stem + ending)
        number += 1
    return candidate


def _own_stems(source: Path) -> str:
    """Return a regular expression of what names of a clip's results begin with."""
    return rf"{re.escape(source.stem)}|{re.escape(source.name)}(?:\.\d+)?"


def name_key(path: Path) -> str:
    """Return what is the same for two paths that a file system may take for one."""
    return alike(str(located(path)))


def clip_key(path: Path) -> str:
    """Return what tells clips apart, however they are named."""
    return str(located(path))


def _is_free(path: Path, source: Path, taken: Mapping[str, str]) -> bool:
    return taken.get(name_key(path), clip_key(source)) == clip_key(source)


def partner(clip: Path, place: PurePath, folder: Path) -> Path:
    """Return the background of a clip in a folder of backgrounds: of the same stem.

    Args:
        clip: The clip.
        place: Its folder below the INPUT, which is looked for below ``folder`` too.
        folder: Where backgrounds are.

    Raises:
        InputError: There is none, or more than one.
    """
    where = folder / place
    usable = VIDEO_SUFFIXES | IMAGE_SUFFIXES
    try:
        names = sorted(os.listdir(where))
    except OSError:
        names = []
    found = [
        path
        for path in (where / name for name in names if not name.startswith("."))
        if alike(path.stem) == alike(clip.stem) and path.suffix.lower() in usable
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"has more than one background: {', '.join(path.name for path in found)}", path=clip
        )
    wanted = where / f"{clip.stem}.*"
    raise InputError(f"has no background: looked for a video or picture {wanted}", path=clip)


def _real(folder: Path) -> Path:
    return Path(os.path.realpath(folder))


def _identity(path: Path) -> object:
    """Return what is the same for two paths that lead to the same place."""
    try:
        found = path.stat()
    except OSError:
        return path
    # Some network file systems number nothing.
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)
