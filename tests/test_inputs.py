"""INPUT arguments that the shell left alone."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidbg.errors import InputError
from vidbg.media.inputs import expand


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a2.mp4", "a10.mp4", "b.mov", ".hidden.mp4", "[1].mp4", "1.mp4", "deep/c/d.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["b.mov"], ["b.mov"]),
        (["none.mov"], ["none.mov"]),  # whoever opens it says that there is none
        (["-", "frames/%05d.png"], ["-", "frames/%05d.png"]),
        (["a*.mp4"], ["a2.mp4", "a10.mp4"]),
        (["*.mov", "a?.mp4"], ["b.mov", "a2.mp4"]),
        (["[1].mp4"], ["[1].mp4"]),  # a file of that very name, not 1.mp4
        (["[ab]*"], ["a2.mp4", "a10.mp4", "b.mov"]),
        (["**/d.mp4"], ["deep/c/d.mp4"]),
        (["a10.mp4", "a*.mp4", "a10.mp4"], ["a10.mp4", "a2.mp4"]),
        ([], []),
    ],
)
def test_patterns_stand_for_files(folder: Path, arguments: list[str], wanted: list[str]) -> None:
    assert expand(arguments) == [Path(name) for name in wanted]
    absolute = [str(folder / argument) for argument in arguments if argument != "-"]
    assert expand(absolute) == [folder / name for name in wanted if name != "-"]


def test_a_pattern_that_matches_nothing_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match=r"z\*\.mp4: no such file, nor one"):
        expand(["b.mov", "z*.mp4"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pattern=st.text("ab1.*?[]-mp4", min_size=1, max_size=6))
def test_as_another_matcher_has_it(folder: Path, pattern: str) -> None:
    names = [name for name in os.listdir(folder) if not name.startswith(".")]
    matched = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
    if pattern in names or not any(c in pattern for c in "*?["):
        assert expand([pattern]) == [Path(pattern)]
    elif pattern.startswith(".") or pattern == "**":  # all depths, which fnmatch does not know
        return
    elif matched:
        assert {path.name for path in expand([pattern])} == matched
    else:
        with pytest.raises(InputError):
            expand([pattern])
