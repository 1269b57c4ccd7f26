"""HDR: what keeps it, what becomes SDR and how, and SDR behind HDR. By the equations of BT.2100."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import (
    Array,
    decode_planes,
    make_clip,
    pack_planes,
    run_ffmpeg,
    stream_facts,
    version,
)
from numpy.typing import NDArray
from PIL import Image

from vidbg.frames import Colour
from vidbg.job import Job
from vidbg.media import background, encode
from vidbg.media.formats import working_format
from vidbg.media.probe import probe
from vidbg.pipeline import read_background, run

Floats = NDArray[np.float64]

PQ, HLG = "smpte2084", "arib-std-b67"
# Luminance of linear R, G, B of BT.2020 (ITU-R BT.2020, table 4) and of BT.709.
WEIGHTS_2020, WEIGHTS_709 = np.array([0.2627, 0.6780, 0.0593]), np.array([0.2126, 0.7152, 0.0722])


def matrix_to_xyz(primaries: list[tuple[float, float]]) -> Floats:
    """Return what brings linear R, G, B to X, Y, Z, from chromaticities; the white is D65."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    scaled: Floats = columns * np.linalg.solve(columns, white)
    return scaled


XYZ_709 = matrix_to_xyz([(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)])
XYZ_2020 = matrix_to_xyz([(0.708, 0.292), (0.170, 0.797), (0.131, 0.046)])


def pq_signal(nits: Floats) -> Floats:
    """SMPTE ST 2084, equation 5.2."""
    power = (np.maximum(nits, 0) / 10_000) ** (2610 / 16384)
    ratio: Floats = (3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)
    return ratio ** (2523 / 32)


def hlg_signal(nits: Floats) -> Floats:
    """ITU-R BT.2100, table 5: the inverse OOTF of a display of 1000 cd/m², then the OETF."""
    display = np.maximum(nits, 0) / 1000
    luminance = display @ WEIGHTS_2020
    scene = display * np.where(luminance > 0, luminance, 1)[..., None] ** (1 / 1.2 - 1)
    low = np.sqrt(3 * scene)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, low, high)


SIGNALS = {PQ: pq_signal, HLG: hlg_signal}


def in_hdr(rgb: Floats, transfer: str) -> Floats:
    """Return the signal of SDR colours, 0 to 1, on a page of 203 cd/m² (BT.2408, BT.1886)."""
    light = 203 * rgb**2.4
    wide = light @ (np.linalg.inv(XYZ_2020) @ XYZ_709).T
    return SIGNALS[transfer](wide)


def codes(signal: Floats, weights: Floats = WEIGHTS_2020, depth: int = 10) -> Floats:
    """Return limited-range Y', Cb, Cr of R'G'B' signals, last axis first (BT.2100, table 9)."""
    luma = signal @ weights
    cb = (signal[..., 2] - luma) / (2 * (1 - weights[2]))
    cr = (signal[..., 0] - luma) / (2 * (1 - weights[0]))
    step = 1 << (depth - 8)
    return np.stack([(16 + 219 * luma) * step, (128 + 224 * cb) * step, (128 + 224 * cr) * step])


def hdr_clip(
    path: Path, nits: Floats, transfer: str = PQ, pix_fmt: str = "yuv420p10le", **options: object
) -> Path:
    """Write a clip of patches of 16 pixels side by side, of given light ``(N, 3)`` in cd/m²."""
    rows = codes(SIGNALS[transfer](nits)).round().astype(np.uint16)
    planes = []
    for number, row in enumerate(rows):
        across = 16 if number == 0 or "444" in pix_fmt else 8
        down = 64 if number == 0 or "420" not in pix_fmt else 32  # SVT-AV1's least
        planes.append(np.broadcast_to(np.repeat(row, across), (3, down, across * len(row))))
    return make_clip(
        path,
        size=(16 * len(nits), 64),
        frames=3,
        raw=pack_planes(planes),
        raw_pix_fmt=pix_fmt,
        pix_fmt=None,
        codec="ffv1",
        colour_range="tv",
        matrix="bt2020nc",
        primaries="bt2020",
        transfer=transfer,
        **options,  # type: ignore[arg-type]
    )


