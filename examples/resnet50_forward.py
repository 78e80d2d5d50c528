"""A ResNet-50-shaped forward pass: the three operators with most time, what bounds them, eager against compiled.

Usage: python examples/resnet50_forward.py            (about a minute on two cores; compiling takes most of it)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

import probe

BATCH = 2


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with a shortcut, as in ResNet-50."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.conv3 = nn.Conv2d(width, after, 1, bias=False)
        self.norm1, self.norm2, self.norm3 = nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.BatchNorm2d(after)
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [N, C, H, W]
        y = functional.relu(self.norm1(self.conv1(x)))
        y = functional.relu(self.norm2(self.conv2(y)))
        return functional.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


def resnet50() -> nn.Module:
    """The layers of ResNet-50: 3, 4, 6 and 3 bottlenecks."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1),
    ]  # fmt: skip
    before = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            layers.append(Bottleneck(before, width, stride if number == 0 else 1))
            before = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1000)).eval()


def show(title: str, forward: Callable[[torch.Tensor], torch.Tensor], pictures: torch.Tensor) -> float:
    """Place the forward pass and print its first three operators; returns the time of one pass in seconds."""
    with torch.inference_mode():
        analysis = probe.roofline(forward, pictures)
    step_s = analysis.steps.bare_mean_s or analysis.time_s["step"] or 0.0
    print(f"\n{title}: {step_s * 1e3:.1f} ms, bound by {analysis.bound}")
    for op in sorted(analysis.ops, key=lambda op: -op.share_fraction)[:3]:
        roof = f"{op.roof_fraction:.0%} of its roof" if op.roof_fraction is not None else "roof unknown"
        print(f"  {op.share_fraction:6.1%}  {op.name} {op.shapes}: {op.bound}, {roof}")
    return step_s


def main() -> None:
    torch.manual_seed(0)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        model, pictures = resnet50().to(device), torch.randn(BATCH, 3, 224, 224, device=device)
        eager_s = show(f"{device}, eager", model, pictures)
        if device == "cpu" and not (shutil.which("c++") or shutil.which("g++")):
            print("  torch.compile needs a C++ compiler on a CPU, and there is none")
            continue
        compiled_s = show(f"{device}, torch.compile", torch.compile(model), pictures)
        print(f"  compiled: {eager_s / compiled_s:.2f}× the speed of eager")


if __name__ == "__main__":
    main()
