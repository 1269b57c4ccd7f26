"""Networks as files to hand on: what is in them, what is refused, what is left behind."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import built, random_network, randomise
from safetensors import safe_open
from torch import nn

from vidbg.cli import dispatch
from vidbg.cli.main import main
from vidbg.errors import OutputError, WeightsError
from vidbg.matting.segmenter import load_segmenter
from vidbg.training import export as export_module
from vidbg.training.export import export, matte, pictures

onnx = pytest.importorskip("onnx", reason='onnx is not installed: pip install "vidbg[train]"')
onnxruntime = pytest.importorskip("onnxruntime", reason='pip install "vidbg[train]"')

Command = Callable[..., int]


def save(network: nn.Module, path: Path, **facts: object) -> Path:
    """Save a network as a training run does, with all that goes with it."""
    optimizer = torch.optim.AdamW(network.parameters())
    sum(p.square().sum() for p in network.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    state = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "step": 1, **facts}
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return randomise(built("vidbg-s"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, network: nn.Module) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    return save(network, folder / "best.pth", recipe='{"seed": 1}', input_side_px=288)


@pytest.fixture
def checkpoint(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(trained, tmp_path / "best.pth"))


@pytest.fixture
def vidbg(monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line in this process, without its handlers of signals; returns its status."""
    monkeypatch.setattr(dispatch, "_unwind_on_signals", lambda: None)
    monkeypatch.setattr("vidbg.cli.main.heed_signals", lambda _: None)

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# What is in them


def test_both_files_are_written_beside_the_checkpoint(
    vidbg: Command, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert vidbg("export", checkpoint) == 0
    folder = checkpoint.parent
    assert names(folder) == {"best.pth", "best.safetensors", "best.onnx"}
    out, err = capfd.readouterr()
    assert out == f"{folder / 'best.safetensors'}\n{folder / 'best.onnx'}\n"
    lines = err.splitlines()  # nothing of what torch and onnxruntime have to say
    assert len(lines) == 2
    assert all(line.startswith("vidbg-s, ") and "differ by at most" in line for line in lines)


def test_safetensors_hold_half_precision_that_runs(checkpoint: Path, network: nn.Module) -> None:
    path = checkpoint.with_suffix(".safetensors")
    (done,) = export(checkpoint, [path])
    assert 0 < done.difference < 0.002
    assert (
        done.size_bytes
        == path.stat().st_size
        < 0.55 * 4 * sum(parameter.numel() for parameter in network.parameters())
    )
    assert path.stat().st_mode & 0o777 == checkpoint.stat().st_mode & 0o777
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"architecture": "vidbg-s", "input_side_px": "288"}
        own = network.state_dict()
        assert set(file.keys()) == set(own)
        for name in own:
            tensor = file.get_tensor(name)
            if own[name].is_floating_point():
                torch.testing.assert_close(tensor, own[name].half(), rtol=0, atol=0)
            else:
                assert torch.equal(tensor, own[name])
    segmenter = load_segmenter(weights=path, device="cpu")
    assert segmenter.input_size(100, 100) == (288, 288)


@pytest.mark.parametrize("name", ["vidbg-s", "u2netp", "unet-resnet34"])
def test_onnx_computes_what_the_network_does(name: str, tmp_path: Path) -> None:
    network = randomise(built(name))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    (done,) = export(tmp_path / "w.pth", [tmp_path / "w.onnx"])
    assert done.architecture == name
    model = onnx.load(tmp_path / "w.onnx")
    assert [(o.domain, o.version >= 17) for o in model.opset_import] == [("", True)]
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["architecture"] == name
    assert facts["mean"] == "0.485 0.456 0.406"
    assert facts["std"] == "0.229 0.224 0.225"
    session = onnxruntime.InferenceSession(tmp_path / "w.onnx", providers=["CPUExecutionProvider"])
    ((given,), (taken,)) = session.get_outputs(), session.get_inputs()
    assert (taken.name, taken.shape) == ("input", ["batch", 3, "height", "width"])
    assert (given.name, given.shape[0], given.shape[2:]) == ("matte", "batch", ["height", "width"])
    # Sizes that neither the tracing nor the check of the export has seen.
    generator = torch.Generator().manual_seed(9)
    for shape in [(1, 3, 192, 64), (3, 3, 32, 160)]:
        x = torch.randn(shape, generator=generator)
        (found,) = session.run(None, {"input": x.numpy()})
        with torch.no_grad():
            expected = torch.sigmoid(network.double()(x.double()))
        assert expected.std() > 0.001
        torch.testing.assert_close(torch.tensor(found).double(), expected, rtol=0, atol=1e-5)


def test_statistics_beyond_half_precision_stay_usable(tmp_path: Path) -> None:
    network = random_network()
    block = network.stage3.rebnconvin
    with torch.no_grad():  # the same function with a variance that overflows in half precision
        block.conv_s1.weight.mul_(1000)
        block.conv_s1.bias.mul_(1000)
        block.bn_s1.running_mean.mul_(1000)
        block.bn_s1.running_var.mul_(1e6)
    plain = matte(random_network(), pictures(1, 64, 64))
    torch.testing.assert_close(matte(network, pictures(1, 64, 64)), plain, rtol=0, atol=1e-4)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    (done,) = export(tmp_path / "w.pth", [tmp_path / "w.safetensors"])
    assert done.difference < 0.005
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        single = {n for n in file.keys() if file.get_tensor(n).dtype == torch.float32}  # noqa: SIM118
    assert single == {"stage3.rebnconvin.bn_s1.running_var"}


