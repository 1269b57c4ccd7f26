"""The network segmenter: sizes, what it computes, precision, devices, memory."""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import built, random_network, random_u2netp, randomise
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from programs import told_by
from safetensors.torch import save_file

from vidbg.errors import DeviceError, WeightsError
from vidbg.matting import segmenter as segmenter_module
from vidbg.matting.segmenter import NetworkSegmenter, Segmenter, load_segmenter
from vidbg.matting.weights import spec_of

Pictures = NDArray[np.uint8]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_u2netp(tmp_path_factory.mktemp("weights") / "random.safetensors")


@pytest.fixture(scope="module")
def segmenter(checkpoint: Path) -> NetworkSegmenter:
    return load_segmenter(weights=checkpoint, device="cpu")


def pictures(count: int, height: int = 64, width: int = 96, seed: int = 0) -> Pictures:
    """Smooth colour and noise: something to see at every level of the network."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = rng.uniform(0.02, 0.2, (count, 1, 1, 3, 2)) @ np.stack([y.ravel(), x.ravel()])
    smooth = 128 + 90 * np.sin(waves.reshape(count, 3, height, width))
    noisy = smooth.transpose(0, 2, 3, 1) + rng.normal(0, 15, (count, height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def reference_matte(network: torch.nn.Module, rgb: Pictures) -> NDArray[np.float64]:
    """The published recipe, plainly and in float64: normalise, batch norm as it is, sigmoid."""
    x = (rgb / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        logits = network.double()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    return torch.sigmoid(logits)[:, 0].numpy()


def model(seed: int = 0) -> NetworkSegmenter:
    return NetworkSegmenter(
        random_network(seed), spec_of("u2netp"), "random", torch.device("cpu"), "fp32"
    )


# Hypothesis does not mix with fixtures of function scope.
SIZES = model()


# Sizes


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1920, 1080, (256, 448)),
        (3840, 2160, (256, 448)),
        (1920, 1088, (256, 448)),
        (1080, 1920, (448, 256)),
        (640, 480, (288, 384)),
        (500, 500, (320, 320)),
        (1, 1, (320, 320)),
        (100_000, 10, (160, 640)),
        (10, 100_000, (640, 160)),
    ],
)
def test_input_size_of_common_and_extreme_clips(
    segmenter: NetworkSegmenter, width: int, height: int, expected: tuple[int, int]
) -> None:
    assert segmenter.input_size(width, height) == expected


def test_input_size_follows_the_display_aspect_of_anamorphic_clips(
    segmenter: NetworkSegmenter,
) -> None:
    # PAL at 16:9: 720x576 with pixels 64:45 is 1024x576 on a display.
    assert segmenter.input_size(720, 576, Fraction(64, 45)) == segmenter.input_size(1024, 576)
    assert segmenter.input_size(720, 576, Fraction(64, 45)) != segmenter.input_size(720, 576)


@given(width=st.integers(1, 20_000), height=st.integers(1, 20_000), sar=st.fractions(0.1, 10))
def test_input_size_properties(width: int, height: int, sar: Fraction) -> None:
    rows, columns = SIZES.input_size(width, height, sar)
    assert rows % 32 == 0
    assert columns % 32 == 0
    assert 0.8 <= rows * columns / 320**2 <= 1.25
    aspect = min(max(float(width * sar / height), 0.25), 4.0)
    assert abs(math.log(columns / rows / aspect)) < math.log(1.08)
    # A clip turned by 90 degrees is seen turned by 90 degrees.
    assert SIZES.input_size(height, width, 1 / sar) == (columns, rows)


@pytest.mark.parametrize(("width", "height", "sar"), [(0, 10, 1), (10, 0, 1), (10, 10, 0)])
def test_input_size_refuses_what_is_no_size(
    segmenter: NetworkSegmenter, width: int, height: int, sar: int
) -> None:
    with pytest.raises(ValueError, match="no such frame"):
        segmenter.input_size(width, height, Fraction(sar))


# What it computes


def test_matte_is_the_sigmoid_of_the_normalised_picture(segmenter: NetworkSegmenter) -> None:
    # The second picture is dark and the third flat: dividing by a frame's maximum or
    # stretching a matte would show in them.
    rgb = pictures(3)
    rgb[1] //= 4
    rgb[2] = (10, 120, 60)
    matte = segmenter(rgb)
    assert matte.dtype == np.float32
    expected = reference_matte(random_network(), rgb)
    assert expected.std(axis=(1, 2)).min() > 0.001
    np.testing.assert_allclose(matte, expected, atol=1e-5)


def test_folding_batch_norm_changes_nothing_but_the_work() -> None:
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)).double()
    folded = random_network().double()
    segmenter_module._fold_batch_norm(folded)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(x), random_network().double()(x), rtol=0, atol=1e-10)


def test_batch_norm_of_every_block_of_vidbg_s_is_folded() -> None:
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)).double()
    folded, plain = (randomise(built("vidbg-s")).double() for _ in range(2))
    segmenter_module._fold_batch_norm(folded)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(x), plain(x), rtol=0, atol=1e-10)


def test_a_batch_of_n_equals_n_of_one(segmenter: NetworkSegmenter) -> None:
    rgb = pictures(5)
    singly = np.concatenate([segmenter(rgb[n : n + 1]) for n in range(5)])
    assert np.abs(singly[0] - singly[1]).max() > 0.05
    np.testing.assert_allclose(segmenter(rgb), singly, atol=1e-5)


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_flat_frames_stay_finite_and_in_range(segmenter: NetworkSegmenter, level: int) -> None:
    matte = segmenter(np.full((1, 64, 96, 3), level, np.uint8))
    assert np.isfinite(matte).all()
    assert 0 <= matte.min() <= matte.max() <= 1


def test_any_memory_layout_is_read_and_none_is_written(segmenter: NetworkSegmenter) -> None:
    rgb = pictures(2)
    expected = segmenter(rgb)
    backwards = rgb[:, :, ::-1].copy()[:, :, ::-1]
    backwards.flags.writeable = False
    np.testing.assert_array_equal(segmenter(backwards), expected)
    frozen = np.frombuffer(rgb.tobytes(), np.uint8).reshape(rgb.shape)
    np.testing.assert_array_equal(segmenter(frozen), expected)
    np.testing.assert_array_equal(rgb, pictures(2))


def test_works_in_a_thread_of_its_own(segmenter: NetworkSegmenter) -> None:
    # Gradients are on by default in every new thread; NumPy refuses tensors that track them.
    rgb = pictures(1)
    mattes: list[NDArray[np.float32]] = []
    thread = threading.Thread(target=lambda: mattes.append(segmenter(rgb)))
    thread.start()
    thread.join(60)
    np.testing.assert_array_equal(mattes[0], segmenter(rgb))


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 3, 64, 64), np.uint8),
        np.zeros((1, 64, 64, 3), np.float32),
    ],
)
def test_other_arrays_are_refused(segmenter: NetworkSegmenter, rgb: Pictures) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        segmenter(rgb)


def test_keeps_to_the_protocol(segmenter: NetworkSegmenter) -> None:
    as_protocol: Segmenter = segmenter
    assert as_protocol.name == "random"
    assert segmenter.device == torch.device("cpu")
    assert segmenter.precision == "fp32"
    assert segmenter.batch_size(64, 96) == 1


# Precision


def test_half_precision_checkpoints_compute_in_fp32_on_the_cpu(tmp_path: Path) -> None:
    state_dict = random_network().half().state_dict()
    save_file(state_dict, tmp_path / "half.safetensors")
    rgb = pictures(1)
    expected = reference_matte(random_network().half(), rgb)
    matte = load_segmenter(weights=tmp_path / "half.safetensors", device="cpu")(rgb)
    np.testing.assert_allclose(matte, expected, atol=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.08), ("fp16", 0.01)])
def test_half_precisions_come_close(precision: str, tolerance: float) -> None:
    # The code path of a GPU, with its tensors on the CPU.
    rgb = pictures(1)
    half = NetworkSegmenter(
        random_network(), spec_of("u2netp"), "half", torch.device("cpu"), precision
    )
    matte = half(rgb)
    assert matte.dtype == np.float32
    assert half.precision == precision
    error = np.abs(matte - reference_matte(random_network(), rgb))
    assert 0 < error.mean() < tolerance


def test_maps_that_overflow_in_half_precision_are_made_in_fp32(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = random_network()
    with torch.no_grad():  # half precision ends at 65504
        network.stage1.rebnconvin.bn_s1.weight.mul_(1e4)
        network.stage1.rebnconvin.bn_s1.bias.fill_(6e4)
    half = NetworkSegmenter(network, spec_of("u2netp"), "loud", torch.device("cpu"), "fp16")
    assert half.precision == "fp16"
    with caplog.at_level(logging.WARNING):
        matte = half(pictures(1))
    assert np.isfinite(matte).all()
    assert half.precision == "fp32"
    assert [record.getMessage() for record in caplog.records] == [
        "loud overflows in fp16: going on in fp32"
    ]


def test_weights_that_overflow_in_half_precision_stay_in_fp32(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network, twin = random_network(), random_network()
    with torch.no_grad():
        for each in (network, twin):
            each.stage1.rebnconvin.bn_s1.weight.mul_(1e6)
    with caplog.at_level(logging.WARNING):
        half = NetworkSegmenter(network, spec_of("u2netp"), "loud", torch.device("cpu"), "fp16")
    assert half.precision == "fp32"
    assert [record.getMessage() for record in caplog.records] == [
        "the weights of loud overflow in fp16: using fp32"
    ]
    np.testing.assert_allclose(half(pictures(1)), reference_matte(twin, pictures(1)), atol=0.02)


def test_statistics_that_overflow_in_half_precision_stay_in_fp32() -> None:
    # Batch norm that no convolution of ours precedes is not folded: it has to fit as it is.
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1), torch.nn.BatchNorm2d(1))
    network[1].running_var.fill_(1e5)
    network[1].num_batches_tracked.fill_(10**6)  # a count, which is not converted
    cpu = torch.device("cpu")
    assert NetworkSegmenter(network, spec_of("u2netp"), "odd", cpu, "fp16").precision == "fp32"
    network[1].running_var.fill_(6e4)
    assert NetworkSegmenter(network, spec_of("u2netp"), "odd", cpu, "fp16").precision == "fp16"


def test_output_that_is_not_finite_is_an_error() -> None:
    network = random_network()
    with torch.no_grad():
        network.stage1.rebnconvin.bn_s1.weight.fill_(3e38)
    loud = NetworkSegmenter(network, spec_of("u2netp"), "loud", torch.device("cpu"), "fp32")
    with pytest.raises(WeightsError, match="output of loud is not finite"):
        loud(pictures(1))


@pytest.mark.parametrize(
    ("precision", "message"),
    [("fp16", "not for the CPU"), ("fp64", "no precision called 'fp64'")],
)
def test_precisions_that_are_not_offered(checkpoint: Path, precision: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        load_segmenter(weights=checkpoint, device="cpu", precision=precision)


# Devices


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", ""])
def test_unknown_devices(checkpoint: Path, device: str) -> None:
    with pytest.raises(DeviceError, match="no device called"):
        load_segmenter(weights=checkpoint, device=device)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps"])
def test_devices_that_are_not_there(
    checkpoint: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"device on this machine.*--device cpu"):
        load_segmenter(weights=checkpoint, device=device)
    assert load_segmenter(weights=checkpoint, device="auto").device == torch.device("cpu")


def test_a_cuda_device_beyond_the_last(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match=r"no cuda:2 on this machine.*cuda:1"):
        load_segmenter(weights=checkpoint, device="cuda:2")


def test_a_device_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a build without CUDA, moving there fails as on a device that another process holds.
    monkeypatch.setattr(torch.nn.Module, "to", _refuse)
    with pytest.raises(DeviceError, match=r"^cpu cannot be used: device is busy$"):
        model()


def _refuse(*args: object, **options: object) -> None:
    raise RuntimeError("device is busy\nCompile with ...")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 0.02)])
def test_cuda_agrees_with_the_cpu(checkpoint: Path, precision: str, tolerance: float) -> None:
    on_gpu = load_segmenter(weights=checkpoint, device="cuda", precision=precision)
    rgb = pictures(3)
    np.testing.assert_allclose(on_gpu(rgb), model()(rgb), atol=tolerance)
    assert on_gpu.batch_size(256, 448) > 1


def test_threads_of_pytorch_are_set(checkpoint: Path) -> None:
    before = torch.get_num_threads()
    try:
        load_segmenter(weights=checkpoint, device="cpu", precision="bf16", threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ValueError, match="0 threads"):
        load_segmenter(weights=checkpoint, device="cpu", threads=0)


# Memory


class SmallMemory(torch.nn.Module):
    """A network on a device that holds so many pictures at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.network = random_network()
        self.room = room
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        if len(x) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        out: torch.Tensor = self.network(x)
        return out


