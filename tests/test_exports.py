"""Exports, each read by another decoder than the one that wrote it, and several from one run."""

from __future__ import annotations

import errno
import http.server
import io
import itertools
import os
import shutil
import struct
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import (
    Array,
    decode_planes,
    frame_numbers,
    make_clip,
    noise_planes,
    pack_planes,
    stream_facts,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from vidbg import composite
from vidbg.errors import EncodeError, OutputError
from vidbg.job import Job, Result
from vidbg.matting.foreground import extend_foreground
from vidbg.media import background, encode, formats, pngs, timing
from vidbg.media.encode import Output
from vidbg.media.probe import probe
from vidbg.pipeline import run

SAMPLES = Path(__file__).parent.parent / "samples"
FRAMES = 8


@dataclass
class Disc:
    """A segmenter that sees a soft disc, which moves."""

    name: str = "disc"
    seen: int = 0

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        return height, width

    def batch_size(self, height: int, width: int) -> int:
        return 3

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        count, height, width, _ = rgb.shape
        y, x = np.mgrid[:height, :width]
        mattes = []
        for number in range(self.seen, self.seen + count):
            from_centre = np.hypot(x - width * (0.3 + 0.05 * number), y - height / 2)
            mattes.append(np.clip(0.5 + (height / 4 - from_centre) / 4, 0, 1))
        self.seen += count
        return np.stack(mattes).astype(np.float32)


def output(path: Path, kind: str, codec: str | None = None, **options: object) -> Output:
    chosen = encode.choose_codec(path, kind, codec, options.get("container"))  # type: ignore[arg-type]
    return Output(path, kind, chosen, **options)  # type: ignore[arg-type]


def make(source: Path, first: Output, *also: Output, **options: object) -> Result:
    options = {"smooth": 0.0, "edges": "off", **options}
    if any(one.kind == "composite" for one in (first, *also)):
        options["background"] = background.parse("#204060")
    return run(Job(source, first, also, **options), segmenter=Disc())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160x96, a lively picture of 8 frames at 25 fps in 4:2:0, lossless, with sound."""
    width, height = 160, 96
    y, x = np.mgrid[:height, :width]
    frames = []
    for number in range(FRAMES):
        luma = 126 + 60 * np.sin((x + 3 * number) / 9) + 30 * np.cos(y / 7)
        cb = 128 + 40 * np.sin(x[::2, ::2] / 23 + number)
        cr = 128 + 40 * np.cos(y[::2, ::2] / 17)
        frames += [np.rint(plane).astype(np.uint8).tobytes() for plane in (luma, cb, cr)]
    return make_clip(
        tmp_path_factory.mktemp("exports") / "clip.mkv",
        size=(width, height),
        raw=b"".join(frames),
        colour_range="tv",
        matrix="bt709",
        primaries="bt709",
        transfer="bt709",
        audio="flac",
    )


# ---- Several outputs -----------------------------------------------------------------------------


def test_one_run_decodes_and_infers_once(clip: Path, tmp_path: Path) -> None:
    network = Disc()
    outputs = (
        output(tmp_path / "a.mkv", "composite", "ffv1"),
        output(tmp_path / "b.mkv", "alpha"),
        output(tmp_path / "c.mkv", "matte"),
        output(tmp_path / "d.mov", "alpha"),
    )
    job = Job(
        clip, outputs[0], outputs[1:], background=background.parse("red"), smooth=0.0, edges="off"
    )
    result = run(job, segmenter=network)
    assert network.seen == FRAMES
    assert (result.output, *result.also) == tuple(one.path for one in outputs)
    assert [stream_facts(one.path).frames for one in outputs] == [FRAMES] * 4


@pytest.mark.parametrize("order", list(itertools.permutations(["composite", "alpha", "matte"])))
def test_an_output_is_the_same_whatever_else_is_written(
    clip: Path, tmp_path: Path, order: tuple[str, ...]
) -> None:
    together = {kind: output(tmp_path / f"{kind}.mkv", kind, "ffv1") for kind in order}
    make(clip, *(together[kind] for kind in order))
    for kind in order:
        alone = output(tmp_path / f"{kind}-alone.mkv", kind, "ffv1")
        make(clip, alone)
        for one, other in zip(
            decode_planes(together[kind].path), decode_planes(alone.path), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_two_outputs_of_one_kind(clip: Path, tmp_path: Path) -> None:
    make(clip, output(tmp_path / "a.mkv", "matte"), output(tmp_path / "b.mkv", "matte"))
    assert (tmp_path / "a.mkv").read_bytes()[-5000:] == (tmp_path / "b.mkv").read_bytes()[-5000:]


@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_fails_takes_all_with_it(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    broken = replace(formats.CODECS["ffv1"], encoder="libnothing")
    monkeypatch.setitem(formats.CODECS, "ffv1", broken)
    pair = [output(tmp_path / "good.mov", "alpha"), output(tmp_path / "bad.mkv", "matte", "ffv1")]
    with pytest.raises(EncodeError, match="libnothing"):
        make(clip, *(pair if failing else reversed(pair)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taken", ["a.mkv", "b.mkv", "frames"])
def test_a_name_that_is_taken_meanwhile_leaves_none_of_them(
    clip: Path, tmp_path: Path, taken: str
) -> None:
    (tmp_path / "frames").mkdir()
    outputs = [
        output(tmp_path / "a.mkv", "composite", "ffv1"),
        output(tmp_path / "frames" / "f_%02d.png", "alpha"),
        output(tmp_path / "b.mkv", "matte"),
    ]
    late = tmp_path / taken / "f_03.png" if taken == "frames" else tmp_path / taken

    def take(_: object) -> None:
        late.write_text("mine")

    job = Job(clip, outputs[0], tuple(outputs[1:]), background=background.parse("red"), smooth=0.0)
    with pytest.raises(OutputError, match="appeared while the job ran"):
        run(job, segmenter=Disc(), on_progress=take)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [late]
    assert late.read_text() == "mine"


def test_names_that_collide_are_refused(clip: Path, tmp_path: Path) -> None:
    twice = output(tmp_path / "a.mkv", "alpha"), output(tmp_path / "a.mkv", "matte")
    with pytest.raises(OutputError, match="written twice"):
        make(clip, *twice)
    mine = tmp_path / "in.mkv"
    shutil.copy(clip, mine)
    with pytest.raises(OutputError, match="is the input itself"):
        make(mine, output(tmp_path / "a.mkv", "alpha"), output(mine, "matte", overwrite=True))
    (tmp_path / "old.mkv").write_text("old")
    with pytest.raises(OutputError, match="exists already"):
        make(clip, output(tmp_path / "a.mkv", "alpha"), output(tmp_path / "old.mkv", "matte"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv", "old.mkv"]


# ---- Alpha, format by format ---------------------------------------------------------------------


@dataclass(frozen=True)
class Exported:
    folder: Path
    matte: Array


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Exported:
    """The same foreground in every format, and the matte that went in."""
    folder = tmp_path_factory.mktemp("exported")
    names = ["a.mkv", "a.mov", "a.webm", "a.webp", "a.apng", "a.gif", "a.zip", "a/a_%06d.png"]
    outputs = [output(folder / name, "alpha") for name in names]
    outputs.append(output(folder / "q.mov", "alpha", "qtrle"))
    make(clip, output(folder / "matte.mkv", "matte", "ffv1"), *outputs)
    (matte,) = decode_planes(folder / "matte.mkv")
    return Exported(folder, matte)


def animation(path: Path) -> Array:
    """Return all frames of a picture file through Pillow, RGBA."""
    with Image.open(path) as opened:
        frames = []
        for number in range(getattr(opened, "n_frames", 1)):
            opened.seek(number)
            frames.append(np.asarray(opened.convert("RGBA")))
    return np.stack(frames)


def archived(path: Path) -> Array:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == [f"a_{number:06}.png" for number in range(1, len(names) + 1)]
        return np.concatenate([animation(io.BytesIO(archive.read(name))) for name in names])  # type: ignore[arg-type]


def numbered(folder: Path) -> Array:
    return np.concatenate([animation(path) for path in sorted(folder.iterdir())])


def packed(path: Path, decoder: str | None = None) -> Array:
    """Return all frames of a video through PyAV, RGBA of 8 bits."""
    rgba = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = container.decode(stream)
        if decoder is not None:
            context = av.CodecContext.create(decoder, "r")
            frames = (f for packet in container.demux(stream) for f in context.decode(packet))
        for frame in frames:
            assert any(part.is_alpha for part in frame.format.components)
            rgba.append(frame.to_ndarray(format="rgba"))
    return np.stack(rgba)


READERS: dict[str, Callable[[Path], Array]] = {
    "a.mkv": packed,
    "a.mov": packed,
    "q.mov": packed,
    "a.webm": lambda path: packed(path, "libvpx-vp9"),
    "a.webp": animation,
    "a.apng": animation,
    "a.gif": animation,
    "a.zip": archived,
    "a": numbered,
}


@pytest.mark.parametrize(
    ("name", "worst", "mean"),
    [
        ("a.mkv", 0, 0),
        ("q.mov", 0, 0),
        ("a.webp", 0, 0),
        ("a.apng", 0, 0),
        ("a.zip", 0, 0),
        ("a", 0, 0),
        ("a.mov", 1, 0.02),  # 16 bits in the file, of which PyAV's decoder gives 12
        ("a.webm", 24, 0.6),
    ],
)
def test_alpha_is_the_matte_that_went_in(
    exported: Exported, name: str, worst: float, mean: float
) -> None:
    alpha = READERS[name](exported.folder / name)[..., 3]
    errors = np.abs(alpha.astype(float) - exported.matte)
    assert errors.max() <= worst
    assert errors.mean() <= mean


def test_a_gif_is_clear_where_alpha_is_below_a_half(exported: Exported) -> None:
    alpha = animation(exported.folder / "a.gif")[..., 3]
    np.testing.assert_array_equal(alpha, np.where(exported.matte >= 128, 255, 0))


@pytest.mark.parametrize(
    ("name", "mean", "worst"),
    [
        ("a.mov", 1.0, 12),
        ("q.mov", 0.6, 5),
        ("a.webm", 2.5, 40),
        ("a.webp", 4.0, 60),
        ("a.apng", 0.6, 5),
        ("a.gif", 8.0, 80),
        ("a.zip", 0.6, 5),
        ("a", 0.6, 5),
    ],
)
def test_opaque_colours_are_the_clips(
    exported: Exported, clip: Path, name: str, mean: float, worst: float
) -> None:
    truth = full_rgb(clip)
    rgb = READERS[name](exported.folder / name)[..., :3]
    if name in ("a.mov", "a.webm"):  # PyAV's default matrix is BT.601
        rgb = by_tags(exported.folder / name)
    opaque = exported.matte == 255
    errors = np.abs(rgb.astype(float) - truth)[opaque]
    assert errors.mean() <= mean
    assert errors.max() <= worst


def full_rgb(clip: Path) -> NDArray[np.float64]:
    """Return the clip's R'G'B' by the equations of ITU-R BT.709, chroma interpolated linearly.

    A sample of chroma lies on a luma sample horizontally and between two vertically.
    """
    luma, *chroma = (plane.astype(float) for plane in decode_planes(clip))
    _, height, width = luma.shape
    across = np.clip(np.arange(width) / 2, 0, width / 2 - 1)
    down = np.clip(np.arange(height) / 2 - 0.25, 0, height / 2 - 1)
    at = np.meshgrid(across.astype(np.float32), down.astype(np.float32))
    cb, cr = (
        np.stack([cv2.remap(frame.astype(np.float32), *at, cv2.INTER_LINEAR) for frame in plane])
        for plane in chroma
    )
    luma, cb, cr = (luma - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    red, blue = luma + 1.5748 * cr, luma + 1.8556 * cb
    green = (luma - 0.2126 * red - 0.0722 * blue) / 0.7152
    return np.clip(np.stack([red, green, blue], axis=-1), 0, 1) * 255


def by_tags(path: Path) -> Array:
    with av.open(str(path)) as container:
        return np.stack(
            [
                frame.reformat(
                    format="rgb24", src_colorspace="ITU709", dst_colorspace="ITU709"
                ).to_ndarray()
                for frame in container.decode(video=0)
            ]
        )


@pytest.mark.parametrize("name", ["a.webp", "a.apng", "a.gif", "q.mov"])
def test_opaque_animations_and_mattes(clip: Path, tmp_path: Path, name: str) -> None:
    codec = "qtrle" if name == "q.mov" else None
    outputs = [output(tmp_path / f"{kind}-{name}", kind, codec) for kind in ("composite", "matte")]
    make(clip, output(tmp_path / "m.mkv", "matte"), *outputs)
    (matte,) = decode_planes(tmp_path / "m.mkv")
    pictures = []
    for one in outputs:
        if name == "q.mov":
            with av.open(str(one.path)) as container:
                frames = [frame.to_ndarray(format="rgba") for frame in container.decode(video=0)]
            pictures.append(np.stack(frames))
        else:
            pictures.append(animation(one.path))
    over, grey = pictures
    assert (over[..., 3] == 255).all()
    assert (grey[..., 3] == 255).all()
    # The colour behind is #204060; lossy WebP and the palette come near.
    tolerance = {"a.webp": 6, "a.gif": 8}.get(name, 2)
    behind = cv2.erode((matte[0] == 0).astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
    assert np.abs(over[0][behind][:, :3] - np.array((0x20, 0x40, 0x60))).max() <= tolerance
    errors = np.abs(grey[..., :3].astype(int) - matte[..., None])
    assert errors.mean() <= (1.5 if name == "a.webp" else 0)


def test_animations_last_as_long_as_the_clip(exported: Exported) -> None:
    for name in ("a.webp", "a.apng", "a.gif"):
        with Image.open(exported.folder / name) as opened:
            assert opened.n_frames == FRAMES  # type: ignore[attr-defined]
            assert opened.info["loop"] == 0
            total_ms = 0.0
            for number in range(FRAMES):
                opened.seek(number)
                opened.load()
                total_ms += opened.info["duration"]
        assert total_ms == pytest.approx(FRAMES * 40, abs=1)


def test_nothing_of_the_old_background_is_left_under_alpha_0(
    exported: Exported, clip: Path
) -> None:
    """The clip's picture waves everywhere; where nothing of it shows it is smooth."""
    luma, _, _, alpha = decode_planes(exported.folder / "a.mkv")
    (source,) = decode_planes(clip)[:1]
    away = np.stack([cv2.distanceTransform((a == 0).astype(np.uint8), 2, 5) > 24 for a in alpha])
    for picture, steps_expected in ((luma, range(3)), (source, range(5, 255))):
        steps = np.abs(np.diff(picture.astype(int), axis=2))[away[..., 1:]]
        assert steps.max() in steps_expected


def test_prores_says_what_editors_look_for(exported: Exported) -> None:
    content = (exported.folder / "a.mov").read_bytes()
    assert b"ap4h" in content  # ProRes 4444 in the sample description
    header = content[content.index(b"icpf") + 4 :]
    # SMPTE RDD 36, 5.1: header size, version, creator, width, height, then flags and colours.
    _, _, creator, width, height = struct.unpack_from(">HH4sHH", header)
    chroma, _, primaries, transfer, matrix, alpha = struct.unpack_from(">6B", header, 12)
    assert (creator, width, height) == (b"apl0", 160, 96)
    assert chroma >> 6 == 3  # 4:4:4
    assert (primaries, transfer, matrix) == (1, 1, 1)
    assert alpha & 15 == 2  # 16 bits
    facts = stream_facts(exported.folder / "a.mov")
    assert (facts.codec, facts.matrix, facts.primaries, facts.transfer) == ("prores", 1, 1, 1)


@pytest.mark.parametrize("name", ["a.mov", "q.mov"])
def test_sound_for_editors_is_pcm(exported: Exported, name: str) -> None:
    (track,) = stream_facts(exported.folder / name).audio
    assert track.codec == "pcm_s24le"


def test_sound_that_mov_carries_is_copied(talking_clip: Path, tmp_path: Path) -> None:
    make(talking_clip, output(tmp_path / "a.mov", "alpha"))
    assert stream_facts(tmp_path / "a.mov").audio[0].codec == "aac"


def test_a_webm_tells_of_its_alpha_and_has_opus(exported: Exported) -> None:
    with av.open(str(exported.folder / "a.webm")) as container:
        tags = {name.lower(): value for name, value in container.streams.video[0].metadata.items()}
    assert tags["alpha_mode"] == "1"
    assert [track.codec for track in stream_facts(exported.folder / "a.webm").audio] == ["opus"]


def test_premultiplied_colours_are_those_over_black(clip: Path, tmp_path: Path) -> None:
    straight = output(tmp_path / "s.mkv", "alpha", "ffv1")
    times_alpha = output(tmp_path / "p.mkv", "alpha", "ffv1", premultiplied=True)
    make(clip, straight, times_alpha)
    *planes, alpha = decode_planes(straight.path)
    *dark, same_alpha = decode_planes(times_alpha.path)
    np.testing.assert_array_equal(alpha, same_alpha)
    plane_format, _ = formats.working_format("yuv420p")
    alphas = composite.alpha_planes(alpha, plane_format)
    for plane, found, share, black in zip(planes, dark, alphas, (16, 128, 128), strict=True):
        expected = black + (plane.astype(float) - black) * share / 255
        assert np.abs(found - expected).max() <= 0.501


@pytest.mark.parametrize(
    ("kind", "codec", "field"),
    [
        ("alpha", "vp9", "premultiplied"),
        ("alpha", "png", "premultiplied"),
        ("alpha", "gif", "premultiplied"),
        ("alpha", "webp", "premultiplied"),
        ("matte", "ffv1", "premultiplied"),
        ("composite", "prores", "premultiplied"),
        ("alpha", "prores", None),
        ("alpha", "qtrle", None),
        ("alpha", "ffv1", None),
    ],
)
def test_what_can_be_premultiplied(kind: str, codec: str, field: str | None) -> None:
    found = encode.problem(Output(Path("x"), kind, codec, premultiplied=True))
    assert (found and found[0]) == field


@pytest.mark.parametrize(("pix_fmt", "depth"), [("yuv420p", 8), ("yuv420p10le", 16)])
def test_pngs_are_as_deep_as_the_clip(tmp_path: Path, pix_fmt: str, depth: int) -> None:
    source = make_clip(tmp_path / "in.mkv", frames=2, pix_fmt=pix_fmt, codec="ffv1")
    make(
        source,
        output(tmp_path / "a" / "%d.png", "alpha"),
        output(tmp_path / "m" / "%d.png", "matte"),
        output(tmp_path / "m8" / "%d.png", "matte", pix_fmt="gray"),
        output(tmp_path / "a16" / "%d.png", "alpha", pix_fmt="rgba64be"),
        output(tmp_path / "m.mkv", "matte", "ffv1", pix_fmt="gray12le"),
    )
    named = {"a": ("rgba", "rgba64be"), "m": ("gray", "gray16be")}
    for folder, by_depth in named.items():
        assert stream_facts(tmp_path / folder / "1.png").pix_fmt == by_depth[depth > 8]
    assert stream_facts(tmp_path / "m8" / "2.png").pix_fmt == "gray"
    assert stream_facts(tmp_path / "a16" / "2.png").pix_fmt == "rgba64be"
    assert stream_facts(tmp_path / "m.mkv").pix_fmt == "gray12le"
    (deep,) = decode_planes(tmp_path / "m.mkv")
    (eight,) = decode_planes(tmp_path / "m8" / "1.png")
    assert np.abs(deep[0] / 4095 - eight[0] / 255).max() <= 0.51 / 255
    assert {0, 4095} <= set(np.unique(deep))


# ---- What lies under alpha 0 ---------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["yuv420p", "yuv422p10le", "yuv411p", "gbrp", "yuv444p16le"]),
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(0, 2**32 - 1),
)
def test_what_is_seen_stays_bit_for_bit(pix_fmt: str, width: int, height: int, seed: int) -> None:
    plane_format, _ = formats.working_format(pix_fmt)
    generator = np.random.default_rng(seed)
    dtype = np.uint8 if plane_format.depth == 8 else np.uint16
    planes = tuple(
        generator.integers(0, 1 << plane_format.depth, (2, *size)).astype(dtype)
        for size in plane_format.plane_sizes(width, height)
    )
    top = np.iinfo(dtype).max
    alpha = np.clip(generator.normal(0.2, 0.5, (2, height, width)), 0, 1) * top
    alphas = composite.alpha_planes(np.rint(alpha).astype(dtype), plane_format)
    before = [plane.copy() for plane in planes]
    extended = extend_foreground(planes, alphas, plane_format)  # type: ignore[arg-type]
    for given_plane, kept, found, share in zip(planes, before, extended, alphas, strict=True):
        np.testing.assert_array_equal(given_plane, kept)
        np.testing.assert_array_equal(found[share > 0], kept[share > 0])
        assert found.max() < 1 << plane_format.depth


