"""The entry point: which command, what is printed, which exit code."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from vidbg.errors import VidbgError

# A first word that is one of these is the command; a file of that name is written "./probe".
COMMANDS = {
    "models": "vidbg.cli.models:models",
    "probe": "vidbg.cli.probe:show",
}
_DEFAULT = "vidbg.cli.run:run"

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 the job failed, 2 wrong usage, 130 interrupted.

    Args:
        argv: Arguments without the program's name; None for the process's own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.exit(_dispatch(arguments))


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments and arguments[0] in COMMANDS else None
    module_name, _, attribute = COMMANDS.get(name or "", _DEFAULT).partition(":")
    command: click.Command = getattr(importlib.import_module(module_name), attribute)
    _unwind_on_signals()
    debug, as_json = "--debug" in arguments, "--json" in arguments
    try:
        result = command.main(
            args=arguments[1:] if name else arguments,
            prog_name=f"vidbg {name}" if name else "vidbg",
            standalone_mode=False,
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("vidbg: interrupted, nothing was written", err=True)
        return EXIT_INTERRUPTED
    except VidbgError as error:
        if debug:
            raise
        return _report(error, as_json)
    except MemoryError as error:
        if debug:
            raise
        return _report(VidbgError("out of memory", hint="Try --batch-size 1"), as_json, error)
    except Exception as error:
        if debug:
            raise
        unexpected = VidbgError(
            f"unexpected {type(error).__name__}: {error}", hint="Run with --debug for details"
        )
        return _report(unexpected, as_json, error)
    return result if isinstance(result, int) else 0


def _report(error: VidbgError, as_json: bool, cause: BaseException | None = None) -> int:
    """Say in one line what failed; as a JSON event too where that was asked for."""
    if as_json:
        event = {
            "event": "error",
            "message": error.message,
            "path": None if error.path is None else str(error.path),
            "hint": error.hint,
            "type": type(cause or error).__name__,
        }
        click.echo(json.dumps(event))
    click.echo(" ".join(f"vidbg: {error}".split()), err=True)
    return EXIT_FAILED


def _unwind_on_signals() -> None:
    """Let SIGTERM and SIGHUP end a job as Ctrl-C does: processes ended, part files removed."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
