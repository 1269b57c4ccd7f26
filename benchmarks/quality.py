"""How good are the mattes of the evaluation clips, in several settings? A table in Markdown.

    python benchmarks/quality.py DATA_EVAL [--clip NAME]... [--try smooth=0.5]... [-o TABLE.md]

DATA_EVAL holds video/NAME.mp4 beside video/NAME.gt.mkv (the truth, binary or alpha), some with
video/NAME.green.mp4 (the true composite over #00b140), and ecssd/images beside ecssd/masks.

The baseline is what tools do that run the network frame by frame: every frame in R'G'B' as PyAV
gives it, squeezed to 320x320 by area, no smoothing, bilinear enlargement. The others are vidbg's
own settings; --try adds one from fields of vidbg.Job. What follows the network is vidbg's
pipeline for all of them, and figures are those of `vidbg eval`. What the network says of a picture
is computed once, and kept in --cache FOLDER if one is given, so that further runs measure only what
follows the network.

"Band" is the mean absolute difference to the true composite where the true alpha is soft, in
levels of 255. "Looks" is how often the network was asked for each frame. The means are given for
the clips that settings were chosen on and for the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vidbg import colour as colours
from vidbg import pipeline
from vidbg.errors import VidbgError
from vidbg.evaluation import measure, metrics
from vidbg.evaluation.mattes import matching, open_matte, pictures_in
from vidbg.frames import FrameBatch, VideoInfo
from vidbg.job import Job, matte_job
from vidbg.matting.segmenter import NetworkSegmenter, Segmenter, load_segmenter
from vidbg.media import background, encode
from vidbg.media.decode import read_frames
from vidbg.media.probe import probe

Scores = dict[str, float]

BASELINE = "baseline"
# Fields of vidbg.Job. The baseline has mattes of its own besides.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    BASELINE: {"smooth": 0.0, "edges": "off"},
    "smooth 0, edges off": {"smooth": 0.0, "edges": "off"},
    "edges off": {"edges": "off"},
    "default": {},
    "every frame": {"every": 1},
    "edges fine": {"edges": "fine"},
    "looks 2, edges fine": {"looks": 2, "edges": "fine"},
}
BASELINE_SIDE_PX = 320
# The clips that settings are chosen on; the others are only reported on.
CHOSEN_ON = frozenset({"blackswan", "camel", "dance-twirl", "dog", "libby", "troll"})
GREEN = (0x00, 0xB1, 0x40)

COLUMNS = {
    "J": 3,
    "F": 3,
    "MAD": 1,
    "MSE": 1,
    "dtSSD": 1,
    "warp": 1,
    "Grad": 2,
    "Conn": 2,
    "band": 2,
    "looks": 2,
}
IMAGE_COLUMNS = {"J": 3, "F": 3, "MAE": 4, measure.MAX_F_BETA.name: 3, "S": 3}
# A J lower by more than this is a clip made worse.
WORSE_BY = 0.005


class Remembering:
    """A network that is asked about each picture once.

    Args:
        network: The network.
        folder: Where answers are kept between runs, or None to keep them in memory.
    """

    def __init__(self, network: NetworkSegmenter, folder: Path | None) -> None:
        self.name = network.name
        self._network = network
        self._folder = folder
        self._known: dict[str, NDArray[np.float32]] = {}
        self.asked = 0

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        """Return the (height, width) that the network wants."""
        return self._network.input_size(width, height, sar)

    @property
    def is_slow(self) -> bool:
        """Whether the network is."""
        return self._network.is_slow

    @property
    def square_size(self) -> tuple[int, int]:
        """The (height, width) that the network wants of squeezed pictures."""
        return self._network.square_size

    def prepare(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Do nothing: what was seen before needs no network."""

    def batch_size(self, height: int, width: int) -> int:
        """Return 1."""
        return 1

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return mattes as the network does."""
        self.asked += len(rgb)
        return np.stack([self._matte(picture) for picture in rgb])

    def _matte(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        said_by = f"{self.name} {self._network.precision} {picture.shape}"
        coded = said_by.encode() + picture.tobytes()
        key = hashlib.sha256(coded).hexdigest()[:32]
        if self._folder is None:
            if key not in self._known:
                self._known[key] = self._network(picture[None])[0]
            return self._known[key]
        path = self._folder / f"{key}.npy"
        if path.exists():
            kept: NDArray[np.float32] = np.load(path)
            return kept
        matte: NDArray[np.float32] = self._network(picture[None])[0]
        part = path.with_suffix(".part.npy")
        np.save(part, matte)
        os.replace(part, path)
        return matte

    def forget(self) -> None:
        """Drop what is in memory."""
        self._known.clear()


class Played:
    """A segmenter that says what it was given: mattes of frame size, one after another.

    Args:
        name: Name for reports.
        mattes: A matte for each frame, float32 (H, W), in the order of frames.
    """

    def __init__(self, name: str, mattes: Iterator[NDArray[np.float32]]) -> None:
        self.name = name
        self._mattes = mattes

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        """Return the frame's own (height, width)."""
        return height, width

    def batch_size(self, height: int, width: int) -> int:
        """Return 1."""
        return 1

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the next mattes."""
        return np.stack([next(self._mattes) for _ in rgb])


def baseline_mattes(
    pictures: Iterable[NDArray[np.uint8]], network: Segmenter
) -> Iterator[NDArray[np.float32]]:
    """Yield what the network says of pictures that are squeezed into squares."""
    for picture in pictures:
        height, width = picture.shape[:2]
        side = (BASELINE_SIDE_PX, BASELINE_SIDE_PX)
        small = np.asarray(cv2.resize(picture, side, interpolation=cv2.INTER_AREA), np.uint8)
        matte = network(small[None])[0]
        enlarged = cv2.resize(matte, (width, height), interpolation=cv2.INTER_LINEAR)
        yield np.asarray(enlarged, np.float32)


def frames_of(clip: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield a clip's frames in R'G'B' as PyAV gives them."""
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def pictures_of(folder: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield a folder's pictures in R'G'B'."""
    for path in pictures_in(folder):
        with Image.open(path) as picture:
            yield np.asarray(picture.convert("RGB"), np.uint8)


def clip_scores(clip: Path, name: str, fields: dict[str, Any], network: Remembering) -> Scores:
    """Return the figures of one clip in one configuration."""

    def segmenter() -> Segmenter:
        if name != BASELINE:
            return network
        return Played(network.name, baseline_mattes(frames_of(clip), network))

    job = matte_job(clip, **fields)
    before = network.asked
    report = measure.evaluate_clip(job, clip.with_suffix(".gt.mkv"), segmenter=segmenter())
    scores = {figure.name: mean for figure, mean in report.means.items()}
    scores["looks"] = (network.asked - before) / report.frames
    if "MAE" in scores:
        scores["MAD"] = measure.MAD.factor * scores["MAE"]
    green = clip.with_suffix(".green.mp4")
    if green.exists():
        scores["band"] = band_error(clip, green, fields, segmenter())
    return scores


def band_error(clip: Path, green: Path, fields: dict[str, Any], segmenter: Segmenter) -> float:
    """Return how far the composite over green is from the true one in the soft band."""
    info = probe(clip)
    output = encode.Output(Path(os.devnull), "composite", "ffv1")
    job = Job(clip, output, background=background.Solid(GREEN), **fields)
    colour = colours.resolve(info.colour, info.format, info.height)
    target = background.Target(
        info.width, info.height, info.sar, info.format, colour, info.frame_rate
    )
    planes = background.solid(GREEN, target)
    true_info = probe(green)
    errors = []
    mattes = pipeline.read_mattes(job, info, segmenter)
    finish = pipeline.finisher(job, info, segmenter)
    truths = open_matte(clip.with_suffix(".gt.mkv"))
    for batch, true_batch, truth in zip(mattes, read_frames(true_info), truths, strict=True):
        ((composite, _),) = finish(batch, iter([planes]))
        ours = rgb_of(dataclasses.replace(batch.frames, planes=composite), info)
        error = metrics.soft_band_error(ours, rgb_of(true_batch, true_info), truth)
        if error is not None:
            errors.append(error)
    return statistics.fmean(errors)


def rgb_of(batch: FrameBatch, info: VideoInfo) -> NDArray[np.uint8]:
    """Return the picture of a batch of one."""
    colour = colours.resolve(info.colour, batch.format, info.height)
    picture: NDArray[np.uint8] = colours.planes_to_rgb(batch.planes, batch.format, colour)[0]
    return picture


def image_scores(folder: Path, name: str, fields: dict[str, Any], network: Segmenter) -> Scores:
    """Return the figures of the salient-object pictures in one configuration."""
    images, masks = folder / "images", folder / "masks"
    segmenter = network
    if name == BASELINE:
        segmenter = Played(network.name, baseline_mattes(pictures_of(images), network))
    job = matte_job(images, **fields)
    triples = [(picture, mask, None) for picture, mask in matching(images, masks)]
    report = measure.evaluate_pictures(job, masks, triples, segmenter=segmenter)
    return {figure.name: mean for figure, mean in report.means.items()}


def mean_of(rows: Iterable[Scores], name: str) -> float | None:
    """Return the mean of a figure over the clips that have it."""
    values = [row[name] for row in rows if name in row]
    return statistics.fmean(values) if values else None


def table(columns: Mapping[str, int], rows: Mapping[str, Scores]) -> list[str]:
    """Return rows as a table in Markdown; a figure that a row lacks is a dash."""
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for label, row in rows.items():
        cells = (
            f"{row[name]:.{decimals}f}" if name in row else "-"
            for name, decimals in columns.items()
        )
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def means(rows: Sequence[Scores]) -> Scores:
    """Return the mean of each figure."""
    found = {name: mean_of(rows, name) for name in COLUMNS}
    return {name: mean for name, mean in found.items() if mean is not None}


def compared(rows: Mapping[str, Scores], base: Mapping[str, Scores]) -> str:
    """Return a table's row: a configuration against the baseline, over the same clips."""
    ours, theirs = means(list(rows.values())), means(list(base.values()))
    cells = [f"{100 * (ours[name] - theirs[name]):+.1f}" for name in ("J", "F")]
    for name in ("MAD", "MSE", "dtSSD", "warp", "Grad", "Conn", "band"):
        cells.append(f"{100 * ours[name] / theirs[name]:.0f} %" if theirs.get(name) else "-")
    better = sum(rows[clip]["J"] > base[clip]["J"] for clip in rows)
    worse = [clip for clip in rows if rows[clip]["J"] < base[clip]["J"] - WORSE_BY]
    cells += [f"{better} of {len(rows)}", ", ".join(worse) or "none"]
    return " | ".join(cells)


def comparison(found: Mapping[str, Mapping[str, Scores]]) -> list[str]:
    """Return a table of all configurations against the baseline."""
    lines = [
        "| | clips | J, points | F, points | MAD | MSE | dtSSD | warp | Grad | Conn | band "
        "| J better | J worse by over 0.5 points |",
        f"|---|{'---|' * 12}",
    ]
    for name, rows in found.items():
        if name == BASELINE:
            continue
        for label, chosen in groups(rows).items():
            base = {clip: found[BASELINE][clip] for clip in chosen}
            lines.append(f"| {name} | {label} | {compared(chosen, base)} |")
    return lines


def groups(rows: Mapping[str, Scores]) -> dict[str, dict[str, Scores]]:
    """Return all clips, those that settings are chosen on, and the others, as far as there."""
    chosen = {clip: row for clip, row in rows.items() if clip in CHOSEN_ON}
    others = {clip: row for clip, row in rows.items() if clip not in CHOSEN_ON}
    parts = {f"all {len(rows)}": dict(rows), "chosen on": chosen, "others": others}
    return {label: part for label, part in parts.items() if part}


def deviation(rows: Mapping[str, Scores], anchors: Path) -> list[str]:
    """Return by how much the baseline differs from the anchors' figures, at most."""
    known = json.loads(anchors.read_text(encoding="utf-8"))
    largest = {
        name: max(abs(rows[clip][name] - known[clip][name]) for clip in rows if clip in known)
        for name in ("J", "F", "MAD", "MSE", "dtSSD", "warp")
    }
    shown = ", ".join(f"{name} {value:.3f}" for name, value in largest.items())
    return [f"The baseline differs from {anchors.name} by at most: {shown}."]


def check_cache(folder: Path, weights: Path) -> None:
    """Exit if what is kept there was said by other weights of the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    known = folder / f"{weights.stem}.sha256"
    if known.exists() and known.read_text(encoding="ascii") != digest:
        sys.exit(f"quality: {folder} is of other weights called {weights.stem}: choose another")
    known.write_text(digest, encoding="ascii")


def commit() -> str:
    """Return the commit that is measured, marked where the working tree differs from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def value_of(text: str) -> object:
    """Return a number, a truth value, None, or the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DATA_EVAL")
    parser.add_argument(
        "--weights", type=Path, help="default: u2netp_fp16.pth in weights/ beside DATA_EVAL"
    )
    parser.add_argument("--precision", default="auto", help="as of `vidbg run`")
    parser.add_argument("--clip", action="append", default=[], help="only this one; repeatable")
    parser.add_argument(
        "--config", action="append", default=[], help="only this one beside the baseline"
    )
    parser.add_argument(
        "--try",
        dest="tried",
        action="append",
        default=[],
        metavar="FIELD=VALUE,...",
        help="one more configuration; repeatable",
    )
    parser.add_argument("--cache", type=Path, help="folder for what the network says")
    parser.add_argument("--skip-images", action="store_true", help="leave ECSSD out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures here too")
    parser.add_argument("-o", "--output", type=Path, help="write the tables here")
    options = parser.parse_args()
    if options.weights is None:
        options.weights = options.folder.parent / "weights" / "u2netp_fp16.pth"
    configurations = {
        name: fields
        for name, fields in CONFIGURATIONS.items()
        if not options.config or name in (BASELINE, *options.config)
    }
    if unknown := set(options.config) - CONFIGURATIONS.keys():
        parser.error(f"no such configuration: {', '.join(sorted(unknown))}")
    fields_known = {field.name for field in dataclasses.fields(Job)}
    for text in options.tried:
        fields = dict(part.partition("=")[::2] for part in text.split(","))
        if unknown := fields.keys() - fields_known:
            parser.error(f"no such field of a job: {', '.join(sorted(unknown))}")
        configurations[text] = {name: value_of(value) for name, value in fields.items()}
    options.configurations = configurations
    found = sorted(options.folder.glob("video/*.gt.mkv"))
    clips = {path.name.removesuffix(".gt.mkv"): path for path in found}
    if unknown := set(options.clip) - clips.keys():
        parser.error(f"no such clip with a truth: {', '.join(sorted(unknown))}")
    options.clips = [
        path.with_name(f"{name}.mp4")
        for name, path in clips.items()
        if not options.clip or name in options.clip
    ]
    if not options.clips:
        parser.error(f"no clips in {options.folder / 'video'}")
    return options


def main() -> None:
    """Measure and print the tables."""
    options = parsed()
    cv2.setNumThreads(options.threads)
    if options.cache is not None:
        check_cache(options.cache, options.weights)
    network = load_segmenter(
        weights=options.weights,
        device="cpu",
        precision=options.precision,
        threads=options.threads,
    )
    remembering = Remembering(network, options.cache)
    found: dict[str, dict[str, Scores]] = {name: {} for name in options.configurations}
    images: dict[str, Scores] = {}
    for clip in options.clips:
        for name, fields in options.configurations.items():
            print(f"{clip.stem}: {name}", file=sys.stderr)
            found[name][clip.stem] = clip_scores(clip, name, fields, remembering)
        remembering.forget()
    if not options.skip_images:
        for name, fields in options.configurations.items():
            print(f"images: {name}", file=sys.stderr)
            images[name] = image_scores(options.folder / "ecssd", name, fields, remembering)

    lines = [
        f"# Quality at {commit()}",
        "",
        f"{options.weights.name} in {network.engine} in {network.precision}, "
        f"{platform.machine()}, NumPy {np.__version__}, OpenCV {cv2.__version__}.",
    ]
    anchors = options.folder / "video" / "baseline.json"
    if anchors.exists():
        lines += ["", *deviation(found[BASELINE], anchors)]
    for name, rows in found.items():
        settings = ", ".join(f"{k} {v}" for k, v in options.configurations[name].items())
        averages = {
            f"**mean, {label}**": means(list(p.values())) for label, p in groups(rows).items()
        }
        lines += ["", f"## {name} ({settings or 'as it comes'})", ""]
        lines += table(COLUMNS, {**rows, **averages})
    if len(found) > 1:
        lines += ["", "## Against the baseline", "", *comparison(found)]
    if images:
        lines += ["", "## ECSSD", "", *table(IMAGE_COLUMNS, images)]
    text = "\n".join([*lines, ""])
    if options.json:
        told = {"commit": commit(), "clips": found, "images": images}
        options.json.write_text(json.dumps(told, indent=1), encoding="utf-8")
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    try:
        main()
    except VidbgError as error:
        sys.exit(f"quality: {error}")
