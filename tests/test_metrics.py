from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from vidbg.evaluation import metrics

Alpha = NDArray[np.float32]

SIDES = st.integers(1, 14)
LEVELS = st.integers(0, 255).map(lambda level: level / 255)


@st.composite
def pairs(draw: st.DrawFn, sides: st.SearchStrategy[int] = SIDES) -> tuple[Alpha, Alpha]:
    """Two mattes of one size: blocks of one level, as noise alone has contours everywhere."""
    height, width = draw(sides), draw(sides)
    block = draw(st.integers(1, 6))
    coarse = (2, -(-height // block), -(-width // block))
    mattes = draw(arrays(np.float32, coarse, elements=LEVELS.map(np.float32)))
    fine = mattes.repeat(block, axis=1).repeat(block, axis=2)[:, :height, :width]
    return fine[0], fine[1]


def box(top: int, left: int, side: int = 10, size: int = 40) -> Alpha:
    """A square of 1 on 0."""
    alpha = np.zeros((size, size), np.float32)
    alpha[top : top + side, left : left + side] = 1
    return alpha


def half(edge: int, height: int, width: int) -> Alpha:
    """1 to the left of a column, 0 from there on."""
    alpha = np.zeros((height, width), np.float32)
    alpha[:, :edge] = 1
    return alpha


EMPTY, FULL = np.zeros((40, 40), np.float32), np.ones((40, 40), np.float32)


@pytest.mark.parametrize(
    ("alpha", "truth", "expected"),
    [
        (box(3, 3), box(3, 3), 1),
        (box(3, 3), box(3, 8), 50 / 150),
        (box(3, 3), box(8, 8), 25 / 175),
        (box(3, 3), box(20, 20), 0),
        (EMPTY, EMPTY, 1),
        (EMPTY, box(3, 3), 0),
        (FULL, half(20, 40, 40), 0.5),
        (0.51 * FULL, FULL, 1),
        (0.5 * FULL, FULL, 0),  # as much background as foreground
    ],
)
def test_jaccard_of_known_regions(alpha: Alpha, truth: Alpha, expected: float) -> None:
    assert metrics.jaccard(alpha, truth) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("size", "tolerance_px"),
    [((10, 10), 1), ((88, 88), 1), ((89, 89), 2), ((480, 854), 8), ((720, 1280), 12)],
)
def test_contours_may_be_as_far_apart_as_the_size_of_the_picture_allows(
    size: tuple[int, int], tolerance_px: int
) -> None:
    edge = half(3, *size)
    assert metrics.boundary_f(half(3 + tolerance_px, *size), edge) == 1
    assert metrics.boundary_f(half(4 + tolerance_px, *size), edge) == 0


def test_a_contour_that_is_not_there_costs_precision_alone() -> None:
    # Tolerance 1. The second edge, as long as the true one, is nowhere near it.
    alpha, truth = half(10, 40, 40), half(10, 40, 40)
    alpha[:, 25:] = 1

    precision, recall = 0.5, 1.0
    expected = 2 * precision * recall / (precision + recall)
    assert metrics.boundary_f(alpha, truth) == pytest.approx(expected)
    assert metrics.boundary_f(truth, alpha) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("alpha", "truth", "expected"),
    [
        (EMPTY, EMPTY, 1),
        (EMPTY, FULL, 1),  # neither has a contour
        (EMPTY, box(3, 3), 0),
        (box(3, 3), EMPTY, 0),
        (box(3, 3), box(3, 3), 1),
        (box(3, 3), box(25, 25), 0),
    ],
)
def test_contours_that_are_missing_or_elsewhere(
    alpha: Alpha, truth: Alpha, expected: float
) -> None:
    assert metrics.boundary_f(alpha, truth) == expected


