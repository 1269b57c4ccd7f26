"""Pixel formats and file formats: what a decoded pix_fmt becomes, what a container can carry.

Importing this module is cheap: the command line takes its choices from the tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vidbg.frames import PlaneFormat

IMAGE_SUFFIXES = frozenset(
    {
        ".png",
        ".jpg",
        ".jpeg",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".jp2",
        ".tga",
    }
)
# Pictures that FFmpeg reads one after another as a clip.
SEQUENCE_SUFFIXES = frozenset(
    {
        ".png",
        ".jpg",
        ".jpeg",
        ".tif",
        ".tiff",
        ".exr",
        ".dpx",
        ".bmp",
        ".tga",
        ".jp2",
        ".webp",
    }
)
_VIDEOS = """
3g2 3gp asf avi divx dv f4v flv m2t m2ts m2v m4v mjpeg mjpg mkv mod mov mp4 mpe mpeg mpg mpv mts
mxf nut ogm ogv qt rm rmvb tod ts vob webm wmv y4m
"""
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _VIDEOS.split())

_ALPHA_DEPTHS = {
    "yuva420p": (8, 9, 10, 16),
    "yuva422p": (8, 9, 10, 12, 16),
    "yuva444p": (8, 9, 10, 12, 16),
    "gbrap": (8, 10, 12, 16),  # 14 is newer than FFmpeg 5.1
}
_PLAIN_DEPTHS = {
    "yuv420p": (8, 9, 10, 12, 14, 16),
    "yuv422p": (8, 9, 10, 12, 14, 16),
    "yuv444p": (8, 9, 10, 12, 14, 16),
    "yuv440p": (8, 10, 12),
    "yuv411p": (8,),
    "yuv410p": (8,),
    "gbrp": (8, 9, 10, 12, 14, 16),
}
_SUBSAMPLING = {(1, 1): "420", (1, 0): "422", (0, 0): "444", (0, 1): "440", (2, 0): "411"}
_SUBSAMPLING[2, 2] = "410"


def pix_fmt_name(family: str, depth: int) -> str:
    """Return FFmpeg's little-endian pix_fmt, e.g. ("yuv420p", 10) → "yuv420p10le"."""
    return family if depth == 8 else f"{family}{depth}le"


def is_grey(pix_fmt: str) -> bool:
    """Say whether a pix_fmt has one colour component: luma."""
    return pix_fmt.startswith(("gray", "ya", "mono"))


