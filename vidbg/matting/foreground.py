"""The subject's own colour at soft edges, where a frame shows it mixed with the old background.

A pixel of a frame is ``I = a·F + (1 - a)·B``. Put over a new background as it is, it carries
``(1 - a)·B`` along: a rim of the old background's colour. What is wanted is F.

The method is blur fusion (M. Forte, "Approximate fast foreground colour estimation", ICIP 2021):
smooth estimates F̂ and B̂ are means of the frame weighted by how surely a pixel is the one or the
other, and what they leave of the pixel unexplained goes back into the estimate (equation 7)::

    F = F̂ + a·(I - a·F̂ - (1 - a)·B̂)

Its two passes, over boxes of 90 and of 6 pixels, are here the levels of a pyramid (as in
T. Germer et al., "Fast multi-level foreground estimation", ICPR 2020): a cell of the pyramid that
has too little weight of its own takes the colour of the next coarser one (pull and push: Gortler
et al., "The Lumigraph", SIGGRAPH 1996). So colour comes from as near as there is any, and from as
far as it must. The weights fall off steeply from certainty: a pixel of alpha one half says little
about either colour.

Everything works on the frame's own planes. The pyramid starts at cells of 8 pixels, and the work
at full size is only in tiles with a soft edge in them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

import cv2
import numpy as np

from vidbg.profile import stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vidbg.frames import Plane, PlaneFormat, Planes

    Floats = NDArray[np.float32]

# Cells of 4 pixels cost twice the time and were no better on the clips of known foreground.
_LOG2_CELL_PX: Final = 3
_TILE_CELLS: Final = 4
_BAND_CELLS: Final = 8
# A tile is left as it is where alpha is nowhere further than this from 0 or 1: what the old
# background adds is then below three codes of 255.
_CERTAIN: Final = 0.01
# Weights are alpha to this power of two. On the clips of known foreground 16 left a tenth less
# error in luma than 8, and 8 a third less than 4. Chroma of 4:2:0 has softer alpha, and codecs
# leave less of it: higher powers only took away what there is to average.
_LOG2_POWER: Final = 4
_LOG2_POWER_SUBSAMPLED: Final = 3
# A quarter of a cell's area is enough to speak for it.
_OWN_SHARE: Final = 4.0
# The weight of the frame's mean, which answers where a frame shows no foreground, or no background.
_LEAST_WEIGHT: Final = 1e-6


def estimate_foreground(planes: Planes, alphas: Planes, format: PlaneFormat) -> Planes:
    """Return frames with the subject's own colour at soft edges.

    Samples of alpha 1 stay as they are, bit for bit. Those of alpha 0 near an edge get the
    colour of the subject beside them, so that a player which interpolates between samples finds
    none of the old background there. Each frame is by itself.

    Args:
        planes: Three arrays ``(B, H, W)``, ``(B, h, w)``, ``(B, h, w)``, uint8 or uint16.
        alphas: Straight alpha at each plane's size, of the samples' dtype, full range:
            what :func:`vidbg.composite.alpha_planes` returns.
        format: The planes' working format.

    Returns:
        Arrays of the shapes and dtype of ``planes``; those in which nothing is soft may be
        the ones given.

    Raises:
        ValueError: Shapes or dtypes do not fit each other.
    """
    for plane, alpha in zip(planes, alphas, strict=True):
        if plane.shape != alpha.shape or plane.dtype != alpha.dtype:
            raise ValueError(
                f"a plane {plane.shape} of {plane.dtype} and alpha {alpha.shape} of "
                f"{alpha.dtype} do not fit each other"
            )
    highest = (1 << format.depth) - 1
    if format.log2_chroma_w == format.log2_chroma_h == 0:
        return cast("Planes", _estimated(planes, alphas[0], (0, 0), highest))
    subsampling = (format.log2_chroma_h, format.log2_chroma_w)
    luma = _estimated(planes[:1], alphas[0], (0, 0), highest)
    chroma = _estimated(planes[1:], alphas[1], subsampling, highest)
    return cast("Planes", (*luma, *chroma))


@stage("foreground")
def extend_foreground(planes: Planes, alphas: Planes, format: PlaneFormat) -> Planes:
    """Return frames that continue the subject's colour smoothly where nothing of it is.

    What lies under alpha 0 is never seen, but it is encoded, and it is what a scaler that knows
    nothing of alpha mixes into the edge. So the old background gives way to means of the subject
    weighted by alpha, from as near as there are any, by the same pyramid that estimates the
    foreground: no edge for a codec to spend bits on, and no foreign colour to bleed. Samples of
    any other alpha stay as they are, bit for bit. Each frame is by itself; one without a subject
    gets the mean of what it shows.

    Args:
        planes: The subject's colours, such as :func:`estimate_foreground` returns: three arrays
            ``(B, H, W)``, ``(B, h, w)``, ``(B, h, w)``, uint8 or uint16.
        alphas: Straight alpha at each plane's size, of the samples' dtype, full range.
        format: The planes' working format.

    Returns:
        New arrays of the shapes and dtype of ``planes``.
    """
    results = tuple(plane.copy() for plane in planes)
    shifts = (format.log2_chroma_h, format.log2_chroma_w)
    groups = [(slice(0, 3), (0, 0))]
    if shifts != (0, 0):
        groups = [(slice(0, 1), (0, 0)), (slice(1, 3), shifts)]
    for group, log2_subsampling in groups:
        for number, alpha in enumerate(alphas[group][0]):
            frames = [result[number] for result in results[group]]
            _extend(frames, alpha, log2_subsampling)
    return cast("Planes", results)


def _extend(frames: Sequence[Plane], alpha: Plane, log2_subsampling: tuple[int, int]) -> None:
    """Write the subject's colour to what is clear of planes ``(H, W)`` that share one alpha."""
    is_clear = (alpha == 0).view(np.uint8)
    if not is_clear.any():
        return
    rows, columns = (1 << _LOG2_CELL_PX >> log2 for log2 in log2_subsampling)
    height, width = alpha.shape
    grid = -(-height // rows), -(-width // columns)
    sums = np.zeros((*grid, len(frames) + 1), np.float32)
    # In bands that stay in a core's cache, and only where there is something of the subject.
    covered = np.flatnonzero(alpha.max(axis=0))
    first, last = (covered[0] // columns, covered[-1] // columns + 1) if covered.size else (0, 0)
    part = slice(first * columns, last * columns)
    scale = 1 / np.iinfo(alpha.dtype).max
    band = np.zeros((_BAND_CELLS * rows, (last - first) * columns), np.float32)
    for top in range(0, grid[0] if last else 0, _BAND_CELLS):
        chosen = slice(top * rows, (top + _BAND_CELLS) * rows)
        opacity = alpha[chosen, part]
        if not opacity.any():
            continue
        cells = min(_BAND_CELLS, grid[0] - top)
        band[opacity.shape[0] :] = 0
        inside = band[: opacity.shape[0], : opacity.shape[1]]
        size = (last - first, cells)
        for channel, plane in enumerate([*(frame[chosen, part] for frame in frames), None]):
            np.multiply(opacity, np.float32(scale), out=inside)
            if plane is not None:
                inside *= plane
            means = cv2.resize(band[: cells * rows], size, interpolation=cv2.INTER_AREA)
            sums[top : top + cells, first:last, channel] = means
    fallback = np.array([cv2.mean(frame)[0] for frame in frames], np.float32)
    filled = _pull_push(sums, fallback)
    for channel, frame in enumerate(frames):
        colour = np.rint(filled[..., channel]).astype(frame.dtype)
        size = (grid[1] * columns, grid[0] * rows)
        whole: Any = cv2.resize(cast("Any", colour), size, interpolation=cv2.INTER_LINEAR)
        cv2.copyTo(whole[:height, :width], is_clear, frame)


def _estimated(
    planes: Sequence[Plane], alpha: Plane, log2_subsampling: tuple[int, int], highest: int
) -> Sequence[Plane]:
    """Return planes that share one alpha with the foreground's colour.

    Args:
        planes: Arrays ``(B, H, W)``.
        alpha: Likewise.
        log2_subsampling: Of the planes, (vertical, horizontal), as powers of two.
        highest: The largest sample.
    """
    results = list(planes)
    for index in range(len(alpha)):
        tiles = _Tiles(alpha[index], log2_subsampling)
        if not tiles.count:
            continue
        power = _LOG2_POWER_SUBSAMPLED if any(log2_subsampling) else _LOG2_POWER
        frames = [plane[index] for plane in planes]
        for number, estimate in enumerate(_foreground_tiles(frames, alpha[index], tiles, power)):
            if results[number] is planes[number]:
                results[number] = planes[number].copy()
            np.rint(estimate, out=estimate)
            np.clip(estimate, 0, highest, out=estimate)
            tiles.put(estimate.astype(planes[number].dtype), results[number][index])
    return results


def _foreground_tiles(
    frames: Sequence[Plane], alpha: Plane, tiles: _Tiles, log2_power: int
) -> list[Floats]:
    """Return the foreground's samples in the soft tiles of a frame.

    Args:
        frames: Planes ``(H, W)`` of one frame.
        alpha: ``(H, W)``.
        tiles: The soft ones of them.
        log2_power: The power of two that alpha is raised to for its weight.

    Returns:
        For each plane float32 ``(N, pixels of a tile)``, not yet rounded.
    """
    top = np.iinfo(alpha.dtype).max
    opacity = tiles.take(alpha).astype(np.float32)
    is_opaque = opacity == top
    opacity *= np.float32(1 / top)
    samples = [tiles.take(frame).astype(np.float32) for frame in frames]
    means = [tiles.cells(frame) for frame in frames]
    is_foreground = tiles.cells_of_corner(alpha) > top / 2

    estimates = []
    for share, is_certain in ((opacity, is_foreground), (1 - opacity, ~is_foreground)):
        weight = share
        for _ in range(log2_power):
            weight = weight * weight
        # What settled tiles say of their whole area, and soft ones of each pixel.
        weights = is_certain.astype(np.float32)
        tiles.put_cells(tiles.cell_means(weight), weights)
        sums = np.dstack([*(mean * weights for mean in means), weights])
        for number, plane in enumerate(samples):
            tiles.put_cells(tiles.cell_means(plane * weight), sums[..., number])
        filled = _pull_push(sums, np.array([mean.mean() for mean in means], np.float32))
        estimates.append([tiles.enlarged(filled[..., number]) for number in range(len(frames))])

    for plane, foreground, background in zip(samples, *estimates, strict=True):
        # F + a·(I - B - a·(F - B)), in place.
        rest = foreground - background
        rest *= opacity
        rest += background
        np.subtract(plane, rest, out=rest)
        rest *= opacity
        foreground += rest
        np.copyto(foreground, plane, where=is_opaque)
    return estimates[0]


def _pull_push(sums: Floats, fallback: Floats) -> Floats:
    """Return means where there is weight, and what is around them elsewhere.

    Args:
        sums: float32 ``(h, w, C + 1)``: values times weights, and last the weights in 0..1.
        fallback: float32 ``(C,)``, what answers where there is no weight at all.

    Returns:
        float32 ``(h, w, C)``.
    """
    levels = [sums]
    while max(sums.shape[:2]) > 1:
        sums = _resized(sums, (-(-sums.shape[0] // 2), -(-sums.shape[1] // 2)), cv2.INTER_AREA)
        levels.append(sums)
    weight = sums[..., -1:]
    filled = (sums[..., :-1] + fallback * np.float32(_LEAST_WEIGHT)) / (
        weight + np.float32(_LEAST_WEIGHT)
    )
    for sums in levels[-2::-1]:
        filled = _resized(filled, sums.shape[:2], cv2.INTER_LINEAR)
        weight = sums[..., -1:]
        # own·(mean - filled), where own / weight has no division by zero in it.
        gain = np.minimum(np.float32(_OWN_SHARE), 1 / np.maximum(weight, np.float32(1e-12)))
        filled += (sums[..., :-1] - filled * weight) * gain
    return np.asarray(filled, np.float32)


def _resized(values: Floats, shape: tuple[int, ...], interpolation: int) -> Floats:
    """Return float32 ``(h, w, C)`` at another (height, width)."""
    resized = cv2.resize(values, (shape[1], shape[0]), interpolation=interpolation)
    return np.asarray(resized, np.float32).reshape(*shape[:2], values.shape[2])


class _Tiles:
    """Where a plane is soft: squares on a fixed grid, and a coarse grid of cells below them.

    Sums and interpolation over tiles are products with small fixed matrices: tiles lie one after
    another as rows, and a tile needs no neighbour's pixels.

    Attributes:
        count: Number of soft tiles.

    Args:
        alpha: uint8 or uint16 ``(H, W)``.
        log2_subsampling: Of the plane, (vertical, horizontal), as powers of two.
    """

    def __init__(self, alpha: Plane, log2_subsampling: tuple[int, int]) -> None:
        height, width = alpha.shape
        self._cell = tuple(1 << _LOG2_CELL_PX >> log2 for log2 in log2_subsampling)
        self._tile = tuple(_TILE_CELLS * side for side in self._cell)
        self._grid = tuple(
            -(-side // tile) for side, tile in zip((height, width), self._tile, strict=True)
        )
        top = np.iinfo(alpha.dtype).max
        margin = int(_CERTAIN * top)
        # One comparison for both sides: codes below the margin wrap round to the largest.
        is_soft = (alpha - alpha.dtype.type(margin + 1)) < alpha.dtype.type(top - 2 * margin - 1)
        # Eight pixels at once: a tile's width is a multiple of eight, and NumPy's any() is slow.
        words = np.ascontiguousarray(self._padded(is_soft)).view(np.uint64)
        words = np.bitwise_or.reduce(words.reshape(self._grid[0], self._tile[0], -1), axis=1)
        words = np.bitwise_or.reduce(words.reshape(*self._grid, -1), axis=2)
        self._rows, self._columns = np.nonzero(words)
        self.count = len(self._rows)

    def take(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Return the soft tiles of ``(H, W)``, ``(N, pixels of a tile)``; a copy."""
        return self._squares(plane)[self._rows, self._columns].reshape(self.count, -1)

    def put(self, values: NDArray[Any], plane: NDArray[Any]) -> None:
        """Write tiles, as :meth:`take` returns them, to ``(H, W)``."""
        height, width = plane.shape
        rows, columns = self._tile
        squares = values.reshape(-1, rows, columns)
        for square, row, column in zip(squares, self._rows, self._columns, strict=True):
            above, left = row * rows, column * columns
            target = plane[above : above + rows, left : left + columns]
            target[...] = square[: height - above, : width - left]

    def cells(self, plane: NDArray[Any]) -> Floats:
        """Return the mean of every cell of ``(H, W)``, float32, the whole grid of cells."""
        rows, columns = self._whole(plane.shape)
        padded = self._padded(plane)
        size = (columns // self._cell[1], rows // self._cell[0])
        return np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA), np.float32)

    def cells_of_corner(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Return the first sample of the tile that each cell lies in."""
        corners = plane[:: self._tile[0], :: self._tile[1]]
        return corners.repeat(_TILE_CELLS, axis=0).repeat(_TILE_CELLS, axis=1)

    def cell_means(self, values: Floats) -> Floats:
        """Return the mean of each cell of tiles: ``(N, pixels)`` to ``(N, cells)``."""
        return values @ _averaging(*self._cell)

    def put_cells(self, values: Floats, cells: Floats) -> None:
        """Write the cells of the soft tiles, ``(N, cells)``, to the grid of cells."""
        squares = cells.reshape(self._grid[0], _TILE_CELLS, self._grid[1], _TILE_CELLS)
        squares.transpose(0, 2, 1, 3)[self._rows, self._columns] = values.reshape(
            -1, _TILE_CELLS, _TILE_CELLS
        )

    def enlarged(self, cells: Floats) -> Floats:
        """Return the soft tiles of a grid of cells, interpolated linearly, ``(N, pixels)``."""
        framed = np.pad(cells, 1, mode="edge")
        side = _TILE_CELLS + 2
        windows = np.lib.stride_tricks.sliding_window_view(framed, (side, side))
        chosen = windows[self._rows * _TILE_CELLS, self._columns * _TILE_CELLS]
        return chosen.reshape(self.count, -1) @ _interpolation(*self._cell)

    def _whole(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return self._grid[0] * self._tile[0], self._grid[1] * self._tile[1]

    def _padded(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Return ``(H, W)`` made whole tiles by repeating its edge."""
        rows, columns = self._whole(plane.shape)
        below, right = rows - plane.shape[0], columns - plane.shape[1]
        if not below and not right:
            return plane
        return np.pad(plane, ((0, below), (0, right)), mode="edge")

    def _squares(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Return ``(H, W)`` as a view ``(rows, columns, height, width)`` of tiles."""
        padded = self._padded(plane)
        shape = (self._grid[0], self._tile[0], self._grid[1], self._tile[1])
        return padded.reshape(shape).transpose(0, 2, 1, 3)


@lru_cache(maxsize=8)
def _averaging(rows: int, columns: int) -> Floats:
    """Return what takes a tile's pixels to the means of its cells, float32 (pixels, cells)."""
    vertical, horizontal = (
        np.kron(np.eye(_TILE_CELLS), np.full((side, 1), 1 / side)) for side in (rows, columns)
    )
    return np.kron(vertical, horizontal).astype(np.float32)


@lru_cache(maxsize=8)
def _interpolation(rows: int, columns: int) -> Floats:
    """Return what interpolates a tile from its cells and those around, float32 (cells, pixels)."""
    along = []
    for side in (rows, columns):
        places = (np.arange(_TILE_CELLS * side) + 0.5) / side + 0.5
        cells = np.arange(_TILE_CELLS + 2)[:, None]
        along.append(np.maximum(0, 1 - np.abs(places - cells)))
    return np.kron(*along).astype(np.float32)
