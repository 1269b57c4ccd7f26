"""Colours as people write them; apart from ``colour`` so that it needs neither OpenCV nor NumPy."""

from __future__ import annotations

import re

_HEX = re.compile(r"#(?:[0-9a-f]{3}|[0-9a-f]{6})", re.ASCII)
_HEX_WITH_ALPHA = re.compile(r"#(?:[0-9a-f]{4}|[0-9a-f]{8})", re.ASCII)
_TRIPLE = re.compile(r"(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})", re.ASCII)


def parse_colour(text: str) -> tuple[int, int, int]:
    """Return the (red, green, blue) that ``text`` names, each 0 to 255.

    Args:
        text: ``#rrggbb`` or ``#rgb`` (each digit doubled), ``red,green,blue`` in decimal, or
            a CSS colour name. Case and outer spaces do not matter.

    Raises:
        ValueError: ``text`` is none of these, or asks for transparency. The message is one
            line that can be shown to the user.

    Examples:
        >>> parse_colour("#00b140")
        (0, 177, 64)
        >>> parse_colour("#0b4")
        (0, 187, 68)
        >>> parse_colour("green")
        (0, 128, 0)
    """
    colour = text.strip().lower()
    if _HEX.fullmatch(colour):
        digits = colour[1:]
        if len(digits) == 3:
            digits = "".join(2 * digit for digit in digits)
        return int(digits[0:2], 16), int(digits[2:4], 16), int(digits[4:6], 16)

    if triple := _TRIPLE.fullmatch(colour):
        red, green, blue = (int(number) for number in triple.groups())
        if max(red, green, blue) > 255:
            raise ValueError(f"{text!r}: each of red, green and blue is at most 255")
        return red, green, blue

    if colour == "transparent" or colour.startswith("rgba") or _HEX_WITH_ALPHA.fullmatch(colour):
        raise ValueError(f"{text!r} is transparent, and a background colour is opaque")

    from PIL import ImageColor  # here, as only names need it

    # Pillow's getrgb() would also take hsl(), hsv() and percentages, which are not offered here;
    # its table of names is the CSS one.
    if colour not in ImageColor.colormap:
        raise ValueError(f"{text!r} is not a colour: write #rrggbb, red,green,blue or a CSS name")
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return red, green, blue
