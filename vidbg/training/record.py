"""What a training leaves for people to read: a table of its steps, and curves."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from vidbg.errors import OutputError, VidbgError
from vidbg.training.loop import Step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG = "log.csv"
CURVES = "curves.png"

_COLUMNS = tuple(field.name for field in fields(Step))
_OPTIONAL = ("validation_iou", "empty_alpha")
_SMOOTHED_STEPS = 50


class Log:
    """A CSV file with a line for every step, columns as :class:`~vidbg.training.loop.Step`.

    Opened again, it drops the lines after the step that the training goes on from. Every line
    is in the file when :meth:`add` returns.

    Args:
        folder: Where ``log.csv`` lies or comes to lie.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, step: Step) -> None:
        """Write one line.

        Raises:
            OutputError: The file cannot be written.
        """
        try:
            if self._file is None:
                self._file = self._reopened(step.step)
            row = {name: _cell(getattr(step, name)) for name in _COLUMNS}
            csv.DictWriter(self._file, _COLUMNS).writerow(row)
            self._file.flush()
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"cannot be written: {reason}", path=self._path) from error

    def _reopened(self, next_step: int) -> TextIO:
        """Return the file open at its end, with the lines of the steps before ``next_step``."""
        kept = [row for row in read(self._path.parent) if int(row["step"]) < next_step]
        part = self._path.with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(kept)
        part.replace(self._path)
        return self._path.open("a", newline="", encoding="utf-8")


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return "x".join(str(side) for side in value)
    return value


def read(folder: Path) -> list[dict[str, str]]:
    """Return the lines of a folder's log, without what was cut off in writing."""
    try:
        with (folder / LOG).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        return []
    return [row for row in rows if _is_whole(row)]


def _is_whole(row: dict[str, str]) -> bool:
    """Whether a line has all of its cells, and numbers where the curves need them."""
    if set(row) != set(_COLUMNS) or None in row.values() or not row["step"].isdecimal():
        return False
    try:
        for name in _COLUMNS:
            if name not in _OPTIONAL and name != "size_px":
                float(row[name])
    except ValueError:
        return False
    return True


def best_iou(folder: Path) -> float | None:
    """Return the best validation IoU in a folder's log, None if none was measured."""
    measured = [float(row["validation_iou"]) for row in read(folder) if row["validation_iou"]]
    return max(measured, default=None)


def require_curves() -> None:
    """Check that :func:`draw` can draw.

    Raises:
        VidbgError: matplotlib is not installed.
    """
    _figure()


def _figure() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise VidbgError(
            "training draws its curves with matplotlib", hint='pip install "vidbg[train]"'
        ) from error
    return Figure


def draw(folder: Path) -> Path | None:
    """Draw the log as ``curves.png``: losses, learning rate, validation. None without a log.

    Raises:
        VidbgError: matplotlib is not installed.
        OutputError: The picture cannot be written.
    """
    rows = read(folder)
    if not rows:
        return None
    figure = _figure()(figsize=(10, 8), layout="constrained")
    losses, rates, validation = figure.subplots(3, 1, sharex=True)
    pictures = [int(row["pictures"]) for row in rows]
    for name in ("cross_entropy", "overlap", "edge", "consistency"):
        values = _running_mean([float(row[name]) for row in rows])
        losses.plot(pictures, values, label=name.replace("_", " "))
    losses.set_yscale("log")
    losses.set_ylabel(f"loss, mean of {_SMOOTHED_STEPS} steps")
    losses.legend()
    rates.plot(pictures, [float(row["learning_rate"]) for row in rows], color="tab:grey")
    rates.set_ylabel("learning rate")
    measured = [row for row in rows if row["validation_iou"]]
    if measured:
        shown = [int(row["pictures"]) for row in measured]
        validation.plot(shown, [float(row["validation_iou"]) for row in measured], marker=".")
    validation.set_ylabel("validation IoU")
    validation.set_xlabel("pictures shown")
    path = folder / CURVES
    part = path.with_name(f"{CURVES}.part")
    try:
        figure.savefig(part, format="png", dpi=100)
        part.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot be written: {reason}", path=path) from error
    return path


def _running_mean(values: Sequence[float]) -> list[float]:
    means: list[float] = []
    total = 0.0
    for number, value in enumerate(values):
        total += value
        if number >= _SMOOTHED_STEPS:
            total -= values[number - _SMOOTHED_STEPS]
        means.append(total / min(number + 1, _SMOOTHED_STEPS))
    return means
