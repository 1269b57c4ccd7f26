"""The tools that vidbg is compared with: how each is installed, and how each is called.

Each package lives in a virtual environment of its own, since their builds of OpenCV, NumPy and
Pillow exclude each other, with the exact versions of pins/NAME.txt, and has a home folder of its
own. Weights are handed to it as files. While it runs, its proxies lead nowhere: what it might want
to download fails, instead of being measured. The loop of the tutorials needs nothing that vidbg
does not, and runs where vidbg does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from vidbg.media import ffmpeg as ff

HERE = Path(__file__).resolve().parent
_INSTALL_TIMEOUT_S = 3600.0
_NOWHERE = "http://127.0.0.1:9"
# torchvision's wheels for Linux are built for CUDA. Beside PyTorch's CPU build their operators
# cannot be loaded, and registering how these are traced fails. Nothing here calls any of them.
_WITHOUT_OPERATORS = """
import importlib.util, pathlib
try:
    import torchvision
except RuntimeError:
    (place,) = importlib.util.find_spec("torchvision").submodule_search_locations
    pathlib.Path(place, "_meta_registrations.py").write_text("")
"""


class NotAvailableError(Exception):
    """A tool cannot be run here; the message says why."""


@dataclass(frozen=True)
class Clip:
    """A clip to work on, with a background of its size, rate and length.

    Attributes:
        path: H.264 in MP4, constant frame rate.
        background: The same, without sound.
        frames: How many both have.
        width: Of both, in pixels.
        height: Of both, in pixels.
        rate: Frames a second.
    """

    path: Path
    background: Path
    frames: int
    width: int
    height: int
    rate: Fraction


@dataclass(frozen=True)
class Tool:
    """Something that takes the background out of a clip.

    Attributes:
        name: What tables call it.
        output: Name of what it writes: a file, or "" for numbered pictures.
        commands: Returns the pipeline that works on a clip and writes to a path.
        environment: Environment of its processes.
        is_vidbg: Whether the others are compared with it.
    """

    name: str
    output: str
    commands: Callable[[Clip, Path], list[list[str]]]
    environment: Mapping[str, str] = field(default_factory=dict)
    is_vidbg: bool = False


@dataclass(frozen=True)
class Package:
    """A package of the Python Package Index.

    Attributes:
        requirement: What pip is asked for, with its version.
        check: Python that works once it is installed; it also compiles what is compiled once.
        repair: Python to run before that.
    """

    requirement: str
    check: str
    repair: str = ""


PACKAGES = {
    "backgroundremover": Package(
        "backgroundremover==0.4.5", "import backgroundremover.utilities", _WITHOUT_OPERATORS
    ),
    "rembg": Package("rembg[cpu,cli]==2.0.86", "import rembg.cli, rembg.bg"),
}


def installed(name: str, folder: Path) -> Path:
    """Return the folder of a package's programs, installed if it is not there yet.

    Args:
        name: One of PACKAGES.
        folder: Where virtual environments are kept.

    Raises:
        NotAvailableError: It cannot be installed, or does not work once it is.
    """
    package = PACKAGES[name]
    constraints = HERE / "pins" / f"{name}.txt"
    place = folder / name
    programs = place / ("Scripts" if os.name == "nt" else "bin")
    wanted = f"{package.requirement}\n{sys.version}\n{constraints.read_text(encoding='utf-8')}"
    mark = place / "installed.txt"
    if mark.is_file() and mark.read_text(encoding="utf-8") == wanted:
        return programs
    print(f"installing {package.requirement} in {place}", file=sys.stderr)
    python = str(programs / "python")
    run_or_raise([sys.executable, "-m", "venv", "--clear", str(place)])
    run_or_raise(
        [python, "-m", "pip", "install", "-q", "-c", str(constraints), package.requirement]
    )
    if package.repair:
        run_or_raise([python, "-c", package.repair])
    run_or_raise([python, "-c", package.check], environment=secluded(folder, name))
    mark.write_text(wanted, encoding="utf-8")
    return programs


def run_or_raise(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a step of an installation.

    Raises:
        NotAvailableError: It fails, with the last line that it said.
    """
    if environment is None:
        environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            timeout=_INSTALL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAvailableError(f"cannot be installed: {error}") from error
    if done.returncode:
        said = (done.stdout + done.stderr).decode("utf-8", "replace").strip().splitlines()
        raise NotAvailableError(f"cannot be installed: {said[-1] if said else 'no message'}")


