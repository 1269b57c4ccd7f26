"""Numbered pictures as a clip: which files, in which order, at which time, sample for sample."""

from __future__ import annotations

import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import (
    Array,
    counter_luma,
    decode_planes,
    frame_numbers,
    noise_planes,
    pack_planes,
    run_ffmpeg,
    version,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vidbg.errors import DecodeError, InputError
from vidbg.frames import PictureSequence
from vidbg.media import background
from vidbg.media.decode import FrameReader, count_decodable
from vidbg.media.probe import probe
from vidbg.media.sequence import find_sequence, is_sequence, result_name

SIZE = (64, 48)


def write_pictures(folder: Path, names: list[str], first: int = 0) -> Path:
    """Write pictures that show ``first``, ``first`` + 1 and so on, in the order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for luma, name in zip(counter_luma(range(first, first + len(names)), SIZE), names, strict=True):
        Image.fromarray(np.dstack([luma] * 3)).save(folder / name)
    return folder


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def shown(path: Path, **options: object) -> list[int]:
    """Return the numbers that a sequence's frames show."""
    info = probe(path)
    batches = FrameReader(info, batch_size=4, **options)  # type: ignore[arg-type]
    return frame_numbers(np.concatenate([batch.planes[0] for batch in batches]))


@pytest.mark.parametrize(
    "names",
    [
        [f"{n:05d}.png" for n in range(12)],
        [f"shot {n}.png" for n in range(5, 17)],  # 9 before 10
        [f"take12_v2_{n:04d}_final3.png" for n in range(995, 1007)],
        [f"{n:03d}.png" for n in range(995, 1007)],  # 999, then 1000
        [f"100%d.{n:02d}.png" for n in range(12)],
        [f"%05d {n}.png" for n in range(12)],
        [f"ü'[{n}];$x.png" for n in range(12)],
    ],
    ids=lambda names: names[0],
)
def test_every_picture_in_its_turn(tmp_path: Path, names: list[str]) -> None:
    folder = write_pictures(tmp_path / "frames", names)
    info = probe(folder)
    assert (info.frame_count, info.frame_rate, info.missing_frames) == (12, 25, 0)
    assert (info.width, info.height) == SIZE
    assert info.duration == Fraction(12, 25)
    assert not info.is_image
    assert not info.is_vfr
    assert shown(folder) == list(range(12))


@pytest.mark.parametrize("name", ["100%", "%05d", "a %d b%%", "-y", "c:d", "'[x]\n", "pipe:0"])
def test_folders_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_pictures(tmp_path / name, ["f_01.png", "f_02.png"], first=7)
    assert shown(tmp_path / name) == [7, 8]
    monkeypatch.chdir(tmp_path)
    assert shown(Path(name) / "f_%02d.png") == [7, 8]


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"fr\xe9mes")
    write_pictures(folder, [os.fsdecode(b"\xff_1.png"), os.fsdecode(b"\xff_2.png")], first=3)
    assert shown(folder) == [3, 4]


