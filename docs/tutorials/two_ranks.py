"""Data parallel training on two ranks: how well it scales, what the gradients cost, and from which size on it pays.

    python docs/tutorials/two_ranks.py [--small] [--device cuda]

Each rank has one core (or one GPU) in every measurement, whether it is alone or one of two.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import probe

FEATURES, CLASSES, TARGET = 64, 8, 0.9
WIDTHS = {"small": 64, "middle": 512, "large": 1280}


@dataclass(frozen=True)
class Plan:
    """What is run on one rank and then on two; small: fewer steps and batches."""

    folder: Path
    device: str
    small: bool

    @property
    def batches(self) -> tuple[int, ...]:
        """Samples of one rank in a step."""
        return (64,) if self.small else (32, 128, 512)

    @property
    def steps(self) -> int:
        """Of each recording."""
        return 14 if self.small else 40

    def run(self, width: int, batch: int, ranks: int) -> Path:
        """Where one recording lies."""
        return self.folder / f"width{width}batch{batch}ranks{ranks}"


def network(width: int) -> nn.Module:
    """Two hidden layers: the gradients have about width² numbers, whatever the batch."""
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


def samples(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points round CLASSES centres, near enough to each other that it takes some steps to tell them apart."""
    centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
    drawn = torch.Generator().manual_seed(seed)
    kinds = torch.randint(CLASSES, (count,), generator=drawn)
    return centres[kinds] + 2.5 * torch.randn(count, FEATURES, generator=drawn), kinds


def rank_main(rank: int, ranks: int, plan: Plan) -> None:
    """All that one rank does, from its start to its end."""
    torch.set_num_threads(1)
    device = torch.device(plan.device, rank) if plan.device == "cuda" else torch.device(plan.device)
    if ranks > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}  # as torchrun does
        meeting = f"file://{plan.folder}/meeting"
        backend = "nccl" if plan.device == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=ranks)
    for width in WIDTHS.values():
        for batch in plan.batches:
            recorded_steps(plan.run(width, batch, ranks), rank, batch, plan.steps, model_of(width, ranks, device))
    until_target(plan.folder / f"target{ranks}", rank, ranks, model_of(WIDTHS["middle"], ranks, device))
    if ranks > 1:
        dist.destroy_process_group()


def model_of(width: int, ranks: int, device: torch.device) -> nn.Module:
    """The same weights on every rank; with gradients averaged over the ranks where there are several."""
    torch.manual_seed(0)
    model = network(width).to(device)
    return DistributedDataParallel(model) if ranks > 1 else model


def recorded_steps(folder: Path, rank: int, batch: int, steps: int, model: nn.Module) -> None:
    """Train under probe, with a trace of each rank."""
    device = next(model.parameters()).device
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    points, kinds = (one.to(device) for one in samples(batch, rank + 1))
    with probe.profile(folder, ranks="all", wait=steps - 6, warmup=2, active=4) as prof:
        for _ in range(steps):
            loss = cross_entropy(model(points), kinds)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            prof.step(samples=batch)


def until_target(file: Path, rank: int, ranks: int, model: nn.Module, batch: int = 16, most: int = 400) -> None:
    """Train until unseen points are told apart well enough; rank 0 writes down the seconds and the steps."""
    device = next(model.parameters()).device
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    unseen, answers = (one.to(device) for one in samples(2048, 0))
    seconds, reached, step = 0.0, False, 0
    while not reached and step < most:
        begun = perf_counter()
        points, kinds = (one.to(device) for one in samples(batch, 1 + rank + ranks * step))
        cross_entropy(model(points), kinds).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds, step = seconds + perf_counter() - begun, step + 1
        reached = step % 5 == 0 and accuracy(model, unseen, answers) >= TARGET  # the same on every rank
    if rank == 0:
        file.write_text(f"{seconds} {step} {reached:d}")


@torch.no_grad()
def accuracy(model: nn.Module, points: torch.Tensor, kinds: torch.Tensor) -> float:
    """Share of points whose class is told right."""
    plain = model.module if isinstance(model, DistributedDataParallel) else model
    return (plain(points).argmax(1) == kinds).float().mean().item()


def measured(folder: Path, ranks: int, batch: int) -> tuple[float, float, float]:
    """Of one recording: samples a second of all ranks, and the share of the step in collectives, whole and exposed."""
    analysis = probe.analyze(folder, jobs=1)
    rate = ranks * batch / (analysis.steps.p50_s or float("inf"))
    step_s = sum(rank.step_s or 0.0 for rank in analysis.ranks) or 1.0
    whole = sum(rank.communication_s or 0.0 for rank in analysis.ranks) / step_s
    return rate, whole, sum(rank.exposed_communication_s or 0.0 for rank in analysis.ranks) / step_s


def scaling(plan: Plan) -> None:
    """Efficiency and synchronisation of three models, and the batch from which two ranks do more than one."""
    print("model   width  batch/rank  1 rank samples/s  2 ranks samples/s  efficiency  collectives  exposed")
    for title, width in WIDTHS.items():
        crossover: int | None = None
        for batch in plan.batches:
            one, _, _ = measured(plan.run(width, batch, 1), 1, batch)
            two, whole, exposed = measured(plan.run(width, batch, 2), 2, batch)
            rates = f"{one:16.0f}  {two:17.0f}  {two / (2 * one):10.0%}"
            print(f"{title:7} {width:5}  {batch:10}  {rates}  {whole:11.0%}  {exposed:7.0%}")
            crossover = batch if crossover is None and two > one else crossover
        ahead = "never, of these" if crossover is None else f"from a batch of {crossover} on"
        print(f"        two ranks do more than one: {ahead}")


def time_to_target(plan: Plan) -> None:
    """Seconds of training to the same accuracy, on one rank and on two with the same batch each."""
    print(f"\nto {TARGET:.0%} accuracy, middle model, 16 samples a rank:")
    for ranks in (1, 2):
        seconds, steps, reached = (float(word) for word in (plan.folder / f"target{ranks}").read_text().split())
        print(
            f"  {ranks} rank{'s' * (ranks > 1):1}  {seconds:6.2f} s  {steps:.0f} steps{'' if reached else ', too few'}"
        )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one batch size a model, few steps")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    have = torch.cuda.device_count() if options.device == "cuda" else cores()
    with TemporaryDirectory() as folder:
        plan = Plan(Path(folder), options.device, options.small)
        rank_main(0, 1, plan)
        mp.spawn(rank_main, (2, plan), nprocs=2)
        if have < 2:
            print("two ranks share one core (or GPU) here: the efficiency is that of taking turns")
        scaling(plan)
        time_to_target(plan)


if __name__ == "__main__":
    main()