def secluded(folder: Path, name: str, **more: str) -> dict[str, str]:
    """Return an environment with a home of its own and no way to the network."""
    home = folder / f"{name}-home"
    home.mkdir(parents=True, exist_ok=True)
    # Without compiled files each start would compile again, which is not the peer's fault.
    unwanted = {"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "NO_PROXY", "no_proxy"}
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _NOWHERE)
    kept = {n: v for n, v in os.environ.items() if n not in unwanted and not n.startswith("XDG_")}
    return {**kept, **proxies, "HOME": str(home), "PYTHONNOUSERSITE": "1", **more}


def backgroundremover(folder: Path, weights: Path, more: Sequence[str]) -> Tool:
    """Return backgroundremover, which puts a video behind a clip and writes ProRes 4444.

    Args:
        folder: Where virtual environments are kept.
        weights: A checkpoint of U-2-Net-p.
        more: Options besides.

    Raises:
        NotAvailableError: It cannot be installed, or FFmpeg's programs are not on PATH.
    """
    for program in ("ffmpeg", "ffprobe"):
        if shutil.which(program) is None:
            raise NotAvailableError(f"calls {program}, which is not on PATH")
    programs = installed("backgroundremover", folder)
    environment = secluded(folder, "backgroundremover")
    environment["U2NETP_PATH"] = str(_as_float32(weights, Path(environment["HOME"])))

    def commands(clip: Clip, output: Path) -> list[list[str]]:
        command = [str(programs / "backgroundremover"), "-i", str(clip.path), "-m", "u2netp"]
        return [[*command, "-tov", "-bv", str(clip.background), *more, "-o", str(output)]]

    return Tool("backgroundremover", "out.mov", commands, environment)


def rembg(folder: Path, onnx: Path | None) -> Tool:
    """Return rembg as a filter of raw frames, which writes numbered PNG files.

    Args:
        folder: Where virtual environments are kept.
        onnx: U-2-Net-p as rembg reads it.

    Raises:
        NotAvailableError: It cannot be installed, or there is no such file.
    """
    if onnx is None:
        raise NotAvailableError("needs --onnx u2netp.onnx")
    programs = installed("rembg", folder)
    environment = secluded(folder, "rembg")
    shutil.copyfile(onnx, Path(environment["HOME"], "u2netp.onnx"))
    environment["U2NET_HOME"] = environment["HOME"]

    def commands(clip: Clip, output: Path) -> list[list[str]]:
        raw = ["-i", f"file:{clip.path}", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
        size = [str(clip.width), str(clip.height)]
        pictures = str(output / "%06d.png")
        program = [str(programs / "rembg"), "b", "-m", "u2netp", "-o", pictures, *size]
        return [ff.command(["-nostdin", *raw]), program]

    return Tool("rembg", "", commands, environment)


def naive(weights: Path) -> Tool:
    """Return the loop of the tutorials.

    Args:
        weights: A checkpoint of U-2-Net-p.
    """

    def commands(clip: Clip, output: Path) -> list[list[str]]:
        program = [sys.executable, str(HERE / "naive.py")]
        paths = [str(clip.path), str(clip.background), str(output)]
        return [[*program, *paths, "--weights", str(weights)]]

    return Tool("naive", "out.mp4", commands, _here())


def vidbg(name: str, weights: Path | None, more: Sequence[str]) -> Tool:
    """Return vidbg of this checkout.

    Args:
        name: What tables call it.
        weights: A checkpoint; None for the one that comes with it.
        more: Options besides.
    """

    def commands(clip: Clip, output: Path) -> list[list[str]]:
        chosen = [] if weights is None else ["--weights", str(weights)]
        command = [sys.executable, "-m", "vidbg", str(clip.path), "--bg", str(clip.background)]
        return [[*command, *chosen, *more, "-q", "-y", "-o", str(output)]]

    return Tool(name, "out.mp4", commands, _here(), is_vidbg=True)


def _here() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HERE.parent)}


def _as_float32(weights: Path, folder: Path) -> Path:
    """Write a checkpoint as a plain float32 state dict, which other programs load."""
    import torch

    from vidbg.matting.weights import load_checkpoint

    state_dict = load_checkpoint(weights).state_dict
    whole = {n: t.float() if t.is_floating_point() else t for n, t in state_dict.items()}
    path = folder / "u2netp.pth"
    torch.save(whole, path)
    return path
