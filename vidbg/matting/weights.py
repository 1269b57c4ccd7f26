"""Where weights come from: the registry of public checkpoints, their download, and reading them.

Nothing here imports torch before a checkpoint is read, so that listing models is quick.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.resources
import io
import json
import logging
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import platformdirs

from vidbg import __version__
from vidbg.errors import WeightsError
from vidbg.lock import take_lock
from vidbg.matting.kept import Shelf

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Progress = Callable[[int, int], None]

logger = logging.getLogger(__name__)

NETWORK_TIMEOUT_S = 30.0
"""How long a server may stay silent, while connecting and between two pieces of the file."""

LOCK_STALL_S = 120.0
"""How long to wait for another process that downloads the same file but makes no headway."""

# What a connection has to bring before it breaks off, and in any NETWORK_TIMEOUT_S: a server
# that sends a byte now and then would otherwise be waited for without end.
_LEAST_HEADWAY_BYTES = 1 << 16
_LOCK_POLL_S = 0.2
_CHUNK_BYTES = 1 << 18
_REINSTALL = "Reinstall vidbg: pip install --force-reinstall --no-deps vidbg"
# What a checkpoint may say of its training size: beyond, a picture has no room on any device.
# Starting PyTorch on a slow machine is most of it.
_UNPICKLE_S = 120
_SIDES_PX = range(32, 2049)
# Ten times the largest that is known; what is larger is another kind of file.
_MOST_BYTES = 1 << 31
_CONVERTED_KEPT = 4
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A published checkpoint.

    Attributes:
        name: What the user calls it.
        architecture: A name from :mod:`vidbg.matting.architectures`.
        file: Its file name in the weights folder; of an embedded one, beside the registry.
        urls: Places that serve the same bytes, best first; none for an embedded one.
        size_bytes: Size of the file.
        sha256: SHA-256 of the file, lower-case hexadecimal.
        licence: SPDX identifier.
        source: Home page of the authors.
        notes: What it is for, and where the URLs and the digest were found.
        input_side_px: Side of the square that it was trained on.
        mean: Mean of R, G, B in 0..1 that its input is normalised with.
        std: Standard deviation of R, G, B in 0..1 that its input is normalised with.
        embedded: Whether the file comes with vidbg, so that it is never downloaded.
        below_target: By how much its mattes miss what the project aims for; None if they
            do not.
    """

    name: str
    architecture: str
    file: str
    urls: tuple[str, ...]
    size_bytes: int
    sha256: str
    licence: str
    source: str
    notes: str
    input_side_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    embedded: bool = False
    below_target: str | None = None


def package_dir() -> Path:
    """Return the folder of the registry and of the weights that come with vidbg."""
    try:
        # Not a name inside an archive: torch does not run from one, so neither does vidbg.
        return Path(str(importlib.resources.files("vidbg.weights")))
    except ModuleNotFoundError:
        # A checkout that is not installed: setup.cfg maps the package to this folder.
        return Path(__file__).resolve().parents[2] / "weights"


@cache
def _registry_document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        (package_dir() / "registry.json").read_text(encoding="utf-8")
    )
    return document


def registry() -> dict[str, ModelSpec]:
    """Return the known models by name, the default one first."""
    return {
        name: ModelSpec(
            name=name,
            architecture=entry["architecture"],
            file=entry["file"],
            urls=tuple(entry.get("urls", ())),
            size_bytes=entry["size_bytes"],
            sha256=entry["sha256"],
            licence=entry["licence"],
            source=entry["source"],
            notes=entry["notes"],
            input_side_px=entry["input_side_px"],
            mean=tuple(entry["mean"]),
            std=tuple(entry["std"]),
            embedded=entry.get("embedded", False),
            below_target=entry.get("below_target"),
        )
        for name, entry in _registry_document()["models"].items()
    }


@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """How large the maps inside a network become, for running it in 8 bits.

    Attributes:
        largest: Of each map by its name, float64 (C,), above 0: what its channels stay below,
            but for a pixel here and there.
        exact: Convolutions whose weights are not to be rounded.
    """

    largest: Mapping[str, NDArray[np.float64]]
    exact: frozenset[str]