def test_the_subjects_colour_goes_on_where_it_is_not() -> None:
    plane_format, _ = formats.working_format("yuv420p")
    alpha = np.zeros((1, 128, 192), np.uint8)
    alpha[:, 40:90, 60:120] = 255
    alphas = composite.alpha_planes(alpha, plane_format)
    subject, old = (90, 100, 180), (200, 30, 60)
    planes = tuple(
        np.where(share > 0, np.uint8(code), np.uint8(other))
        for share, code, other in zip(alphas, subject, old, strict=True)
    )
    for plane, code in zip(
        extend_foreground(planes, alphas, plane_format),  # type: ignore[arg-type]
        subject,
        strict=True,
    ):
        assert np.abs(plane.astype(int) - code).max() <= 1


def test_scalers_that_know_nothing_of_alpha_do_not_bleed() -> None:
    """A bright subject on black, halved with straight colours, over its own brightness."""
    plane_format, _ = formats.working_format("gbrp")
    y, x = np.mgrid[:96, :96]
    soft = np.clip((30.3 - np.hypot(x - 47.3, y - 48.1)) / 1.5 + 0.5, 0, 1)
    alpha = np.rint(255 * soft).astype(np.uint8)[None]
    plane = np.where(alpha > 0, np.uint8(220), np.uint8(0))
    planes = plane, plane, plane
    alphas = composite.alpha_planes(alpha, plane_format)

    def bled(kept: tuple[Array, ...]) -> float:
        colour, share = (
            cv2.resize(part[0].astype(np.float32), (48, 48), interpolation=cv2.INTER_AREA)
            for part in (kept[0], alpha)
        )
        return float((np.abs(colour - 220) * share / 255).max())

    assert bled(planes) > 20
    assert bled(extend_foreground(planes, alphas, plane_format)) <= 1


