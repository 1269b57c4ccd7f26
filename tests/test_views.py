"""The ways in which frames are looked at, and what comes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg.matting.views import LOOKS, View, seen, turns

OWN, SQUARE = (4, 8), (6, 6)


def ramp(size: tuple[int, int], numbers: Sequence[int]) -> NDArray[np.uint8]:
    """Pictures that are 0 at the left and 200 at the right, and their number in green."""
    height, width = size
    pictures = np.zeros((len(numbers), height, width, 3), np.uint8)
    pictures[..., 0] = ((np.arange(width) + 0.5) / width * 200).round()
    pictures[..., 1] = np.array(numbers, np.uint8)[:, None, None]
    return pictures


def red(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Call a pixel's red its matte."""
    return (rgb[..., 0] / 255).astype(np.float32)


def test_neighbours_are_seen_in_different_shapes_and_directions() -> None:
    cycle = turns(OWN, SQUARE)

    assert len({view for (view,) in cycle}) == 4
    for (one,), (other,) in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
        assert one.size != other.size
    assert cycle[0] == (View(OWN),)


@pytest.mark.parametrize("looks", LOOKS)
def test_every_way_comes_as_often_as_any_other(looks: int) -> None:
    cycle = turns(OWN, SQUARE, looks)

    assert {len(chosen) for chosen in cycle} == {looks}
    views = [view for chosen in cycle for view in chosen]
    assert len(views) == len(set(views)) == 4


def test_two_looks_at_a_frame_differ_in_shape_and_direction() -> None:
    for one, other in turns(OWN, SQUARE, 2):
        assert one.size != other.size
        assert one.is_mirrored != other.is_mirrored


@pytest.mark.parametrize("looks", LOOKS)
def test_frames_that_are_not_smoothed_are_all_seen_alike(looks: int) -> None:
    cycle = turns(OWN, SQUARE, looks, in_turn=False)

    assert cycle == turns(OWN, SQUARE, looks)[:1]


@pytest.mark.parametrize("looks", [0, 3, 5])
def test_other_numbers_of_looks_are_refused(looks: int) -> None:
    with pytest.raises(ValueError, match=f"{looks} looks"):
        turns(OWN, SQUARE, looks)


@given(st.lists(st.sampled_from(turns(OWN, OWN, 4)[0]), min_size=1, max_size=5))
def test_a_matte_is_in_its_frame_however_it_was_seen(views: list[View]) -> None:
    mattes = seen(red, ramp, [(view,) for view in views], OWN)

    assert mattes.shape == (len(views), *OWN)
    assert mattes.dtype == np.float32
    expected = red(ramp(OWN, range(len(views))))
    assert np.abs(mattes - expected).max() < 1e-6


def test_squeezed_views_are_brought_back_to_size() -> None:
    (mattes,) = seen(red, ramp, [(View(SQUARE, True),)], OWN)

    # Linear in x, so that linear interpolation between pixel centres gives it back.
    inside = slice(1, -1)
    assert np.abs(mattes - red(ramp(OWN, [0]))[0])[:, inside].max() < 2 / 255


def test_several_looks_at_a_frame_give_their_mean() -> None:
    asked: list[tuple[int, ...]] = []

    def by_width(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        asked.append(rgb.shape[:3])
        return np.full(rgb.shape[:3], rgb.shape[2] / 10, np.float32)

    mattes = seen(by_width, ramp, turns(OWN, SQUARE, 4) * 2, OWN)

    assert np.abs(mattes - 0.7).max() < 1e-6
    # One call for each size, whatever the number of frames.
    assert sorted(asked) == [(4, *OWN), (4, *SQUARE)]


def test_each_frame_gets_its_own_matte() -> None:
    def green(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        return rgb[..., 1].astype(np.float32)

    mattes = seen(green, ramp, [*turns(OWN, SQUARE), *turns(OWN, SQUARE)], OWN)

    assert (mattes == np.arange(8)[:, None, None]).all()
