"""Data sets are known by their layout; pixels and masks of any kind of file come out right."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import counter_frames, counter_luma, frame_numbers, make_clip
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from vidbg.errors import InputError, VidbgError
from vidbg.training import datasets
from vidbg.training.datasets import Dataset, Example

GREEN = (10, 200, 30)


def save(path: Path, picture: Image.Image | np.ndarray, **options: Any) -> Path:
    """Write a picture, and the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(path, **options)
    return path


def flat(colour: Any = GREEN, size: tuple[int, int] = (12, 8), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def half(size: tuple[int, int] = (12, 8), value: int = 255) -> np.ndarray:
    """A mask of which the left half is set."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[:, : size[0] // 2] = value
    return mask


def only(folder: Path) -> Dataset:
    found = datasets.find(folder)
    assert len(found) == 1
    return found[0]


def read(folder: Path) -> list[Example]:
    return list(only(folder).examples())


def alpha_of(folder: Path, mask: Image.Image | np.ndarray, suffix: str = ".png") -> np.ndarray:
    """The alpha that a mask file of a 12 x 8 picture is read as."""
    save(folder / "images/a.png", flat())
    save(folder / f"masks/a{suffix}", mask)
    (example,) = read(folder)
    assert example.alpha is not None
    assert example.alpha.dtype == np.uint8
    assert example.alpha.shape == (8, 12)
    return example.alpha


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


# Layouts


def test_images_with_masks_are_pairs_by_their_stems(tmp_path: Path) -> None:
    save(tmp_path / "set/images/b.JPG", flat())
    save(tmp_path / "set/images/a.webp", flat())
    save(tmp_path / "set/masks/a.png", half())
    save(tmp_path / "set/masks/b.bmp", flat(255, mode="L"))
    found = only(tmp_path)
    assert (found.name, found.kind, found.count) == ("set", "pair", 2)
    first, second = found.examples()
    assert (first.name, second.name) == ("set/a", "set/b")
    assert first.kind == second.kind == "pair"
    assert first.rgb.dtype == np.uint8
    assert first.rgb.shape == second.rgb.shape == (8, 12, 3)
    np.testing.assert_array_equal(first.alpha, half())
    assert (second.alpha == 255).all()


def test_pairs_match_in_sub_folders(tmp_path: Path) -> None:
    for clip, colour in (("bear", (250, 0, 0)), ("dog", (0, 0, 250))):
        save(tmp_path / f"images/{clip}/00000.png", flat(colour))
        save(tmp_path / f"masks/{clip}/00000.png", flat(colour[0], mode="L"))
    bear, dog = read(tmp_path)
    name = tmp_path.name
    assert (bear.name, dog.name) == (f"{name}/bear/00000", f"{name}/dog/00000")
    assert (bear.rgb == (250, 0, 0)).all()
    assert (dog.rgb == (0, 0, 250)).all()
    assert bear.alpha is not None
    assert (bear.alpha == 250).all()


def test_images_without_a_mask_are_counted_in_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for stem in "abc":
        save(tmp_path / f"images/{stem}.png", flat())
    save(tmp_path / "masks/b.png", half())
    found = only(tmp_path)
    assert found.count == 1
    assert [example.name for example in found.examples()] == [f"{tmp_path.name}/b"]
    (warning,) = warnings_of(caplog)
    assert "2 of 3 images" in warning


def test_no_mask_at_all_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", flat())
    save(tmp_path / "masks/a_mask.png", half())
    with pytest.raises(InputError, match="none of its 1 images") as caught:
        datasets.find(tmp_path)
    assert caught.value.path == tmp_path


def test_images_alone_are_photos(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", flat())
    (example,) = read(tmp_path)
    assert (example.kind, example.alpha) == ("photo", None)
    assert (example.rgb == GREEN).all()


def test_backgrounds_have_no_alpha(tmp_path: Path) -> None:
    save(tmp_path / "backgrounds/indoors/a.tif", flat())
    (example,) = read(tmp_path)
    assert (example.kind, example.name, example.alpha) == (
        "background",
        "backgrounds/indoors/a",
        None,
    )


def test_the_folder_itself_may_be_the_data_set(tmp_path: Path, monkeypatch: Any) -> None:
    save(tmp_path / "cutouts/a.png", flat((1, 2, 3, 100), mode="RGBA"))
    monkeypatch.chdir(tmp_path / "cutouts")
    (example,) = read(Path("."))
    assert (example.kind, example.name) == ("cutout", "cutouts/a")


def test_all_levels_are_looked_at_and_sorted(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", flat())
    save(tmp_path / "masks/a.png", half())
    save(tmp_path / "backgrounds/a.png", flat())  # beside a data set, not in it
    save(tmp_path / "z/y/images/a.png", flat())
    save(tmp_path / "z/cutouts/a.png", flat((1, 2, 3, 100), mode="RGBA"))
    found = [(dataset.name, dataset.kind) for dataset in datasets.find(tmp_path)]
    expected = [
        (tmp_path.name, "pair"),
        ("backgrounds", "background"),
        ("z/cutouts", "cutout"),
        ("z/y", "photo"),
    ]
    assert found == sorted(expected)


def test_depth_is_bounded(tmp_path: Path) -> None:
    deepest = tmp_path.joinpath(*"x" * datasets.MAX_DEPTH)
    save(deepest / "images/a.png", flat())
    save(deepest / "too_deep/images/a.png", flat())
    assert [dataset.name for dataset in datasets.find(tmp_path)] == ["x/x/x/x/x"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere/images/a.png", flat())
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(root)
    (tmp_path / "elsewhere/images/loop").symlink_to(tmp_path / "elsewhere/images")
    assert [example.name for example in read(root)] == ["linked/a"]


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_found_says_what_is_understood(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "none"
    if exists:
        save(tmp_path / "a.png", flat())
    with pytest.raises(InputError) as caught:
        datasets.find(folder)
    assert caught.value.path == folder
    assert "\n" not in str(caught.value)
    if exists:
        for part in ("images/", "masks/", "clips/", "cutouts/", "backgrounds/"):
            assert part in str(caught.value)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        datasets.find(save(tmp_path / "a.png", flat()))


def test_images_and_clips_that_share_masks_are_refused(tmp_path: Path) -> None:
    for part in ("images", "clips", "masks"):
        (tmp_path / part).mkdir()
    with pytest.raises(InputError, match="whose the masks are"):
        datasets.find(tmp_path)


def test_an_empty_folder_beside_others_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cutouts").mkdir()
    save(tmp_path / "backgrounds/a.png", flat())
    assert only(tmp_path).kind == "background"
    assert "no pictures" in warnings_of(caplog)[0]


def test_clips_without_masks_beside_them_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "images/a.png", flat())
    (tmp_path / "clips").mkdir()
    assert only(tmp_path).kind == "photo"
    assert str(tmp_path / "clips") in warnings_of(caplog)[0]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_that_lead_nowhere_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", flat())
    (tmp_path / "images/b.png").symlink_to("gone.png")
    (tmp_path / "images/c.png").symlink_to("c.png")
    (tmp_path / "circle").symlink_to("circle")
    assert only(tmp_path).count == 1


def test_what_systems_leave_in_folders_is_no_example(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", flat())
    for stray in ("._a.png", ".hidden/b.png", "__MACOSX/c.png", "notes.txt"):
        place = tmp_path / "images" / stray
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"not a picture")
    assert only(tmp_path).count == 1


def test_two_files_of_one_stem_are_one_example(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "images/a.jpg", flat((250, 0, 0)))
    save(tmp_path / "images/a.png", flat((0, 0, 250)))
    (example,) = read(tmp_path)
    assert (example.rgb == (0, 0, 250)).all()  # the lossless one
    assert "1 files left out" in warnings_of(caplog)[0]


def test_names_do_not_depend_on_how_accents_are_stored(tmp_path: Path) -> None:
    save(tmp_path / "images/e\u0301te\u0301.png", flat())
    save(tmp_path / "masks/\u00e9t\u00e9.png", half())
    (example,) = read(tmp_path)
    assert example.name == f"{tmp_path.name}/\u00e9t\u00e9"


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
def test_names_that_are_no_text_can_be_encoded(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Path(os.fsdecode(bytes(folder) + b"/\xff.png")).write_bytes(
        save(tmp_path / "a.png", flat()).read_bytes()
    )
    (example,) = read(tmp_path)
    assert example.name.encode()


def test_examples_can_be_read_twice_and_in_another_process(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", flat())
    found = only(tmp_path)
    again: Dataset = pickle.loads(pickle.dumps(found))
    assert [e.name for e in found.examples()] == [e.name for e in found.examples()]
    assert [e.name for e in again.examples()] == [e.name for e in found.examples()]


def test_examples_are_read_one_at_a_time(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", flat())
    second = save(tmp_path / "images/b.png", flat())
    examples = only(tmp_path).examples()
    next(examples)
    save(second, flat((1, 2, 3)))
    assert (next(examples).rgb == (1, 2, 3)).all()


# Pictures


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "PNG"])
def test_file_types(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"images/a.{suffix}", flat((128, 128, 128)))
    (example,) = read(tmp_path)
    np.testing.assert_allclose(example.rgb, 128, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path: Path, orientation: int) -> None:
    upright = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    # EXIF 2.32, tag 0x0112: where the stored first row and first column are to be seen.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "images/a.png", np.ascontiguousarray(stored), exif=exif)
    save(tmp_path / "masks/a.png", half())
    (example,) = read(tmp_path)
    np.testing.assert_array_equal(example.rgb, upright)
    np.testing.assert_array_equal(example.alpha, half())


def test_grey_palette_and_16_bit_pictures_become_rgb(tmp_path: Path) -> None:
    save(tmp_path / "images/grey.png", flat(77, mode="L"))
    save(tmp_path / "images/bilevel.png", flat(1, mode="1"))
    palette = flat(1, mode="P")
    palette.putpalette([0, 0, 0, *GREEN])
    save(tmp_path / "images/palette.png", palette)
    save(tmp_path / "images/deep.png", np.full((8, 12), 200 * 257, np.uint16))
    save(tmp_path / "images/grey_alpha.png", flat((90, 255), mode="LA"))
    pixels = {e.name.split("/")[-1]: e.rgb for e in read(tmp_path)}
    expected = {
        "grey": (77, 77, 77),
        "bilevel": (255, 255, 255),
        "palette": GREEN,
        "deep": (200, 200, 200),
        "grey_alpha": (90, 90, 90),
    }
    assert pixels.keys() == expected.keys()
    for stem, colour in expected.items():
        assert pixels[stem].shape == (8, 12, 3)
        assert (pixels[stem] == colour).all(), stem


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    save(tmp_path / "images/a.tif", flat((0, 255, 255, 0), mode="CMYK"))  # magenta and yellow
    save(tmp_path / "images/b.jpg", flat((0, 0, 0, 0), mode="CMYK"))
    red, white = read(tmp_path)
    np.testing.assert_allclose(red.rgb, np.broadcast_to((255, 0, 0), red.rgb.shape), atol=2)
    np.testing.assert_allclose(white.rgb, 255, atol=2)


@pytest.mark.parametrize("folder", ["images", "cutouts"])
def test_colour_profiles_are_applied(tmp_path: Path, folder: str) -> None:
    # sRGB with the tags of its red and blue primaries exchanged (ICC.1, 9.2).
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"####"), (b"bXYZ", b"rXYZ"), (b"####", b"bXYZ")):
        profile = profile.replace(old, new, 1)
    picture = flat((200, 20, 10, 77), mode="RGBA")
    if folder == "images":
        picture = picture.convert("RGB")
    save(tmp_path / folder / "a.png", picture, icc_profile=profile)
    (example,) = read(tmp_path)
    np.testing.assert_allclose(example.rgb, np.broadcast_to((10, 20, 200), (8, 12, 3)), atol=2)
    assert example.alpha is None or (example.alpha == 77).all()


def test_a_damaged_colour_profile_is_no_reason_to_lose_a_picture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "images/a.png", flat(), icc_profile=b"nonsense")
    (example,) = read(tmp_path)
    assert (example.rgb == GREEN).all()
    assert "profile" in warnings_of(caplog)[0]


def test_transparent_parts_are_shown_over_black(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", flat((200, 100, 50, 128), mode="RGBA"))
    (example,) = read(tmp_path)
    expected = np.rint(np.array((200, 100, 50)) * 128 / 255)
    np.testing.assert_allclose(example.rgb, np.broadcast_to(expected, (8, 12, 3)), atol=1)


@pytest.mark.parametrize("damage", ["truncated", "nonsense", "empty", "too large", "float"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_what_cannot_be_read_is_left_out_with_its_name(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
    suffix: str,
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    bad = save(tmp_path / f"images/bad.{suffix}", noise)
    content = bad.read_bytes()
    if damage == "float":
        bad = bad.rename(bad.with_suffix(".tif"))
        save(bad, np.zeros((8, 12), np.float32))
    elif damage == "too large":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    else:
        bad.write_bytes(
            {"truncated": content[: len(content) // 2], "nonsense": b"?" * 99}.get(damage, b"")
        )
    save(tmp_path / "images/good.png", flat())
    found = only(tmp_path)
    assert found.count == 2
    assert [example.name for example in found.examples()] == [f"{tmp_path.name}/good"]
    (warning,) = warnings_of(caplog)
    assert str(bad) in warning
    assert "\n" not in warning


def test_a_pair_is_left_out_when_its_mask_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "images/a.png", flat())
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/a.png").write_bytes(b"?")
    assert read(tmp_path) == []
    assert str(tmp_path / "masks/a.png") in warnings_of(caplog)[0]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_large_pictures_are_averaged_down(tmp_path: Path, suffix: str) -> None:
    # Blocks of 4 x 4 whose mean is known, at 4 times the size they end up at.
    means = np.random.default_rng(0).integers(40, 216, (160, 640)).repeat(4, 0).repeat(4, 1)
    fine = np.where(np.indices(means.shape).sum(0) % 2, 20, -20)
    fine = np.repeat((means + fine)[..., None], 3, axis=2).astype(np.uint8)
    save(tmp_path / f"images/a.{suffix}", fine, **({"quality": 98} if suffix == "jpg" else {}))
    save(tmp_path / "masks/a.png", half((2560, 640)))
    (example,) = read(tmp_path)
    assert example.rgb.shape == (160, 640, 3)
    wrong = np.abs(example.rgb[..., 0] - means[::4, ::4].astype(float))
    assert wrong.mean() < (0.5 if suffix == "png" else 3)
    np.testing.assert_array_equal(example.alpha, half((640, 160)))


def test_large_jpegs_are_never_decoded_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "images/a.jpg", flat(size=(5200, 2600)))
    sizes = []
    original = datasets._in_srgb
    monkeypatch.setattr(
        datasets, "_in_srgb", lambda p, path: sizes.append(p.size) or original(p, path)
    )
    (example,) = read(tmp_path)
    assert example.rgb.shape == (320, 640, 3)
    assert sizes == [(650, 325)]


@given(st.integers(1, 10**5), st.integers(1, 10**5))
def test_sizes_are_limited_and_keep_their_shape(width: int, height: int) -> None:
    w, h = datasets._limited(width, height)
    assert min(w, h) >= 1
    assert max(w, h) == min(max(width, height), datasets.LONGEST_SIDE_PX)
    assert abs(w * height - h * width) <= max(width, height)  # within a pixel of the side


# Cut-outs


def test_cutouts_keep_straight_colours_and_alpha(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (8, 12, 4)).astype(np.uint8)
    save(tmp_path / "cutouts/a.png", rgba)
    save(tmp_path / "cutouts/b.webp", rgba, lossless=True, exact=True)
    for example in read(tmp_path):
        assert example.kind == "cutout"
        np.testing.assert_array_equal(example.rgb, rgba[..., :3])
        np.testing.assert_array_equal(example.alpha, rgba[..., 3])


def test_palettes_with_alpha_are_cutouts(tmp_path: Path) -> None:
    palette = flat(1, mode="P")
    palette.putpalette([0, 0, 0, *GREEN])
    palette.paste(0, (0, 0, 6, 8))
    save(tmp_path / "cutouts/a.png", palette, transparency=0)
    (example,) = read(tmp_path)
    np.testing.assert_array_equal(example.alpha, 255 - half())
    assert (example.rgb[:, 6:] == GREEN).all()


def test_cutouts_without_alpha_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "cutouts/a.jpg", flat())
    save(tmp_path / "cutouts/b.png", flat())
    assert read(tmp_path) == []
    first, second = warnings_of(caplog)
    assert "a.jpg" in first
    assert "b.png" in second
    assert "without alpha" in first


def test_what_lies_under_transparent_pixels_does_not_colour_a_smaller_cutout(
    tmp_path: Path,
) -> None:
    rgba = np.zeros((640, 1280, 4), np.uint8)
    rgba[:, ::2] = (*GREEN, 255)
    rgba[:, 1::2] = (255, 0, 255, 0)
    save(tmp_path / "cutouts/a.png", rgba)
    (example,) = read(tmp_path)
    assert example.rgb.shape == (320, 640, 3)
    assert (example.rgb == GREEN).all()
    assert example.alpha is not None
    np.testing.assert_allclose(example.alpha, 127.5, atol=0.5)


# Masks


def test_grey_masks_are_taken_as_they_are(tmp_path: Path) -> None:
    soft = np.arange(96, dtype=np.uint8).reshape(8, 12)
    np.testing.assert_array_equal(alpha_of(tmp_path, soft), soft)


@pytest.mark.parametrize("mode", ["1", "0-1", "0-1 in 16 bits", "0-1 in RGB", "0-1 floats"])
def test_masks_of_two_values_become_0_and_255(tmp_path: Path, mode: str) -> None:
    ones = half(value=1)
    masks: dict[str, Any] = {
        "1": Image.fromarray(half()).convert("1"),
        "0-1": ones,
        "0-1 in 16 bits": ones.astype(np.uint16),
        "0-1 in RGB": np.repeat(ones[..., None], 3, axis=2),
        "0-1 floats": ones.astype(np.float32),
    }
    suffix = ".tif" if "floats" in mode else ".png"
    np.testing.assert_array_equal(alpha_of(tmp_path, masks[mode], suffix), half())


def test_an_empty_mask_stays_empty(tmp_path: Path) -> None:
    assert not alpha_of(tmp_path, np.zeros((8, 12), np.uint8)).any()


def test_stray_ones_in_a_lossy_mask_are_no_subject(tmp_path: Path) -> None:
    assert alpha_of(tmp_path, np.ones((8, 12), np.uint8), ".jpg").max() <= 1


@pytest.mark.parametrize(
    ("colours", "expected"),
    [
        (((0, 0, 0), (128, 0, 0), (64, 128, 0)), (0, 255, 255)),  # classes, as in DAVIS and VOC
        (((255, 255, 255), (0, 0, 0), (0, 0, 0)), (255, 0, 0)),  # an optimiser's order
        (((0, 0, 0), (1, 1, 1), (0, 0, 0)), (0, 255, 0)),
        (((0, 0, 0), (90, 90, 90), (0, 0, 0)), (0, 255, 0)),  # two values, however dark
        (((0, 0, 0), (90, 90, 90), (255, 255, 255)), (0, 90, 255)),  # a soft matte
    ],
)
def test_palette_masks(
    tmp_path: Path, colours: Sequence[tuple[int, ...]], expected: tuple[int, ...]
) -> None:
    indices = np.arange(96).reshape(8, 12) % 3
    mask = Image.fromarray(indices.astype(np.uint8), "L").copy()
    mask = Image.frombytes("P", mask.size, mask.tobytes())
    mask.putpalette([value for colour in colours for value in colour])
    np.testing.assert_array_equal(alpha_of(tmp_path, mask), np.array(expected)[indices])


def test_colour_masks_count_by_luma_and_not_by_their_alpha(tmp_path: Path) -> None:
    rgba = np.zeros((8, 12, 4), np.uint8)
    rgba[:, :6] = (255, 255, 255, 0)
    rgba[:, 6:] = (0, 255, 0, 255)
    alpha = alpha_of(tmp_path, rgba)
    assert (alpha[:, :6] == 255).all()
    assert (alpha[:, 6:] == round(0.587 * 255)).all()  # ITU-R BT.601


@pytest.mark.parametrize(("scale", "top"), [(257, 65535), (1, 255)])
def test_masks_of_16_bits(tmp_path: Path, scale: int, top: int) -> None:
    soft = np.arange(96, dtype=np.uint16).reshape(8, 12) * 2
    deep = soft * scale
    deep[0, 0] = top  # 8-bit values in a 16-bit file are told by their maximum
    expected = soft.copy()
    expected[0, 0] = 255
    np.testing.assert_array_equal(alpha_of(tmp_path, deep.astype(np.uint16)), expected)


@pytest.mark.parametrize(("size", "fits"), [((24, 16), True), ((6, 4), True), ((49, 32), False)])
def test_masks_of_another_size_are_fitted_if_the_shape_agrees(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: tuple[int, int], fits: bool
) -> None:
    if fits:
        alpha = alpha_of(tmp_path, half(size))
        np.testing.assert_array_equal(alpha[:, [0, -1]], half()[:, [0, -1]])
        assert 0.4 < alpha.mean() / 255 < 0.6
    else:
        save(tmp_path / "images/a.png", flat())
        save(tmp_path / "masks/a.png", half(size))
        assert read(tmp_path) == []
        assert "49x32" in warnings_of(caplog)[0]


@pytest.mark.parametrize(("height", "count"), [(197, 1), (204, 1), (196, 0), (205, 0)])
def test_how_far_shapes_may_differ(tmp_path: Path, height: int, count: int) -> None:
    # Two per cent, as a ratio: 200 / 196 is more.
    save(tmp_path / "images/a.png", flat(size=(200, 200)))
    save(tmp_path / "masks/a.png", half((200, height)))
    assert len(read(tmp_path)) == count


# Clips

SIZE = (64, 48)


def grey_video(path: Path, values: Sequence[int], size: tuple[int, int] = SIZE) -> Path:
    """Write a lossless grey video of flat frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = b"".join(bytes([value]) * (size[0] * size[1]) for value in values)
    frames = len(values)
    return make_clip(path, size=size, frames=frames, raw=raw, raw_pix_fmt="gray", pix_fmt="gray")


def counting_clip(path: Path, frames: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return make_clip(path, frames=frames)


def numbers_in(examples: Sequence[Example]) -> list[int]:
    return [frame_numbers(example.rgb[None, ..., 1])[0] for example in examples]


@pytest.mark.parametrize("mask_name", ["walk.mkv", "walk.gt.mkv", "walk.matte.mkv"])
def test_every_fifth_frame_of_a_clip_with_its_mask(tmp_path: Path, mask_name: str) -> None:
    counting_clip(tmp_path / "set/clips/walk.mp4")
    grey_video(tmp_path / "set/masks" / mask_name, range(0, 240, 20))
    found = only(tmp_path)
    assert (found.name, found.kind, found.count) == ("set", "pair", 3)
    examples = list(found.examples())
    assert [e.name for e in examples] == [f"set/walk/{n:06d}" for n in (0, 5, 10)]
    assert numbers_in(examples) == [0, 5, 10]
    for example, value in zip(examples, (0, 100, 200), strict=True):
        assert example.alpha is not None
        assert example.alpha.shape == example.rgb.shape[:2] == SIZE[::-1]
        assert (example.alpha == value).all()


def test_masks_in_a_folder_of_numbered_pictures(tmp_path: Path) -> None:
    counting_clip(tmp_path / "clips/walk.mp4")
    for number in range(12):  # 10.png sorts before 2.png as text
        save(tmp_path / f"masks/walk/{number}.png", flat(number * 20, SIZE, "L"))
    examples = read(tmp_path)
    assert numbers_in(examples) == [0, 5, 10]
    assert [int(e.alpha[0, 0]) for e in examples if e.alpha is not None] == [0, 100, 200]


@pytest.mark.parametrize("kind", ["video", "pictures"])
def test_counts_that_differ_are_an_error_that_names_both(tmp_path: Path, kind: str) -> None:
    clip = counting_clip(tmp_path / "clips/walk.mp4")
    masks = tmp_path / "masks/walk"
    if kind == "video":
        masks = grey_video(tmp_path / "masks/walk.mkv", range(11))
    else:
        for number in range(11):
            save(masks / f"{number}.png", flat(0, SIZE, "L"))
    with pytest.raises(InputError, match="12 frames, but 11 masks") as caught:
        datasets.find(tmp_path)
    assert str(clip) in str(caught.value)
    assert str(masks) in str(caught.value)


def test_counts_that_differ_only_when_decoded_are_an_error_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting_clip(tmp_path / "clips/walk.mp4")
    grey_video(tmp_path / "masks/walk.mkv", range(14))
    monkeypatch.setattr(datasets, "_packet_count", lambda path: 12)
    with pytest.raises(InputError, match="12 frames, but 14 masks"):
        read(tmp_path)


def test_packets_that_show_nothing_are_not_held_against_a_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = counting_clip(tmp_path / "clips/walk.mp4")
    grey_video(tmp_path / "masks/walk.mkv", range(12))
    counted = datasets._packet_count
    monkeypatch.setattr(datasets, "_packet_count", lambda path: counted(path) + (path == clip))
    assert only(tmp_path).count == 3


def test_clips_without_masks_are_counted_in_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for stem in "abc":
        counting_clip(tmp_path / f"clips/{stem}.mp4", 2)
    grey_video(tmp_path / "masks/b.mkv", [0, 0])
    assert [example.name.split("/")[1] for example in read(tmp_path)] == ["b"]
    assert "2 of 3 clips" in warnings_of(caplog)[0]


def test_no_clip_with_masks_is_an_error(tmp_path: Path) -> None:
    counting_clip(tmp_path / "clips/a.mp4", 2)
    grey_video(tmp_path / "masks/b.mkv", [0, 0])
    with pytest.raises(InputError, match="none of its 1 clips"):
        datasets.find(tmp_path)


def test_a_clip_that_is_no_video_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for stem in "ab":
        counting_clip(tmp_path / f"clips/{stem}.mp4", 2)
        grey_video(tmp_path / f"masks/{stem}.mkv", [0, 0])
    (tmp_path / "clips/a.mp4").write_bytes(b"#EXTM3U\nb.mp4\n")
    assert [example.name.split("/")[1] for example in read(tmp_path)] == ["b"]
    assert "a.mp4" in warnings_of(caplog)[0]
    (tmp_path / "clips/b.mp4").write_bytes(b"?")
    with pytest.raises(InputError, match="none of its clips can be read"):
        datasets.find(tmp_path)


def test_a_clip_damaged_after_it_was_found_ends_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stem in "ab":
        counting_clip(tmp_path / f"clips/{stem}.mp4")
        grey_video(tmp_path / f"masks/{stem}.mkv", range(12))
    original = datasets._decoded

    def broken(path: Path) -> Any:
        for number, frame in enumerate(original(path)):
            if path.name == "a.mp4" and number == 7:
                raise av.InvalidDataError(1, "Invalid data", str(path))
            yield frame

    found = only(tmp_path)
    monkeypatch.setattr(datasets, "_decoded", broken)
    names = [example.name.split("/", 1)[1] for example in found.examples()]
    assert names == ["a/000000", "a/000005", "b/000000", "b/000005", "b/000010"]
    assert "a.mp4" in warnings_of(caplog)[0]


@pytest.mark.parametrize(
    ("matrix", "height"), [("bt709", 48), ("smpte170m", 48), (None, 48), (None, 720)]
)
def test_frames_become_rgb_by_their_matrix(tmp_path: Path, matrix: str | None, height: int) -> None:
    codes = (100, 90, 180)
    (tmp_path / "clips").mkdir()
    make_clip(
        tmp_path / "clips/a.mkv",
        size=(64, height),
        frames=1,
        raw=b"".join(bytes([code]) * (64 * height) for code in codes),
        raw_pix_fmt="yuv444p",
        pix_fmt="yuv444p",
        matrix=matrix,
    )
    grey_video(tmp_path / "masks/a.mkv", [255], (64, height))
    # H.273, 8.3: limited range; untagged is BT.601 below 720 lines, else BT.709.
    is_hd = matrix == "bt709" or (matrix is None and height == 720)
    kr, kb = (0.2126, 0.0722) if is_hd else (0.299, 0.114)
    y, cb, cr = (codes[0] - 16) / 219, (codes[1] - 128) / 224, (codes[2] - 128) / 224
    r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    expected = 255 * np.array([r, (y - kr * r - kb * b) / (1 - kr - kb), b])
    (example,) = read(tmp_path)
    np.testing.assert_allclose(example.rgb[4, 4], expected, atol=1.5)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_turned_clips_stand_upright(tmp_path: Path, rotation: int) -> None:
    (tmp_path / "clips").mkdir()
    make_clip(tmp_path / "clips/a.mp4", frames=1, first_number=0b101100111, rotation=rotation)
    upright = np.rot90(counter_luma([0b101100111], SIZE)[0], -rotation // 90)  # clockwise
    grey_video(tmp_path / "masks/a.mkv", [255], upright.shape[::-1])
    (example,) = read(tmp_path)
    assert example.rgb.shape[:2] == upright.shape
    seen = example.rgb.mean(axis=2)
    assert np.corrcoef(seen.ravel(), upright.ravel())[0, 1] > 0.95


def test_a_lossy_mask_video_reaches_from_0_to_255(tmp_path: Path) -> None:
    counting_clip(tmp_path / "clips/a.mp4", 6)
    (tmp_path / "masks").mkdir()
    chroma = bytes([128]) * (2 * 32 * 24)
    raw = b"".join(bytes([code]) * (64 * 48) + chroma for code in (16, 16, 16, 16, 16, 235))
    make_clip(tmp_path / "masks/a.mp4", frames=6, raw=raw)
    empty, full = read(tmp_path)
    assert empty.alpha is not None
    assert full.alpha is not None
    assert empty.alpha.max() <= 1
    assert full.alpha.min() >= 253


def test_frames_are_no_larger_than_pictures(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    raw = counter_frames(1, (1280, 720))
    make_clip(tmp_path / "clips/a.mp4", size=(1280, 720), frames=1, raw=raw)
    grey_video(tmp_path / "masks/a.mkv", [255], (320, 180))
    (example,) = read(tmp_path)
    assert example.rgb.shape == (360, 640, 3)
    assert example.alpha is not None
    assert example.alpha.shape == (360, 640)


# COCO


def crowd(mask: np.ndarray) -> dict[str, Any]:
    """Write a mask as COCO's plain run lengths: columns after one another, zeros first."""
    column = mask.T.ravel()
    edges = np.flatnonzero(np.diff(column)) + 1
    counts = np.diff([0, *edges, len(column)]).tolist()
    return {"counts": [0, *counts] if column[0] else counts, "size": list(mask.shape)}


def coco_content() -> dict[str, Any]:
    """Three pictures of 40 x 30: a polygon and a crowd, another category, a missing file."""
    right = np.zeros((30, 40), np.uint8)
    right[10:20, 30:35] = 1
    square = [4.0, 6.0, 14.0, 6.0, 14.0, 16.0, 4.0, 16.0]

    def marked(number: int, image: int, kind: int, segmentation: Any, **more: Any) -> Any:
        return {
            "id": number,
            "image_id": image,
            "category_id": kind,
            "iscrowd": 0,
            "segmentation": segmentation,
            **more,
        }

    return {
        "images": [
            {"id": n, "file_name": f"{n:012d}.png", "width": 40, "height": 30} for n in (3, 2, 1)
        ],
        "annotations": [
            marked(1, 1, 7, [[20, 2, 5, 5], square]),  # two corners enclose nothing
            marked(2, 1, 7, crowd(right), iscrowd=1),
            marked(3, 1, 9, [[0, 0, 40, 0, 40, 30, 0, 30]]),
            marked(4, 2, 9, [square]),
            marked(5, 3, 7, [square]),
        ],
        "categories": [{"id": 7, "name": "person"}, {"id": 9, "name": "dog"}],
    }


def write_coco(folder: Path, content: Any, missing: Sequence[int] = (3,)) -> tuple[Path, Path]:
    pytest.importorskip("pycocotools")
    for number in {1, 2, 3} - set(missing):
        save(folder / f"pictures/{number:012d}.png", flat(size=(40, 30)))
    path = folder / "instances_tiny.json"
    path.write_text(json.dumps(content) if not isinstance(content, str) else content)
    return path, folder / "pictures"


def test_coco_pictures_with_the_union_of_a_category(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    found = datasets.coco(*write_coco(tmp_path, coco_content()), "person")
    assert (found.name, found.kind, found.count) == ("instances_tiny", "pair", 1)
    (example,) = found.examples()
    assert (example.kind, example.name) == ("pair", "instances_tiny/000000000001")
    expected = np.zeros((30, 40), np.uint8)
    expected[6:16, 4:14] = 255
    expected[10:20, 30:35] = 255
    np.testing.assert_array_equal(example.alpha, expected)
    (warning,) = warnings_of(caplog)
    assert "1 of 2 pictures" in warning
    assert capsys.readouterr().out == ""


def test_coco_examples_come_sorted_and_of_the_category_asked_for(tmp_path: Path) -> None:
    found = datasets.coco(*write_coco(tmp_path, coco_content(), missing=()), "dog")
    names = [example.name for example in found.examples()]
    assert names == [f"instances_tiny/{n:012d}" for n in (1, 2)]


def test_coco_compressed_run_lengths(tmp_path: Path) -> None:
    coded = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(0).integers(0, 2, (30, 40)).astype(np.uint8)
    packed = coded.encode(np.asfortranarray(mask))
    content = coco_content()
    content["annotations"] = content["annotations"][:1]
    content["annotations"][0]["segmentation"] = {
        "size": [30, 40],
        "counts": packed["counts"].decode(),
    }
    (example,) = datasets.coco(*write_coco(tmp_path, content), "person").examples()
    np.testing.assert_array_equal(example.alpha, mask * 255)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_run_lengths_are_read_as_pycocotools_writes_them(runs: list[int]) -> None:
    coded = pytest.importorskip("pycocotools.mask")
    packed = coded.frPyObjects({"counts": runs, "size": [sum(runs), 1]}, sum(runs), 1)
    assert datasets._decompressed(packed["counts"].decode()) == runs


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [30, 40], "counts": "zzzzz"},
        {"size": [30, 40], "counts": "\u00e9"},
        {"size": [30, 40], "counts": "P"},
        {"size": [30, 40], "counts": [5, 6]},
        {"size": [30, 40], "counts": [-10, 1210]},
        {"size": [30, 40], "counts": [[1200]]},
        {"size": [30, 41], "counts": [1230]},
        {"size": [30, 40]},
        {"size": 5, "counts": [1200]},
        [[1, 2, 3, 4, 5, 6, 7]],
        [[0, 0, 1e12, 0, 1e12, 1e12]],
        [[0, 0, float("nan"), 0, 5, 5]],
        [["a", "b", "c", "d", "e", "f"]],
        "outline",
        7,
    ],
)
def test_coco_damaged_outlines_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, segmentation: Any
) -> None:
    content = coco_content()
    content["annotations"] += [{**content["annotations"][4], "segmentation": segmentation}]
    found = datasets.coco(*write_coco(tmp_path, content, missing=()), "person")
    assert found.count == 2
    assert [example.name for example in found.examples()] == ["instances_tiny/000000000001"]
    (warning,) = warnings_of(caplog)
    assert "000000000003.png" in warning


def test_coco_instances_without_outline_leave_their_picture_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = coco_content()
    content["annotations"] += [{**content["annotations"][0], "segmentation": []}]
    found = datasets.coco(*write_coco(tmp_path, content, missing=()), "person")
    assert [example.name for example in found.examples()] == ["instances_tiny/000000000003"]
    assert "1 pictures" in warnings_of(caplog)[0]


def test_coco_unknown_category_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape("no category 'persn'")) as caught:
        datasets.coco(*write_coco(tmp_path, coco_content()), "persn")
    assert "person, dog" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        '{"images": [',
        "[" * 100_000,
        "",
        "[]",
        "{}",
        '"text"',
        "7",
        '{"images": 1, "annotations": 2, "categories": 3}',
        '{"images": [1], "annotations": [2], "categories": [3]}',
        '{"images": [], "annotations": [], "categories": []}',
        '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}',
        '{"images": [], "annotations": [], "categories": [{"id": [], "name": "person"}]}',
        '{"images": [], "annotations": [], "categories": [{"id": 1, "name": 5}]}',
    ],
)
def test_coco_damaged_annotations_are_one_line(tmp_path: Path, content: str) -> None:
    path, pictures = write_coco(tmp_path, content)
    with pytest.raises(InputError) as caught:
        datasets.coco(path, pictures, "person")
    assert caught.value.path == path
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"width": "wide"},
        {"width": None},
        {"width": float("inf")},
        {"file_name": 5},
        {"file_name": "a\0b"},
    ],
)
def test_coco_damaged_picture_entries(tmp_path: Path, changed: dict[str, Any]) -> None:
    content = coco_content()
    for entry in content["images"]:
        entry.update(changed)
    path, pictures = write_coco(tmp_path, content)
    with pytest.raises(InputError):
        datasets.coco(path, pictures, "person")


