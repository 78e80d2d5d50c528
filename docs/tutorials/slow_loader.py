"""A training loop that waits for its data: found, mended, and shown to be gone.

python docs/tutorials/slow_loader.py [--small] [--device cuda]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import probe
from probe import Analysis

BATCH, FEATURES, WIDTH = 64, 256, 2048
READ_S = 0.0005  # what a read from a disk across the network takes, here a pause


class Stored(Dataset[tuple[torch.Tensor, int]]):
    """Samples that are fetched one by one."""

    def __init__(self, samples: int) -> None:
        self.content = torch.randn(samples, FEATURES)

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(READ_S)
        return self.content[index], index % 10


class StoredTogether(Stored):
    """The same, where one read can fetch a whole batch."""

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        time.sleep(READ_S)
        return [(self.content[index], index % 10) for index in indices]


def train(folder: Path, loader: DataLoader[tuple[torch.Tensor, int]], device: str) -> Analysis:
    """One epoch under probe."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)
    )
    model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with probe.profile(folder, wait=8, warmup=2, active=4) as prof:
        for samples, kinds in prof.batches(loader):
            loss = nn.functional.cross_entropy(model(samples.to(device)), kinds.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            prof.step(samples=len(samples))
    return probe.analyze(folder)


def tell(title: str, analysis: Analysis) -> None:
    """A line on the step, and one for each finding that concerns the loader."""
    rate = analysis.steps.throughput.samples_per_s or 0.0
    step_s = analysis.steps.bare_mean_s or 0.0
    waiting = (analysis.time_s["host"] or 0.0) / (analysis.time_s["step"] or 1.0)
    print(f"{title:14} {step_s * 1e3:6.1f} ms a step  {rate:6.0f} samples/s")
    print(f"  bound by {analysis.bound}; the host's part is {waiting:.0%} of the step")
    found = [finding for finding in analysis.findings if finding.code in ("H07", "H08")]
    for finding in found:
        print(f"  {finding.code} {finding.rule}: {finding.summary}")
        if finding.how:
            print(f"      → {finding.how}")
    if not found:
        print("  nothing is said of the loader any more: no H07, no H08")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="fewer steps")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    steps = 18 if options.small else 60
    slow, together = Stored(BATCH * steps), StoredTogether(BATCH * steps)
    loaders: dict[str, DataLoader[tuple[torch.Tensor, int]]] = {
        "one by one": DataLoader(slow, batch_size=BATCH),
        "two workers": DataLoader(slow, batch_size=BATCH, num_workers=2, prefetch_factor=4, persistent_workers=True),
        "a read a batch": DataLoader(together, batch_size=BATCH),
    }
    with TemporaryDirectory() as folder:
        for title, loader in loaders.items():
            tell(title, train(Path(folder) / title.replace(" ", "_"), loader, options.device))


if __name__ == "__main__":
    main()
