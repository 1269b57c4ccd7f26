"""Training itself: the schedule, one step after another, checkpoints, validation."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidbg.errors import DeviceError, InputError, OutputError, WeightsError
from vidbg.matting import architectures
from vidbg.training import BEST, CHECKPOINT, augment, losses
from vidbg.training.bank import Bank

logger = logging.getLogger(__name__)

_SIZE_STEP_PX = 32
_ASPECTS = (1.0, 1.0, 4 / 3, 3 / 4, 16 / 9, 9 / 16)
_WARM_UP = 0.02
_LEAST_RATE = 0.01
_CLIP_NORM = 2.0
_CONSISTENCY_WEIGHT = 1.0
# Every how many pictures one is shown a second time, moved and lit otherwise.
_JITTER_EVERY = 4


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a training does, but for its data.

    Attributes:
        architecture: A name that :mod:`vidbg.matting.architectures` knows.
        sizes_px: Sides of squares with as many pixels as the pictures shown, in turn, each
            for an equal share of the training; multiples of 32.
        batch_size: Pictures a step.
        steps: How many steps, or None.
        time_budget_s: How long, or None. With both, whichever ends first.
        learning_rate: Peak; cosine to a hundredth after a short linear warm-up.
        weight_decay: Of AdamW.
        ema_decay: Of the moving average of the weights that is validated and kept.
        validate_every: Steps between validations.
        seed: Of everything drawn at random.
        precision: "fp32", "bf16" or "fp16", what the network computes in.
    """

    architecture: str = "vidbg-s"
    sizes_px: tuple[int, ...] = (192, 256, 320)
    batch_size: int = 32
    steps: int | None = None
    time_budget_s: float | None = None
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    ema_decay: float = 0.999
    validate_every: int = 500
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.steps is None and self.time_budget_s is None:
            raise ValueError("a training needs an end: steps or a time budget")
        if not self.sizes_px or any(side < 32 or side % _SIZE_STEP_PX for side in self.sizes_px):
            raise ValueError(f"sizes are multiples of {_SIZE_STEP_PX}, not {self.sizes_px}")
        if self.batch_size < 2:
            raise ValueError("batch norm has nothing to average in batches of one picture")


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did.

    Attributes:
        step: Its number, from 1.
        done: Share of the training that is done, 0..1.
        elapsed_s: Time spent so far, in earlier sessions too.
        pictures: Pictures shown so far.
        learning_rate: Of this step.
        size_px: (height, width) of its pictures.
        loss: The total.
        cross_entropy: Of the fused map, as are the next two.
        overlap: 1 - IoU.
        edge: Difference of gradients.
        consistency: Disagreement between two views.
        validation_iou: Mean IoU of the averaged weights on the validation pairs, where this
            step was followed by a validation.
        empty_alpha: Mean alpha on the validation backgrounds, likewise.
    """

    step: int
    done: float
    elapsed_s: float
    pictures: int
    learning_rate: float
    size_px: tuple[int, int]
    loss: float
    cross_entropy: float
    overlap: float
    edge: float
    consistency: float
    validation_iou: float | None = None
    empty_alpha: float | None = None


def train(
    network: nn.Module,
    bank: Bank,
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    *,
    checkpoint_every_s: float = 120.0,
) -> Generator[Step, None, None]:
    """Train a network, yielding after every step; stop asking to stop training.

    ``folder`` holds ``last.pt``, from which a later call with the same recipe goes on to
    the step, and ``best.pt``, the averaged weights with the best validation IoU. Both are
    written under another name and renamed, at every validation, every
    ``checkpoint_every_s`` seconds, and when the generator is closed. What interrupts it
    within a step leaves the checkpoint before.

    Args:
        network: Gives logits, with ``side_outputs=True`` a tuple of them, the fused map first.
        bank: The pictures.
        recipe: What to do.
        folder: Where checkpoints go; made if it is not there.
        device: Where to train.
        checkpoint_every_s: Seconds between checkpoints.

    Raises:
        InputError: A checkpoint is there that is damaged or of another recipe.
        OutputError: A checkpoint cannot be written.
        WeightsError: The loss is not finite.
        DeviceError: The device's memory does not hold a batch.
    """
    state = read_checkpoint(folder, recipe)
    run = _Run(network, bank, recipe, folder, device)
    if state is not None:
        run.resume(state)
    saved_s = time.monotonic()
    saved_step = run.step
    is_last = run.is_done()
    is_between_steps = True
    try:
        while not is_last:
            is_between_steps = False
            try:
                with _denormals_flushed():
                    report = run.advance()
            except torch.cuda.OutOfMemoryError as error:
                raise DeviceError(
                    f"the memory of {device} does not hold a batch of {recipe.batch_size}",
                    hint="Start again with a smaller --batch-size",
                ) from error
            is_between_steps = True
            # Asked once: the clock that a time budget goes by does not stand still.
            is_last = run.is_done()
            is_measured = is_last or run.step % recipe.validate_every == 0
            if is_measured:
                with _denormals_flushed():
                    report = run.validated(report, is_last=is_last)
            if is_measured or time.monotonic() - saved_s > checkpoint_every_s:
                run.save()
                saved_s, saved_step = time.monotonic(), run.step
            yield report
    finally:
        # Half a step is no state to go on from: then the checkpoint before it stands.
        if is_between_steps and run.step > saved_step:
            run.save()


@contextlib.contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Take numbers too small for a full mantissa as 0, for as long as training computes.

    Gradients of pixels that are right long since get so small that a CPU computes with them in
    microcode: a fifth of a step's time. It is a state of the thread, whose owner may be anybody.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def read_checkpoint(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Return what a folder's training goes on from, None if it holds none.

    Raises:
        InputError: The checkpoint is damaged, or of another recipe.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        theirs = json.loads(state["recipe"])
    except Exception as error:  # what a damaged pickle raises depends on the damage
        raise InputError(
            "is not a checkpoint of a training", path=path, hint="Choose another folder"
        ) from error
    ours = json.loads(json.dumps(asdict(recipe)))
    changed = [
        f"{name} was {theirs.get(name)}, now {value}"
        for name, value in ours.items()
        # A longer schedule, or other arithmetic, is still the same training.
        if name not in ("steps", "time_budget_s", "precision", "validate_every")
        and theirs.get(name) != value
    ]
    if changed:
        raise InputError(
            f"belongs to a training with another recipe ({changed[0]})",
            path=path,
            hint="Choose another folder, and start from its weights with --init",
        )
    return state


class _Run:
    """The state of a training: what a checkpoint has to hold."""

    def __init__(
        self, network: nn.Module, bank: Bank, recipe: Recipe, folder: Path, device: torch.device
    ) -> None:
        self._recipe = recipe
        self._folder = folder
        self._device = device
        # Channels-last is the layout that convolutions want, on CPUs and on tensor cores.
        self._network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._average = {n: t.detach().clone() for n, t in self._network.state_dict().items()}
        decayed = [p for p in network.parameters() if p.ndim > 1]
        others = [p for p in network.parameters() if p.ndim <= 1]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": recipe.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.99),
            fused=device.type in ("cpu", "cuda"),
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self._choices = torch.Generator().manual_seed(recipe.seed)
        self._noise = torch.Generator(device).manual_seed(recipe.seed)
        self._bank = bank.to(device)
        self._sampler = augment.Sampler(self._bank, device, self._choices, self._noise)
        self.step = 0
        self._pictures = 0
        self._spent_s = 0.0
        self._best_iou = -1.0
        self._pictures_id = bank.identity
        self._since_s = time.monotonic()

    def _elapsed_s(self) -> float:
        return self._spent_s + time.monotonic() - self._since_s

    def _done(self) -> float:
        shares = [0.0]
        if self._recipe.steps is not None:
            shares.append(self.step / self._recipe.steps)
        if self._recipe.time_budget_s is not None:
            shares.append(self._elapsed_s() / self._recipe.time_budget_s)
        return min(max(shares), 1.0)

    def is_done(self) -> bool:
        return self._done() >= 1.0

    def advance(self) -> Step:
        """Take one step."""
        recipe = self._recipe
        done = self._done()
        rate = recipe.learning_rate * rate_at(done)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        height, width = self._size(done)
        fresh = max(1, recipe.batch_size - recipe.batch_size // _JITTER_EVERY)
        batch = self._sampler.draw(fresh, height, width)
        again = recipe.batch_size - fresh
        if again:
            # The parts of a batch lie one after another: those shown again are drawn from all.
            order = torch.randperm(fresh, generator=self._choices)[:again].to(self._device)
            second, theta = self._sampler.jittered(batch[order])
            batch = augment.joined((batch, second))

        self._network.train()
        x = normalised(batch.rgb).contiguous(memory_format=torch.channels_last)
        with self._autocast():
            maps = self._network(x, side_outputs=True)
        found = losses.supervised(maps, batch)
        if again:
            # The first view is the target: gradients through both would meet in the middle.
            before = augment.move(maps[0].detach().float()[order], theta)
            found = replace(found, consistency=losses.disagreement(maps[0][fresh:], before))
        loss = found.total + _CONSISTENCY_WEIGHT * found.consistency
        value = loss.item()
        if not math.isfinite(value):
            raise WeightsError(
                f"the loss is {value} at step {self.step + 1}",
                hint="Start another training from these weights, with --init and a lower --lr",
            )
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), _CLIP_NORM)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.step += 1
        self._pictures += recipe.batch_size
        self._average_weights()
        return Step(
            step=self.step,
            done=self._done(),
            elapsed_s=self._elapsed_s(),
            pictures=self._pictures,
            learning_rate=rate,
            size_px=(height, width),
            loss=value,
            cross_entropy=found.cross_entropy.item(),
            overlap=found.overlap.item(),
            edge=found.edge.item(),
            consistency=found.consistency.item(),
        )

    def _size(self, done: float) -> tuple[int, int]:
        """Return this step's (height, width): this stage's area, in one of several shapes."""
        sizes = self._recipe.sizes_px
        side = sizes[min(int(done * len(sizes)), len(sizes) - 1)]
        drawn = int(torch.randint(len(_ASPECTS), (), generator=self._choices))
        return size_of(side, _ASPECTS[drawn])

    def _autocast(self) -> torch.autocast:
        dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = dtypes.get(self._recipe.precision)
        return torch.autocast(self._device.type, dtype, enabled=dtype is not None)

    @torch.no_grad()
    def _average_weights(self) -> None:
        # Young averages forget faster: the first steps are nothing to remember.
        decay = min(self._recipe.ema_decay, (1 + self.step) / (10 + self.step))
        for name, tensor in self._network.state_dict().items():
            if tensor.is_floating_point():
                self._average[name].lerp_(tensor, 1.0 - decay)
            else:
                self._average[name].copy_(tensor)

    def validated(self, report: Step, *, is_last: bool) -> Step:
        """Measure the averaged weights; keep them if they are the best so far.

        Without anything to measure them by, the last are kept.
        """
        own = {name: t.detach().clone() for name, t in self._network.state_dict().items()}
        self._network.load_state_dict(self._average)
        try:
            with self._autocast():
                iou, empty = validate(self._network, self._bank, self._device)
        finally:
            self._network.load_state_dict(own)
        is_best = is_last if iou is None else iou > self._best_iou
        if iou is not None and is_best:
            self._best_iou = iou
        if is_best:
            self._write(BEST, {"model": self._model()} | self._facts())
        return replace(report, validation_iou=iou, empty_alpha=empty)

    def _model(self) -> dict[str, Tensor]:
        return {name: tensor.cpu() for name, tensor in self._average.items()}

    def _facts(self) -> dict[str, Any]:
        return {
            "recipe": json.dumps(asdict(self._recipe)),
            "input_side_px": self._recipe.sizes_px[-1],
            "step": self.step,
            "pictures": self._pictures,
            "elapsed_s": self._elapsed_s(),
            "best_iou": self._best_iou,
            "pictures_id": self._pictures_id,
        }

    def save(self) -> None:
        """Write what :meth:`resume` needs."""
        state = {
            "model": self._model(),
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "choices": self._choices.get_state(),
            "noise": self._noise.get_state(),
        }
        self._write(CHECKPOINT, state | self._facts())

    def _write(self, name: str, state: dict[str, Any]) -> None:
        path = self._folder / name
        part = path.with_suffix(".part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            torch.save(state, part)
            part.replace(path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            reason = str(error).splitlines()[0]
            raise OutputError(f"cannot be written: {reason}", path=path) from error

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what :func:`read_checkpoint` returned."""
        path = self._folder / CHECKPOINT
        try:
            self._network.load_state_dict(state["network"])
            self._average = {n: t.to(self._device) for n, t in state["model"].items()}
            self._optimizer.load_state_dict(state["optimizer"])
            # Only half precision has a state: empty before or after a change from or to it.
            if state["scaler"] and self._scaler.is_enabled():
                self._scaler.load_state_dict(state["scaler"])
            self._choices.set_state(state["choices"])
            if len(state["noise"]) == len(self._noise.get_state()):  # of the same kind of device
                self._noise.set_state(state["noise"])
            self.step, self._pictures = state["step"], state["pictures"]
            self._spent_s = state["elapsed_s"]
            if state["pictures_id"] == self._pictures_id:
                self._best_iou = state["best_iou"]
            else:
                logger.warning(
                    "the pictures are not those that %s was trained on: going on with them", path
                )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError("is damaged or of another version", path=path) from error
        self._since_s = time.monotonic()
        logger.info("going on from step %d of %s", self.step, path)


