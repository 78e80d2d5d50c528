"""A loop with attention written out by hand: found by the analysis, proved on its own shapes, replaced.

Usage: python examples/naive_attention.py             (about half a minute on two cores)
"""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from torch.nn import functional

import probe
from probe.api import verify


class Attention(nn.Module):
    """Multi-head self-attention; `fused` decides how the scores are used."""

    def __init__(self, width: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, T, C] -> [B, T, C]
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        else:
            scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)  # [B, H, T, T]
            mixed = torch.softmax(scores, dim=-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


def observe(folder: Path, *, fused: bool) -> probe.Analysis:
    """Run the same inference loop under probe."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Attention(256, 8, fused=fused) for _ in range(2))).eval()
    x = torch.randn(1, 1024, 256)
    with torch.inference_mode(), probe.profile(folder, wait=5, warmup=1, active=3) as prof:
        for _ in range(14):
            model(x)
            prof.step(tokens=1024)
    return probe.analyze(folder)


def main() -> None:
    with TemporaryDirectory() as folder:
        before = observe(Path(folder) / "naive", fused=False)
        print(f"\nfound: {before.findings[0].code} {before.findings[0].summary}")
        proved = verify(Path(folder) / "naive", codes=["F06"], budget_s=15).findings[0].verified
        assert proved is not None
        print(f"proved on the recorded shapes: {proved.verdict}, {proved.reason}")
        after = observe(Path(folder) / "fused", fused=True)
    was, now = before.steps.bare_mean_s or 0.0, after.steps.bare_mean_s or 1.0
    print(f"replaced: {was * 1e3:.1f} ms → {now * 1e3:.1f} ms per step, {was / now:.2f}×")


if __name__ == "__main__":
    main()