def test_a_frame_without_a_subject_is_flat() -> None:
    plane_format, _ = formats.working_format("yuv420p")
    planes = tuple(
        np.random.default_rng(1).integers(0, 256, (1, *size)).astype(np.uint8)
        for size in plane_format.plane_sizes(50, 30)
    )
    alphas = composite.alpha_planes(np.zeros((1, 30, 50), np.uint8), plane_format)
    for plane in extend_foreground(planes, alphas, plane_format):  # type: ignore[arg-type]
        assert len(np.unique(plane)) == 1


# ---- Sequences and archives ----------------------------------------------------------------------


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_sequence_that_fails_leaves_nothing(clip: Path, tmp_path: Path) -> None:
    def fail(_: object) -> None:
        assert len(list(tmp_path.rglob("*.part.frames"))) == 1
        assert not (tmp_path / "frames").exists()
        raise RuntimeError("elsewhere")

    for name in ("frames/f_%03d.png", "f_%03d.png"):
        job = Job(clip, output(tmp_path / name, "alpha"), smooth=0.0)
        with pytest.raises(RuntimeError, match="elsewhere"):
            run(job, segmenter=Disc(), on_progress=fail)
        assert names_in(tmp_path) == []


def test_only_files_of_the_sequence_are_replaced(clip: Path, tmp_path: Path) -> None:
    pattern = tmp_path / "f_%03d.png"
    mine = ["f_1.png", "f_0001.jpg", "g_001.png", "f_abc.png", "notes.txt"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    make(clip, output(pattern, "alpha"))  # others' files are no reason to refuse
    frames = [f"f_{number:03}.png" for number in range(1, FRAMES + 1)]
    assert names_in(tmp_path) == sorted(mine + frames)
    with pytest.raises(OutputError, match=r"exists already \(f_001.png\).*-y"):
        make(clip, output(pattern, "alpha"))
    (tmp_path / "f_099.png").write_text("of an older, longer one")
    make(clip, output(pattern, "alpha", overwrite=True))
    assert names_in(tmp_path) == sorted(mine + frames)
    assert all((tmp_path / name).read_text() == "mine" for name in mine)
    assert stream_facts(tmp_path / "f_001.png").pix_fmt == "rgba"


def test_the_input_is_not_overwritten_by_its_own_frames(clip: Path, tmp_path: Path) -> None:
    shutil.copy(clip, tmp_path / "in.mkv")
    with pytest.raises(OutputError, match="need a folder"):
        make(tmp_path / "in.mkv", output(tmp_path / "in.mkv" / "%d.png", "alpha"))
    with pytest.raises(OutputError, match="is the input itself"):
        pngs.check_writable(tmp_path / "f%d.png", tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="folder does not exist"):
        pngs.check_writable(tmp_path / "no" / "no" / "f%d.png", clip, overwrite=True)


def test_pictures_that_go_in_are_not_overwritten(clip: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    make(clip, output(pngs.pattern_in(ready, "clip"), "matte"))
    before = {path.name: path.read_bytes() for path in ready.iterdir()}
    again = output(pngs.pattern_in(ready, "clip"), "composite", overwrite=True)
    keyed = Job(clip, again, background=background.parse("red"))
    for job in (replace(keyed, matte_in=ready), replace(keyed, background=ready)):
        with pytest.raises(OutputError, match="is the input itself"):
            run(job, segmenter=Disc())
    assert {path.name: path.read_bytes() for path in ready.iterdir()} == before


def test_a_percent_sign_in_a_folder_is_one(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "100% %05d"
    make(clip, output(folder / "a%%b_%02d.png", "matte"))
    assert names_in(folder) == [f"a%b_{number:02}.png" for number in range(1, FRAMES + 1)]


@given(st.text(st.sampled_from("ab%._"), max_size=6), st.integers(1, 10_000_000))
def test_a_frame_is_found_under_its_name(stem: str, number: int) -> None:
    pattern = pngs.pattern_in(Path("x"), stem)
    assert pngs.is_pattern(pattern)
    assert pngs.frame_name(pattern.name, number) == f"{stem}_{number:06}.png"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("a_%06d.png", True),
        ("%d.PNG", True),
        ("100%%_%03d.png", True),
        ("a.png", False),
        ("100%.png", False),
        ("%%d.png", False),
        ("%d_%d.png", False),
        ("%6d.png", False),
        ("%s.png", False),
        ("a_%06d.jpg", False),
    ],
)
def test_which_names_stand_for_many(name: str, is_one: bool) -> None:
    assert pngs.is_pattern(Path(name)) is is_one


def small_pngs() -> list[bytes]:
    contents = []
    for number in range(5):
        stream = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (5 + number, 9, 4), np.uint8)
        Image.fromarray(pixels).save(stream, "PNG")
        contents.append(stream.getvalue())
    return contents


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.integers(0, 60))
def test_a_stream_of_pngs_is_taken_apart(sizes: list[int], missing: int) -> None:
    contents = small_pngs()
    whole = b"".join(contents)
    stream = io.BytesIO(whole[: len(whole) - missing])
    step = itertools.cycle(sizes)
    found = list(pngs.split_pngs(lambda: stream.read(next(step))))
    assert found == (contents if missing == 0 else contents[:-1])


