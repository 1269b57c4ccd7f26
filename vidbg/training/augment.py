"""Batches of training pictures as cameras and encoders would have made them.

Everything works on whole batches, on whatever device these are, and draws its random numbers
from generators that are given, so that a run can be repeated and taken up again.

Ranges are R'G'B' in 0..1, alpha in 0..1, shapes (B, C, H, W) and float32 unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from vidbg.training.bank import Bank

_COMPOSITE_SHARE = 0.22
_EMPTY_SHARE = 0.12
_MAX_SUBJECTS = 3

_MAX_SQUASH = 1.35
_BLUR_TAPS = 9
_BLOCK_PX = 8

# ISO/IEC 10918-1, annex K, table K.1: the luminance quantisation that JPEG encoders scale.
_JPEG_LUMA_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


@dataclass(frozen=True, slots=True)
class Batch:
    """What a network is shown, and what it should answer.

    Attributes:
        rgb: (B, 3, H, W), R'G'B' in 0..1.
        truth: (B, 1, H, W), the true alpha.
        soft: (B, 1, H, W), the teacher's alpha.
        has_truth: bool (B,).
        has_soft: bool (B,).
    """

    rgb: Tensor
    truth: Tensor
    soft: Tensor
    has_truth: Tensor
    has_soft: Tensor

    def __getitem__(self, chosen: Tensor) -> Batch:
        """Return the pictures of some indices, int64 (N,), on the same device."""
        return Batch(*(getattr(self, field.name)[chosen] for field in fields(self)))


class Sampler:
    """Draws batches from the training part of a bank.

    About a fifth of a batch is composed of cut-outs and backgrounds and an eighth is
    backgrounds alone, as far as the bank holds these; the rest are pairs and photos, each as
    likely as any other.

    Args:
        bank: What to draw from.
        device: Where the batches are made.
        choices: Generator on the CPU: which pictures, which sizes.
        noise: Generator on ``device``: everything else.
    """

    def __init__(
        self, bank: Bank, device: torch.device, choices: torch.Generator, noise: torch.Generator
    ) -> None:
        self._bank = bank
        self._device = device
        self._choices = choices
        self._noise = noise
        self._shown = torch.cat((bank.select("pair"), bank.select("photo")))
        self._cutouts = bank.select("cutout")
        self._backgrounds = bank.select("background")

    def draw(self, count: int, height: int, width: int) -> Batch:
        """Return ``count`` pictures of ``height`` x ``width``, both multiples of 16."""
        composed, empty = self._shares(count)
        shown = count - composed - empty
        parts: list[Batch] = []
        if shown:
            parts.append(self._photographed(shown, height, width))
        if composed:
            parts.append(self._composed(composed, height, width))
        if empty:
            parts.append(self._empty(empty, height, width))
        return degrade(joined(parts), self._noise)

    def _shares(self, count: int) -> tuple[int, int]:
        has_backgrounds = len(self._backgrounds) > 0
        # Without pairs and photos everything is composed.
        if not len(self._shown):
            empty = self._whole(count * _EMPTY_SHARE) if has_backgrounds else 0
            return count - empty, empty
        composed = self._whole(count * _COMPOSITE_SHARE) if len(self._cutouts) else 0
        empty = self._whole(count * _EMPTY_SHARE) if has_backgrounds else 0
        return composed, min(empty, count - composed)

    def _whole(self, expected: float) -> int:
        """Round up or down at random, so that the mean is as expected."""
        whole = math.floor(expected)
        lucky = torch.rand((), generator=self._choices).item() < expected - whole
        return whole + int(lucky)

    def _pick(self, among: Tensor, count: int) -> Tensor:
        return among[torch.randint(len(among), (count,), generator=self._choices)]

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(shape, generator=self._noise, device=self._device)
        return low + (high - low) * drawn

    def _photographed(self, count: int, height: int, width: int) -> Batch:
        indices = self._pick(self._shown, count)
        records = self._bank.take(indices, self._device)
        view = self._view(self._bank.aspect[indices], height, width)
        planes = _sample(records, view, height, width, "reflection")
        pairs = self._bank.kind[indices] == 0
        return Batch(
            rgb=planes[:, :3],
            truth=planes[:, 3:4],
            soft=planes[:, 4:5],
            has_truth=pairs.to(self._device),
            has_soft=self._bank.has_soft[indices].to(self._device),
        )

    def _scene(self, count: int, height: int, width: int) -> Tensor:
        """Return pictures without a subject, (count, 3, height, width)."""
        if not len(self._backgrounds):
            colour = self._uniform(0.0, 1.0, count, 3, 1, 1)
            return colour.expand(count, 3, height, width)
        indices = self._pick(self._backgrounds, count)
        records = self._bank.take(indices, self._device)
        view = self._view(self._bank.aspect[indices], height, width)
        return _sample(records[:, :3], view, height, width, "reflection")

    def _empty(self, count: int, height: int, width: int) -> Batch:
        nothing = torch.zeros((count, 1, height, width), device=self._device)
        known = torch.ones(count, dtype=torch.bool, device=self._device)
        return Batch(self._scene(count, height, width), nothing, nothing, known, ~known)

    def _composed(self, count: int, height: int, width: int) -> Batch:
        """Put one to three cut-outs over backgrounds, some blurred as a large aperture does."""
        rgb = self._scene(count, height, width)
        rgb = _where(self._chance(0.3, count), blurred(rgb, 2.5), rgb)
        alpha = torch.zeros((count, 1, height, width), device=self._device)
        present = torch.ones(count, device=self._device)
        for number in range(_MAX_SUBJECTS):
            # The first is always there, each further one in a quarter of the pictures left.
            if number > 0:
                present = present * self._chance(0.25, count)
            indices = self._pick(self._cutouts, count)
            records = self._bank.take(indices, self._device)
            cover = records[:, 3:4]
            # Premultiplied, so that what lies under transparent pixels cannot bleed in.
            planes = torch.cat((records[:, :3] * cover, cover), dim=1)
            view = self._pose(self._bank.aspect[indices], height, width)
            planes = _sample(planes, view, height, width, "zeros")
            cover = planes[:, 3:4] * present.view(-1, 1, 1, 1)
            lit = planes[:, :3] * self._uniform(0.75, 1.25, count, 3, 1, 1)
            lit = lit * self._uniform(0.7, 1.2, count, 1, 1, 1) * present.view(-1, 1, 1, 1)
            rgb = lit + rgb * (1.0 - cover)
            alpha = cover + alpha * (1.0 - cover)
        known = torch.ones(count, dtype=torch.bool, device=self._device)
        return Batch(rgb.clamp(0.0, 1.0), alpha, torch.zeros_like(alpha), known, ~known)

    def _chance(self, probability: float, count: int) -> Tensor:
        return (self._uniform(0.0, 1.0, count) < probability).float()

    def _view(self, aspect: Tensor, height: int, width: int) -> Tensor:
        """Return where a view lies in its picture, as matrices (B, 2, 3) for affine_grid.

        Half of the views show nearly all of the picture and half a part, mirrored or not,
        slightly turned, their shapes squashed by no more than a third.
        """
        count = len(aspect)
        aspect = aspect.to(self._device)
        nearly_all = self._chance(0.5, count)
        least = 0.82 * nearly_all + 0.45 * (1.0 - nearly_all)
        span_x, span_y = (least + (1.0 - least) * self._uniform(0.0, 1.0, count) for _ in range(2))
        squash = span_x * aspect / span_y / (width / height)
        span_x = span_x * torch.where(squash > _MAX_SQUASH, _MAX_SQUASH / squash, 1.0)
        span_y = span_y * torch.where(squash < 1.0 / _MAX_SQUASH, squash * _MAX_SQUASH, 1.0)
        x = (1.0 - span_x) * self._uniform(-1.0, 1.0, count)
        y = (1.0 - span_y) * self._uniform(-1.0, 1.0, count)
        flip = 1.0 - 2.0 * self._chance(0.5, count)
        turn = 0.1 * torch.randn(count, generator=self._noise, device=self._device)
        turn = turn.clamp(-0.3, 0.3)
        # In the picture's own proportions, so that turning does not shear.
        rows = (
            torch.stack((flip * span_x * turn.cos(), -span_y * turn.sin() / aspect, x), dim=1),
            torch.stack((flip * span_x * turn.sin() * aspect, span_y * turn.cos(), y), dim=1),
        )
        return torch.stack(rows, dim=1)

    def _pose(self, aspect: Tensor, height: int, width: int) -> Tensor:
        """Return where the frame lies as seen from a cut-out: whole figures to close portraits."""
        count = len(aspect)
        aspect = aspect.to(self._device)
        # Height of the figure in heights of the frame.
        tall = torch.exp(self._uniform(math.log(0.35), math.log(2.2), count))
        wide = tall * aspect * height / width * self._uniform(0.9, 1.1, count)
        x = self._uniform(-0.9, 0.9, count)
        # Most stand on the lower edge, or show their top if they are too tall for the frame, as
        # in a close portrait. The others may be anywhere.
        standing = torch.maximum(1.0 - tall, tall - self._uniform(0.6, 1.05, count))
        free = self._uniform(-0.6, 0.8, count)
        y = torch.where(self._uniform(0.0, 1.0, count) < 0.7, standing, free)
        flip = 1.0 - 2.0 * self._chance(0.5, count)
        turn = (0.12 * torch.randn(count, generator=self._noise, device=self._device)).clamp(-1, 1)
        cos, sin, ratio = turn.cos(), turn.sin(), width / height
        # In the frame's own proportions, so that turning does not shear.
        rows = (
            torch.stack((cos, -sin / ratio, y * sin / ratio - x * cos), dim=1) * flip[:, None],
            torch.stack((sin * ratio, cos, -x * sin * ratio - y * cos), dim=1),
        )
        return torch.stack((rows[0] / wide[:, None], rows[1] / tall[:, None]), dim=1)

    def jittered(self, batch: Batch) -> tuple[Batch, Tensor]:
        """Return a batch as the next frame might show it, and by which matrices it moved.

        A few pixels of shift, a little scale, and other light and noise. The same matrices
        put what a network said of ``batch`` where it should say it again.
        """
        count, _, height, width = batch.rgb.shape
        scale = 1.0 + 0.04 * self._uniform(-1.0, 1.0, count)
        zero = torch.zeros(count, device=self._device)
        x, y = (0.03 * self._uniform(-1.0, 1.0, count) for _ in range(2))
        rows = (torch.stack((scale, zero, x), dim=1), torch.stack((zero, scale, y), dim=1))
        theta = torch.stack(rows, dim=1)
        planes = torch.cat((batch.rgb, batch.truth, batch.soft), dim=1)
        planes = _sample(planes, theta, height, width, "reflection")
        rgb = lit_otherwise(planes[:, :3], self._noise, strength=0.4)
        rgb = noisy(rgb, self._noise, most=0.03)
        moved = Batch(rgb, planes[:, 3:4], planes[:, 4:5], batch.has_truth, batch.has_soft)
        return moved, theta


def move(planes: Tensor, theta: Tensor) -> Tensor:
    """Sample planes by matrices from :meth:`Sampler.jittered`."""
    return _sample(planes, theta, planes.shape[2], planes.shape[3], "reflection")


def _sample(planes: Tensor, theta: Tensor, height: int, width: int, outside: str) -> Tensor:
    grid = functional.affine_grid(
        theta, [len(planes), planes.shape[1], height, width], align_corners=False
    )
    return functional.grid_sample(
        planes, grid, mode="bilinear", padding_mode=outside, align_corners=False
    )


def joined(parts: Sequence[Batch]) -> Batch:
    """Return batches of one size as one, in their order."""
    return Batch(
        *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Batch))
    )


def _where(chosen: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, 1, 1, 1) > 0.5, then, otherwise)


def degrade(batch: Batch, generator: torch.Generator) -> Batch:
    """Return a batch seen through a camera: exposure, blur, noise, compression.

    Blur that comes from motion or from defocus is in the alpha too, since it mixes subject
    and background where it is; what comes later in the camera leaves alpha as it is.

    Args:
        batch: Clean pictures.
        generator: Source of random numbers, on the batch's device.
    """
    count = len(batch.rgb)
    device = batch.rgb.device
    order = torch.rand((4, count), generator=generator, device=device)
    rgb = lit_otherwise(batch.rgb, generator)
    planes = torch.cat((rgb, batch.truth, batch.soft), dim=1)
    for chosen, kernel in (
        (order[0] < 0.2, _motion_kernels),
        ((order[0] > 0.85), _defocus_kernels),
    ):
        which = torch.nonzero(chosen)[:, 0]
        if len(which):
            planes[which] = _filtered(planes[which], kernel(len(which), generator, device))
    rgb = planes[:, :3]
    which = torch.nonzero(order[1] < 0.5)[:, 0]
    if len(which):
        rgb[which] = noisy(rgb[which], generator)
    which = torch.nonzero(order[2] < 0.5)[:, 0]
    if len(which):
        rgb[which] = compressed(rgb[which], generator)
    return Batch(rgb, planes[:, 3:4], planes[:, 4:5], batch.has_truth, batch.has_soft)


def lit_otherwise(rgb: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Change exposure, gamma, white balance and saturation of each picture a little.

    Args:
        rgb: (B, 3, H, W) in 0..1.
        generator: Source of random numbers, on the same device.
        strength: 1 for what scenes differ by, less for what frames of one clip differ by.
    """
    count = len(rgb)

    def normal(scale: float, channels: int = 1) -> Tensor:
        drawn = torch.randn((count, channels, 1, 1), generator=generator, device=rgb.device)
        return scale * strength * drawn.clamp(-2.5, 2.5)

    gamma = torch.exp(normal(0.18))
    gain = torch.exp(normal(0.15) + normal(0.07, 3))
    saturation = (1.0 + normal(0.3)).clamp(0.0, 2.0)
    offset = normal(0.04)
    lit = rgb.clamp(1e-4, 1.0).pow(gamma) * gain + offset
    grey = lit.mean(dim=1, keepdim=True)
    return torch.lerp(grey.expand_as(lit), lit, saturation.expand_as(lit)).clamp(0.0, 1.0)


