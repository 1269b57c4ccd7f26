"""A colour-difference keyer: the matte of a subject in front of a green, blue or other screen.

A keyer needs no network. It is a segmenter whose input is the frame at its own size, so
that every strand which the picture resolves is in the matte.

The method, for each frame on its own:

1. *Colour difference.* How much the screen's dominant channel exceeds the larger of the
   other two, ``G - max(R, B)`` for a green screen (P. Vlahos, "Composite color photography",
   US patent 3,158,477, 1964, and "Electronic composite photography", US patent 3,595,987,
   1971). It is at its largest on the bare screen, and zero or less on grey, black and white,
   on skin, and on every colour that leans to another side.
2. *Backing.* Screens are lit unevenly. Flat patches of the screen's hue, averaged and filled
   in behind the subject by pull-push (Gortler et al., "The Lumigraph", SIGGRAPH 1996), give
   the screen's colour at each point. Its colour difference is the divisor, so that the
   screen is 0 in shadow as well as in a hot spot.
3. *Mixture.* A soft pixel is ``C = a F + (1 - a) B``, three equations and four unknowns
   (A. R. Smith and J. F. Blinn, "Blue screen matting", SIGGRAPH 1996). The colour of the
   foreground nearby, filled in by pull-push as well, is what was missing:
   ``a = (C - B)·(F - B) / |F - B|²``. What the line from B to F leaves unexplained measures
   the trust in F. It is taken from solid parts; if those are of another colour, from strands;
   failing both, the plain colour difference stands, which is exact for any foreground of no
   colour difference, such as grey hair and smoke.

Cells that are bare screen or opaque as a whole are settled at the size of the backing, so
that the full-size work is only on the pixels around edges.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from vidbg.errors import InputError, VidbgError
from vidbg.profile import stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

DEFAULT_SIMILARITY: Final = 0.025
"""Black clip: up to 2.5 % of the way from the screen to the foreground is still screen."""

DEFAULT_SMOOTHNESS: Final = 0.95
"""White clip: the last 5 % of the way count as opaque."""

# The two clips of known alpha were best with cells of 4 pixels at 720 lines; the number of
# cells is kept over frame sizes, since creases and hot spots scale with the picture.
_CELL_ROWS: Final = 180

# Of the key's own colour difference: a screen darker than this is not told from a subject.
_DIMMEST_BACKING: Final = 0.4
# Half a sector of 40 degrees: a screen keeps its hue in shadow, it does not change it.
_BACKING_HUE_TANGENT: Final = 0.36
# A patch of screen is flat: wisps of hair as dark as a shadow are not (of the key's
# difference; the noise of the clip itself comes on top).
_BACKING_ROUGHNESS: Final = 0.01
_BACKING_SIGMA_CELLS: Final = 4.0
# A cell this close to the backing in every channel is bare: what noise leaves in the mean of its
# pixels, and no more than a trace of foreground (of the key's difference).
_BARE_LEVELS: Final = 4.5
_BARE_SHARE: Final = 0.04
# A cell with no more screen in it than this is opaque as a whole.
_OPAQUE_SHARE: Final = 0.02
# Foreground colour is taken from where the colour difference says at least this much. Hair
# may never say more.
_FOREGROUND_FLOOR: Final = 0.5
# The space that mixtures are solved in: BT.709 luma, Cb and Cr of R'G'B'. Luma counts 1.4 times:
# in 4:2:0 it has four times the samples of chroma, and it has less noise.
_SOLVE_SPACE: Final = np.array(
    [[1.4 * 0.2126, 1.4 * 0.7152, 1.4 * 0.0722], [-0.1146, -0.3854, 0.5], [0.5, -0.4542, -0.0458]],
    np.float32,
)
# Distance in that space from the line between backing and foreground at which trust in the
# foreground's colour is down to 1/e: for strands, then for solid parts, which may lie farther off.
_RESIDUAL_LEVELS: Final = (60.0, 30.0)
# Pixels per step of the full-size work: its arrays then stay in the processor's cache.
_CHUNK_PIXELS: Final = 16384

# A key of less chroma than this has no screen to tell from a subject (levels of 255).
_LEAST_KEY_DIFFERENCE: Final = 24.0

# Where a screen is looked for: a frame around the picture this wide, of its shorter side.
_BORDER_SHARE: Final = 0.05
# Levels of local deviation (5 by 5 pixels) that noise stays below and foliage exceeds.
_SCREEN_ROUGHNESS_LEVELS: Final = 8.0
_HUE_REACH_DEGREES: Final = 20
# Hues that screens have in degrees, the least colour difference as a share of the largest
# component, and the least share of the border. Paints and cloths made for screens have a difference
# of 0.44 to 0.64, washed out by light 0.3; grass is yellower, clear sky has 0.2 to 0.37. A subject
# may cover most of the border before green and blue; other hues are those of ordinary rooms.
_SCREENS: Final = (
    (range(100, 166), 0.3, 0.15),
    (range(210, 256), 0.4, 0.15),
    (range(360), 0.5, 0.5),
)


class ChromaKeyer:
    """A segmenter that keys a screen of one colour out.

    Args:
        key: The screen's colour, R'G'B' in 0..255. It need not be exact: flat parts of the
            screen in the picture correct it.
        similarity: Black clip, 0..1: what differs from the screen by no more than this
            share of the way to the foreground becomes fully transparent. 1 takes all.
        smoothness: Width of the ramp from there to opaque, 0..1, as a share of what
            ``similarity`` leaves; 0 is a hard edge.

    Raises:
        VidbgError: The key has too little colour to tell a screen from a subject.
        ValueError: A number is out of its range.
    """

    name = "chroma"

    def __init__(
        self,
        key: tuple[int, int, int],
        similarity: float = DEFAULT_SIMILARITY,
        smoothness: float = DEFAULT_SMOOTHNESS,
    ) -> None:
        if len(key) != 3 or not all(0 <= component <= 255 for component in key):
            raise ValueError(f"key is three numbers in 0..255, not {key!r}")
        for option, value in (("similarity", similarity), ("smoothness", smoothness)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{option} is in 0..1, not {value!r}")
        self.key = key
        self.similarity = similarity
        self.smoothness = smoothness
        self._axis, self._is_primary = _principal_axis(key)
        self._key_difference = float(self._differences(np.array(key, np.float32)))
        # Unit vectors in the plane of equal sums, where hue lives: the key's and across it.
        chroma = np.array(key, np.float64) - np.mean(key)
        along = chroma / max(float(np.linalg.norm(chroma)), 1.0)
        across = np.cross(along, np.full(3, 3.0**-0.5))
        self._hue_axes = np.stack((along, across)).astype(np.float32)
        if self._key_difference < _LEAST_KEY_DIFFERENCE:
            raise VidbgError(
                "the key colour #{:02x}{:02x}{:02x} has too little colour to key".format(*key),
                hint="Give the colour of a green or blue screen, such as --key #00b140",
            )

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        """Return the (height, width) that pictures must have: the frame's own.

        Args:
            width: Columns of the clip's frames.
            height: Rows of the clip's frames.
            sar: Width over height of the clip's pixels, of no effect.
        """
        return height, width

    def batch_size(self, height: int, width: int) -> int:
        """Return how many pictures to give at once: 1, since company makes none faster."""
        return 1

    @stage("keyer")
    def __call__(self, rgb: NDArray[np.uint8]) -> Floats:
        """Return the mattes of frames.

        Args:
            rgb: uint8 ``(B, H, W, 3)``, R'G'B' in 0..255, at least one pixel each.

        Returns:
            float32 ``(B, H, W)`` in 0..1, straight; 0 is the screen.
        """
        matte = np.empty(rgb.shape[:3], np.float32)
        for frame, frame_matte in zip(rgb, matte, strict=True):
            self._key_frame(np.ascontiguousarray(frame), frame_matte)
        return matte

    def _key_frame(self, frame: NDArray[np.uint8], matte: Floats) -> None:
        """Write the matte of ``frame`` (H, W, 3) to ``matte`` (H, W)."""
        height, width = frame.shape[:2]
        cell_px = max(1, round(min(height, width) / _CELL_ROWS))
        size = (-(-width // cell_px), -(-height // cell_px))
        cells = cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        # Averaged after the difference, not before: a red object with a hole in it has the
        # hole's green in its mean, and the red would cancel it.
        screen = cv2.resize(self._clipped_differences(frame), size, interpolation=cv2.INTER_AREA)

        backing, reference = self._backing(cells)
        share = screen / reference
        red, green, blue = cv2.split(cv2.absdiff(cells, backing))
        deviation = cv2.max(cv2.max(red, green), blue)
        bare = deviation < min(_BARE_LEVELS, _BARE_SHARE * self._key_difference)
        opaque = share <= _OPAQUE_SHARE
        # A cell is settled only if its neighbours are too: an edge may run along its border.
        neighbours = np.ones((3, 3), np.uint8)
        bare_cells = cv2.erode(bare.astype(np.uint8), neighbours)
        opaque_cells = cv2.erode(opaque.astype(np.uint8), neighbours)
        cv2.resize(
            self._ramp(opaque_cells.astype(np.float32)),
            (width, height),
            dst=matte,
            interpolation=cv2.INTER_NEAREST,
        )
        is_open = cv2.resize(
            1 - np.maximum(bare_cells, opaque_cells),
            (width, height),
            interpolation=cv2.INTER_NEAREST,
        )
        open_pixels = np.flatnonzero(is_open.view(np.bool_))
        if open_pixels.size:
            screen = cv2.transform(backing, _SOLVE_SPACE)
            lines = [
                cv2.transform(foreground, _SOLVE_SPACE) - screen
                for foreground in self._foregrounds(cells, backing, reference)
            ]
            self._solve(
                frame.reshape(-1, 3),
                open_pixels,
                np.dstack((screen, reference)),
                lines,
                matte,
            )

    def _differences(self, rgb: Floats) -> Floats:
        """Return the colour difference ``(...)`` of float32 colours ``(..., 3)``."""
        own = rgb[..., self._axis]
        other, another = (rgb[..., i] for i in range(3) if i != self._axis)
        if self._is_primary:
            return np.asarray(own - np.maximum(other, another))
        return np.asarray(np.minimum(other, another) - own)

    def _clipped_differences(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the colour difference, negatives as 0, of a frame uint8 ``(H, W, 3)``."""
        channels = cv2.split(frame)
        own = channels[self._axis]
        other, another = (channels[i] for i in range(3) if i != self._axis)
        # OpenCV's uint8 subtraction saturates at 0, which is the clipping meant here.
        if self._is_primary:
            return np.asarray(cv2.subtract(own, cv2.max(other, another)), np.uint8)
        return np.asarray(cv2.subtract(cv2.min(other, another), own), np.uint8)

    def _backing(self, cells: Floats) -> tuple[Floats, Floats]:
        """Return the screen's colour at each cell, and its colour difference.

        Args:
            cells: float32 ``(h, w, 3)`` in 0..255.

        Returns:
            float32 ``(h, w, 3)`` in 0..255, and float32 ``(h, w)``, well above 0.
        """
        key = np.array(self.key, np.float32)
        difference = self._differences(cells)
        mean = cv2.blur(difference, (5, 5))
        variance = cv2.blur(difference * difference, (5, 5)) - mean * mean
        roughness = np.sqrt(np.maximum(variance, 0.0))
        along, across = cv2.split(cv2.transform(cells, self._hue_axes))
        is_candidate = (np.abs(across) < _BACKING_HUE_TANGENT * along) & (
            difference > _DIMMEST_BACKING * self._key_difference
        )
        if is_candidate.any():
            noise = float(np.percentile(roughness[is_candidate], 25))
            limit = _BACKING_ROUGHNESS * self._key_difference + 2.0 * noise
            flat = cv2.erode(
                (is_candidate & (roughness < limit)).astype(np.float32), np.ones((3, 3))
            )
        else:
            flat = np.zeros(cells.shape[:2], np.float32)
        if flat.any():
            weighted = np.dstack((cells * flat[..., None], flat))
            weighted = np.asarray(
                cv2.GaussianBlur(weighted, (0, 0), _BACKING_SIGMA_CELLS), np.float32
            )
            backing = _pull_push(weighted[..., :3], weighted[..., 3])
        else:
            backing = np.broadcast_to(key, cells.shape).astype(np.float32)
        reference = np.maximum(
            self._differences(backing), np.float32(_DIMMEST_BACKING * self._key_difference)
        )
        return backing, reference

    def _foregrounds(
        self, cells: Floats, backing: Floats, reference: Floats
    ) -> tuple[Floats, Floats]:
        """Return the colour of the nearest foreground at each cell, twice.

        First of any, single strands included; then of solid parts, with no edge near: a cell
        on the edge of a red subject has no colour difference, though half of it is screen.

        Args:
            cells: float32 ``(h, w, 3)`` in 0..255.
            backing: float32 ``(h, w, 3)``.
            reference: float32 ``(h, w)``, the backing's colour difference.

        Returns:
            Two arrays, float32 ``(h, w, 3)``, about 0..255; mid-grey where the frame has none.
        """
        alpha = np.minimum(1.0 - self._differences(cells) / reference, 1.0)
        weight = np.maximum((alpha - _FOREGROUND_FLOOR) / (1.0 - _FOREGROUND_FLOOR), 0.0) ** 2
        if not weight.any():
            grey = np.full_like(backing, 128.0)
            return grey, grey
        # What is left of a cell without its share of screen. The floor keeps the division
        # sound; cells below it have no weight.
        opacity = np.maximum(alpha, _FOREGROUND_FLOOR)[..., None]
        colour = (cells - (1.0 - opacity) * backing) / opacity
        nearest = _pull_push(colour * weight[..., None], weight)
        solid = np.asarray(cv2.erode(weight, np.ones((3, 3))), np.float32)
        if not solid.any():
            return nearest, nearest
        return nearest, _pull_push(colour * solid[..., None], solid)

    def _solve(
        self,
        pixels: NDArray[np.uint8],
        indices: NDArray[np.intp],
        screen: Floats,
        lines: Sequence[Floats],
        matte: Floats,
    ) -> None:
        """Solve the mixture equation of some pixels and write their alpha to ``matte``.

        Args:
            pixels: uint8 ``(H*W, 3)``, the frame's.
            indices: Which of them.
            screen: float32 ``(h, w, 4)``: the backing in the space of the solution, and its
                colour difference.
            lines: float32 ``(h, w, 3)`` each: foregrounds minus backing, in that space; the
                best is last.
            matte: float32 ``(H, W)``, contiguous; written in place.
        """
        height, width = matte.shape
        rows, columns = screen.shape[:2]
        flat = matte.reshape(-1)
        for start in range(0, indices.size, _CHUNK_PIXELS):
            chosen = indices[start : start + _CHUNK_PIXELS]
            y, x = np.divmod(chosen, width)
            map_x = ((x + 0.5) * (columns / width) - 0.5).astype(np.float32)[None]
            map_y = ((y + 0.5) * (rows / height) - 0.5).astype(np.float32)[None]
            backing, *directions = (
                cv2.remap(field, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
                for field in (screen, *lines)
            )
            colour = pixels[chosen].astype(np.float32)
            alpha = 1.0 - self._differences(colour) / backing[:, 3]
            offset = cv2.transform(colour[None], _SOLVE_SPACE)[0] - backing[:, :3]
            distance = np.einsum("ij,ij->i", offset, offset)
            for direction, residual_levels in zip(directions, _RESIDUAL_LEVELS, strict=True):
                along = np.einsum("ij,ij->i", offset, direction)
                # Foreground has no colour difference and backing does, so the length is far
                # from 0; one level guards the division all the same.
                length = np.maximum(np.einsum("ij,ij->i", direction, direction), 1.0)
                solved = along / length
                residual = distance - along * solved
                alpha += (solved - alpha) * np.exp(residual * (-1.0 / residual_levels**2))
            flat[chosen] = self._ramp(alpha)

    def _ramp(self, alpha: Floats) -> Floats:
        """Return alpha with both clips applied, in 0..1."""
        # A width of zero would divide by it; this is far below one code of 16 bits.
        width = max((1.0 - self.similarity) * self.smoothness, 1e-6)
        # Colours beyond the foreground's come to more than 1.
        share: Floats = (np.minimum(alpha, 1.0) - np.float32(self.similarity)) * np.float32(
            1.0 / width
        )
        return np.clip(share, 0.0, 1.0, out=share)


def estimate_key(rgb: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Return the colour of the screen that surrounds the subject.

    It is the median of the hue that most of the flat and colourful part of the border
    shares, green or blue before any other.

    Args:
        rgb: uint8 ``(B, H, W, 3)``, R'G'B' in 0..255: the clip's first frames.

    Returns:
        R'G'B' in 0..255.

    Raises:
        InputError: The borders show no such colour.
    """
    borders = [_border(frame) for frame in rgb]
    pixel_count = sum(len(pixels) for pixels, _ in borders)
    colours = np.concatenate([pixels[is_flat] for pixels, is_flat in borders])
    hue, difference = _hue_and_difference(colours)
    largest = colours.max(axis=1, initial=0)
    for hues, least_difference, least_share in _SCREENS:
        is_candidate = difference >= np.maximum(least_difference * largest, _LEAST_KEY_DIFFERENCE)
        histogram = np.bincount(hue[is_candidate], minlength=360)
        # How many pixels have a hue within reach of each whole degree.
        reach = range(-_HUE_REACH_DEGREES, _HUE_REACH_DEGREES + 1)
        support = np.sum([np.roll(histogram, shift) for shift in reach], axis=0)
        peak = max(hues, key=lambda degree: int(support[degree]))
        if support[peak] >= least_share * pixel_count:
            distance = np.abs((hue - peak + 180) % 360 - 180)
            of_screen = is_candidate & (distance <= _HUE_REACH_DEGREES)
            red, green, blue = np.median(colours[of_screen], axis=0)
            return round(float(red)), round(float(green)), round(float(blue))
    raise InputError(
        "no green or blue screen found at the borders",
        hint="Give the screen's colour, such as --key #00b140",
    )


def _border(frame: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the pixels ``(N, 3)`` along the four sides of a frame, and which lie in flat parts."""
    height, width = frame.shape[:2]
    reach = max(1, round(min(height, width) * _BORDER_SHARE))
    pixels, is_flat = [], []
    for side in (
        frame[:reach],
        frame[-reach:],
        frame[reach:-reach, :reach],
        frame[reach:-reach, -reach:],
    ):
        if side.size:
            level = side.max(axis=2).astype(np.float32)
            mean = cv2.blur(level, (5, 5))
            variance = cv2.blur(level * level, (5, 5)) - mean * mean
            pixels.append(side.reshape(-1, 3))
            is_flat.append(variance.reshape(-1) <= _SCREEN_ROUGHNESS_LEVELS**2)
    return np.concatenate(pixels), np.concatenate(is_flat)


def _hue_and_difference(
    colours: NDArray[np.uint8],
) -> tuple[NDArray[np.intp], NDArray[np.int16]]:
    """Return the hue, whole degrees in 0..359, and the colour difference of uint8 ``(N, 3)``.

    The difference is that which a key of the same colour would go by.
    """
    if not len(colours):
        return np.empty(0, np.intp), np.empty(0, np.int16)
    hsv = cv2.cvtColor(colours[None].astype(np.float32), cv2.COLOR_RGB2HSV)[0]
    hue = np.rint(hsv[:, 0]).astype(np.intp) % 360
    low, middle, high = np.sort(colours.astype(np.int16), axis=1).T
    return hue, np.maximum(high - middle, middle - low)


def _principal_axis(key: tuple[int, int, int]) -> tuple[int, bool]:
    """Return the channel that a key stands out in, and whether by more or by less of it.

    (1, True) for green, (1, False) for its complement magenta, and so on: of the six
    principal hues the nearest one.
    """
    low, middle, high = sorted(range(3), key=lambda channel: key[channel])
    if key[high] - key[middle] >= key[middle] - key[low]:
        return high, True
    return low, False


def _pull_push(weighted: Floats, weight: Floats) -> Floats:
    """Return values filled in where there are none.

    Pull: halve the array until one cell is left, so that each level averages over twice the
    distance. Push: double it again, and let each level stand in where the finer one has no
    weight of its own (Gortler et al. 1996).

    Args:
        weighted: float32 ``(h, w, C)``, values times weights.
        weight: float32 ``(h, w)`` in 0..1, somewhere above 0.

    Returns:
        float32 ``(h, w, C)``.
    """
    levels = [(weighted, weight)]
    while max(weight.shape) > 1:
        size = (-(-weight.shape[1] // 2), -(-weight.shape[0] // 2))
        weighted = _resized(weighted, size, cv2.INTER_AREA)
        weight = _resized(weight, size, cv2.INTER_AREA)
        levels.append((weighted, weight))
    filled = weighted / weight[..., None]
    for weighted, weight in levels[-2::-1]:
        filled = _resized(filled, (weight.shape[1], weight.shape[0]), cv2.INTER_LINEAR)
        # A quarter of a cell's area is enough to speak for it.
        own = np.minimum(4.0 * weight, 1.0)[..., None]
        mean = weighted / np.maximum(weight, np.finfo(np.float32).tiny)[..., None]
        filled += (mean - filled) * own
    return filled


def _resized(values: Floats, size: tuple[int, int], interpolation: int) -> Floats:
    """Return float32 ``(h, w)`` or ``(h, w, C)`` at another (width, height)."""
    resized = cv2.resize(values, size, interpolation=interpolation)
    return np.asarray(resized, np.float32).reshape(size[1], size[0], *values.shape[2:])
