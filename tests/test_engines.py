"""The networks in OpenVINO: what PyTorch says is the oracle, and the checks around it."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
import torch
from checkpoints import built, random_network, random_u2netp, randomise
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from programs import told_by
from safetensors.torch import save_file

from vidbg.errors import DeviceError
from vidbg.matting import engines
from vidbg.matting.architectures import ARCHITECTURES, Architecture, load_network
from vidbg.matting.engines import Engine, NotConvertible
from vidbg.matting.segmenter import NetworkSegmenter, load_segmenter
from vidbg.matting.weights import Ranges, default_model, package_dir, ranges_of, registry

if not engines.is_installed():
    pytest.skip("OpenVINO has no wheel for this platform", allow_module_level=True)

Parameters = dict[str, NDArray[Any]]
ROOT = Path(__file__).parents[1]
WEIGHTS = package_dir() / registry()[default_model()].file
CPU = torch.device("cpu")


def parameters_of(network: torch.nn.Module) -> Parameters:
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def pictures(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """A frame of a real clip, moved a little each time."""
    with av.open(str(next((ROOT / "samples").glob("*.mp4")))) as container:
        frame = next(container.decode(video=0))
        rgb = frame.reformat(width, height, "rgb24").to_ndarray()
    return np.stack([np.roll(rgb, 8 * number, axis=1) for number in range(count)]).astype(np.uint8)


def expected(network: torch.nn.Module, name: str, rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What PyTorch says in float64, batch norm and side maps as they are."""
    spec = ARCHITECTURES[name]
    x = (rgb / 255.0 - np.array(spec.mean)) / np.array(spec.std)
    with torch.inference_mode():
        logits = network.double().eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    return torch.sigmoid(logits)[:, 0].numpy()


def default_engine(precision: str = "int8", threads: int = 1) -> Engine:
    trained = load_network(WEIGHTS)
    ranges = ranges_of(WEIGHTS) if precision == "int8" else None
    return Engine("vidbg-s", parameters_of(trained.network), trained.architecture, threads, ranges)


# fp32


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 64)])
@pytest.mark.parametrize("name", ["vidbg-s", "u2netp"])
def test_random_weights_give_what_pytorch_gives(name: str, size: tuple[int, int]) -> None:
    network = randomise(built(name), seed=3)
    engine = Engine(name, parameters_of(network), ARCHITECTURES[name], threads=1)
    assert engine.precision == "fp32"
    rgb = pictures(3, *size)
    truth = expected(network, name, rgb)
    assert truth.std() > 1e-3
    np.testing.assert_allclose(engine(rgb), truth, atol=1e-5)


def test_the_large_network_gives_what_pytorch_gives() -> None:
    network = randomise(built("u2net"))
    engine = Engine("u2net", parameters_of(network), ARCHITECTURES["u2net"], threads=1)
    assert engine._basis is None  # 177 MB are not kept for the next job
    rgb = pictures(1, 64, 96)
    np.testing.assert_allclose(engine(rgb), expected(network, "u2net", rgb), atol=1e-5)


def test_trained_weights_give_what_pytorch_gives() -> None:
    rgb = pictures(1, 256, 448)
    truth = expected(load_network(WEIGHTS).network, "vidbg-s", rgb)
    assert truth.min() < 0.01 < 0.99 < truth.max()
    np.testing.assert_allclose(default_engine("fp32")(rgb), truth, atol=1e-4)


@given(length=st.integers(1, 60), target=st.integers(1, 200))
def test_enlarging_by_a_product_is_pytorchs(length: int, target: int) -> None:
    line = torch.from_numpy(np.random.default_rng(length).normal(size=(1, 1, length)))
    theirs = torch.nn.functional.interpolate(line, size=target, mode="linear", align_corners=False)
    ours = engines._bilinear(length, target)[0, 0] @ line[0, 0].numpy()
    np.testing.assert_allclose(ours, theirs[0, 0].numpy(), atol=1e-5)