def test_what_is_no_png_is_not_archived() -> None:
    with pytest.raises(OSError, match="no PNG"):
        list(pngs.split_pngs(io.BytesIO(b"GIF89a, or something else").read))


def test_an_archive_is_stored_and_no_larger_than_its_frames(exported: Exported) -> None:
    with zipfile.ZipFile(exported.folder / "a.zip") as archive:
        entries = archive.infolist()
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    frames = sum(path.stat().st_size for path in (exported.folder / "a").iterdir())
    size = (exported.folder / "a.zip").stat().st_size
    assert frames < size < frames + 200 * len(entries) + 100


def test_a_full_disk_ends_an_archive_at_once(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zipfile.ZipFile, "writestr", refuse)
    with pytest.raises(EncodeError, match=r"a\.zip: cannot be written \(No space left.*Free some"):
        make(clip, output(tmp_path / "a.zip", "alpha"))
    assert names_in(tmp_path) == []


# ---- Time codes ----------------------------------------------------------------------------------

NTSC = Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("timecode", "frames", "rate", "wanted"),
    [
        ("01:00:00:00", 10, Fraction(25), "01:00:00:10"),
        ("00:00:59:24", 1, Fraction(25), "00:01:00:00"),
        ("23:59:59:24", 1, Fraction(25), "00:00:00:00"),
        ("00:00:59;29", 1, NTSC, "00:01:00;02"),
        ("00:09:59;29", 1, NTSC, "00:10:00;00"),
        ("00:01:00;02", 0, NTSC, "00:01:00;02"),
        # An hour of television is 107892 frames: the reason for drop frame.
        ("00:00:00;00", 107_892, NTSC, "01:00:00;00"),
        ("00:00:00:00", 107_892, NTSC, "00:59:56:12"),
        ("00:00:59;59", 1, 2 * NTSC, "00:01:00;04"),
        ("00:00:00:30", 0, Fraction(25), None),
    ],
)
def test_time_codes(timecode: str, frames: int, rate: Fraction, wanted: str | None) -> None:
    assert timing.later_timecode(timecode, frames, rate) == wanted


