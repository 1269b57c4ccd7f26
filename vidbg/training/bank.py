"""All training pictures in one array, as a device can hold it whole.

Every picture is squeezed to one square and kept as bytes beside its labels, so that a batch is
one indexing operation wherever the array lies: in a GPU's memory, or mapped from a file. The
picture's own aspect ratio is kept as a number and restored when it is cropped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor

from vidbg.errors import InputError, OutputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidbg.training.datasets import Dataset, Example

    Teacher = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

logger = logging.getLogger(__name__)

SIDE_PX = 320
"""Side of the stored squares, the size at which U-2-Nets are used."""

KINDS = ("pair", "photo", "cutout", "background")

# Red, green, blue, the true alpha, the teacher's alpha.
_PLANES = 5

_VALIDATION_PERIOD = 20
_VALIDATION_REMAINDERS = (0, 1)


@dataclass(frozen=True, slots=True)
class Bank:
    """Training pictures with labels.

    Attributes:
        records: uint8 (N, 5, SIDE_PX, SIDE_PX): R'G'B', true alpha, the teacher's alpha.
            Planes that a picture does not have are zero. Cut-outs are straight.
        kind: int64 (N,), index into :data:`KINDS`.
        aspect: float32 (N,), width over height of the picture before it was squeezed.
        has_soft: bool (N,), whether the teacher's alpha is there.
        is_validation: bool (N,), whether training leaves it out.
        names: N names, "dataset/stem".
        identity: Digest of what it was made of.
    """

    records: Tensor
    kind: Tensor
    aspect: Tensor
    has_soft: Tensor
    is_validation: Tensor
    names: tuple[str, ...]
    identity: str

    def select(self, kind: str, *, validation: bool = False) -> Tensor:
        """Return the indices of one kind of training (or validation) pictures, int64 (M,)."""
        chosen = (self.kind == KINDS.index(kind)) & (self.is_validation == validation)
        return torch.nonzero(chosen)[:, 0]

    def to(self, device: torch.device) -> Bank:
        """Return the bank with its records in a GPU's memory if it has room for them.

        Otherwise batches travel one by one, which :meth:`take` does by itself.
        """
        if device.type != "cuda":
            return self
        free, _ = torch.cuda.mem_get_info(device)
        if self.records.nbytes > free // 2:
            logger.info("the pictures (%.1f GB) stay in main memory", self.records.nbytes / 1e9)
            return self
        return replace(self, records=self.records.to(device))

    def take(self, indices: Tensor, device: torch.device) -> Tensor:
        """Return records as float32 (B, 5, SIDE_PX, SIDE_PX) in 0..1 on ``device``."""
        chosen = self.records[indices.to(self.records.device)]
        return chosen.to(device, non_blocking=True).float().div_(255.0)


def split_key(dataset: str, name: str) -> str:
    """Return what decides on which side of the split an example is.

    The data set's own folder and the picture's name, wherever they lie. Frames of one clip,
    which hardly differ, share one key: pictures in a folder of their own that are called by
    bare numbers.

    Args:
        dataset: The data set's name.
        name: The example's, which begins with the data set's.
    """
    stem = name.removeprefix(f"{dataset}/")
    folder, _, last = stem.rpartition("/")
    scene = folder if folder and last.isdecimal() else stem
    return f"{dataset.rpartition('/')[2]}/{scene}"


def is_validation(key: str) -> bool:
    """Whether an example is for validation: one in ten, by SHA-256 of its :func:`split_key`.

    The same on every machine and in every run, so that a training that is taken up again,
    or continued with more data, is not measured on what it has seen.
    """
    remainder = int(hashlib.sha256(key.encode()).hexdigest(), 16) % _VALIDATION_PERIOD
    return remainder in _VALIDATION_REMAINDERS


def build(
    datasets: Iterable[Dataset],
    folder: Path,
    teacher: Teacher | None = None,
    teacher_id: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Bank:
    """Return the bank of some datasets, made in ``folder`` or found there from an earlier run.

    Args:
        datasets: What to read.
        folder: Where ``bank.bin`` (about 0.5 MB a picture) and ``bank.json`` lie.
        teacher: Maps a picture, uint8 (h, w, 3), to its matte, float (h', w') in 0..1 of any
            size. Asked for every pair and photo, once.
        teacher_id: What tells one teacher from another, such as the digest of its weights.
        progress: Called with the pictures read and those expected in all.

    Raises:
        InputError: The datasets hold nothing that can be learnt from, or cannot be read.
        OutputError: The folder cannot be written.
    """
    datasets = list(datasets)
    content = [[d.name, d.kind, d.count, d.identity] for d in datasets]
    origin = {"side_px": SIDE_PX, "teacher": teacher_id, "datasets": content}
    index, data = folder / "bank.json", folder / "bank.bin"
    made = _read_index(index, data, origin)
    if made is None:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            index.unlink(missing_ok=True)
        entries = _write(data, datasets, teacher, progress)
        document = {"origin": origin, "entries": [asdict(entry) for entry in entries]}
        part = index.with_suffix(".part")
        with _writing(index):
            part.write_text(json.dumps(document), encoding="utf-8")
            part.replace(index)
    else:
        entries = made
    identity = hashlib.sha256(json.dumps(origin).encode()).hexdigest()
    return _open(entries, data, identity)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the index says of one record."""

    name: str
    kind: str
    aspect: float
    has_soft: bool
    is_validation: bool


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot be written: {reason}", path=path) from error


