"""Small files that appear under their names only when they are complete."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from vidbg.errors import OutputError


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