def ranges_of(path: Path, content: bytes | None = None) -> Ranges | None:
    """Return the ranges that were measured for the weights in a file, told by its SHA-256.

    Args:
        path: A file of weights, which is there.
        content: What :func:`read_once` returned of it, or None to read it here.
    """
    import numpy as np

    digest = _sha256(path) if content is None else hashlib.sha256(content).hexdigest()
    for known in sorted(package_dir().glob("*.ranges.json")):
        document = json.loads(known.read_text(encoding="utf-8"))
        if digest in document["weights_sha256"]:
            largest = {
                name: np.array(values, np.float64) for name, values in document["largest"].items()
            }
            return Ranges(largest, frozenset(document["exact"]))
    return None


def default_model() -> str:
    """Return the name of the model that is used when none is asked for."""
    name: str = _registry_document()["default"]
    return name


def below_target_note(spec: ModelSpec) -> str:
    """Return what to tell the user of a default model that misses the project's target."""
    larger = spec_of("u2netp")
    return (
        f"{spec.name}, the default model, is below target: {spec.below_target}. For better mattes "
        f"use --model {larger.name} (downloads {larger.size_bytes / 1e6:.1f} MB once)"
    )


def spec_of(name: str) -> ModelSpec:
    """Return the registry's entry of a model.

    Raises:
        WeightsError: No model has this name.
    """
    models = registry()
    if name not in models:
        raise WeightsError(
            f"there is no model called {name!r}",
            hint=f"Known are {', '.join(models)}; for a file of your own use --weights FILE",
        )
    return models[name]


def cache_dir() -> Path:
    """Return the folder that holds downloaded weights; it need not exist yet.

    The user's cache folder, or the one that the environment variable VIDBG_WEIGHTS_DIR names.

    Raises:
        WeightsError: It would be in the home of somebody who has none.
    """
    override = os.environ.get("VIDBG_WEIGHTS_DIR")
    try:
        if override:
            return Path(override).expanduser().absolute()
        folder = platformdirs.user_cache_path("vidbg", appauthor=False) / "weights"
    except RuntimeError:
        folder = Path(override or "~/.cache/vidbg/weights")
    if not folder.is_absolute():  # older versions of platformdirs leave the ~ as it is
        raise WeightsError(
            "cannot be the weights folder: there is no such home",
            path=folder,
            hint="Set VIDBG_WEIGHTS_DIR to a folder",
        )
    return folder


def shelf(name: str, suffix: str, most_files: int, most_bytes: int) -> Shelf | None:
    """Return a place in the weights folder for what can be made again, or None without a folder.

    Args:
        name: Its folder there.
        suffix: As a :class:`vidbg.matting.kept.Shelf` has it, like the others.
        most_files: Likewise.
        most_bytes: Likewise.
    """
    try:
        return Shelf(cache_dir() / name, suffix, most_files, most_bytes)
    except WeightsError:
        return None


def locate(name: str) -> Path | None:
    """Return the file of a model if it is on this machine at its published size.

    It lies in the weights folder, or comes with vidbg. The digest is not computed;
    :func:`ensure` does that before the file is used.

    Raises:
        WeightsError: No model has this name.
    """
    spec = spec_of(name)
    path = _home(spec)
    return path if path.is_file() and path.stat().st_size == spec.size_bytes else None