def boundary_f_pixel_by_pixel(alpha: Alpha, truth: Alpha) -> float:
    """The definition, over all pairs of contour pixels."""
    height, width = alpha.shape

    def contour(matte: Alpha) -> list[tuple[int, int]]:
        inside = [[bool(value > 0.5) for value in row] for row in matte]
        return [
            (y, x)
            for y in range(height)
            for x in range(width)
            if (x + 1 < width and inside[y][x] != inside[y][x + 1])
            or (y + 1 < height and inside[y][x] != inside[y + 1][x])
        ]

    radius = math.ceil(0.008 * math.sqrt(height**2 + width**2))

    def share_near(line: list[tuple[int, int]], other: list[tuple[int, int]]) -> float:
        def is_near(y: int, x: int) -> bool:
            return any(
                abs(v - y) <= radius and abs(u - x) <= round(math.sqrt(radius**2 - (v - y) ** 2))
                for v, u in other
            )

        return sum(is_near(y, x) for y, x in line) / len(line)

    line, true_line = contour(alpha), contour(truth)
    if not line or not true_line:
        return 1.0 if line == true_line else 0.0
    precision, recall = share_near(line, true_line), share_near(true_line, line)
    if precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


@settings(deadline=None)
@given(pair=pairs())
def test_boundary_f_is_what_its_definition_says(pair: tuple[Alpha, Alpha]) -> None:
    assert metrics.boundary_f(*pair) == pytest.approx(boundary_f_pixel_by_pixel(*pair))


@pytest.mark.parametrize("size", [(24, 180), (200, 260), (300, 330)])
def test_boundary_f_is_what_its_definition_says_where_the_tolerance_is_more(
    size: tuple[int, int],
) -> None:
    alpha, truth = (np.zeros(size, np.float32) for _ in range(2))
    height, width = size
    centre, small = (width // 2, height // 2), (width // 8, height // 6 + 1)
    cv2.ellipse(alpha, centre, small, 0, 0, 360, 1.0, -1)
    cv2.ellipse(truth, (centre[0] + 3, centre[1]), small, 15, 0, 360, 1.0, -1)

    expected = boundary_f_pixel_by_pixel(alpha, truth)

    assert 0 < expected < 1
    assert metrics.boundary_f(alpha, truth) == pytest.approx(expected)


def test_differences_are_means_over_all_pixels() -> None:
    alpha = np.array([[0.0, 0.5], [1.0, 0.25]], np.float32)
    truth = np.array([[0.0, 1.0], [0.0, 0.25]], np.float32)
    assert metrics.mad(alpha, truth) == pytest.approx((0.5 + 1) / 4)
    assert metrics.mse(alpha, truth) == pytest.approx((0.25 + 1) / 4)


FIGURES = [metrics.jaccard, metrics.boundary_f, metrics.mad, metrics.mse]


@settings(deadline=None)
@given(pair=pairs())
def test_figures_of_a_picture_are_symmetric_fractions(pair: tuple[Alpha, Alpha]) -> None:
    alpha, truth = pair
    for figure in FIGURES:
        value = figure(alpha, truth)
        assert 0 <= value <= 1
        assert value == pytest.approx(figure(truth, alpha))


@settings(deadline=None)
@given(pair=pairs())
def test_a_matte_is_like_itself(pair: tuple[Alpha, Alpha]) -> None:
    alpha, _ = pair
    assert [figure(alpha, alpha) for figure in FIGURES] == [1, 1, 0, 0]


@given(pair=pairs())
def test_the_squared_difference_lies_between_those_of_its_mean(pair: tuple[Alpha, Alpha]) -> None:
    mean = metrics.mad(*pair)
    assert mean**2 - 1e-6 <= metrics.mse(*pair) <= mean + 1e-6


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("other", [(40, 1), (1, 40), (40,), (1, 40, 40)])
def test_nothing_is_broadcast(figure: Callable[[Any, Any], float], other: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="of one size"):
        figure(EMPTY, np.zeros(other, np.float32))
    with pytest.raises(ValueError, match="of one size"):
        figure(np.zeros(other, np.float32), EMPTY)


def test_dtssd_sees_flicker_and_not_what_is_always_wrong() -> None:
    truths = [box(3, x) for x in range(6)]
    wrong_but_steady = [truth * 0.5 + 0.2 * (truth == 0) for truth in [truths[0]] * 6]
    assert metrics.dtssd(wrong_but_steady, [truths[0]] * 6) == pytest.approx(0, abs=1e-4)
    assert metrics.dtssd(truths, truths) == 0
    assert metrics.dtssd([0.5 * (n % 2) * FULL for n in range(6)], [EMPTY] * 6) == pytest.approx(50)


def test_dtssd_is_a_root_within_frames_and_a_mean_over_them() -> None:
    quarter = np.zeros((40, 40), np.float32)
    quarter[:20, :20] = 1
    # Nothing changes, then a quarter of the pixels by 1, then all by 0.3.
    alphas = [EMPTY, EMPTY, quarter, quarter - 0.3]
    assert metrics.dtssd(alphas, [EMPTY] * 4) == pytest.approx(100 * (0 + 0.5 + 0.3) / 3)


def test_dtssd_compares_changes() -> None:
    # The truth grows by 0.25, the matte by 0.75.
    assert metrics.dtssd([EMPTY, 0.75 * FULL], [EMPTY, 0.25 * FULL]) == pytest.approx(50)


def test_dtssd_sees_an_error_change_sides() -> None:
    assert metrics.dtssd([0.7 * FULL, 0.3 * FULL], [0.5 * FULL] * 2) == pytest.approx(40)


@pytest.mark.parametrize("count", [0, 1])
def test_change_needs_two_frames(count: int) -> None:
    with pytest.raises(ValueError, match="two frames"):
        metrics.dtssd([EMPTY] * count, [EMPTY] * count)
    with pytest.raises(ValueError, match="two frames"):
        metrics.warp_error([EMPTY] * count, [np.zeros((40, 40, 3), np.uint8)] * count)


def test_clips_of_different_length_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        metrics.dtssd([EMPTY] * 3, [EMPTY] * 2)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        metrics.warp_error([EMPTY] * 3, [np.zeros((40, 40, 3), np.uint8)] * 2)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        metrics.max_f_beta([FULL] * 3, [FULL] * 2)


def texture(height: int, width: int) -> NDArray[np.uint8]:
    """Structure at several scales, uint8 (H, W)."""
    rng = np.random.default_rng(3)
    total = np.zeros((height, width))
    for sigma in (3, 7, 15):
        layer = cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), sigma)
        total += layer / layer.std()
    return np.clip(128 + 30 * total, 0, 255).astype(np.uint8)


