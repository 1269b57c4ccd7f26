"""Settings in a file: defaults for options under their command-line names, and for single clips."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any

import click

from vidbg.cli.parameters import FolderPath, Rate
from vidbg.errors import InputError
from vidbg.media.sequence import is_sequence

NAME = "vidbg.toml"
_CLIPS = "clips"

# Of each of these one is chosen: whoever chooses last undoes what others chose before.
_EXCLUSIVE = (("bg", "bg_dir", "alpha", "matte"), ("grow", "shrink"))
# Another network undoes what was said of the one before it.
_NETWORK, _OF_A_NETWORK = (
    ("model", "weights"),
    ("model", "weights", "key", "similarity", "smoothness"),
)
# Nor does it go with mattes that are ready.
_READY = "matte_in"
# Of the command line alone: what the file cannot know, and what a folder from elsewhere must not
# ask for, to replace files, to open the network or to read files that a file names.
_UNSETTABLE = frozenset(
    {
        *("sources", "config", "print_config", "as_json", "debug", "version", "help"),
        *("overwrite", "allow_url", "allow_playlists"),
    }
)
# Of a whole run, not of one clip.
_OF_A_RUN = frozenset(
    {"output", "bg_dir", "recursive", "jobs", "force", "watch", "profile", "quiet", "verbose"}
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What is set where. Values by the options' parameter names.

    Attributes:
        defaults: Of every option.
        file: What the file sets for all clips.
        clips: What it sets for clips by glob, in its order.
        given: What the command line sets.
        path: The file, or None.
    """

    defaults: Mapping[str, Any]
    file: Mapping[str, Any]
    clips: Sequence[tuple[str, Mapping[str, Any]]]
    given: Mapping[str, Any]
    path: Path | None

    def common(self) -> dict[str, Any]:
        """Return the value of every option for clips that have none of their own."""
        return {**self.defaults, **merged([self.file, self.given])}

    def of_clip(self, clip: PurePath) -> dict[str, Any]:
        """Return the value of every option for one clip.

        That is the command line's, or else that of the last glob, the file's or the default.

        Args:
            clip: The clip as seen from the INPUT it is in. A glob with a / matches all of that,
                one without matches the name; the case of letters does not matter.
        """
        own = [values for glob, values in self.clips if matches(clip, glob)]
        return {**self.defaults, **merged([self.file, *own, self.given])}


def matches(clip: PurePath, glob: str) -> bool:
    """Say whether a glob of the file means a clip."""
    name = clip.as_posix() if "/" in glob else clip.name
    return fnmatchcase(name.casefold(), glob.casefold())