def patches(planes: tuple[Array, ...]) -> Floats:
    """Return the middles of the patches, one row a plane."""
    rows = []
    for plane in planes:
        step = 16 * plane.shape[2] // planes[0].shape[2]
        rows.append(plane[1, plane.shape[1] // 2, step // 2 :: step])
    return np.stack(rows).astype(float)


def rgb_of(path: Path) -> Floats:
    """Return the patches of a limited-range BT.709 clip as R'G'B', 0 to 255, ``(N, 3)``."""
    luma, cb, cr = patches(decode_planes(path))
    y, b, r = (luma - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    red, blue = y + 2 * (1 - 0.2126) * r, y + 2 * (1 - 0.0722) * b
    green = (y - 0.2126 * red - 0.0722 * blue) / 0.7152
    return 255 * np.stack([red, green, blue], axis=-1)


class Opaque:
    """A segmenter for which all is subject."""

    name = "opaque"

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        return 32, 32

    def batch_size(self, height: int, width: int) -> int:
        return 1

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.ones(rgb.shape[:3], np.float32)


def process(source: Path, output: Path, codec: str, kind: str = "composite") -> Path:
    behind = background.Solid((0, 0, 255)) if kind == "composite" else None
    written = encode.Output(output, kind, codec, sound="none", crf=1 if codec == "h264" else None)
    run(Job(source, written, background=behind, smooth=0.0, edges="off"), segmenter=Opaque())
    return output


GREYS = np.array([0, 0.5, 2, 10, 25, 50, 100, 203, 400, 700, 1000, 4000.0])[:, None] * np.ones(3)


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("hevc", ".mp4"), ("av1", ".mp4"), ("vp9", ".webm"), ("prores", ".mov"), ("ffv1", ".mkv")],
)
def test_what_has_ten_bits_keeps_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codec: str, suffix: str, transfer: str
) -> None:
    source = hdr_clip(tmp_path / "in.mkv", GREYS[:8], transfer, "yuv422p10le")
    out = process(source, tmp_path / f"out{suffix}", codec)
    facts = stream_facts(out)
    assert (facts.matrix, facts.primaries) == (9, 9)
    assert facts.transfer == {PQ: 16, HLG: 18}[transfer]
    assert av.VideoFormat(facts.pix_fmt).components[0].bits == 10
    before, after = patches(decode_planes(source)), patches(decode_planes(out))
    np.testing.assert_allclose(after[0], before[0], atol=0 if codec == "ffv1" else 8)
    assert "tone-mapped" not in caplog.text


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_what_a_clip_was_graded_on_is_stated_again(tmp_path: Path, codec: str) -> None:
    display = "G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(40000000,50)"
    stated = f"log-level=error:repeat-headers=1:master-display={display}:max-cll=987,321"
    tags = {"matrix": "bt2020nc", "primaries": "bt2020", "transfer": PQ, "colour_range": "tv"}
    source = make_clip(
        tmp_path / "in.mp4",
        size=(96, 64),
        frames=3,
        pix_fmt="yuv420p10le",
        codec="libx265",
        options=("-x265-params", stated),
        **tags,  # type: ignore[arg-type]
    )
    info = probe(source)
    assert info.mastering is not None
    assert info.mastering.green == (0.17, 0.797)
    assert (info.mastering.brightest, info.mastering.darkest) == (4000, 0.005)
    out = process(source, tmp_path / "out.mp4", codec)
    for path in (source, out):
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            found = {str(data.type): bytes(data) for data in frame.side_data}
        (volume,) = (data for name, data in found.items() if "MASTERING" in name)
        # AVMasteringDisplayMetadata: x and y of R, G, B and white, least and most light.
        numbers = np.frombuffer(volume[:80], np.int32).reshape(10, 2)
        wanted = [0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329, 0.005, 4000]
        np.testing.assert_allclose(numbers[:, 0] / numbers[:, 1], wanted, rtol=2e-2, atol=2e-5)
        (levels,) = (data for name, data in found.items() if "LIGHT" in name)
        assert np.frombuffer(levels[:8], np.uint32).tolist() == [987, 321]


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_eight_bits_show_hdr_as_sdr(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, transfer: str
) -> None:
    source = hdr_clip(tmp_path / "in.mkv", GREYS if transfer == PQ else GREYS[:-1], transfer)
    out = process(source, tmp_path / "out.mp4", "h264")
    facts = stream_facts(out)
    assert (facts.pix_fmt, facts.colour_range) == ("yuv420p", 1)
    assert (facts.matrix, facts.primaries, facts.transfer) == (1, 1, 1)
    assert "--codec hevc" in caplog.text
    rgb = rgb_of(out)
    assert np.abs(rgb - rgb.mean(axis=1, keepdims=True)).max() < 2  # greys stay grey
    light = GREYS[: len(rgb), 0]
    found = rgb.mean(axis=1)
    assert (np.diff(found[light <= 1000]) > 0).all()
    # Up to a quarter of paper's light as it would be on an SDR display; paper itself near the
    # top, with some room above for what is brighter.
    dark = light <= 50
    np.testing.assert_allclose(found[dark], 255 * (light[dark] / 203) ** (1 / 2.4), atol=2)
    assert 220 <= found[light == 203][0] <= 235
    assert abs(found[light == 1000][0] - 255) <= 2
    assert found.max() <= 257


