"""Every family of pix_fmt, by construction: known samples in, the same samples out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import av
import ffmpeg
import numpy as np
import pytest
from clips import Array, noise_planes, pack_planes, run_ffmpeg, version, video_info

from vidbg.frames import Colour, PlaneFormat
from vidbg.media import ffmpeg as ff
from vidbg.media.formats import alpha_layout, is_grey, working_format
from vidbg.media.source import exact_format, raw_pix_fmt

# No multiple of the coarsest subsampling in height: the last chroma row covers less.
WIDTH, HEIGHT = 12, 7

YUV = ("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p")
DEEP_YUV = [
    *(f"{family}{bits}" for family in YUV[:3] for bits in (9, 10, 12, 14, 16)),
    *("yuv440p10", "yuv440p12"),
]
DEEP_RGB = [f"gbrp{bits}" for bits in (9, 10, 12, 14, 16)]
PLANAR = [
    *YUV,
    *("yuvj420p", "yuvj422p", "yuvj444p", "yuvj440p", "yuvj411p"),
    *(f"{name}le" for name in DEEP_YUV),
    *("yuv420p10be", "yuv422p12be", "yuv444p16be"),
    "gbrp",
    *(f"{name}le" for name in DEEP_RGB),
    *("gbrp10be", "gbrp16be"),
]
PLANAR_WITH_ALPHA = [
    *("yuva420p", "yuva422p", "yuva444p", "gbrap"),
    *("yuva420p10le", "yuva422p10le", "yuva444p10le", "yuva444p16le", "yuva422p10be"),
    *("gbrap10le", "gbrap12le", "gbrap16le", "gbrap16be"),
]
# All but those that only graphics hardware can look into.
IN_MEMORY = sorted(name for name in av.video.format.names if av.VideoFormat(name).components)
Case = tuple[bytes, list[Array], str]


@cache
def known_pix_fmts() -> frozenset[str]:
    """Return the pix_fmts of the FFmpeg under test."""
    listed = run_ffmpeg("-pix_fmts").decode().splitlines()
    return frozenset(line.split()[1] for line in listed if len(line.split()) > 3)


def noise(shape: tuple[int, ...], bits: int, seed: int = 0) -> Array:
    dtype = np.uint8 if bits <= 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 1 << bits, shape).astype(dtype)


def bytes_of(samples: Array, pix_fmt: str) -> bytes:
    if samples.dtype == np.uint8:
        return samples.tobytes()
    return samples.astype(">u2" if pix_fmt.endswith("be") else "<u2").tobytes()


def planar(pix_fmt: str) -> Case:
    planes = [plane[0] for plane in noise_planes(pix_fmt, (WIDTH, HEIGHT), 1)]
    raw = pack_planes([plane[None] for plane in planes], big_endian=pix_fmt.endswith("be"))
    name = pix_fmt.replace("yuvj", "yuv").replace("yuva", "yuv").replace("gbrap", "gbrp")
    return raw, planes, name.removesuffix("be").removesuffix("le")


def semiplanar(pix_fmt: str, planes_as: str, shift: int = 0) -> Case:
    """Y, then pairs of Cb and Cr (Cr and Cb in nv21), in the upper bits of their words."""
    planes = [plane[0] for plane in noise_planes(planes_as, (WIDTH, HEIGHT), 1)]
    pairs = np.stack(planes[1:] if pix_fmt != "nv21" else planes[:0:-1], axis=-1)
    raw = b"".join(bytes_of(part << shift, pix_fmt) for part in (planes[0], pairs))
    return raw, planes, planes_as.removesuffix("le")


def packed_422(pix_fmt: str, order: str, bits: int = 8, shift: int = 0) -> Case:
    luma = noise((HEIGHT, WIDTH), bits)
    chroma = {name: noise((HEIGHT, WIDTH // 2), bits, seed) for seed, name in enumerate("uv", 1)}
    parts = {"0": luma[:, ::2], "1": luma[:, 1::2], **chroma}
    raw = bytes_of(np.stack([parts[name] << shift for name in order], axis=-1), pix_fmt)
    return raw, [luma, chroma["u"], chroma["v"]], "yuv422p" if bits == 8 else f"yuv422p{bits}"


def packed(pix_fmt: str, order: str, bits: int, working: str) -> Case:
    """Interleaved components; "x" is padding."""
    parts = {name: noise((HEIGHT, WIDTH), bits, seed) for seed, name in enumerate("xyuvrgba")}
    raw = bytes_of(np.stack([parts[name] for name in order], axis=-1), pix_fmt)
    shown = "yuv" if "y" in order else "gbr"
    return raw, [parts[name] for name in shown + ("a" if "a" in order else "")], working


def grey(pix_fmt: str, bits: int, working_bits: int, *, alpha: bool = False) -> Case:
    luma, opacity = noise((HEIGHT, WIDTH), bits), noise((HEIGHT, WIDTH), bits, 1)
    samples = np.stack([luma, opacity], axis=-1) if alpha else luma
    chroma = np.full((-(-HEIGHT // 2), WIDTH // 2), 1 << (working_bits - 1), luma.dtype)
    planes = [luma, chroma, chroma, *([opacity] if alpha else [])]
    name = "yuv420p" if working_bits == 8 else f"yuv420p{working_bits}"
    return bytes_of(samples, pix_fmt), planes, name


def one_bit(white_is_zero: bool) -> Case:
    bits = noise((HEIGHT, WIDTH), 1)
    luma = ((1 - bits if white_is_zero else bits) * 255).astype(np.uint8)
    chroma = np.full((-(-HEIGHT // 2), WIDTH // 2), 128, np.uint8)
    return np.packbits(bits, axis=1).tobytes(), [luma, chroma, chroma], "yuv420p"


def palette() -> Case:
    index, colours = noise((HEIGHT, WIDTH), 8), noise((256, 4), 8, 1)  # b, g, r, a
    shown = colours[index]
    raw = index.tobytes() + colours.tobytes()
    return raw, [shown[..., 1], shown[..., 0], shown[..., 2], shown[..., 3]], "gbrp"


def rgb332(is_bgr: bool) -> Case:
    codes = noise((HEIGHT, WIDTH), 8)
    if is_bgr:
        blue, green, red = codes >> 6, codes >> 3 & 7, codes & 7
    else:
        red, green, blue = codes >> 5, codes >> 2 & 7, codes & 3
    return codes.tobytes(), [green * 36, blue * 85, red * 36], "gbrp"


CASES: dict[str, Callable[[], Case]] = {
    **{name: lambda name=name: planar(name) for name in [*PLANAR, *PLANAR_WITH_ALPHA]},
    "nv12": lambda: semiplanar("nv12", "yuv420p"),
    "nv21": lambda: semiplanar("nv21", "yuv420p"),
    "nv16": lambda: semiplanar("nv16", "yuv422p"),
    "nv24": lambda: semiplanar("nv24", "yuv444p"),
    "p010le": lambda: semiplanar("p010le", "yuv420p10le", 6),
    "p010be": lambda: semiplanar("p010be", "yuv420p10le", 6),
    "p016le": lambda: semiplanar("p016le", "yuv420p16le"),
    "p210le": lambda: semiplanar("p210le", "yuv422p10le", 6),
    "p410le": lambda: semiplanar("p410le", "yuv444p10le", 6),
    "yuyv422": lambda: packed_422("yuyv422", "0u1v"),
    "uyvy422": lambda: packed_422("uyvy422", "u0v1"),
    "yvyu422": lambda: packed_422("yvyu422", "0v1u"),
    "y210le": lambda: packed_422("y210le", "0u1v", 10, 6),
    "ayuv64le": lambda: packed("ayuv64le", "ayuv", 16, "yuv444p16"),
    "vuya": lambda: packed("vuya", "vuya", 8, "yuv444p"),
    "gray": lambda: grey("gray", 8, 8),
    "gray9le": lambda: grey("gray9le", 9, 9),
    "gray10le": lambda: grey("gray10le", 10, 10),
    "gray10be": lambda: grey("gray10be", 10, 10),
    "gray12le": lambda: grey("gray12le", 12, 12),
    "gray14le": lambda: grey("gray14le", 14, 14),
    "gray16le": lambda: grey("gray16le", 16, 16),
    "gray16be": lambda: grey("gray16be", 16, 16),
    "ya8": lambda: grey("ya8", 8, 8, alpha=True),
    "ya16le": lambda: grey("ya16le", 16, 16, alpha=True),
    "monow": lambda: one_bit(True),
    "monob": lambda: one_bit(False),
    "rgb24": lambda: packed("rgb24", "rgb", 8, "gbrp"),
    "bgr24": lambda: packed("bgr24", "bgr", 8, "gbrp"),
    "0rgb": lambda: packed("0rgb", "xrgb", 8, "gbrp"),
    "bgr0": lambda: packed("bgr0", "bgrx", 8, "gbrp"),
    "rgba": lambda: packed("rgba", "rgba", 8, "gbrp"),
    "bgra": lambda: packed("bgra", "bgra", 8, "gbrp"),
    "argb": lambda: packed("argb", "argb", 8, "gbrp"),
    "rgb48le": lambda: packed("rgb48le", "rgb", 16, "gbrp16"),
    "rgb48be": lambda: packed("rgb48be", "rgb", 16, "gbrp16"),
    "bgr48le": lambda: packed("bgr48le", "bgr", 16, "gbrp16"),
    "rgba64le": lambda: packed("rgba64le", "rgba", 16, "gbrp16"),
    "rgba64be": lambda: packed("rgba64be", "rgba", 16, "gbrp16"),
    "pal8": palette,
    "rgb8": lambda: rgb332(False),
    "bgr8": lambda: rgb332(True),
}


def converted(raw: bytes, pix_fmt: str, plane_format: PlaneFormat, has_alpha: bool) -> list[Array]:
    """Send raw frames through the conversion that decoding ends with."""
    colour = Colour(range="pc" if pix_fmt.startswith("yuvj") else "unknown")
    info = video_info(pix_fmt, width=WIDTH, height=HEIGHT, colour=colour)
    node = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt=pix_fmt, s=f"{WIDTH}x{HEIGHT}")
    node = exact_format(node, info, (WIDTH, HEIGHT))
    arguments = node.output("pipe:1", format="rawvideo", pix_fmt=raw_pix_fmt(info)).get_args()
    ran = ff.run(arguments, feed=raw)
    assert ran.returncode == 0, ran.lines
    name, depth = alpha_layout(plane_format) if has_alpha else ("", plane_format.depth)
    shapes = [*plane_format.plane_sizes(WIDTH, HEIGHT)] + [(HEIGHT, WIDTH)] * has_alpha
    samples = np.frombuffer(ran.stdout, np.uint8 if plane_format.depth == 8 else "<u2")
    samples = samples >> (depth - plane_format.depth)
    assert samples.size == sum(h * w for h, w in shapes), name
    ends = np.cumsum([h * w for h, w in shapes])
    return [part.reshape(s) for part, s in zip(np.split(samples, ends[:-1]), shapes, strict=True)]


@pytest.mark.parametrize("pix_fmt", CASES)
def test_samples_pass_unchanged_into_the_working_format(pix_fmt: str) -> None:
    if pix_fmt not in known_pix_fmts():
        pytest.skip(f"this FFmpeg has no {pix_fmt}")
    if pix_fmt == "nv16" and version() < 6:
        pytest.skip("this FFmpeg cannot convert it, nor decode anything to it")
    raw, planes, working = CASES[pix_fmt]()
    plane_format, has_alpha = working_format(pix_fmt)
    assert plane_format.pix_fmt.removesuffix("le") == working
    assert has_alpha == (len(planes) == 4)
    got = converted(raw, pix_fmt, plane_format, has_alpha)
    for number, (ours, theirs) in enumerate(zip(got, planes, strict=True)):
        off = np.abs(ours.astype(int) - theirs).max()
        # FFmpeg 5 scales the alpha of packed 8-bit RGB, and rounds up; its ends are exact.
        is_scaled = number == 3 and plane_format.pix_fmt == "gbrp"
        assert off <= (1 if is_scaled else 0), (number, off)


@pytest.mark.parametrize("pix_fmt", ["rgba", "bgra", "pal8"])
def test_opaque_and_transparent_stay_so(pix_fmt: str) -> None:
    raw = bytearray(CASES[pix_fmt]()[0])
    alphas = raw[3::4] if pix_fmt != "pal8" else raw[WIDTH * HEIGHT + 3 :: 4]
    clipped = bytes(255 if value >= 128 else 0 for value in alphas)
    if pix_fmt == "pal8":
        raw[WIDTH * HEIGHT + 3 :: 4] = clipped
    else:
        raw[3::4] = clipped
    got = converted(bytes(raw), pix_fmt, *working_format(pix_fmt))
    assert set(np.unique(got[3])) <= {0, 255}


@pytest.mark.parametrize("pix_fmt", IN_MEMORY)
def test_every_pix_fmt_has_a_working_format(pix_fmt: str) -> None:
    described = av.VideoFormat(pix_fmt)
    plane_format, has_alpha = working_format(pix_fmt)
    name = plane_format.pix_fmt
    assert av.VideoFormat(name).components  # FFmpeg knows it, and it is
    assert name.startswith(("yuv4", "gbrp"))  # three planes,
    assert plane_format.bytes_per_sample == (1 if name.endswith("p") else 2)  # of whole words,
    layout, depth = alpha_layout(plane_format)  # which fit with alpha into
    assert len(av.VideoFormat(layout).components) == 4
    assert plane_format.depth <= depth <= 16
    assert has_alpha == (described.has_palette or any(c.is_alpha for c in described.components))
    # No sample loses bits, short of floating point and of 4:2:0 of more than 16.
    bits = 8 if described.has_palette else max(part.bits for part in described.components)
    assert plane_format.depth >= min(bits, 16) or described.is_bayer


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv411p", "yuv410p", "gbrp12le"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (853, 479), (4, 4)])
def test_plane_sizes_are_those_of_ffmpeg(pix_fmt: str, size: tuple[int, int]) -> None:
    frame = av.VideoFrame(*size, pix_fmt)
    theirs = [(plane.height, plane.width) for plane in frame.planes]
    assert list(working_format(pix_fmt)[0].plane_sizes(*size)) == theirs


@pytest.mark.parametrize(
    ("pix_fmt", "rotation", "expected"),
    [
        ("yuv420p", 90, "yuv420p"),
        ("yuv410p", 270, "yuv410p"),
        ("yuv422p10le", 90, "yuv444p10le"),
        ("yuv422p10le", 180, "yuv422p10le"),
        ("yuv440p12le", 270, "yuv444p12le"),
        ("yuv411p", 90, "yuv444p"),
        ("yuyv422", 90, "yuv444p"),
        ("rgb24", 90, "gbrp"),
        ("gray16le", 90, "yuv420p16le"),
    ],
)
def test_only_a_quarter_turn_of_uneven_subsampling_changes_it(
    pix_fmt: str, rotation: int, expected: str
) -> None:
    assert working_format(pix_fmt, rotation=rotation)[0].pix_fmt == expected


def test_chroma_sits_where_the_clip_says() -> None:
    assert working_format("yuv420p")[0].chroma_location == "left"
    assert working_format("yuvj420p")[0].chroma_location == "center"
    assert working_format("yuvj420p", chroma_location="left")[0].chroma_location == "left"
    assert working_format("yuv420p", chroma_location="topleft")[0].chroma_location == "topleft"
    turned = working_format("yuv420p", chroma_location="left", rotation=180)[0]
    assert turned.chroma_location == "center"


def test_unknown_pix_fmts_are_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        working_format("nonsense")


@pytest.mark.parametrize(
    ("working", "expected"),
    [
        ("yuv420p", ("yuva420p", 8)),
        ("yuv420p12le", ("yuva420p16le", 16)),
        ("yuv422p12le", ("yuva422p12le", 12)),
        ("yuv411p", ("yuva444p", 8)),
        ("yuv440p10le", ("yuva444p10le", 10)),
        ("gbrp9le", ("gbrap10le", 10)),
        ("gbrp", ("gbrap", 8)),
    ],
)
def test_alpha_goes_into_the_nearest_layout_that_has_it(
    working: str, expected: tuple[str, int]
) -> None:
    assert alpha_layout(working_format(working)[0]) == expected
    assert expected[0] in known_pix_fmts()


def test_grey_is_what_has_luma_alone() -> None:
    names = {name for name in IN_MEMORY if is_grey(name)}
    one_colour = {
        name
        for name in IN_MEMORY
        if sum(not part.is_alpha for part in av.VideoFormat(name).components) == 1
        and not av.VideoFormat(name).has_palette
        and not av.VideoFormat(name).is_bayer
    }
    assert names == one_colour