def ensure(name: str, progress: Progress | None = None, *, offline: bool = False) -> Path:
    """Return the verified file of a model, downloading it first if it is missing.

    A file that is there is checked against its SHA-256 every time: 0.1 s for the largest.
    One that comes with vidbg is used where it lies.
    Downloads go to ``FILE.part`` and are renamed when size and digest are right, so that a
    file under its final name is always whole. A lock on ``FILE.lock`` lets one process
    download while others wait for it; an interrupted download is continued by the next.

    Args:
        name: A name from the registry.
        progress: Called with the bytes that are there and the bytes in all.
        offline: Use what is on this machine, do not touch the network.

    Raises:
        WeightsError: The name is unknown, the file is not the published one, it cannot be
            downloaded or written, or it is missing and ``offline`` is set.
    """
    spec = spec_of(name)
    path = _home(spec)
    if path.exists():
        _verify(path, spec)
        return path
    if spec.embedded:
        raise WeightsError(
            f"the weights of {name} come with vidbg but are missing", path=path, hint=_REINSTALL
        )
    if offline:
        raise WeightsError(
            f"the weights of {name} are not on this machine", hint=_by_hand(spec, path.parent)
        )
    fetch(spec, path, progress)
    return path


def fetch(spec: ModelSpec, path: Path, progress: Progress | None = None) -> None:
    """Download a model's file to ``path``, or wait for the process that is doing so.

    Args:
        spec: What to download.
        path: Where to; ``path.part`` and ``path.lock`` beside it are used on the way.
        progress: Called with the bytes that are there and the bytes in all.

    Raises:
        WeightsError: No URL gave the right file, another process stalled, or the folder
            cannot be written.
    """
    part = path.with_name(path.name + ".part")
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _sole_downloader(path.with_name(path.name + ".lock"), part):
        if path.exists():
            _verify(path, spec)
            return
        _download_from_any(spec, part, progress)
        with _writing(path):
            part.replace(path)


def _home(spec: ModelSpec) -> Path:
    """Where the file of a model belongs."""
    return (package_dir() if spec.embedded else cache_dir()) / spec.file


def _by_hand(spec: ModelSpec, folder: Path) -> str:
    return (
        f"Put {spec.file} ({spec.size_bytes} bytes, SHA-256 {spec.sha256}) into {folder}, "
        "or name a checkpoint with --weights FILE"
    )


def _verify(path: Path, spec: ModelSpec) -> None:
    try:
        found = _sha256(path)
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}", path=path) from error
    _check_digest(path, spec, found)


