"""How far a network's maps are from what they should be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vidbg.training.augment import Batch

# The true mask is rough in many datasets and says nothing of what is half transparent; the
# teacher is wrong about whole objects. So the truth leads.
_TEACHER_SHARE = 0.3

_EDGE_WEIGHT = 2.0
_BOUNDARY_WEIGHT = 4.0
_BOUNDARY_REACH = 1 / 40
"""Half of the width of the band around edges that counts more, in heights of the picture."""


@dataclass(frozen=True, slots=True)
class Losses:
    """The parts of a loss, each a scalar tensor, and their weighted sum.

    Attributes:
        total: What is minimised.
        cross_entropy: Of the fused map.
        overlap: 1 - IoU of the fused map.
        edge: Difference of gradients of the fused map.
        consistency: Disagreement between two views; zero without a second view.
    """

    total: Tensor
    cross_entropy: Tensor
    overlap: Tensor
    edge: Tensor
    consistency: Tensor


def target_of(batch: Batch) -> Tensor:
    """Return what a network should answer, (B, 1, H, W) in 0..1.

    Where truth and teacher are both there, their weighted mean: cross-entropy is linear in
    its target, so one term does both learning and distillation (Hinton, Vinyals, Dean:
    "Distilling the Knowledge in a Neural Network", 2015).
    """
    share = torch.where(batch.has_truth, _TEACHER_SHARE, 1.0) * batch.has_soft
    return torch.lerp(batch.truth, batch.soft, share.view(-1, 1, 1, 1))


def supervised(maps: tuple[Tensor, ...], batch: Batch) -> Losses:
    """Return the loss of all maps of a network against the labels.

    Each map is compared at its own size with labels averaged down to it (deep supervision,
    as in U-2-Net), by three terms: cross-entropy that counts more near edges and soft IoU
    (both after Wei, Wang, Huang: "F3Net: Fusion, Feedback and Focus for Salient Object
    Detection", AAAI 2020), and the L1 difference of gradients, which keeps edges from washing
    out.

    Args:
        maps: Logits (B, 1, h, w), the fused map first.
        batch: The labels, at the size of the fused map or larger.
    """
    target = target_of(batch)
    terms = [_terms(logits.float(), target) for logits in maps]
    total = sum(
        (e + o + _EDGE_WEIGHT * g for e, o, g in terms), torch.zeros((), device=target.device)
    )
    cross_entropy, overlap, edge = terms[0]
    return Losses(total, cross_entropy, overlap, edge, torch.zeros_like(total))


def _terms(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if logits.shape[2:] != target.shape[2:]:
        target = functional.adaptive_avg_pool2d(target, (logits.shape[2], logits.shape[3]))
    reach = max(1, round(_BOUNDARY_REACH * target.shape[2]))
    surroundings = functional.avg_pool2d(target, 2 * reach + 1, 1, reach, count_include_pad=False)
    weight = 1.0 + _BOUNDARY_WEIGHT * (surroundings - target).abs()
    entropy = functional.binary_cross_entropy_with_logits(logits, target, weight=weight)
    entropy = entropy / weight.mean()
    alpha = torch.sigmoid(logits)
    both = (alpha * target * weight).sum(dim=(1, 2, 3))
    either = ((alpha + target - alpha * target) * weight).sum(dim=(1, 2, 3))
    # One pixel more in both, so that nothing at all against nothing at all is a full overlap.
    overlap = 1.0 - ((both + 1.0) / (either + 1.0)).mean()
    return entropy, overlap, _gradient_difference(alpha, target)


def _gradient_difference(alpha: Tensor, target: Tensor) -> Tensor:
    error = alpha - target
    across = (error[..., :, 1:] - error[..., :, :-1]).abs().sum()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().sum()
    # The coarsest map of a small picture is one pixel, without any difference to take.
    return (across + down) / error.numel()


def disagreement(fused: Tensor, moved: Tensor) -> Tensor:
    """Return the mean absolute difference between the mattes of two views, a scalar.

    Args:
        fused: Logits (B, 1, H, W) for the second view.
        moved: Logits for the first view, moved to where the second has them.
    """
    return (torch.sigmoid(fused.float()) - torch.sigmoid(moved.float())).abs().mean()
