from __future__ import annotations

import doctest
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidbg import colour_names
from vidbg.colour import luma_weights, neutral, planes_to_rgb, resolve, rgb_to_codes
from vidbg.colour_names import parse_colour
from vidbg.frames import Colour, PlaneFormat

YUV420 = PlaneFormat("yuv420p", 8, 1, 1, False)
YUV420P10 = PlaneFormat("yuv420p10le", 10, 1, 1, False)
YUV444 = PlaneFormat("yuv444p", 8, 0, 0, False)
YUV444P16 = PlaneFormat("yuv444p16le", 16, 0, 0, False)
GBR = PlaneFormat("gbrp", 8, 0, 0, True)
GBR16 = PlaneFormat("gbrp16le", 16, 0, 0, True)

BT709 = Colour("tv", "bt709", "bt709", "bt709")
BT601 = Colour("tv", "smpte170m")
RGB = Colour("pc", "gbr")
PQ = Colour("tv", "bt2020nc", "bt2020", "smpte2084")
HLG = Colour("tv", "bt2020nc", "bt2020", "arib-std-b67")

MATRICES = ["bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc", "ycgco"]


def pq_signal(level):
    """SMPTE ST 2084, equation 5.2, with its constants in decimals; level in cd/m²."""
    power = (level / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def flat(codes, format, width=8, height=8, count=1):
    dtype = np.uint8 if format.depth == 8 else np.uint16
    return tuple(
        np.full((count, *size), code, dtype)
        for code, size in zip(codes, format.plane_sizes(width, height), strict=True)
    )


class TestResolve:
    @pytest.mark.parametrize(
        ("height", "primaries", "transfer", "matrix"),
        [
            (719, "unknown", "unknown", "smpte170m"),
            (720, "unknown", "unknown", "bt709"),
            (2160, "bt709", "bt709", "bt709"),
            (2160, "bt2020", "unknown", "bt2020nc"),
            (480, "bt2020", "unknown", "bt2020nc"),
            (2160, "unknown", "smpte2084", "bt2020nc"),
            (2160, "unknown", "arib-std-b67", "bt2020nc"),
        ],
    )
    def test_untagged(self, height, primaries, transfer, matrix, caplog):
        for untagged in ("unknown", "unspecified", "reserved"):
            colour = Colour("unknown", untagged, primaries, transfer)
            assert resolve(colour, YUV420, height) == Colour("tv", matrix, primaries, transfer)
        assert not caplog.records

    @pytest.mark.parametrize("matrix", MATRICES)
    @pytest.mark.parametrize("spread", ["tv", "pc"])
    def test_tags_stay(self, matrix, spread, caplog):
        colour = Colour(spread, matrix, "bt709", "bt709")
        assert resolve(colour, YUV420, 480) == colour
        assert not caplog.records

    def test_rgb_is_full_range_gbr(self):
        colour = Colour("tv", "unknown", "bt709", "iec61966-2-1")
        assert resolve(colour, GBR, 480) == Colour("pc", "gbr", "bt709", "iec61966-2-1")

    @pytest.mark.parametrize(
        ("matrix", "primaries", "taken_as"),
        [
            ("bt2020c", "bt2020", "bt2020nc"),
            ("ictcp", "bt2020", "bt2020nc"),
            ("smpte2085", "unknown", "bt2020nc"),
            ("chroma-derived-nc", "bt2020", "bt2020nc"),
            ("chroma-derived-c", "smpte432", "bt709"),
            ("chroma-derived-nc", "smpte170m", "smpte240m"),
            ("ycgco-re", "unknown", "ycgco"),
            ("gbr", "unknown", "bt709"),
            ("from-the-future", "unknown", "bt709"),
        ],
    )
    def test_stand_ins_are_told(self, matrix, primaries, taken_as, caplog):
        with caplog.at_level(logging.WARNING):
            colour = resolve(Colour("tv", matrix, primaries), YUV420, 1080)
        assert colour.matrix == taken_as
        assert f"colour matrix {matrix} is taken as {taken_as}" in caplog.text
        assert rgb_to_codes((255, 255, 255), YUV420, colour) == (235, 128, 128)


class TestLumaWeights:
    def test_standards(self):
        assert luma_weights("bt709") == (0.2126, 0.0722)
        assert luma_weights("smpte170m") == luma_weights("bt470bg") == (0.299, 0.114)
        assert luma_weights("bt2020nc") == (0.2627, 0.0593)
        assert luma_weights("smpte240m") == (0.212, 0.087)
        assert luma_weights("fcc") == (0.30, 0.11)

    @pytest.mark.parametrize("matrix", ["gbr", "unknown", "ycgco", "ictcp"])
    def test_no_weights(self, matrix):
        with pytest.raises(ValueError, match=matrix):
            luma_weights(matrix)


class TestRgbToCodes:
    # Full-amplitude colour bars, white to black, as test generators have them.
    BARS = (
        (255, 255, 255),
        (255, 255, 0),
        (0, 255, 255),
        (0, 255, 0),
        (255, 0, 255),
        (255, 0, 0),
        (0, 0, 255),
        (0, 0, 0),
    )
    BARS_709 = (
        (235, 128, 128),
        (219, 16, 138),
        (188, 154, 16),
        (173, 42, 26),
        (78, 214, 230),
        (63, 102, 240),
        (32, 240, 118),
        (16, 128, 128),
    )
    BARS_601 = (
        (235, 128, 128),
        (210, 16, 146),
        (170, 166, 16),
        (145, 54, 34),
        (106, 202, 222),
        (81, 90, 240),
        (41, 240, 110),
        (16, 128, 128),
    )
    # SMPTE RP 219-1: 75 % bars at 10 bits.
    BARS_75_709_10_BIT = (
        (721, 512, 512),
        (674, 176, 543),
        (581, 589, 176),
        (534, 253, 207),
        (251, 771, 817),
        (204, 435, 848),
        (111, 848, 481),
        (64, 512, 512),
    )

    def test_colour_bars(self):
        for rgb, codes_709, codes_601 in zip(self.BARS, self.BARS_709, self.BARS_601, strict=True):
            assert rgb_to_codes(rgb, YUV420, BT709) == codes_709
            assert rgb_to_codes(rgb, YUV420, BT601) == codes_601

    def test_colour_bars_at_75_percent(self):
        for rgb, codes in zip(self.BARS, self.BARS_75_709_10_BIT, strict=True):
            # 191 of 255 is 74.9 %, by which a code of 10 bits may be one off.
            ours = rgb_to_codes(tuple(round(c * 0.749) for c in rgb), YUV420P10, BT709)
            assert np.abs(np.subtract(ours, codes)).max() <= 1

    def test_studio_green(self):
        # BT.709: Y = 0.7152·177 + 0.0722·64 = 131.21 of 255; 16 + 219·Y, 128 + 224·(B-Y)/1.8556,
        # 128 + 224·(R-Y)/1.5748.
        assert rgb_to_codes((0, 177, 64), YUV420, BT709) == (129, 96, 55)
        # 255·Y, 128 + 255·(B-Y)/1.8556, ...
        assert rgb_to_codes((0, 177, 64), YUV420, replace(BT709, range="pc")) == (131, 92, 45)
        assert rgb_to_codes((0, 177, 64), GBR, RGB) == (177, 64, 0)
        # n·257 is n of 255 at 16 bits.
        assert rgb_to_codes((0, 177, 64), GBR16, RGB) == (177 * 257, 64 * 257, 0)

    def test_full_range_stays_in_range(self):
        # (R-Y)/1.402 is 1/2, 255.5 of 255.
        assert rgb_to_codes((255, 0, 0), YUV420, replace(BT601, range="pc")) == (76, 85, 255)

    def test_ycgco(self):
        colour = Colour("tv", "ycgco")
        # H.273 takes it of R'G'B' codes in limited range: (16, 235, 16) for green.
        # Y = (16 + 2·235 + 16) / 4, Cg = (2·235 - 16 - 16) / 4 + 128, Co = 128.
        assert rgb_to_codes((0, 255, 0), YUV444, colour) == (126, 238, 128)
        # (235, 16, 16): Y = 70.75, Cg = -54.75 + 128, Co = 109.5 + 128.
        assert rgb_to_codes((255, 0, 0), YUV444, colour) == (71, 73, 238)

    def test_hdr_white_is_reference_white(self):
        # ITU-R BT.2408: 203 cd/m² is 58 % of PQ (0.5807 by ST 2084) and 75 % of HLG.
        assert rgb_to_codes((255, 255, 255), YUV420P10, PQ) == (573, 512, 512)
        assert rgb_to_codes((255, 255, 255), YUV420P10, HLG) == (721, 512, 512)
        # Grey of 190 is 100 cd/m² at BT.1886's gamma of 2.4.
        luma = rgb_to_codes((190, 190, 190), YUV420P10, PQ)[0]
        assert (luma - 64) / 876 == pytest.approx(pq_signal(100), abs=0.001)

    def test_hdr_primaries(self):
        # ITU-R BT.2087: BT.709's red is (0.6274, 0.0691, 0.0164) in BT.2020, of 203 cd/m².
        wide = Colour("pc", "gbr", "bt2020", PQ.transfer)
        green, blue, red = rgb_to_codes((255, 0, 0), GBR16, wide)
        assert [red / 65535, green / 65535, blue / 65535] == pytest.approx(
            [pq_signal(127.36), pq_signal(14.03), pq_signal(3.33)], abs=2e-4
        )
        narrow = rgb_to_codes((255, 0, 0), GBR16, replace(wide, primaries="bt709"))
        assert narrow[:2] == (0, 0)
        assert narrow[2] / 65535 == pytest.approx(0.5807, abs=0.0001)

    def test_neutral(self):
        full = replace(BT709, range="pc")
        assert neutral(YUV420, BT709) == (16, 128, 128)
        assert neutral(YUV420, full) == (0, 128, 128)
        assert neutral(YUV420P10, BT709) == (64, 512, 512)
        assert neutral(YUV444P16, full) == (0, 32768, 32768)
        assert neutral(GBR, RGB) == (0, 0, 0)
        assert neutral(YUV420P10, PQ) == neutral(YUV420P10, HLG) == (64, 512, 512)

    @pytest.mark.parametrize(
        ("format", "colour"),
        [
            (YUV420, Colour()),
            (YUV420, Colour("tv", "unknown")),
            (YUV420, Colour("unknown", "bt709")),
            (YUV420, RGB),
            (YUV420, Colour("tv", "ictcp")),
            (GBR, BT709),
        ],
    )
    def test_refuses_unresolved_tags(self, format, colour):
        with pytest.raises(ValueError, match=r"colour matrix|unresolved"):
            rgb_to_codes((1, 2, 3), format, colour)

    @pytest.mark.parametrize("rgb", [(-1, 0, 0), (0, 0, 256)])
    def test_refuses_what_is_no_colour(self, rgb):
        with pytest.raises(ValueError, match="outside"):
            rgb_to_codes(rgb, YUV420, BT709)


class TestPlanesToRgb:
    @given(
        rgb=st.tuples(*[st.integers(0, 255)] * 3),
        depth=st.sampled_from([8, 9, 10, 12, 14, 16]),
        matrix=st.sampled_from(MATRICES),
        spread=st.sampled_from(["tv", "pc"]),
        log2=st.tuples(st.integers(0, 2), st.integers(0, 2)),
        location=st.sampled_from(["left", "center", "topleft"]),
        size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
        target=st.none() | st.tuples(st.integers(1, 20), st.integers(1, 20)),
    )
    @settings(max_examples=200, deadline=None)
    def test_flat_frames_come_back(self, rgb, depth, matrix, spread, log2, location, size, target):
        format = PlaneFormat("yuv", depth, *log2, False, location)
        colour = Colour(spread, matrix)
        planes = flat(rgb_to_codes(rgb, format, colour), format, *size, count=2)
        out = planes_to_rgb(planes, format, colour, target)
        assert out.dtype == np.uint8
        assert out.shape == (2, *(target or size[::-1]), 3)
        # Half a code of each plane is less than half of 255 only from 10 bits up.
        tolerance = {8: 2, 9: 1}.get(depth, 0)
        assert np.abs(out.astype(int) - rgb).max() <= tolerance

    @pytest.mark.parametrize("depth", [8, 12])
    @pytest.mark.parametrize("spread", ["tv", "pc"])
    def test_every_pixel_by_the_equations(self, depth, spread):
        rng = np.random.default_rng(0)
        format = PlaneFormat("yuv444p", depth, 0, 0, False)
        dtype = np.uint8 if depth == 8 else np.uint16
        y, cb, cr = planes = tuple(
            rng.integers(0, 1 << depth, (1, 70, 1000)).astype(dtype) for _ in range(3)
        )
        if spread == "tv":
            luma = (y / 2 ** (depth - 8) - 16) / 219
            blue, red = ((c / 2 ** (depth - 8) - 128) / 224 for c in (cb, cr))
        else:
            top = 2**depth - 1
            luma = y / top
            blue, red = ((c - 2 ** (depth - 1)) / top for c in (cb.astype(float), cr.astype(float)))
        # ITU-R BT.709, 3: E'b = (B - Y) / 1.8556, E'r = (R - Y) / 1.5748.
        r = luma + 1.5748 * red
        b = luma + 1.8556 * blue
        g = (luma - 0.2126 * r - 0.0722 * b) / 0.7152
        exact = np.clip(255 * np.stack([r, g, b], axis=-1), 0, 255)
        out = planes_to_rgb(planes, format, replace(BT709, range=spread))
        assert np.abs(out - exact).max() <= 0.5005

    def test_rgb_planes_are_only_reordered(self):
        rng = np.random.default_rng(1)
        planes = tuple(rng.integers(0, 256, (2, 37, 41)).astype(np.uint8) for _ in range(3))
        out = planes_to_rgb(planes, GBR, RGB)
        np.testing.assert_array_equal(out, np.stack([planes[2], planes[0], planes[1]], axis=-1))

    @pytest.mark.parametrize("log2", [(1, 0), (1, 1), (0, 1), (2, 0), (2, 2)])
    @pytest.mark.parametrize("location", ["left", "center", "topleft"])
    def test_chroma_lies_where_it_was_sited(self, log2, location):
        # A ramp at luma size, and the same ramp taken at the positions of chroma samples: the
        # picture must be the same, away from the edges where there is nothing to go by.
        format = PlaneFormat("yuv", 16, *log2, False, location)
        height, width = 200, 420
        amid = location == "center", location in ("center", "left")

        def ramp(x, y):
            return np.rint(32768 + 60 * (x - width / 2) + 90 * (y - height / 2)).astype(np.uint16)

        rows, columns = format.plane_sizes(width, height)[1]
        y, x = np.mgrid[:rows, :columns]
        fx, fy = 1 << log2[0], 1 << log2[1]
        chroma = ramp(fx * x + amid[0] * (fx - 1) / 2, fy * y + amid[1] * (fy - 1) / 2)[np.newaxis]
        y, x = np.mgrid[:height, :width]
        exact = ramp(x, y)[np.newaxis]
        luma = np.full((1, height, width), 30000, np.uint16)
        out = planes_to_rgb((luma, chroma, chroma), format, BT709).astype(int)
        expected = planes_to_rgb((luma, exact, exact), YUV444P16, BT709).astype(int)
        inner = slice(4, -4)
        # The 16-bit codes of either ramp are rounded, so a value at a half may go either way.
        difference = np.abs(out - expected)[:, inner, inner]
        assert difference.max() <= 1
        assert (difference != 0).mean() < 0.01

    def test_odd_sizes(self):
        for width, height in ((1, 1), (5, 7), (3, 2)):
            planes = flat((129, 96, 55), YUV420, width, height)
            out = planes_to_rgb(planes, YUV420, BT709)
            assert out.shape == (1, height, width, 3)
            assert np.abs(out - np.array([0, 177, 64], int)).max() <= 2

    @pytest.mark.parametrize("depth", [8, 10])
    def test_thumbnail_is_the_mean_over_area(self, depth):
        rng = np.random.default_rng(2)
        format = PlaneFormat("gbrp", depth, 0, 0, True)
        dtype = np.uint8 if depth == 8 else np.uint16
        planes = tuple(rng.integers(0, 1 << depth, (1, 60, 84)).astype(dtype) for _ in range(3))
        top = (1 << depth) - 1
        full = np.stack([planes[2], planes[0], planes[1]], axis=-1)[0] * (255 / top)
        for factor in (2, 3, 6, 12):
            out = planes_to_rgb(planes, format, RGB, (60 // factor, 84 // factor))[0]
            mean = full.reshape(60 // factor, factor, 84 // factor, factor, 3).mean((1, 3))
            assert np.abs(out - mean).max() <= 1.5

    @pytest.mark.parametrize("target", [(37, 50), (23, 84), (60, 31), (13, 19)])
    def test_thumbnail_weighs_fractions_of_pixels(self, target):
        rng = np.random.default_rng(3)
        # Smooth, as thumbnails from above 4:1 halve their frame first, in whole pixels.
        planes = tuple(
            np.kron(rng.integers(0, 256, (1, 10, 14)), np.ones((6, 6))).astype(np.uint8)
            for _ in range(3)
        )

        def shares(length, cells):
            """Each pixel's share of each cell, (cells, length)."""
            edges = np.arange(cells + 1)[:, np.newaxis] * length / cells
            pixels = np.arange(length)
            low = np.maximum(edges[:-1], pixels)
            high = np.minimum(edges[1:], pixels + 1)
            return np.maximum(high - low, 0) * cells / length

        full = np.stack([planes[2], planes[0], planes[1]], axis=-1)[0].astype(float)
        mean = np.einsum("ay,bx,yxc->abc", shares(60, target[0]), shares(84, target[1]), full)
        out = planes_to_rgb(planes, GBR, RGB, target)[0]
        limit = 1.5 if min(60 / target[0], 84 / target[1]) < 4 else 40
        assert np.abs(out - mean).max() <= limit
        assert np.abs(out - mean).mean() <= 1

    def test_one_axis_may_grow(self):
        plane = np.zeros((1, 8, 4), np.uint8)
        plane[:, ::2] = 200  # rows of 200 and 0 average to 100; OpenCV's own area mode skips them
        out = planes_to_rgb((plane,) * 3, GBR, RGB, (2, 8))
        assert (out == 100).all()

    def test_chroma_may_grow_while_luma_shrinks(self):
        planes = (
            np.full((1, 90, 120), 120, np.uint8),
            np.repeat(np.linspace(60, 180, 60)[np.newaxis, np.newaxis], 45, 1).astype(np.uint8),
            np.full((1, 45, 60), 128, np.uint8),
        )
        out = planes_to_rgb(planes, YUV420, BT709, (60, 80))
        blue = out[0, 30, :, 2].astype(int)
        assert (np.diff(blue) >= 0).all()
        # 2 codes of Cb from one sample to the next are 255/224·1.8556 of B' each.
        assert np.diff(blue[3:-3]).max() <= 2.6 * 2 * 60 / 80 + 2

    def test_the_frames_own_size_is_no_resize(self):
        rng = np.random.default_rng(4)
        planes = tuple(
            rng.integers(16, 235, (1, *size)).astype(np.uint8)
            for size in YUV420.plane_sizes(31, 23)
        )
        np.testing.assert_array_equal(
            planes_to_rgb(planes, YUV420, BT709, (23, 31)), planes_to_rgb(planes, YUV420, BT709)
        )

    def test_batch_equals_single_frames(self):
        rng = np.random.default_rng(5)
        planes = tuple(
            rng.integers(64, 941, (3, *size)).astype(np.uint16)
            for size in YUV420P10.plane_sizes(50, 40)
        )
        for plane in planes:
            plane.flags.writeable = False
        for colour in (BT709, PQ):
            for size in (None, (16, 24)):
                together = planes_to_rgb(planes, YUV420P10, colour, size)
                for index in range(3):
                    alone = tuple(plane[index : index + 1] for plane in planes)
                    np.testing.assert_array_equal(
                        together[index : index + 1], planes_to_rgb(alone, YUV420P10, colour, size)
                    )

    def test_refuses_unresolved_tags(self):
        with pytest.raises(ValueError, match="unresolved"):
            planes_to_rgb(flat((16, 128, 128), YUV420), YUV420, Colour())

    @pytest.mark.parametrize("matrix", ["bt709", "bt601", "bt2020"])
    @pytest.mark.parametrize("spread", ["tv", "pc"])
    def test_agrees_with_ffmpeg(self, matrix, spread):
        ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error"]
        width, height = 192, 108
        to_yuv = f"scale=out_color_matrix={matrix}:out_range={spread}:flags=accurate_rnd"
        yuv = subprocess.run(
            ffmpeg
            + f"-f lavfi -i testsrc2=s={width}x{height}:d=0.04,format=gbrp".split()
            + f"-vf {to_yuv},format=yuv444p -f rawvideo -".split(),
            check=True,
            capture_output=True,
        ).stdout
        to_rgb = f"scale=in_color_matrix={matrix}:in_range={spread}:flags=accurate_rnd"
        rgb = subprocess.run(
            ffmpeg
            + f"-f rawvideo -pix_fmt yuv444p -s {width}x{height} -i -".split()
            + f"-vf {to_rgb}+full_chroma_int,format=rgb24 -f rawvideo -".split(),
            check=True,
            capture_output=True,
            input=yuv,
        ).stdout
        planes = tuple(np.frombuffer(yuv, np.uint8).reshape(3, 1, height, width))
        theirs = np.frombuffer(rgb, np.uint8).reshape(1, height, width, 3).astype(int)
        name = {"bt601": "smpte170m", "bt2020": "bt2020nc"}.get(matrix, matrix)
        ours = planes_to_rgb(planes, YUV444, Colour(spread, name))
        assert np.abs(ours - theirs).max() <= 2
        assert np.abs(ours - theirs).mean() <= 0.5


class TestHdrThumbnails:
    @staticmethod
    def shown(signal, colour, format=GBR16):
        """What an R' = G' = B' signal, 0 to 1, is shown as."""
        planes = flat([round(signal * 65535)] * 3, format, 2, 2)
        red, green, blue = planes_to_rgb(planes, format, colour)[0, 0, 0].tolist()
        assert red == green == blue
        return red

    # Below the knee, at 93 cd/m², a level is shown as it is: 255·(level / 203)^(1/2.4).
    @pytest.mark.parametrize("level", [1, 10, 50, 90])
    def test_pq_below_the_knee(self, level):
        colour = Colour("pc", "gbr", "bt2020", PQ.transfer)
        expected = 255 * (level / 203) ** (1 / 2.4)
        assert self.shown(pq_signal(level), colour) == pytest.approx(expected, abs=0.55)

    # BT.2100: HLG signals of 1/2 and below are scene light of signal²/3; on a display of
    # 1000 cd/m² grey shows at 1000·scene^1.2.
    @pytest.mark.parametrize("signal", [0.1, 0.3, 0.5])
    def test_hlg_below_the_knee(self, signal):
        colour = Colour("pc", "gbr", "bt2020", HLG.transfer)
        level = 1000 * (signal**2 / 3) ** 1.2
        expected = 255 * (level / 203) ** (1 / 2.4)
        assert self.shown(signal, colour) == pytest.approx(expected, abs=0.6)

    def test_white_and_beyond(self):
        pq, hlg = (Colour("pc", "gbr", "bt2020", c.transfer) for c in (PQ, HLG))
        # BT.2408: a white page is 203 cd/m² or 0.75 of HLG, and must look like white paper while
        # a lamp is still brighter.
        assert self.shown(pq_signal(203), pq) == pytest.approx(self.shown(0.75, hlg), abs=1)
        assert 220 <= self.shown(pq_signal(203), pq) <= 240
        # 1000 cd/m² and all above is the top.
        assert self.shown(pq_signal(1000), pq) == self.shown(1.0, pq) == self.shown(1.0, hlg) == 255
        assert self.shown(0.0, pq) == self.shown(0.0, hlg) == 0

    @pytest.mark.parametrize("transfer", [PQ.transfer, HLG.transfer])
    def test_brighter_is_never_darker(self, transfer):
        ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(1, 1, -1)
        out = planes_to_rgb((ramp,) * 3, GBR16, Colour("pc", "gbr", "bt2020", transfer))
        steps = np.diff(out[0, 0].astype(int), axis=0)
        assert steps.min() >= 0
        assert steps.max() <= 2

    @pytest.mark.parametrize("colour", [PQ, HLG])
    @pytest.mark.parametrize("rgb", [(0, 177, 64), (150, 90, 70), (40, 60, 130)])
    @pytest.mark.parametrize("size", [None, (16, 16)])
    def test_sdr_colours_look_as_they_did(self, colour, rgb, size):
        # Below the knee, what rgb_to_codes brings in is shown as it was.
        format = PlaneFormat("yuv420p12le", 12, 1, 1, False)
        planes = flat(rgb_to_codes(rgb, format, colour), format, 64, 64)
        out = planes_to_rgb(planes, format, colour, size).astype(int)
        # In light, as near black even a 12-bit code of PQ is several of gamma's 8-bit ones.
        light, expected = ((np.asarray(values) / 255) ** 2.4 for values in (out, rgb))
        assert np.abs(light - expected).max() <= 0.004

    def test_sdr_is_left_alone(self):
        planes = flat((700, 512, 512), YUV420P10)
        sdr = planes_to_rgb(planes, YUV420P10, replace(PQ, transfer="bt2020-10"))
        assert (sdr == round((700 - 64) / 876 * 255)).all()


class TestParseColour:
    @pytest.mark.parametrize(
        ("text", "rgb"),
        [
            ("#00b140", (0, 177, 64)),
            ("#00B140", (0, 177, 64)),
            ("#0b4", (0, 187, 68)),
            ("#fff", (255, 255, 255)),
            ("green", (0, 128, 0)),
            ("lime", (0, 255, 0)),
            ("RebeccaPurple", (102, 51, 153)),
            (" White ", (255, 255, 255)),
            ("0,177,64", (0, 177, 64)),
            (" 0, 177 ,64 ", (0, 177, 64)),
            ("255,255,255", (255, 255, 255)),
        ],
    )
    def test_known(self, text, rgb):
        assert parse_colour(text) == rgb
        # Pillow replaces names by what they stand for as they are asked for.
        assert parse_colour(text) == rgb

    @pytest.mark.parametrize(
        "text",
        ["", "#", "#12", "#12345", "#ggg", "00b140", "grene", "1,2", "1,2,3,4", "-1,2,3"],
    )
    def test_no_colour(self, text):
        with pytest.raises(ValueError, match="is not a colour") as caught:
            parse_colour(text)
        assert repr(text) in str(caught.value)

    # What Pillow and int() would take, the last of them Arabic digits.
    @pytest.mark.parametrize("text", ["hsl(0,100%,50%)", "rgb(1,2,3)", "\u0661,\u0662,\u0663"])
    def test_other_notations(self, text):
        with pytest.raises(ValueError, match="is not a colour"):
            parse_colour(text)

    def test_too_large(self):
        with pytest.raises(ValueError, match="at most 255"):
            parse_colour("0,256,0")

    @pytest.mark.parametrize("text", ["transparent", "#0008", "#00b14080", "rgba(0,0,0,0)"])
    def test_transparent(self, text):
        with pytest.raises(ValueError, match="transparent"):
            parse_colour(text)

    def test_examples(self):
        assert doctest.testmod(colour_names) == (0, 3)

    def test_needs_nothing_heavy(self):
        code = (
            "import sys; from vidbg.colour_names import parse_colour; parse_colour('#0b4');"
            "sys.exit(bool({'cv2', 'numpy', 'torch', 'PIL'} & set(sys.modules)))"
        )
        root = Path(__file__).resolve().parents[1]
        subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
