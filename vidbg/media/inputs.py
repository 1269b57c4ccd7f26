"""INPUT arguments as paths: patterns that the shell left alone, as Windows's shells do."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from vidbg.errors import InputError

_DIGITS = re.compile(r"([0-9]+)")

PLAYLIST_HEAD: Final = b"#EXTM3U"
"""What an HLS playlist (RFC 8216) begins with."""


def expand(arguments: Sequence[str]) -> list[Path]:
    """Return the files that arguments mean, each once, in the order of the arguments.

    ``*``, ``?``, ``[...]`` and ``**`` (any depth of folders) stand for other characters only
    where there is no file of that very name. What a pattern matches comes in the order of names,
    numbers in them by value; names that begin with a dot are left out, as a shell does.

    What has no such characters stays as it is, whether or not there is such a file: printf
    patterns of picture sequences, and "-". A URL is no path: those who take one look for it first.

    Args:
        arguments: As they came on the command line.

    Raises:
        InputError: Nothing matches a pattern.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        if os.path.lexists(argument) or not glob.has_magic(argument):
            found.setdefault(Path(argument))
            continue
        matches = sorted(glob.glob(argument, recursive=True), key=_by_numbers)
        if not matches:
            raise InputError("no such file, nor one that it matches", path=argument)
        for match in matches:
            found.setdefault(Path(match))
    return list(found)


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """Return a key that puts 2 before 10; text and numbers alternate."""
    words = _DIGITS.split(name)
    return [(int(word), "") if place % 2 else (0, word) for place, word in enumerate(words)]
