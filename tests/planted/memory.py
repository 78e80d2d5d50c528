"""M05: one short-lived tensor, much larger than all others, makes the peak."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from planted.program import PROGRAMS, Make, Program, Step, planted

TIMED = (
    "F09",
    "F10",
    "F01",
    "F21",
    "F24",
    "F25",
    "H01",
    "H13",
    "H14",
    "F18",
    "E13",
    "F22",
)  # speak of time, not of bytes


def clean_memory(make: Make) -> Make:
    """Register a program whose peak is as it should be; allocations are recorded."""
    PROGRAMS.append(Program(make.__name__, make, None, options={"memory": True}))
    return make


@planted("M05", also=TIMED, memory=True)
def kernel_of_all_pairs() -> Step:
    """Training through the kernel of all pairs of samples, of which only the sum counts."""
    body = nn.Linear(32, 16)
    x = torch.randn(2048, 32)

    def step() -> None:
        body.zero_grad()
        y = torch.tanh(body(x))
        (y @ y.t()).sigmoid().mean().backward()

    return step


@planted("M05", also=TIMED, memory=True)
def products_of_all_features() -> Step:
    """Bilinear features made whole before they are weighted."""
    x, weight = torch.randn(512, 96), nn.Parameter(torch.randn(96 * 96, 8) * 0.01)

    def step() -> None:
        weight.grad = None
        pairs = torch.einsum("bi,bj->bij", x, x).flatten(1)
        (pairs @ weight).square().mean().backward()

    return step


@planted("M05", also=TIMED, memory=True)
def distances_by_broadcasting() -> Step:
    """All differences of all pairs of points, for the nearest neighbour of each."""
    points, centres = torch.randn(384, 48), torch.randn(256, 48)

    def step() -> Tensor:
        with torch.no_grad():
            return (points[:, None, :] - centres[None, :, :]).pow(2).sum(-1).argmin(-1)

    return step


@planted("M05", also=TIMED, memory=True)
def one_hot_product() -> Step:
    """An embedding as a product with one-hot vectors."""
    table, tokens = torch.randn(16384, 16), torch.randint(0, 16384, (384,))

    def step() -> Tensor:
        with torch.inference_mode():
            return functional.one_hot(tokens, 16384).float() @ table

    return step


@clean_memory
def logits_in_chunks() -> Step:
    """The loss added up over parts of the rows."""
    x, weight = torch.randn(320, 32), nn.Parameter(torch.randn(16384, 32) * 0.02)
    targets = torch.randint(0, 16384, (320,))

    def step() -> None:
        weight.grad = None
        for part, wanted in zip(x.split(64), targets.split(64), strict=True):
            (functional.cross_entropy(part @ weight.t(), wanted, reduction="sum") / 320).backward()

    return step


@clean_memory
def equal_layers() -> Step:
    """A deep network whose activations are all of one size, each larger than 16 MiB."""
    model = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(64, 64), nn.ReLU())))
    x = torch.randn(1 << 16, 64)

    def step() -> None:
        model.zero_grad()
        model(x).mean().backward()

    return step


@clean_memory
def distances_by_products() -> Step:
    """torch.cdist computes the distances by a matrix product."""
    points, centres = torch.randn(4096, 256), torch.randn(256, 256)

    def step() -> Tensor:
        with torch.no_grad():
            return torch.cdist(points, centres).argmin(-1)

    return step


@clean_memory
def small_classifier() -> Step:
    """Nothing is large."""
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x, y = torch.randn(256, 512), torch.randint(0, 10, (256,))

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step