def test_pictures_are_normalised_and_vary() -> None:
    x = pictures(2, 64, 96)
    assert x.shape == (2, 3, 64, 96)
    assert float(x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(x.std()) == pytest.approx(1, abs=1e-5)
    assert not torch.equal(x[0], x[1])
    assert torch.equal(x, pictures(2, 64, 96))


# What is refused


def test_weights_that_half_precision_ruins_are_not_exported(
    vidbg: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = random_network()
    with torch.no_grad():  # 2049 - 2048 = 1, but 2049 is 2048 in half precision
        network.outconv.weight[0, 5] = 1
        network.side6.bias.fill_(2049)
        network.outconv.bias.fill_(-2048)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    assert vidbg("export", tmp_path / "w.pth") == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "safetensors file differ by up to 0." in err
    assert names(tmp_path) == {"w.pth"}


@pytest.mark.parametrize(
    ("ending", "tolerance"),
    [(".safetensors", "SAFETENSORS_TOLERANCE"), (".onnx", "ONNX_TOLERANCE")],
)
def test_a_file_that_differs_too_much_does_not_replace_the_old_one(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, ending: str, tolerance: str
) -> None:
    path = checkpoint.with_suffix(ending)
    path.write_bytes(b"old")
    monkeypatch.setattr(export_module, tolerance, 1e-12)
    with pytest.raises(WeightsError, match="differ by up to"):
        export(checkpoint, [path], overwrite=True)
    assert path.read_bytes() == b"old"
    assert names(checkpoint.parent) == {"best.pth", path.name}


def test_files_are_replaced_only_if_asked(
    vidbg: Command, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint.with_suffix(".safetensors")
    path.write_bytes(b"old")
    assert vidbg("export", checkpoint) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"vidbg: {path}: exists already. Use -y to overwrite it"
    assert path.read_bytes() == b"old"
    assert names(checkpoint.parent) == {"best.pth", "best.safetensors"}
    assert vidbg("export", checkpoint, "--format", "safetensors", "-y") == 0
    assert path.stat().st_size > 1_000_000
    assert names(checkpoint.parent) == {"best.pth", "best.safetensors"}


def test_a_file_that_appears_meanwhile_is_kept(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint.with_suffix(".safetensors")

    def write(trained: object, part: Path, expected: object) -> float:
        part.write_bytes(b"ours")
        path.write_bytes(b"theirs")
        return 0.0

    monkeypatch.setitem(export_module.FORMATS, ".safetensors", write)
    with pytest.raises(OutputError, match="appeared while the job ran"):
        export(checkpoint, [path])
    assert path.read_bytes() == b"theirs"
    assert names(checkpoint.parent) == {"best.pth", "best.safetensors"}


def test_the_ending_of_the_output_says_what_to_write(vidbg: Command, checkpoint: Path) -> None:
    assert vidbg("export", checkpoint, "-o", checkpoint.parent / "net.ONNX") == 0
    assert names(checkpoint.parent) == {"best.pth", "net.ONNX"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["best.pth", "-o", "net.pth"], [".safetensors or .onnx"]),
        (["best.pth", "-o", "net"], [".safetensors or .onnx"]),
        (["best.pth", "-o", "net.onnx", "--format", "safetensors"], ["ends in .safetensors"]),
        (["best.pth", "--format", "tflite"], ["tflite"]),
        (["net.safetensors"], ["--format onnx"]),
        (["net.safetensors", "-y"], ["--format onnx"]),
        (["net.onnx", "--format", "onnx"], ["over itself"]),
    ],
)
def test_wrong_usage(
    vidbg: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert vidbg("export", *arguments) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert all(word in line for word in words), line
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("no/net.onnx", "its folder does not exist"),
        ("folder.onnx", "is a directory"),
        ("link.safetensors", "is the checkpoint itself"),
    ],
)
def test_outputs_that_cannot_be(
    vidbg: Command,
    checkpoint: Path,
    capfd: pytest.CaptureFixture[str],
    output: str,
    message: str,
) -> None:
    folder = checkpoint.parent
    (folder / "folder.onnx").mkdir()
    (folder / "link.safetensors").symlink_to(checkpoint)
    before, content = names(folder), checkpoint.read_bytes()
    assert vidbg("export", checkpoint, "-y", "-o", folder / output) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert names(folder) == before
    assert checkpoint.read_bytes() == content


@pytest.mark.parametrize("content", [None, b"", b"<html>404</html>"])
def test_what_is_no_checkpoint(
    vidbg: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "w.pth").write_bytes(content)
    before = names(tmp_path)
    assert vidbg("export", tmp_path / "w.pth") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"vidbg: {tmp_path / 'w.pth'}: ")
    assert names(tmp_path) == before


def test_a_network_without_a_finite_output(tmp_path: Path) -> None:
    network = random_network()
    with torch.no_grad():
        network.stage1.rebnconvin.bn_s1.weight.fill_(3e38)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="output of its network is not finite"):
        export(tmp_path / "w.pth", [tmp_path / "w.safetensors"])
    assert names(tmp_path) == {"w.pth"}


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_named_before_anything_is_written(
    vidbg: Command,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    package: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert vidbg("export", checkpoint) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert package in line
    assert line.endswith('pip install "vidbg[train]"')
    assert names(checkpoint.parent) == {"best.pth"}
    assert vidbg("export", checkpoint, "--format", "safetensors") == 0


def test_a_failed_write_leaves_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        export(checkpoint, [checkpoint.with_suffix(".safetensors")])
    assert names(checkpoint.parent) == {"best.pth"}
