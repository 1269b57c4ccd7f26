"""Settings in files: what beats what, what is refused, and that what is printed reads the same."""

from __future__ import annotations

import tomllib
from fractions import Fraction
from pathlib import Path, PurePath

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidbg.cli import config
from vidbg.cli.config import Settings, as_toml, merged, settings_for
from vidbg.cli.parameters import FolderPath
from vidbg.cli.run import run as command
from vidbg.errors import InputError


def settings(folder: Path, text: str, *arguments: str) -> Settings:
    (folder / config.NAME).write_text(text, encoding="utf-8")
    ctx = command.make_context("vidbg", [str(folder), *arguments])
    return settings_for(ctx, [Path(source) for source in ctx.params["sources"]])


def test_the_command_line_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    text = 'bg = "red"\ncrf = 20\nsmooth = 0.25\nstart = "0:01.5"\nfill-holes = true\n'
    found = settings(tmp_path, text, "--crf", "30").common()
    assert (found["crf"], found["smooth"], found["start"]) == (30, 0.25, Fraction(3, 2))
    assert (found["fill_holes"], found["bg"], found["audio"]) == (True, "red", "source")
    # Even where it says what is the default anyway.
    assert settings(tmp_path, 'keep = "largest"', "--keep", "all").common()["keep"] == "all"


def test_clips_have_settings_of_their_own_and_the_last_one_wins(tmp_path: Path) -> None:
    text = """
        crf = 20
        edges = "fast"
        [clips."talk*.mp4"]
        crf = 21
        edges = "fine"
        [clips."*2.mp4"]
        crf = 22
        [clips."day1/*"]
        crf = 23
    """
    found = settings(tmp_path, text)

    def of(clip: str) -> tuple[int, str]:
        options = found.of_clip(PurePath(clip))
        return options["crf"], options["edges"]

    assert of("x.mp4") == (20, "fast")
    assert of("sub/Talk1.MP4") == (21, "fine")
    assert of("talk2.mp4") == (22, "fine")
    assert of("day1/talk2.mp4") == (23, "fine")
    assert settings(tmp_path, text, "--crf", "9").of_clip(PurePath("talk2.mp4"))["crf"] == 9


def test_a_choice_undoes_the_one_it_replaces(tmp_path: Path) -> None:
    text = 'bg = "red"\nmodel = "chroma"\nkey = "green"\ngrow = 2.0\n[clips."a.*"]\nalpha = true\n'
    plain = settings(tmp_path, text)
    alpha = plain.of_clip(PurePath("a.mp4"))
    assert (alpha["bg"], alpha["alpha"]) == (None, True)
    assert plain.of_clip(PurePath("b.mp4"))["alpha"] is False
    given = settings(tmp_path, text, "--matte", "--model", "u2netp", "--shrink", "1")
    for options in (given.common(), given.of_clip(PurePath("a.mp4"))):
        assert (options["bg"], options["alpha"], options["matte"]) == (None, False, True)
        assert (options["model"], options["key"]) == ("u2netp", None)
        assert (options["grow"], options["shrink"]) == (None, 1.0)
    # The same network once more undoes nothing.
    assert settings(tmp_path, text, "--model", "chroma").common()["key"] == "green"


def test_files_are_found_from_where_the_file_lies(tmp_path: Path) -> None:
    (tmp_path / "beach.jpg").touch()
    text = 'bg = "beach.jpg"\noutput = "out"\nweights = "/net.pt"\n'
    found = settings(tmp_path, text).common()
    assert found["bg"] == str(tmp_path / "beach.jpg")
    assert (found["output"], found["weights"]) == (tmp_path / "out", Path("/net.pt"))
    assert settings(tmp_path, 'bg = "blur:4"').common()["bg"] == "blur:4"
    (tmp_path / "bgs").mkdir()
    (tmp_path / "1.png").touch()
    found = settings(tmp_path, 'bg-dir = "bgs"').common()
    assert found["bg_dir"] == tmp_path / "bgs"
    found = settings(tmp_path, 'bg = "%d.png"\nalpha-out = "fg/"').common()
    assert found["bg"] == str(tmp_path / "%d.png")
    assert isinstance(found["alpha_out"], FolderPath)


