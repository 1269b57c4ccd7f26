"""Y'CbCr matrices, ranges and HDR curves: planes → RGB thumbnail, RGB colour → code values.

The frames themselves are never converted (see DESIGN.md); what is converted is what a network
or the keyer looks at, and a flat background colour. The equations and the names of the
matrices are those of ITU-T H.273, 8.3, as FFmpeg spells them.

Everything but :func:`resolve` wants tags that are resolved: a matrix and a range that say
which equation to use.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from vidbg.profile import stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vidbg.frames import Colour, Plane, PlaneFormat, Planes

    FloatArray = NDArray[np.floating[Any]]

_LOG = logging.getLogger(__name__)

# (Kr, Kb) by matrix: H.273, table 4. BT.601 has two names.
_LUMA_WEIGHTS = {
    "bt709": (0.2126, 0.0722),  # ITU-R BT.709
    "fcc": (0.30, 0.11),  # 47 CFR 73.682(a)(20), 1953 NTSC
    "bt470bg": (0.299, 0.114),  # ITU-R BT.601, 625 lines
    "smpte170m": (0.299, 0.114),  # ITU-R BT.601, 525 lines
    "smpte240m": (0.212, 0.087),  # SMPTE 240M
    "bt2020nc": (0.2627, 0.0593),  # ITU-R BT.2020, non-constant luminance
}

# What each rarer matrix is taken as. BT.2020's constant luminance and SMPTE 2085 agree with
# their stand-in on grey, and nearly so on pale colours; ICtCp's I is close to a luma and its two
# others point roughly where Cb and Cr do; the reversible YCgCo comes out darker, having RGB of
# fewer bits. Good enough for a network to find the subject; the frames keep their own code values
# either way.
_STAND_INS = {
    "bt2020c": "bt2020nc",
    "smpte2085": "bt2020nc",
    "ictcp": "bt2020nc",
    "ipt-c2": "bt2020nc",
    "ycgco-re": "ycgco",
    "ycgco-ro": "ycgco",
}

# Matrices "derived from the primaries" (H.273, equations 32 to 37), by primaries: the tabled
# weights that come nearest. BT.709's are within 0.02 for the primaries that are not listed.
_DERIVED = {
    "bt2020": "bt2020nc",
    "bt470m": "fcc",
    "smpte170m": "smpte240m",
    "smpte240m": "smpte240m",
}

_UNTAGGED = ("unknown", "unspecified", "reserved")
_PQ = "smpte2084"
_HLG = "arib-std-b67"

_HD_LINES = 720

# ITU-R BT.2408: the level of a white page, and the peak of the display that HLG is graded on.
_REFERENCE_WHITE_NITS = 203.0
_HLG_PEAK_NITS = 1000.0
# The brightest level that keeps some detail in a thumbnail. Fixed, so that a frame's look does
# not depend on its own or another frame's highlights; common masters peak here.
_HDR_PEAK_NITS = 1000.0
_DISPLAY_GAMMA = 2.4  # ITU-R BT.1886

# Linear R, G, B of BT.709 → of BT.2020: ITU-R BT.2087.
_BT709_TO_BT2020 = np.array(
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)

# Luminance of linear R, G, B of BT.2020, as a matrix of one row.
_BT2020_LUMINANCE = np.array([[0.2627, 0.6780, 0.0593]])

# Three float32 scratch bands of this many samples stay in a core's second-level cache.
_BAND_SAMPLES = 1 << 16


def resolve(colour: Colour, format: PlaneFormat, height: int) -> Colour:
    """Return ``colour`` with a matrix and a range that the conversions here can use.

    RGB is "gbr" and full range whatever its tags say, because FFmpeg's scaler, which makes the
    background, takes it so. Y'CbCr of unknown range is limited. A missing matrix is "bt2020nc"
    where primaries or transfer are those of BT.2020 and BT.2100, else "bt709" from 720 lines up
    and "smpte170m" below. A matrix that is not linear in R'G'B', or that is derived from the
    primaries, is replaced by the nearest one that is tabled, with a warning in the log.

    Args:
        colour: Tags as the file states them.
        format: The working format of the clip.
        height: Display rows of the clip.

    Returns:
        The tags to convert with: range "tv" or "pc", matrix "gbr", "ycgco" or one that
        :func:`luma_weights` knows; primaries and transfer as they were.
    """
    if format.is_rgb:
        return replace(colour, matrix="gbr", range="pc")

    matrix = colour.matrix
    if matrix not in _LUMA_WEIGHTS and matrix != "ycgco":
        if matrix.startswith("chroma-derived"):
            matrix = _DERIVED.get(colour.primaries, "bt709")
        elif matrix in _STAND_INS:
            matrix = _STAND_INS[matrix]
        elif colour.primaries == "bt2020" or colour.transfer in (_PQ, _HLG):
            matrix = "bt2020nc"
        else:
            matrix = "bt709" if height >= _HD_LINES else "smpte170m"
        if colour.matrix not in _UNTAGGED:
            _LOG.warning(
                "colour matrix %s is taken as %s for the matte and the background",
                colour.matrix,
                matrix,
            )
    return replace(colour, matrix=matrix, range=colour.range if colour.range == "pc" else "tv")


def is_hdr(colour: Colour) -> bool:
    """Tell whether a clip's light is that of ITU-R BT.2100, PQ or HLG."""
    return colour.transfer in (_PQ, _HLG)


