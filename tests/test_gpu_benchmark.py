"""The GPU's benchmark runs, small and on the CPU: its figures are of another machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest


def test_it_measures_all_that_it_names(
    tmp_path: Path, plain_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import gpu

    written = tmp_path / "figures.json"
    try:
        figures = gpu.main(
            [
                *(
                    "--device",
                    "cpu",
                    "--precision",
                    "bf16",
                    "--size",
                    "64x48",
                    "--frames",
                    "3",
                    "--batch",
                    "1",
                ),
                *("--matrix", "64"),
                *("--clip", str(plain_clip), "--json", str(written)),
            ]
        )
    finally:
        sys.modules.pop("gpu", None)
    assert json.loads(written.read_text()) == figures
    assert figures["fps"] > 0
    assert set(figures["ms a frame"]) >= {"up", "network alone", "segment", "smooth", "finish"}
    assert min(figures["ms a frame"].values()) > 0
    # A frame, its background and its composite, in 4:2:0.
    assert figures["floor"]["MB a frame up and down"] == pytest.approx(3 * 64 * 48 * 1.5 / 1e6)
    assert figures["floor"]["GFLOP a frame"] > 1
    assert min(figures["end to end"].values()) > 0
