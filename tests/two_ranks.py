"""What two ranks of a Gloo group run on a CPU, each program under `probe.profile` in a directory of its own."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import probe

Step = Callable[[], object]
RANKS = 2


def layers(width: int = 256, depth: int = 6, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(width, width, bias=bias), nn.ReLU())))


class PartlyUsed(nn.Module):
    """A model with a head that no loss needs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.spare = layers(), nn.Linear(256, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def training(
    model: nn.Module, micro_batches: int = 1, sync_last_only: bool = False, width: int = 256, batch: int = 32
) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)
    x = torch.randn(batch, width)

    def step() -> None:
        for turn in range(micro_batches):
            quiet = sync_last_only and turn < micro_batches - 1
            with model.no_sync() if quiet else contextlib.nullcontext():
                model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def plain(rank: int) -> Step:
    return training(DistributedDataParallel(layers(), gradient_as_bucket_view=True))


def unused(rank: int) -> Step:
    return training(DistributedDataParallel(layers(), find_unused_parameters=True))


def really_unused(rank: int) -> Step:
    return training(DistributedDataParallel(PartlyUsed(), find_unused_parameters=True))


def accumulating(rank: int) -> Step:
    return training(DistributedDataParallel(layers()), micro_batches=4)


def accumulating_locally(rank: int) -> Step:
    return training(DistributedDataParallel(layers()), micro_batches=4, sync_last_only=True)


def averaged_by_hand(rank: int, micro_batches: int = 1) -> Step:
    model = layers(width=64, depth=12)
    optimizer, x = torch.optim.SGD(model.parameters(), lr=1e-3), torch.randn(32, 64)

    def step() -> None:
        for _ in range(micro_batches):
            model(x).square().mean().backward()
            for p in model.parameters():
                dist.all_reduce(p.grad)
                p.grad /= RANKS
        optimizer.step()
        optimizer.zero_grad()

    return step


def accumulating_by_hand(rank: int) -> Step:
    return averaged_by_hand(rank, micro_batches=3)


def averaged_flat(rank: int) -> Step:
    """The gradients of all parameters in one buffer."""
    model = layers(depth=12)
    optimizer, x = torch.optim.SGD(model.parameters(), lr=1e-3), torch.randn(32, 256)

    def step() -> None:
        model(x).square().mean().backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters()])
        dist.all_reduce(flat)
        for p, grad in zip(model.parameters(), flat.split([p.numel() for p in model.parameters()]), strict=True):
            p.grad.copy_(grad.view_as(p).div_(RANKS))
        optimizer.step()
        optimizer.zero_grad()

    return step


def in_bfloat16(rank: int) -> Step:
    """float32 parameters under autocast: float32 gradients are exchanged."""
    model = DistributedDataParallel(layers(width=384), gradient_as_bucket_view=True)
    inner = training(model, width=384, batch=4)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inner()

    return step


def tensor_parallel(rank: int) -> Step:
    up, down, x = torch.randn(1024, 256), torch.randn(256, 1024), torch.randn(1024, 256)

    @torch.no_grad()
    def step() -> torch.Tensor:
        h = x
        for _ in range(3):
            y = torch.relu(h @ up.t()) @ down.t()
            dist.all_reduce(y)
            h = y * 1e-3
        return h

    return step


def pipeline(rank: int) -> Step:
    """Two stages, two micro-batches, forward only; then back."""
    weight, x = torch.randn(256, 256), torch.randn(512, 256)

    @torch.no_grad()
    def work(batch: torch.Tensor) -> torch.Tensor:
        for _ in range(4):
            batch = torch.relu(batch @ weight) * 1e-2
        return batch

    def step() -> None:
        batch = torch.empty_like(x)
        for _ in range(2):
            if rank == 0:
                dist.send(work(x), 1)
            else:
                dist.recv(batch, 0)
                work(batch)
        for _ in range(2):
            if rank == 1:
                dist.send(work(batch), 0)
            else:
                dist.recv(batch, 1)
                work(batch)

    return step


PROGRAMS: dict[str, Callable[[int], Step]] = {
    make.__name__: make
    for make in (plain, unused, really_unused, accumulating, accumulating_locally, averaged_by_hand,
                 accumulating_by_hand, averaged_flat, in_bfloat16, tensor_parallel, pipeline)
}  # fmt: skip


def run_all(rank: int, port: int, folder: str) -> None:
    """Record every program on this rank; called in a process of its own."""
    faulthandler.enable()  # a crash of a process says where
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(RANKS))
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    for name, make in PROGRAMS.items():
        torch.manual_seed(0)
        step = make(rank)
        with probe.profile(Path(folder) / name, wait=2, warmup=1, active=2, ranks="all", telemetry=False) as prof:
            prof.quiet = True
            for _ in range(6):
                step()
                prof.step()
        dist.barrier()
    dist.destroy_process_group()


def record(folder: Path) -> None:
    """Run directories of all programs under `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run_all, (port, str(folder)), nprocs=RANKS)