def test_out_of_memory_halves_the_batch_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    network = SmallMemory(room=2)
    small = NetworkSegmenter(network, spec_of("u2netp"), "small", torch.device("cpu"), "fp32")
    rgb = pictures(7)
    with caplog.at_level(logging.WARNING):
        matte = small(rgb)
    assert network.batches == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert len(caplog.records) == 2
    assert "going on with 1 pictures" in caplog.records[-1].getMessage()
    np.testing.assert_allclose(matte, model()(rgb), atol=1e-5)
    small(rgb[:2])
    assert network.batches[9:] == [1, 1]


def test_memory_for_not_even_one_picture_is_an_error() -> None:
    none = NetworkSegmenter(
        SmallMemory(room=0), spec_of("u2netp"), "none", torch.device("cpu"), "fp32"
    )
    with pytest.raises(DeviceError, match=r"does not hold one picture of 96x64.*--device cpu"):
        none(pictures(2))


@pytest.mark.skipif(sys.platform != "linux", reason="about glibc's allocator")
def test_feature_maps_are_not_mapped_afresh_for_every_frame(checkpoint: Path) -> None:
    program = f"""
        import resource
        from pathlib import Path
        import numpy as np
        from vidbg.matting import engines
        from vidbg.matting.segmenter import load_segmenter
        engines.is_installed = lambda: False
        segmenter = load_segmenter(weights=Path({str(checkpoint)!r}), device="cpu", threads=1)
        rgb = np.zeros((1, 256, 448, 3), np.uint8)
        segmenter(rgb)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        segmenter(rgb)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    told = told_by(program)
    # 50,000 and more without the setting, under 11,000 with it.
    assert int(told) < 25_000


# Loading


def test_the_default_model_is_used_when_nothing_is_asked_for(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ensure(name: str, progress: object) -> Path:
        asked.append(name)
        return checkpoint

    monkeypatch.setattr(segmenter_module, "ensure", ensure)
    monkeypatch.setattr(segmenter_module, "read_once", lambda path, spec: path.read_bytes())
    monkeypatch.setattr(segmenter_module, "default_model", lambda: "u2netp")
    assert load_segmenter(device="cpu").name == "u2netp"
    assert load_segmenter("u2netp", device="cpu").name == "u2netp"
    assert asked == ["u2netp", "u2netp"]


def test_the_default_is_built_in_and_the_projects_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIDBG_WEIGHTS_DIR", str(tmp_path / "never made"))
    network = load_segmenter(device="cpu")
    assert network.name == "vidbg-s"
    assert network.input_size(1920, 1080) == (256, 448)
    assert not (tmp_path / "never made").exists()


def test_no_download_for_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def ensure(name: str) -> Path:
        pytest.fail(f"{name} was asked for")

    monkeypatch.setattr(segmenter_module, "ensure", ensure)
    with pytest.raises(DeviceError):
        load_segmenter(device="abacus")


def test_an_unknown_model_is_named_with_the_known_ones() -> None:
    with pytest.raises(WeightsError, match=r"'u3net'.*u2netp, u2net"):
        load_segmenter("u3net", device="cpu")


def test_a_file_of_another_architecture_than_asked_for(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match="holds a u2netp, but what was asked for is a u2net"):
        load_segmenter("u2net", weights=checkpoint, device="cpu")


@pytest.mark.parametrize(
    ("name", "side_px"), [("vidbg-s", 320), ("u2netp", 320), ("unet-resnet34", 256)]
)
def test_weights_of_every_architecture_run(tmp_path: Path, name: str, side_px: int) -> None:
    network = randomise(built(name))
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    mine = load_segmenter(weights=tmp_path / "mine.pth", device="cpu")
    assert mine.name == "mine"
    assert mine.input_size(500, 500) == (side_px, side_px)
    rgb = pictures(2)
    expected = reference_matte(network, rgb)
    assert expected.std() > 0.001
    np.testing.assert_allclose(mine(rgb), expected, atol=1e-5)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_the_size_of_training_is_taken_from_the_file(tmp_path: Path, ending: str) -> None:
    path, state_dict = tmp_path / f"mine{ending}", random_network().state_dict()
    if ending == ".pth":
        torch.save({"model": state_dict, "input_side_px": 192}, path)
    else:
        save_file(state_dict, path, {"input_side_px": "192"})
    for model_name in (None, "u2netp"):
        mine = load_segmenter(model_name, weights=path, device="cpu")
        assert mine.input_size(500, 500) == (192, 192)


def test_a_default_below_target_says_so_unless_it_was_chosen(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    short = replace(spec_of("u2netp"), below_target="its mean J is 88 % of that of others")
    monkeypatch.setattr(segmenter_module, "spec_of", lambda name: short)
    monkeypatch.setattr(segmenter_module, "ensure", lambda name, progress: checkpoint)
    monkeypatch.setattr(segmenter_module, "read_once", lambda path, spec: path.read_bytes())
    with caplog.at_level(logging.INFO):
        load_segmenter("u2netp", device="cpu")
        load_segmenter(weights=checkpoint, device="cpu")
        assert not any("below target" in message for message in caplog.messages)
        load_segmenter(device="cpu")
    (message,) = (message for message in caplog.messages if "below target" in message)
    assert "its mean J is 88 % of that of others" in message
    assert "--model u2netp (downloads 4.7 MB once)" in message


Edit = Callable[[dict[str, torch.Tensor]], object]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("side4.bias"), r"does not fit u2netp: side4.bias is missing$"),
        (
            lambda d: d.update({"head.weight": torch.zeros(3)}),
            r"does not fit u2netp: head.weight is not known$",
        ),
        (
            lambda d: d.update({"side2.weight": torch.zeros(1, 32, 3, 3)}),
            r"side2.weight is \(1, 32, 3, 3\) in place of \(1, 64, 3, 3\)$",
        ),
        (
            lambda d: [d.pop(f"side{n}.bias") for n in range(1, 7)],
            r"side1.bias is missing, and 5 more$",
        ),
        (lambda d: d.pop("outconv.weight"), "none of the networks vidbg-s, .* found 797 tensors"),
    ],
)
def test_checkpoints_that_do_not_fit_name_the_first_difference(
    tmp_path: Path, edit: Edit, message: str
) -> None:
    state_dict = random_network().state_dict()
    edit(state_dict)
    path = tmp_path / "odd.safetensors"
    save_file(state_dict, path)
    with pytest.raises(WeightsError, match=message) as caught:
        load_segmenter(weights=path, device="cpu")
    assert caught.value.path == path


def test_old_checkpoints_without_step_counts_load(tmp_path: Path, checkpoint: Path) -> None:
    state_dict = random_network().state_dict()
    old = {n: t for n, t in state_dict.items() if not n.endswith("num_batches_tracked")}
    save_file(old, tmp_path / "old.safetensors")
    rgb = pictures(1)
    np.testing.assert_array_equal(
        load_segmenter(weights=tmp_path / "old.safetensors", device="cpu")(rgb),
        load_segmenter(weights=checkpoint, device="cpu")(rgb),
    )
