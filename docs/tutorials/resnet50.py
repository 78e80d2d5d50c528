"""A forward pass of ResNet-50: what takes the time, what bounds it, where memory peaks, and what compiling changes.

    python docs/tutorials/resnet50.py [--small] [--device cuda]

--small keeps the layout and shrinks it: two stages of one block, narrow layers, small pictures.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

import probe
from probe import Analysis

FULL, SMALL = (3, 4, 6, 3), (1, 1)  # bottlenecks in each stage


class Bottleneck(nn.Module):
    """Convolutions of 1×1, 3×3 and 1×1, and a shortcut round them."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.conv1, self.norm1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, after, 1, bias=False), nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [N, C, H, W]
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.relu(self.norm2(self.conv2(y)))
        return self.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


def resnet(blocks: tuple[int, ...], width: int = 64) -> nn.Sequential:
    """ResNet with so many bottlenecks a stage; (3, 4, 6, 3) of width 64 is ResNet-50."""
    stem = [nn.Conv2d(3, width, 7, 2, padding=3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    model = nn.Sequential()
    model.add_module("stem", nn.Sequential(*stem, nn.MaxPool2d(3, 2, padding=1)))
    before = width
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        strides = [1 if stage == 0 else 2] + [1] * (count - 1)
        inputs = [before] + [4 * inner] * (count - 1)
        made = [Bottleneck(i, inner, stride) for i, stride in zip(inputs, strides, strict=True)]
        model.add_module(f"stage{stage + 1}", nn.Sequential(*made))
        before = 4 * inner
    model.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1000)))
    return model.eval()


def profiled(folder: Path, model: nn.Module, pictures: torch.Tensor) -> Analysis:
    """Record passes of the model: three that only warm up, then timed ones, then a few in full, with memory."""
    with torch.inference_mode(), probe.profile(folder, wait=5, warmup=1, active=3, memory=True, model=model) as prof:
        for _ in range(9):
            model(pictures)
            prof.step(samples=len(pictures))
    return probe.analyze(folder)


def top_operators(analysis: Analysis, count: int = 3) -> None:
    """The operators with the largest share of the step."""
    print("share  operator                   bound     host ms  device ms  kernel")
    for op in sorted(analysis.ops, key=lambda op: -op.share_fraction)[:count]:
        kernel = op.kernels[0].name[:40] if op.kernels else "– (a CPU operator starts none)"
        times = f"{op.self_s * 1e3:8.2f}  {op.device_s * 1e3:9.2f}"
        print(f"{op.share_fraction:5.0%}  {op.name:25}  {op.bound:8} {times}  {kernel}")
        print(f"       {op.shapes}{'  in ' + op.module if op.module else ''}")


def memory_peak(analysis: Analysis) -> None:
    """How much memory the pass holds at most, where that is, and who holds it."""
    memory = analysis.memory
    if memory is None or memory.peak_bytes is None:
        print("memory: not recorded")
        return
    print(f"memory: {memory.peak_bytes / 2**20:.1f} MiB at the most, in {memory.peak_at}")
    for holder in memory.holders[:3]:
        maker = f"{holder.operator} in {holder.where}" if holder.operator else "there before the recording"
        print(f"  {holder.bytes / 2**20:6.1f} MiB  {holder.category}, {maker}")


def step_s(analysis: Analysis) -> float:
    """Seconds of one pass without the profiler."""
    return analysis.steps.bare_mean_s or analysis.time_s["step"] or 0.0


def compiled(model: nn.Module, pictures: torch.Tensor, eager: Analysis) -> None:
    """The same pass through torch.compile, where that can be had."""
    if pictures.device.type == "cpu" and not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        print("compiled: torch.compile needs a C++ compiler on a CPU, and there is none here; apt install g++")
        return
    faster: Callable[..., torch.Tensor] = torch.compile(model)
    with torch.inference_mode():
        analysis = probe.roofline(faster, pictures)
    print(f"compiled: {step_s(analysis) * 1e3:.1f} ms a pass, {step_s(eager) / step_s(analysis):.2f}× eager,")
    print(f"  {calls(analysis):.0f} operators a pass in place of {calls(eager):.0f}")


def calls(analysis: Analysis) -> float:
    """Calls of operators a pass."""
    return sum(op.calls for op in analysis.ops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a narrow and shallow one, in seconds")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = resnet(SMALL, 16) if options.small else resnet(FULL)
    pictures = torch.randn(2, 3, 64, 64) if options.small else torch.randn(4, 3, 224, 224)
    model, pictures = model.to(options.device), pictures.to(options.device)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters, pictures {list(pictures.shape)}")
    with TemporaryDirectory() as folder:
        eager = profiled(Path(folder) / "eager", model, pictures)
    print(f"eager: {step_s(eager) * 1e3:.1f} ms a pass, bound by {eager.bound}\n")
    top_operators(eager)
    memory_peak(eager)
    compiled(model, pictures, eager)


if __name__ == "__main__":
    main()
