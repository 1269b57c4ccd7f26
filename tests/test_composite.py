from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidbg.composite import alpha_planes, blurred_background, over
from vidbg.frames import PlaneFormat

TOP = {np.uint8: 255, np.uint16: 65535}
SUBSAMPLINGS = {
    "444": (0, 0),
    "422": (1, 0),
    "420": (1, 1),
    "440": (0, 1),
    "411": (2, 0),
    "410": (2, 2),
}


def make_format(subsampling="420", depth=8, location="left", is_rgb=False):
    log2_w, log2_h = SUBSAMPLINGS[subsampling]
    return PlaneFormat(f"yuv{subsampling}p", depth, log2_w, log2_h, is_rgb, location)


def make_planes(rng, format, width, height, count=1):
    dtype = np.uint8 if format.depth == 8 else np.uint16
    return tuple(
        rng.integers(0, 1 << format.depth, (count, *size)).astype(dtype)
        for size in format.plane_sizes(width, height)
    )


def make_ellipse(height, width, soft_px, dtype):
    """Alpha of a soft-edged ellipse in the middle of the frame, (1, height, width)."""
    y, x = np.mgrid[:height, :width]
    radius = np.hypot((x - width / 2) / (width / 5), (y - height / 2) / (height / 3))
    alpha = np.clip((1 - radius) * (width / 5) / soft_px + 0.5, 0, 1)
    return np.rint(alpha * TOP[dtype]).astype(dtype)[np.newaxis]


def exactly_over(foreground, background, alpha):
    """The composite in whole numbers, halves up; there are none, as 255 and 65535 are odd."""
    top = TOP[alpha.dtype.type]
    f, b, a = (plane.astype(np.int64) for plane in (foreground, background, alpha))
    return (2 * (f * a + b * (top - a)) + top) // (2 * top)


