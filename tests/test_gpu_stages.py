"""Whole jobs with all stages in a device's memory: on CPU tensors, and on CUDA if it is there."""

from __future__ import annotations

import itertools
import logging
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import random_u2netp
from clips import decode_planes, make_clip, video_info
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg import pipeline
from vidbg.errors import DeviceError
from vidbg.frames import Colour, FrameBatch, MattedBatch
from vidbg.gpu import stages
from vidbg.gpu.frames import DeviceFrames, DeviceMatted, chosen, joined
from vidbg.gpu.memory import Portions
from vidbg.gpu.stages import Backdrop, Stages, frames_that_fit, obstacle
from vidbg.gpu.transfer import Downloads, Uploads
from vidbg.job import Job
from vidbg.matting.architectures import load_network
from vidbg.matting.refine import AS_IT_IS, Controls
from vidbg.matting.segmenter import NetworkSegmenter
from vidbg.matting.weights import spec_of
from vidbg.media import background, encode
from vidbg.pipeline import run
from vidbg.profile import STAGES, Meter

CPU = torch.device("cpu")


@dataclass
class Bright:
    """A segmenter on a device: what is bright is foreground, softly; the square is a bit darker."""

    device: torch.device = CPU
    name: str = "bright"
    square_size: tuple[int, int] = (40, 40)
    is_slow: bool = False
    calls: list[tuple[int, ...]] = field(default_factory=list)

    def prepare(self, sizes: Iterable[tuple[int, int]]) -> None:
        pass

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        return height // 2, width // 2

    def batch_size(self, height: int, width: int) -> int:
        return 3

    def on_device(self, rgb: torch.Tensor) -> torch.Tensor:
        self.calls.append(tuple(rgb.shape))
        level = rgb.float().mean(dim=-1) + (10 if rgb.shape[1] == rgb.shape[2] else 0)
        return torch.sigmoid((level - 120) / 8)

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.on_device(torch.from_numpy(rgb)).numpy()


@dataclass
class Switch:
    """Whether jobs are made on devices, and the stages that were made so."""

    is_on: bool = True
    made: list[Stages] = field(default_factory=list)


@pytest.fixture
def all_on_device(monkeypatch: pytest.MonkeyPatch) -> Switch:
    """Every device is worth it, the CPU too."""
    switch = Switch()

    class Watched(Stages):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            switch.made.append(self)

    monkeypatch.setattr(stages, "is_worth_it", lambda device: switch.is_on)
    monkeypatch.setattr(stages, "Stages", Watched)
    return switch


def job(source: Path, output: Path, kind: str = "composite", **options: Any) -> Job:
    behind = background.parse("#204060") if kind == "composite" else None
    written = encode.Output(output, kind, "ffv1", sound="none")
    return Job(source, written, **({"background": behind} | options))


def difference(one: Path, other: Path) -> tuple[float, float]:
    """The mean and the largest difference of samples, in levels of 255."""
    means, largest = [], []
    for a, b in zip(decode_planes(one), decode_planes(other), strict=True):
        assert a.shape == b.shape
        # What has 10 bits is stored in 16.
        scale = 1 if a.dtype == np.uint8 else 1 / 4 if a.max() < 1024 else 1 / 257
        apart = np.abs(a.astype(float) - b) * scale
        means.append(apart.mean())
        largest.append(apart.max())
    return float(np.mean(means)), float(max(largest))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "gbrp"])
def test_a_job_on_a_device_makes_what_it_makes_on_the_cpu(
    tmp_path: Path, all_on_device: Switch, pix_fmt: str
) -> None:
    """A composite, a matte and a foreground in one run, as they are without smoothing."""
    source = make_clip(tmp_path / "in.mkv", size=(96, 64), frames=7, pix_fmt=pix_fmt, codec="ffv1")
    outputs: dict[bool, list[Path]] = {}
    for is_on in (True, False):
        all_on_device.is_on = is_on
        folder = tmp_path / str(is_on)
        folder.mkdir()
        names = [folder / "composite.mkv", folder / "matte.mkv", folder / "alpha.mkv"]
        also = tuple(encode.Output(name, name.stem, "ffv1", sound="none") for name in names[1:])
        run(job(source, names[0], also=also, smooth=0.0), segmenter=Bright())
        outputs[is_on] = names
    assert len(all_on_device.made) == 1
    for one, other in zip(outputs[True], outputs[False], strict=True):
        mean, most = difference(one, other)
        assert mean < 0.1
        # One code of alpha more or less, which makes 1 of 0 too: the colour under it is then
        # estimated, not continued from beside it.
        assert most <= {"composite": 2, "matte": 1, "alpha": 8}[one.stem]


