"""H.264 whose two fields a frame are pictures of their own, as AVCHD cameras write it.

No encoder of FFmpeg's writes such streams, and their packets are fields, not frames. This one
stores samples as they are (I_PCM, ITU-T H.264, 7.3.5) and codes nothing else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MAIN_PROFILE, _LEVEL_3 = 77, 30
_IDR_EVERY = 12


class _Bits:
    """Bits in the order in which a bitstream has them."""

    def __init__(self) -> None:
        self.bits: list[int] = []

    def put(self, value: int, count: int = 1) -> None:
        self.bits += [value >> place & 1 for place in reversed(range(count))]

    def put_golomb(self, *values: int) -> None:
        for value in values:
            self.put(value + 1, 2 * (value + 1).bit_length() - 1)

    def put_bytes(self, content: bytes) -> None:
        self.bits += [0] * (-len(self.bits) % 8)
        self.bits += np.unpackbits(np.frombuffer(content, np.uint8)).tolist()

    def finish(self) -> bytes:
        self.put(1)
        return np.packbits(np.array(self.bits, np.uint8)).tobytes()


def field_coded_h264(luma: NDArray[np.uint8]) -> bytes:
    """Return an Annex B stream of frames with grey chroma, each stored as two fields.

    Args:
        luma: uint8 ``(N, height, width)``; width a multiple of 16, height of 32.
    """
    count, height, width = luma.shape
    stream = b""
    for number in range(count):
        since_idr = number % _IDR_EVERY
        if since_idr == 0:
            stream += _unit(3, 7, _sequence(width, height)) + _unit(3, 8, _picture())
        for parity in (0, 1):
            # The second field of an IDR frame is no IDR field (7.4.1.2.4).
            is_idr = since_idr == 0 and parity == 0
            field = luma[number, parity::2]
            content = _slice(field, since_idr, parity, number // _IDR_EVERY % 2 if is_idr else None)
            stream += _unit(1, 5 if is_idr else 1, content)
    return stream


def _sequence(width: int, height: int) -> bytes:
    bits = _Bits()
    bits.put(_MAIN_PROFILE, 8)
    bits.put(0, 8)
    bits.put(_LEVEL_3, 8)
    # Identifier; 4 bits of frame_num; order of output as decoded; one reference frame.
    bits.put_golomb(0, 0, 2, 1)
    bits.put(0)
    bits.put_golomb(width // 16 - 1, height // 32 - 1)
    # Fields allowed, not adaptive by macroblock; direct_8x8; no cropping; no VUI.
    bits.put(0b00100, 5)
    return bits.finish()


def _picture() -> bytes:
    bits = _Bits()
    bits.put_golomb(0, 0)
    bits.put(0b00, 2)
    bits.put_golomb(0, 0, 0)
    bits.put(0b000, 3)
    bits.put_golomb(0, 0, 0)
    bits.put(0b100, 3)  # slices say how they deblock
    return bits.finish()


def _slice(field: NDArray[np.uint8], frame_num: int, parity: int, idr: int | None) -> bytes:
    bits = _Bits()
    bits.put_golomb(0, 7, 0)  # from the first macroblock; all slices I; picture set 0
    bits.put(frame_num, 4)
    bits.put(1)
    bits.put(parity)
    if idr is None:
        bits.put(0)
    else:
        bits.put_golomb(idr)
        bits.put(0b00, 2)
    bits.put_golomb(0, 1)  # quantiser as the picture's; no deblocking
    grey = bytes([128] * 128)
    for y in range(0, field.shape[0], 16):
        for x in range(0, field.shape[1], 16):
            bits.put_golomb(25)
            bits.put_bytes(field[y : y + 16, x : x + 16].tobytes() + grey)
    return bits.finish()


def _unit(importance: int, kind: int, content: bytes) -> bytes:
    """Return a NAL unit after its start code, with bytes inserted that no start code is seen."""
    escaped = bytearray()
    zeros = 0
    for value in content:
        if zeros == 2 and value <= 3:
            escaped.append(3)
            zeros = 0
        escaped.append(value)
        zeros = zeros + 1 if value == 0 else 0
    return b"\0\0\0\1" + bytes([importance << 5 | kind]) + bytes(escaped)