def test_hues_stay_when_highlights_are_rolled_off(tmp_path: Path) -> None:
    """R, G and B are scaled by one factor: their ratios in light are those of the clip."""
    to_2020 = (np.linalg.inv(XYZ_2020) @ XYZ_709).T
    mixed = np.array([[1, 0.5, 0.25], [0.2, 1, 0.6], [0.4, 0.3, 1], [1, 1, 0.5], [1, 0.1, 0.1]])
    light_709 = mixed * np.array([600, 300, 203, 900, 100])[:, None]
    source = hdr_clip(tmp_path / "in.mkv", light_709 @ to_2020, pix_fmt="yuv444p10le")
    out = process(source, tmp_path / "out.mp4", "h264")
    light = (rgb_of(out) / 255).clip(0, 1) ** 2.4
    np.testing.assert_allclose(light / light.max(axis=1, keepdims=True), mixed, atol=0.03)


def test_pictures_and_alpha_in_eight_bits_are_sdr_too(tmp_path: Path) -> None:
    source = hdr_clip(tmp_path / "in.mkv", GREYS[:8])
    out = process(source, tmp_path / "out.webm", "vp9", "alpha")
    assert stream_facts(out).transfer == 1
    luma, *_, alpha = decode_planes(out, decoder="libvpx-vp9")
    assert alpha.min() >= 254
    found = (luma[1, 24, 8::16].astype(float) - 16) / 219 * 255
    wanted = 255 * (GREYS[:6, 0] / 203) ** (1 / 2.4)
    np.testing.assert_allclose(found[:6], wanted, atol=6)
    assert 215 <= found[7] <= 240


def test_full_range_becomes_limited_with_its_tag(tmp_path: Path) -> None:
    signal = pq_signal(GREYS[:8])[:, 0]
    luma = np.broadcast_to(np.repeat((signal * 1023).round().astype(np.uint16), 16), (3, 48, 128))
    neutral = np.full((3, 24, 64), 512, np.uint16)
    source = make_clip(
        tmp_path / "in.mkv",
        size=(128, 48),
        frames=3,
        raw=pack_planes([luma, neutral, neutral]),
        raw_pix_fmt="yuv420p10le",
        pix_fmt=None,
        colour_range="pc",
        matrix="bt2020nc",
        primaries="bt2020",
        transfer=PQ,
    )
    out = process(source, tmp_path / "out.mp4", "h264")
    assert stream_facts(out).colour_range == 1
    wanted = 255 * (GREYS[:6, 0] / 203) ** (1 / 2.4)
    np.testing.assert_allclose(rgb_of(out).mean(axis=1)[:6], wanted, atol=2)


def test_a_matte_of_hdr_is_not_tone_mapped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = hdr_clip(tmp_path / "in.mkv", GREYS[:4])
    out = process(source, tmp_path / "out.mp4", "h264", "matte")
    assert decode_planes(out)[0].min() >= 254
    assert "tone-mapped" not in caplog.text


# ---- Backgrounds -------------------------------------------------------------------------------

COLOURS = np.array(list(itertools.product((0.1, 0.5, 1.0), repeat=3)))


