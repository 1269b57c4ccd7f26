"""From raw frames to what a codec stores: layout, depth, colour, rate, as filters of FFmpeg."""

from __future__ import annotations

import itertools
import logging
import operator
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import ffmpeg
import numpy as np

from vidbg import colour as colours
from vidbg.frames import Colour, PlaneFormat, VideoInfo
from vidbg.media import ffmpeg as ff
from vidbg.media import formats, light
from vidbg.media.encode import (
    Output,
    depth_of,
    output_sar,
    output_size,
    raw_format,
    shows_sdr,
    stored_in,
)
from vidbg.media.formats import scale_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidbg.frames import Plane

logger = logging.getLogger(__name__)


def as_stored(node: Any, output: Output, info: VideoInfo) -> Any:
    """Convert raw frames to what the codec stores, and tag them."""
    kind, codec = output.kind, output.encoder
    raw_name, _ = raw_format(output, info.format)
    if shows_sdr(output, info):
        node, info = _tone_mapped(node, raw_name, info)
        raw_name, _ = raw_format(output, info.format)
    stored_name = stored_in(output, info.format)
    raw, stored = (formats.working_format(name)[0] for name in (raw_name, stored_name))
    before, after = colours_of(codec, info, kind, to_rgb=stored.is_rgb)
    flags = f"bicubic+{ff.EXACT_FLAGS}"
    convert: dict[str, object] = {"in_range": before.range, "out_range": after.range}
    if kind != "matte":
        if not raw.is_rgb:
            convert["in_color_matrix"] = scale_matrix(before.matrix)
        if not stored.is_rgb:
            convert["out_color_matrix"] = scale_matrix(after.matrix)
        location = info.format.chroma_location
        keeps_chroma = subsampling(raw) == subsampling(stored)
        h, v = formats.chroma_position(raw, location)
        convert |= {"in_h_chr_pos": h, "in_v_chr_pos": v}
        h, v = formats.chroma_position(stored, location if keeps_chroma else "left")
        convert |= {"out_h_chr_pos": h, "out_v_chr_pos": v}
    if kind != "matte" and depth_of(stored_name) < info.format.depth:
        convert["sws_dither"] = "bayer"
    is_scaled = False
    if output.scale is not None:
        height, width = output_size(output, info)
        is_scaled = (height, width) != (info.height, info.width)
        convert |= {"w": width, "h": height}
    if (
        is_scaled
        or raw_name != stored_name
        or (before.range, before.matrix) != (after.range, after.matrix)
    ):
        node = node.filter("scale", flags=flags, **convert).filter("format", stored_name)
    if not info.is_image and codec.is_tagged:
        spread = info.colour.range if after.range == before.range else after.range
        tags = after if raw.is_rgb or kind == "matte" else replace(info.colour, range=spread)
        if stored.is_rgb:
            tags = replace(tags, matrix="gbr", range="pc")
        elif is_scaled and tags.matrix == "unknown" and kind != "matte":
            # Left untagged, another size might be taken for another matrix.
            tags = replace(tags, matrix=after.matrix)
        node = node.filter(
            "setparams",
            range={"tv": "limited", "pc": "full"}.get(tags.range, "unknown"),
            colorspace=tags.matrix,
            color_primaries=tags.primaries,
            color_trc=tags.transfer,
        )
    sar = output_sar(output, info)
    largest = max(sar.numerator, sar.denominator)
    return node.filter("setsar", f"{sar.numerator}/{sar.denominator}", max=largest)


def colours_of(
    codec: formats.Codec, info: VideoInfo, kind: str, *, to_rgb: bool
) -> tuple[Colour, Colour]:
    """Return the colour of the raw frames and of what is stored, as conversions take them."""
    if kind == "matte":
        # Black and white of a matte are 0 and the maximum, wherever a file can say so.
        return Colour("pc"), Colour("pc" if codec.has_full_range else "tv")
    before = colours.resolve(info.colour, info.format, info.height)
    if to_rgb:
        return before, replace(before, range="pc", matrix="gbr")
    if codec.encoder == "mjpeg":  # JFIF is defined with full range and BT.601's matrix
        return before, Colour("pc", "smpte170m")
    if not info.format.is_rgb:
        return before, before if codec.has_full_range else replace(before, range="tv")
    primaries, transfer = (
        "bt709" if tag == "unknown" else tag for tag in (before.primaries, before.transfer)
    )
    return before, Colour("tv", "bt709", primaries, transfer)


def subsampling(plane_format: PlaneFormat) -> tuple[int, int]:
    """Return how much chroma is subsampled across and down, as powers of two."""
    return plane_format.log2_chroma_w, plane_format.log2_chroma_h


def at_rate(node: Any, rate: Fraction, first_frame_s: Fraction) -> Any:
    """Repeat and drop frames by time, and let the first come at a given time.

    Args:
        node: The frames, from time 0 on.
        rate: Frames a second.
        first_frame_s: A whole number of frames at that rate, in seconds.
    """
    node = node.filter("fps", str(rate), round="near", eof_action="round")
    later = first_frame_s * rate
    return node.filter("setpts", f"PTS+{later}") if later else node


def with_palette(node: Any) -> Any:
    """Bring frames to 256 colours each, one of them clear.

    A palette for each frame needs no more than that frame; one for all would need them all.
    """
    both = node.split()
    palette = both[0].filter("palettegen", stats_mode="single", reserve_transparent=1)
    return ffmpeg.filter(
        [both[1], palette], "paletteuse", new=1, alpha_threshold=128, dither="bayer", bayer_scale=4
    )


