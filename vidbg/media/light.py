"""HDR to SDR and back, and linear light to a signal, as FFmpeg filters.

A white page has 203 cd/m² in HDR (ITU-R BT.2408), as in :func:`vidbg.colour.rgb_to_codes`. On the
way to SDR what is brighter, up to 1000 cd/m², is rolled off; what is darker than a mid-grey stays
as it would look on an SDR display.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import ffmpeg

from vidbg.frames import Colour

HDR_TRANSFERS: Final = frozenset({"smpte2084", "arib-std-b67"})
SDR: Final = Colour("pc", "gbr", "bt709", "bt709")
"""What :func:`relit` makes of HDR, where it is to be SDR."""

_WHITE_NITS = 203
_PEAK_NITS = 1000
# Of SDR's white, in linear light: below it the roll-off leaves everything as it is.
_KNEE = 0.5
_HLG = "arib-std-b67"
_RGB = {"matrixin": "gbr", "matrix": "gbr", "rangein": "full", "range": "full"}


def light_of(colour: Colour) -> str:
    """Return what light a signal means: an HDR transfer, or "sdr" for all the others."""
    return colour.transfer if colour.transfer in HDR_TRANSFERS else "sdr"


def relit(node: Any, given: Colour, wanted: Colour) -> Any:
    """Bring R'G'B' from SDR to HDR or back, or from one HDR transfer to another.

    The roll-off scales R, G and B by one factor, that of the largest of them: hues stay.

    Args:
        node: An ffmpeg-python node of frames in gbrp16le, full range.
        given: Their primaries and transfer.
        wanted: The primaries and transfer to bring them to.

    Returns:
        The node, in gbrp16le.
    """
    ends = []
    for colour in (given, wanted):
        is_sdr = light_of(colour) == "sdr"
        wide = "bt2020" if colour.primaries == "unknown" else colour.primaries
        ends.append(("bt709", "bt709") if is_sdr else (wide, colour.transfer))
    (primaries_in, transfer_in), (primaries, transfer) = ends
    begin: dict[str, object] = {
        "primariesin": primaries_in,
        "transferin": transfer_in,
        "npl": _WHITE_NITS,
    }
    if _HLG in (transfer_in, transfer):
        # zscale's tables take HLG's OOTF for a gamma of each component, which fits greys only.
        # Without them it is three times slower.
        begin["agamma"] = "false"
    if light_of(wanted) != "sdr":
        return node.filter("zscale", **_RGB, **begin, primaries=primaries, transfer=transfer)
    node = node.filter("zscale", **_RGB, **begin, primaries=primaries, transfer="linear")
    node = node.filter("format", "gbrpf32le")
    node = node.filter("tonemap", "mobius", param=_KNEE, desat=0, peak=_PEAK_NITS / _WHITE_NITS)
    node = node.filter("zscale", **_RGB, transferin="linear", transfer=transfer)
    return node.filter("format", "gbrp16le")


def from_linear(node: Any, transfer: str) -> Any:
    """Bring linear R, G, B to a signal, in gbrp16le; what is brighter than white is cut off."""
    node = node.filter("zscale", **_RGB, transferin="linear", transfer=transfer)
    return node.filter("format", "gbrp16le")


def beside_alpha(node: Any, pix_fmt: str, convert: Callable[[Any], Any]) -> Any:
    """Convert colours that come with straight alpha, and leave the alpha as it is.

    FFmpeg's zscale multiplies colours by their alpha before it converts them.

    Args:
        node: Frames with alpha.
        pix_fmt: The format without alpha that ``convert`` takes.
        convert: What returns frames in gbrp16le.

    Returns:
        The node, in gbrap16le.
    """
    parts = node.split()
    colour = convert(parts[0].filter("format", pix_fmt))
    opacity = parts[1].filter("format", "gbrap16le").filter("extractplanes", "a")
    places = {"map0s": 0, "map0p": 0, "map1s": 0, "map1p": 1, "map2s": 0, "map2p": 2}
    places |= {"map3s": 1, "map3p": 0}
    inputs = [colour, opacity.filter("format", "gray16le")]
    return ffmpeg.filter(inputs, "mergeplanes", format="gbrap16le", **places)