def test_a_network_undoes_mattes_that_are_ready(tmp_path: Path) -> None:
    text = 'model = "u2netp"\n[clips."a.*"]\nmatte-in = "m.mkv"\n'
    of_file = settings(tmp_path, text).of_clip(PurePath("a.mp4"))
    assert of_file["matte_in"] == tmp_path / "m.mkv"
    for network in ("u2netp", "u2net"):
        given = settings(tmp_path, text, "--model", network).of_clip(PurePath("a.mp4"))
        assert (given["matte_in"], given["model"]) == (None, network)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("smoth = 1", ["smoth: no such setting", "Did you mean smooth?"]),
        ("bg_fit = 'cover'", ["bg_fit: no such setting", "bg-fit"]),
        ("smooth = 'much'", ["smooth: expected a number", '"much"']),
        ("smooth = 3", ["smooth: ", "3"]),
        ("crf = 20.5", ["crf: expected a whole number", "20.5"]),
        ("crf = true", ["crf: expected a whole number"]),
        ("fill-holes = 1", ["fill-holes: expected true or false"]),
        ("bg = ['a', 'b']", ["bg: expected a text"]),
        ("model = true", ["model: expected a text"]),
        ("codec = 'h265'", ["codec: ", "hevc"]),
        ("start = '12:99'", ["start: ", "not a time"]),
        ("jobs = 0", ["jobs: ", "auto"]),
        ("json = true", ["json: no such setting"]),
        ("print-config = true", ["print-config: no such setting"]),
        ("overwrite = true", ["overwrite: no such setting"]),
        ("allow-url = true", ["allow-url: no such setting"]),
        ("bg = 'red'\nalpha = true", ["bg: goes not with alpha"]),
        ("[clips.'a*']\njobs = 2", ['clips."a*".jobs: no such setting here']),
        ("[clips.'a*']\ncrf = 'low'", ['clips."a*".crf: expected a whole number']),
        ("clips = 3", ["clips: expected tables"]),
        ("[clips]\ncrf = 3", ["clips: expected tables"]),
        ("crf = x\n", ["is not TOML", "line 1"]),
        ("[smooth]\na = 1", ["smooth: expected a number"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        settings(tmp_path, text)
    for word in ["vidbg.toml", *words]:
        assert word in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    ctx = command.make_context("vidbg", [str(tmp_path), "--config", str(path)])
    with pytest.raises(InputError, match=r"x\.toml: is not TOML"):
        settings_for(ctx, ctx.params["sources"])
    ctx = command.make_context("vidbg", [str(tmp_path), "--config", str(tmp_path / "no.toml")])
    with pytest.raises(InputError, match=r"no\.toml: cannot be read"):
        settings_for(ctx, ctx.params["sources"])


def test_only_the_one_folder_that_is_the_input_has_its_file_read(tmp_path: Path) -> None:
    (tmp_path / config.NAME).write_text("crf = 1")
    (tmp_path / "sub").mkdir()
    for inputs in ([tmp_path, tmp_path / "sub"], [tmp_path / "sub"], [tmp_path / "a.mp4"], []):
        ctx = command.make_context("vidbg", [*map(str, inputs), "-q"])
        assert settings_for(ctx, inputs).path is None


def test_what_is_printed_sets_the_same(tmp_path: Path) -> None:
    (tmp_path / 'be"ach.jpg').touch()
    text = """
        bg = 'be"ach.jpg'
        start = "1:02.125"
        smooth = 0.1
        despill = false
        jobs = "auto"
        output = "out/"
        scale = "1280x-1"
        fps = "2997/100"
        in-fps = 23.976
        bitrate = "1.5M"
        pix-fmt = "yuv422p10le"
        looks = 2
        resume = true
        format = "png"
        [clips."talk*.mp4"]
        alpha = true
        end = 3
        fps = "30000/1001"
        [clips.'we"ird\\[1].mp4']
        grow = 1.5
    """
    before = settings(tmp_path, text, "--crf", "23", "--recursive")
    printed = as_toml(before, command)
    tomllib.loads(printed)
    (tmp_path / "elsewhere").mkdir()
    after = settings(tmp_path / "elsewhere", printed)
    for clip in ("talk1.mp4", "other.mov", 'we"ird\\[1].mp4'):
        one, other = (dict(found.of_clip(PurePath(clip))) for found in (before, after))
        for name in ("sources", "print_config"):
            one.pop(name), other.pop(name)
        assert one == other
    assert isinstance(other["output"], FolderPath)
    assert (one["fps"], one["in_fps"]) == (Fraction(2997, 100), Fraction(24000, 1001))
    assert as_toml(after, command).splitlines()[1:] == printed.splitlines()[1:]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_toml(text: str) -> None:
    assert tomllib.loads(f"x = {config._toml(text)}") == {"x": text}


@given(st.decimals(0, 10**6, places=6))
def test_times_are_printed_exactly(seconds: object) -> None:
    wanted = Fraction(str(seconds))
    assert Fraction(config._toml(wanted).strip('"')) == wanted


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["bg", "alpha", "crf", "model", "key"]), st.integers(1, 3))
    )
)
def test_the_last_layer_says_all_that_it_says(layers: list[dict[str, int]]) -> None:
    values = merged(layers)
    for name, value in (layers or [{}])[-1].items():
        assert values[name] == value
    said = {name for layer in layers for name in layer}
    assert set(values) <= said
    last_crf = [layer["crf"] for layer in layers if "crf" in layer][-1:]
    assert [values[name] for name in ["crf"] if name in values] == last_crf


def test_options_have_the_names_of_the_command_line() -> None:
    """So that the file takes whatever option is added, except those of the command line alone."""
    settable = {config._key(option) for option in config._settable(command)}
    long_names = {
        name.removeprefix("--")
        for param in command.params
        if isinstance(param, click.Option)
        for name in param.opts
        if name.startswith("--")
    }
    of_the_command_line = {"config", "print-config", "json", "debug", "version"}
    assert long_names - settable == of_the_command_line | {
        "overwrite",
        "allow-url",
        "allow-playlists",
    }