class TestAlphaPlanes:
    @staticmethod
    def by_hand(alpha, format):
        """The definition, one chroma sample and one luma position at a time, in whole numbers."""
        height, width = alpha.shape
        steps = 1 << format.log2_chroma_h, 1 << format.log2_chroma_w
        cosited = format.chroma_location == "topleft", format.chroma_location != "center"

        def taps(step, is_cosited):
            if is_cosited:
                return [(d, step - abs(d)) for d in range(1 - step, step)]
            return [(d, 1) for d in range(step)]

        rows, columns = -(-height // steps[0]), -(-width // steps[1])
        chroma = np.empty((rows, columns), alpha.dtype)
        for row, column in itertools.product(range(rows), range(columns)):
            total = weights = 0
            for (dy, wy), (dx, wx) in itertools.product(
                taps(steps[0], cosited[0]), taps(steps[1], cosited[1])
            ):
                y = min(max(row * steps[0] + dy, 0), height - 1)
                x = min(max(column * steps[1] + dx, 0), width - 1)
                total += wy * wx * int(alpha[y, x])
                weights += wy * wx
            chroma[row, column] = (2 * total + weights) // (2 * weights)
        return chroma

    @given(
        height=st.integers(1, 13),
        width=st.integers(1, 13),
        subsampling=st.sampled_from([name for name in SUBSAMPLINGS if name != "444"]),
        location=st.sampled_from(["left", "center", "topleft"]),
        dtype=st.sampled_from([np.uint8, np.uint16]),
        seed=st.integers(0, 99),
    )
    @settings(max_examples=150, deadline=None)
    def test_is_the_weighted_mean_about_each_chroma_sample(
        self, height, width, subsampling, location, dtype, seed
    ):
        rng = np.random.default_rng(seed)
        # Many at the ends, where a sum would overflow first.
        alpha = rng.choice([0, TOP[dtype], TOP[dtype], seed], (2, height, width)).astype(dtype)
        format = make_format(subsampling, 8 if dtype == np.uint8 else 10, location)
        luma, first, second = alpha_planes(alpha, format)
        assert luma is alpha
        assert second is first
        assert first.dtype == dtype
        for index in range(2):
            np.testing.assert_array_equal(first[index], self.by_hand(alpha[index], format))

    @pytest.mark.parametrize(
        ("location", "shift"), [("left", (0.5, 0)), ("center", (0.5, 0.5)), ("topleft", (0, 0))]
    )
    def test_sits_where_chroma_sits(self, location, shift):
        y, x = np.mgrid[:20, :30]
        ramp = (200 * x + 600 * y).astype(np.uint16)
        chroma = alpha_planes(ramp[np.newaxis], make_format("420", 10, location))[1][0]
        y, x = np.mgrid[:10, :15]
        expected = 200 * (2 * x + shift[1]) + 600 * (2 * y + shift[0])
        np.testing.assert_array_equal(chroma[1:-1, 1:-1], expected[1:-1, 1:-1])

    @pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
    @pytest.mark.parametrize("location", ["left", "center", "topleft"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_all_or_nothing_stays(self, subsampling, location, dtype):
        format = make_format(subsampling, 8 if dtype == np.uint8 else 16, location)
        for value in (0, TOP[dtype]):
            for plane in alpha_planes(np.full((1, 7, 9), value, dtype), format):
                assert (plane == value).all()

    def test_known_answer(self):
        alpha = np.array([[[0, 0, 255, 255, 255, 255], [0, 0, 255, 255, 0, 0]]], np.uint8)
        left = alpha_planes(alpha, make_format("420", location="left"))[1]
        # (0 + 0 + 0 + 0) / 4, (0 + 255 + 255 + 255) / 4, (255 + 2·127.5 + 127.5) / 4
        assert left.tolist() == [[[0, 191, 159]]]
        center = alpha_planes(alpha, make_format("420", location="center"))[1]
        assert center.tolist() == [[[0, 255, 128]]]

    def test_rgb_and_444_share_one(self):
        alpha = np.zeros((1, 3, 5), np.uint8)
        for format in (make_format("444"), make_format("444", is_rgb=True)):
            assert all(plane is alpha for plane in alpha_planes(alpha, format))

    def test_refuses_a_matte(self):
        with pytest.raises(ValueError, match="float32"):
            alpha_planes(np.zeros((1, 4, 4), np.float32), make_format())

    def test_unknown_location(self):
        with pytest.raises(ValueError, match="bottom"):
            alpha_planes(np.zeros((1, 4, 4), np.uint8), make_format(location="bottom"))


class TestOver:
    def test_every_8_bit_case(self):
        foreground, background = np.meshgrid(np.arange(256), np.arange(256))
        values = [plane.astype(np.uint8)[np.newaxis] for plane in (foreground, background)]
        tiny = np.zeros((1, 1, 1), np.uint8)
        for value in range(256):
            alpha = np.full((1, 256, 256), value, np.uint8)
            composite = over((values[0], tiny, tiny), (values[1], tiny, tiny), (alpha, tiny, tiny))[
                0
            ]
            np.testing.assert_array_equal(composite, exactly_over(*values, alpha))

    def test_16_bit_nearest_to_halves(self):
        # F·a = 32767 and 32768 modulo 65535 lie on either side of a half.
        alphas = np.array([a for a in range(1, 65535, 2) if np.gcd(a, 65535) == 1], np.int64)
        inverses = np.array([pow(int(a), -1, 65535) for a in alphas])
        for remainder in (32767, 32768):
            foreground = (remainder * inverses % 65535).astype(np.uint16).reshape(1, 1, -1)
            alpha = alphas.astype(np.uint16).reshape(1, 1, -1)
            background = np.zeros_like(foreground)
            composite = over((foreground,) * 3, (background,) * 3, (alpha,) * 3)[0]
            np.testing.assert_array_equal(composite, exactly_over(foreground, background, alpha))

    @pytest.mark.parametrize("depth", [8, 9, 10, 12, 14, 16])
    def test_any_samples(self, depth):
        rng = np.random.default_rng(depth)
        format = make_format("444", depth)
        # Wider and higher than a band, and no multiple of one.
        foreground, background, alpha = make_planes(rng, format, 1100, 333)
        alpha = alpha if depth in (8, 16) else alpha * np.uint16(65535 // ((1 << depth) - 1))
        composite = over((foreground,) * 3, (background,) * 3, (alpha,) * 3)
        for plane in composite:
            assert plane.dtype == foreground.dtype
            np.testing.assert_array_equal(plane, exactly_over(foreground, background, alpha))

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_subject_amid_a_frame(self, dtype):
        rng = np.random.default_rng(1)
        depth = 8 if dtype == np.uint8 else 10
        format = make_format("420", depth)
        foreground = make_planes(rng, format, 1101, 403)
        background = make_planes(rng, format, 1101, 403)
        alphas = alpha_planes(make_ellipse(403, 1101, 20, dtype), format)
        composite = over(foreground, background, alphas)
        for planes in zip(composite, foreground, background, alphas, strict=True):
            np.testing.assert_array_equal(planes[0], exactly_over(*planes[1:]))
            opaque = planes[3] == TOP[dtype]
            clear = planes[3] == 0
            assert opaque.any()
            assert clear.any()
            assert (planes[0][opaque] == planes[1][opaque]).all()
            assert (planes[0][clear] == planes[2][clear]).all()

    @pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
    @pytest.mark.parametrize("depth", [8, 10, 16])
    def test_all_or_nothing_is_bit_for_bit(self, subsampling, depth):
        rng = np.random.default_rng(2)
        format = make_format(subsampling, depth)
        foreground = make_planes(rng, format, 31, 17, count=2)
        background = make_planes(rng, format, 31, 17, count=2)
        dtype = foreground[0].dtype.type
        for value, expected in ((TOP[dtype], foreground), (0, background)):
            alphas = alpha_planes(np.full((2, 17, 31), value, dtype), format)
            composite = over(foreground, background, alphas)
            for plane, same in zip(composite, expected, strict=True):
                np.testing.assert_array_equal(plane, same)

    def test_still_background_and_batches(self):
        rng = np.random.default_rng(3)
        format = make_format("420")
        foreground = make_planes(rng, format, 33, 21, count=3)
        still = make_planes(rng, format, 33, 21)
        alphas = make_planes(rng, format, 33, 21, count=3)
        for plane in (*foreground, *still, *alphas):
            plane.flags.writeable = False
        together = over(foreground, still, alphas)
        for index in range(3):
            one = slice(index, index + 1)
            alone = over(tuple(p[one] for p in foreground), still, tuple(a[one] for a in alphas))
            for number in range(3):
                np.testing.assert_array_equal(together[number][one], alone[number])
                np.testing.assert_array_equal(
                    alone[number],
                    exactly_over(foreground[number][one], still[number], alphas[number][one]),
                )

    def test_moving_background(self):
        rng = np.random.default_rng(4)
        format = make_format("444")
        foreground, background, alpha = (
            make_planes(rng, format, 12, 10, count=2)[0] for _ in range(3)
        )
        composite = over((foreground,) * 3, (background,) * 3, (alpha,) * 3)[0]
        np.testing.assert_array_equal(composite, exactly_over(foreground, background, alpha))

    def test_refuses_what_does_not_fit(self):
        def run(plane, background, alpha):
            over((plane,) * 3, (background,) * 3, (alpha,) * 3)

        plane = np.zeros((3, 4, 5), np.uint8)
        for wrong in (plane[:2], plane[:, :3], plane[:, :, :1]):
            with pytest.raises(ValueError, match="do not fit"):
                run(plane, wrong, plane)
            with pytest.raises(ValueError, match="do not fit"):
                run(plane, plane, wrong)
        for wrong in (plane.astype(np.uint16), plane.astype(np.float32)):
            with pytest.raises(ValueError, match="uint8"):
                run(plane, wrong, plane)
            with pytest.raises(ValueError, match="uint8"):
                run(plane, plane, wrong)
        with pytest.raises(ValueError, match="uint8"):
            run(*(plane.astype(np.int32),) * 3)


def gaussian(plane, sigmas):
    """A Gaussian blur by its definition, float64, the frame mirrored at its edges."""
    blurred = plane.astype(np.float64)
    for sigma in sigmas:
        reach = int(np.ceil(5 * sigma))
        distances = np.arange(-reach, reach + 1)
        kernel = np.exp(-((distances / sigma) ** 2) / 2)
        kernel /= kernel.sum()
        padded = np.pad(blurred, ((reach, reach), (0, 0)), mode="symmetric")
        blurred = sum(
            weight * padded[start : start + blurred.shape[0]] for start, weight in enumerate(kernel)
        ).T
    return blurred


class TestBlurredBackground:
    @pytest.mark.parametrize("radius_px", [0.4, 2.5, 6, 11, 24])
    @pytest.mark.parametrize("subsampling", ["420", "422", "444"])
    def test_no_subject_is_a_gaussian_blur(self, radius_px, subsampling):
        rng = np.random.default_rng(5)
        format = make_format(subsampling)
        planes = []
        for height, width in format.plane_sizes(151, 117):
            y, x = np.mgrid[:height, :width]
            steps = np.where((x // 40 + y // 30) % 2, 230, 20)
            noisy = np.clip(steps + rng.normal(0, 20, steps.shape), 0, 255)
            planes.append(noisy.astype(np.uint8)[np.newaxis])
        alphas = alpha_planes(np.zeros((1, 117, 151), np.uint8), format)
        blurred = blurred_background(tuple(planes), alphas, format, radius_px)
        for number, plane in enumerate(planes):
            log2 = (0, 0) if number == 0 else (format.log2_chroma_h, format.log2_chroma_w)
            exact = gaussian(plane[0], [radius_px / 2**axis for axis in log2])
            assert blurred[number].dtype == np.uint8
            # Half a code of rounding, and about one for the grid where there is one.
            assert np.abs(blurred[number][0] - exact).max() <= (0.52 if radius_px < 6 else 1.7)

    @pytest.mark.parametrize("depth", [8, 10, 16])
    @pytest.mark.parametrize("soft_px", [1, 8])
    @pytest.mark.parametrize("radius_px", [1, 5, 20, 90])
    def test_nothing_of_the_subject_bleeds(self, depth, soft_px, radius_px):
        format = make_format("420", depth)
        dtype = np.uint8 if depth == 8 else np.uint16
        alpha = make_ellipse(160, 280, soft_px, dtype)
        alphas = alpha_planes(alpha, format)
        scale = 1 << (depth - 8)
        background, subject = (60, 110, 140), (210, 20, 250)
        planes = over(
            tuple(np.full(a.shape, v * scale, dtype) for a, v in zip(alphas, subject, strict=True)),
            tuple(
                np.full(a.shape, v * scale, dtype) for a, v in zip(alphas, background, strict=True)
            ),
            alphas,
        )
        blurred = blurred_background(planes, alphas, format, radius_px)
        for plane, value in zip(blurred, background, strict=True):
            deviation = np.abs(plane.astype(int) - value * scale).max() / scale
            assert deviation <= (0 if soft_px == 1 else 1.5)

    def test_no_radius_is_too_large(self):
        plane = np.random.default_rng(9).integers(0, 256, (1, 40, 90)).astype(np.uint8)
        alpha = np.zeros_like(plane)
        blurred = blurred_background((plane,) * 3, (alpha,) * 3, make_format("444"), 1e12)[0]
        assert np.abs(blurred - plane.mean()).max() <= 0.51

    def test_beside_the_subject_is_a_normalised_convolution(self):
        # Something near the subject that is nowhere else, so that farther neighbours tell.
        alpha = np.zeros((1, 90, 160), np.uint8)
        alpha[:, :, 60:100] = 255
        plane = np.where(alpha == 255, 0, 50).astype(np.uint8)
        plane[:, :, 45:60] = 220
        plane[:, :, 100:115] = 220
        blurred = blurred_background((plane,) * 3, (alpha,) * 3, make_format("444"), 5)[0][0]
        weights = np.ones((90, 160))
        weights[:, 57:103] = 0  # three pixels more than the subject
        sums = gaussian(plane[0] * weights, (5, 5))
        weights = gaussian(weights, (5, 5))
        known = weights > 0.5
        assert known[:, :57].all()
        assert not known[:, 57:103].any()
        assert np.abs(blurred - sums / np.maximum(weights, 0.1))[known].max() <= 5

    @pytest.mark.parametrize("depth", [8, 16])
    def test_frame_without_background_gets_its_mean(self, depth):
        format = make_format("420", depth)
        planes = make_planes(np.random.default_rng(6), format, 90, 70)
        dtype = planes[0].dtype.type
        alphas = alpha_planes(np.full((1, 70, 90), TOP[dtype], dtype), format)
        for plane, blurred in zip(
            planes, blurred_background(planes, alphas, format, 12), strict=True
        ):
            assert blurred.dtype == dtype
            assert np.abs(blurred - plane.mean()).max() <= 0.51

    def test_one_corner_fills_the_frame(self):
        alpha = np.full((1, 240, 320), 255, np.uint8)
        alpha[:, :24, :24] = 0
        plane = np.where(alpha == 255, 250, 40).astype(np.uint8)
        blurred = blurred_background((plane,) * 3, (alpha,) * 3, make_format("444"), 10)[0]
        assert blurred.min() == 40
        assert blurred.max() <= 46

    def test_what_lies_behind_is_filled_from_either_side(self):
        alpha = np.zeros((1, 120, 300), np.uint8)
        alpha[:, :, 100:200] = 255
        plane = np.full((1, 120, 300), 128, np.uint8)
        plane[:, :, :100] = 30
        plane[:, :, 200:] = 180
        blurred = blurred_background((plane,) * 3, (alpha,) * 3, make_format("444"), 8)[0]
        row = blurred[0, 60].astype(int)
        assert (np.diff(row) >= 0).all()
        assert np.diff(row).max() <= 6
        assert row[90] <= 31
        assert row[209] >= 179
        assert abs(row[150] - 105) <= 3

    @given(
        height=st.integers(1, 40),
        width=st.integers(1, 40),
        subsampling=st.sampled_from(list(SUBSAMPLINGS)),
        radius_px=st.floats(0.01, 300),
        seed=st.integers(0, 99),
    )
    @settings(max_examples=100, deadline=None)
    def test_stays_between_the_extremes(self, height, width, subsampling, radius_px, seed):
        rng = np.random.default_rng(seed)
        format = make_format(subsampling)
        planes = make_planes(rng, format, width, height)
        planes = tuple(plane // 4 + np.uint8(seed) for plane in planes)
        alpha = rng.choice([0, 20, 255], (1, height, width)).astype(np.uint8)
        for plane, blurred in zip(
            planes,
            blurred_background(planes, alpha_planes(alpha, format), format, radius_px),
            strict=True,
        ):
            assert blurred.shape == plane.shape
            assert blurred.min() >= plane.min()
            assert blurred.max() <= plane.max()

    def test_varies_smoothly_with_alpha(self):
        format = make_format("420")
        rng = np.random.default_rng(7)
        planes = make_planes(rng, format, 200, 120)
        alpha = make_ellipse(120, 200, 30, np.uint8)
        nudged = np.clip(alpha.astype(int) + rng.integers(-3, 4, alpha.shape), 0, 255)
        before, after = (
            blurred_background(planes, alpha_planes(a, format), format, 15)
            for a in (alpha, nudged.astype(np.uint8))
        )
        for one, other in zip(before, after, strict=True):
            assert np.abs(one.astype(int) - other).max() <= 2

    def test_a_highlight_changes_only_its_surroundings(self):
        plane = np.full((1, 200, 300), 50, np.uint8)
        lit = plane.copy()
        lit[:, :20, :20] = 255
        alpha = np.zeros_like(plane)
        format = make_format("444")
        plain = blurred_background((plane,) * 3, (alpha,) * 3, format, 10)[0]
        with_light = blurred_background((lit,) * 3, (alpha,) * 3, format, 10)[0]
        assert with_light[0, 10, 10] > 150
        np.testing.assert_array_equal(plain[:, 80:], with_light[:, 80:])
        np.testing.assert_array_equal(plain[:, :, 80:], with_light[:, :, 80:])

    def test_batch_equals_single_frames(self):
        format = make_format("420", 10)
        rng = np.random.default_rng(8)
        planes = make_planes(rng, format, 50, 30, count=2)
        alpha = rng.integers(0, 65536, (2, 30, 50)).astype(np.uint16)
        alphas = alpha_planes(alpha, format)
        together = blurred_background(planes, alphas, format, 6)
        for index in range(2):
            one = slice(index, index + 1)
            alone = blurred_background(
                tuple(p[one] for p in planes), alpha_planes(alpha[one], format), format, 6
            )
            for number in range(3):
                np.testing.assert_array_equal(together[number][one], alone[number])

    @pytest.mark.parametrize("radius_px", [0, -1, float("nan"), float("inf")])
    def test_refuses_a_radius_that_is_none(self, radius_px):
        plane = np.zeros((1, 4, 4), np.uint8)
        with pytest.raises(ValueError, match="radius"):
            blurred_background((plane,) * 3, (plane,) * 3, make_format("444"), radius_px)
