"""When a function is recorded and replayed, and that it runs as it is where it cannot be."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from vidbg.gpu import graphs
from vidbg.gpu.graphs import Graphs


@dataclass(frozen=True)
class OnCuda:
    """As much of a tensor on CUDA as decides what is recorded."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float16

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", 0)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes that were recorded; a first dimension above 100 cannot be."""
    shapes: list[tuple[int, ...]] = []

    class Recording:
        def __init__(self, function: object, given: OnCuda, pool: object) -> None:
            if given.shape[0] > 100:
                raise RuntimeError("operation not permitted when stream is capturing\nhint")
            shapes.append(given.shape)

        def replayed(self, given: OnCuda) -> str:
            return "replayed"

    monkeypatch.setattr(graphs, "_Recording", Recording)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: (0, 0))
    return shapes


def run(made: Graphs, *shape: int) -> str:
    return made.run(lambda given: "as it is", OnCuda(shape))  # type: ignore[arg-type, return-value]


def test_a_shape_is_recorded_when_it_comes_again(recorded: list[tuple[int, ...]]) -> None:
    made = Graphs()
    assert [run(made, 2, 3) for _ in range(4)] == ["as it is", *["replayed"] * 3]
    assert run(made, 3, 3) == "as it is"
    assert recorded == [(2, 3)]


def test_what_cannot_be_recorded_runs_as_it_is(recorded: list[tuple[int, ...]]) -> None:
    made = Graphs()
    assert {run(made, 101) for _ in range(4)} == {"as it is"}
    assert recorded == []


def test_only_so_many_shapes_are_kept(recorded: list[tuple[int, ...]]) -> None:
    made = Graphs()
    for size in range(1, 12):
        for _ in range(3):
            run(made, size)
    assert len(recorded) == graphs._MOST_SHAPES
    assert run(made, 11) == "as it is"


def test_on_the_cpu_nothing_is_recorded(recorded: list[tuple[int, ...]]) -> None:
    made = Graphs()
    for _ in range(3):
        assert made.run(torch.neg, torch.ones(2)).tolist() == [-1, -1]
    assert recorded == []


@pytest.mark.gpu
def test_a_recording_gives_what_the_function_does() -> None:
    made = Graphs()
    for number in range(4):
        given = torch.full((3, 5), float(number), device="cuda")
        assert torch.equal(
            made.run(lambda x: torch.exp(x) @ x.T, given), torch.exp(given) @ given.T
        )
