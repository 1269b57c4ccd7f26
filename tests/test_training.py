"""Training: the bank of pictures, augmentation, losses, and the loop with its checkpoints."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from vidbg.errors import InputError, OutputError, WeightsError
from vidbg.training import BEST, CHECKPOINT, augment, bank, losses, record
from vidbg.training.bank import SIDE_PX, Bank
from vidbg.training.datasets import Example
from vidbg.training.loop import (
    Recipe,
    Step,
    choose_precision,
    rate_at,
    size_of,
    teacher_iou,
    train,
    validate,
)

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Drawn:
    """A dataset of bright disks on dark noise, or of what else a kind asks for."""

    name: str
    kind: str
    count: int
    size: tuple[int, int] = (48, 64)
    identity: str = ""

    def examples(self) -> Iterator[Example]:
        rng = np.random.default_rng(len(self.name) + self.count)
        for number in range(self.count):
            height, width = self.size
            rgb = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
            y, x = np.mgrid[:height, :width]
            middle = rng.uniform(0.3, 0.7, 2) * (height, width)
            disk = np.hypot(y - middle[0], x - middle[1]) < height / 4
            has_subject = self.kind != "background"
            if has_subject:
                rgb[disk] = (250, 200, 100)
            alpha = (disk * 255).astype(np.uint8) if self.kind in ("pair", "cutout") else None
            yield Example(self.kind, f"{self.name}/{number:04}", rgb, alpha)  # type: ignore[arg-type]


def bright(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A teacher that finds the disks, at half of the picture's size."""
    found = (rgb[::2, ::2, 0] > 150).astype(np.float32)
    return found * np.float32(0.8)


DATASETS = (
    Drawn("pairs", "pair", 40),
    Drawn("photos", "photo", 20),
    Drawn("cutouts", "cutout", 12, (64, 40)),
    Drawn("backgrounds", "background", 30),
)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return bank.build(DATASETS, tmp_path_factory.mktemp("bank"), bright, "bright")