def flat(level: int) -> NDArray[np.uint8]:
    return np.full((240, 427, 3), level, np.uint8)


def even(alpha: float) -> Alpha:
    return np.full((240, 427), alpha, np.float32)


def test_flicker_over_a_still_picture_is_its_size() -> None:
    still = np.dstack([texture(240, 427)] * 3)
    assert metrics.warp_error([even(0.4), even(0.5), even(0.4)], [still] * 3) == pytest.approx(100)
    assert metrics.warp_error([even(0.4), even(0.4), even(0.5)], [still] * 3) == pytest.approx(50)
    assert metrics.warp_error([even(0.4)] * 3, [still] * 3) == 0


@pytest.mark.parametrize("speed_px", [3, -3])
def test_a_matte_that_follows_the_motion_is_steady(speed_px: int) -> None:
    scene = texture(480, 900)
    subject = np.zeros((480, 900), np.float32)
    cv2.circle(subject, (450, 240), 100, 1.0, -1)
    subject = cv2.GaussianBlur(subject, (0, 0), 8)

    def seen(whole: NDArray[Any], n: int) -> NDArray[Any]:
        return whole[:, 20 + speed_px * n : 874 + speed_px * n]

    frames = [np.dstack([seen(scene, n)] * 3) for n in range(4)]
    following = metrics.warp_error([seen(subject, n) for n in range(4)], frames)
    standing = metrics.warp_error([seen(subject, 0)] * 4, frames)

    # A disk of 200 px shifted by 3 differs along its outline: about 4 * 100 * 3 of 480 * 854.
    assert standing == pytest.approx(1000 * 4 * 100 * 3 / (480 * 854), rel=0.2)
    assert following < 0.1 * standing


@pytest.mark.parametrize("step", [11, -11])
def test_pixels_of_like_luma_count(step: int) -> None:
    assert metrics.warp_error([even(0.0), even(1.0)], [flat(100), flat(100 + step)]) == 1000


@pytest.mark.parametrize("step", [12, -12])
def test_pixels_of_other_luma_do_not(step: int) -> None:
    alphas = [even(0.0), even(1.0), even(0.75)]
    assert metrics.warp_error(alphas, [flat(100), flat(100 + step), flat(100 + step)]) == 250
    with pytest.raises(ValueError, match="can be compared"):
        metrics.warp_error(alphas[:2], [flat(100), flat(100 + step)])


