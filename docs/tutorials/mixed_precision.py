"""Mixed precision on a CNN: what float16 and bfloat16 change about speed, memory, accuracy and the steps that count.

    python docs/tutorials/mixed_precision.py [--small] [--device cuda]

The pictures are synthetic: stripes in one of four directions under noise, so that there is something to learn.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from torch import nn
from torch.nn import functional

import probe
from probe import Analysis

CLASSES, SIDE = 4, 32
OVERFLOW = 1e6  # beyond float16's largest number, 65504; float32 and bfloat16 have room for it


def stripes(count: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [count, 3, SIDE, SIDE] of stripes, and the direction of each."""
    kinds = torch.arange(count) % CLASSES
    angle = (kinds * math.pi / CLASSES).view(-1, 1, 1)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    phase = torch.rand(count, 1, 1) * 6.28
    picture = torch.sin(0.8 * (rows * angle.sin() + columns * angle.cos()) + phase)
    noise = torch.randn(count, 3, SIDE, SIDE)
    order = torch.randperm(count)
    return (picture.unsqueeze(1) + noise)[order].to(device), kinds[order].to(device)


def network(width: int) -> nn.Module:
    """Three convolutions with batch norm, and a linear layer."""
    layers: list[nn.Module] = []
    for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(before, after, 3, 2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, CLASSES))


@dataclass
class Training:
    """A model with its optimizer and scaler, and what became of its steps."""

    model: nn.Module
    device: str
    kind: torch.dtype
    skipped: int = 0
    not_finite: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        # Only float16 needs a scaler: bfloat16 has the range of float32.
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.kind is torch.float16, init_scale=2.0**12)

    def step(self, pictures: torch.Tensor, kinds: torch.Tensor) -> None:
        """One step; the scaler leaves it out where a gradient is infinite or no number."""
        with torch.autocast(self.device, self.kind, enabled=self.kind is not torch.float32):
            loss = functional.cross_entropy(self.model(pictures), kinds)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.skipped += self.scaler.get_scale() < before  # a smaller scale is the sign of a skipped step
        self.not_finite += not math.isfinite(loss.item())
        self.losses.append(loss.item())


def epochs_of(
    folder: Path, training: Training, data: tuple[torch.Tensor, torch.Tensor], epochs: int, batch: int
) -> tuple[list[float], Analysis]:
    """Train under probe; the seconds of each epoch, and what probe says of the run."""
    seconds = []
    with probe.profile(folder, wait=4, warmup=1, active=2, memory=True, tags={"type": str(training.kind)}) as prof:
        for _ in range(epochs):
            begun = perf_counter()
            for pictures, kinds in batches(data, batch):
                training.step(pictures, kinds)
                prof.step(samples=len(pictures))
            seconds.append(perf_counter() - begun)
    return seconds, probe.analyze(folder)


def batches(data: tuple[torch.Tensor, torch.Tensor], batch: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """The data in pieces of `batch` samples."""
    return zip(data[0].split(batch), data[1].split(batch), strict=True)


@torch.no_grad()
def accuracy(training: Training, data: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Share of pictures whose direction is told right, in the type of the training."""
    training.model.eval()
    with torch.autocast(training.device, training.kind, enabled=training.kind is not torch.float32):
        right = training.model(data[0]).argmax(1) == data[1]
    training.model.train()
    return right.float().mean().item()


def overflow(training: Training, data: tuple[torch.Tensor, torch.Tensor]) -> str:
    """One step on a batch with a value that float16 cannot hold: what the training does about it."""
    pictures, kinds = data[0][:16].clone(), data[1][:16]
    pictures[0, 0, 0, 0] = OVERFLOW
    skipped, scale = training.skipped, training.scaler.get_scale()
    training.step(pictures, kinds)
    whole = all(bool(p.isfinite().all()) for p in training.model.parameters())
    done = "skipped" if training.skipped > skipped else "made"
    scales = f", scale {scale:.0f} → {training.scaler.get_scale():.0f}" if training.scaler.is_enabled() else ""
    return f"loss {training.losses[-1]:.3g}, step {done}{scales}, weights {'finite' if whole else 'not finite'}"


def compare_types(folder: Path, options: argparse.Namespace) -> list[str]:
    """Train in each type from the same weights and data; returns what an overflow did in each."""
    planted = []
    print("type      samples/s  peak MiB  accuracy  first epoch s  later s  skipped  NaN  bound")
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        torch.manual_seed(0)
        data = stripes(256 if options.small else 1024, options.device)
        training = Training(network(8 if options.small else 24).to(options.device), options.device, kind)
        seconds, found = epochs_of(folder / str(kind), training, data, 3 if options.small else 4, 32)
        peak = found.memory.peak_bytes if found.memory else None
        later = sum(seconds[1:]) / len(seconds[1:])
        rate = len(data[0]) / later
        score = accuracy(training, stripes(256, options.device))
        print(
            f"{name(kind):9} {rate:9.0f}  {(peak or 0) / 2**20:8.1f}  {score:8.0%}  {seconds[0]:13.2f}  {later:7.2f}"
            f"  {training.skipped:7}  {training.not_finite:3}  {found.bound}"
        )
        planted.append(f"{name(kind):9} {overflow(training, data)}")
    return planted


def gain_by_batch(options: argparse.Namespace) -> None:
    """How much faster each narrow type is than float32, over the batch size, and what bounds a pass of each."""
    print("\nbatch  float32 samples/s   bfloat16    float16  bound in float32, bfloat16, float16")
    gains: dict[tuple[torch.dtype, int], float] = {}
    for batch in (2, 8) if options.small else (2, 8, 32, 64):
        rates, bounds = {}, []
        for kind in (torch.float32, torch.bfloat16, torch.float16):
            rates[kind], bound = rate_of(kind, batch, options)
            gains[kind, batch] = rates[kind] / rates[torch.float32]
            bounds.append(bound)
        narrow = "  ".join(f"{gains[kind, batch]:8.2f}×" for kind in (torch.bfloat16, torch.float16))
        print(f"{batch:5}  {rates[torch.float32]:17.0f}  {narrow}  {', '.join(bounds)}")
    (kind, batch), gain = max(((key, gain) for key, gain in gains.items() if key[0] is not torch.float32), key=second)
    verdict = "faster than float32" if gain > 1.05 else "slower than float32" if gain < 0.95 else "as fast as float32"
    print(f"best of the narrow types: {name(kind)} at batch {batch}, {gain:.2f}×: {verdict}")


def rate_of(kind: torch.dtype, batch: int, options: argparse.Namespace) -> tuple[float, str]:
    """Samples a second of one step with a batch of this size, and what bounds it."""
    torch.manual_seed(0)
    training = Training(network(8 if options.small else 24).to(options.device), options.device, kind)
    found = probe.roofline(training.step, *stripes(batch, options.device))
    return batch / (found.steps.p50_s or math.inf), found.bound


def second(pair: tuple[object, float]) -> float:
    """What to sort gains by."""
    return pair[1]


def name(kind: torch.dtype) -> str:
    """ "float16" of torch.float16."""
    return str(kind).removeprefix("torch.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="less data and a narrower network, in seconds")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        planted = compare_types(Path(folder), options)
    print(f"\none picture with a value of {OVERFLOW:.0e} in it:")
    print("\n".join(planted))
    gain_by_batch(options)


if __name__ == "__main__":
    main()
