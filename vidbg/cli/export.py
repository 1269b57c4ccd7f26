"""``vidbg export CHECKPOINT``: a trained network as a file to hand on."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from vidbg.cli.reporting import logging_to_stderr

_FORMATS = ("safetensors", "onnx")


@click.command(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The result. Default: CHECKPOINT's name with another ending, beside it.",
)
@click.option(
    "--format",
    "wanted",
    type=click.Choice(_FORMATS),
    help="What to write. Default: what -o ends in; without it, both.",
)
@click.option("-y", "--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--debug", is_flag=True, help="Show a traceback if it fails.")
def export(
    checkpoint: Path, output: Path | None, wanted: str | None, overwrite: bool, debug: bool
) -> None:
    """Write a trained network as safetensors, for --weights, and as ONNX, for other programs.

    CHECKPOINT is what `vidbg train` saves, or a state dict of any network that vidbg knows:
    .pth or .safetensors. The safetensors file is in half precision, a half of the size. The
    ONNX file takes R'G'B' in 0..1 less ImageNet's mean over its standard deviation ("input",
    batch x 3 x height x width, multiples of 32) and returns the matte ("matte"). Each is
    compared with the checkpoint before it gets its name.
    """
    outputs = _outputs(checkpoint, output, wanted)
    from vidbg.training.export import export as write

    with logging_to_stderr(logging.INFO):
        written = write(checkpoint, outputs, overwrite=overwrite)
    for done in written:
        click.echo(
            f"{done.architecture}, {done.size_bytes / 1e6:.1f} MB, mattes differ by at most "
            f"{done.difference:.2g} from the checkpoint's",
            err=True,
        )
        click.echo(bytes(done.path))


def _outputs(checkpoint: Path, output: Path | None, wanted: str | None) -> list[Path]:
    """Return the files to write, checked as far as their names go."""
    if output is None:
        outputs = [
            checkpoint.with_suffix(f".{name}") for name in _FORMATS if wanted in (None, name)
        ]
        if checkpoint in outputs:
            raise click.UsageError(
                f"{checkpoint} would be written over itself: name the result with -o."
                if wanted
                else f"{checkpoint} is a .safetensors file itself: add --format onnx, or name the "
                "result with -o."
            )
        return outputs
    ending = output.suffix.lower().removeprefix(".")
    if ending not in _FORMATS or wanted not in (None, ending):
        endings = [wanted] if wanted else _FORMATS
        raise click.BadParameter(
            f"expected a name that ends in {' or '.join(f'.{each}' for each in endings)}",
            param_hint="-o",
        )
    return [output]
