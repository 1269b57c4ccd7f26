from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import decode_planes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg.colour import planes_to_rgb
from vidbg.errors import InputError, VidbgError
from vidbg.frames import Colour, PlaneFormat
from vidbg.matting.chroma import ChromaKeyer, estimate_key

GREEN, BLUE, MAGENTA = (0, 177, 64), (10, 60, 190), (255, 0, 255)
KEYS = [GREEN, (60, 160, 80), BLUE, MAGENTA, (220, 30, 40), (20, 210, 200), (230, 210, 20)]

Picture = NDArray[np.uint8]
Values = NDArray[np.floating]


def over(
    foreground: Values | tuple[int, ...], alpha: Values, screen: Values | tuple[int, ...]
) -> Picture:
    """The composite of a foreground over a screen, rounded, (1, H, W, 3)."""
    a = alpha[..., None]
    mixed = np.asarray(foreground, float) * a + np.asarray(screen, float) * (1 - a)
    return np.rint(np.broadcast_to(mixed, (*alpha.shape, 3))).astype(np.uint8)[None]


def disc(height: int = 180, width: int = 320, soft_px: float = 0.0) -> Values:
    """A round subject in the middle of the frame; its edge is a ramp of that width."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height / 2 + 0.5, x - width / 2 + 0.5)
    return np.clip((height / 4 - distance) / max(soft_px, 1e-6) + 0.5, 0, 1)


def plain_keyer(key: tuple[int, int, int]) -> ChromaKeyer:
    """A keyer that clips neither black nor white."""
    return ChromaKeyer(key, similarity=0.0, smoothness=1.0)


def test_keeps_to_the_contract_of_a_segmenter() -> None:
    keyer = ChromaKeyer(GREEN)
    assert keyer.name == "chroma"
    assert keyer.input_size(1917, 1079) == (1079, 1917)
    assert keyer.input_size(720, 576, Fraction(16, 15)) == (576, 720)
    assert keyer.batch_size(1079, 1917) == 1
    matte = keyer(np.zeros((3, 20, 30, 3), np.uint8))
    assert matte.dtype == np.float32
    assert matte.shape == (3, 20, 30)


def test_a_batch_gives_what_its_frames_give_one_by_one() -> None:
    rng = np.random.default_rng(0)
    frames = np.concatenate(
        [
            over((200, 150, 120), disc(soft_px=9), GREEN),
            over((20, 20, 25), disc(soft_px=30), (30, 120, 60)),
            rng.integers(0, 256, (1, 180, 320, 3), np.uint8),
        ]
    )
    keyer = ChromaKeyer(GREEN)

    together = keyer(frames)

    for frame, matte in zip(frames, together, strict=True):
        assert (keyer(frame[None])[0] == matte).all()


@pytest.mark.parametrize("key", KEYS)
def test_a_bare_screen_is_transparent(key: tuple[int, int, int]) -> None:
    assert not ChromaKeyer(key)(over(key, np.ones((90, 160)), key)).any()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("foreground", [(0, 0, 0), (18, 18, 20), (128, 128, 128), (255, 255, 255)])
def test_grey_black_and_white_are_opaque(
    key: tuple[int, int, int], foreground: tuple[int, int, int]
) -> None:
    truth = disc()
    matte = ChromaKeyer(key)(over(foreground, truth, key))[0]
    assert (matte == truth).all()


@pytest.mark.parametrize("key", [GREEN, BLUE])
@pytest.mark.parametrize(
    "skin", [(255, 219, 172), (224, 172, 105), (198, 134, 66), (141, 85, 36), (90, 56, 40)]
)
def test_skin_is_opaque_before_green_and_blue(
    key: tuple[int, int, int], skin: tuple[int, int, int]
) -> None:
    truth = disc()
    assert (ChromaKeyer(key)(over(skin, truth, key))[0] == truth).all()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("foreground", [(30, 30, 30), (128, 128, 128), (240, 240, 240)])
def test_alpha_is_the_share_of_foreground_in_the_mixture(
    key: tuple[int, int, int], foreground: tuple[int, int, int]
) -> None:
    truth = disc(soft_px=40)

    matte = plain_keyer(key)(over(foreground, truth, key))[0]

    # The weakest of these keys has a colour difference of 80 levels, rounding up to 1.
    assert np.abs(matte - truth).max() < 0.03
    assert np.abs(matte - truth).mean() < 0.003


@pytest.mark.parametrize(
    "foreground", [(230, 40, 30), (250, 210, 40), (60, 50, 160), (150, 90, 50)]
)
def test_coloured_foreground_does_not_bend_the_ramp(foreground: tuple[int, int, int]) -> None:
    truth = disc(720, 1280, soft_px=8)

    matte = plain_keyer(GREEN)(over(foreground, truth, GREEN))[0]

    # The equation of the textbooks, without knowledge of the foreground.
    mixed = over(foreground, truth, GREEN)[0].astype(float)
    difference = mixed[..., 1] - np.maximum(mixed[..., 0], mixed[..., 2])
    textbook = np.clip(1 - difference / (177 - 64), 0, 1)
    is_soft = (truth > 0) & (truth < 1)
    assert np.abs(matte - truth)[is_soft].mean() < 0.02
    assert np.abs(textbook - truth)[is_soft].mean() > 0.08


def test_dark_strands_beside_a_white_shirt_keep_their_alpha() -> None:
    # The nearest foreground is white: solving for it alone would make black hair transparent.
    truth = np.zeros((180, 320))
    truth[:, :100] = 1
    foreground = np.full((180, 320, 3), 245.0)
    for y in range(10, 170, 16):
        truth[y : y + 3, 100:180] = 0.5
        foreground[y : y + 3, 100:180] = 12

    matte = plain_keyer(GREEN)(over(foreground, truth, GREEN))[0]

    strands = (truth == 0.5) & (np.arange(320) > 110)
    assert np.abs(matte[strands] - 0.5).mean() < 0.2


@pytest.mark.parametrize("key", [GREEN, BLUE])
def test_an_unevenly_lit_screen_is_transparent(key: tuple[int, int, int]) -> None:
    y, x = np.mgrid[:180, :320] / 320
    light = 0.55 + 0.6 * x + 0.1 * np.sin(9 * y)
    hot_spot = 0.4 * np.exp(-(((x - 0.75) / 0.2) ** 2) - ((y - 0.2) / 0.2) ** 2)[..., None]
    screen = np.clip(np.asarray(key) * light[..., None], 0, 255)
    screen += (255 - screen) * hot_spot
    truth = disc(soft_px=6)

    matte = ChromaKeyer(key)(over((150, 140, 135), truth, screen))[0]

    assert np.abs(matte - truth).mean() < 5e-3
    assert (matte[truth == 0] < 0.1).all()
    assert (matte[truth == 1] == 1).all()


def test_the_key_need_not_be_exact() -> None:
    truth = disc(soft_px=10)
    frame = over((120, 110, 100), truth, (35, 165, 75))
    exact, rough = (ChromaKeyer(key)(frame)[0] for key in ((35, 165, 75), (0, 177, 64)))
    assert np.abs(exact - truth).mean() < 3e-3
    assert np.abs(rough - truth).mean() < 3e-3


def test_noise_of_4_2_0_video_stays_out_of_the_matte() -> None:
    rng = np.random.default_rng(0)
    truth = disc(360, 640, soft_px=4)
    frame = over((190, 140, 120), truth, GREEN)[0]
    ycc = cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb).astype(float)
    chroma = cv2.resize(ycc[..., 1:], (320, 180), interpolation=cv2.INTER_AREA)
    ycc[..., 1:] = cv2.resize(chroma + rng.normal(0, 1.5, chroma.shape), (640, 360))
    ycc[..., 0] += rng.normal(0, 2, truth.shape)
    noisy = cv2.cvtColor(np.clip(np.rint(ycc), 0, 255).astype(np.uint8), cv2.COLOR_YCrCb2RGB)

    matte = ChromaKeyer(GREEN)(noisy[None])[0]

    away = np.abs(disc(360, 640, soft_px=40) - 0.5) == 0.5
    assert (matte[away] == truth[away]).mean() > 0.999
    assert np.abs(matte - truth).mean() < 3e-3


def test_a_small_hole_in_a_red_subject_is_seen() -> None:
    truth = np.zeros((720, 1280))
    truth[100:600, 300:900] = 1
    truth[301:304, 500:503] = 0

    matte = ChromaKeyer(GREEN)(over((220, 20, 30), truth, GREEN))[0]

    assert (matte[301:304, 500:503] < 0.1).all()
    assert (matte[320:500, 320:800] == 1).all()


def test_a_strand_of_one_pixel_is_seen() -> None:
    truth = np.zeros((720, 1280))
    truth[400:, 300:900] = 1
    truth[200:400, 601] = 1

    matte = ChromaKeyer(GREEN)(over((40, 25, 20), truth, GREEN))[0]

    assert (matte[210:390, 601] > 0.9).all()
    assert not matte[210:390, 610:].any()


@settings(deadline=None, max_examples=20)
@given(low=st.floats(0, 1), high=st.floats(0, 1), smoothness=st.floats(0, 1))
def test_more_similarity_never_adds_foreground(low: float, high: float, smoothness: float) -> None:
    low, high = sorted((low, high))
    frame = over((180, 90, 60), disc(90, 160, soft_px=25), GREEN)
    less, more = (ChromaKeyer(GREEN, value, smoothness)(frame) for value in (low, high))
    assert (more <= less + 1e-6).all()


def test_full_similarity_takes_everything() -> None:
    frame = over((230, 40, 30), disc(soft_px=20), GREEN)
    assert not ChromaKeyer(GREEN, similarity=1.0)(frame).any()


@pytest.mark.parametrize(("similarity", "smoothness"), [(0.0, 1.0), (0.2, 1.0), (0.1, 0.5)])
def test_the_ramp_lies_where_the_options_say(similarity: float, smoothness: float) -> None:
    truth = disc(soft_px=50)

    matte = ChromaKeyer(GREEN, similarity, smoothness)(over((128, 128, 128), truth, GREEN))[0]

    width = (1 - similarity) * smoothness
    expected = np.clip((truth - similarity) / width, 0, 1)
    # One level of the colour difference is 1/113, steepened by the clips.
    assert np.abs(matte - expected).max() < 2 / 113 / width


def test_no_smoothness_is_a_hard_edge_at_the_similarity() -> None:
    truth = disc(soft_px=50)
    matte = ChromaKeyer(GREEN, 0.3, 0.0)(over((128, 128, 128), truth, GREEN))[0]
    assert set(np.unique(matte)) == {0.0, 1.0}
    assert (matte[truth < 0.28] == 0).all()
    assert (matte[truth > 0.32] == 1).all()


@settings(deadline=None)
@given(height=st.integers(1, 30), width=st.integers(1, 30), seed=st.integers(0, 3))
def test_any_size_and_content_gives_alpha_in_range(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (1, height, width, 3), np.uint8)
    for content in (frame, np.zeros_like(frame), np.full_like(frame, 255)):
        for smoothness in (0.0, 0.95):
            matte = ChromaKeyer(BLUE, 0.02, smoothness)(content)
            assert matte.shape == (1, height, width)
            assert ((matte >= 0) & (matte <= 1)).all()


@pytest.mark.parametrize("key", [(0, 0, 0), (128, 128, 128), (255, 255, 255), (120, 130, 125)])
def test_a_key_without_colour_is_refused(key: tuple[int, int, int]) -> None:
    with pytest.raises(VidbgError, match="too little colour") as caught:
        ChromaKeyer(key)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("key", "similarity", "smoothness"),
    [((0, 300, 0), 0.1, 0.1), (GREEN, -0.1, 0.5), (GREEN, 1.1, 0.5), (GREEN, 0.5, float("nan"))],
)
def test_numbers_out_of_range_are_refused(
    key: tuple[int, int, int], similarity: float, smoothness: float
) -> None:
    with pytest.raises(ValueError, match=r"0\.\."):
        ChromaKeyer(key, similarity, smoothness)


def near(colour: tuple[int, ...], expected: tuple[int, ...], levels: int) -> bool:
    return all(abs(a - b) <= levels for a, b in zip(colour, expected, strict=True))


@pytest.mark.parametrize("key", [GREEN, (60, 160, 80), BLUE, (0, 71, 187), MAGENTA])
def test_the_key_is_that_of_a_flat_screen(key: tuple[int, int, int]) -> None:
    assert estimate_key(over((150, 120, 100), disc(), key)) == key


def test_the_key_is_found_around_a_subject_that_fills_three_sides() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (1, 180, 320, 3), np.uint8)
    frame[0, :100, 60:260] = GREEN
    noisy = np.clip(frame + rng.normal(0, 3, frame.shape), 0, 255).astype(np.uint8)
    assert near(estimate_key(noisy), GREEN, 3)


def test_a_green_screen_wins_over_a_larger_wall_of_another_colour() -> None:
    frame = np.full((1, 180, 320, 3), (200, 40, 30), np.uint8)
    frame[:, :, 120:] = GREEN
    frame[:, 130:] = (200, 40, 30)
    assert estimate_key(frame) == GREEN


def test_the_key_of_a_shaded_screen_is_its_middle() -> None:
    light = np.linspace(0.6, 1.1, 320)[None, :, None] * np.ones((180, 1, 1))
    frame = np.rint(np.asarray(GREEN) * light).astype(np.uint8)[None]
    assert near(estimate_key(frame), (0, 150, 54), 4)


def test_several_frames_are_looked_at() -> None:
    bare = over(GREEN, np.ones((90, 160)), GREEN)
    dark = np.zeros_like(bare)
    assert estimate_key(np.concatenate([dark, bare])) == GREEN


def grass() -> Picture:
    blades = np.random.default_rng(0).normal(0, 25, (180, 320, 1)) * np.ones(3)
    blades += (70, 120, 50)
    return np.clip(blades, 0, 255).astype(np.uint8)[None]


@pytest.mark.parametrize(
    "frame",
    [
        np.full((1, 90, 160, 3), 128, np.uint8),
        np.zeros((1, 90, 160, 3), np.uint8),
        np.full((1, 90, 160, 3), (135, 190, 235), np.uint8),
        np.full((1, 90, 160, 3), (120, 90, 70), np.uint8),
        grass(),
        over(GREEN, disc(), (140, 130, 120)),
    ],
    ids=["grey", "black", "sky", "wood", "grass", "green subject"],
)
def test_no_screen_is_an_error_with_a_way_out(frame: Picture) -> None:
    with pytest.raises(InputError, match="no green or blue screen") as caught:
        estimate_key(frame)
    assert caught.value.hint is not None
    assert "--key" in caught.value.hint


@settings(deadline=None)
@given(height=st.integers(1, 12), width=st.integers(1, 12))
def test_the_key_of_the_smallest_frames(height: int, width: int) -> None:
    assert estimate_key(over(GREEN, np.ones((height, width)), GREEN)) == GREEN
    with pytest.raises(InputError):
        estimate_key(np.zeros((1, height, width, 3), np.uint8))


@pytest.mark.shared
@pytest.mark.parametrize("key", ["auto", "#00b140"])
@pytest.mark.parametrize(("name", "mad", "mse"), [("troll", 5.2, 0.28), ("dancers", 2.3, 0.22)])
def test_green_screen_of_known_alpha(
    shared_dir: Path, name: str, key: str, mad: float, mse: float
) -> None:
    """Measured: troll 4.43 and 0.22, dancers 1.84 and 0.16 (MAD and MSE in thousandths)."""
    folder = shared_dir / "data/eval/video"
    luma, cb, cr = (plane[::6] for plane in decode_planes(folder / f"{name}.green.mp4"))
    (truth,) = (plane[::6] for plane in decode_planes(folder / f"{name}.gt.mkv"))
    rgb = planes_to_rgb(
        (luma, cb, cr),
        PlaneFormat("yuv420p", 8, 1, 1, is_rgb=False, chroma_location="left"),
        Colour(range="tv", matrix="bt709", primaries="bt709", transfer="bt709"),
    )
    colour = estimate_key(rgb[:1]) if key == "auto" else (0x00, 0xB1, 0x40)
    assert near(colour, (0x00, 0xB1, 0x40), 3)

    error = ChromaKeyer(colour)(rgb) - truth / np.float32(255)

    assert np.abs(error).mean() * 1e3 < mad
    assert (error**2).mean() * 1e3 < mse
