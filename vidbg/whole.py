"""Files that appear under their names only when they are complete."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from vidbg.errors import OutputError


def take_name(part: Path, path: Path, overwrite: bool) -> None:
    """Give a complete file its final name.

    Args:
        part: The file, in the same file system.
        path: Its name.
        overwrite: Replace an existing file, at once.

    Raises:
        OutputError: There is such a file, or the name cannot be given.
    """
    taken = OutputError("appeared while the job ran", path=path, hint="Use -y to overwrite it")
    try:
        if overwrite:
            part.replace(path)
            return
        try:
            os.link(part, path)  # fails where the name is taken: no gap to lose a race in
        except FileExistsError:
            raise taken from None
        except OSError:  # a file system without hard links
            if os.path.lexists(path):
                raise taken from None
            part.rename(path)
    except OSError as error:
        raise OutputError(f"cannot be named ({error.strerror})", path=path) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file; what is there under its name is replaced at once, or stays.

    Args:
        path: The file.
        content: What goes in.

    Raises:
        OutputError: It cannot be written.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror or error})", path=path) from error
    finally:  # an interruption too leaves nothing
        with suppress(OSError):
            part.unlink(missing_ok=True)