def _tone_mapped(node: Any, pix_fmt: str, info: VideoInfo) -> tuple[Any, VideoInfo]:
    """Bring frames of an HDR clip to SDR.

    Args:
        node: The frames, perhaps with alpha.
        pix_fmt: Their format.
        info: The clip.

    Returns:
        The node, in 16-bit R'G'B' with the alpha, and what the clip would be then.
    """
    colour = colours.resolve(info.colour, info.format, info.height)

    def convert(frames: Any) -> Any:
        options: dict[str, object] = {"in_range": colour.range, "out_range": "pc"}
        if not info.format.is_rgb:
            options["in_color_matrix"] = scale_matrix(colour.matrix)
            h, v = formats.chroma_position(info.format, info.format.chroma_location)
            options |= {"in_h_chr_pos": h, "in_v_chr_pos": v}
        frames = frames.filter("scale", flags=f"bicubic+{ff.EXACT_FLAGS}", **options)
        return light.relit(frames.filter("format", "gbrp16le"), colour, light.SDR)

    plain, has_alpha = formats.working_format(pix_fmt)
    node = light.beside_alpha(node, plain.pix_fmt, convert) if has_alpha else convert(node)
    return node, as_sdr(info)


def as_sdr(info: VideoInfo) -> VideoInfo:
    """Return what an HDR clip is once it is tone-mapped."""
    return replace(info, format=formats.working_format("gbrp16le")[0], colour=light.SDR)


def mastering_options(encoder: str, info: VideoInfo) -> dict[str, str]:
    """Return the options with which an encoder states what an HDR clip was graded on.

    Only x265 and SVT-AV1 take it as options; others would need it on the frames, and no pipe of
    raw frames carries that.
    """
    mastering = info.mastering
    if mastering is None or encoder not in ("libx265", "libsvtav1"):
        return {}
    is_x265 = encoder == "libx265"
    # x265 counts in the units of the bitstream (H.265, D.3.28), SVT-AV1 in whole ones.
    place, level = (50_000, 10_000) if is_x265 else (1, 1)

    def pair(values: tuple[float, float], unit: int) -> str:
        shown = [f"{value * unit:.0f}" if is_x265 else f"{value:.6g}" for value in values]
        return f"({','.join(shown)})"

    display = "".join(
        name + pair(point, place)
        for name, point in (
            ("G", mastering.green),
            ("B", mastering.blue),
            ("R", mastering.red),
            ("WP", mastering.white),
        )
    )
    display += "L" + pair((mastering.brightest, mastering.darkest), level)
    stated = [f"{'master-display' if is_x265 else 'mastering-display'}={display}"]
    if mastering.content is not None:
        brightest, average = mastering.content
        stated.append(f"{'max-cll' if is_x265 else 'content-light'}={brightest},{average}")
    return {"x265-params" if is_x265 else "svtav1-params": ":".join(stated)}


def ffv1_slices(size: tuple[int, int], plane_format: PlaneFormat) -> int:
    """Return the number of slices from four up with which FFmpeg's FFV1 keeps every sample.

    It lets the chroma of a slice begin at the slice's first luma sample, rounded down, and be as
    long as the slice's luma asks for, rounded up. Where that is one sample early, the frame's
    last row or column of chroma is lost: with four slices, that of 4:2:0 of 4k + 3 columns.

    Args:
        size: Height and width in pixels.
        plane_format: The working format.
    """
    height, width = size
    for down in range(2, 8):
        for across in range(down, 2 * down):  # the grids that FFmpeg tries, in its order
            if _is_covered(height, down, plane_format.log2_chroma_h) and _is_covered(
                width, across, plane_format.log2_chroma_w
            ):
                return down * across
    return 1


def _is_covered(length: int, parts: int, shift: int) -> bool:
    """Say whether slices cover all chroma along one side, and none is a sliver."""
    edges = [n * length // parts for n in range(parts + 1)]
    ends = [(a >> shift) + -(-(b - a) >> shift) for a, b in itertools.pairwise(edges)]
    wanted = [*(edge >> shift for edge in edges[1:-1]), -(-length >> shift)]
    return length >= 8 * parts and all(map(operator.ge, ends, wanted))


def grown(plane: Plane, size: tuple[int, int]) -> Plane:
    """Repeat a plane's last row and column until it has ``size``, (height, width)."""
    down, across = size[0] - plane.shape[1], size[1] - plane.shape[2]
    return cast("Plane", np.pad(plane, ((0, 0), (0, down), (0, across)), mode="edge"))


def deeper(plane: Plane, depth: int, up: int, *, to_top: bool) -> Plane:
    """Return samples of ``depth`` bits with ``up`` bits more, and the top of the scale at the top.

    Args:
        plane: The samples.
        depth: Their bits.
        up: 0 to ``depth``.
        to_top: The scale ends with the largest code, as in full range; else it is shifted.
    """
    if not up:
        return plane
    shifted: NDArray[np.uint16] = np.left_shift(plane, up, dtype=np.uint16)
    if to_top:
        np.bitwise_or(shifted, plane >> (depth - up), out=shifted)
    return shifted


def rescaled(alpha: Plane, depth: int) -> Plane:
    """Return an alpha at another depth, rounded."""
    top, new_top = int(np.iinfo(alpha.dtype).max), (1 << depth) - 1
    if top == new_top:
        return alpha
    scaled: NDArray[np.uint32] = (alpha.astype(np.uint32) * new_top + top // 2) // top
    return scaled.astype(np.uint8) if depth == 8 else scaled.astype(np.uint16)
