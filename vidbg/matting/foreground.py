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

from typing import TYPE_CHECKING, Any, Final, cast

import cv2
import numpy as np

from vidbg.profile import stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from vidbg.frames import Plane, PlaneFormat, Planes

    Floats = NDArray[np.float32]

# Cells of 4 pixels cost twice the time and were no better on the clips of known foreground.
LOG2_CELL_PX: Final = 3
TILE_CELLS: Final = 4
_BAND_CELLS: Final = 8
# What is worked on at once: four arrays of it in float32 stay in a core's second-level cache.
_CHUNK_SAMPLES: Final = 1 << 16
# A tile is left as it is where alpha is nowhere further than this from 0 or 1: what the old
# background adds is then below three codes of 255.
CERTAIN: Final = 0.01
# Weights are alpha to this power of two. On the clips of known foreground 16 left a tenth less
# error in luma than 8, and 8 a third less than 4. Chroma of 4:2:0 has softer alpha, and codecs
# leave less of it: higher powers only took away what there is to average.
LOG2_POWER: Final = 4
LOG2_POWER_SUBSAMPLED: Final = 3
# A quarter of a cell's area is enough to speak for it.
OWN_SHARE: Final = 4.0
# The weight of the frame's mean, which answers where a frame shows no foreground, or no background.
LEAST_WEIGHT: Final = 1e-6


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
    rows, columns = (1 << LOG2_CELL_PX >> log2 for log2 in log2_subsampling)
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
    fallback = [cv2.mean(frame)[0] for frame in frames]
    filled = _pull_push(list(np.ascontiguousarray(np.moveaxis(sums, -1, 0))), fallback)
    for channel, frame in enumerate(frames):
        colour = np.rint(filled[channel]).astype(frame.dtype)
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
    power = LOG2_POWER_SUBSAMPLED if any(log2_subsampling) else LOG2_POWER
    whole: list[Plane] = []
    for index in range(len(alpha)):
        tiles = _Tiles(alpha[index], log2_subsampling)
        if not tiles.count:
            continue
        if not whole:  # in whole tiles, of which the frames' part is given back
            whole = [
                cast("Plane", np.stack([tiles.padded(frame) for frame in plane]))
                for plane in planes
            ]
        frames = [plane[index] for plane in whole]
        _write_foreground(frames, tiles, power, highest)
    height, width = alpha.shape[1:]
    return [plane[:, :height, :width] for plane in whole] if whole else planes


def _write_foreground(
    frames: Sequence[Plane], tiles: _Tiles, log2_power: int, highest: int
) -> None:
    """Write the foreground's samples to the soft tiles of a frame.

    Args:
        frames: Planes of one frame, in whole tiles, ``(H, W)``.
        tiles: The soft ones of them.
        log2_power: The power of two that alpha is raised to for its weight.
        highest: The largest sample.
    """
    alpha = tiles.alpha
    top = np.iinfo(alpha.dtype).max
    codes = tiles.take(alpha)
    samples = [tiles.take(frame) for frame in frames]
    means = [tiles.cells(frame) for frame in frames]
    is_foreground = tiles.cells_of_corner(alpha) > top / 2

    # What settled tiles say of their whole area; soft ones of each pixel, below.
    weights = [certain.astype(np.float32) for certain in (is_foreground, ~is_foreground)]
    sums = [[*(mean * weight for mean in means), weight] for weight in weights]
    scratch = np.empty((4, tiles.chunk_samples), np.float32)
    for part in tiles.chunks():
        shape = codes[:, part].shape
        opacity, share, weight, product = (
            buffer[: shape[0] * shape[1]].reshape(shape) for buffer in scratch
        )
        np.multiply(codes[:, part], np.float32(1 / top), out=opacity)
        np.subtract(np.float32(1), opacity, out=share)
        for side, grids in zip((opacity, share), sums, strict=True):
            np.square(side, out=weight)
            for _ in range(log2_power - 1):
                np.square(weight, out=weight)
            tiles.put_cells(tiles.cell_means(weight), grids[-1], part)
            for plane, grid in zip(samples, grids, strict=False):
                np.multiply(weight, plane[:, part], out=product)
                tiles.put_cells(tiles.cell_means(product), grid, part)

    fallbacks = [float(mean.mean()) for mean in means]
    foregrounds, backgrounds = (_pull_push(grids, fallbacks) for grids in sums)
    for plane, frame, foreground, background in zip(
        samples, frames, foregrounds, backgrounds, strict=True
    ):
        near, apart = tiles.windows(foreground), tiles.windows(foreground - background)
        for part in tiles.chunks():
            shape = codes[:, part].shape
            opacity, rest, colour, difference = (
                buffer[: shape[0] * shape[1]].reshape(shape) for buffer in scratch
            )
            np.multiply(codes[:, part], np.float32(1 / top), out=opacity)
            tiles.enlarge(near, part, colour)
            tiles.enlarge(apart, part, difference)
            # F + a·(I - B - a·(F - B)), which is F + a·(I - F + (1 - a)·(F - B)).
            np.subtract(np.float32(1), opacity, out=rest)
            rest *= difference
            rest += plane[:, part]
            rest -= colour
            rest *= opacity
            rest += colour
            np.rint(rest, out=rest)
            np.clip(rest, 0, highest, out=rest)
            np.copyto(plane[:, part], rest, casting="unsafe")
        tiles.put(plane, frame)