def merged(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values of several layers, the last one's where they differ."""
    values: dict[str, Any] = {}
    for layer in layers:
        undone: list[tuple[str, ...]] = [
            group for group in _EXCLUSIVE if any(layer.get(name) for name in group)
        ]
        if any(layer.get(name) not in (None, values.get(name)) for name in _NETWORK):
            undone.append(_OF_A_NETWORK)
        if any(layer.get(name) is not None for name in _NETWORK):
            undone.append((_READY,))
        for group in undone:
            for name in group:
                values.pop(name, None)
        values.update(layer)
    return values


def settings_for(ctx: click.Context, inputs: Sequence[Path]) -> Settings:
    """Return the settings of a command line, and of the file that goes with it.

    That is --config, or else ``vidbg.toml`` in the one folder that is the INPUT.

    Args:
        ctx: The parsed command line.
        inputs: The INPUTs.

    Raises:
        InputError: The file cannot be read, or sets what cannot be set.
    """
    defaults = ctx.command.make_context(ctx.info_name, [], resilient_parsing=True).params
    given = {
        name: value
        for name, value in ctx.params.items()
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    path: Path | None = ctx.params["config"]
    if path is None and len(inputs) == 1 and (inputs[0] / NAME).is_file():
        path = inputs[0] / NAME
    if path is None:
        return Settings(defaults, {}, (), given, None)
    fields = _read(path)
    tables = fields.pop(_CLIPS, {})
    if not isinstance(tables, dict) or not all(isinstance(t, dict) for t in tables.values()):
        raise InputError(f'{_CLIPS}: expected tables like [{_CLIPS}."talk*.mp4"]', path=path)
    clips = [
        (glob, _values(ctx, path, table, f'{_CLIPS}."{glob}".')) for glob, table in tables.items()
    ]
    return Settings(defaults, _values(ctx, path, fields, ""), clips, given, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path=path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"is not TOML: {error}", path=path) from error


def _values(
    ctx: click.Context, path: Path, table: Mapping[str, Any], prefix: str
) -> dict[str, Any]:
    """Return a table's values by parameter name, checked as on the command line."""
    known = {_key(option): option for option in _settable(ctx.command)}
    if prefix:
        known = {key: option for key, option in known.items() if option.name not in _OF_A_RUN}
    values = {}
    for key, raw in table.items():
        option = known.get(key)
        if option is None or option.name is None:
            near = difflib.get_close_matches(key, known, 1)
            raise InputError(
                f"{prefix}{key}: no such setting{' here' if prefix else ''}",
                path=path,
                hint=f"Did you mean {near[0]}?" if near else None,
            )
        problem = _type_problem(option, raw)
        if problem is not None:
            raise InputError(f"{prefix}{key}: {problem}, not {_toml(raw)}", path=path)
        given = raw if option.is_flag else str(raw)
        if isinstance(option.type, click.Path):  # a separator at its end stays
            given = os.path.join(path.parent, str(raw))
        try:
            value = option.type_cast_value(ctx, given)
        except click.UsageError as error:
            raise InputError(f"{prefix}{key}: {error.message.rstrip('.')}", path=path) from error
        if option.name == "bg" and _is_there(path.parent / value):  # else a colour, or blur
            value = str(path.parent / value)
        values[option.name] = value
    for group in _EXCLUSIVE:
        chosen = [_shown(name) for name in group if values.get(name)]
        if len(chosen) > 1:
            raise InputError(f"{prefix}{chosen[0]}: goes not with {chosen[1]}", path=path)
    return values


def _type_problem(option: click.Option, raw: object) -> str | None:
    """Return what TOML type was expected, or None if it is that."""
    if option.is_flag:
        return None if isinstance(raw, bool) else "expected true or false"
    is_number = isinstance(raw, int | float) and not isinstance(raw, bool)
    if isinstance(option.type, click.types.IntParamType):
        is_whole = is_number and isinstance(raw, int)
        return None if is_whole else "expected a whole number"
    if isinstance(option.type, click.types.FloatParamType):
        return None if is_number else "expected a number"
    return None if isinstance(raw, str) or is_number else "expected a text"


def _is_there(path: Path) -> bool:
    """Say whether there is such a file, or numbered pictures that fit such a pattern."""
    return path.exists() or is_sequence(path)


def as_toml(settings: Settings, command: click.Command) -> str:
    """Return all settings in effect as a file that sets them.

    Args:
        settings: What is set.
        command: Whose options they are.
    """
    effective = settings.common()
    lines = [] if settings.path is None else [f"# with {_toml(str(settings.path))[1:-1]}"]
    unset = []
    for option in _settable(command):
        value = effective.get(option.name or "")
        if value is None:
            unset.append(f"# {_key(option)} is not set")
        else:
            lines.append(f"{_key(option)} = {_toml(_absolute(option, value))}")
    lines += unset
    for glob, values in settings.clips:
        lines += ["", f"[{_CLIPS}.{_toml(glob)}]"]
        for option in _settable(command):
            if values.get(option.name or "") is not None:
                value = _absolute(option, values[option.name or ""])
                lines.append(f"{_key(option)} = {_toml(value)}")
    return "\n".join(lines)


def _absolute(option: click.Option, value: Any) -> Any:
    """Return a value that means the same wherever it is written."""
    if isinstance(value, FolderPath):
        return os.path.join(os.path.abspath(value), "")
    if isinstance(value, Path) or (option.name == "bg" and _is_there(Path(value))):
        return os.path.abspath(value)
    if isinstance(option.type, Rate):  # 29.97 would be read as 30000/1001
        return str(value)
    return value


def _toml(value: object) -> str:
    """Return a value as TOML has it; what TOML has no type for is a text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Fraction):
        value = _decimal(value)
    if isinstance(value, tuple):
        value = "x".join(map(str, value))
    # JSON's escapes are TOML's, but that TOML has one more character to escape.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", r"\u007f")


def _decimal(value: Fraction) -> str:
    """Return a time as it was on the command line; a rate such as 30000/1001 is no decimal."""
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
        if places > value.denominator.bit_length():  # then it has a factor besides 2 and 5
            return str(value)
    digits = str(int(value * 10**places)).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits


def _settable(command: click.Command) -> Iterator[click.Option]:
    for param in command.params:
        if isinstance(param, click.Option) and param.name not in _UNSETTABLE:
            yield param


def _key(option: click.Option) -> str:
    """Return an option's long name, without dashes in front."""
    return next(name for name in option.opts if name.startswith("--")).removeprefix("--")


def _shown(name: str) -> str:
    return name.replace("_", "-")