def test_the_mean_is_over_the_pixels_that_count() -> None:
    before, after = flat(100), flat(100)
    after[:, 200:] = 250
    alpha = even(0.1)
    alpha[:, 200:] = 0.9
    assert metrics.warp_error([even(0.0), alpha], [before, after]) == pytest.approx(100, rel=0.02)


def test_a_matte_and_a_frame_of_different_size_are_not_compared() -> None:
    with pytest.raises(ValueError, match="of one size"):
        metrics.warp_error([EMPTY] * 2, [flat(100)] * 2)


def test_max_f_beta_finds_the_threshold_that_separates() -> None:
    truths = [box(3, 3), box(20, 9)]
    assert metrics.max_f_beta([0.2 + 0.1 * truth for truth in truths], truths) == 1
    # No one threshold fits both.
    uneven = [0.2 + 0.1 * truths[0], 0.6 + 0.1 * truths[1]]
    assert metrics.max_f_beta(uneven, truths) < 1


@pytest.mark.parametrize("level", [1 / 255, 0.5, 1.0])
def test_max_f_beta_of_a_matte_that_says_nothing(level: float) -> None:
    precision, recall = 100 / 1600, 1.0
    expected = 1.3 * precision * recall / (0.3 * precision + recall)
    assert metrics.max_f_beta([level * FULL], [box(3, 3)]) == pytest.approx(expected)


def test_max_f_beta_of_nothing_found_is_0() -> None:
    assert metrics.max_f_beta([EMPTY], [box(3, 3)]) == 0


@settings(deadline=None, max_examples=25)
@given(clip=st.lists(pairs(), min_size=1, max_size=3))
def test_max_f_beta_is_what_its_definition_says(clip: list[tuple[Alpha, Alpha]]) -> None:
    alphas = [alpha for alpha, _ in clip]
    truths = [truth for _, truth in clip]
    for truth in truths:
        truth[0, 0] = 1

    best = 0.0
    for level in range(1, 256):
        precision, recall = 0.0, 0.0
        for alpha, truth in zip(alphas, truths, strict=True):
            # Levels are whole, so half a level below is no tie.
            found, true = alpha * 255 > level - 0.5, truth > 0.5
            right = (found & true).sum()
            precision += right / found.sum() / len(clip) if found.any() else 0
            recall += right / true.sum() / len(clip)
        if precision and recall:
            best = max(best, 1.3 * precision * recall / (0.3 * precision + recall))

    assert metrics.max_f_beta(alphas, truths) == pytest.approx(best)


def test_max_f_beta_needs_pictures_with_a_subject() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        metrics.max_f_beta([], [])
    with pytest.raises(ValueError, match="without foreground"):
        metrics.max_f_beta([FULL], [EMPTY])


def salient(number: int) -> tuple[Alpha, Alpha]:
    """An ellipse, and a matte of it that is soft, off and textured, in steps of 1/255."""
    rows, columns = np.mgrid[0:48, 0:64]
    top, left = 14 + 3 * number, 40 - 6 * number
    truth = (rows - top) ** 2 / 100 + (columns - left) ** 2 / 225 < 1
    distance = np.hypot((rows - top - number) / 11, (columns - left + 2) / 14)
    texture = 0.1 * np.sin(rows / 3) * np.cos(columns / (2 + number))
    levels = np.rint(255 * np.clip(1 / (1 + np.exp(6 * (distance - 1))) + texture, 0, 1))
    return (levels / 255).astype(np.float32), truth.astype(np.float32)


# What PySODMetrics 1.6.2 says of these pictures (without its stretching, and with half a
# millionth more alpha, as it cuts levels off). It cannot be installed beside current OpenCV.
S_OF_SALIENT = [0.8770404573, 0.8760324943, 0.8609965314, 0.8386809433]
MAE_OF_SALIENT = [0.0912351981, 0.0918581486, 0.1001136079, 0.1042943224]
MAX_F_OF_SALIENT = 0.8768473225


