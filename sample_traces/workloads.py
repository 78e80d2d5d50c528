"""The loops that the sample traces record: small, deterministic, plain torch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

SEED = 0


class Block(nn.Module):
    """A pre-norm transformer block whose attention is spelled out by hand, as in many code bases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, T, C] -> [B, T, C]
        x = x + self.out(self.attend(self.norm1(x)))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = torch.matmul(q, k.transpose(-2, -1)) / (width // self.heads) ** 0.5  # [B, H, T, T]
        weights = torch.softmax(scores, dim=-1)
        return torch.matmul(weights, v).transpose(1, 2).reshape(batch, length, width)


def transformer_step(device: str) -> Iterator[dict[str, Any]]:
    """Training steps of a two-layer language model: 2 × 512 tokens, width 256, AdamW in a Python loop."""
    vocabulary, width = 1000, 256
    model = nn.Sequential(
        nn.Embedding(vocabulary, width), Block(width, 4), Block(width, 4), nn.LayerNorm(width),
        nn.Linear(width, vocabulary),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, foreach=False, fused=False)
    while True:
        tokens = torch.randint(vocabulary, (2, 513), device=device)
        loss = functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield {"samples": 2, "tokens": 1024}


class Residual(nn.Module):
    """Two 3×3 convolutions with batch norm and a shortcut; the first one may halve the picture."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [N, C, H, W]
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


def resnet_step(device: str) -> Iterator[dict[str, Any]]:
    """Training steps of a small residual network: 8 pictures of 3×64×64, SGD with momentum."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), Residual(32, 32, 1), Residual(32, 64, 2), Residual(64, 128, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    while True:
        pictures, labels = torch.randn(8, 3, 64, 64, device=device), torch.randint(10, (8,), device=device)
        loss = functional.cross_entropy(model(pictures), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield {"samples": 8}


class Slow(Dataset[torch.Tensor]):
    """Each item takes 4 ms, as decoding a picture does."""

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(0.004)
        return torch.full((64,), float(index))


def starved_loader(device: str) -> Iterator[dict[str, Any]]:
    """Training steps of a small perceptron that waits for a loader without workers."""
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for batch in DataLoader(Slow(), batch_size=8):
        loss = model(batch.to(device)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield {"samples": 8}


WORKLOADS = {w.__name__: w for w in (transformer_step, resnet_step, starved_loader)}
