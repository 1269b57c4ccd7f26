"""``vidbg models``: which weights there are, and which of them are on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from vidbg.matting import weights


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def models(as_json: bool) -> None:
    """List the models, their licences, and whether their weights are on this machine.

    Weights that are built in come with vidbg. Others are downloaded when a model is first
    used, or put into the weights folder by hand. The environment variable VIDBG_WEIGHTS_DIR
    names another folder.
    """
    specs = weights.registry()
    paths = {name: weights.locate(name) for name in specs}
    if as_json:
        entries = [
            asdict(spec) | {"path": None if paths[name] is None else str(paths[name])}
            for name, spec in specs.items()
        ]
        document = {
            "weights_dir": str(weights.cache_dir()),
            "default": weights.default_model(),
            "models": entries,
        }
        click.echo(json.dumps(document, indent=2))
        return
    default = weights.default_model()
    rows = [("model", "size", "input", "licence", "on this machine")]
    for name, spec in specs.items():
        rows.append(
            (
                f"{name} (default)" if name == default else name,
                f"{spec.size_bytes / 1e6:.1f} MB",
                f"{spec.input_side_px} px",
                spec.licence,
                _where(spec, paths[name]),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    click.echo(f"\nWeights folder: {weights.cache_dir()}")
    if specs[default].below_target is not None:
        click.echo(f"Note: {weights.below_target_note(specs[default])}")


def _where(spec: weights.ModelSpec, path: Path | None) -> str:
    if spec.embedded:
        return "missing: reinstall vidbg" if path is None else "built in"
    return "no" if path is None else str(path)