def _read_index(index: Path, data: Path, origin: dict[str, object]) -> list[_Entry] | None:
    """Return the records of a bank that was made of the same, or None."""
    try:
        document = json.loads(index.read_text(encoding="utf-8"))
        entries = [_Entry(**entry) for entry in document["entries"]]
        is_whole = data.stat().st_size == len(entries) * _PLANES * SIDE_PX**2
        is_same = document["origin"] == origin
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return entries if is_whole and is_same else None


def _write(
    path: Path,
    datasets: list[Dataset],
    teacher: Teacher | None,
    progress: Callable[[int, int], None] | None,
) -> list[_Entry]:
    """Write a record for every example, under another name until all are there."""
    entries: list[_Entry] = []
    total = sum(dataset.count for dataset in datasets)
    done = 0
    part = path.with_suffix(".part")
    with _writing(part):
        file = part.open("wb")
    try:
        with file:
            for dataset in datasets:
                for example in dataset.examples():
                    if progress is not None:
                        progress(done, total)
                    done += 1
                    is_photo = example.kind == "photo"
                    if is_photo and teacher is None:
                        continue
                    needs_soft = teacher is not None and (is_photo or example.kind == "pair")
                    soft = teacher(example.rgb) if teacher is not None and needs_soft else None
                    with _writing(part):
                        file.write(_record(example, soft).tobytes())
                    height, width = example.rgb.shape[:2]
                    key = split_key(dataset.name, example.name)
                    entries.append(
                        _Entry(
                            example.name,
                            example.kind,
                            width / height,
                            needs_soft,
                            is_validation(key),
                        )
                    )
            with _writing(part):
                file.flush()
        with _writing(path):
            part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if progress is not None:
        progress(total, total)
    return entries


def _record(example: Example, soft: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    record = np.zeros((_PLANES, SIDE_PX, SIDE_PX), np.uint8)
    record[:3] = _squeeze(example.rgb).transpose(2, 0, 1)
    if example.alpha is not None:
        record[3] = _squeeze(example.alpha)
    if soft is not None:
        record[4] = np.rint(np.clip(_squeeze(soft), 0.0, 1.0) * 255.0).astype(np.uint8)
    return record


def _squeeze(picture: NDArray[Any]) -> NDArray[Any]:
    """Resize to the stored square, averaging where it shrinks."""
    size = (SIDE_PX, SIDE_PX)
    shrinks = picture.shape[0] > SIDE_PX or picture.shape[1] > SIDE_PX
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(picture, size, interpolation=method)


def _open(entries: list[_Entry], data: Path, identity: str) -> Bank:
    trained = {entry.kind for entry in entries if not entry.is_validation}
    if not trained & {"pair", "photo", "cutout"}:
        raise InputError(
            "there is nothing to learn from",
            hint="Give pictures with masks, cut-outs, or photos and a --teacher",
        )
    shape = (len(entries), _PLANES, SIDE_PX, SIDE_PX)
    # Written to by nobody, but torch warns of arrays that are not writable.
    mapped = np.memmap(data, np.uint8, mode="c", shape=shape)
    return Bank(
        records=torch.from_numpy(mapped),
        kind=torch.tensor([KINDS.index(entry.kind) for entry in entries], dtype=torch.int64),
        aspect=torch.tensor([entry.aspect for entry in entries], dtype=torch.float32),
        has_soft=torch.tensor([entry.has_soft for entry in entries], dtype=torch.bool),
        is_validation=torch.tensor([entry.is_validation for entry in entries], dtype=torch.bool),
        names=tuple(entry.name for entry in entries),
        identity=identity,
    )
