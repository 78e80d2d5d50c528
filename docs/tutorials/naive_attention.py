"""Attention and a norm written out by hand: found, proved faster on their own shapes, replaced, and measured again.

python docs/tutorials/naive_attention.py [--small] [--device cuda]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from torch.nn import functional

import probe
from probe import Analysis
from probe.api import verify

LENGTH, FEATURES, WIDTH, HEADS, LAYERS = 1024, 256, 256, 8, 2


class Norm(nn.Module):
    """Root mean square norm, as papers write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(width) + 0.5), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    """Self-attention, as papers write it: the scores are a tensor of their own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, T, C] -> [B, T, C]
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = self.mix(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))

    def mix(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # [B, H, T, T]
        return torch.softmax(scores, dim=-1) @ v


class FusedAttention(Attention):
    """The same with the replacement that probe suggests: the scores are never a tensor."""

    def mix(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(q, k, v)


def network(attention: type[Attention], device: str) -> nn.Module:
    """Features are normed, projected, and attended to; the same weights whatever the attention."""
    torch.manual_seed(0)
    layers = [attention(WIDTH, HEADS) for _ in range(LAYERS)]
    return nn.Sequential(Norm(FEATURES), nn.Linear(FEATURES, WIDTH), *layers).eval().to(device)


def observe(folder: Path, model: nn.Module, x: torch.Tensor) -> Analysis:
    """Some passes under probe."""
    with torch.inference_mode(), probe.profile(folder, wait=16, warmup=1, active=3, model=model) as prof:
        for _ in range(20):
            model(x)
            prof.step(tokens=x.shape[0] * x.shape[1])
    return probe.analyze(folder)


def step_ms(analysis: Analysis) -> float:
    """Milliseconds of the middle one of all passes, most of which ran without the profiler."""
    return (analysis.steps.p50_s or 0.0) * 1e3


def found(analysis: Analysis) -> set[str]:
    """Print what probe suggests to change; the codes of it."""
    for finding in analysis.findings:
        saving = f"up to {finding.saving_fraction:.0%} of a pass" if finding.saving_fraction else "no time"
        print(f"  {finding.code} {finding.rule}: {saving}, {finding.where}")
    return {finding.code for finding in analysis.findings}


def prove(folder: Path, code: str, budget_s: float) -> None:
    """Run what is suggested on the recorded shapes; the verdicts stay with the run."""
    for finding in verify(folder, codes=[code], budget_s=budget_s).findings:
        for tried in (finding.verified, *finding.alternatives):
            if tried is None or tried.speedup is None or tried.interval is None:
                continue
            low, high = tried.interval
            print(f"  {finding.code} {tried.candidate}: {tried.verdict}, {tried.speedup:.2f}× [{low:.2f}, {high:.2f}]")
            if tried.verdict != "accept":
                print(f"      {tried.reason}")


def tell(change: object) -> None:
    """What probe.replace did and what it left, a line each."""
    print("  " + "\n  ".join(str(change).splitlines()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="half as long, a shorter proof, and without the norm")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    budget_s = 5 if options.small else 45
    x = torch.randn(1, LENGTH // 2 if options.small else LENGTH, FEATURES).to(options.device)
    naive, fused = network(Attention, options.device), network(FusedAttention, options.device)
    with TemporaryDirectory() as name:
        folder = Path(name)
        print("1. the model as it is")
        before = observe(folder / "before", naive, x)
        found(before)
        prove(folder / "before", "F06", budget_s)
        tell(probe.replace(naive, folder / "before"))
        print("2. the attention edited")
        edited = observe(folder / "edited", fused, x)
        codes = found(edited)
        print(f"  F06 {'is still there' if 'F06' in codes else 'is gone'}")
        after = edited
        if not options.small and "F04" in codes:
            print("3. the norm by probe.replace")
            prove(folder / "edited", "F04", budget_s)  # compiles, which takes a while
            tell(probe.replace(fused, folder / "edited"))
            after = observe(folder / "after", fused, x)
            found(after)
    with torch.inference_mode():
        print(f"largest difference of the results: {(fused(x) - naive(x)).abs().max().item():.1e}")
    print(f"a pass: {step_ms(before):.1f} ms, edited {step_ms(edited):.1f} ms, replaced {step_ms(after):.1f} ms")
    print(f"{step_ms(before) / step_ms(after):.2f}× as fast")


if __name__ == "__main__":
    main()