def starting_network(architecture: str, seed: int, init: Path | None = None) -> nn.Module:
    """Return a network with random weights that the seed decides, or with those of a file.

    Raises:
        WeightsError: The file cannot be used or is for another architecture.
        VidbgError: The network needs a package that is not installed.
    """
    if init is not None:
        return architectures.load_network(init, expected=architecture).network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architectures.build(architecture)


def choose_precision(precision: str, device: torch.device) -> str:
    """Return what to compute in where the user leaves it to us ("auto"), else what they said.

    bf16 on GPUs that have it, fp16 on others, and on a CPU the quicker of bf16 and fp32: on
    processors that multiply bf16 a step takes half of the time, on others several times more.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if device.type != "cpu":
        return "fp32"
    x = torch.zeros((8, 64, 48, 48)).contiguous(memory_format=torch.channels_last)
    seconds: dict[str, float] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        convolution = nn.Conv2d(64, 64, 3, padding=1).to(dtype)
        times = []
        for _ in range(4):
            start_s = time.perf_counter()
            convolution(x.to(dtype)).sum().backward()
            times.append(time.perf_counter() - start_s)
        seconds[name] = min(times)
    return min(seconds, key=lambda name: seconds[name])


def rate_at(done: float) -> float:
    """Return the learning rate at a share of the training, as a share of its peak."""
    if done < _WARM_UP:
        return max(done / _WARM_UP, 0.01)
    turned = (done - _WARM_UP) / (1.0 - _WARM_UP)
    return _LEAST_RATE + (1.0 - _LEAST_RATE) * 0.5 * (1.0 + math.cos(math.pi * turned))


def size_of(side_px: int, aspect: float) -> tuple[int, int]:
    """Return (height, width), multiples of 32, of about ``side_px`` squared pixels.

    Args:
        side_px: Side of the square of that area.
        aspect: Width over height.
    """
    height = max(1, round(side_px / math.sqrt(aspect) / _SIZE_STEP_PX)) * _SIZE_STEP_PX
    width = max(1, round(side_px**2 / height / _SIZE_STEP_PX)) * _SIZE_STEP_PX
    return height, width


def normalised(rgb: Tensor) -> Tensor:
    """Return what networks take: R'G'B' in 0..1 less the mean, over the deviation."""
    mean = torch.tensor(architectures.IMAGENET_MEAN, device=rgb.device).view(1, 3, 1, 1)
    std = torch.tensor(architectures.IMAGENET_STD, device=rgb.device).view(1, 3, 1, 1)
    return (rgb - mean) / std