@given(
    st.integers(0, 3_000_000),
    st.integers(0, 200_000),
    st.sampled_from([(NTSC, ";"), (2 * NTSC, ";"), (Fraction(24), ":"), (NTSC, ":")]),
)
def test_later_and_later_is_later_still(one: int, other: int, kind: tuple[Fraction, str]) -> None:
    rate, mark = kind
    start = f"00:00:00{mark}00"
    halfway = timing.later_timecode(start, one, rate)
    assert halfway is not None
    assert timing.later_timecode(halfway, other, rate) == timing.later_timecode(
        start, one + other, rate
    )


def test_another_rate_counts_the_same_moment() -> None:
    later = timing.later_timecode("01:00:00:12", 0, Fraction(24), Fraction(48))
    assert later == "01:00:00:24"
    # 107892 frames of 1001/30000 s are 3599.9964 s: 89999.91 frames of 1/25 s.
    assert timing.later_timecode("01:00:00;00", 0, NTSC, Fraction(25)) == "01:00:00:00"


@pytest.mark.parametrize(("start", "wanted"), [(None, "10:20:30:05"), ("0.2", "10:20:30:10")])
def test_the_time_code_track_is_kept(tmp_path: Path, start: str | None, wanted: str) -> None:
    source = make_clip(tmp_path / "in.mov", frames=20, options=("-timecode", "10:20:30:05"))
    assert probe(source).timecode == "10:20:30:05"
    times = {} if start is None else {"start_s": Fraction(start)}
    make(source, output(tmp_path / "out.mov", "alpha"), **times)
    with av.open(str(tmp_path / "out.mov")) as container:
        tracks = [stream for stream in container.streams if stream.type == "data"]
        assert [stream.metadata["timecode"] for stream in tracks] == [wanted]
    # Four characters that name the track's kind, whatever reads it.
    assert b"tmcd" in (tmp_path / "out.mov").read_bytes()


