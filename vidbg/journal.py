"""What a job would make, as one short string: to know finished and interrupted work again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vidbg import __version__
from vidbg.media.sequence import find_sequence, is_sequence

if TYPE_CHECKING:
    from vidbg.job import Job

# Fields of a job and of its outputs that change nothing in what is made, only where it lies and
# how it gets there.
_HOW = frozenset({"path", "overwrite", "resume", "max_pixels"})


def fingerprint(job: Job) -> str:
    """Return the SHA-256, in hexadecimal, of all that a job's result depends on.

    That is vidbg's version, every option, the outputs' extensions, and of each file that goes in
    (source, background, weights) its absolute name, size and time of last change. A file whose
    content changed without either of these two is taken for the same.

    Args:
        job: What to do.

    Raises:
        OSError: A file that goes in is not there.
    """
    if job.weights is not None:
        job = replace(job, weights=Path(job.weights))
    suffixes = [output.suffix for output in job.outputs]
    coded = json.dumps([__version__, suffixes, _plain(asdict(job))], sort_keys=True)
    return hashlib.sha256(coded.encode("utf-8", "surrogateescape")).hexdigest()


def _plain(value: object) -> object:
    """Return a value as JSON has it, files with their size and time."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items() if name not in _HOW}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Path):
        return _pictures(value) if is_sequence(value) else _file(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)  # a Fraction


def _pictures(path: Path) -> list[object]:
    """Return all that is known of the pictures of a sequence, without reading them."""
    sequence = find_sequence(path)
    if sequence is None:
        return [str(path.absolute())]
    numbers = range(sequence.first, sequence.last + 1)
    files = (sequence.path_of(number) for number in numbers)
    return [str(path.absolute()), *(_file(file) for file in files if file.exists())]


def _file(path: Path) -> list[str | int]:
    found = path.stat()
    return [str(path.absolute()), found.st_size, found.st_mtime_ns]
