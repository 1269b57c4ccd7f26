"""The shape of the package: who imports whom, and what it costs to ask for help."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vidbg

PACKAGE = Path(vidbg.__file__).parent
HEAVY = {"torch", "openvino", "cv2", "numpy", "av", "PIL", "safetensors", "ffmpeg", "onnx"}
HEAVY |= {"matplotlib"}
CONSOLE = {"click", "tqdm"}
NETWORKS = {f"matting.{name}" for name in ("u2net", "vidbgnet", "resnet_unet")}

# From what only others build on to what builds on all others. A module imports from lower
# layers, or from those of its own layer that are named beside it.
LAYERS: list[dict[str, set[str]]] = [
    {
        "errors": set(),
        "frames": set(),
        "lock": set(),
        "profile": set(),
        "__init__": set(),
        "colour_names": set(),
    },
    {
        "prefetch": set(),
        "whole": set(),
        "journal": {"media.sequence"},
        "machine": set(),
        "colour": set(),
        "gpu.__init__": set(),
        "gpu.frames": set(),
        "gpu.transfer": set(),
        "gpu.memory": set(),
        "gpu.graphs": set(),
        "gpu.resize": set(),
        "gpu.composite": {"gpu.resize"},
        "media.__init__": set(),
        "media.formats": set(),
        "media.guard": set(),
        "media.ffmpeg": {"media.guard"},
        "media.timing": set(),
        "media.sequence": {"media.formats"},
        "media.spool": {"media.inputs", "whole"},
        "media.light": set(),
        "media.inputs": set(),
        "matting.__init__": set(),
        "matting.u2net": set(),
        "matting.vidbgnet": {"matting.u2net"},
        "matting.resnet_unet": set(),
        "matting.kept": {"whole"},
        "matting.weights": {"matting.kept"},
        "matting.unpickle": {"matting.weights"},
        "matting.architectures": {
            "matting.u2net",
            "matting.vidbgnet",
            "matting.resnet_unet",
            "matting.weights",
        },
        "temporal.__init__": set(),
        "temporal.scenes": set(),
        "temporal.flow": set(),
        "temporal.trust": {"temporal.flow"},
        "weights.__init__": set(),
    },
    {
        "media.source": set(),
        "media.rawvideo": set(),
        "media.nvdec": {"media.source"},
        "media.pngs": set(),
        "composite": set(),
        "matting.engines": set(),
        "matting.segmenter": {"matting.engines"},
        "matting.chroma": set(),
        "matting.trimap": set(),
        "matting.views": set(),
        "matting.appearance": set(),
        "matting.closed_form": {"matting.trimap"},
        "matting.refine": {
            "matting.appearance",
            "matting.closed_form",
            "matting.trimap",
        },
        "matting.foreground": set(),
        "matting.spill": set(),
        "temporal.smooth": set(),
        "temporal.keyframes": set(),
        # Each builds on its sibling, which has the numbers.
        "gpu.thumbnail": set(),
        "gpu.flow": set(),
        "gpu.smooth": {"gpu.flow", "temporal.smooth"},
        "gpu.appearance": {"matting.appearance"},
        "gpu.refine": {"gpu.appearance"},
        "gpu.foreground": {"matting.foreground"},
        "evaluation.__init__": set(),
        "evaluation.metrics": set(),
    },
    {"gpu.stages": set()},
    {"media.probe": set(), "media.audio": set(), "media.decode": set(), "ledger": set()},
    {"media.background": set(), "media.encode": set(), "media.mattes": set()},
    {"media.stored": set()},
    {"media.sinks": set()},
    {"media.segments": set()},
    {"job": set(), "evaluation.mattes": set()},
    {"pipeline": set()},
    {
        "evaluation.measure": set(),
        "preview": set(),
        "discover": set(),
        "sharing": set(),
        "batch": {"sharing"},
        "watch": {"discover"},
    },
    {"evaluation.report": set()},
    {
        "training.__init__": set(),
        "training.datasets": set(),
        "training.bank": {"training.datasets"},
        "training.augment": {"training.bank"},
        "training.losses": {"training.augment"},
        "training.teacher": set(),
        "training.export": set(),
    },
    {"training.loop": set()},
    {"training.record": set()},
    # What follows is the command line; its files import each other.
    {"cli": {"cli"}, "__main__": {"cli"}},
]


def modules() -> Iterator[tuple[str, Path]]:
    """Yield (name below vidbg, file) of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def imports(path: Path, *, outside_functions: bool = False) -> Iterator[str]:
    """Yield the full names of what a module imports when it runs, not when types are checked.

    Args:
        path: The module.
        outside_functions: Leave out what is imported inside functions.
    """
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if outside_functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports in full"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        todo += ast.iter_child_nodes(node)