# ---- Bit rate, pixel format, size, rate ----------------------------------------------------------


def test_a_bit_rate_instead_of_a_quality(clip: Path, tmp_path: Path) -> None:
    make(clip, output(tmp_path / "a.mp4", "composite", bitrate=300_000))
    settings_told = (tmp_path / "a.mp4").read_bytes()
    assert b"rc=abr" in settings_told
    assert b"bitrate=300" in settings_told
    noise = pack_planes(noise_planes("yuv420p", (160, 96), 25))
    source = make_clip(tmp_path / "noise.mkv", size=(160, 96), raw=noise)
    for name, codec in (("a.webm", "vp9"), ("b.mp4", "hevc"), ("c.mkv", "av1")):
        sizes = []
        for rate in (100_000, 2_000_000):
            path = tmp_path / f"{rate}-{name}"
            chosen = output(path, "composite", codec, bitrate=rate)
            job = Job(source, chosen, background=background.parse("red"), smooth=0.0)
            run(job, segmenter=Everything())
            sizes.append(path.stat().st_size)
        assert sizes[0] * 2 < sizes[1]
        assert sizes[1] * 8 < 3 * 2_000_000


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_all_that_vp9_stores_can_be_read(clip: Path, tmp_path: Path, suffix: str) -> None:
    for pix_fmt in formats.pix_fmts_for(formats.CODECS["vp9"], "composite"):
        path = tmp_path / f"{pix_fmt}{suffix}"
        make(clip, output(path, "composite", "vp9", pix_fmt=pix_fmt))
        facts = stream_facts(path)
        assert (facts.frames, facts.pix_fmt) == (FRAMES, pix_fmt)


@pytest.mark.parametrize(
    ("codec", "kind", "options", "field"),
    [
        ("h264", "composite", {"bitrate": 10**6, "crf": 20}, "bitrate"),
        ("ffv1", "composite", {"bitrate": 10**6}, "bitrate"),
        ("prores", "alpha", {"bitrate": 10**6}, "bitrate"),
        ("h264", "composite", {"bitrate": 10**6}, None),
        ("h264", "composite", {"pix_fmt": "yuv422p10le"}, None),
        ("h264", "composite", {"pix_fmt": "yuv420p12le"}, "pix_fmt"),
        ("h264", "composite", {"pix_fmt": "gray"}, "pix_fmt"),
        ("h264", "matte", {"pix_fmt": "gray10le"}, None),
        ("vp9", "alpha", {"pix_fmt": "yuva444p"}, "pix_fmt"),
        ("prores", "alpha", {"pix_fmt": "yuva444p10le"}, None),
        ("prores", "composite", {"pix_fmt": "yuva444p10le"}, "pix_fmt"),
        ("ffv1", "alpha", {"pix_fmt": "gbrap12le"}, None),
        ("png", "matte", {"pix_fmt": "rgb24"}, "pix_fmt"),
        ("h264", "composite", {"scale": (641, -1)}, "scale"),
        ("ffv1", "composite", {"scale": (641, -1)}, None),
        ("ffv1", "composite", {"scale": (-1, -1)}, "scale"),
        ("ffv1", "composite", {"scale": (0, 10)}, "scale"),
        ("h264", "composite", {"hwaccel": "h264_qsv"}, None),
        ("h264", "composite", {"hwaccel": "hevc_qsv"}, "hwaccel"),
        ("h264", "composite", {"hwaccel": "nonesuch"}, "hwaccel"),
        ("h264", "composite", {"hwaccel": "h264_nvenc", "preset": "p7"}, None),
        ("h264", "composite", {"hwaccel": "h264_nvenc", "preset": "slow"}, "preset"),
    ],
)
def test_settings_that_do_not_go_together(
    codec: str, kind: str, options: dict[str, object], field: str | None
) -> None:
    found = encode.problem(Output(Path("x"), kind, codec, **options))  # type: ignore[arg-type]
    assert (found and found[0]) == field