@torch.no_grad()
def validate(
    network: nn.Module, bank: Bank, device: torch.device, batch_size: int = 16
) -> tuple[float | None, float | None]:
    """Return mean IoU on validation pairs and mean alpha on validation backgrounds.

    IoU is that of the matte at 0.5 against the mask at 0.5, on the stored squares; a picture
    in which both are empty counts as 1. None where there are no such pictures.
    """
    network.eval()

    def mattes(indices: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        # Splitting nothing gives one piece of nothing.
        for chunk in torch.split(indices, batch_size) if len(indices) else ():
            records = bank.take(chunk, device)
            x = normalised(records[:, :3]).contiguous(memory_format=torch.channels_last)
            yield torch.sigmoid(network(x).float()), records[:, 3:4]

    overlaps: list[Tensor] = []
    for matte, truth in mattes(bank.select("pair", validation=True)):
        found, there = matte > 0.5, truth > 0.5
        both = (found & there).sum(dim=(1, 2, 3))
        either = (found | there).sum(dim=(1, 2, 3))
        overlaps.append(torch.where(either > 0, both / either.clamp(min=1), 1.0))
    backgrounds = bank.select("background", validation=True)
    empties = [matte.mean(dim=(1, 2, 3)) for matte, _ in mattes(backgrounds)]
    return (
        torch.cat(overlaps).mean().item() if overlaps else None,
        torch.cat(empties).mean().item() if empties else None,
    )


def teacher_iou(bank: Bank) -> float | None:
    """Return the teacher's mean IoU on the validation pairs, to hold a network's against."""
    indices = bank.select("pair", validation=True)
    indices = indices[bank.has_soft[indices]]
    if not len(indices):
        return None
    overlaps: list[Tensor] = []
    for index in indices.tolist():
        truth, soft = bank.records[index, 3] > 127, bank.records[index, 4] > 127
        both, either = (truth & soft).sum(), (truth | soft).sum()
        overlaps.append(torch.where(either > 0, both / either.clamp(min=1), 1.0))
    return torch.stack(overlaps).mean().item()
