"""What comes from elsewhere: no file can run code, and all that is installed is known."""

from __future__ import annotations

import ast
import configparser
import hashlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from vidbg.matting.weights import registry

REPOSITORY = Path(__file__).parent.parent
SOURCES = sorted(
    path for name in ("vidbg", "benchmarks", "samples", "tests")
    for path in (REPOSITORY / name).rglob("*.py")
)  # fmt: skip

# Modules that make objects, and with them calls, of bytes.
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "os.system",
    "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "runpy.run_path",
    "runpy.run_module", "torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.jit.load",
    "torch.package.PackageImporter", "torch.utils.model_zoo.load_url", "torch.export.load",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "pandas.read_pickle",
}  # fmt: skip
# Arguments that have to be given and what they have to be, or what they may be if they are given.
REQUIRED = {"torch.load": ("weights_only", True)}
ALLOWED = {"allow_pickle": False, "shell": False, "trust_repo": False, "trust_remote_code": False}

# Tests of just that: bytes of their own making.
EXCEPTIONS = {
    "tests/test_weights.py": ["import of pickle", "pickle.loads", "torch.load"],
    "tests/test_datasets.py": ["import of pickle", "pickle.loads"],
    "tests/test_hostile.py": ["import of pickle"],
}


def names_of(tree: ast.AST) -> dict[str, str]:
    """Return what the names that a module imports stand for, in full."""
    full: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                full[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                full[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return full


def called(node: ast.Call, full: dict[str, str]) -> str:
    """Return the full name of what is called: ``numpy.load`` for ``np.load``."""
    first, dot, rest = ast.unparse(node.func).partition(".")
    return full.get(first, first) + dot + rest


def dangers(source: str) -> Iterator[str]:
    """Yield the imports and calls of a module that can run what is in a file or a string."""
    tree = ast.parse(source)
    full = names_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            yield from (f"import of {m}" for m in modules if m.partition(".")[0] in UNPICKLERS)
        if not isinstance(node, ast.Call):
            continue
        name = called(node, full)
        given = {word.arg: word.value for word in node.keywords}
        constants = {
            word: value.value if isinstance(value, ast.Constant) else value
            for word, value in given.items()
        }
        top, _, method = name.partition(".")
        if name in CALLS or (top in UNPICKLERS and not method.startswith("dump")):
            yield name
        if name in REQUIRED:
            word, value = REQUIRED[name]
            if constants.get(word) is not value:
                yield name
        elif any(constants.get(word, value) is not value for word, value in ALLOWED.items()):
            yield name


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle as p\np.load(file)", ["import of pickle", "pickle.load"]),
        ("from pickle import loads as see\nsee(b)", ["import of pickle", "pickle.loads"]),
        ("def f():\n    import joblib", ["import of joblib"]),
        ("import torch\ntorch.load(path)", ["torch.load"]),
        ("import torch as t\nt.load(path, weights_only=False)", ["torch.load"]),
        ("import torch as t\nt.load(path, weights_only=wish)", ["torch.load"]),
        ("from torch import load\nload(path)", ["torch.load"]),
        ("import torch\ntorch.load(path, weights_only=True)", []),
        ("import torch.hub\ntorch.hub.load('a/b', 'c')", ["torch.hub.load"]),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", ["numpy.load"]),
        ("import numpy as np\nnp.load(path)", []),
        ("import subprocess\nsubprocess.run(line, shell=True)", ["subprocess.run"]),
        ("import subprocess\nsubprocess.run(line, shell=False)", []),
        ("import os\nos.system(line)", ["os.system"]),
        ("eval(line)", ["eval"]),
        ("network.eval()", []),
        ("import re\nre.compile(line)", []),
    ],
)
def test_dangers_are_seen(source: str, found: list[str]) -> None:
    assert list(dangers(source)) == found


def test_nothing_runs_what_it_reads() -> None:
    assert len(SOURCES) > 150
    found = {
        path.relative_to(REPOSITORY).as_posix(): list(dangers(path.read_text(encoding="utf-8")))
        for path in SOURCES
    }
    assert {path: names for path, names in found.items() if names} == EXCEPTIONS


def test_what_is_installed_is_pinned() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    names = [canonicalize_name(pin.partition("==")[0]) for pin in pins]
    assert len(set(names)) == len(names)
    pinned = dict(zip(names, (Version(pin.partition("==")[2]) for pin in pins), strict=True))

    configuration = configparser.ConfigParser()
    configuration.read(REPOSITORY / "setup.cfg")
    wanted = [configuration["options"]["install_requires"]]
    extras = dict(configuration["options.extras_require"])
    extras.pop("samples")  # makes the samples anew, which nobody has to
    wanted += extras.values()
    told = [line for block in wanted for line in block.splitlines()]
    requirements = [Requirement(line) for line in told if line and not line.startswith("#")]
    assert len(requirements) > 20
    for requirement in requirements:
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier


def test_what_builds_it_is_pinned() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    for line in project["build-system"]["requires"]:
        (specifier,) = Requirement(line).specifier
        assert specifier.operator == "=="


def test_weights_that_come_along_are_those_of_their_digests() -> None:
    known = registry()
    files = sorted((REPOSITORY / "weights").glob("*.safetensors"))
    assert files
    for path in files:
        spec = known[path.stem]
        assert spec.file == path.name
        assert path.stat().st_size == spec.size_bytes
        assert hashlib.sha256(path.read_bytes()).hexdigest() == spec.sha256
    # No other format lies there, one that can hold code least of all.
    suffixes = {path.suffix for path in (REPOSITORY / "weights").iterdir() if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".md", ".py", ".jpg"}