def test_a_pattern_takes_its_own_pictures_only(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a_1.png", "a_2.png", "a_03.png"])
    write_pictures(tmp_path, ["b_1.png", "b_2.png"], first=20)
    assert shown(tmp_path / "a_%d.png") == [0, 1]
    assert shown(tmp_path / "a_%02d.png") == [2]
    assert shown(tmp_path / "b_%d.png") == [20, 21]


def test_a_percent_sign_in_a_pattern(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["50%_1.png", "50%_2.png"], first=9)
    assert shown(tmp_path / "50%%_%d.png") == [9, 10]


def test_a_file_of_that_very_name_is_no_pattern(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a%d.png", "a1.png", "a2.png"], first=5)
    path = tmp_path / "a%d.png"
    assert not is_sequence(path)
    assert find_sequence(path) is None
    info = probe(path)
    assert info.is_image
    assert shown(path) == [5]


@pytest.mark.parametrize("rate", [Fraction(24), Fraction(30000, 1001), Fraction(1, 2)])
@pytest.mark.parametrize("first", [0, 1, 29, 180, 319])
def test_reading_begins_at_any_frame(clips_dir: Path, rate: Fraction, first: int) -> None:
    folder = clips_dir / "three hundred"
    if not folder.exists():
        write_pictures(folder, [f"{n:04d}.png" for n in range(100, 420)])
    info = probe(folder, rate)
    assert (info.frame_rate, info.duration) == (rate, 320 / rate)
    batches = list(FrameReader(info, first=first, stop=first + 3))
    numbers = frame_numbers(np.concatenate([batch.planes[0] for batch in batches]))
    assert numbers == [*range(first, min(first + 3, 320))]
    assert batches[0].first_index == first


def test_a_gap_is_named_and_can_be_filled(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "f", [f"{n:03d}.png" for n in range(1, 13)], first=1)
    for lost in (4, 5, 9):
        (folder / f"{lost:03d}.png").unlink()
    info = probe(folder)
    assert (info.frame_count, info.missing_frames) == (12, 3)
    with pytest.raises(DecodeError, match=r"no picture number 4, 004\.png, and 2 more.*--allow-d"):
        list(FrameReader(info))
    filled = [1, 2, 3, 3, 3, 6, 7, 8, 8, 10, 11, 12]
    assert shown(folder, allow_damaged=True) == filled
    assert shown(folder, allow_damaged=True, first=4, stop=9) == filled[4:9]
    assert count_decodable(info) == 12
    goal = background.Target(
        *SIZE, Fraction(1), info.format, background.Colour("pc", "gbr"), info.frame_rate
    )
    with pytest.raises(DecodeError, match="no picture number 4"):
        background.BackgroundVideo(info, goal)


def test_links_for_gaps_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pictures(tmp_path / "f", ["1.png", "3.png"])
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(links))
    reader = iter(FrameReader(probe(folder), allow_damaged=True))
    next(reader)
    assert len(list(links.rglob("*.png"))) == 3
    reader.close()  # type: ignore[attr-defined]
    assert list(links.iterdir()) == []


def test_without_links_pictures_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(1, "no privilege")

    folder = write_pictures(tmp_path / "f", ["1.png", "3.png"])
    monkeypatch.setattr(os, "symlink", refused)
    monkeypatch.setattr(os, "link", refused)
    assert shown(folder, allow_damaged=True) == [0, 0, 1]


def test_a_broken_picture_is_damage(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "f", [f"{n}.png" for n in range(6)])
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:60])
    with pytest.raises(DecodeError, match="damaged: 1 of 6 frames would be lost"):
        shown(folder)
    assert shown(folder, allow_damaged=True) == [0, 1, 2, 2, 4, 5]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "without numbered pictures"),
        (["notes.txt", "cover.png"], "without numbered pictures"),
        (["a_1.png", "a_2.png", "b_1.png"], r"such as a_1\.png and b_1\.png.*a_%d\.png"),
        (["1.png", "2.jpg"], r"more than one sequence, such as 1\.png and 2\.jpg"),
        (["a1_1.png", "a2_2.png"], "more than one number"),
        (["1.png", "02.png"], r"with and without zeros.*1\.png and 02\.png"),
        (["20240101.png", "20240305.png"], "not a sequence: 2 pictures"),
        (["1.png", "99999999999.png"], "too high"),
    ],
)
def test_what_is_no_sequence(tmp_path: Path, names: list[str], message: str) -> None:
    folder = touch(tmp_path / "f", *names)
    with pytest.raises(InputError, match=message):
        find_sequence(folder)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("x_%d.png", "no file fits"), ("%d.txt", "no pictures"), ("no/%d.png", "cannot be read")],
)
def test_patterns_of_nothing(tmp_path: Path, pattern: str, message: str) -> None:
    touch(tmp_path, "1.png", "1.txt")
    with pytest.raises(InputError, match=message):
        find_sequence(tmp_path / pattern)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["1.png", "2.png"], True),
        (["1.EXR"], True),
        (["1.png", "2.png", "talk.mp4"], False),
        (["1.png", "2.png", "TALK.MOV"], False),
        (["1.png", "2.png", "1.vidbg.mp4"], True),  # a result of ours
        (["a1.png", "b1.png"], True),  # two sequences, which find_sequence refuses
        (["cover.png"], False),
        (["talk.mp4"], False),
        ([], False),
    ],
)
def test_a_folder_of_pictures_or_of_clips(tmp_path: Path, names: list[str], wanted: bool) -> None:
    folder = touch(tmp_path / "f", *names)
    assert is_sequence(folder) is wanted