def test_coco_file_names_stay_in_their_folder(tmp_path: Path) -> None:
    content = coco_content()
    for entry in content["images"]:
        entry["file_name"] = f"../{entry['file_name']}"
    path, pictures = write_coco(tmp_path, content, missing=(1, 2, 3))
    save(tmp_path / "000000000001.png", flat(size=(40, 30)))
    pictures.mkdir()
    with pytest.raises(InputError, match="none of the 2 pictures"):
        datasets.coco(path, pictures, "person")


def test_coco_missing_annotations(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    with pytest.raises(InputError, match="cannot be read"):
        datasets.coco(tmp_path / "none.json", tmp_path, "person")


def test_coco_without_pycocotools_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(VidbgError, match=re.escape('pip install "vidbg[train]"')):
        datasets.coco(tmp_path / "a.json", tmp_path, "person")


# Real data


@pytest.mark.shared
def test_the_shared_training_data_is_what_its_manifest_says(shared_dir: Path) -> None:
    train = shared_dir / "data/train"
    expected: dict[str, int] = {}
    for line in (shared_dir / "data/MANIFEST.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 5 or not cells[1].startswith("train/"):
            continue
        names = re.sub(r"^train/|\s*/\S*$|[{}]", "", cells[1])
        counts = [int(count) for count in cells[3].split(",")]
        expected |= dict(zip(names.split(", "), counts, strict=False))
    found = {dataset.name: dataset for dataset in datasets.find(train)}
    assert len(found) == 24
    assert {name: dataset.count for name, dataset in found.items()} == expected
    pairs = {
        "ccp",
        "ecssd",
        "pascal_s",
        "weizmann_horse",
        "coseg_cow",
        "davis_bear",
        "davis_tennis",
    }
    for name, dataset in found.items():
        special = {"cutouts": "cutout", "backgrounds": "background"}
        assert dataset.kind == special.get(name, "pair" if name in pairs else "photo")
        example = next(dataset.examples())
        assert example.name.startswith(f"{name}/")
        assert max(example.rgb.shape) <= 400
        if example.alpha is not None:
            assert example.alpha.shape == example.rgb.shape[:2]
            assert example.alpha.min() == 0
            assert example.alpha.max() >= 250
