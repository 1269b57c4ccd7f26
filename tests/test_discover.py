"""Finding clips in known trees, naming results, pairing backgrounds."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePath

import pytest
from clips import make_clip
from hypothesis import given
from hypothesis import strategies as st

from vidbg.discover import (
    clip_key,
    find_clips,
    name_key,
    natural_order,
    partner,
    result_path,
    sources_in,
)
from vidbg.errors import InputError


def plant(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no video at all\n" * 20)


def found(root: Path, *, recursive: bool = True, left_out: tuple[Path, ...] = ()) -> list[str]:
    clips = find_clips(root, recursive=recursive, left_out=left_out)
    return [path.relative_to(root).as_posix() for path in clips]


def test_videos_and_nothing_else(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("tree")  # in which part files may stay
    plant(
        tmp_path,
        "clip10.mp4", "clip2.MOV", "Clip1.mkv", "sub/deep/x.webm", "sub/y.mts",
        "notes.txt", "still.png", "voice.wav", "titles.srt", "project.prproj", "vidbg.toml",
        ".hidden.mp4", "._clip2.MOV", ".trash/old.mp4",
        "clip2.vidbg.mp4", "clip2.VIDBG.mov", "clip2.ab12cd34.part.mp4", "clip3.part/seg0.mp4",
        "clip9.vidbg-work/seg0.mp4", "download.mp4.part",
    )  # fmt: skip
    assert found(tmp_path, recursive=False) == ["Clip1.mkv", "clip2.MOV", "clip10.mp4"]
    assert found(tmp_path)[3:] == ["sub/y.mts", "sub/deep/x.webm"]


def test_a_name_that_says_nothing_is_looked_into(tmp_path: Path) -> None:
    plant(tmp_path, "README", "take.backup", "numbers.dat")
    (tmp_path / "empty").touch()
    make_clip(tmp_path / "a.mp4", frames=2).rename(tmp_path / "VTS_01_1")
    assert found(tmp_path) == ["VTS_01_1"]


def test_odd_names(tmp_path: Path) -> None:
    names = ["-y.mp4", "a b\nc.mp4", "100%03d.mp4", "[x]*.mp4", "été.mp4", "file:x.mp4"]
    plant(tmp_path, *names)
    assert sorted(found(tmp_path)) == sorted(names)


@pytest.mark.skipif(os.name != "posix", reason="needs names that are no text")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff\xfe.mp4"
    try:
        open(raw, "wb").close()
    except OSError:
        pytest.skip("this file system takes text only")
    assert [os.fsencode(path) for path in find_clips(tmp_path, recursive=True)] == [raw]


def test_links_that_run_in_circles_end(tmp_path: Path) -> None:
    plant(tmp_path, "clips/a.mp4", "clips/sub/b.mp4", "elsewhere/c.mp4")
    clips = tmp_path / "clips"
    (clips / "sub/up").symlink_to(clips)
    (clips / "self").symlink_to(clips / "self")
    (clips / "gone.mp4").symlink_to(clips / "nowhere.mp4")
    (clips / "linked").symlink_to(tmp_path / "elsewhere")
    (clips / "linked2").symlink_to(tmp_path / "elsewhere")
    (clips / "a2.mp4").symlink_to(clips / "a.mp4")
    assert found(clips) == ["a.mp4", "a2.mp4", "linked/c.mp4", "sub/b.mp4"]


def test_folders_and_files_that_are_left_out(tmp_path: Path) -> None:
    plant(tmp_path, "a.mp4", "beach.mp4", "out/a.mp4", "sub/b.mp4", "bgs/a.mp4")
    left_out = (tmp_path / "out", tmp_path / "sub/../bgs", tmp_path / "beach.mp4")
    assert found(tmp_path, left_out=left_out) == ["a.mp4", "sub/b.mp4"]


def test_a_folder_that_holds_its_own_results(tmp_path: Path) -> None:
    plant(tmp_path, "a.mp4", "a.vidbg.mp4")
    assert found(tmp_path, left_out=(tmp_path,)) == ["a.mp4"]


def test_results_mirror_their_folders(tmp_path: Path) -> None:
    plant(tmp_path, "clips/a.mp4", "clips/sub/b.mp4", "more/c.mp4", "d.mp4")
    out = tmp_path / "out"

    def folders(*inputs: str, output: Path | None = out) -> list[tuple[str, str, str]]:
        sources = sources_in([tmp_path / name for name in inputs], output, recursive=True)
        return [
            (s.path.name, *(p.relative_to(tmp_path).as_posix() for p in (s.folder, s.root)))
            for s in sources
        ]

    assert folders("clips") == [("a.mp4", "out", "out"), ("b.mp4", "out/sub", "out")]
    assert folders("clips", "more", "d.mp4") == [
        ("a.mp4", "out/clips", "out"),
        ("b.mp4", "out/clips/sub", "out"),
        ("c.mp4", "out/more", "out"),
        ("d.mp4", "out", "out"),
    ]
    assert folders("clips", "d.mp4", output=None) == [
        ("a.mp4", "clips", "clips"),
        ("b.mp4", "clips/sub", "clips"),
        ("d.mp4", ".", "."),
    ]


def test_a_clip_that_is_named_twice_is_done_once(tmp_path: Path) -> None:
    plant(tmp_path, "clips/a.mp4", "clips/b.mp4")
    inputs = [tmp_path / "clips/b.mp4", tmp_path / "clips", tmp_path / "clips/../clips/b.mp4"]
    sources = sources_in(inputs, None, recursive=False)
    assert [source.path.name for source in sources] == ["b.mp4", "a.mp4"]


def test_pictures_that_a_folder_begins_with_do_not_make_it_a_clip(tmp_path: Path) -> None:
    """Where more may come, as when a card is watched: photographs have numbers too."""
    plant(tmp_path, "card/IMG_0001.jpg")
    card = tmp_path / "card"
    assert [s.path for s in sources_in([card], None, recursive=False)] == [card]
    assert sources_in([card], None, recursive=False, is_sure=False) == []


def test_results_among_several_files_are_left_out(tmp_path: Path) -> None:
    results = ["a.vidbg.mp4", "a.mov.vidbg.mp4", "a.mov.2.vidbg.mp4", "a.alpha.vidbg.mov"]
    others = ["a.mov", "a.b.vidbg.mp4", "c.vidbg.mp4", "sub/a.vidbg.mp4"]
    plant(tmp_path, *results, *others)

    def taken(*names: str) -> list[str]:
        sources = sources_in([tmp_path / name for name in names], None, recursive=False)
        return [source.path.relative_to(tmp_path).as_posix() for source in sources]

    assert taken(*results, *others) == others
    assert taken(*results) == results


def test_numbers_count_as_numbers() -> None:
    names = ["b.mp4", "a10.mp4", "A9.mp4", "a1b20.mp4", "a1b3.mp4", "10.mp4", "9.mp4"]
    ordered = sorted(map(PurePath, names), key=natural_order)
    assert [path.name for path in ordered] == [
        "9.mp4", "10.mp4", "a1b3.mp4", "a1b20.mp4", "A9.mp4", "a10.mp4", "b.mp4",
    ]  # fmt: skip


@given(st.data())
def test_any_names_can_be_put_in_order(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1)))
    ordered = sorted(map(PurePath, names), key=natural_order)
    assert sorted(data.draw(st.permutations(ordered)), key=natural_order) == ordered


def named(*clips: str) -> list[str]:
    taken: dict[str, str] = {name_key(Path(clip)): clip_key(Path(clip)) for clip in clips}
    results = []
    for clip in map(Path, clips):
        path = result_path(Path("out") / f"{clip.stem}.vidbg.mp4", clip, taken)
        taken[name_key(path)] = clip_key(clip)
        results.append(path.name)
    return results


def test_no_two_results_have_one_name() -> None:
    assert named("a.mov", "a.mp4") == ["a.vidbg.mp4", "a.mp4.vidbg.mp4"]
    assert named("A.mov", "a.mp4") == ["A.vidbg.mp4", "a.mp4.vidbg.mp4"]
    assert named("x/a.mp4", "y/a.mp4", "z/a.mp4") == [
        "a.vidbg.mp4", "a.mp4.vidbg.mp4", "a.mp4.2.vidbg.mp4",
    ]  # fmt: skip
    decomposed = unicodedata.normalize("NFD", "é")
    assert named("é.mov", f"{decomposed}.mp4")[1] == f"{decomposed}.mp4.vidbg.mp4"
    # What one job reads another does not write.
    assert named("out/a.vidbg.mp4", "a.mp4")[1] == "a.mp4.vidbg.mp4"


@given(
    st.lists(st.sampled_from(["a.mp4", "a.mov", "A.mp4", "a.mp4.mov", "a.mp4.2.mkv", "x/a.mp4"]))
)
def test_names_never_meet(clips: list[str]) -> None:
    clips = list(dict.fromkeys(clips))
    results = named(*clips)
    assert len({name_key(Path("out", result)) for result in results}) == len(clips)


def test_folders_of_numbered_files_have_names_too() -> None:
    plain = Path("out/a.vidbg")
    taken = {name_key(plain): clip_key(Path("a.mov"))}
    assert result_path(plain, Path("a.mov"), taken) == plain
    assert result_path(plain, Path("a.mp4"), taken) == Path("out/a.mp4.vidbg")


def test_results_of_other_kinds_have_names_of_their_own(tmp_path: Path) -> None:
    clip = tmp_path / "a.mov"
    plain = tmp_path / "out/a.alpha.vidbg.mov"
    taken = {name_key(plain): clip_key(tmp_path / "a.mp4")}
    kind = ".alpha.vidbg"
    longer = tmp_path / "out/a.mov.alpha.vidbg.mov"
    assert result_path(plain, clip, taken, mark=kind) == longer
    earlier = [tmp_path / "out/a.mov.vidbg.mov", longer]
    assert result_path(plain, clip, {}, earlier, mark=kind) == longer
    assert result_path(tmp_path / "out/a.vidbg.mov", clip, {}, earlier) == earlier[0]


def test_a_name_that_a_clip_has_it_keeps(tmp_path: Path) -> None:
    """Though a.mov, which came later, is before it in order."""
    first, later = tmp_path / "a.mp4", tmp_path / "a.mov"
    plain = tmp_path / "out/a.vidbg.mp4"
    taken = {name_key(plain): clip_key(first)}
    assert result_path(plain, later, taken) == tmp_path / "out/a.mov.vidbg.mp4"
    assert result_path(plain, first, taken, [plain]) == plain
    longer = tmp_path / "out/a.mov.vidbg.mp4"
    assert result_path(plain, later, {name_key(longer): clip_key(later)}, [longer]) == longer
    # Of another format, or in another folder, it is another result.
    mov = plain.with_suffix(".mov")
    assert result_path(mov, later, {}, [longer]) == mov
    other = tmp_path / "out2/a.vidbg.mp4"
    assert result_path(other, later, {}, [longer]) == other


def test_backgrounds_by_name(tmp_path: Path) -> None:
    plant(
        tmp_path,
        "bg/clip1.jpg",
        "bg/Clip2.mp4",
        "bg/clip2.txt",
        "bg/sub/clip1.png",
        "bg/.clip3.jpg",
    )
    plant(tmp_path, "bg/clip4.jpg", "bg/clip4.mp4", "bg/clip.5.png")
    top, folder = PurePath(), tmp_path / "bg"
    assert partner(Path("clip1.mp4"), top, folder) == folder / "clip1.jpg"
    assert partner(Path("clip1.mp4"), PurePath("sub"), folder) == folder / "sub/clip1.png"
    assert partner(Path("clip2.mov"), top, folder) == folder / "Clip2.mp4"
    assert partner(Path("clip.5.mov"), top, folder) == folder / "clip.5.png"
    with pytest.raises(InputError, match=r"clip3\.mp4: has no background.*bg/clip3\.\*"):
        partner(Path("clip3.mp4"), top, folder)
    with pytest.raises(InputError, match=r"bg/no/clip1\.\*"):
        partner(Path("clip1.mp4"), PurePath("no"), folder)
    with pytest.raises(InputError, match=r"more than one background: clip4\.jpg, clip4\.mp4"):
        partner(Path("clip4.mp4"), top, folder)