def test_other_paths_are_no_sequences(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    for path in (tmp_path / "1.png", tmp_path / "none", Path("50%.mp4"), Path("%d_%d.png")):
        assert not is_sequence(path)
        assert find_sequence(path) is None


def test_results_are_named_after_the_folder_or_the_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = touch(tmp_path / "shot.v2", "1.png")
    assert result_name(folder) == folder
    assert result_name(folder / "a_%04d.png") == folder / "a"
    assert result_name(folder / "%04d.png") == folder / "shot.v2"
    assert result_name(folder / "1.png") is None
    monkeypatch.chdir(folder)
    assert result_name(Path()) == folder
    assert result_name(Path("%d.png")) == Path("shot.v2")
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert result_name(Path("..")) == folder


@given(
    prefix=st.text("ab%_- .0é", max_size=6),
    suffix=st.text("ab%_- é", max_size=4),
    digits=st.integers(1, 12),
    number=st.integers(0, 2**31 - 1),
)
def test_the_pattern_means_the_file(prefix: str, suffix: str, digits: int, number: int) -> None:
    """C's printf, which is Python's here, gives the file's name back."""
    sequence = PictureSequence(Path("50%d"), prefix, f"{suffix}.png", digits, 0, 1)
    assert Path(sequence.pattern % number) == sequence.path_of(number)


# ---- Samples -----------------------------------------------------------------------------------


def encode(folder: Path, name: str, pix_fmt: str, planes: tuple[Array, ...]) -> Path:
    """Encode noise as pictures, by FFmpeg, one frame each."""
    folder.mkdir(exist_ok=True)
    run_ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", pix_fmt, "-s", f"{SIZE[0]}x{SIZE[1]}", "-i", "pipe:0"),
        *("-f", "image2", f"file:{folder}/{name}"),
        feed=pack_planes(planes),
    )
    return folder


@pytest.mark.parametrize(
    ("name", "pix_fmt"),
    [("%d.png", "gbrp"), ("%d.png", "gbrp16le"), ("%d.tif", "gbrp16le"), ("%d.dpx", "gbrp10le")],
)
def test_depth_is_kept(tmp_path: Path, name: str, pix_fmt: str) -> None:
    planes = noise_planes(pix_fmt, SIZE, 3)
    packed = {"gbrp": "rgb24", "gbrp16le": "rgb48be", "gbrp10le": "gbrp10be"}[pix_fmt]
    if name.endswith(".tif"):
        packed = "rgb48le"
    folder = tmp_path / "f"
    folder.mkdir()
    run_ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", pix_fmt, "-s", f"{SIZE[0]}x{SIZE[1]}", "-i", "pipe:0"),
        *("-pix_fmt", packed, "-f", "image2", f"file:{folder}/{name}"),
        feed=pack_planes(planes),
    )
    info = probe(folder)
    assert info.format.pix_fmt == pix_fmt
    (batch,) = FrameReader(info, batch_size=3)
    for given_plane, plane in zip(planes, batch.planes, strict=True):
        np.testing.assert_array_equal(plane, given_plane)


def test_alpha_is_kept(tmp_path: Path) -> None:
    planes = noise_planes("gbrap16le", SIZE, 2)
    folder = encode(tmp_path / "f", "%d.png", "gbrap16le", planes)
    info = probe(folder)
    assert info.has_alpha
    (batch,) = FrameReader(info, batch_size=2)
    for given_plane, plane in zip(planes, (*batch.planes, batch.source_alpha), strict=True):
        np.testing.assert_array_equal(plane, given_plane)