def test_a_profile_knows_the_stages_of_a_device(tmp_path: Path, all_on_device: Switch) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=7, codec="ffv1")
    with Meter() as meter:
        run(job(source, tmp_path / "out.mkv", every=1), segmenter=Bright())
    assert len(all_on_device.made) == 1
    profile = meter.profile()
    assert profile.frames == 7
    known = {spent.stage for spent in profile.stages if spent.wall_s}
    assert known == set(STAGES) - {"keyer", "carry", "archive"}
    assert [queue.name for queue in profile.queues] == [
        "decode",
        "upload",
        "segment",
        "background",
        "composite",
    ]


def test_smoothing_trims_views_and_a_moving_background(
    tmp_path: Path, all_on_device: Switch
) -> None:
    """Batches of 3, a trim of 10 frames, the other views in turn, a background of 25 frames."""
    source = make_clip(tmp_path / "in.mkv", size=(96, 64), frames=30, codec="ffv1")
    behind = make_clip(tmp_path / "bg.mkv", size=(96, 64), frames=25, codec="ffv1")
    times = {"start_s": Fraction(12, 25), "end_s": Fraction(22, 25)}
    bright = Bright()
    made = {}
    for is_on in (True, False):
        all_on_device.is_on = is_on
        made[is_on] = tmp_path / f"{is_on}.mkv"
        result = run(job(source, made[is_on], background=behind, **times), segmenter=bright)
        assert result.frames == 10
    assert {shape[1:3] for shape in bright.calls} == {(32, 48), (40, 40)}
    # Motion is found in another way: single votes differ.
    mean, _ = difference(made[True], made[False])
    assert mean < 0.5

    all_on_device.is_on = True
    run(job(source, tmp_path / "all.mkv", background=behind), segmenter=Bright())
    whole = decode_planes(tmp_path / "all.mkv")
    part = decode_planes(made[True])
    matte_of_whole, matte_of_part = tmp_path / "whole.mkv", tmp_path / "part.mkv"
    assert len(whole[0]) == 30
    assert len(part[0]) == 10
    run(job(source, matte_of_whole, "matte"), segmenter=Bright())
    run(job(source, matte_of_part, "matte", **times), segmenter=Bright())
    off = decode_planes(matte_of_whole)[0][12:22].astype(int) - decode_planes(matte_of_part)[0]
    assert np.abs(off).max() <= 1  # a trim's mattes are those of the whole clip


@pytest.mark.parametrize("has_own", [False, True])
def test_results_of_all_kinds_are_the_pipelines(tmp_path: Path, has_own: bool) -> None:
    """Straight and premultiplied foregrounds and a composite of frames, some with own alpha."""
    rng = np.random.default_rng(3)
    info = video_info(width=80, height=48)
    y, x = np.mgrid[:48, :80]
    sizes = info.format.plane_sizes(80, 48)
    planes, behind = (
        tuple(rng.integers(40, 200, (2, *size), dtype=np.uint8) for size in sizes) for _ in "fb"
    )
    own = np.broadcast_to(3 * x.astype(np.uint8), (2, 48, 80)).copy() if has_own else None
    matte = np.clip((20 - np.hypot(y - 24, x - 40)) / 6 + 0.5, 0, 1)[None].repeat(2, axis=0)
    rgb = rng.integers(0, 256, (2, 48, 80, 3), dtype=np.uint8)
    whole = job(
        tmp_path / "in.mkv",
        tmp_path / "straight.mov",
        "alpha",
        background=background.parse("#204060"),
        edges="off",
    )
    whole = replace(
        whole,
        output=encode.Output(tmp_path / "straight.mov", "alpha", "prores"),
        also=(
            encode.Output(tmp_path / "pre.mov", "alpha", "prores", premultiplied=True),
            encode.Output(tmp_path / "composite.mkv", "composite", "ffv1"),
        ),
    )
    wanted = [(output.kind, output.premultiplied) for output in whole.outputs]
    look = pipeline.Look(edges="off", black=(16, 128, 128))
    expected = pipeline.finish(
        whole,
        MattedBatch(FrameBatch(planes, info.format, 0, own), rgb, matte.astype(np.float32)),
        iter([behind]),
        look,
    )
    made = Stages(
        Bright(), info, None, strength=0.8, edges="off", wanted=wanted, black=look.black
    ).finish(
        DeviceMatted(
            DeviceFrames(
                tuple(map(torch.from_numpy, planes)),
                info.format,
                0,
                None if own is None else torch.from_numpy(own),
            ),
            torch.from_numpy(rgb),
            torch.from_numpy(matte).float(),
        ),
        tuple(map(torch.from_numpy, behind)),
    )
    for (found, alpha), (planes_expected, alpha_expected) in zip(made, expected, strict=True):
        for one, other in zip(found, planes_expected, strict=True):
            assert np.abs(one.numpy().astype(int) - other).max() <= 1
        assert (alpha is None) == (alpha_expected is None)
        if alpha is not None:
            assert np.abs(alpha.numpy().astype(int) - alpha_expected).max() <= 1