@pytest.mark.parametrize(
    ("name", "kind", "codec", "pix_fmt"),
    [
        ("a.mp4", "composite", "h264", "yuv422p10le"),
        ("a.mp4", "composite", "hevc", "yuv444p12le"),
        ("a.mp4", "matte", "h264", "gray10le"),
        ("a.mp4", "matte", "hevc", "gray12le"),
        ("a.mkv", "matte", "ffv1", "gray16le"),
        ("a.mkv", "alpha", "ffv1", "gbrap12le"),
        ("a.webm", "composite", "vp9", "yuv444p"),
        ("a.mov", "composite", "prores", "yuv444p10le"),
    ],
)
def test_pixels_are_stored_as_asked(
    clip: Path, tmp_path: Path, name: str, kind: str, codec: str, pix_fmt: str
) -> None:
    make(clip, output(tmp_path / name, kind, codec, pix_fmt=pix_fmt))
    found = stream_facts(tmp_path / name).pix_fmt
    # ProRes 4444 decodes as 12 bits, and FFmpeg's decoder gives H.264 without chroma neutral one.
    shown_as = {"yuv444p10le": "yuv444p12le", "gray10le": "yuv420p10le"}
    assert found == shown_as.get(pix_fmt, pix_fmt)
    if name == "a.mp4" and kind == "matte":
        assert all(len(np.unique(plane)) == 1 for plane in decode_planes(tmp_path / name)[1:])


@pytest.mark.parametrize(
    ("scale", "size"),
    [
        ((80, -1), (80, 48)),
        ((-1, 50), (84, 50)),  # 83.3, the nearest even number
        ((320, 96), (320, 96)),
        ((20, 300), (20, 300)),
    ],
)
def test_outputs_of_another_size(
    clip: Path, tmp_path: Path, scale: tuple[int, int], size: tuple[int, int]
) -> None:
    names = {"a.mp4": "composite", "b.webm": "alpha", "c.mp4": "matte"}
    outputs = [output(tmp_path / name, kind, scale=scale) for name, kind in names.items()]
    make(clip, *outputs)
    for one in outputs:
        facts = stream_facts(one.path)
        assert (facts.width, facts.height) == size
        # The shape that is seen stays, to the pixel that rounding costs.
        seen = facts.sar * facts.width / facts.height
        assert float(seen) == pytest.approx(160 / 96, rel=0.013)


def test_a_scaled_matte_is_the_mattes_mean(clip: Path, tmp_path: Path) -> None:
    small = output(tmp_path / "s.mkv", "matte", "ffv1", scale=(40, 24))
    make(clip, output(tmp_path / "m.mkv", "matte", "ffv1"), small)
    (whole,), (found,) = decode_planes(tmp_path / "m.mkv"), decode_planes(small.path)
    mean = whole.reshape(FRAMES, 24, 4, 40, 4).mean(axis=(2, 4))
    assert np.abs(found - mean).mean() < 1.5


def test_an_untagged_clip_says_its_matrix_when_it_changes_size(tmp_path: Path) -> None:
    """720 lines and more are taken as BT.709, fewer as BT.601: a smaller copy has to say which."""
    source = make_clip(tmp_path / "in.mkv", size=(64, 720), frames=2)
    assert probe(source).colour.matrix == "unknown"
    make(source, output(tmp_path / "a.mp4", "composite", scale=(32, 360)))
    assert stream_facts(tmp_path / "a.mp4").matrix == 1


@pytest.mark.parametrize("rate", ["12", "24000/1001", "25", "50", "60"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_outputs_of_another_rate(tmp_path: Path, rate: str, name: str) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=50, audio="aac")
    chosen = output(tmp_path / name, "composite", "h264", frame_rate=Fraction(rate))
    result = run(
        Job(source, chosen, background=background.parse("red"), smooth=0.0, edges="off"),
        segmenter=Everything(),
    )
    facts = stream_facts(tmp_path / name)
    assert facts.rate == Fraction(rate) == result.frame_rate
    count = timing.resampled_count(Fraction(2), Fraction(rate))
    assert facts.frames == result.frames == count
    assert facts.audio == stream_facts(source).audio or name == "a.mkv"
    numbers = frame_numbers(decode_planes(tmp_path / name)[0])
    # Each frame begins at the nearest of the new times; the last that has begun is shown.
    begins = [int(number * Fraction(rate) / 25 + Fraction(1, 2)) for number in range(50)]
    shown = [max(k for k, begin in enumerate(begins) if begin <= n) for n in range(count)]
    assert numbers == shown


class Everything(Disc):
    """A segmenter that sees the subject everywhere."""

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.ones(rgb.shape[:3], np.float32)


def test_another_rate_of_a_clip_whose_sound_begins_first(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "in.mp4", frames=25, audio="aac", audio_s=2, video_delay_s=Fraction(1, 2)
    )
    chosen = output(tmp_path / "a.mp4", "matte", frame_rate=Fraction(24))
    make(source, chosen)
    facts = stream_facts(chosen.path)
    assert (facts.frames, facts.rate) == (24, Fraction(24))
    # On the grid of the new rate, and in step with the sound to the tick.
    assert facts.start == Fraction(12, 24)
    assert facts.audio[0].start == pytest.approx(0, abs=0.025)


# ---- Hardware ------------------------------------------------------------------------------------


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, formats.Codec]]:
    """Stand-ins: all of H.264's hardware encoders are missing but one, which is libx264."""
    found = dict(formats.HARDWARE)
    for name in formats.hardware_for("h264"):
        found[name] = formats.Codec(f"lib{name}")
    software = formats.CODECS["h264"]
    found["h264_qsv"] = replace(software, crf=30, presets=("fast",), preset="fast")
    monkeypatch.setattr(formats, "HARDWARE", found)
    encode._trial.cache_clear()
    yield found
    encode._trial.cache_clear()