# int8


def test_eight_bits_move_a_matte_by_little() -> None:
    rgb = pictures(2, 256, 448)
    exact, rounded = default_engine("fp32")(rgb), default_engine("int8")(rgb)
    difference = np.abs(rounded - exact)
    # Measured over other pictures: mean 0.4/255, 99 of 100 pixels within 5/255.
    assert 0 < difference.mean() < 1.5 / 255
    assert np.percentile(difference, 99) < 12 / 255


def test_a_cpu_that_saturates_gets_smaller_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_adds_pairs_exactly", lambda: False)
    rgb = pictures(1, 256, 448)
    difference = np.abs(default_engine("int8")(rgb) - default_engine("fp32")(rgb))
    assert 0 < difference.mean() < 2 / 255


@pytest.mark.parametrize(
    ("machine", "flags", "exact"),
    [
        ("x86_64", "fpu avx2 avx512f avx512_vnni", True),
        ("AMD64", "fpu avx2 avx_vnni", True),
        ("x86_64", "fpu avx2 avx512f", False),
        ("x86_64", None, False),
        ("aarch64", None, True),
        ("arm64", "fp asimd", True),
    ],
)
def test_which_cpus_add_pairs_of_bytes_exactly(
    machine: str,
    flags: str | None,
    exact: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines.platform, "machine", lambda: machine)
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"model name : x\nflags : {flags}\n", encoding="ascii")
    assert engines._adds_pairs_exactly(tmp_path / "cpuinfo") is exact