def test_opaque_pixels_are_the_source_bit_for_bit(tmp_path: Path, all_on_device: Switch) -> None:
    source = make_clip(
        tmp_path / "in.mkv", size=(53, 37), frames=4, pix_fmt="yuv420p10le", codec="ffv1"
    )

    class Everything(Bright):
        def on_device(self, rgb: torch.Tensor) -> torch.Tensor:
            return torch.ones(rgb.shape[:3])

    run(job(source, tmp_path / "out.mkv"), segmenter=Everything())
    assert len(all_on_device.made) == 1
    for before, after in zip(
        decode_planes(source), decode_planes(tmp_path / "out.mkv"), strict=True
    ):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"edges": "fine"}, "--edges fine"),
        ({"grow_px": 2.0}, "changes to the matte"),
        ({"despill": True}, "--despill"),
        ({"background": background.Blur(3.0)}, "--bg blur"),
        ({"every": 3}, "--every"),
    ],
)
def test_what_there_is_no_form_of_is_made_on_the_cpu(
    tmp_path: Path,
    all_on_device: Switch,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    said: str,
) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=2)
    with caplog.at_level(logging.INFO):
        run(job(source, tmp_path / "out.mkv", **options), segmenter=Bright())
    assert not all_on_device.made
    assert f"({said})" in caplog.text


def test_hdr_is_made_on_the_cpu() -> None:
    info = video_info("yuv420p10le", colour=Colour("tv", "bt2020nc", "bt2020", "smpte2084"))
    assert obstacle(info, "fast", AS_IT_IS, despill=False, blurs=False, carries=False) == "HDR"
    plain = video_info()
    assert obstacle(plain, "fast", AS_IT_IS, despill=False, blurs=False, carries=False) is None
    assert obstacle(
        plain, "off", Controls(keep="largest"), despill=False, blurs=False, carries=False
    )


def test_the_cpu_is_not_worth_it() -> None:
    assert not stages.is_worth_it(CPU)
    assert stages.is_worth_it(torch.device("cuda", 1))


def test_an_error_ends_all_threads(tmp_path: Path, all_on_device: Switch) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=40)

    class Failing(Bright):
        def on_device(self, rgb: torch.Tensor) -> torch.Tensor:
            if len(self.calls) > 3:
                raise DeviceError("gone")
            return super().on_device(rgb)

    with pytest.raises(DeviceError, match="gone"):
        run(job(source, tmp_path / "out.mkv"), segmenter=Failing())
    assert not (tmp_path / "out.mkv").exists()


def u2netp(folder: Path) -> NetworkSegmenter:
    """In PyTorch, whatever else there is."""
    network = load_network(random_u2netp(folder / "random.safetensors")).network
    return NetworkSegmenter(network, spec_of("u2netp"), "random", CPU)


def test_a_network_says_the_same_of_pictures_on_its_device(tmp_path: Path) -> None:
    segmenter = u2netp(tmp_path)
    rgb = np.random.default_rng(0).integers(0, 256, (3, 32, 64, 3), dtype=np.uint8)
    found = segmenter.on_device(torch.from_numpy(rgb))
    np.testing.assert_allclose(found.numpy(), segmenter(rgb), atol=1e-5)