@pytest.mark.usefixtures("hardware")
def test_auto_takes_the_first_that_works(
    clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    chosen = output(tmp_path / "a.mp4", "composite", hwaccel="auto", preset="slow")
    make(clip, chosen)
    assert b"crf=30.0" in (tmp_path / "a.mp4").read_bytes()
    assert "encoded by h264_qsv" in caplog.text
    assert "h264_qsv has no preset slow" in caplog.text


def test_auto_falls_back_aloud(
    clip: Path,
    tmp_path: Path,
    hardware: dict[str, formats.Codec],
    caplog: pytest.LogCaptureFixture,
) -> None:
    hardware["h264_qsv"] = replace(hardware["h264_qsv"], encoder="libh264_qsv")
    make(clip, output(tmp_path / "a.mp4", "composite", hwaccel="auto"))
    assert b"crf=19.0" in (tmp_path / "a.mp4").read_bytes()
    (warning,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert "in software" in warning.message
    for name in formats.hardware_for("h264"):
        assert f"Unknown encoder 'lib{name}'" in warning.message


@pytest.mark.usefixtures("hardware")
def test_a_named_encoder_that_does_not_work_is_an_error(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(EncodeError, match=r"h264_nvenc does not work here \(Unknown encoder"):
        make(clip, output(tmp_path / "a.mp4", "composite", hwaccel="h264_nvenc"))
    assert names_in(tmp_path) == []
    make(clip, output(tmp_path / "a.mp4", "composite", hwaccel="h264_qsv"))
    assert stream_facts(tmp_path / "a.mp4").frames == FRAMES


def test_every_hardware_encoder_has_a_format_and_a_software_twin() -> None:
    plane_format, _ = formats.working_format("yuv422p10le")
    for name, codec in formats.HARDWARE.items():
        assert name == codec.encoder
        assert name.partition("_")[0] in formats.CODECS
        for kind in ("composite", "matte"):
            stored = formats.stored_pix_fmt(codec, plane_format, kind)
            assert stored in formats.pix_fmts_for(codec, kind)
            assert av.VideoFormat(stored).components


# ---- A browser -----------------------------------------------------------------------------------

_PAGE = b"""<!doctype html><body style="margin:0;background:#f00">
<video src="/clip.webm" muted autoplay style="display:block"></video>
<img src="/wait" width="0" height="0">
<script>
const video = document.querySelector("video");
const told = () => fetch("/shown");
video.onerror = told;
video.requestVideoFrameCallback(() => requestAnimationFrame(() => requestAnimationFrame(told)));
</script>"""


def chromium() -> str | None:
    named = os.environ.get("VIDBG_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    """A red page with tmp_path/clip.webm on it, which has loaded when a frame is on the screen."""
    shown = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, content = "text/html", b""
            if self.path == "/":
                content = _PAGE
            elif self.path == "/clip.webm":
                kind, content = "video/webm", (tmp_path / "clip.webm").read_bytes()
            elif self.path == "/shown":
                shown.set()
            elif self.path == "/wait":
                shown.wait(30)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        shown.set()
        server.shutdown()
        thread.join()


def test_a_browser_shows_the_page_through_the_webm(clip: Path, tmp_path: Path, page: str) -> None:
    browser = chromium()
    if browser is None:
        if os.environ.get("VIDBG_NEEDS_CHROMIUM"):
            pytest.fail("Chromium is not here, and VIDBG_NEEDS_CHROMIUM says that it has to be")
        pytest.skip("no Chromium on PATH; VIDBG_CHROMIUM names one")
    matte = output(tmp_path / "matte.mkv", "matte", "ffv1")
    make(clip, output(tmp_path / "clip.webm", "alpha"), matte, end_s=Fraction(1, 25))
    profile = tmp_path / "profile"
    subprocess.run(
        [
            browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--force-device-scale-factor=1", "--window-size=500,500",
            "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={profile}",
            f"--screenshot={tmp_path / 'page.png'}", page,
        ],
        capture_output=True,
        check=True,
        timeout=90,
    )  # fmt: skip
    screen = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)[:96, :160]
    (alpha,) = decode_planes(matte.path, count=1)
    # Where alpha is 0, away from where the codec blurs its edge.
    clear = cv2.erode((alpha[0] == 0).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert np.abs(screen[clear] - (255, 0, 0)).max() <= 2
    # And where it is opaque, the clip's colours, of which green is never 0.
    assert screen[alpha[0] == 255][:, 1].mean() > 60
    # In between the page shows through straight colours by as much as alpha says.
    straight = by_tags(tmp_path / "clip.webm")[0].astype(float)
    share = alpha[0][..., None] / 255
    expected = straight * share + np.array((255, 0, 0)) * (1 - share)
    soft = (alpha[0] > 40) & (alpha[0] < 215)
    assert np.abs(screen - expected)[soft].mean() < 12
