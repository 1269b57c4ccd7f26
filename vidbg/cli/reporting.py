"""What a running job tells the user: a bar, plain lines, or JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from vidbg.cli.profiling import Told
    from vidbg.frames import VideoInfo
    from vidbg.job import Job, Progress, Result

_LINE_EVERY_S = 10.0
_JSON_EVERY_S = 0.5


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        label = {logging.INFO: "", logging.DEBUG: "debug: "}.get(
            record.levelno, f"{record.levelname.lower()}: "
        )
        return label + super().format(record)


def clock(seconds: float) -> str:
    """Return a time as m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _fps(so_far: Progress | Result) -> float:
    return (so_far.frames - so_far.earlier_frames) / so_far.seconds if so_far.seconds else 0.0


@contextmanager
def logging_to_stderr(level: int) -> Iterator[logging.Logger]:
    """Show what the package logs on standard error, from ``level`` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format())
    log = logging.getLogger("vidbg")
    before = log.level
    log.setLevel(level)
    log.addHandler(handler)
    try:
        yield log
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


class Reporter:
    """Shows one job. Results go to standard output, everything else to standard error.

    Args:
        job: The job.
        as_json: One JSON object a line on standard output.
        quiet: Nothing but errors.
        verbose: Debugging messages too.
    """

    def __init__(self, job: Job, *, as_json: bool, quiet: bool, verbose: bool) -> None:
        self._job = job
        self._as_json = as_json
        self._quiet = quiet
        self._level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
        self._bar: Any = None
        self._last_s = time.monotonic()
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        log = self._cleanup.enter_context(logging_to_stderr(self._level))
        if self._shows_bar():
            from tqdm.contrib.logging import logging_redirect_tqdm

            self._cleanup.enter_context(logging_redirect_tqdm([log]))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        self._cleanup.close()

    def _shows_bar(self) -> bool:
        if self._quiet or self._as_json or sys.stderr is None:
            return False
        return sys.stderr.isatty()

    def download(self, had: int, total: int) -> None:
        """Show how far the download of a network's weights is."""
        if self._as_json:
            if self._is_due(_JSON_EVERY_S) or had == total:
                self._emit("download", bytes=had, total_bytes=total)
        elif self._shows_bar():
            from tqdm import tqdm

            if self._bar is None:
                self._bar = tqdm(
                    total=total, unit="B", unit_scale=True, dynamic_ncols=True, desc="weights"
                )
            self._bar.update(had - self._bar.n)
        elif not self._quiet and self._is_due(_LINE_EVERY_S):
            click.echo(f"weights: {had / 1e6:.1f} of {total / 1e6:.1f} MB", err=True)

    def _is_due(self, every_s: float) -> bool:
        now = time.monotonic()
        if now - self._last_s < every_s:
            return False
        self._last_s = now
        return True

    def start(self, info: VideoInfo, total: int | None) -> None:
        """Say what the job works on."""
        if self._bar is not None:  # of a download
            self._bar.close()
            self._bar = None
        if self._as_json:
            self._emit(
                "start",
                input=str(info.path),
                output=str(self._job.output.path),
                width=info.width,
                height=info.height,
                frame_rate=str(info.frame_rate),
                frames=total,
            )
        elif self._shows_bar():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                unit="frame",
                dynamic_ncols=True,
                smoothing=0.1,
                bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} frames{postfix}, "
                "{remaining} left"
                if total
                else "{n_fmt} frames{postfix}",
            )

    def progress(self, progress: Progress) -> None:
        """Show how far the job is."""
        if self._bar is not None:
            if progress.earlier_frames > self._bar.n:  # not made in this run's time
                self._bar.initial = self._bar.n = self._bar.last_print_n = progress.earlier_frames
            shown = f"{clock(progress.media_s)} of video, {_fps(progress):.1f} fps"
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(progress.frames - self._bar.n)
            return
        if self._quiet and not self._as_json:
            return
        if not self._is_due(_JSON_EVERY_S if self._as_json else _LINE_EVERY_S):
            return
        fps = _fps(progress)
        left_s = None
        if progress.total_frames is not None and fps:
            left_s = max(0.0, (progress.total_frames - progress.frames) / fps)
        if self._as_json:
            self._emit(
                "progress",
                frames=progress.frames,
                total_frames=progress.total_frames,
                media_seconds=round(progress.media_s, 3),
                fps=round(fps, 2),
                eta_seconds=None if left_s is None else round(left_s, 1),
            )
            return
        total = "" if progress.total_frames is None else f"/{progress.total_frames}"
        eta = "" if left_s is None else f", {clock(left_s)} left"
        click.echo(
            f"{progress.frames}{total} frames, {clock(progress.media_s)} of video, "
            f"{fps:.1f} fps{eta}",
            err=True,
        )

    def pictures(self, count: int, total: int) -> None:
        """Show how many of a folder's pictures are done."""
        if self._shows_bar():
            from tqdm import tqdm

            if self._bar is None or self._bar.unit != "picture":
                if self._bar is not None:  # of a download
                    self._bar.close()
                self._bar = tqdm(total=total, unit="picture", dynamic_ncols=True)
            self._bar.update(count - self._bar.n)
        elif not self._quiet and self._is_due(_LINE_EVERY_S):
            click.echo(f"{count}/{total} pictures", err=True)

    def done(self, result: Result, profile: Told | None = None) -> None:
        """Say what was made, the paths on standard output; and where the time went, if asked."""
        if self._bar is not None:
            self._bar.close()
        fps = _fps(result)
        if self._as_json:
            self._emit(
                "done",
                output=str(result.output),
                also=[str(path) for path in result.also],
                frames=result.frames,
                earlier_frames=result.earlier_frames,
                frame_rate=str(result.frame_rate),
                seconds=round(result.seconds, 3),
                fps=round(fps, 2),
                lost_frames=result.lost_frames,
                **({} if profile is None else {"profile": profile.fields}),
            )
            return
        if not self._quiet:
            frames = "1 frame" if result.frames == 1 else f"{result.frames} frames"
            click.echo(f"{frames} in {clock(result.seconds)} ({fps:.1f} fps)", err=True)
            for path in (result.output, *result.also):
                click.echo(os.fsencode(path))
        if profile is not None:
            click.echo("\n".join(profile.lines), err=True)

    def _emit(self, event: str, **fields: object) -> None:
        click.echo(json.dumps({"event": event, **fields}))