def test_a_network_that_is_dropped_is_gone_at_once(tmp_path: Path) -> None:
    """Not when the collector next looks for cycles: the next one is to have its memory."""
    segmenter = u2netp(tmp_path)
    segmenter.on_device(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
    gone = weakref.ref(segmenter)
    del segmenter
    assert gone() is None


class Overflowing(torch.nn.Module):
    """Logits that are no numbers in half precision, and the picture's red in full."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1] * self.weight * (1.0 if x.dtype == torch.float32 else float("nan"))


def test_half_precision_that_overflows_turns_into_full(caplog: pytest.LogCaptureFixture) -> None:
    segmenter = NetworkSegmenter(Overflowing(), spec_of("u2netp"), "overflowing", CPU, "bf16")
    rgb = torch.zeros(2, 4, 6, 3, dtype=torch.uint8)
    found = segmenter.on_device(rgb)
    assert segmenter.precision == "fp32"
    assert "overflows in bf16" in caplog.text
    np.testing.assert_allclose(found.numpy(), segmenter(rgb.numpy()), atol=1e-6)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 12))
def test_work_is_halved_until_it_fits(count: int, limit: int, fits: int) -> None:
    """All of a batch is done once and in order, in parts that fit."""
    tried: list[int] = []

    def work(start: int, stop: int) -> range:
        tried.append(stop - start)
        if stop - start > fits:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return range(start, stop)

    portions = Portions(limit, "the work")
    assert [n for part in portions.work_off(count, work) for n in part] == list(range(count))
    assert portions.limit <= max(fits, limit)
    assert sum(size > fits for size in tried) <= 6  # each failure halves it for good


def test_one_frame_that_does_not_fit_is_an_error() -> None:
    def work(start: int, stop: int) -> None:
        raise torch.cuda.OutOfMemoryError("out of memory")

    with pytest.raises(DeviceError, match="does not hold the work of one frame"):
        list(Portions(8, "the work").work_off(5, work))


def test_a_job_goes_on_when_memory_runs_out(
    tmp_path: Path,
    all_on_device: Switch,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=7, codec="ffv1")
    run(job(source, tmp_path / "enough.mkv"), segmenter=Bright())
    finish = Stages.finish

    def short(self: Stages, batch: DeviceMatted, behind: Any) -> Any:
        if len(batch.frames) > 1:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return finish(self, batch, behind)

    monkeypatch.setattr(Stages, "finish", short)
    run(job(source, tmp_path / "short.mkv"), segmenter=Bright())
    assert "going on with the finishing of 1 frames at once" in caplog.text
    assert difference(tmp_path / "enough.mkv", tmp_path / "short.mkv") == (0, 0)


@given(
    st.integers(1, 12),
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
)
def test_a_moving_background_comes_frame_by_frame(batch: int, counts: list[int]) -> None:
    def numbered() -> Iterator[Any]:
        for first in range(0, 1000, batch):
            frames = np.arange(first, first + batch, dtype=np.uint16).reshape(-1, 1, 1)
            yield frames, frames + 1, frames + 2

    # No more than a batch is ever asked for at once.
    counts = [min(count, batch) for count in counts]
    backdrop, expected = Backdrop(numbered(), Uploads(CPU)), 0
    for count in counts:
        for shift, plane in enumerate(backdrop.take(count)):
            assert plane.flatten().tolist() == [expected + n + shift for n in range(count)]
        expected += count


def test_a_still_goes_up_once() -> None:
    sent = []

    class Counting(Uploads):
        def send(self, arrays: Any) -> Any:
            sent.append(arrays)
            return super().send(arrays)

    planes = tuple(np.full((1, 2, 2), level, np.uint8) for level in (1, 2, 3))
    backdrop = Backdrop(itertools.repeat(planes), Counting(CPU))  # type: ignore[arg-type]
    for count in (4, 1, 3):
        assert [plane.unique().tolist() for plane in backdrop.take(count)] == [[1], [2], [3]]
    assert len(sent) == 1


def test_frames_are_chosen_and_joined_in_any_dtype() -> None:
    frames = torch.from_numpy(np.arange(24, dtype=np.uint16).reshape(4, 2, 3) * 2000)
    np.testing.assert_array_equal(chosen(frames, [2, 0]), frames.numpy()[[2, 0]])
    (whole, _, _) = joined([(frames[:1],) * 3, (frames[1:],) * 3])
    np.testing.assert_array_equal(whole, frames)


def test_arrays_go_there_and_back() -> None:
    arrays = [np.arange(6, dtype=np.uint8).reshape(2, 3)[:, ::2], np.full((2, 2), 65535, np.uint16)]
    arrays[1].flags.writeable = False  # as from a pipe
    there = Uploads(CPU).send(arrays).arrived()
    for before, after in zip(arrays, Downloads(CPU).fetch(there).arrays(), strict=True):
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(before, after)


def test_batches_fit_the_memory() -> None:
    """1080p in 8-bit 4:2:0: 31 MB held and 249 MB worked on for a frame, of half the memory."""
    info = video_info(width=1920, height=1080)
    assert frames_that_fit(info, 2 * 279 * 10**6 * 8) == 7
    assert frames_that_fit(info, 2 * 281 * 10**6 * 8) == 8
    assert frames_that_fit(info, 0) == 1


@pytest.mark.gpu
def test_a_job_on_cuda_makes_what_it_makes_on_the_cpu(tmp_path: Path) -> None:
    """Everything on the device, with the weights that come along; and the CPU's stages."""
    source = Path(__file__).parent.parent / "samples" / "talk.mp4"
    made = {}
    for device in ("cuda", "cpu"):
        made[device] = tmp_path / f"{device}.mkv"
        run(job(source, made[device], every=1, end_s=Fraction(2), device=device, precision="fp32"))
    mean, _ = difference(made["cuda"], made["cpu"])
    assert mean < 0.5
    again = tmp_path / "again.mkv"
    run(job(source, again, every=1, end_s=Fraction(2), device="cuda", precision="fp32"))
    assert difference(made["cuda"], again) == (0, 0)
    half = tmp_path / "half.mkv"
    run(job(source, half, every=1, end_s=Fraction(2), device="cuda", precision="fp16"))
    mean, _ = difference(made["cuda"], half)
    assert mean < 0.5