def _pull_push(sums: Sequence[Floats], fallbacks: Sequence[float]) -> list[Floats]:
    """Return means where there is weight, and what is around them elsewhere.

    Args:
        sums: float32 ``(h, w)``: values times weights, one for each channel, and last the
            weights in 0..1.
        fallbacks: What answers for each channel where there is no weight at all.

    Returns:
        float32 ``(h, w)``, one for each channel.
    """
    levels = [list(sums)]
    while max(levels[-1][0].shape) > 1:
        height, width = levels[-1][0].shape
        smaller = (-(-height // 2), -(-width // 2))
        levels.append([_resized(grid, smaller, cv2.INTER_AREA) for grid in levels[-1]])
    *values, weight = levels.pop()
    least = np.float32(LEAST_WEIGHT)
    filled = [
        (value + np.float32(fallback) * least) / (weight + least)
        for value, fallback in zip(values, fallbacks, strict=True)
    ]
    for *values, weight in reversed(levels):
        # own·(mean - filled), where own / weight has no division by zero in it.
        gain = np.minimum(np.float32(OWN_SHARE), 1 / np.maximum(weight, np.float32(1e-12)))
        kept = 1 - weight * gain
        for channel, value in enumerate(values):
            coarse = _resized(filled[channel], weight.shape, cv2.INTER_LINEAR)
            coarse *= kept
            coarse += value * gain
            filled[channel] = coarse
    return filled


def _resized(values: Floats, shape: tuple[int, ...], interpolation: int) -> Floats:
    """Return float32 ``(h, w)`` at another (height, width)."""
    resized = cv2.resize(values, (shape[1], shape[0]), interpolation=interpolation)
    return np.asarray(resized, np.float32)


class _Tiles:
    """Where a plane is soft: squares on a fixed grid, and a coarse grid of cells below them.

    Soft tiles are worked on side by side, as one picture ``(rows of a tile, N · columns of a
    tile)``, a chunk of them at a time that stays in a core's cache. No product of matrices: BLAS
    would have all cores wait for each other, and other bits with another number of them.

    Attributes:
        alpha: The alpha, made whole tiles by repeating its edge.
        count: Number of soft tiles.
        chunk_samples: Most samples in a chunk.

    Args:
        alpha: uint8 or uint16 ``(H, W)``.
        log2_subsampling: Of the plane, (vertical, horizontal), as powers of two.
    """

    def __init__(self, alpha: Plane, log2_subsampling: tuple[int, int]) -> None:
        self._cell = tuple(1 << LOG2_CELL_PX >> log2 for log2 in log2_subsampling)
        self._tile = tuple(TILE_CELLS * side for side in self._cell)
        self._grid = tuple(
            -(-side // tile) for side, tile in zip(alpha.shape, self._tile, strict=True)
        )
        self.alpha = self.padded(alpha)
        top = np.iinfo(alpha.dtype).max
        margin = int(CERTAIN * top)
        # One comparison for both sides: codes below the margin wrap round to the largest.
        above = self.alpha - alpha.dtype.type(margin + 1)
        is_soft = above < alpha.dtype.type(top - 2 * margin - 1)
        # Eight pixels at once: a tile's width is a multiple of eight, and NumPy's any() is slow.
        words = is_soft.view(np.uint64)
        words = np.bitwise_or.reduce(words.reshape(self._grid[0], self._tile[0], -1), axis=1)
        words = np.bitwise_or.reduce(words.reshape(*self._grid, -1), axis=2)
        self._rows, self._columns = np.nonzero(words)
        self.count = len(self._rows)
        self._per_chunk = max(1, _CHUNK_SAMPLES // (self._tile[0] * self._tile[1]))
        self.chunk_samples = self._per_chunk * self._tile[0] * self._tile[1]

    def padded(self, plane: Plane) -> Plane:
        """Return ``(H, W)`` made whole tiles by repeating its edge."""
        rows, columns = (n * side for n, side in zip(self._grid, self._tile, strict=True))
        below, right = rows - plane.shape[0], columns - plane.shape[1]
        if not below and not right:
            return plane
        return cast("Plane", cv2.copyMakeBorder(plane, 0, below, 0, right, cv2.BORDER_REPLICATE))

    def chunks(self) -> Iterator[slice]:
        """Yield which columns of :meth:`take` are worked on at once."""
        step = self._per_chunk * self._tile[1]
        for start in range(0, self.count * self._tile[1], step):
            yield slice(start, min(start + step, self.count * self._tile[1]))

    def take(self, plane: Plane) -> Plane:
        """Return the soft tiles of a plane in whole tiles, side by side; a copy."""
        chosen = self._squares(plane)[:, self._rows, self._columns]
        return chosen.reshape(self._tile[0], -1)

    def put(self, values: Plane, plane: Plane) -> None:
        """Write tiles, as :meth:`take` returns them, to a plane in whole tiles."""
        rows, columns = self._tile
        self._squares(plane)[:, self._rows, self._columns] = values.reshape(rows, -1, columns)

    def cells(self, plane: Plane) -> Floats:
        """Return the mean of every cell of a plane in whole tiles, float32."""
        rows, columns = plane.shape
        # OpenCV takes a third of the time for the first half of it alone.
        half = cv2.resize(plane, (columns // 2, rows // 2), interpolation=cv2.INTER_AREA)
        size = (columns // self._cell[1], rows // self._cell[0])
        return np.asarray(cv2.resize(half, size, interpolation=cv2.INTER_AREA), np.float32)

    def cells_of_corner(self, plane: Plane) -> Plane:
        """Return the first sample of the tile that each cell lies in."""
        corners = plane[:: self._tile[0], :: self._tile[1]]
        return corners.repeat(TILE_CELLS, axis=0).repeat(TILE_CELLS, axis=1)

    def cell_means(self, values: Floats) -> Floats:
        """Return the mean of each cell of tiles that lie side by side."""
        size = (values.shape[1] // self._cell[1], TILE_CELLS)
        return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32)

    def put_cells(self, values: Floats, cells: Floats, part: slice) -> None:
        """Write the cells of a chunk of tiles, side by side, to the grid of cells."""
        chosen = self._chosen(part)
        squares = cells.reshape(self._grid[0], TILE_CELLS, self._grid[1], TILE_CELLS)
        squares.transpose(1, 0, 2, 3)[:, self._rows[chosen], self._columns[chosen]] = (
            values.reshape(TILE_CELLS, -1, TILE_CELLS)
        )

    def windows(self, cells: Floats) -> Floats:
        """Return the cells of each soft tile and those around them, ``(6, 6 · N)`` side by side."""
        framed = cv2.copyMakeBorder(cells, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        side = TILE_CELLS + 2
        windows = np.lib.stride_tricks.sliding_window_view(framed, (side, side))
        chosen = windows.transpose(2, 0, 1, 3)[
            :, self._rows * TILE_CELLS, self._columns * TILE_CELLS
        ]
        return np.asarray(chosen.reshape(side, -1), np.float32)

    def enlarge(self, windows: Floats, part: slice, target: Floats) -> None:
        """Write a chunk of tiles to ``target``, interpolated linearly from their windows."""
        (rows, columns), (cell_rows, cell_columns) = self._tile, self._cell
        side = len(windows)
        chosen = self._chosen(part)
        narrow = windows[:, chosen.start * side : chosen.stop * side]
        size = (narrow.shape[1], side * cell_rows)
        tall = cv2.resize(narrow, size, interpolation=cv2.INTER_LINEAR)
        # A cell around each tile was for the interpolation only.
        inner = tall[cell_rows:-cell_rows]
        size = (narrow.shape[1] * cell_columns, rows)
        wide = cv2.resize(inner, size, interpolation=cv2.INTER_LINEAR)
        wide = wide.reshape(rows, -1, side * cell_columns)
        target.reshape(rows, -1, columns)[...] = wide[:, :, cell_columns:-cell_columns]

    def _chosen(self, part: slice) -> slice:
        """Return which tiles are those of a chunk."""
        return slice(part.start // self._tile[1], part.stop // self._tile[1])

    def _squares(self, plane: Plane) -> Plane:
        """Return a plane in whole tiles as a view ``(height, rows, columns, width)``."""
        shape = (self._grid[0], self._tile[0], self._grid[1], self._tile[1])
        return cast("Plane", plane.reshape(shape).transpose(1, 0, 2, 3))