class Tiny(nn.Module):
    """A network that can learn what is bright, with a coarse side map and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.coarse = nn.Conv2d(8, 1, 3, padding=1)
        self.fine = nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor, side_outputs: bool = False) -> Tensor | tuple[Tensor, ...]:
        coarse = self.coarse(torch.relu(self.norm(self.first(x))))
        large = nn.functional.interpolate(coarse, size=x.shape[2:], mode="bilinear")
        fused: Tensor = self.fine(x) + large
        return (fused, coarse) if side_outputs else fused


def tiny(seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    return Tiny()


RECIPE = Recipe(
    architecture="tiny", sizes_px=(32, 64), batch_size=8, steps=6, validate_every=3, seed=5
)


# The bank


def test_a_bank_keeps_pictures_labels_and_shapes(pictures: Bank) -> None:
    assert pictures.records.shape == (102, 5, SIDE_PX, SIDE_PX)
    assert pictures.records.dtype == torch.uint8
    number = pictures.names.index("pairs/0003")
    example = next(itertools.islice(DATASETS[0].examples(), 3, None))
    assert example.alpha is not None
    record_ = pictures.records[number].numpy()
    assert pictures.aspect[number].item() == pytest.approx(64 / 48)
    # Squeezing keeps means, whatever the interpolation does at edges.
    np.testing.assert_allclose(record_[:3].mean((1, 2)), example.rgb.mean((0, 1)), atol=1.5)
    assert record_[3].mean() == pytest.approx(example.alpha.mean(), abs=1.5)
    assert record_[4].max() == 204  # the teacher's 0.8
    assert pictures.has_soft[number]


def test_planes_that_a_kind_does_not_have_are_empty(pictures: Bank) -> None:
    for kind, planes in {"photo": [3], "cutout": [4], "background": [3, 4]}.items():
        for validation in (False, True):
            records = pictures.records[pictures.select(kind, validation=validation)]
            assert not records[:, planes].any()
            if kind != "photo":
                assert not pictures.has_soft[pictures.select(kind, validation=validation)].any()


def test_the_split_is_fixed_and_about_a_tenth() -> None:
    keys = [f"set/{number:05}" for number in range(4000)]
    chosen = [key for key in keys if bank.is_validation(key)]
    assert 0.08 < len(chosen) / len(keys) < 0.12
    # It may never move under people's feet.
    for key in keys[:50]:
        digest = hashlib.sha256(key.encode()).digest()
        assert bank.is_validation(key) == (int.from_bytes(digest, "big") % 20 < 2)


@pytest.mark.parametrize(
    ("dataset", "name", "key"),
    [
        ("cats", "cats/0003", "cats/0003"),
        ("pets/cats", "pets/cats/0003", "cats/0003"),
        ("pets", "pets/tabby/sleeping", "pets/tabby/sleeping"),
        ("film", "film/scene/000005", "film/scene"),
        ("film", "film/day/scene/000010", "film/day/scene"),
    ],
)
def test_frames_of_a_clip_stay_together(dataset: str, name: str, key: str) -> None:
    assert bank.split_key(dataset, name) == key


def test_a_clip_is_on_one_side(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Film(Drawn):
        def examples(self) -> Iterator[Example]:
            for number, example in enumerate(super().examples()):
                yield replace(example, name=f"film/{number // 10:02}x/{number:06}")

    made = bank.build([Film("film", "pair", 300)], tmp_path)
    sides: dict[str, set[bool]] = {}
    for name, held_back in zip(made.names, made.is_validation.tolist(), strict=True):
        sides.setdefault(name.rpartition("/")[0], set()).add(held_back)
    assert len(sides) == 30
    assert all(len(side) == 1 for side in sides.values())
    assert {True, False} == set.union(*sides.values())


def test_training_and_validation_are_apart(pictures: Bank) -> None:
    for kind in bank.KINDS:
        training = set(pictures.select(kind).tolist())
        held_back = set(pictures.select(kind, validation=True).tolist())
        assert training
        assert not training & held_back
        named = {i for i in training | held_back if pictures.names[i].startswith(kind)}
        assert named == training | held_back


def test_a_bank_is_made_once(tmp_path: Path) -> None:
    asked: list[int] = []

    def teacher(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        asked.append(1)
        return bright(rgb)

    data = [Drawn("pairs", "pair", 3)]
    first = bank.build(data, tmp_path, teacher, "one")
    again = bank.build(data, tmp_path, teacher, "one")
    assert len(asked) == 3
    assert torch.equal(first.records, again.records)
    bank.build(data, tmp_path, teacher, "another")
    assert len(asked) == 6
    (tmp_path / "bank.bin").write_bytes(b"cut off")
    bank.build(data, tmp_path, teacher, "another")
    assert len(asked) == 9
    (tmp_path / "bank.json").write_text('{"origin": {}, "entries": [["not", "one"]]}')
    bank.build(data, tmp_path, teacher, "another")
    assert len(asked) == 12
    changed = bank.build([replace(data[0], identity="later")], tmp_path, teacher, "another")
    assert len(asked) == 15
    assert changed.identity != first.identity
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank.bin", "bank.json"]


def test_a_bank_that_is_interrupted_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    def teacher(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bank.build([Drawn("pairs", "pair", 3)], tmp_path, teacher, "one")
    assert list(tmp_path.iterdir()) == []


def test_photos_are_nothing_without_a_teacher(tmp_path: Path) -> None:
    made = bank.build([Drawn("pairs", "pair", 3), Drawn("photos", "photo", 3)], tmp_path)
    assert made.names == ("pairs/0000", "pairs/0001", "pairs/0002")
    with pytest.raises(InputError, match="nothing to learn from"):
        bank.build([Drawn("photos", "photo", 3)], tmp_path / "photos")


def test_a_bank_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        bank.build([Drawn("pairs", "pair", 1)], tmp_path / "file")


# Augmentation


def sampler(pictures: Bank, seed: int = 1) -> augment.Sampler:
    generators = (torch.Generator().manual_seed(seed) for _ in range(2))
    return augment.Sampler(pictures, CPU, *generators)


def test_batches_are_as_promised(pictures: Bank) -> None:
    drawing = sampler(pictures)
    for height, width in ((32, 32), (64, 96), (96, 64)):
        batch = drawing.draw(16, height, width)
        assert batch.rgb.shape == (16, 3, height, width)
        for plane in (batch.truth, batch.soft):
            assert plane.shape == (16, 1, height, width)
            assert plane.min() >= 0
            assert plane.max() <= 1 + 1e-6
        assert batch.rgb.min() >= 0
        assert batch.rgb.max() <= 1
        assert (batch.has_truth | batch.has_soft).all()
        assert not batch.truth[~batch.has_truth].any()


def test_batches_can_be_repeated(pictures: Bank) -> None:
    one, same, other = (sampler(pictures, seed).draw(8, 32, 64) for seed in (3, 3, 4))
    assert torch.equal(one.rgb, same.rgb)
    assert torch.equal(one.truth, same.truth)
    assert not torch.equal(one.rgb, other.rgb)


def test_validation_pictures_are_never_drawn(pictures: Bank) -> None:
    marked = pictures.records.clone()
    marked[pictures.is_validation] = 255
    marked[~pictures.is_validation] = 0
    drawing = sampler(replace(pictures, records=marked))
    for _ in range(5):
        batch = drawing.draw(32, 32, 32)
        assert not batch.truth.any()
        assert not batch.soft.any()


def test_shares_of_composites_and_empty_scenes(pictures: Bank) -> None:
    drawing = sampler(pictures)
    shares = np.array([drawing._shares(16) for _ in range(400)]).mean(axis=0) / 16
    np.testing.assert_allclose(shares, (0.22, 0.12), atol=0.01)
    only_pairs = sampler(replace(pictures, kind=torch.zeros_like(pictures.kind)))
    assert only_pairs._shares(16) == (0, 0)


def test_labels_stay_on_their_pictures(pictures: Bank) -> None:
    """Disks are far brighter than what surrounds them, wherever a view puts them."""
    drawing = sampler(pictures)
    for height, width in ((64, 64), (64, 128)):
        for batch in (
            drawing._photographed(24, height, width),
            drawing._composed(24, height, width),
        ):
            for rgb, truth in zip(batch.rgb, losses.target_of(batch), strict=True):
                inside, outside = truth[0] > 0.7, truth[0] < 0.05
                if inside.sum() > 20:
                    assert rgb[0][inside].mean() > rgb[0][outside].mean() + 0.2


def test_empty_scenes_are_empty(pictures: Bank) -> None:
    batch = sampler(pictures)._empty(6, 32, 64)
    assert not batch.truth.any()
    assert batch.has_truth.all()
    assert not batch.has_soft.any()
    assert batch.rgb.std() > 0.01


def test_views_are_within_their_picture_and_hardly_squashed(pictures: Bank) -> None:
    drawing = sampler(pictures)
    aspect = torch.linspace(0.4, 2.5, 500)
    theta = drawing._view(aspect, 64, 128)
    # Lengths of the view's half axes in the picture's own proportions.
    across = torch.hypot(theta[:, 0, 0] * aspect, theta[:, 1, 0])
    down = torch.hypot(theta[:, 0, 1] * aspect, theta[:, 1, 1])
    squash = across / down / 2.0
    assert squash.max() < 1.36
    assert squash.min() > 1 / 1.36
    assert (theta[:, :, 2].abs() <= 1).all()
    assert 0.35 < (theta[:, 0, 0] < 0).float().mean() < 0.65


def test_figures_are_not_sheared_and_most_stand(pictures: Bank) -> None:
    drawing = sampler(pictures)
    height, width, count = 64, 96, 2000
    aspect = torch.linspace(0.3, 1.5, count)
    theta = drawing._pose(aspect, height, width)
    # From heights of the frame to heights of the figure: a similarity, but for a tenth of width.
    frame, figure = torch.tensor([width / height, 1.0]), torch.stack((aspect, aspect * 0 + 1), 1)
    linear = theta[:, :, :2] * figure[:, :, None] / frame
    singular = torch.linalg.svdvals(linear)
    assert (singular[:, 0] / singular[:, 1]).max() < 1.12
    assert 0.4 < (torch.linalg.det(linear) < 0).float().mean() < 0.6  # mirrored
    tall = 1.0 / singular.mean(1)
    assert tall.min() > 0.3
    assert tall.max() < 2.5
    # Where the middle of the figure's lower edge comes to lie, its feet: solve for (0, 1).
    feet = torch.linalg.solve(theta[:, :, :2], torch.tensor([0.0, 1.0]) - theta[:, :, 2])
    small = tall < 0.75
    standing = (feet[small, 1] - 1.0).abs() < 0.05
    assert 0.6 < standing.float().mean() < 0.85
    # Of figures taller than the frame, most show their head.
    head = torch.linalg.solve(theta[:, :, :2], torch.tensor([0.0, -1.0]) - theta[:, :, 2])
    large = tall > 1.2
    assert (head[large, 1] > -1.1).float().mean() > 0.6


def test_jitter_moves_pictures_and_labels_alike(pictures: Bank) -> None:
    drawing = sampler(pictures)
    ramp = torch.linspace(-1, 1, 64).view(1, 1, 1, 64).expand(8, 1, 64, 64)
    known = torch.ones(8, dtype=torch.bool)
    batch = augment.Batch(
        0.5 + 0.25 * ramp.expand(-1, 3, -1, -1), 0.5 + 0.25 * ramp, ramp, known, known
    )
    moved, theta = drawing.jittered(batch)
    shift_px = theta[:, :, 2].abs() * 32
    assert shift_px.max() <= 0.03 * 32 + 1e-5
    assert shift_px.max() > 0.2
    assert ((theta[:, 0, 0] - 1).abs() <= 0.04 + 1e-6).all()
    # A ramp of x, moved, is the same ramp of where each pixel came from.
    middle = (ramp[0, 0, 0, 31] + ramp[0, 0, 0, 32]) / 2
    came_from = 0.5 + 0.25 * (theta[:, 0, 2] * 64 / 63 + middle)
    torch.testing.assert_close(
        moved.truth[:, 0, :, 31:33].mean((1, 2)), came_from, atol=2e-3, rtol=0
    )
    torch.testing.assert_close(augment.move(batch.truth, theta), moved.truth)
    assert not torch.allclose(moved.rgb, batch.rgb, atol=0.02)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_blur_kernels_are_weights() -> None:
    for make in (augment._motion_kernels, augment._defocus_kernels):
        kernels = make(64, generator(), CPU)
        torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(64))
        assert kernels.min() >= 0
        # Symmetric about the middle: blur does not shift.
        torch.testing.assert_close(kernels, kernels.flip(1, 2))
        assert len({float(k.max()) for k in kernels}) > 32


def test_filtering_by_hand() -> None:
    planes = torch.zeros((2, 3, 16, 16))
    planes[:, :, 8, 8] = 1.0
    kernels = torch.zeros((2, 9, 9))
    kernels[0, 4, 4] = 1.0
    kernels[1, 4, 3:6] = 1 / 3
    found = augment._filtered(planes, kernels)
    torch.testing.assert_close(found[0], planes[0])
    assert found[1, 0, 8, 6:11].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0])


def test_blur_and_noise_keep_the_mean() -> None:
    flat = torch.full((4, 3, 32, 32), 0.5)
    torch.testing.assert_close(augment.blurred(flat, 2.5), flat)
    loud = augment.noisy(flat, generator())
    assert (loud.mean((1, 2, 3)) - 0.5).abs().max() < 0.01
    assert 0 < loud.std() < 0.08


def test_the_cosine_transform_is_orthonormal_and_ordered() -> None:
    matrix = augment._cosine_transform(CPU)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(matrix[0], torch.full((8,), 1 / math.sqrt(8)))
    signs = [(torch.diff(torch.sign(row)) != 0).sum().item() for row in matrix]
    assert signs == list(range(8))


def test_quantisation_without_steps_changes_nothing() -> None:
    planes = torch.rand((2, 1, 32, 48), generator=generator())
    fine = torch.full((2, 1, 1, 1, 8, 8), 1e-4)
    torch.testing.assert_close(augment._quantised(planes, fine), planes, atol=1e-3, rtol=0)
    # Steps too coarse for anything leave nothing of it.
    coarse = torch.full((2, 1, 1, 1, 8, 8), 100.0)
    assert not augment._quantised(planes, coarse).any()


def test_compression_keeps_flat_colours_and_loses_detail() -> None:
    colours = torch.rand((16, 3, 1, 1), generator=generator()).expand(16, 3, 64, 64) * 0.9
    flat = augment.compressed(colours, generator())
    assert (flat - colours).abs().max() < 0.12
    assert flat.std(dim=(2, 3)).max() < 1e-5
    fine = torch.rand((16, 3, 64, 64), generator=generator())
    kept = augment.compressed(fine, generator())
    assert kept.min() >= 0
    assert kept.max() <= 1
    assert (kept.std(dim=(2, 3)) < fine.std(dim=(2, 3))).float().mean() > 0.9


# Losses


def batch_of(
    truth: Tensor, soft: Tensor, has_truth: list[bool], has_soft: list[bool]
) -> augment.Batch:
    return augment.Batch(
        truth.expand(-1, 3, -1, -1), truth, soft, torch.tensor(has_truth), torch.tensor(has_soft)
    )


def test_targets_blend_truth_and_teacher() -> None:
    truth, soft = torch.ones((3, 1, 4, 4)), torch.full((3, 1, 4, 4), 0.5)
    batch = batch_of(truth, soft, [True, True, False], [False, True, True])
    target = losses.target_of(batch)
    assert target[:, 0, 0, 0].tolist() == pytest.approx([1.0, 0.85, 0.5])


def test_the_right_answer_costs_least() -> None:
    truth = torch.zeros((2, 1, 32, 32))
    truth[:, :, 8:24, 8:24] = 1.0
    batch = batch_of(truth, truth, [True, True], [False, False])
    right = (truth * 2 - 1) * 12
    shifted = right.roll(4, dims=3)
    found = [
        losses.supervised((logits, logits[..., ::2, ::2]), batch) for logits in (right, shifted)
    ]
    assert found[0].total < 0.2
    for name in ("total", "cross_entropy", "overlap", "edge"):
        assert getattr(found[0], name) < getattr(found[1], name)
    assert found[0].overlap < 1e-3
    # Two squares of 16 columns, 4 apart: IoU is 12 / 20 where all pixels count alike.
    plain = losses.supervised((shifted,), batch)
    assert 0.3 < plain.overlap < 0.75


def test_nothing_found_where_nothing_is_costs_nothing() -> None:
    nothing = torch.zeros((1, 1, 32, 32))
    batch = batch_of(nothing, nothing, [True], [False])
    quiet = losses.supervised((torch.full((1, 1, 32, 32), -20.0),), batch)
    assert quiet.total < 1e-3
    loud = losses.supervised((torch.full((1, 1, 32, 32), 20.0),), batch)
    assert loud.overlap > 0.99


def test_a_map_of_one_pixel_has_no_edges() -> None:
    truth = torch.ones((2, 1, 32, 32))
    batch = batch_of(truth, truth, [True, True], [False, False])
    found = losses.supervised((torch.zeros((2, 1, 1, 1)),), batch)
    assert found.edge == 0
    assert found.cross_entropy.item() == pytest.approx(math.log(2))


def test_disagreement_is_a_mean_difference() -> None:
    one, other = torch.zeros((1, 1, 8, 8)), torch.full((1, 1, 8, 8), 100.0)
    assert losses.disagreement(one, other).item() == pytest.approx(0.5)
    assert losses.disagreement(other, other).item() == 0


# The loop


def test_training_learns_what_is_bright(pictures: Bank, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=150, sizes_px=(64,), learning_rate=0.03, validate_every=50)
    steps = list(train(tiny(), pictures, recipe, tmp_path, CPU))
    assert [step.step for step in steps] == list(range(1, 151))
    assert steps[-1].done == 1.0
    assert steps[-1].pictures == 150 * 8
    measured = [step.validation_iou for step in steps if step.validation_iou is not None]
    assert len(measured) == 3
    assert measured[-1] > 0.7
    assert np.mean([s.loss for s in steps[-20:]]) < 0.5 * np.mean([s.loss for s in steps[:10]])
    assert steps[-1].empty_alpha is not None
    assert steps[-1].empty_alpha < 0.2


def test_between_steps_small_numbers_are_what_they_are(pictures: Bank, tmp_path: Path) -> None:
    """Flushing them to 0 is a state of the thread, in which others compute too."""
    small = np.full(8, 1e-38, np.float32)
    steps = train(tiny(), pictures, RECIPE, tmp_path, CPU)
    next(steps)
    assert (small * np.float32(0.01) > 0).all()
    steps.close()
    assert (small * np.float32(0.01) > 0).all()


def test_taken_up_again_it_is_the_same_training(pictures: Bank, tmp_path: Path) -> None:
    whole = list(train(tiny(), pictures, RECIPE, tmp_path / "whole", CPU))
    halves = train(tiny(), pictures, RECIPE, tmp_path / "halves", CPU)
    first = [next(halves) for _ in range(4)]
    halves.close()
    # Another random start: everything has to come from the checkpoint.
    second = list(train(tiny(9), pictures, RECIPE, tmp_path / "halves", CPU))
    assert [step.step for step in second] == [5, 6]

    def told(step: Step) -> Step:
        return replace(step, elapsed_s=0.0)

    assert [told(step) for step in first + second] == [told(step) for step in whole]
    states = [
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("whole", "halves")
    ]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name


def test_a_finished_training_does_nothing_more(pictures: Bank, tmp_path: Path) -> None:
    assert list(train(tiny(), pictures, RECIPE, tmp_path, CPU))
    assert not list(train(tiny(), pictures, RECIPE, tmp_path, CPU))
    more = list(train(tiny(), pictures, replace(RECIPE, steps=8), tmp_path, CPU))
    assert [step.step for step in more] == [7, 8]


def test_a_time_budget_ends_it(pictures: Bank, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=None, time_budget_s=0.5)
    steps = list(train(tiny(), pictures, recipe, tmp_path, CPU))
    assert steps
    assert steps[-1].elapsed_s >= 0.5
    assert all(step.elapsed_s < 0.5 for step in steps[:-1])
    assert steps[-1].validation_iou is not None


def test_the_second_view_is_held_against_the_first(
    pictures: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that says how bright a pixel is says it of both views, but for their light."""

    class Brightness(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, side_outputs: bool = False) -> Tensor | tuple[Tensor, ...]:
            fused = x.mean(1, keepdim=True) * 3 + self.unused
            return (fused,) if side_outputs else fused

    def unchanged(rgb: Tensor, *_: object, **__: object) -> Tensor:
        return rgb

    for name in ("lit_otherwise", "noisy"):
        monkeypatch.setattr(augment, name, unchanged)
    steps = list(train(Brightness(), pictures, RECIPE, tmp_path, CPU))
    assert max(step.consistency for step in steps) < 0.02
    monkeypatch.setattr(augment, "move", lambda planes, theta: planes.flip(0))
    others = list(train(Brightness(), pictures, RECIPE, tmp_path / "other", CPU))
    assert min(step.consistency for step in others) > 0.03