def _check_digest(path: Path, spec: ModelSpec, found: str) -> None:
    """Raise :class:`WeightsError` unless a SHA-256 is that of a published file."""
    if found != spec.sha256:
        raise WeightsError(
            f"this is not the published {spec.file}: its SHA-256 is {found}, not {spec.sha256}",
            path=path,
            hint=_REINSTALL
            if spec.embedded
            else "Delete it to have it downloaded again, or use it on purpose with --weights FILE",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    """Bytes in a file, 0 if there is none; another process may be renaming it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn failures to write into errors that name the file, apart from the network's."""
    try:
        yield
    except OSError as error:
        raise WeightsError(f"cannot be written: {error.strerror or error}", path=path) from error


@contextmanager
def _sole_downloader(lock: Path, part: Path) -> Iterator[None]:
    """Hold the lock, waiting for another process as long as its part file grows.

    The operating system drops the lock when its holder ends, however it ends. The empty
    lock file stays: removing it would let two processes lock two different files.
    """
    with _writing(lock):
        file = lock.open("ab")
    with file:
        seen = _size(part)
        deadline = time.monotonic() + LOCK_STALL_S
        while True:
            with _writing(lock), suppress(BlockingIOError, PermissionError):
                take_lock(file.fileno())
                break
            if _size(part) != seen:
                seen = _size(part)
                deadline = time.monotonic() + LOCK_STALL_S
            if time.monotonic() > deadline:
                raise WeightsError(
                    "another process is downloading these weights but brought nothing in "
                    f"{LOCK_STALL_S:.0f} s",
                    path=part,
                    hint="End that process and try again",
                )
            time.sleep(_LOCK_POLL_S)
        yield


class _MirrorError(OSError):
    """A server answered, but not with the file."""


def _download_from_any(spec: ModelSpec, part: Path, progress: Progress | None) -> None:
    """Bring ``part`` to the published bytes, trying the URLs in order.

    A connection that breaks is taken up again where it broke for as long as every attempt
    brings a good piece. What an earlier run left in ``part`` is continued, and thrown away if
    the whole turns out wrong.
    """
    failures: list[str] = []
    if _size(part) > spec.size_bytes:
        _discard(part)
    inherited = _size(part) > 0
    for url in spec.urls:
        host = urlsplit(url).hostname
        logger.info("downloading %s (%.1f MB) from %s", spec.file, spec.size_bytes / 1e6, host)
        while True:
            before = _size(part)
            try:
                if before < spec.size_bytes:
                    _download(url, spec, part, progress)
            except (OSError, http.client.HTTPException, ValueError) as error:
                if _size(part) >= before + _LEAST_HEADWAY_BYTES:
                    continue
                failures.append(f"{host}: {_reason(error)}")
                break
            found = _sha256(part)
            if found == spec.sha256:
                return
            _discard(part)
            if inherited:
                inherited = False
                continue
            failures.append(f"{host}: the file came with SHA-256 {found} and was deleted")
            break
    raise WeightsError(
        f"{spec.file} could not be downloaded ({'; '.join(failures)})",
        hint=_by_hand(spec, part.parent),
    )


def _discard(part: Path) -> None:
    with _writing(part):
        part.unlink()


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__


def _download(url: str, spec: ModelSpec, part: Path, progress: Progress | None) -> None:
    """Bring what ``part`` lacks from one URL.

    Raises:
        OSError: The server cannot be reached, breaks off, is too slow, or has something else.
        http.client.HTTPException: The server does not speak HTTP properly.
        ValueError: It redirects to what is no URL.
        WeightsError: ``part`` cannot be written.
    """
    done = _size(part)
    headers = {"User-Agent": f"vidbg/{__version__}", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    _require_secure(url)
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked above
    opener = urllib.request.build_opener(_SecureRedirects)
    with opener.open(request, timeout=NETWORK_TIMEOUT_S) as response:
        done = _first_byte(response, asked_for=done, size=spec.size_bytes)
        with _writing(part):
            file = part.open("ab" if done else "wb")
        with file:
            if progress is not None:
                progress(done, spec.size_bytes)
            checked, check_s = done, time.monotonic() + NETWORK_TIMEOUT_S
            while chunk := response.read1(_CHUNK_BYTES):
                done += len(chunk)
                if time.monotonic() > check_s:
                    if done < checked + _LEAST_HEADWAY_BYTES:
                        raise _MirrorError(
                            f"sends less than {_LEAST_HEADWAY_BYTES} bytes "
                            f"in {NETWORK_TIMEOUT_S:.0f} s"
                        )
                    checked, check_s = done, time.monotonic() + NETWORK_TIMEOUT_S
                if done > spec.size_bytes:
                    raise _MirrorError(f"sends more than {spec.size_bytes} bytes")
                with _writing(part):
                    file.write(chunk)
                    file.flush()
                if progress is not None:
                    progress(done, spec.size_bytes)
            with _writing(part):
                os.fsync(file.fileno())
    if done < spec.size_bytes:
        raise _MirrorError(f"broke off after {done} of {spec.size_bytes} bytes")


def _first_byte(response: Any, *, asked_for: int, size: int) -> int:
    """Return where in the file an answer starts: at 0, or where it was asked to.

    Checked before anything is written, so that an error page served as a success (quota
    pages do that) costs neither the part nor a download.
    """
    if response.headers.get_content_type() == "text/html":
        raise _MirrorError("answers with a web page in place of the file")
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        span = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", span.strip())
        if match is None or int(match[1]) != asked_for or match[2] not in (str(size), "*"):
            raise _MirrorError(f"answers with another part of the file ({span!r})")
        return asked_for
    length = response.headers.get("Content-Length")
    if length is not None and length.strip() != str(size):
        raise _MirrorError(f"has a file of {length} bytes, expected {size}")
    return 0


def _require_secure(url: str) -> None:
    """Accept https, and http only to this very machine, where no network lies between.

    Raises:
        _MirrorError: Another scheme, such as file or ftp, or http to another machine.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return
    raise _MirrorError(f"{parts.scheme or 'no scheme'} in place of https")


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Holds redirects to the same rule as the first URL."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _require_secure(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What a file says of a network.

    Attributes:
        state_dict: Names to tensors on the CPU, in the dtypes of the file.
        input_side_px: Side of the square that the network was trained on; None if the file
            does not say.
    """

    state_dict: dict[str, Tensor]
    input_side_px: int | None


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of :func:`load_checkpoint`, names to tensors on the CPU.

    Raises:
        WeightsError: As there.
    """
    return load_checkpoint(path).state_dict


def read_once(path: Path, spec: ModelSpec | None = None) -> bytes:
    """Return all of a file of weights, which is what is then checked and used: it may change.

    Args:
        path: The file.
        spec: The published checkpoint that it has to be, or None for a file of the user's own.

    Raises:
        WeightsError: It cannot be read, is too large, or is not the published one.
    """
    if not path.is_file():
        raise WeightsError("there is no such file", path=path)
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise WeightsError(f"{size:,} bytes are no weights of a known network", path=path)
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}", path=path) from error
    if spec is not None:
        _check_digest(path, spec, hashlib.sha256(content).hexdigest())
    return content


def load_checkpoint(path: Path, content: bytes | None = None) -> Checkpoint:
    """Read a checkpoint without running anything that it contains.

    ``.safetensors`` files are read as such, all others as PyTorch checkpoints restricted to
    plain tensors. A state dict inside a training checkpoint ("state_dict" or "model") is
    found, and the "module." that DataParallel puts before every name is taken off. The input
    size is what a training checkpoint, or the metadata of a safetensors file, has under
    "input_side_px".

    Args:
        path: The file.
        content: What :func:`read_once` returned of it, or None to read it here.

    Raises:
        WeightsError: The file is missing, damaged, not a checkpoint, holds Python objects
            other than plain tensors of numbers, or has a NaN or an infinity in it.
    """
    if content is None:
        content = read_once(path)
    import torch

    held: object
    facts: object
    if path.suffix.lower() == ".safetensors":
        held, facts = _read_safetensors(path, content)
    else:
        facts = held = _read_pickle(path, content)
    for wrapper in ("state_dict", "model"):
        if isinstance(held, Mapping) and isinstance(held.get(wrapper), Mapping):
            held = held[wrapper]
            break
    if (
        not isinstance(held, Mapping)
        or not held
        or not all(isinstance(name, str) for name in held)
        or not all(isinstance(tensor, torch.Tensor) for tensor in held.values())
    ):
        raise WeightsError("holds no state dict (names to tensors)", path=path)
    prefix = "module." if all(name.startswith("module.") for name in held) else ""
    state_dict = {name.removeprefix(prefix): t.detach() for name, t in held.items()}
    for name, tensor in state_dict.items():
        if not _is_plain(tensor):
            raise WeightsError(f"{name} is no plain tensor of numbers", path=path)
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{name} holds a NaN or an infinity", path=path)
    return Checkpoint(state_dict, _input_side_px(facts, path))


def read_arrays(
    path: Path, content: bytes | None = None
) -> tuple[dict[str, NDArray[Any]], int | None]:
    """Return a checkpoint's parameters without PyTorch in this process, and the size of training.

    Args:
        path: The file.
        content: What :func:`read_once` returned of it, or None to read it here.

    Raises:
        WeightsError: It cannot be read so: :func:`load_checkpoint` can, or says what is wrong.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if content is None:
        content = read_once(path)
    try:
        if path.suffix.lower() != ".safetensors":
            content = _without_pickle(path, content)
        arrays = load(content)
        facts = _metadata(content)
    # TypeError and AttributeError are for numbers that NumPy has not.
    except (SafetensorError, OSError, TypeError, AttributeError, KeyError) as error:
        raise WeightsError(f"cannot be read into arrays: {error}", path=path) from error
    # With ml_dtypes installed bfloat16 comes as a type of that, which nothing else computes with.
    if any(array.dtype.kind not in "fiu" for array in arrays.values()):
        raise WeightsError("has numbers in it that NumPy has not", path=path)
    return arrays, _input_side_px(facts, path)


def _metadata(content: bytes) -> object:
    """Return what the header of a safetensors file, known to be one, says beside its tensors."""
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    return json.loads(header).get("__metadata__")


def _without_pickle(path: Path, content: bytes) -> bytes:
    """Return a PyTorch checkpoint as safetensors: as kept from the last time, or read anew.

    Reading it takes PyTorch, and two seconds that every job with such weights would wait.
    """
    place = shelf("converted", ".safetensors", _CONVERTED_KEPT, _MOST_BYTES)
    if place is None:
        return _unpickled(path, content)
    # Another version may read the same otherwise.
    origin = hashlib.sha256(__version__.encode() + b" " + content).hexdigest()
    converted = place.find(origin)
    if converted is None:
        converted = _unpickled(path, content)
        place.keep(origin, converted)
    return converted


def _unpickled(path: Path, content: bytes) -> bytes:
    """Return a PyTorch checkpoint as safetensors, read by another process."""
    # -P: a folder of the user's that holds a "vidbg" is not to be run.
    command = [sys.executable, "-P", "-m", "vidbg.matting.unpickle", str(path.absolute())]
    if not sys.executable:
        raise WeightsError("cannot be read by another process", path=path)
    try:
        done = subprocess.run(  # noqa: S603 - argv list, no shell
            command,
            input=content,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_UNPICKLE_S,
            check=True,
        )
    except subprocess.SubprocessError as error:
        raise WeightsError("cannot be read by another process", path=path) from error
    return done.stdout


def _input_side_px(facts: object, path: Path) -> int | None:
    """Return the size that a file says its network was trained on, if it says."""
    stated = facts.get("input_side_px") if isinstance(facts, Mapping) else None
    if stated is None:
        return None
    # Safetensors keeps its metadata as text.
    text = str(stated) if isinstance(stated, int | str) else ""
    side_px = int(text) if re.fullmatch("[0-9]{1,6}", text) else 0
    if side_px not in _SIDES_PX:
        raise WeightsError(
            f"says that it was trained at input_side_px {ascii(stated)[:40]}: "
            f"expected {_SIDES_PX[0]} to {_SIDES_PX[-1]}",
            path=path,
        )
    return side_px


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is an array of real numbers, all of which the file really holds.

    A few bytes can claim to be a view of terabytes, which the first operation would allocate.
    """
    import torch

    if tensor.layout != torch.strided or tensor.is_nested or tensor.device.type != "cpu":
        return False
    dtype = tensor.dtype
    is_usual = dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    is_number = is_usual or dtype in (torch.int64, torch.int32, torch.int16, torch.int8)
    return is_number and tensor.nbytes <= tensor.untyped_storage().nbytes()


def _read_safetensors(path: Path, content: bytes) -> tuple[dict[str, Tensor], object]:
    """Return the tensors of a file, and its metadata."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content), _metadata(content)
    except (SafetensorError, KeyError) as error:  # the latter for numbers that PyTorch has not
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"is not a safetensors file: {reason}", path=path) from error


def _read_pickle(path: Path, content: bytes) -> object:
    import torch

    try:
        if _unpacked_bytes(content) > len(content):
            raise WeightsError(
                "is compressed, as checkpoints are not: what it unpacks to may not fit in memory",
                path=path,
            )
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:
        # Any exception: what a damaged pickle raises depends on the byte that is wrong.
        raise WeightsError(
            "is not a checkpoint of plain tensors: damaged, another format, or with Python "
            "objects in it, which are not loaded because that could run code",
            path=path,
        ) from error


def _unpacked_bytes(content: bytes) -> int:
    """Bytes that the records of a checkpoint come to; 0 for the format without a zip archive."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return 0
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return sum(record.file_size for record in archive.infolist())
