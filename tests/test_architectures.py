"""The networks that vidbg knows: what each takes and gives, and whose weights are whose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import built, random_network, randomise

from vidbg.errors import VidbgError, WeightsError
from vidbg.matting import architectures
from vidbg.matting.architectures import NAMES, architecture_of, build, load_network


@pytest.mark.parametrize(
    ("name", "coarser"),
    [
        ("vidbg-s", [(64, 96), (16, 24), (8, 12), (4, 6), (2, 3)]),
        ("u2netp", [(64, 96)] * 6),
        ("unet-resnet34", []),
    ],
)
def test_networks_take_and_give_the_same(name: str, coarser: list[tuple[int, int]]) -> None:
    network = randomise(built(name))
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        fused, maps = network(x), network(x, side_outputs=True)
    assert fused.shape == (2, 1, 64, 96)
    assert float(fused.min()) < 0 or float(fused.max()) > 1  # logits
    assert isinstance(maps, tuple)
    torch.testing.assert_close(maps[0], fused)
    assert [tuple(side.shape) for side in maps[1:]] == [(2, 1, *size) for size in coarser]


@pytest.mark.parametrize("name", NAMES)
def test_weights_tell_their_architecture(name: str) -> None:
    with torch.device("meta"):
        state_dict = built(name).state_dict()
    assert architecture_of(state_dict) == name
    # No other signature fits these weights: the order of the table does not matter.
    fitting = [
        known.name
        for known in architectures.ARCHITECTURES.values()
        if all(n in state_dict and state_dict[n].shape == s for n, s in known.signature.items())
    ]
    assert fitting == [name]


def test_two_builds_differ() -> None:
    one, other = (build("u2netp").state_dict()["outconv.weight"] for _ in range(2))
    assert not torch.equal(one, other)


def test_unknown_names_are_told_the_known_ones() -> None:
    with pytest.raises(WeightsError, match=r"'u3net'.*vidbg-s, u2net, u2netp, unet-resnet34"):
        build("u3net")


def test_other_networks_are_told_what_was_found() -> None:
    foreign = {"layer1.conv.weight": torch.zeros(8, 3, 7, 7), "fc.bias": torch.zeros(8)}
    with pytest.raises(WeightsError, match=r"found 2 tensors, the first called layer1.conv.weight"):
        architecture_of(foreign)
    with pytest.raises(WeightsError, match=r"found 0 tensors"):
        architecture_of({})
    # U-2-Net trained for three kinds of clothes and background.
    clothes = random_network().state_dict() | {"outconv.weight": torch.zeros(4, 24, 1, 1)}
    with pytest.raises(WeightsError, match=r"found .*outconv.weight \(4, 24, 1, 1\)"):
        architecture_of(clothes)


def test_a_loaded_network_has_the_weights_of_the_file(tmp_path: Path) -> None:
    network = random_network(5)
    torch.save({"model": network.state_dict(), "input_side_px": 256}, tmp_path / "w.pth")
    trained = load_network(tmp_path / "w.pth", expected="u2netp")
    assert trained.architecture.name == "u2netp"
    assert trained.input_side_px == 256
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])


def test_names_cost_no_torch() -> None:
    program = (
        "import sys; from vidbg.matting.architectures import NAMES; "
        "sys.exit(not NAMES or 'torch' in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=60, cwd=Path(__file__).parents[1]
    )


@pytest.mark.parametrize("package", ["segmentation_models_pytorch", "torchvision"])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    built("unet-resnet34")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(VidbgError, match=rf'{package}.*pip install "vidbg\[unet\]"') as caught:
        build("unet-resnet34")
    assert "\n" not in str(caught.value)


def test_a_torchvision_of_another_build_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('CUDA 11 and 12\\nstack ...')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(VidbgError, match=r"\(CUDA 11 and 12\)\. Install a torchvision"):
        build("unet-resnet34")
