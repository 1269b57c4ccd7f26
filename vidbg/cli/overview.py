"""What a batch tells the user: bars, plain lines or JSON while it runs, and a table at its end."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from vidbg.cli.dispatch import printable
from vidbg.cli.reporting import _fps, clock, logging_to_stderr

if TYPE_CHECKING:
    from vidbg.batch import Event, Outcome
    from vidbg.cli.profiling import Told
    from vidbg.job import Progress

_LINE_EVERY_S = 10.0
_JSON_EVERY_S = 0.5
_HEADINGS = ("clip", "frames", "seconds", "fps", "result")
_WORDS = {
    "done": "done",
    "skipped": "finished before",
    "failed": "failed",
    "interrupted": "interrupted",
}


class Overview:
    """Shows a batch. Results go to standard output, everything else to standard error.

    Args:
        as_json: One JSON object a line on standard output.
        quiet: Nothing but errors.
        verbose: Debugging messages too.
    """

    def __init__(self, *, as_json: bool, quiet: bool, verbose: bool) -> None:
        self._as_json = as_json
        self._quiet = quiet
        self._level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
        self._clips = 0
        self._outcomes: list[Outcome] = []
        self._began_s = time.monotonic()
        self._said_s: dict[Path | None, float] = {}
        self._shares: dict[Path, float] = {}  # of the clips that run, how much is done
        self._bars: dict[Path, Any] = {}
        self._overall: Any = None
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        log = self._cleanup.enter_context(logging_to_stderr(self._level))
        is_terminal = sys.stderr is not None and sys.stderr.isatty()
        if is_terminal and not (self._quiet or self._as_json):
            from tqdm import tqdm
            from tqdm.contrib.logging import logging_redirect_tqdm

            self._cleanup.enter_context(logging_redirect_tqdm([log]))
            self._overall = tqdm(
                total=1,
                position=0,
                leave=False,
                dynamic_ncols=True,
                bar_format="all  {percentage:3.0f}% |{bar}| {postfix[0]}, {remaining} left",
                postfix=[""],
            )
            self._draw_overall()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close_bars()
        self._cleanup.close()

    @property
    def has_failures(self) -> bool:
        """Whether a clip has failed."""
        return any(outcome.state == "failed" for outcome in self._outcomes)

    @property
    def was_cut_short(self) -> bool:
        """Whether a clip was interrupted."""
        return any(outcome.state == "interrupted" for outcome in self._outcomes)

    def expect(self, clips: int) -> None:
        """Take note that so many more clips have come up."""
        self._clips += clips
        self._draw_overall()

    def say(self, message: str) -> None:
        """Say something that is no event of a clip."""
        if not (self._quiet or self._as_json):
            with self._above_bars(sys.stderr):
                click.echo(printable(message), err=True)

    def show(self, event: Event) -> None:
        """Show what has happened."""
        from vidbg.batch import Advanced, Downloading, Outcome, Started

        if isinstance(event, Started):
            self._start(event.source, event.output, event.info.frame_rate, event.total)
            if self._as_json:
                info = event.info
                self._emit(
                    "start",
                    event.source,
                    input=str(event.source),
                    output=str(event.output),
                    width=info.width,
                    height=info.height,
                    frame_rate=str(info.frame_rate),
                    frames=event.total,
                )
        elif isinstance(event, Advanced):
            self._advance(event.source, event.progress)
        elif isinstance(event, Outcome):
            self._end(event)
        elif isinstance(event, Downloading):
            self._download(event.had, event.total)

    def _start(self, source: Path, output: Path, frame_rate: object, total: int | None) -> None:
        self._shares[source] = 0.0
        self._said_s[source] = time.monotonic()
        if self._overall is None:
            self.say(f"{source}: begins")
            return
        from tqdm import tqdm

        taken = {bar.pos for bar in self._bars.values()}
        self._bars[source] = tqdm(
            total=total,
            position=next(n for n in range(1, len(taken) + 2) if -n not in taken),
            leave=False,
            unit="frame",
            dynamic_ncols=True,
            smoothing=0.1,
            desc=_cut(printable(source.name), 24),
            bar_format="{desc:24} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}, "
            "{remaining} left"
            if total
            else "{desc:24} {n_fmt} frames{postfix}",
        )

    def _advance(self, source: Path, progress: Progress) -> None:
        total = progress.total_frames
        self._shares[source] = min(1.0, progress.frames / total) if total else 0.0
        fps = _fps(progress)
        bar = self._bars.get(source)
        if bar is not None:
            bar.set_postfix_str(f"{fps:.1f} fps", refresh=False)
            bar.update(progress.frames - bar.n)
            self._draw_overall()
        if self._as_json and self._is_due(source, _JSON_EVERY_S):
            left_s = max(0.0, (total - progress.frames) / fps) if total and fps else None
            self._emit(
                "progress",
                source,
                frames=progress.frames,
                total_frames=total,
                media_seconds=round(progress.media_s, 3),
                fps=round(fps, 2),
                eta_seconds=None if left_s is None else round(left_s, 1),
            )
        elif bar is None and not self._quiet and self._is_due(source, _LINE_EVERY_S):
            of_all = "" if total is None else f"/{total}"
            self.say(f"{source}: {progress.frames}{of_all} frames, {fps:.1f} fps")

    def _end(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._shares.pop(outcome.source, None)
        bar = self._bars.pop(outcome.source, None)
        if bar is not None:
            bar.close()
        self._draw_overall()
        if self._as_json:
            self._emit_outcome(outcome)
            return
        count = f"[{len(self._outcomes)}/{self._clips}]"
        if outcome.state == "failed":
            with self._above_bars(sys.stderr):  # even in quiet
                click.echo(printable(f"{count} {_failure(outcome)}"), err=True)
        elif outcome.state == "done":
            fps = _speed(outcome)
            self.say(
                f"{count} {outcome.source}: {outcome.frames} frames in "
                f"{clock(outcome.seconds)} ({fps:.1f} fps)"
            )
            if not self._quiet and outcome.output is not None:
                with self._above_bars(sys.stdout):
                    for path in (outcome.output, *outcome.also):
                        click.echo(os.fsencode(path))
        else:
            self.say(f"{count} {outcome.source}: {_WORDS[outcome.state]}")

    def _emit_outcome(self, outcome: Outcome) -> None:
        if outcome.state == "done":
            self._emit("done", outcome.source, **_figures(outcome), lost_frames=outcome.lost_frames)
        elif outcome.error is not None:
            error = outcome.error
            self._emit(
                "error",
                outcome.source,
                message=error.message,
                path=None if error.path is None else str(error.path),
                hint=error.hint,
                type=type(error).__name__,
            )
        else:
            self._emit(outcome.state, outcome.source, **_figures(outcome))

    def _download(self, had: int, total: int) -> None:
        if self._as_json:
            if had == total or self._is_due(None, _JSON_EVERY_S):
                click.echo(json.dumps({"event": "download", "bytes": had, "total_bytes": total}))
        elif self._is_due(None, _LINE_EVERY_S):
            self.say(f"weights: {had / 1e6:.1f} of {total / 1e6:.1f} MB")

    def finish(self, *, is_interrupted: bool, profile: Told | None = None) -> None:
        """Say what became of all clips: a table, those that failed last, with their causes.

        Args:
            is_interrupted: Ctrl-C ended it.
            profile: Where the time went, if that was asked for.
        """
        self._close_bars()
        if self._as_json:
            self._emit_summary(is_interrupted, profile)
            return
        self._sum_up(is_interrupted)
        if profile is not None:
            click.echo("\n".join(profile.lines), err=True)

    def _sum_up(self, is_interrupted: bool) -> None:
        if self._quiet:
            return
        seconds = clock(time.monotonic() - self._began_s)
        states = [outcome.state for outcome in self._outcomes]
        if states and set(states) == {"skipped"}:
            self.say(
                f"nothing to do: {_clips(len(states))} finished before; --force does them again"
            )
            return
        for line in table(self._outcomes):
            click.echo(line, err=True)
        counts = [f"{states.count(state)} {_WORDS[state]}" for state in _WORDS if state in states]
        waiting = self._clips - len(states)
        if waiting:
            counts.append(f"{waiting} not begun")
        click.echo(f"{', '.join(counts) or 'no clip'}, in {seconds}", err=True)
        if is_interrupted and (waiting or self.was_cut_short):
            click.echo("The same command goes on from here.", err=True)
        for outcome in _failures_last(self._outcomes):
            if outcome.state == "failed":
                click.echo(printable(_failure(outcome)), err=True)

    def _emit_summary(self, is_interrupted: bool, profile: Told | None) -> None:
        states = [outcome.state for outcome in self._outcomes]
        event = {
            "event": "summary",
            "seconds": round(time.monotonic() - self._began_s, 3),
            **{state: states.count(state) for state in _WORDS},
            "not_begun": self._clips - len(states),
            "was_interrupted": is_interrupted,
            "clips": [
                {
                    "clip": str(outcome.source),
                    "result": outcome.state,
                    **_figures(outcome),
                    "message": None if outcome.error is None else str(outcome.error),
                }
                for outcome in _failures_last(self._outcomes)
            ],
            **({} if profile is None else {"profile": profile.fields}),
        }
        click.echo(json.dumps(event))

    def _emit(self, event: str, clip: Path, **fields: object) -> None:
        click.echo(json.dumps({"event": event, "clip": str(clip), **fields}))

    def _is_due(self, what: Path | None, every_s: float) -> bool:
        now_s = time.monotonic()
        if now_s - self._said_s.get(what, -every_s) < every_s:
            return False
        self._said_s[what] = now_s
        return True

    def _draw_overall(self) -> None:
        if self._overall is None:
            return
        done = len(self._outcomes)
        shown = f"{done}/{self._clips} clips"
        is_new = self._overall.postfix[0] != shown
        self._overall.total = max(self._clips, 1)
        self._overall.postfix[0] = shown
        self._overall.update(done + sum(self._shares.values()) - self._overall.n)
        if is_new:  # else it draws itself often enough
            self._overall.refresh()

    def _close_bars(self) -> None:
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()
        if self._overall is not None:
            self._overall.close()
            self._overall = None

    def _above_bars(self, stream: Any) -> AbstractContextManager[object]:
        if self._overall is None:
            return nullcontext()
        return self._overall.external_write_mode(file=stream)  # type: ignore[no-any-return]


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Return lines of a table of what became of clips, those that failed last.

    Args:
        outcomes: Of all clips.
    """
    rows = [_HEADINGS]
    for outcome in _failures_last(outcomes):
        fps = _speed(outcome)
        was_run = outcome.state != "failed"
        rows.append(
            (
                printable(str(outcome.source)),
                str(outcome.frames) if was_run else "",
                f"{outcome.seconds:.1f}" if was_run else "",
                f"{fps:.1f}" if was_run else "",
                _WORDS[outcome.state],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  "
        f"{row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    ]


def _failures_last(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return outcomes in the order of the clips' names, those that failed last."""
    from vidbg.discover import natural_order

    return sorted(
        outcomes, key=lambda outcome: (outcome.state == "failed", natural_order(outcome.source))
    )


def _figures(outcome: Outcome) -> dict[str, object]:
    return {
        "output": None if outcome.output is None else str(outcome.output),
        "also": [str(path) for path in outcome.also],
        "frames": outcome.frames,
        "seconds": round(outcome.seconds, 3),
        "fps": round(_speed(outcome), 2),
    }


def _failure(outcome: Outcome) -> str:
    """Return the line that says why a clip failed, which names the clip."""
    told = str(outcome.error)
    return told if told.startswith(f"{outcome.source}: ") else f"{outcome.source}: {told}"


def _speed(outcome: Outcome) -> float:
    """Return how many frames a second this run made."""
    made = outcome.frames - outcome.earlier_frames
    return made / outcome.seconds if outcome.seconds else 0.0


def _clips(count: int) -> str:
    return "the one clip was" if count == 1 else f"all {count} clips were"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
