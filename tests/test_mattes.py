from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from clips import make_clip
from numpy.typing import NDArray

from vidbg.errors import InputError
from vidbg.evaluation import mattes

RAMP = np.linspace(0, 255, 40).astype(np.uint8).reshape(1, 40).repeat(30, axis=0)
SOFT = (RAMP / 255).astype(np.float32)


def written(path: Path, samples: NDArray[Any]) -> Path:
    assert cv2.imwrite(str(path), samples)
    return path


def test_pictures_of_every_kind_say_the_same(tmp_path: Path) -> None:
    deep = RAMP.astype(np.uint16) * 257
    cut_out = np.dstack([np.full((30, 40, 3), 90, np.uint8), RAMP])
    opaque = np.dstack([RAMP, RAMP, RAMP, np.full_like(RAMP, 255)])
    pictures = {
        "grey.png": RAMP,
        "grey.tif": RAMP,
        "deep.png": deep,
        "colour.png": np.dstack([RAMP] * 3),
        "cut-out.png": cut_out,  # its transparency counts
        "opaque.png": opaque,  # it has none that counts
        "grey é.png": RAMP,
    }
    for name, samples in pictures.items():
        path = tmp_path / "coded"
        path = written(path.with_suffix(Path(name).suffix), samples).rename(tmp_path / name)
        found = mattes.read_picture(path)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, SOFT, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("pix_fmt", "colour_range", "low", "high"),
    [
        ("gray", None, 0, 255),
        ("yuv420p", "tv", 16, 235),
        ("yuv420p", None, 16, 235),
        ("yuv420p", "pc", 0, 255),
        ("yuv444p10le", "tv", 64, 940),
        ("gbrp", None, 0, 255),
    ],
)
def test_black_is_0_and_white_is_1_in_every_range(
    tmp_path: Path, pix_fmt: str, colour_range: str | None, low: int, high: int
) -> None:
    codes = np.full((30, 40), low)
    codes[:, 10:20], codes[:, 20:] = (low + high) // 2, high
    if "10" in pix_fmt:
        neutral = np.full((30, 40), 512, "<u2")
        raw = codes.astype("<u2").tobytes() + 2 * neutral.tobytes()
    else:
        luma = codes.astype(np.uint8).tobytes()
        chroma = {"gray": b"", "yuv420p": bytes([128]) * 600, "gbrp": 2 * luma}[pix_fmt]
        raw = luma + chroma
    path = make_clip(
        tmp_path / "matte.mkv",
        size=(40, 30),
        raw=2 * raw,
        raw_pix_fmt=pix_fmt,
        pix_fmt=None,
        codec="ffv1",
        colour_range=colour_range,
    )
    opened = mattes.open_matte(path)
    assert opened.count == 2
    found = list(opened)
    assert len(found) == 2
    for picture in found:
        assert (picture[:, :10] == 0).all()
        assert (picture[:, 20:] == 1).all()
        np.testing.assert_allclose(picture[:, 10:20], 0.5, atol=0.5 / 200)
    assert len(list(opened)) == 2  # it can be read again


def test_the_alpha_of_a_clip_counts(tmp_path: Path) -> None:
    opaque, cut = bytes([255]) * 1200, RAMP.tobytes()
    planes = bytes([70]) * 3600

    def read(*alphas: bytes) -> list[NDArray[np.float32]]:
        path = make_clip(
            tmp_path / "cut.mkv",
            size=(40, 30),
            raw=b"".join(planes + alpha for alpha in alphas),
            raw_pix_fmt="gbrap",
            pix_fmt=None,
            codec="ffv1",
        )
        return list(mattes.open_matte(path))

    # In the first and the last frame the subject is all there is to see.
    whole, *middle, last = read(opaque, cut, cut, opaque)
    for found in middle:
        np.testing.assert_allclose(found, SOFT, atol=1e-6)
    assert (whole == 1).all()
    assert (last == 1).all()
    # Where nothing is transparent from end to end, alpha says nothing.
    for found in read(opaque, opaque):
        np.testing.assert_allclose(found, 70 / 255, atol=1e-6)


def test_numbered_pictures_come_in_the_order_of_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 9, 10, 11, 100):
        written(tmp_path / f"frame{number}.png", np.full((4, 5), number, np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    opened = mattes.open_matte(tmp_path)
    assert opened.count == 6
    assert [round(255 * float(matte[0, 0])) for matte in opened] == [1, 2, 9, 10, 11, 100]


def test_one_picture_is_a_matte(tmp_path: Path) -> None:
    opened = mattes.open_matte(written(tmp_path / "one.png", RAMP))
    assert opened.count == 1
    np.testing.assert_allclose(next(iter(opened)), SOFT, atol=1e-6)


def test_pictures_are_matched_by_name(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder in (images, masks):
        folder.mkdir()
    for name in ("b", "a"):
        written(images / f"{name}.jpg", RAMP)
        written(masks / f"{name}.png", RAMP)
    written(masks / "unused.png", RAMP)
    found = [(picture.name, mask.name) for picture, mask in mattes.matching(images, masks)]
    assert found == [("a.jpg", "a.png"), ("b.jpg", "b.png")]
    written(masks / "a.bmp", RAMP)
    with pytest.raises(InputError, match=r"masks: has more than one truth for a\.jpg"):
        mattes.matching(images, masks)
    (masks / "a.bmp").unlink()
    (masks / "a.png").unlink()
    with pytest.raises(InputError, match=r"masks: has no truth for a\.jpg"):
        mattes.matching(images, masks)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no pictures"):
        mattes.open_matte(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        mattes.open_matte(tmp_path / "no.png")
    text = tmp_path / "text.png"
    text.write_text("this is no picture")
    with pytest.raises(InputError, match=r"text\.png: cannot be read as a picture"):
        mattes.read_picture(text)


def edge(soft_columns: int) -> NDArray[np.float32]:
    """White and black halves of 500 x 100 pixels with so many half-tones in one row between."""
    truth = np.zeros((100, 500), np.float32)
    truth[:, 250:] = 1
    truth[50, :soft_columns] = 0.5
    return truth


def test_the_kind_of_a_truth_shows_in_its_values() -> None:
    path = Path("truth")
    assert mattes.kind_of([edge(0)] * 2, path) == mattes.BINARY
    assert mattes.kind_of([edge(50)], path) == mattes.BINARY  # a thousandth of the pixels
    assert mattes.kind_of([edge(51)], path) == mattes.ALPHA
    assert mattes.kind_of([edge(0), edge(0), edge(51)], path) == mattes.ALPHA
    near = np.clip(edge(0), 2 / 255, 253 / 255)  # what an encoder's rounding leaves
    assert mattes.kind_of([near], path) == mattes.BINARY
    assert mattes.kind_of([np.zeros_like(near), near], path) == mattes.BINARY


def test_a_truth_without_foreground_is_none() -> None:
    for level in (0.0, 1 / 255, 0.4):
        with pytest.raises(InputError, match="truth: has no foreground"):
            mattes.kind_of([np.full((4, 4), level, np.float32)] * 2, Path("truth"))


def test_no_more_of_a_soft_truth_is_read_than_needed() -> None:
    truths = iter([edge(0), edge(51), edge(0)])
    assert mattes.kind_of(truths, Path("truth")) == mattes.ALPHA
    assert len(list(truths)) == 1