@pytest.mark.parametrize("path", sorted(package_dir().glob("*.ranges.json")), ids=lambda p: p.stem)
def test_ranges_are_those_of_every_map_of_a_published_network(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    published = registry()[path.name.removesuffix(".ranges.json")]
    assert published.sha256 in document["weights_sha256"]
    assert published.architecture == document["architecture"]
    parameters = parameters_of(built(published.architecture))
    rgb = np.zeros((1, 64, 64, 3), np.uint8)
    maps = engines.peaks(published.architecture, parameters, published)(rgb)
    assert {name: len(values) for name, values in maps.items()} == {
        name: len(values) for name, values in document["largest"].items()
    }
    for values in document["largest"].values():
        assert np.isfinite(values).all()
        assert min(values) >= 0.0199 * max(values) > 0
    assert {f"{name}.conv_s1.weight" for name in document["exact"]} <= parameters.keys()


def test_peaks_are_the_largest_values_that_pytorch_sees() -> None:
    network = random_network().eval()
    rgb = pictures(1, 64, 96)
    seen: dict[str, NDArray[np.float32]] = {}
    for name in ("stage1.rebnconvin", "stage3.rebnconv2d", "stage2d"):

        def look(_: object, __: object, output: torch.Tensor, name: str = name) -> None:
            seen[name] = output.amax(dim=(0, 2, 3)).float().numpy()

        network.get_submodule(name).register_forward_hook(look)
    found = engines.peaks("u2netp", parameters_of(network), ARCHITECTURES["u2netp"])(rgb)
    expected(network, "u2netp", rgb)
    for name, largest in seen.items():
        np.testing.assert_allclose(found[name], largest, rtol=1e-3, atol=1e-4)


def test_weights_that_others_were_measured_for_have_no_ranges(tmp_path: Path) -> None:
    assert ranges_of(WEIGHTS) is not None
    copy = tmp_path / "another name.safetensors"
    copy.write_bytes(WEIGHTS.read_bytes())
    assert ranges_of(copy) is not None
    copy.write_bytes(WEIGHTS.read_bytes() + b"\0")
    assert ranges_of(copy) is None


# What the pipeline builds on


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_bits_in_batches_runs_and_numbers_of_threads(precision: str) -> None:
    rgb = pictures(3, 96, 160)
    first, second = default_engine(precision, threads=1), default_engine(precision, threads=2)
    matte = first(rgb)
    np.testing.assert_array_equal(np.concatenate([first(rgb[n : n + 1]) for n in range(3)]), matte)
    np.testing.assert_array_equal(second(rgb), matte)
    second(pictures(1, 64, 64))
    np.testing.assert_array_equal(second(rgb[::-1]), matte[::-1])


def test_calls_from_several_threads_take_turns() -> None:
    engine = default_engine("fp32")
    rgb = pictures(4, 64, 96)
    found: dict[int, NDArray[np.float32]] = {}

    def work(number: int) -> None:
        found[number] = engine(rgb[number : number + 1])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    np.testing.assert_array_equal(np.concatenate([found[n] for n in range(4)]), engine(rgb))


def test_sizes_made_ready_together_see_what_they_see_one_by_one() -> None:
    one_by_one, together = default_engine(), default_engine()
    sizes = [(64, 96), (64, 64), (64, 96), (96, 64)]
    together.prepare(sizes)
    assert list(together._requests) == [(64, 96), (64, 64), (96, 64)]
    ready = dict(together._requests)
    for height, width in sizes:
        rgb = pictures(1, height, width)
        np.testing.assert_array_equal(together(rgb), one_by_one(rgb))
    assert together._requests == ready
    together.prepare((32 * n, 32) for n in range(2, 9))
    assert list(together._requests) == [(32 * n, 32) for n in range(2, 2 + engines._SIZES_KEPT)]


def test_threads_are_as_many_as_asked_for() -> None:
    request = default_engine("fp32", threads=1)._request((64, 64))
    assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


@pytest.mark.parametrize(
    ("wanted", "threads"),
    [(None, 6), ("", 6), ("1", 1), ("4,2", 4), ("64", 6), ("0", 6), ("many", 6)],
)
def test_openmps_variable_counts_for_openvino_too(
    wanted: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines.machine, "cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if wanted is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    assert engines._threads() == threads


def test_memory_does_not_grow() -> None:
    engine = default_engine()
    sizes = [(32 * rows, 32 * columns) for rows in (2, 3) for columns in (2, 3, 4)]
    for height, width in sizes:
        engine(pictures(1, height, width))
    assert list(engine._requests) == sizes[-engines._SIZES_KEPT :]
    rgb = pictures(1, 96, 128)
    for _ in range(20):
        engine(rgb)
    before = psutil.Process().memory_info().rss
    for _ in range(200):
        engine(rgb)
    assert psutil.Process().memory_info().rss - before < 4 << 20


# What is kept for the next job


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where compiled networks are kept; nothing is yet."""
    monkeypatch.setenv("VIDBG_WEIGHTS_DIR", str(tmp_path / "weights"))
    return tmp_path / "weights" / "compiled"


def never(*_: object) -> None:
    raise AssertionError("it is compiled")


def small_engine() -> Engine:
    return Engine("u2netp", parameters_of(random_network()), ARCHITECTURES["u2netp"], threads=1)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_next_job_compiles_nothing_and_sees_the_same(
    precision: str, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [(96, 160), (64, 64)]
    rgb = [pictures(2, *size) for size in sizes]
    first = default_engine(precision)
    first.prepare(sizes)
    kept = set(compiled.iterdir())
    assert len(kept) == len(sizes)
    monkeypatch.setattr(Engine, "_compiled", never)
    second, third = default_engine(precision), default_engine(precision)
    third.prepare(sizes)
    for each in rgb:
        matte = first(each)
        assert matte.std() > 0.01
        np.testing.assert_array_equal(second(each), matte)
        np.testing.assert_array_equal(third(each), matte)
    request = second._request(sizes[0])
    assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1
    assert request.get_compiled_model().get_property("ENABLE_CPU_PINNING") is False
    with pytest.raises(AssertionError, match="it is compiled"):
        second(pictures(1, 64, 96))
    assert set(compiled.iterdir()) == kept


def nudged(values: NDArray[Any]) -> NDArray[Any]:
    """An array whose last number is the next one."""
    other = values.copy()
    other.flat[-1] = np.nextafter(other.flat[-1], np.inf, dtype=values.dtype)
    return other


def with_ranges(edit: Callable[[Ranges], Ranges | None]) -> Engine:
    trained = load_network(WEIGHTS)
    ranges = ranges_of(WEIGHTS)
    assert ranges is not None
    parameters = parameters_of(trained.network)
    return Engine("vidbg-s", parameters, trained.architecture, 1, edit(ranges))


@pytest.mark.parametrize(
    "edit",
    [
        lambda r: None,
        lambda r: Ranges(r.largest, r.exact | {"stage1.rebnconvin"}),
        lambda r: Ranges({**r.largest, "stem": nudged(r.largest["stem"])}, r.exact),
        lambda r: Ranges({**r.largest, "unused": np.ones(1)}, r.exact),
    ],
)
def test_other_ranges_make_another_network(edit: Callable[[Ranges], Ranges | None]) -> None:
    same = with_ranges(lambda r: Ranges(dict(reversed(r.largest.items())), r.exact))._basis
    assert same == default_engine("int8")._basis is not None
    assert with_ranges(edit)._basis not in (same, None)


@pytest.mark.parametrize(
    "changed",
    [
        lambda d, spec: ({**d, "side3.bias": nudged(d["side3.bias"])}, spec, 1),
        lambda d, spec: (
            # Of one shape.
            {**d, "side5.weight": d["side6.weight"], "side6.weight": d["side5.weight"]},
            spec,
            1,
        ),
        lambda d, spec: (d, replace(spec, mean=(*spec.mean[:2], 0.5)), 1),
        lambda d, spec: (d, replace(spec, std=(0.5, *spec.std[1:])), 1),
        lambda d, spec: (d, replace(spec, mean=spec.std, std=spec.mean), 1),
        lambda d, spec: (d, spec, 2),
    ],
)
def test_other_parameters_make_another_network(
    changed: Callable[[Parameters, Architecture], tuple[Parameters, Architecture, int]],
) -> None:
    parameters, spec = parameters_of(random_network()), ARCHITECTURES["u2netp"]
    same = Engine("u2netp", dict(reversed(parameters.items())), spec, 1)._basis
    assert same == small_engine()._basis is not None
    assert Engine("u2netp", *changed(parameters, spec))._basis not in (same, None)


class Core:
    """OpenVINO's, which says something else about the CPU."""

    def __init__(self, said: dict[str, object]) -> None:
        self._core = importlib.import_module("openvino").Core()
        self._said = said

    def get_property(self, device: str, name: str) -> object:
        assert device == "CPU"
        return self._said.get(name) or self._core.get_property(device, name)


@pytest.mark.parametrize(
    "change",
    [
        lambda engine, patch: patch.setattr(engines, "__version__", "0"),
        lambda engine, patch: patch.setattr(engines, "__file__", __file__),
        lambda engine, patch: patch.setattr(engines, "__file__", str(ROOT / "nothing.py")),
        lambda engine, patch: patch.setattr(engines, "_instructions", lambda *_: "avx512_vnni"),
        lambda engine, patch: patch.setattr(engines, "_adds_pairs_exactly", lambda: None),
        lambda engine, patch: patch.setattr(np, "__version__", "0"),
        lambda engine, patch: patch.setattr(engines._openvino(), "get_version", lambda: "0"),
        lambda engine, patch: patch.setattr(engine, "_core", Core({"FULL_DEVICE_NAME": "another"})),
        lambda engine, patch: patch.setattr(
            engine, "_core", Core({"OPTIMIZATION_CAPABILITIES": ["FP32", "EXPORT_IMPORT"]})
        ),
        lambda engine, patch: patch.setitem(engine._options, "ENABLE_CPU_PINNING", True),
    ],
)
def test_other_circumstances_make_another_network(
    change: Callable[[Engine, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    same, other = small_engine(), small_engine()
    assert same._basis is not None
    change(other, monkeypatch)
    assert other._basis not in (same._basis, None)


def test_another_process_agrees_on_what_makes_a_network() -> None:
    program = """
        from vidbg.matting.segmenter import load_segmenter
        print(load_segmenter(device="cpu", precision="int8", threads=1)._engine._basis)
    """
    told = told_by(program, PYTHONHASHSEED="7")  # that of the order of sets
    assert told.strip() == default_engine("int8")._basis


def test_what_was_kept_of_another_network_is_not_used(
    compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = pictures(1, 64, 64)
    small_engine()(rgb)
    monkeypatch.setattr(engines, "__version__", "0")
    small_engine()(rgb)
    assert len(list(compiled.iterdir())) == 2
    monkeypatch.setattr(Engine, "_compiled", never)
    small_engine()(rgb)


@pytest.mark.parametrize("spoil", ["damaged", "nonsense", "everybody's"])
def test_what_cannot_be_used_is_compiled_anew(
    spoil: str, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spoil == "everybody's" and sys.platform == "win32":
        pytest.skip("POSIX has modes")
    rgb = pictures(1, 64, 64)
    matte = small_engine()(rgb)
    (file,) = compiled.iterdir()
    if spoil == "damaged":
        file.write_bytes(file.read_bytes()[:-1])
    elif spoil == "nonsense":  # and yet whole
        file.unlink()
        origin = file.name.partition(".")[0]
        file = compiled / f"{origin}.{hashlib.sha256(b'nonsense').hexdigest()}.blob"
        file.write_bytes(b"nonsense")
    else:
        file.chmod(0o666)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_compiled", never)
        with pytest.raises(AssertionError, match="it is compiled"):
            small_engine()(rgb)
    np.testing.assert_array_equal(small_engine()(rgb), matte)
    monkeypatch.setattr(Engine, "_compiled", never)
    np.testing.assert_array_equal(small_engine()(rgb), matte)
    assert file.exists() == (spoil == "everybody's")


class NotExported:
    def __init__(self, network: Any) -> None:
        self.create_infer_request = network.create_infer_request

    def export_model(self, stream: object) -> None:
        raise RuntimeError("Exception from compiled_model.cpp:\nnot implemented")


def test_nothing_has_to_be_kept(
    tmp_path: Path, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = pictures(1, 64, 64)
    matte = small_engine()(rgb)
    # In a home that is nobody's; in a file.
    for folder in ("~nobody at all/weights", str(next(compiled.iterdir()))):
        monkeypatch.setenv("VIDBG_WEIGHTS_DIR", folder)
        np.testing.assert_array_equal(small_engine()(rgb), matte)
    monkeypatch.setenv("VIDBG_WEIGHTS_DIR", str(tmp_path / "never made"))
    compile_network = Engine._compiled
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_compiled", lambda *args: NotExported(compile_network(*args)))
        np.testing.assert_array_equal(small_engine()(rgb), matte)
    with monkeypatch.context() as patch:
        patch.setattr(engines, "_MOST_COMPILED_BYTES", 1 << 20)
        assert small_engine()._basis is None
        np.testing.assert_array_equal(small_engine()(rgb), matte)
    engine = small_engine()
    monkeypatch.setattr(engine, "_core", Core({"OPTIMIZATION_CAPABILITIES": ["FP32"]}))
    assert engine._basis is None
    assert not (tmp_path / "never made").exists()


# What cannot be built


Edit = Callable[[Parameters], object]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("side4.bias"), "side4.bias is missing"),
        (lambda d: d.update({"head.weight": np.zeros(3, np.float32)}), "head.weight is not known"),
        (
            lambda d: d.update({"side2.weight": np.zeros((1, 32, 3, 3), np.float32)}),
            r"side2 is \(1, 32, 3, 3\) in place of \(1, 64, 3, 3\)",
        ),
        (lambda d: d["stage1.rebnconvin.bn_s1.bias"].fill(np.nan), "not made of finite numbers"),
        (
            lambda d: d.update({"stage1.rebnconvin.bn_s1.bias": np.zeros(3, np.float32)}),
            "batch norm of stage1.rebnconvin has another width",
        ),
        (lambda d: d.update({"outconv.bias": np.zeros(1, np.int64)}), "outconv.bias is not made"),
        (
            lambda d: d.update({"side2.weight": np.full((1, 64, 3, 3), 1e300)}),
            "side2.weight is not made of finite numbers",
        ),
        (
            lambda d: d.update({"side2.bias": np.array(1.0, np.float32)}),
            r"side2 is \(1, 64, 3, 3\) in place of",
        ),
        (
            lambda d: d["stage1.rebnconvin.bn_s1.running_var"].fill(-1),
            "batch norm of stage1.rebnconvin has a negative variance",
        ),
        (
            lambda d: (d["side2.weight"].fill(1e30), d["outconv.weight"].fill(1e30)),
            "side2 is too large for float32",
        ),
    ],
)
def test_parameters_that_are_not_those_of_the_network(edit: Edit, message: str) -> None:
    parameters = parameters_of(random_network())
    edit(parameters)
    with pytest.raises(NotConvertible, match=message):
        Engine("u2netp", parameters, ARCHITECTURES["u2netp"])


def test_a_network_that_is_not_known_here() -> None:
    with pytest.raises(NotConvertible, match="unet-resnet34 is not built here"):
        Engine("unet-resnet34", {}, ARCHITECTURES["unet-resnet34"])


def test_ranges_that_lack_a_map() -> None:
    ranges = Ranges({}, frozenset())
    with pytest.raises(NotConvertible, match=r"range of stage1\.rebnconvin is not known"):
        Engine("u2netp", parameters_of(random_network()), ARCHITECTURES["u2netp"], ranges=ranges)


# Choosing it


def test_the_default_on_a_cpu_is_openvino_in_what_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    for pays, precision in ((True, "int8"), (False, "fp32")):
        monkeypatch.setattr(engines, "multiplies_bytes", lambda pays=pays: pays)
        network = load_segmenter(device="cpu")
        assert (network.engine, network.precision) == ("openvino", precision)
    assert load_segmenter(device="cpu", precision="int8").precision == "int8"
    assert load_segmenter(device="cpu", precision="fp32").precision == "fp32"


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_weights_of_ones_own_run_in_fp32(tmp_path: Path, ending: str) -> None:
    path = random_u2netp(tmp_path / f"mine{ending}")
    network = load_segmenter(weights=path, device="cpu")
    assert (network.engine, network.precision) == ("openvino", "fp32")
    rgb = pictures(1, 64, 96)
    truth = expected(random_network(), "u2netp", rgb)
    np.testing.assert_allclose(network(rgb), truth, atol=1e-5)
    with pytest.raises(DeviceError, match="mine cannot run in int8"):
        load_segmenter(weights=path, device="cpu", precision="int8")


def test_without_openvino_pytorch_runs_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rgb = pictures(1, 64, 96)
    truth = load_segmenter(device="cpu", precision="fp32")(rgb)
    monkeypatch.setattr(engines, "is_installed", lambda: False)
    with caplog.at_level(logging.INFO):
        network = load_segmenter(device="cpu")
    assert (network.engine, network.precision, network.device) == ("torch", "fp32", CPU)
    assert "vidbg-s runs in PyTorch in fp32 on cpu" in caplog.messages
    np.testing.assert_allclose(network(rgb), truth, atol=1e-4)
    with pytest.raises(DeviceError, match="cannot run in int8, which takes OpenVINO"):
        load_segmenter(device="cpu", precision="int8")


def test_an_openvino_that_cannot_be_loaded_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engines, "is_installed", lambda: True)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with caplog.at_level(logging.INFO):
        assert load_segmenter(device="cpu").engine == "torch"
    assert any("OpenVINO cannot be loaded" in message for message in caplog.messages)


def test_an_openvino_without_its_cpu_plugin_is_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> bool:
        raise RuntimeError("Exception from core.cpp:\nno such plugin")

    monkeypatch.setattr(engines, "multiplies_bytes", fail)
    assert load_segmenter(device="cpu").engine == "torch"


def test_a_half_precision_is_pytorchs() -> None:
    network = load_segmenter(device="cpu", precision="bf16")
    assert (network.engine, network.precision) == ("torch", "bf16")


def test_numbers_that_numpy_has_not_are_read_by_pytorch(tmp_path: Path) -> None:
    state_dict = {n: t.bfloat16() for n, t in random_network().state_dict().items()}
    save_file(state_dict, tmp_path / "brain.safetensors")
    assert load_segmenter(weights=tmp_path / "brain.safetensors", device="cpu").engine == "openvino"


def test_output_that_is_not_finite_is_an_error() -> None:
    from vidbg.errors import WeightsError

    parameters = parameters_of(random_network())
    # One side map is infinite, another minus that. In the layers before them a ReLU hides NaN.
    parameters["stage1.rebnconvin.bn_s1.bias"].fill(3e38)
    parameters["side1.weight"].fill(1e30)
    parameters["side2.weight"].fill(-1e30)
    parameters["outconv.weight"].fill(1)
    spec = ARCHITECTURES["u2netp"]
    loud = NetworkSegmenter(Engine("u2netp", parameters, spec), spec, "loud")
    with pytest.raises(WeightsError, match="output of loud is not finite"):
        loud(pictures(1, 64, 64))


def test_nothing_is_asked_of_a_network_and_pytorch_stays_out(tmp_path: Path) -> None:
    # Importing OpenVINO as it comes would call home, from a thread and without complaint.
    program = """
        import sys, threading
        watched = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "subprocess.Popen")
        told = []
        sys.addaudithook(lambda event, args: event in watched and told.append(event))
        import numpy as np
        from vidbg.matting.segmenter import load_segmenter
        network = load_segmenter(device="cpu")
        assert network.engine == "openvino"
        assert network(np.zeros((1, 64, 96, 3), np.uint8)).shape == (1, 64, 96)
        assert "openvino.opset13" in sys.modules
        assert threading.active_count() == 1
        print(*told, *sorted({"torch", "openvino_telemetry"} & set(sys.modules)))
    """
    told = told_by(program, HOME=str(tmp_path), USERPROFILE=str(tmp_path))
    assert told.split() == []
    assert list(tmp_path.iterdir()) == []


def test_a_whole_job_does_without_pytorch(plain_clip: Path, tmp_path: Path) -> None:
    arguments = ("vidbg", str(plain_clip), "--bg", "red", "-o", str(tmp_path / "out.mp4"))
    program = f"""
        import sys
        from vidbg.cli.main import main
        sys.argv = [*{arguments!r}, "--device", "cpu", "--profile"]
        try:
            main()
        finally:
            print(*sorted({{"torch", "openvino"}} & set(sys.modules)))
    """
    told = told_by(program)
    assert told.splitlines()[-1] == "openvino"


@pytest.mark.parametrize(("library", "only_a_cpu"), [(None, True), ("driver", False)])
def test_a_graphics_driver_has_pytorch_asked(
    library: str | None, only_a_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidbg.matting import segmenter

    def load(name: str) -> str:
        if library is None:
            raise OSError(name)
        return library

    monkeypatch.setattr(segmenter.ctypes, "CDLL", load)
    monkeypatch.setattr(segmenter.sys, "platform", "linux")
    monkeypatch.setattr(segmenter.Path, "exists", lambda path: False)
    assert segmenter.has_only_a_cpu("auto") is only_a_cpu
    assert segmenter.has_only_a_cpu("cpu")
    assert not segmenter.has_only_a_cpu("cuda")
    monkeypatch.setattr(segmenter.sys, "platform", "darwin")
    assert not segmenter.has_only_a_cpu("auto")
