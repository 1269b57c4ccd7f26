from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vidbg.matting import closed_form as module
from vidbg.matting.closed_form import closed_form
from vidbg.matting.trimap import BACKGROUND, FOREGROUND, UNKNOWN


def laplacian(guide: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """The matting Laplacian as Levin et al. define it (equation 12), entry by entry."""
    height, width = guide.shape[:2]
    matrix = np.zeros((height * width, height * width))
    for row in range(1, height - 1):
        for column in range(1, width - 1):
            places = [
                (y, x) for y in range(row - 1, row + 2) for x in range(column - 1, column + 2)
            ]
            colours = np.array([guide[place] for place in places])
            centred = colours - colours.mean(axis=0)
            covariance = centred.T @ centred / 9 + epsilon / 9 * np.eye(3)
            affinity = (1 + centred @ np.linalg.inv(covariance) @ centred.T) / 9
            numbers = [y * width + x for y, x in places]
            matrix[np.ix_(numbers, numbers)] += np.eye(9) - affinity
    return matrix


@pytest.mark.parametrize("colours", [3, 1], ids=["any", "along a line"])
def test_the_product_is_that_of_the_laplacian(colours: int) -> None:
    rng = np.random.default_rng(0)
    guide = (rng.random((8, 9, colours)) @ rng.random((colours, 3))).astype(np.float32)
    matte = rng.random((8, 9)).astype(np.float32)
    expected = laplacian(guide.astype(np.float64), module._EPSILON) @ matte.ravel()

    product = module._Laplacian(guide).times(matte)

    np.testing.assert_allclose(product.ravel(), expected, atol=2e-3 if colours == 1 else 1e-4)


def test_the_minimum_is_that_of_a_direct_solver() -> None:
    rng = np.random.default_rng(1)
    guide = rng.random((9, 11, 3)).astype(np.float32)
    prior = rng.random((9, 11)).astype(np.float32)
    trimap = np.full((9, 11), UNKNOWN, np.uint8)
    trimap[:, :3], trimap[:, 8:] = FOREGROUND, BACKGROUND
    is_unknown = (trimap == UNKNOWN).ravel()
    full = laplacian(guide.astype(np.float64), module._EPSILON)
    known = (trimap == FOREGROUND).ravel()[~is_unknown].astype(float)
    weight = module._PRIOR_WEIGHT
    system = full[np.ix_(is_unknown, is_unknown)] + weight * np.eye(is_unknown.sum())
    right = weight * prior.ravel()[is_unknown] - full[np.ix_(is_unknown, ~is_unknown)] @ known
    expected = np.clip(np.linalg.solve(system, right), 0, 1)

    solved = closed_form(guide, trimap, prior)

    np.testing.assert_allclose(solved.ravel()[is_unknown], expected, atol=0.01)
    np.testing.assert_array_equal(solved.ravel()[~is_unknown], known)


def test_a_ramp_is_drawn_to_the_edge_of_the_picture() -> None:
    x = np.arange(80, dtype=np.float32)
    truth = np.tile(np.clip((x - 39) / 2, 0, 1), (60, 1))
    foreground, background = np.array([0.8, 0.3, 0.6]), np.array([0.2, 0.6, 0.4])
    guide = truth[..., None] * foreground + (1 - truth[..., None]) * background
    trimap = np.full(truth.shape, UNKNOWN, np.uint8)
    trimap[:, :33], trimap[:, 47:] = BACKGROUND, FOREGROUND
    prior = np.tile(np.clip((x - 34) / 12, 0, 1), (60, 1))

    solved = closed_form(guide.astype(np.float32), trimap, prior)

    assert np.abs(solved - truth).mean() < 0.5 * np.abs(prior - truth).mean()
    assert np.abs(solved - truth).max() < 0.5 * np.abs(prior - truth).max()


@pytest.mark.parametrize(("value", "expected"), [(BACKGROUND, 0.0), (FOREGROUND, 1.0)])
def test_nothing_unknown_is_nothing_to_do(value: int, expected: float) -> None:
    prior = np.full((6, 7), 0.4, np.float32)
    solved = closed_form(np.zeros((6, 7, 3), np.float32), np.full((6, 7), value, np.uint8), prior)
    assert (solved == expected).all()
    assert (prior == np.float32(0.4)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (9, 2), (3, 3), (17, 5)])
def test_small_and_flat_pictures_keep_the_prior(size: tuple[int, int]) -> None:
    """Without colours to go by and nothing known, the matte at hand is the answer."""
    prior = np.full(size, 0.4, np.float32)
    guide = np.full((*size, 3), 0.5, np.float32)
    solved = closed_form(guide, np.full(size, UNKNOWN, np.uint8), prior)
    np.testing.assert_allclose(solved, prior, atol=1e-4)