def test_figures_of_salient_objects_are_those_of_another_library() -> None:
    pictures = [salient(number) for number in range(4)]
    assert [metrics.s_measure(*picture) for picture in pictures] == pytest.approx(S_OF_SALIENT)
    assert [metrics.mad(*picture) for picture in pictures] == pytest.approx(MAE_OF_SALIENT)
    alphas, truths = zip(*pictures, strict=True)
    assert metrics.max_f_beta(alphas, truths) == pytest.approx(MAX_F_OF_SALIENT)


@pytest.mark.parametrize(
    ("alpha", "truth", "expected"),
    [
        (box(3, 3), box(3, 3), 1),
        (FULL, FULL, 1),
        (EMPTY, EMPTY, 1),
        (0.3 * FULL, EMPTY, 0.7),  # no foreground: the mean of 1 - alpha
        (0.3 * FULL, FULL, 0.3),  # no background: the mean of alpha
    ],
)
def test_s_measure_of_known_pictures(alpha: Alpha, truth: Alpha, expected: float) -> None:
    assert metrics.s_measure(alpha, truth) == pytest.approx(expected)


def test_s_measure_by_hand() -> None:
    # Left half true. The centroid is in column 9.5 of 40, which rounds to 10 (to even): the
    # quarters on the left hold 11 columns of foreground, those on the right 9 of them.
    truth = half(20, 40, 40)
    alpha = (0.6 * truth + 0.2).astype(np.float32)  # 0.8 and 0.2
    objects = 0.5 * 2 * 0.8 / (0.8**2 + 1) + 0.5 * 2 * 0.8 / (0.8**2 + 1)
    # Left quarters are flat with a positive mean: variance 0, so alike (1). Right quarters:
    # 9 of 29 columns are true, y = 9/29, x = 0.2 + 0.6 y, s_xy = 0.6 v, s_x^2 = 0.36 v.
    y = 9 / 29
    x = 0.2 + 0.6 * y
    right = 4 * x * y * 0.6 / ((x**2 + y**2) * (0.36 + 1))
    regions = 11 / 40 * 1 + 29 / 40 * right
    expected = 0.5 * objects + 0.5 * regions
    assert metrics.s_measure(alpha, truth) == pytest.approx(expected, rel=1e-6)


def test_s_measure_is_never_negative() -> None:
    truth = box(15, 15)
    assert metrics.s_measure(1 - truth, truth) == 0


def test_s_measure_with_the_centroid_in_the_last_row_and_column() -> None:
    truth = np.zeros((4, 5), np.float32)
    truth[3, 4] = 1
    assert metrics.s_measure(truth, truth) == pytest.approx(1)


def gradient_pixel_by_pixel(matte: Alpha) -> NDArray[np.float64]:
    """The definition, by both derivatives of a Gaussian of 1.4 over 9 by 9 pixels."""
    reach = range(-4, 5)
    bell = [[math.exp(-(y * y + x * x) / (2 * 1.4**2)) for x in reach] for y in reach]
    derivative = [[x * bell[y + 4][x + 4] for x in reach] for y in reach]
    length = math.sqrt(sum(value**2 for row in derivative for value in row))
    height, width = matte.shape
    slope = np.zeros(matte.shape)
    for row in range(height):
        for column in range(width):
            across = down = 0.0
            for y in reach:
                for x in reach:
                    seen = float(
                        matte[np.clip(row + y, 0, height - 1)][np.clip(column + x, 0, width - 1)]
                    )
                    across += derivative[y + 4][x + 4] * seen
                    down += derivative[x + 4][y + 4] * seen
            slope[row, column] = math.hypot(across, down) / length
    return slope


def test_gradient_error_is_what_its_definition_says() -> None:
    alpha, truth = (matte[:16, 30:50] for matte in salient(1))
    slopes = gradient_pixel_by_pixel(alpha), gradient_pixel_by_pixel(truth)
    expected = ((slopes[0] - slopes[1]) ** 2).sum() / 1000
    assert expected > 0.01
    assert metrics.gradient_error(alpha, truth) == pytest.approx(expected, rel=1e-4)