def working_format(
    source_pix_fmt: str, *, rotation: int = 0, chroma_location: str | None = None
) -> tuple[PlaneFormat, bool]:
    """Return the format that a decoded pix_fmt is worked on in, and whether it has alpha.

    Args:
        source_pix_fmt: FFmpeg's name of what the decoder yields, after rotation.
        rotation: Clockwise degrees by which the picture is rotated: 0, 90, 180 or 270.
        chroma_location: "left", "center" or "topleft" where known.

    Raises:
        ValueError: FFmpeg's libraries know no pix_fmt of that name.
    """
    import av

    source = av.VideoFormat(source_pix_fmt)
    components = source.components
    has_alpha = source.has_palette or any(part.is_alpha for part in components)
    bits = 8 if source.has_palette or source.is_bayer else max(part.bits for part in components)
    is_rgb = source.is_rgb or source.has_palette or source.is_bayer or "xyz" in source.name
    if source.is_bayer and "16" in source.name:
        bits = 16
    if is_rgb:
        family, shifts = "gbrp", (0, 0)
    elif is_grey(source.name):
        family, shifts = "yuv420p", (1, 1)
    else:
        # Sizes that are multiples of every subsampling give the exact shifts.
        shifts = (
            (16 // source.chroma_width(16)).bit_length() - 1,
            (16 // source.chroma_height(16)).bit_length() - 1,
        )
        if rotation % 180 and shifts[0] != shifts[1]:
            shifts = (0, 0)
        family = f"yuv{_SUBSAMPLING[shifts]}p"
    depth = _depth(_PLAIN_DEPTHS[family], bits)
    location = chroma_location or ("center" if source.name.startswith("yuvj") else "left")
    if rotation:  # what sat at the left now sits at the top or right: nearest to the middle
        location = "center"
    plane_format = PlaneFormat(
        pix_fmt=pix_fmt_name(family, depth),
        depth=depth,
        log2_chroma_w=shifts[0],
        log2_chroma_h=shifts[1],
        is_rgb=is_rgb,
        chroma_location=location,
    )
    return plane_format, has_alpha


def _depth(offered: tuple[int, ...], bits: int) -> int:
    """Return the smallest offered depth that holds ``bits``, or the deepest there is."""
    return next((depth for depth in offered if depth >= bits), offered[-1])


def alpha_layout(plane_format: PlaneFormat) -> tuple[str, int]:
    """Return the pix_fmt that carries these planes and an alpha plane, and its depth.

    The depth is the format's own or the next that FFmpeg has with alpha; formats with no
    alpha variant at all (4:4:0, 4:1:1, 4:1:0) become 4:4:4.
    """
    base = plane_format.pix_fmt.removesuffix("le")
    family = next(name for name in _PLAIN_DEPTHS if base.startswith(name))
    with_alpha = "gbrap" if family == "gbrp" else family.replace("yuv", "yuva")
    if with_alpha not in _ALPHA_DEPTHS:
        with_alpha = "yuva444p"
    depth = _depth(_ALPHA_DEPTHS[with_alpha], plane_format.depth)
    return pix_fmt_name(with_alpha, depth), depth


@dataclass(frozen=True, slots=True)
class Codec:
    """A video codec that vidbg writes.

    Attributes:
        encoder: FFmpeg's encoder.
        options: Fixed encoder options.
        usual: Those that take their place at the default preset.
        large: And those for large frames at the default preset.
        crf: Default constant quality, or None where quality is not chosen that way.
        quality: The encoder options that --crf sets.
        constant: Encoder options that go with constant quality, not with a bit rate.
        crf_range: Lowest (best) and highest --crf.
        preset_option: The encoder option that --preset sets, or None.
        preset: Default preset.
        presets: Every preset, fastest first.
        depths: Bit depths it stores, or () for the source's own, whatever it is.
        families: pix_fmt families it stores, plainest first; () for the source's own.
        alpha_family: The family it stores with alpha, or None; "" for the source's own.
        pix_fmts: What --pix-fmt offers without alpha, grey ones last; () for the families at
            the depths.
        alpha_pix_fmts: What it offers with alpha; () for the default alone.
        straight_only: Why its alpha cannot be premultiplied; "" where it can.
        audio_encoder: What goes beside it in MOV where sound cannot be copied, or None for the
            container's own.
        is_tagged: Its files say what their colours mean, as video does.
        device: The kind of hardware that frames are uploaded to first, or None.
        is_semi_planar: The encoder takes the two chroma planes of 4:2:0 as one.
        even_sizes: Width and height must be even.
        has_full_range: Its files can say that Y'CbCr is full range; else it is stored limited.
        tag: Four-character code for MP4 and MOV where FFmpeg's default plays less widely.
    """

    encoder: str
    options: tuple[tuple[str, str], ...] = ()
    usual: tuple[tuple[str, str], ...] = ()
    large: tuple[tuple[str, str], ...] = ()
    crf: int | None = None
    crf_range: tuple[int, int] = (0, 63)
    quality: tuple[str, ...] = ("crf",)
    constant: tuple[tuple[str, str], ...] = ()
    preset_option: str | None = None
    preset: str | None = None
    presets: tuple[str, ...] = ()
    depths: tuple[int, ...] = (8,)
    families: tuple[str, ...] = ("yuv420p",)
    alpha_family: str | None = None
    pix_fmts: tuple[str, ...] = ()
    alpha_pix_fmts: tuple[str, ...] = ()
    straight_only: str = ""
    audio_encoder: str | None = None
    is_tagged: bool = True
    device: str | None = None
    is_semi_planar: bool = False
    even_sizes: bool = False
    has_full_range: bool = True
    tag: str | None = None


_X26X_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
)


def _deep(families: tuple[str, ...], depths: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(pix_fmt_name(family, depth) for depth in depths for family in families)


_WHOLE_BLOCKS = "partitions=i8x8,i4x4"

_YUV = ("yuv420p", "yuv422p", "yuv444p")
_STRAIGHT_PNG = "its specification wants straight alpha"
_PNG_PIX_FMTS = ("rgb24", "rgb48be", "gray", "gray16be")

CODECS: dict[str, Codec] = {
    "h264": Codec(
        "libx264",
        # Looking ahead in step with encoding gives the same bits, with fewer frames in memory:
        # 100 MB less at 4K.
        options=(("x264-params", "sync-lookahead=0"),),
        # Macroblocks between frames are not divided: a quarter less time than veryfast, for files
        # that are up to 1.9 % larger at the same XPSNR (benchmarks/RESULTS.md).
        usual=(("x264-params", f"sync-lookahead=0:{_WHOLE_BLOCKS}"),),
        # At 4K 390 MB less of 980, however many cores there are: threads share a frame, 4 are
        # looked at ahead in place of 10, and one B-frame goes between others in place of up to 3.
        # XPSNR falls by 0.1 of 44 dB, in files that are 1 % smaller.
        large=(
            (
                "x264-params",
                f"sync-lookahead=0:{_WHOLE_BLOCKS}:sliced-threads=1:rc-lookahead=4:bframes=1",
            ),
        ),
        crf=19,
        pix_fmts=(*_deep(_YUV, (8, 10)), *_deep(("gray",), (8, 10))),
        crf_range=(0, 51),
        preset_option="preset",
        preset="veryfast",
        presets=_X26X_PRESETS,
        even_sizes=True,
    ),
    "hevc": Codec(
        "libx265",
        options=(("x265-params", "log-level=error"),),
        pix_fmts=(*_deep((*_YUV, "gbrp"), (8, 10, 12)), *_deep(("gray",), (8, 10, 12))),
        crf=22,
        crf_range=(0, 51),
        preset_option="preset",
        preset="veryfast",
        presets=_X26X_PRESETS,
        depths=(8, 10, 12),
        even_sizes=True,
        tag="hvc1",
    ),
    "av1": Codec(
        "libsvtav1",
        crf=30,
        preset_option="preset",
        preset="8",
        presets=tuple(str(n) for n in range(13, -1, -1)),
        depths=(8, 10),
        even_sizes=True,
    ),
    "vp9": Codec(
        "libvpx-vp9",
        # b:v 0 makes crf mean constant quality; alternate reference frames break alpha.
        options=(("row-mt", "1"), ("deadline", "good"), ("auto-alt-ref", "0")),
        constant=(("b:v", "0"),),
        pix_fmts=_deep((*_YUV, "gbrp"), (8, 10, 12)),  # MP4 has no name for 4:4:0
        straight_only="browsers take it as straight",
        crf=28,
        preset_option="cpu-used",
        preset="5",
        presets=tuple(str(n) for n in range(8, -1, -1)),
        depths=(8, 10),
        alpha_family="yuva420p",
        even_sizes=True,
    ),
    "prores": Codec(
        "prores_ks",
        options=(("vendor", "apl0"),),
        audio_encoder="pcm_s24le",
        depths=(10,),
        families=("yuv422p", "yuv444p"),
        alpha_family="yuva444p",
        # Neither the bitstream nor MOV has a flag for the range; readers take it as limited.
        has_full_range=False,
    ),
    "qtrle": Codec(
        "qtrle",
        families=("rgb",),
        alpha_family="argb",
        audio_encoder="pcm_s24le",
    ),
    "ffv1": Codec(
        "ffv1",
        options=(("level", "3"), ("g", "1"), ("slicecrc", "1")),
        depths=(),
        families=(),
        alpha_family="",
        pix_fmts=(
            *(pix_fmt_name(family, n) for family, depths in _PLAIN_DEPTHS.items() for n in depths),
            *_deep(("gray",), (8, 9, 10, 12, 16)),  # 14 is newer than FFmpeg 5.1
        ),
        alpha_pix_fmts=tuple(
            pix_fmt_name(family, n) for family, depths in _ALPHA_DEPTHS.items() for n in depths
        ),
    ),
    "png": Codec(
        "png",
        depths=(8, 16),
        families=("rgb",),
        alpha_family="rgba",
        pix_fmts=_PNG_PIX_FMTS,
        alpha_pix_fmts=("rgba", "rgba64be"),
        straight_only=_STRAIGHT_PNG,
        is_tagged=False,
    ),
    "apng": Codec(
        "apng",
        depths=(8, 16),
        families=("rgb",),
        alpha_family="rgba",
        pix_fmts=_PNG_PIX_FMTS,
        alpha_pix_fmts=("rgba", "rgba64be"),
        straight_only=_STRAIGHT_PNG,
        is_tagged=False,
    ),
    "webp": Codec(
        "libwebp_anim",
        options=(("quality", "85"),),
        # libwebp makes its own Y'CbCr: it knows of one matrix and range only.
        families=("rgb",),
        alpha_family="bgra",
        straight_only="its specification wants straight alpha",
        is_tagged=False,
    ),
    "gif": Codec(
        "gif",
        # Cropped to what is opaque, a last column that is so in the last row alone gets lost.
        options=(("gifflags", "-offsetting"),),
        families=("rgb",),
        alpha_family="rgba",
        straight_only="its pixels are either clear or opaque",
        is_tagged=False,
    ),
    "jpeg": Codec(
        "mjpeg",
        options=(("q:v", "2"), ("huffman", "optimal")),
        families=("yuv444p",),
        is_tagged=False,
    ),
}
VIDEO_CODECS = ("h264", "hevc", "av1", "vp9", "prores", "qtrle", "ffv1")
# Why a codec cannot have transparency at all.
NO_ALPHA = {
    "h264": "H.264 has no transparency that players show",
    "hevc": "HEVC's transparency is an extension that few programs read",
    "av1": "no video format carries AV1 with transparency, only pictures (AVIF) do",
}


def _hardware(family: str) -> dict[str, Codec]:
    """Return the encoders of one kind of hardware, by FFmpeg's names."""
    found = {}
    for codec, depths in (("h264", (8,)), ("hevc", (8, 10)), ("av1", (8, 10))):
        plain = Codec(
            f"{codec}_{family}",
            crf=CODECS[codec].crf,
            crf_range=(0, 51),
            depths=depths,
            even_sizes=True,
            tag=CODECS[codec].tag,
        )
        how: dict[str, Codec] = {
            "nvenc": replace(
                plain,
                quality=("cq",),
                constant=(("rc", "vbr"), ("b:v", "0")),
                preset_option="preset",
                preset="p4",
                presets=tuple(f"p{n}" for n in range(1, 8)),
            ),
            # Constant quality needs Apple's own processors; the others fail, which says so.
            "videotoolbox": replace(plain, crf=None, constant=(("q:v", "65"),)),
            "qsv": replace(plain, quality=("global_quality",), is_semi_planar=True),
            "amf": replace(
                plain,
                quality=("qp_i", "qp_p"),
                constant=(("rc", "cqp"),),
                is_semi_planar=True,
            ),
            "vaapi": replace(
                plain,
                quality=("qp",),
                constant=(("rc_mode", "CQP"),),
                is_semi_planar=True,
                device="vaapi",
            ),
        }
        found[plain.encoder] = how[family]
    return found


HARDWARE: dict[str, Codec] = {
    name: codec
    for family in ("nvenc", "videotoolbox", "qsv", "amf", "vaapi")
    for name, codec in _hardware(family).items()
    if name != "av1_videotoolbox"
}


def hardware_for(codec_name: str) -> tuple[str, ...]:
    """Return the hardware encoders of a codec, in the order in which they are tried."""
    return tuple(name for name in HARDWARE if name.partition("_")[0] == codec_name)


@dataclass(frozen=True, slots=True)
class Container:
    """A file format that vidbg writes.

    Attributes:
        muxer: FFmpeg's muxer.
        codecs: Codecs it carries, the default first.
        alpha_codecs: Codecs it carries with alpha, the default first.
        matte_codec: Default codec of a grey matte.
        audio_copied: Audio codecs it carries unchanged.
        audio_encoder: What other audio is encoded with; None for no audio at all.
        text_subtitles: Codec that text subtitles are converted to, or None to leave out.
        subtitles_copied: Subtitle codecs it carries unchanged.
        has_chapters: It carries chapter marks.
        options: Fixed muxer options.
    """

    muxer: str
    codecs: tuple[str, ...]
    alpha_codecs: tuple[str, ...] = ()
    matte_codec: str = ""
    audio_copied: frozenset[str] = frozenset()
    audio_encoder: str | None = None
    text_subtitles: str | None = None
    subtitles_copied: frozenset[str] = frozenset()
    has_chapters: bool = False
    options: tuple[tuple[str, str], ...] = ()


_MP4_AUDIO = frozenset(
    {
        "aac",
        "mp3",
        "ac3",
        "eac3",
        "alac",
        "opus",
        "flac",
    }
)
_MOV_AUDIO = frozenset(
    {
        "aac",
        "mp3",
        "ac3",
        "eac3",
        "alac",
    }
)
_PCM = frozenset(
    {
        "pcm_s16le",
        "pcm_s16be",
        "pcm_s24le",
        "pcm_s24be",
        "pcm_s32le",
        "pcm_s32be",
        "pcm_f32le",
        "pcm_f64le",
    }
)
_MKV_AUDIO = frozenset(
    {
        "vorbis",
        "mp2",
        "dts",
        "truehd",
        "mlp",
        "tta",
        "wavpack",
        "pcm_u8",
    }
)
_MP4_OPTIONS = (("movflags", "+faststart"),)
# Three times as fast as the default, and a sixth larger.
_PNG_OF_MANY = (("compression_level", "3"), ("pred", "up"))

CONTAINERS: dict[str, Container] = {
    ".mp4": Container(
        muxer="mp4",
        codecs=("h264", "hevc", "av1", "vp9"),
        matte_codec="h264",
        audio_copied=_MP4_AUDIO,
        audio_encoder="aac",
        text_subtitles="mov_text",
        subtitles_copied=frozenset({"mov_text"}),
        has_chapters=True,
        options=_MP4_OPTIONS,
    ),
    ".mov": Container(
        muxer="mov",
        codecs=("h264", "hevc", "prores", "qtrle"),
        alpha_codecs=("prores", "qtrle"),
        matte_codec="h264",
        audio_copied=_MOV_AUDIO | _PCM,
        audio_encoder="aac",
        text_subtitles="mov_text",
        subtitles_copied=frozenset({"mov_text"}),
        has_chapters=True,
        options=_MP4_OPTIONS,
    ),
    ".mkv": Container(
        muxer="matroska",
        codecs=("h264", "hevc", "av1", "vp9", "prores", "ffv1"),
        alpha_codecs=("ffv1", "vp9", "prores"),
        matte_codec="ffv1",
        audio_copied=_MP4_AUDIO | _PCM | _MKV_AUDIO,
        audio_encoder="aac",
        text_subtitles="subrip",
        subtitles_copied=frozenset(
            {
                "subrip",
                "ass",
                "ssa",
                "webvtt",
                "text",
                "hdmv_pgs_subtitle",
                "dvd_subtitle",
                "dvb_subtitle",
            }
        ),
        has_chapters=True,
    ),
    ".webm": Container(
        muxer="webm",
        codecs=("vp9", "av1"),
        alpha_codecs=("vp9",),
        matte_codec="vp9",
        audio_copied=frozenset({"opus", "vorbis"}),
        audio_encoder="libopus",
        text_subtitles="webvtt",
        subtitles_copied=frozenset({"webvtt"}),
        has_chapters=True,
    ),
    ".gif": Container("gif", ("gif",), ("gif",), "gif", options=(("loop", "0"),)),
    ".webp": Container("webp", ("webp",), ("webp",), "webp", options=(("loop", "0"),)),
    ".apng": Container("apng", ("apng",), ("apng",), "apng", options=(("plays", "0"),)),
    ".zip": Container("image2pipe", ("png",), ("png",), "png", options=_PNG_OF_MANY),
    ".png": Container("image2", ("png",), ("png",), "png", options=(("update", "1"),)),
    ".jpg": Container("image2", ("jpeg",), (), "jpeg", options=(("update", "1"),)),
}
# A clip as numbered pictures, where .png alone is one picture.
SEQUENCE = Container("image2", ("png",), ("png",), "png", options=_PNG_OF_MANY)
CONTAINERS[".m4v"] = CONTAINERS[".mp4"]
CONTAINERS[".jpeg"] = CONTAINERS[".jpg"]


def stored_pix_fmt(codec: Codec, plane_format: PlaneFormat, kind: str) -> str:
    """Return the pix_fmt that a codec stores this working format in.

    Args:
        codec: The codec.
        plane_format: The working format.
        kind: "composite", "alpha" (with an alpha plane) or "matte" (one grey plane).
    """
    if kind == "matte":
        if not codec.families:
            return "gray" if plane_format.depth == 8 else "gray16le"
        if codec.encoder in ("qtrle", "libwebp_anim"):  # grey is not, or not widely, known there
            return "rgb24"
        if codec.families[0] == "rgb":
            return "gray16be" if _depth(codec.depths, plane_format.depth) > 8 else "gray"
        depth = _depth(codec.depths, plane_format.depth)
        if codec.is_semi_planar:
            return {8: "nv12", 10: "p010le"}[depth]
        return pix_fmt_name(codec.families[0], depth)
    if not codec.families:
        return alpha_layout(plane_format)[0] if kind == "alpha" else plane_format.pix_fmt
    depth = _depth(codec.depths, plane_format.depth)
    if codec.families[0] == "rgb":
        if kind == "composite":
            return {8: "rgb24", 16: "rgb48be"}[depth]
        return {8: codec.alpha_family or "", 16: "rgba64be"}[depth]
    if kind == "alpha":
        family = codec.alpha_family or ""
        # VP9 has alpha beside 4:2:0 of 8 bits only.
        return pix_fmt_name(family, 8 if family == "yuva420p" else depth)
    if codec.is_semi_planar:
        return {8: "nv12", 10: "p010le"}[depth]
    is_full_chroma = plane_format.log2_chroma_w == 0
    family = codec.families[-1] if is_full_chroma else codec.families[0]
    return pix_fmt_name(family, depth)


def pix_fmts_for(codec: Codec, kind: str) -> tuple[str, ...]:
    """Return the pix_fmts in which a codec can store an output of a kind, as --pix-fmt names them.

    Args:
        codec: The codec.
        kind: "composite" (no grey ones), "alpha" or "matte" (grey, or Y'CbCr with grey in it).
    """
    if kind == "alpha":
        if codec.alpha_pix_fmts:
            return codec.alpha_pix_fmts
        if codec.alpha_family is None:
            return ()
        family = codec.alpha_family
        depths = (8,) if family in ("yuva420p", "argb", "bgra", "rgba") else codec.depths
        return tuple(pix_fmt_name(family, depth) for depth in depths)
    if codec.is_semi_planar:
        offered: tuple[str, ...] = ("nv12", "p010le")[: len(codec.depths)]
    elif codec.families == ("rgb",) and not codec.pix_fmts:
        offered = ("rgb24",)
    else:
        offered = codec.pix_fmts or _deep(codec.families, codec.depths)
    if kind == "composite":
        return tuple(name for name in offered if not is_grey(name))
    grey = tuple(name for name in offered if not name.startswith(("gbr", "rgb")))
    return grey or offered


def scale_matrix(matrix: str) -> str:
    """Return a matrix in the names that FFmpeg's scale filter takes."""
    return {
        "bt709": "bt709",
        "smpte170m": "smpte170m",
        "bt470bg": "bt601",
        "smpte240m": "smpte240m",
        "fcc": "fcc",
        "bt2020nc": "bt2020",
        "bt2020c": "bt2020",
    }.get(matrix, "bt709")


def chroma_position(plane_format: PlaneFormat, location: str) -> tuple[int, int]:
    """Return where chroma samples sit, as FFmpeg's scale filter takes it in ``in_h_chr_pos``.

    Left to itself, the filter takes chroma to sit in the middle of its luma samples both ways,
    and moves it by a quarter of a chroma sample when it changes the subsampling of video.

    Args:
        plane_format: The format; of RGB and 4:4:4 the position is 0, 0.
        location: "left", "center" or "topleft".

    Returns:
        Horizontal and vertical distance of the first chroma sample from the first luma sample,
        in 256ths of a luma sample.
    """
    middle_h = (128 << plane_format.log2_chroma_w) - 128
    middle_v = (128 << plane_format.log2_chroma_h) - 128
    return (
        middle_h if location == "center" else 0,
        0 if location == "topleft" else middle_v,
    )
