"""Input that is no file, from standard input or a URL, as a file for as long as a job runs."""

from __future__ import annotations

import errno
import http.client
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from vidbg import __version__
from vidbg.errors import InputError, VidbgError
from vidbg.media.inputs import PLAYLIST_HEAD
from vidbg.whole import Part

logger = logging.getLogger(__name__)

# A disk that is filled to the brim stops other programs too, and the result has to fit as well.
SPARE_BYTES: Final = 256 << 20
"""What is left free on the disk that input is stored on."""

NETWORK_TIMEOUT_S: Final = 30.0
"""A server is given up when so long nothing comes, or hardly anything."""

_LEAST_HEADWAY_BYTES = 30 << 10  # in that time
_CHUNK_BYTES = 1 << 20
# Two letters at least before the colon: "C:/clip.mp4" is a file.
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
_SCHEMES = ("http", "https")
# A day of segments of a second, with long names.
_PLAYLIST_CHARACTERS = 1 << 24
# What lines begin with that ask for more than one file after another.
_NOT_JOINED = {
    "#EXT-X-STREAM-INF": "names other playlists",
    "#EXT-X-MEDIA:": "names other playlists",
    "#EXT-X-BYTERANGE": "names parts of files",
    "#EXT-X-MAP:.*BYTERANGE=": "names parts of files",
    "#EXT-X-KEY": "names encrypted files",
}


def is_url(text: str) -> bool:
    """Say whether an INPUT is a URL, of whatever scheme, and no file's name."""
    return _URL.match(text) is not None


@contextmanager
def from_pipe(stream: BufferedReader, folder: Path) -> Iterator[Path]:
    """Store what comes down a pipe in a file that is removed at the end, whatever happens.

    Args:
        stream: Opened for reading.
        folder: Where the file goes, unless the environment's TMPDIR names another folder.

    Raises:
        InputError: The disk has no room for it.
    """
    with _Stored("standard input", folder) as stored:
        logger.info("standard input is stored in %s while the job runs", stored.path.parent)
        # What comes may be nothing at all: those who open the file say so.
        while chunk := stream.read1(_CHUNK_BYTES):
            stored.add(chunk)
        stored.close()
        yield stored.path


@contextmanager
def from_url(url: str, folder: Path) -> Iterator[Path]:
    """Download a file once, and remove it at the end, whatever happens.

    Only http and https, also after redirections, and never from https back to http.
    Certificates are checked as urllib does by default.

    Args:
        url: Its address.
        folder: Where the file goes, unless the environment's TMPDIR names another folder.

    Raises:
        InputError: It cannot be had, or the disk has no room for it.
    """
    shown = _without_secrets(url)
    with _Stored(shown, folder) as stored:
        try:
            _download(url, stored)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise InputError(f"cannot be downloaded ({_reason(error)})", path=shown) from error
        stored.close()
        yield stored.path


def is_playlist(path: Path) -> bool:
    """Say whether a file is an HLS playlist, whatever its name."""
    try:
        if not path.is_file():  # opening a pipe may never end
            return False
        with path.open("rb") as file:
            return file.read(len(PLAYLIST_HEAD)) == PLAYLIST_HEAD
    except (OSError, ValueError):
        return False


@contextmanager
def from_playlist(playlist: Path, folder: Path) -> Iterator[Path]:
    """Join the files that an HLS playlist (RFC 8216) names to one that is removed at the end.

    They are only those in the playlist's own folder or below it, symbolic links followed; FFmpeg
    never sees the playlist. Segments are made so that one after another they are one recording.

    Args:
        playlist: The playlist of one recording; not one of other playlists.
        folder: Where the file goes, unless the environment's TMPDIR names another folder.

    Raises:
        InputError: It names anything else, or parts of files, or encrypted ones; or the disk has
            no room.
    """
    parts = _parts_of(playlist)
    with _Stored(str(playlist), folder) as stored:
        # It may name a file a million times, which need not fill the disk to be found out.
        sizes = {part: part.stat().st_size for part in dict.fromkeys(parts)}
        stored.expect(sum(sizes[part] for part in parts))
        for part in parts:
            try:
                with part.open("rb") as file:
                    while chunk := file.read(_CHUNK_BYTES):
                        stored.add(chunk)
            except OSError as error:
                raise InputError(f"cannot be read ({error.strerror})", path=part) from error
        stored.close()
        yield stored.path


