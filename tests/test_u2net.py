"""The networks against the published parameter names and against the ONNX export of U-2-Net-p."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import random_network
from numpy.typing import NDArray

from vidbg.matting.u2net import U2NET, U2NETP

CHECKPOINT = "data/weights/u2netp_fp16.pth"
ONNX = "data/weights/u2netp.onnx"


def published_u2netp(shared_dir: Path) -> U2NETP:
    network = U2NETP()
    network.load_state_dict(torch.load(shared_dir / CHECKPOINT, weights_only=True), strict=True)
    return network.eval()


def picture() -> NDArray[np.uint8]:
    """A shaded ball on a leg before a gradient, 320x320, by integer arithmetic alone."""
    y, x = np.mgrid[0:320, 0:320]
    rgb = np.stack([60 + x // 8, 90 + y // 8, 120 + (x + y) // 16], axis=-1)
    ball = (x - 160) ** 2 + (y - 170) ** 2 < 70**2
    rgb[ball] = np.stack([220 - y // 4, 60 + x // 8, 40 + 0 * x], axis=-1)[ball]
    rgb[(abs(x - 160) < 20) & (y >= 230) & (y < 300)] = (210, 200, 190)
    return rgb.astype(np.uint8)


def normalised(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    x = (rgb / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return x.transpose(2, 0, 1)[None].astype(np.float32)


# What ONNX Runtime 1.31 makes of u2netp.onnx's d0 for normalised(picture()): (row, column) to
# probability, background, subject and soft edges. Not computed by this project's network.
ONNX_D0 = {
    (10, 10): 0.000016,
    (100, 160): 0.421402,
    (99, 120): 0.000003,
    (170, 160): 0.999996,
    (170, 85): 0.000049,
    (170, 88): 0.001335,
    (170, 91): 0.919101,
    (170, 94): 0.999141,
    (235, 160): 0.999777,
    (260, 160): 0.999974,
    (260, 138): 0.000405,
    (260, 142): 0.998040,
    (298, 160): 0.995572,
    (303, 160): 0.000685,
    (101, 130): 0.000075,
    (240, 180): 0.479139,
}
ONNX_D0_MEAN = 0.17419645
ONNX_D0_STD = 0.37695703


@pytest.mark.parametrize(("architecture", "count"), [(U2NET, 44_009_869), (U2NETP, 1_131_181)])
def test_parameter_count_is_the_published_one(architecture: type, count: int) -> None:
    with torch.device("meta"):
        network = architecture()
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize(
    ("architecture", "name", "shape"),
    [
        (U2NET, "stage1.rebnconvin.conv_s1.weight", (64, 3, 3, 3)),
        (U2NET, "stage1.rebnconv1.conv_s1.weight", (32, 64, 3, 3)),
        (U2NET, "stage1.rebnconv7.bn_s1.running_var", (32,)),
        (U2NET, "stage1.rebnconv6d.conv_s1.weight", (32, 64, 3, 3)),
        (U2NET, "stage1.rebnconv1d.conv_s1.weight", (64, 64, 3, 3)),
        (U2NET, "stage2.rebnconv6.conv_s1.weight", (32, 32, 3, 3)),
        (U2NET, "stage3.rebnconv5.conv_s1.bias", (64,)),
        (U2NET, "stage4.rebnconv4.bn_s1.weight", (128,)),
        (U2NET, "stage5.rebnconv4.conv_s1.weight", (256, 256, 3, 3)),
        (U2NET, "stage6.rebnconv3d.bn_s1.num_batches_tracked", ()),
        (U2NET, "stage5d.rebnconvin.conv_s1.weight", (512, 1024, 3, 3)),
        (U2NET, "stage4d.rebnconvin.conv_s1.weight", (256, 1024, 3, 3)),
        (U2NET, "stage3d.rebnconv1d.conv_s1.weight", (128, 128, 3, 3)),
        (U2NET, "stage2d.rebnconvin.conv_s1.weight", (64, 256, 3, 3)),
        (U2NET, "stage1d.rebnconv1.conv_s1.weight", (16, 64, 3, 3)),
        (U2NET, "side3.weight", (1, 128, 3, 3)),
        (U2NET, "side6.weight", (1, 512, 3, 3)),
        (U2NETP, "stage1.rebnconv1.conv_s1.weight", (16, 64, 3, 3)),
        (U2NETP, "stage5.rebnconv2d.conv_s1.weight", (16, 32, 3, 3)),
        (U2NETP, "stage1d.rebnconvin.conv_s1.weight", (64, 128, 3, 3)),
        (U2NETP, "side6.bias", (1,)),
        (U2NETP, "outconv.weight", (1, 6, 1, 1)),
    ],
)
def test_parameters_are_named_and_shaped_as_published(
    architecture: type, name: str, shape: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        state_dict = architecture().state_dict()
    # 112 blocks of convolution and batch norm (2 + 5 tensors), 6 side maps, 1 fusion.
    assert len(state_dict) == 112 * 7 + 7 * 2
    assert tuple(state_dict[name].shape) == shape


@pytest.mark.shared
def test_published_checkpoint_agrees_with_the_stored_onnx_output(shared_dir: Path) -> None:
    network = published_u2netp(shared_dir)
    with torch.inference_mode():
        d0 = torch.sigmoid(network(torch.from_numpy(normalised(picture()))))[0, 0]
    for (row, column), probability in ONNX_D0.items():
        assert d0[row, column].item() == pytest.approx(probability, abs=1e-4)
    assert d0.mean().item() == pytest.approx(ONNX_D0_MEAN, abs=1e-5)
    assert d0.std(correction=0).item() == pytest.approx(ONNX_D0_STD, abs=1e-5)


@pytest.mark.shared
def test_all_seven_maps_agree_with_onnx_runtime(shared_dir: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        str(shared_dir / ONNX), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(1, 3, 320, 320)).astype(np.float32)
    network = published_u2netp(shared_dir)
    for x in (normalised(picture()), noise):
        expected = session.run([f"d{n}" for n in range(7)], {"input": x})
        with torch.inference_mode():
            maps = network(torch.from_numpy(x), side_outputs=True)
        for ours, theirs in zip(maps, expected, strict=True):
            np.testing.assert_allclose(torch.sigmoid(ours).numpy(), theirs, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 97), (33, 32)])
def test_output_has_the_size_of_the_input(height: int, width: int) -> None:
    x = torch.zeros(2, 3, height, width)
    with torch.inference_mode():
        assert random_network()(x).shape == (2, 1, height, width)


def test_the_fused_map_is_the_weighted_sum_of_the_side_outputs() -> None:
    network = random_network()
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        fused, *sides = network(x, side_outputs=True)
        alone = network(x)
        weights = network.outconv.weight.flatten()
        expected = sum(w * s for w, s in zip(weights, sides, strict=True)) + network.outconv.bias
    assert len(sides) == 6
    assert all(side.shape == fused.shape for side in sides)
    torch.testing.assert_close(fused, expected)
    torch.testing.assert_close(alone, fused, rtol=0, atol=0)


def test_training_reaches_every_parameter() -> None:
    network = random_network().train()
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    maps = network(x, side_outputs=True)
    target = torch.zeros_like(maps[0])
    loss = sum(torch.nn.functional.binary_cross_entropy_with_logits(m, target) for m in maps)
    loss.backward()
    without = [n for n, p in network.named_parameters() if p.grad is None]
    assert not without
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
