"""How large do the maps inside a network become? Measured on pictures, for running it in int8.

    python benchmarks/calibrate.py DATA_TRAIN WEIGHTS [--also-sha256 DIGEST]... -o RANGES.json

DATA_TRAIN holds NAME/images. Every so many-th picture of all of them is seen as the tool sees
clips: at its own aspect ratio, and squeezed into a square. Of each channel of each map the range is
the largest value in a picture, then the 99th percentile of that over pictures: what few pictures
reach costs all others precision. Convolutions whose output 8-bit weights would move by more than
a tenth of its range keep theirs. Measure on no clip that mattes are judged on.

The file that is written goes with WEIGHTS by its SHA-256, and with the same weights in other files
by those of --also-sha256. It belongs into weights/ as NAME.ranges.json. The same pictures and
weights give the same file on any machine, but for rounding.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vidbg.matting.architectures import load_network
from vidbg.matting.engines import peaks, rounding_errors
from vidbg.matting.segmenter import load_segmenter
from vidbg.matting.weights import Ranges

PERCENTILE = 99.0
# Channels that hardly ever say anything would otherwise get a scale of nothing.
LEAST_SHARE = 0.02
# One layer of U-2-Net-p is at 0.25, where large terms cancel; all others are below 0.04.
MOST_ROUNDING = 0.1
FIRST, EVERY = 5, 37


def pictures(folder: Path, first: int, every: int) -> Iterator[NDArray[np.uint8]]:
    """Yield pictures, R'G'B', in an order that is the same everywhere."""
    paths = [path for kind in sorted(folder.glob("*/images")) for path in sorted(kind.iterdir())]
    for path in paths[first::every]:
        with Image.open(path) as picture:
            yield np.asarray(picture.convert("RGB"), np.uint8)


def resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture at another (height, width)."""
    height, width = size
    method = cv2.INTER_AREA if height < picture.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method), np.uint8)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DATA_TRAIN")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS")
    parser.add_argument("--also-sha256", action="append", default=[], metavar="DIGEST")
    parser.add_argument("--first", type=int, default=FIRST, help="the first picture taken")
    parser.add_argument("--every", type=int, default=EVERY, help="then every so many-th")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()

    trained = load_network(options.weights)
    parameters = {name: value.numpy() for name, value in trained.network.state_dict().items()}
    architecture = trained.architecture
    seen = load_segmenter(weights=options.weights, device="cpu", precision="fp32")
    measured = peaks(architecture.name, parameters, architecture)
    found: dict[str, list[NDArray[np.float32]]] = {}
    count = 0
    for picture in pictures(options.folder, options.first, options.every):
        count += 1
        height, width = picture.shape[:2]
        for size in (seen.input_size(width, height), seen.square_size):
            for name, largest in measured(resized(picture, size)[None]).items():
                found.setdefault(name, []).append(largest)
    ranges = {}
    for name, rows in found.items():
        largest = np.percentile(rows, PERCENTILE, axis=0).astype(np.float64)
        largest = np.maximum(largest, LEAST_SHARE * max(largest.max(), 1e-3))
        ranges[name] = np.array([float(f"{value:.4g}") for value in largest])
    errors = rounding_errors(
        architecture.name, parameters, architecture, Ranges(ranges, frozenset())
    )
    # Side maps are logits, not from 0 to 1, and what a logit of 0.1 changes nobody sees.
    exact = [
        name
        for name, error in errors.items()
        if error > MOST_ROUNDING and not name.startswith("side")
    ]
    digest = hashlib.sha256(options.weights.read_bytes()).hexdigest()
    head = {
        "architecture": architecture.name,
        "weights_sha256": [digest, *options.also_sha256],
        "measured": f"{count} pictures, every {options.every}th from number {options.first}",
        "exact": exact,
    }
    lines = [f" {json.dumps(name)}: {json.dumps(values)}," for name, values in head.items()]
    maps = ",\n".join(f"  {json.dumps(n)}: {json.dumps(v.tolist())}" for n, v in ranges.items())
    text = "{\n" + "\n".join(lines) + '\n "largest": {\n' + maps + "\n }\n}\n"
    json.loads(text)
    options.output.write_text(text, encoding="utf-8")
    print(f"{options.output}: {len(ranges)} maps, {len(text)} bytes, exact: {exact or 'none'}")


if __name__ == "__main__":
    main()