def _parts_of(playlist: Path) -> list[Path]:
    """Return the files that a playlist names, in its order."""
    try:
        with playlist.open(encoding="utf-8-sig") as file:
            text = file.read(_PLAYLIST_CHARACTERS + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path=playlist) from error
    except UnicodeDecodeError as error:
        raise InputError("is no text", path=playlist) from error
    if len(text) > _PLAYLIST_CHARACTERS:
        raise InputError("is too long for a playlist", path=playlist)
    names = []
    for line in filter(None, map(str.strip, text.splitlines())):
        for tag, what in _NOT_JOINED.items():
            if re.match(tag, line) and not line.endswith("METHOD=NONE"):
                raise InputError(f"a playlist that {what}, which are not joined", path=playlist)
        if line.startswith("#EXT-X-MAP:"):
            named = re.search(r'URI="([^"]*)"', line)
            names.append(named[1] if named else "")
        elif not line.startswith("#"):
            names.append(line)
    if not names:
        raise InputError("a playlist of no files", path=playlist)
    home = playlist.parent.resolve()
    found = {name: _beside(playlist, home, name) for name in dict.fromkeys(names)}
    return [found[name] for name in names]


def _beside(playlist: Path, home: Path, name: str) -> Path:
    """Return the file that a playlist means by a name, once it is known to lie in its folder."""
    for spelt in (name, unquote(name)):
        try:
            found = Path(home, spelt).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # the last for links that go in circles
            continue
        if found.is_relative_to(home) and found.is_file():
            return found
    raise InputError(
        f"a playlist that names {ascii(name)[:80]}, which is no file in its folder", path=playlist
    )


class _Stored:
    """A new file beside the result, removed at the end of the block.

    What a job was killed over goes when the next such file is made in that folder. Errors about it
    that pass through the block name what it was made of instead.

    Args:
        name: What to call it.
        folder: Where it goes, unless TMPDIR says otherwise.

    Raises:
        InputError: It cannot be made.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        place = Path(os.environ.get("TMPDIR") or folder)
        self._unchecked_bytes = 0
        try:
            self._part = Part(place, "vidbg", ".input", _make_private)
            self.path = self._part.path
            self._file = self.path.open("r+b")
        except OSError as error:
            what = f"cannot be stored in {place} ({error.strerror or error})"
            raise InputError(what, path=name) from error

    def expect(self, size: int) -> None:
        """Raise :class:`InputError` if there is no room for so many bytes."""
        if shutil.disk_usage(self.path.parent).free < SPARE_BYTES + size:
            raise self._no_room()

    def add(self, chunk: bytes) -> None:
        """Write bytes; :class:`InputError` if they do not fit."""
        self._unchecked_bytes += len(chunk)
        if self._unchecked_bytes > SPARE_BYTES // 8:
            self.expect(len(chunk))
            self._unchecked_bytes = 0
        try:
            self._file.write(chunk)
            self._file.flush()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise self._no_room() from error
            raise

    def close(self) -> None:
        """End the file; it stays until the end of the block."""
        self._file.close()

    def _no_room(self) -> InputError:
        return InputError(
            f"there is no room left in {self.path.parent.absolute()} to store it",
            path=self._name,
            hint="Free some space, or set TMPDIR to a folder on a larger disk",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._part.release()
        if isinstance(exc, VidbgError) and str(exc.path) == str(self.path):
            exc.path = self._name


def _make_private(path: Path) -> None:
    """Make an empty file that is nobody else's business: what comes down a pipe may be private."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _download(url: str, stored: _Stored) -> None:
    """Store a file from the network.

    Raises:
        OSError: The server cannot be reached, refuses, breaks off or is too slow.
        http.client.HTTPException: It does not speak HTTP properly.
        ValueError: It redirects to what is no URL.
        InputError: There is no room for it.
    """
    _require_web(url)
    headers = {"User-Agent": f"vidbg/{__version__}", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked above
    opener = urllib.request.build_opener(_Redirects)
    with opener.open(request, timeout=NETWORK_TIMEOUT_S) as response:
        stated = response.headers.get("Content-Length", "").strip()
        total = int(stated) if stated.isdecimal() else None
        size = "" if total is None else f", {total / 1e6:.1f} MB"
        logger.info("%s: downloading to %s%s", _without_secrets(url), stored.path.parent, size)
        stored.expect(total or 0)
        had, earlier = 0, 0
        check_s = time.monotonic() + NETWORK_TIMEOUT_S
        while chunk := response.read1(_CHUNK_BYTES):
            had += len(chunk)
            stored.add(chunk)
            if time.monotonic() > check_s:
                if had < earlier + _LEAST_HEADWAY_BYTES:
                    raise urllib.error.URLError("the server is too slow")
                earlier, check_s = had, time.monotonic() + NETWORK_TIMEOUT_S
    if total is not None and had < total:
        raise urllib.error.URLError(f"it broke off after {had} of {total} bytes")


def _require_web(url: str) -> None:
    """Raise URLError unless a URL is of http or https."""
    scheme = urlsplit(url).scheme.lower()
    if scheme not in _SCHEMES:
        raise urllib.error.URLError(f"{scheme or 'no scheme'} in place of http or https")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections on the web, except out of https."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _require_web(newurl)
        if req.type == "https" and urlsplit(newurl).scheme.lower() != "https":
            raise urllib.error.URLError("it redirects from https to http")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _without_secrets(url: str) -> str:
    """Return a URL to show: without user, password and query, which may hold a key."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