def goal(colour: Colour, pix_fmt: str, width: int) -> background.Target:
    plane_format, _ = working_format(pix_fmt)
    return background.Target(width, 48, Fraction(1), plane_format, colour, Fraction(25))


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("is_video", [False, True])
def test_sdr_behind_hdr_has_the_colours_of_paper(
    tmp_path: Path, transfer: str, is_video: bool
) -> None:
    bytes_of = (COLOURS * 255).round().astype(np.uint8)
    picture = np.broadcast_to(np.repeat(bytes_of, 16, axis=0), (48, 16 * len(COLOURS), 3))
    target = goal(Colour("tv", "bt2020nc", "bt2020", transfer), "yuv444p10le", picture.shape[1])
    if is_video:
        path = make_clip(
            tmp_path / "in.mkv",
            size=(picture.shape[1], 48),
            frames=3,
            raw=np.ascontiguousarray(picture).tobytes() * 3,
            raw_pix_fmt="rgb24",
            pix_fmt=None,
        )
        planes = next(iter(background.BackgroundVideo(probe(path), target)))
    else:
        Image.fromarray(np.ascontiguousarray(picture)).save(tmp_path / "in.png")
        planes = background.still(tmp_path / "in.png", "cover", target)
    wanted = codes(in_hdr(bytes_of / 255, transfer))
    found = np.stack([plane[0, 24, 8::16] for plane in planes]).astype(float)
    assert np.abs(found - wanted).max() <= 3


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_behind_sdr_is_rolled_off(tmp_path: Path, transfer: str) -> None:
    """Below a mid-grey, in every component, exactly as an SDR display shows that light."""
    to_2020 = (np.linalg.inv(XYZ_2020) @ XYZ_709).T
    rgb = COLOURS * 0.7
    path = hdr_clip(tmp_path / "in.mkv", 203 * rgb**2.4 @ to_2020, transfer, "yuv444p10le")
    info = probe(path)
    planes = next(
        iter(background.BackgroundVideo(info, goal(Colour("pc", "gbr"), "gbrp", 16 * 27)))
    )
    green, blue, red = (plane[0, 24, 8::16].astype(float) for plane in planes)
    found = np.stack([red, green, blue], axis=-1)
    # A step of a 10-bit PQ code is up to two of 8-bit gamma in the dark, more where two cancel.
    assert np.abs(found - 255 * rgb).max() <= 6
    assert np.abs(found - 255 * rgb).mean() <= 1.0


def hdr_picture(path: Path) -> Path:
    """Write greys of PQ as a PNG that says so."""
    signal = (pq_signal(GREYS[:8]) * 65535).round().astype(np.uint16)
    plane = np.broadcast_to(np.repeat(signal[:, 0], 16), (48, 128)).astype("<u2")
    run_ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "gbrp16le", "-s", "128x48", "-i", "pipe:0"),
        *("-vf", f"setparams=color_primaries=bt2020:color_trc={PQ}:range=pc"),
        f"file:{path}",
        feed=plane.tobytes() * 3,
    )
    return path


tags_png = pytest.mark.skipif(version() < 7, reason="FFmpeg 6.1 was the first to tag PNG so")


@tags_png
@pytest.mark.parametrize("codec", ["png", "jpeg"])
def test_a_picture_becomes_sdr(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codec: str
) -> None:
    source = hdr_picture(tmp_path / "pq.png")
    out = process(source, tmp_path / f"out.{codec}", codec)
    with Image.open(out) as opened:
        found = np.asarray(opened.convert("RGB"))[24, 8::16].astype(float)
    wanted = 255 * (GREYS[:6] / 203) ** (1 / 2.4)
    np.testing.assert_allclose(found[:6], wanted, atol=3)
    assert (found[7] >= 220).all()
    assert "tone-mapped" in caplog.text


@tags_png
def test_an_hdr_picture_behind_sdr(tmp_path: Path) -> None:
    picture = hdr_picture(tmp_path / "pq.png")
    source = make_clip(tmp_path / "in.mkv", size=(128, 48), frames=2)
    info = probe(source)
    written = encode.Output(tmp_path / "out.mkv", "composite", "ffv1")
    job = Job(source, written, background=picture)
    frames = iter(read_background(job, info, 0) or ())
    luma = next(frames)[0]
    frames.close()  # type: ignore[attr-defined]
    found = (luma[0, 24, 8::16].astype(float) - 16) / 219 * 255
    np.testing.assert_allclose(found[:6], 255 * (GREYS[:6, 0] / 203) ** (1 / 2.4), atol=2)
    assert 220 <= found[7] <= 235


def test_hdr_of_the_other_kind_keeps_its_light(tmp_path: Path) -> None:
    nits = GREYS[2:10]
    info = probe(hdr_clip(tmp_path / "in.mkv", nits, PQ))
    target = goal(Colour("tv", "bt2020nc", "bt2020", HLG), "yuv420p10le", 16 * len(nits))
    luma, *_ = next(iter(background.BackgroundVideo(info, target)))
    np.testing.assert_allclose(luma[0, 24, 8::16], codes(hlg_signal(nits))[0], atol=3)