def noisy(rgb: Tensor, generator: torch.Generator, most: float = 0.08) -> Tensor:
    """Add sensor noise: shot noise that grows with light, read noise, both in clumps or not.

    Args:
        rgb: (B, 3, H, W) in 0..1.
        generator: Source of random numbers, on the same device.
        most: Largest standard deviation.
    """
    count = len(rgb)
    noise = torch.randn(rgb.shape, generator=generator, device=rgb.device)
    level = torch.rand((count, 1, 1, 1), generator=generator, device=rgb.device).square() * most
    clumped = torch.rand((count, 1, 1, 1), generator=generator, device=rgb.device) < 0.4
    # Averaging 9 independent values divides their deviation by 3.
    noise = torch.where(clumped, 2.0 * functional.avg_pool2d(noise, 3, 1, 1), noise)
    return (rgb + noise * level * (0.4 + 0.6 * rgb.sqrt())).clamp(0.0, 1.0)


def blurred(rgb: Tensor, sigma_px: float) -> Tensor:
    """Blur by a Gaussian of ``sigma_px`` pixels."""
    reach = math.ceil(2.5 * sigma_px)
    taps = torch.arange(-reach, reach + 1, device=rgb.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (taps / sigma_px).square())
    kernel = (kernel / kernel.sum()).expand(rgb.shape[1], 1, -1)
    padded = functional.pad(rgb, (reach, reach, reach, reach), mode="replicate")
    across = functional.conv2d(padded, kernel[:, :, None, :], groups=rgb.shape[1])
    return functional.conv2d(across, kernel[:, :, :, None], groups=rgb.shape[1])