def test_gradient_error_sees_edges_and_not_levels() -> None:
    truth = box(10, 10)
    assert metrics.gradient_error(0.5 + 0.5 * truth, 0.5 * truth) == pytest.approx(0, abs=1e-9)
    blurred = cv2.GaussianBlur(truth, (0, 0), 2)
    assert metrics.gradient_error(blurred, truth) > 0.01
    # Twice the step is four times the square.
    quarter = metrics.gradient_error(0.5 * truth, EMPTY)
    assert metrics.gradient_error(truth, EMPTY) == pytest.approx(4 * quarter)


def bridged(bridge: float, island: float) -> Alpha:
    """A square of 10 by 10, another of 5 by 5, and 4 pixels between them."""
    alpha = box(15, 5)
    alpha[15:20, 19:24] = island
    alpha[17, 15:19] = bridge
    return alpha


@pytest.mark.parametrize(
    ("alpha", "truth", "expected"),
    [
        (box(3, 3), box(3, 3), 0),
        # In the air in the matte alone: 25 pixels of 0.8, with nothing below them.
        (bridged(0, 0.8), box(15, 5), 25 * 0.8),
        # In the air in both, and as much.
        (bridged(0, 1), bridged(0, 1), 0),
        # In the air in both, and by half: 1 - 1 against 1 - 0.5.
        (bridged(0, 0.5), bridged(0, 1), 25 * 0.5),
        # All hangs together from 0.5 down; 1 in both is 0.5 above that.
        (bridged(0.5, 1), bridged(0.5, 1), 0),
        # 0.6 is 0.1 above, too little to see; the truth is 0.5 above.
        (bridged(0.5, 0.6), bridged(0.5, 1), 25 * 0.5),
        # Less than 0.15 is not seen: 0.9 hangs together, and 1 is 0.1 above.
        (0.9 * box(3, 3), box(3, 3), 0),
        (0.8 * box(3, 3), box(3, 3), 100 * 0.2),
        (EMPTY, box(3, 3), 100),
        (EMPTY, EMPTY, 0),
    ],
)
def test_connectivity_error_of_known_pictures(alpha: Alpha, truth: Alpha, expected: float) -> None:
    assert metrics.connectivity_error(alpha, truth) == pytest.approx(expected / 1000, abs=1e-6)
    assert metrics.connectivity_error(truth, alpha) == pytest.approx(expected / 1000, abs=1e-6)


def test_corners_do_not_connect() -> None:
    truth = box(5, 5)
    truth[15:20, 15:20] = 1  # touches the square at a corner only
    assert metrics.connectivity_error(truth * (box(5, 5) > 0), truth) == pytest.approx(25 / 1000)
    alpha = truth.copy()
    alpha[15:20, 15:20] = 0.5
    assert metrics.connectivity_error(alpha, truth) == pytest.approx(25 * 0.5 / 1000)


@settings(deadline=None)
@given(pair=pairs())
def test_a_matte_has_no_error_against_itself(pair: tuple[Alpha, Alpha]) -> None:
    alpha, truth = pair
    assert metrics.gradient_error(alpha, alpha) == pytest.approx(0, abs=1e-12)
    assert metrics.connectivity_error(alpha, alpha) == 0
    assert metrics.s_measure(truth > 0.5, truth) == pytest.approx(1)


@pytest.mark.parametrize(
    "figure", [metrics.s_measure, metrics.gradient_error, metrics.connectivity_error]
)
def test_these_are_not_broadcast_either(figure: Callable[[Any, Any], float]) -> None:
    with pytest.raises(ValueError, match="of one size"):
        figure(EMPTY, np.zeros((40, 1), np.float32))


def test_the_soft_band_is_where_the_truth_is_soft() -> None:
    truth = np.array([[0.0, 0.05, 0.06, 0.5, 0.94, 0.96, 1.0]], np.float32)
    composite = np.full((1, 7, 3), 100, np.uint8)
    true = composite.copy()
    true[0, :, 1] += np.array([90, 90, 3, 6, 9, 90, 90], np.uint8)
    assert metrics.soft_band_error(composite, true, truth) == pytest.approx((3 + 6 + 9) / 9)
    assert metrics.soft_band_error(composite, true, np.rint(truth)) is None


def test_a_clip_does_not_change_its_size() -> None:
    change = metrics.Change()
    change.add(EMPTY, EMPTY)
    with pytest.raises(ValueError, match="of one size"):
        change.add(EMPTY[:, :1], EMPTY[:, :1])