def test_the_average_by_hand(pictures: Bank, tmp_path: Path) -> None:
    running = train(tiny(), pictures, RECIPE, tmp_path, CPU, checkpoint_every_s=0.0)
    before = tiny().state_dict()["fine.weight"]
    average = before
    for step in (1, 2):
        next(running)
        state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
        decay = (1 + step) / (10 + step)
        average = decay * average + (1 - decay) * state["network"]["fine.weight"]
        torch.testing.assert_close(state["model"]["fine.weight"], average)
    running.close()
    assert not torch.equal(before, average)


def test_what_interrupts_a_step_leaves_the_checkpoint_before(
    pictures: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = train(tiny(), pictures, RECIPE, tmp_path, CPU)
    next(running)
    running.close()
    again = train(tiny(), pictures, RECIPE, tmp_path, CPU)
    next(again)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(losses, "supervised", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(again)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 1


def test_a_first_step_that_fails_leaves_nothing(pictures: Bank, tmp_path: Path) -> None:
    network = tiny()
    with torch.no_grad():
        network.fine.weight.fill_(math.nan)
    with pytest.raises(WeightsError):
        list(train(network, pictures, RECIPE, tmp_path, CPU))
    assert not list(tmp_path.iterdir())


def test_without_pictures_to_measure_by_the_last_weights_are_kept(
    pictures: Bank, tmp_path: Path
) -> None:
    unmeasured = replace(pictures, is_validation=torch.zeros_like(pictures.is_validation))
    steps = list(train(tiny(), unmeasured, RECIPE, tmp_path, CPU))
    assert {(step.validation_iou, step.empty_alpha) for step in steps} == {(None, None)}
    assert teacher_iou(unmeasured) is None
    best = torch.load(tmp_path / BEST, weights_only=True)
    assert best["step"] == RECIPE.steps


def test_other_pictures_start_another_comparison(
    pictures: Bank, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    list(train(tiny(), pictures, RECIPE, tmp_path, CPU))
    others = replace(pictures, identity="others")
    list(train(tiny(), others, replace(RECIPE, steps=7), tmp_path, CPU))
    assert "not those" in caplog.text
    best = torch.load(tmp_path / BEST, weights_only=True)
    assert best["step"] == 7


def test_precision_may_change_on_the_way(pictures: Bank, tmp_path: Path) -> None:
    for steps, precision in ((2, "fp32"), (3, "fp16"), (4, "bf16"), (5, "fp16")):
        recipe = replace(RECIPE, steps=steps, precision=precision)
        taken = list(train(tiny(), pictures, recipe, tmp_path, CPU))
        assert taken[-1].step == steps


def test_the_average_is_validated_and_kept(pictures: Bank, tmp_path: Path) -> None:
    steps = list(train(tiny(), pictures, RECIPE, tmp_path, CPU))
    last = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert not torch.equal(last["model"]["first.weight"], last["network"]["first.weight"])
    network = tiny(3)
    network.load_state_dict(last["model"])
    assert validate(network, pictures, CPU) == (
        pytest.approx(steps[-1].validation_iou),
        pytest.approx(steps[-1].empty_alpha),
    )
    best = torch.load(tmp_path / BEST, weights_only=True)
    assert best["best_iou"] == max(s.validation_iou for s in steps if s.validation_iou is not None)


def test_another_recipe_is_refused(pictures: Bank, tmp_path: Path) -> None:
    list(train(tiny(), pictures, RECIPE, tmp_path, CPU))
    with pytest.raises(InputError, match=r"learning_rate was 0.002, now 0.5"):
        list(train(tiny(), pictures, replace(RECIPE, learning_rate=0.5), tmp_path, CPU))


def test_a_damaged_checkpoint_is_refused(pictures: Bank, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="not a checkpoint"):
        list(train(tiny(), pictures, RECIPE, tmp_path, CPU))
    state = {"recipe": json.dumps({}), "step": 3}
    torch.save(state, tmp_path / CHECKPOINT)
    with pytest.raises(InputError):
        list(train(tiny(), pictures, RECIPE, tmp_path, CPU))


def test_a_loss_that_is_not_finite_ends_it_and_keeps_what_was(
    pictures: Bank, tmp_path: Path
) -> None:
    network = tiny()
    running = train(network, pictures, RECIPE, tmp_path, CPU, checkpoint_every_s=0.0)
    next(running)
    with torch.no_grad():
        network.fine.weight.fill_(math.nan)
    with pytest.raises(WeightsError, match="loss is nan at step 2"):
        next(running)
    kept = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert kept["step"] == 1
    assert torch.isfinite(kept["network"]["fine.weight"]).all()


def test_no_place_for_checkpoints(pictures: Bank, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        list(train(tiny(), pictures, RECIPE, tmp_path / "file", CPU))


def test_validation_by_hand(pictures: Bank) -> None:
    class Everything(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 1, *x.shape[2:]), 50.0)

    iou, empty = validate(Everything(), pictures, CPU)
    truth = pictures.records[pictures.select("pair", validation=True), 3] > 127
    assert iou == pytest.approx(truth.float().mean((1, 2)).mean().item(), rel=1e-4)
    assert empty == pytest.approx(1.0)
    # The teacher of the fixture finds the disks, but for their rims.
    found = teacher_iou(pictures)
    assert found is not None
    assert 0.85 < found <= 1.0


def test_precision_is_the_users_or_sensible() -> None:
    assert choose_precision("fp32", CPU) == "fp32"
    assert choose_precision("auto", CPU) in ("fp32", "bf16")
    assert choose_precision("auto", torch.device("mps")) == "fp32"


def test_bf16_learns_too(pictures: Bank, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=3, precision="bf16")
    steps = list(train(tiny(), pictures, recipe, tmp_path, CPU))
    exact = list(train(tiny(), pictures, replace(recipe, precision="fp32"), tmp_path / "b", CPU))
    assert [s.loss for s in steps] == pytest.approx([s.loss for s in exact], rel=0.05)
    assert steps[0].loss != exact[0].loss


def test_the_schedule_warms_up_and_cools_down() -> None:
    rates = [rate_at(share / 1000) for share in range(1001)]
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(1.0)
    assert 0 < top < 50
    assert all(b > a for a, b in itertools.pairwise(rates[10:top]))
    assert all(b < a for a, b in itertools.pairwise(rates[top:]))
    assert 0 < rates[-1] < 0.02


@given(
    st.integers(1, 32).map(lambda n: 32 * n),
    st.sampled_from((1.0, 4 / 3, 3 / 4, 16 / 9, 9 / 16)),
)
def test_sizes_fit_the_network(side: int, aspect: float) -> None:
    height, width = size_of(side, aspect)
    assert height % 32 == 0
    assert width % 32 == 0
    assert min(height, width) >= 32
    if side >= 160:
        assert 0.8 < height * width / side**2 < 1.25
        assert abs(math.log(width / height / aspect)) < 0.35


@settings(max_examples=20)
@given(st.lists(st.sampled_from((-32, 0, 16, 33, 100)), min_size=1))
def test_sizes_that_do_not_fit_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        Recipe(steps=1, sizes_px=tuple(sizes))


@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_small_batches(pictures: Bank, tmp_path: Path, batch_size: int) -> None:
    recipe = replace(RECIPE, steps=2, batch_size=batch_size)
    assert [s.pictures for s in train(tiny(), pictures, recipe, tmp_path, CPU)] == [
        batch_size,
        2 * batch_size,
    ]


def test_batches_of_one_are_refused() -> None:
    with pytest.raises(ValueError, match="batch norm"):
        Recipe(steps=1, batch_size=1)


def test_a_training_needs_an_end() -> None:
    with pytest.raises(ValueError, match="end"):
        Recipe()


# The record


def step(number: int, iou: float | None = None) -> Step:
    return Step(
        number, number / 9, 1.5 * number, 8 * number, 1e-3, (32, 64), 2.0, 1, 0.5, 0.1, 0, iou
    )


def test_the_log_drops_what_is_done_again(tmp_path: Path) -> None:
    with record.Log(tmp_path) as log:
        for number in (1, 2, 3):
            log.add(step(number))
    with record.Log(tmp_path) as log:
        log.add(step(3, 0.25))
    rows = record.read(tmp_path)
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert [row["validation_iou"] for row in rows] == ["", "", "0.25"]
    assert rows[0]["size_px"] == "32x64"
    with (tmp_path / record.LOG).open("a") as file:
        file.write("4,0.1,")  # cut off
    assert len(record.read(tmp_path)) == 3
    with record.Log(tmp_path) as log:
        log.add(step(4))
    assert [row["step"] for row in record.read(tmp_path)] == ["1", "2", "3", "4"]
    assert record.best_iou(tmp_path) == 0.25
    assert [path.name for path in tmp_path.iterdir()] == [record.LOG]


def test_curves_are_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="curves need vidbg[train]")
    from PIL import Image

    assert record.draw(tmp_path) is None
    with record.Log(tmp_path) as log:
        for number in range(1, 9):
            log.add(step(number, 0.1 * number if number % 2 else None))
    path = record.draw(tmp_path)
    assert path is not None
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
    assert [found.name for found in tmp_path.glob("*.part")] == []