def layer_of(module: str) -> tuple[int, str]:
    """Return a module's layer, and the name it goes by there."""
    name = "cli" if module.split(".")[0] == "cli" else module
    for number, layer in enumerate(LAYERS):
        if name in layer:
            return number, name
    raise AssertionError(f"{module} is in no layer: decide where it belongs")


def internal(full_name: str, known: set[str]) -> str | None:
    """Return the module of ours that an import brings in, or None."""
    parts = full_name.split(".")
    if parts[0] != "vidbg":
        return None
    for end in range(len(parts), 1, -1):
        name = ".".join(parts[1:end])
        if name in known:
            return name
        if f"{name}.__init__" in known:
            return f"{name}.__init__"
    return "__init__"


MODULES = list(modules())
NAMES = [name for name, _ in MODULES]


@pytest.mark.parametrize(("name", "path"), MODULES, ids=NAMES)
def test_imports_point_one_way(name: str, path: Path) -> None:
    known = set(NAMES)
    layer, own = layer_of(name)
    if name == "__init__":  # the public names are imported on first use, inside a function
        assert not [full for full in imports(path, outside_functions=True) if "vidbg" in full]
        return
    for full in imports(path):
        found = internal(full, known)
        if found is None or found == "__init__" or found.endswith(".__init__"):
            continue
        below, theirs = layer_of(found)
        assert below < layer or theirs in LAYERS[layer][own], f"{name} imports {found}"


@pytest.mark.parametrize(("name", "path"), MODULES, ids=NAMES)
def test_libraries_stay_where_they_belong(name: str, path: Path) -> None:
    everywhere = {full.split(".")[0] for full in imports(path)}
    at_once = {full.split(".")[0] for full in imports(path, outside_functions=True)}
    if not name.startswith(("matting.", "training.", "gpu.")):
        assert "torch" not in everywhere
    # It reports that it was imported unless it is done the way that matting.engines does it.
    assert "openvino" not in everywhere
    # Modules that hold networks or tensors are themselves imported when needed.
    if not name.startswith(("training.", "gpu.")) and name not in NETWORKS:
        assert "torch" not in at_once
    if not name.startswith("cli."):
        assert not everywhere & CONSOLE
    if name.startswith("cli.") or name in ("__init__", "__main__", "errors", "frames"):
        assert not at_once & HEAVY


@pytest.mark.parametrize(("name", "path"), MODULES, ids=NAMES)
def test_only_the_command_line_talks(name: str, path: Path) -> None:
    # unpickle is a program of its own, which answers on its standard output.
    if name.startswith("cli.") or name == "matting.unpickle":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "sys.exit", "exit", "logging.basicConfig")
            assert not called.startswith(("sys.stdout.", "sys.stderr."))
        assert not isinstance(node, ast.Assert), "assertions do not check input"


@pytest.mark.parametrize(("name", "path"), MODULES, ids=NAMES)
def test_every_module_says_what_it_is(name: str, path: Path) -> None:
    described = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert described, name


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after some code."""
    told = f"{code}\nimport sys\nprint('LOADED', *{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", told],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = loaded_by("import vidbg; vidbg.__version__")
    assert "vidbg" in loaded
    assert not loaded & (HEAVY | CONSOLE)


def test_the_pipeline_loads_no_network_before_it_needs_one() -> None:
    loaded = loaded_by("import vidbg.pipeline, vidbg.matting.segmenter")
    assert not loaded & {"torch", "openvino"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["probe", "--help"],
        ["models", "--help"],
        ["export", "--help"],
        ["eval", "--help"],
        ["preview", "--help"],
    ],
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['vidbg', *{arguments!r}]\n"
        "from vidbg.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code, ended.code"
    )
    loaded = loaded_by(code)
    assert "click" in loaded
    assert not loaded & HEAVY