def luma_weights(matrix: str) -> tuple[float, float]:
    """Return (Kr, Kb), the weights of red and blue in luma; green's is 1 - Kr - Kb.

    From ITU-R BT.601, BT.709 and BT.2020, SMPTE 240M and the FCC's rules of 1953, as tabled in
    ITU-T H.273.

    Args:
        matrix: FFmpeg's name of the matrix.

    Raises:
        ValueError: The matrix is not defined by two weights, or is not known.
    """
    if matrix not in _LUMA_WEIGHTS:
        raise ValueError(f"no luma weights for colour matrix {matrix!r}")
    return _LUMA_WEIGHTS[matrix]


@stage("thumbnail")
def planes_to_rgb(
    planes: Planes,
    format: PlaneFormat,
    colour: Colour,
    size: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Return frames as 8-bit R'G'B', for a network or a keyer to look at.

    At another size than the frame's own, each plane is first brought there: averaged over area
    along an axis that shrinks, interpolated linearly along one that grows. That rounds each
    plane to its own depth once more, and leaves out the shift of half a luma sample at most by
    which chroma sits beside luma, far less than a thumbnail's pixel. At the frame's own size,
    chroma is interpolated linearly at its true siting.

    HDR (PQ and HLG) is shown as on an SDR display, since the networks were trained on SDR
    photographs: see :func:`_as_sdr`.

    Args:
        planes: Three arrays ``(B, H, W)``, ``(B, h, w)``, ``(B, h, w)``, uint8 or uint16.
        format: The planes' working format.
        colour: Resolved tags.
        size: (height, width) of the result in pixels, or None for the frame's own.

    Returns:
        uint8 RGB ``(B, height, width, 3)``, full range, contiguous.

    Raises:
        ValueError: The tags are not resolved, or do not fit the format.
    """
    decode = decoding(format, colour)
    frame_count, *luma_size = planes[0].shape
    height, width = size if size is not None else luma_size
    as_they_are = [height, width] == luma_size
    shows_hdr = is_hdr(colour)

    # Bands end on a whole row of chroma samples.
    rows = -(-_BAND_SAMPLES // width >> format.log2_chroma_h) << format.log2_chroma_h
    rgb = np.empty((frame_count, height, width, 3), np.uint8)
    for index in range(frame_count):
        frame = [plane[index] for plane in planes]
        if not as_they_are:
            frame = [_resized(plane, height, width) for plane in frame]
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            if as_they_are:
                band = [
                    np.asarray(frame[0][top:bottom], np.float32),
                    _chroma_at_luma(frame[1], format, top, bottom, width),
                    _chroma_at_luma(frame[2], format, top, bottom, width),
                ]
            else:
                band = [plane[top:bottom] for plane in frame]
            target = rgb[index, top:bottom]
            red_green_blue = _combined(band, decode)
            if shows_hdr:
                target[:] = _as_sdr(red_green_blue, colour)
            else:
                target[:] = _to_uint8(red_green_blue)
    return rgb


def rgb_to_codes(
    rgb: tuple[int, int, int], format: PlaneFormat, colour: Colour
) -> tuple[int, int, int]:
    """Return the code values of a flat colour, in the order of the format's planes.

    In an HDR clip the colour is one of an SDR page: BT.709 primaries, BT.1886 gamma, white at
    203 cd/m² (ITU-R BT.2408, 5.1), so that white is as bright as white is in such a clip and not
    the 10 000 cd/m² of PQ's top code.

    Args:
        rgb: R'G'B', each 0 to 255, full range.
        format: The working format.
        colour: Resolved tags.

    Returns:
        Code values at the format's depth, rounded to nearest: (Y, Cb, Cr) or (G, B, R).

    Raises:
        ValueError: A component is outside 0 to 255, or the tags are not resolved.
    """
    if min(rgb) < 0 or max(rgb) > 255:
        raise ValueError(f"colour {rgb} has a component outside 0 to 255")
    signal: FloatArray = np.array(rgb) / 255
    if is_hdr(colour):
        signal = _sdr_to_hdr(signal, colour)
    encoding, scale, offset = _encoding(format, colour)
    codes = np.floor(scale * (encoding @ signal) + offset + 0.5)
    first, second, third = np.clip(codes, 0, (1 << format.depth) - 1).astype(int).tolist()
    return first, second, third


def neutral(format: PlaneFormat, colour: Colour) -> tuple[int, int, int]:
    """Return the code values of black, in the order of the format's planes.

    Args:
        format: The working format.
        colour: Resolved tags.

    Raises:
        ValueError: The tags are not resolved.
    """
    return rgb_to_codes((0, 0, 0), format, colour)


def _encoding(format: PlaneFormat, colour: Colour) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return (matrix, scale, offset) with codes = scale · (matrix @ R'G'B') + offset.

    R'G'B' is 0 to 1. Equations of H.273, 8.3: 20 to 31 (range), 38 to 46 (matrix).
    """
    if format.is_rgb != (colour.matrix == "gbr") or colour.range not in ("tv", "pc"):
        kind = "RGB" if format.is_rgb else "Y'CbCr"
        raise ValueError(f"{kind} cannot be converted by unresolved tags {colour}")
    top = (1 << format.depth) - 1
    if format.is_rgb:
        planes_of_rgb = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
        return planes_of_rgb, np.full(3, float(top)), np.zeros(3)

    if colour.matrix == "ycgco":
        matrix = np.array([[0.25, 0.5, 0.25], [-0.25, 0.5, -0.25], [0.5, 0.0, -0.5]])
    else:
        kr, kb = luma_weights(colour.matrix)
        luma = np.array([kr, 1 - kr - kb, kb])
        matrix = np.array(
            [
                luma,
                (np.array([0.0, 0.0, 1.0]) - luma) / (2 * (1 - kb)),
                (np.array([1.0, 0.0, 0.0]) - luma) / (2 * (1 - kr)),
            ]
        )
    middle = float(1 << (format.depth - 1))
    if colour.range == "pc":
        return matrix, np.full(3, float(top)), np.array([0.0, middle, middle])
    step = 1 << (format.depth - 8)
    # YCgCo is taken of R'G'B' in limited range: its chroma has luma's scale.
    chroma = 219.0 if colour.matrix == "ycgco" else 224.0
    return matrix, step * np.array([219.0, chroma, chroma]), np.array([16.0 * step, middle, middle])


def decoding(format: PlaneFormat, colour: Colour) -> tuple[FloatArray, FloatArray]:
    """Return (matrix, constant) with R'G'B' = matrix @ codes + constant, R'G'B' 0 to 255."""
    encoding, scale, offset = _encoding(format, colour)
    matrix = 255 * np.linalg.inv(scale[:, np.newaxis] * encoding)
    # An inverse has 1e-17 where the equations have nothing; a zero saves a pass over the frame.
    matrix[np.abs(matrix) < 1e-9 * np.abs(matrix).max()] = 0
    return matrix, -matrix @ offset


def _combined(band: Sequence[NDArray[Any]], decode: tuple[FloatArray, FloatArray]) -> FloatArray:
    """Return R'G'B' ``(h, w, 3)``, float32, 0 to 255 and beyond, from planes of code values."""
    matrix, constant = decode
    codes = np.asarray(cv2.merge(cast("Any", band)), np.float32)
    return cast("FloatArray", cv2.transform(codes, np.hstack([matrix, constant[:, np.newaxis]])))


def _to_uint8(component: FloatArray) -> NDArray[np.uint8]:
    """Return values rounded to nearest and clipped to 0..255; overwrites them."""
    component += 0.5
    return np.clip(component, 0, 255, out=component).astype(np.uint8)


def _resized(plane: Plane, height: int, width: int) -> Plane:
    """Return a plane ``(H, W)`` as ``(height, width)``, of the same dtype."""
    # OpenCV averages areas fast only by whole factors, fastest by 2; what remains, at least 2,
    # is averaged with the right fractions of pixels.
    while (
        plane.shape[0] >= 4 * height
        and plane.shape[1] >= 4 * width
        and plane.shape[0] % 2 == plane.shape[1] % 2 == 0
    ):
        half = (plane.shape[1] // 2, plane.shape[0] // 2)
        plane = cast("Plane", cv2.resize(plane, half, interpolation=cv2.INTER_AREA))
    # INTER_AREA interpolates both axes where either one grows: shrink first, on its own.
    smaller = (min(width, plane.shape[1]), min(height, plane.shape[0]))
    shrunk = cv2.resize(plane, smaller, interpolation=cv2.INTER_AREA)
    return cast("Plane", cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR))


def _chroma_at_luma(
    plane: Plane, format: PlaneFormat, top: int, bottom: int, width: int
) -> FloatArray:
    """Return chroma at the luma positions of rows top..bottom, ``(bottom - top, width)``."""
    factor = 1 << format.log2_chroma_h
    # One more row on either side for the interpolation; the frame's outermost rows repeat.
    chroma_rows = np.arange(top // factor - 1, -(-bottom // factor) + 1)
    taller = plane[np.clip(chroma_rows, 0, plane.shape[0] - 1)].astype(np.float32)
    phases = _between(
        taller[:-2], taller[1:-1], taller[2:], factor, format.chroma_location == "topleft"
    )
    samples = np.stack(phases, axis=1).reshape(-1, plane.shape[1])[: bottom - top]

    wider = np.pad(samples, ((0, 0), (1, 1)), mode="edge")
    phases = _between(
        wider[:, :-2],
        samples,
        wider[:, 2:],
        1 << format.log2_chroma_w,
        format.chroma_location != "center",
    )
    merged = cast("FloatArray", cv2.merge(phases))
    return merged.reshape(samples.shape[0], -1)[:, :width]


def _between(
    before: FloatArray, here: FloatArray, after: FloatArray, factor: int, is_cosited: bool
) -> list[FloatArray]:
    """Return the ``factor`` luma positions of each chroma sample, interpolated linearly.

    Args:
        before: Each sample's neighbour towards the origin.
        here: The samples.
        after: Each sample's neighbour away from the origin.
        factor: Luma samples for each chroma sample.
        is_cosited: A chroma sample sits on the first of its luma samples, not amid them.
    """
    phases = []
    for distance in chroma_distances(factor, is_cosited):
        neighbour = after if distance > 0 else before
        phases.append((1 - abs(distance)) * here + abs(distance) * neighbour if distance else here)
    return phases


def chroma_distances(factor: int, is_cosited: bool) -> list[float]:
    """Return how far each luma position lies from its chroma sample, in chroma samples.

    Args:
        factor: Luma samples for each chroma sample along an axis.
        is_cosited: A chroma sample sits on the first of its luma samples, not amid them.

    Returns:
        ``factor`` numbers in -1/2..1, negative towards the origin.
    """
    if is_cosited:
        return [phase / factor for phase in range(factor)]
    return [(phase + 0.5) / factor - 0.5 for phase in range(factor)]


def _as_sdr(rgb: FloatArray, colour: Colour) -> NDArray[np.uint8]:
    """Return HDR R'G'B' as an SDR display would show it.

    Display light (SMPTE ST 2084's EOTF; ARIB STD-B67's inverse OETF and the OOTF of ITU-R
    BT.2100 for a display of 1000 cd/m²) is rolled off from 1000 to 203 cd/m² by the curve of
    ITU-R BT.2390, 5.4.1, on each component; wide colours are brought to BT.709; the result is
    encoded for BT.1886. A white page (203 cd/m²) comes out at about 88 % of the signal, and what
    is brighter keeps some detail above it.

    Args:
        rgb: ``(h, w, 3)``, 0 to 255, values beyond are clipped.
        colour: Tags with a transfer of "smpte2084" or "arib-std-b67".
    """
    signal: FloatArray = np.clip(rgb / 255, 0, 1)
    if colour.transfer == _HLG:
        scene = _hlg_to_scene(signal)
        gain = _HLG_PEAK_NITS * np.power(cv2.transform(scene, _BT2020_LUMINANCE), 0.2)
        signal = _nits_to_pq(gain[..., np.newaxis] * scene)

    top, white = _nits_to_pq(np.array([_HDR_PEAK_NITS, _REFERENCE_WHITE_NITS])).tolist()
    white /= top
    knee = 1.5 * white - 0.5
    level = np.minimum(signal / top, 1)
    # BT.2390's Hermite spline less its value at the knee, so that below the knee, where t is
    # 0, it adds nothing.
    t = np.maximum((level - knee) / (1 - knee), 0)
    spline = t * ((1 - knee) * (1 - t) ** 2 + (white - knee) * t * (3 - 2 * t))
    light = _pq_to_nits(top * (np.minimum(level, knee) + spline)) / _REFERENCE_WHITE_NITS

    if _is_wide(colour):
        light = cast("FloatArray", cv2.transform(light, np.linalg.inv(_BT709_TO_BT2020)))
    return _to_uint8(255 * np.power(np.clip(light, 0, 1), 1 / _DISPLAY_GAMMA))


def _sdr_to_hdr(signal: FloatArray, colour: Colour) -> FloatArray:
    """Return the HDR R'G'B' that shows as SDR R'G'B' does on a display whose white is 203 cd/m².

    Args:
        signal: ``(3,)``, 0 to 1.
        colour: Tags with a transfer of "smpte2084" or "arib-std-b67".
    """
    light = _REFERENCE_WHITE_NITS * signal**_DISPLAY_GAMMA
    if _is_wide(colour):
        light = _BT709_TO_BT2020 @ light
    if colour.transfer == _PQ:
        return _nits_to_pq(light)
    # BT.2100's OOTF inverted: the scene's luminance is the display's to the power of 1/1.2.
    display = light / _HLG_PEAK_NITS
    luminance = float((_BT2020_LUMINANCE @ display).item())
    scene = display * luminance ** (1 / 1.2 - 1) if luminance > 0 else display
    return np.array([_scene_to_hlg(component) for component in scene.tolist()])


def _is_wide(colour: Colour) -> bool:
    """Tell whether an HDR clip has BT.2020 primaries, as BT.2100 has it where tags are silent."""
    return colour.primaries == "bt2020" or colour.primaries in _UNTAGGED


# SMPTE ST 2084, 5.2 and 5.3.
_PQ_M1 = 2610 / 16384
_PQ_M2 = 2523 / 4096 * 128
_PQ_C1 = 3424 / 4096
_PQ_C2 = 2413 / 4096 * 32
_PQ_C3 = 2392 / 4096 * 32
_PQ_TOP_NITS = 10000.0


def _pq_to_nits(signal: FloatArray) -> FloatArray:
    """Return display light in cd/m² of a PQ signal, 0 to 1: the EOTF of SMPTE ST 2084."""
    root = np.power(signal, 1 / _PQ_M2)
    ratio = np.maximum(root - _PQ_C1, 0) / (_PQ_C2 - _PQ_C3 * root)
    return _PQ_TOP_NITS * np.power(ratio, 1 / _PQ_M1)


def _nits_to_pq(light: FloatArray) -> FloatArray:
    """Return the PQ signal, 0 to 1, of display light in cd/m²: the inverse EOTF."""
    power = np.power(light / _PQ_TOP_NITS, _PQ_M1)
    signal: FloatArray = np.power((_PQ_C1 + _PQ_C2 * power) / (1 + _PQ_C3 * power), _PQ_M2)
    return signal


# ARIB STD-B67, ITU-R BT.2100 table 5.
_HLG_A = 0.17883277
_HLG_B = 0.28466892
_HLG_C = 0.55991073


def _hlg_to_scene(signal: FloatArray) -> FloatArray:
    """Return scene light, 0 to 1, of an HLG signal, 0 to 1: the inverse OETF."""
    # Two curves that meet at 1/2, the upper one less its value there.
    upper = np.exp((np.maximum(signal, 0.5) - _HLG_C) / _HLG_A)
    light: FloatArray = np.minimum(signal, 0.5) ** 2 / 3 + (upper - (1 - _HLG_B)) / 12
    return light


def _scene_to_hlg(light: float) -> float:
    """Return the HLG signal, 0 to 1, of scene light, 0 to 1: the OETF."""
    if light <= 1 / 12:
        return math.sqrt(3 * light)
    return _HLG_A * math.log(12 * light - _HLG_B) + _HLG_C