def test_photographs_stand_upright(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "f", ["1.png", "2.png"], first=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    for path in folder.iterdir():
        picture = Image.open(path)
        picture.load()
        picture.save(path.with_suffix(".jpg"), exif=exif, quality=95)
        path.unlink()
    info = probe(folder)
    assert (info.width, info.height, info.rotation) == (48, 64, 90)
    (batch,) = FrameReader(info, batch_size=2)
    assert frame_numbers(np.rot90(batch.planes[0], 1, axes=(1, 2))) == [1, 2]


def test_linear_light_of_exr_is_shown_as_srgb(tmp_path: Path) -> None:
    """IEC 61966-2-1: the signal of linear light, clipped at white; alpha multiplied out."""
    light = np.array([0.0, 0.002, 0.05, 0.18, 0.5, 1.0, 4.0, 0.25], np.float32)
    alpha = np.array([1, 1, 1, 1, 1, 1, 1, 0.5], np.float32)
    plane = np.broadcast_to(np.repeat(light, 8), (48, 64)).astype("<f4")
    cover = np.broadcast_to(np.repeat(alpha, 8), (48, 64)).astype("<f4")
    folder = tmp_path / "f"
    folder.mkdir()
    run_ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "gbrapf32le", "-s", "64x48", "-i", "pipe:0"),
        *("-format", "float", "-f", "image2", f"file:{folder}/%d.exr"),
        feed=plane.tobytes() * 3 + cover.tobytes(),
    )
    info = probe(folder)
    assert (info.format.pix_fmt, info.has_alpha) == ("gbrp16le", True)
    assert info.colour.transfer == "iec61966-2-1"
    (batch,) = FrameReader(info)
    # FFmpeg's encoder has multiplied since version 9; what an older one writes is as it came.
    straight = np.minimum(light if version() >= 9 else light / alpha, 1)
    signal = np.where(
        straight <= 0.0031308, 12.92 * straight, 1.055 * straight ** (1 / 2.4) - 0.055
    )
    for samples in batch.planes:
        np.testing.assert_allclose(samples[0, 5, 4::8] / 65535, signal, atol=2e-4)
    assert batch.source_alpha is not None
    np.testing.assert_allclose(batch.source_alpha[0, 5, 4::8] / 65535, alpha, atol=1e-4)


def test_exr_of_one_component_is_refused(tmp_path: Path) -> None:
    source = ("-f", "lavfi", "-i", "color=gray:s=64x48,format=grayf32le", "-frames:v", "1")
    run_ffmpeg(*source, "-f", "image2", f"file:{tmp_path}/%d.exr")
    with pytest.raises(InputError, match="one component"):
        probe(tmp_path)


def test_exr_without_alpha(tmp_path: Path) -> None:
    light = np.linspace(0, 1.2, 64, dtype=np.float32)
    plane = np.broadcast_to(light, (48, 64)).astype("<f4")
    run_ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "gbrpf32le", "-s", "64x48", "-i", "pipe:0"),
        *("-format", "float", "-f", "image2", f"file:{tmp_path}/%d.exr"),
        feed=plane.tobytes() * 3,
    )
    (batch,) = FrameReader(probe(tmp_path))
    shown_light = np.minimum(light, 1)
    signal = 1.055 * shown_light ** (1 / 2.4) - 0.055
    signal = np.where(shown_light <= 0.0031308, 12.92 * shown_light, signal)
    np.testing.assert_allclose(batch.planes[0][0, 5] / 65535, signal, atol=2e-4)


def test_a_sequence_as_background_plays_at_its_rate(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "f", [f"{n}.png" for n in range(4)])
    info = probe(folder, Fraction(5))
    goal = background.Target(
        *SIZE, Fraction(1), info.format, background.Colour("pc", "gbr"), Fraction(15)
    )
    frames = iter(background.BackgroundVideo(info, goal, fit="stretch", batch_size=12))
    luma = next(frames)[0]
    frames.close()  # type: ignore[attr-defined]
    assert frame_numbers(luma) == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 0]  # the nearest in time


def test_the_decoder_of_another_library_sees_the_same(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "f", ["a.1.png", "a.2.png"])
    run_ffmpeg("-f", "image2", "-i", f"file:{folder}/a.%d.png", "-c", "copy", f"{tmp_path}/a.mkv")
    (batch,) = FrameReader(probe(folder), batch_size=2)
    for ours, theirs in zip(batch.planes, decode_planes(tmp_path / "a.mkv", "gbrp"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_pictures_that_go_away_are_an_error(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "f", [f"{n}.png" for n in range(8)])
    info = probe(folder)
    shutil.move(folder / "4.png", tmp_path / "4.png")
    with pytest.raises(DecodeError, match="picture number 4 went away"):
        list(FrameReader(info))