def _motion_kernels(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return lines of random length and direction, (count, taps, taps), each with sum 1."""
    angle = torch.rand((count, 1, 1), generator=generator, device=device) * math.pi
    drawn = torch.rand((count, 1, 1), generator=generator, device=device)
    half_length = 1.0 + drawn * (_BLUR_TAPS // 2 - 1)
    along, across = _turned_grid(angle, device)
    weight = (half_length + 0.5 - along.abs()).clamp(0.0, 1.0) * (1.0 - across.abs()).clamp(min=0.0)
    return weight / weight.sum(dim=(1, 2), keepdim=True)


def _defocus_kernels(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return disks of random radius, as lenses make them, (count, taps, taps), each with sum 1."""
    angle = torch.zeros((count, 1, 1), device=device)
    drawn = torch.rand((count, 1, 1), generator=generator, device=device)
    radius = 0.5 + drawn * (_BLUR_TAPS // 2 - 1)
    along, across = _turned_grid(angle, device)
    weight = (radius + 0.5 - torch.hypot(along, across)).clamp(0.0, 1.0)
    return weight / weight.sum(dim=(1, 2), keepdim=True)


def _turned_grid(angle: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    reach = _BLUR_TAPS // 2
    steps = torch.arange(-reach, reach + 1, device=device, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    along = x * angle.cos() + y * angle.sin()
    return along, y * angle.cos() - x * angle.sin()


def _filtered(planes: Tensor, kernels: Tensor) -> Tensor:
    """Filter every plane of picture n with kernel n."""
    count, channels = planes.shape[:2]
    reach = kernels.shape[-1] // 2
    padded = functional.pad(planes, (reach, reach, reach, reach), mode="replicate")
    weight = kernels.repeat_interleave(channels, dim=0).unsqueeze(1)
    merged = padded.reshape(1, count * channels, *padded.shape[2:])
    filtered = functional.conv2d(merged, weight, groups=count * channels).view(planes.shape)
    return filtered.clamp(0.0, 1.0)  # weights add up to 1 but for rounding


def compressed(rgb: Tensor, generator: torch.Generator) -> Tensor:
    """Return what lossy compression leaves: blocks, ringing, and chroma at half size.

    The 8x8 cosine transform of luma and of subsampled chroma is rounded to multiples of a
    step, as JPEG does (ISO/IEC 10918-1) and H.264 within its residuals. Half of the pictures
    get JPEG's table and half one step for all frequencies and softened block edges, as H.264
    has by default.

    Args:
        rgb: (B, 3, H, W) in 0..1; H and W multiples of 16.
        generator: Source of random numbers, on the same device.
    """
    count = len(rgb)
    red, green, blue = rgb.unbind(dim=1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601, as in JFIF
    chroma = torch.stack((0.564 * (blue - luma), 0.713 * (red - luma)), dim=1)
    chroma = functional.avg_pool2d(chroma, 2)
    drawn = torch.rand((2, count, 1, 1, 1, 1, 1), generator=generator, device=rgb.device)
    jpeg = torch.tensor(_JPEG_LUMA_STEPS, device=rgb.device, dtype=torch.float32) / 255.0
    is_jpeg = drawn[0] < 0.5
    # Steps of 5 % to 95 % of the table: what libjpeg calls a quality of 97 to 52.
    level = 0.05 + 0.9 * drawn[1].square()
    steps = level * torch.where(is_jpeg, jpeg, torch.full_like(jpeg, 28.0 / 255.0))
    luma = _quantised(luma.unsqueeze(1), steps)
    chroma = _quantised(chroma, steps)
    softened = functional.avg_pool2d(luma, 3, 1, 1, count_include_pad=False)
    edge = _block_edges(luma)
    luma = torch.where(is_jpeg.view(-1, 1, 1, 1), luma, torch.lerp(luma, softened, 0.7 * edge))
    chroma = functional.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    luma = luma[:, 0]
    blue = luma + chroma[:, 0] / 0.564
    red = luma + chroma[:, 1] / 0.713
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return torch.stack((red, green, blue), dim=1).clamp(0.0, 1.0)


def _quantised(planes: Tensor, steps: Tensor) -> Tensor:
    """Round the block transform of (B, C, H, W) to multiples of steps (B, 1, 1, 1, 8, 8)."""
    count, channels, height, width = planes.shape
    rows, columns = height // _BLOCK_PX, width // _BLOCK_PX
    blocks = planes.view(count, channels, rows, _BLOCK_PX, columns, _BLOCK_PX).transpose(3, 4)
    transform = _cosine_transform(planes.device)
    spectrum = transform @ blocks @ transform.T
    rounded = (spectrum / steps).round() * steps
    blocks = transform.T @ rounded @ transform
    return blocks.transpose(3, 4).reshape(planes.shape)


def _cosine_transform(device: torch.device) -> Tensor:
    """Return the orthonormal DCT-II of eight samples as a matrix."""
    steps = torch.arange(_BLOCK_PX, device=device, dtype=torch.float32)
    matrix = torch.cos(math.pi / _BLOCK_PX * steps[:, None] * (steps[None, :] + 0.5))
    matrix *= math.sqrt(2.0 / _BLOCK_PX)
    matrix[0] /= math.sqrt(2.0)
    return matrix


def _block_edges(planes: Tensor) -> Tensor:
    """Return 1 on the pixels beside block edges and 0 elsewhere, (H, W)."""
    height, width = planes.shape[2:]
    beside_row, beside_column = (
        (torch.arange(size, device=planes.device) % _BLOCK_PX + 1) % _BLOCK_PX <= 1
        for size in (height, width)
    )
    return (beside_row[:, None] | beside_column[None, :]).float()
