"""`torchrun -m probe run train.py`: each rank's steps are recognised under DDP and FSDP, and training is the same."""

from __future__ import annotations

import gzip
import socket
from pathlib import Path

import pytest
from prepared_torch import Prepared

from probe.runs.run import load

pytest.importorskip("torch")

STEPS = 14  # under FSDP, then as many under DDP
UNTOLD = 1 + 1  # the run opens when the first step has ended; the second optimizer's first one may be a side job's
TRAINING = """
import os, torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(1)
dist.init_process_group("gloo")
torch.manual_seed(0)
layers = [
    torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)) for _ in range(2)
]
fully_shard(layers[0][0])
models = [fully_shard(layers[0]), DistributedDataParallel(layers[1])]
torch.manual_seed(dist.get_rank())
for model in models:
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(14):
        loss = model(torch.randn(4, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
local = [getattr(p, "_local_tensor", p).detach().flatten().tolist() for model in models for p in model.parameters()]
with open(os.environ["RESULT"] + str(dist.get_rank()), "w") as file:
    file.write(repr(local))
dist.destroy_process_group()
"""


def environ(folder: Path, result: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1", "RESULT": str(folder / result)}


def launched(prepared: Prepared, folder: Path, result: str, *program: str) -> str:
    """What two ranks under torchrun, each started from nothing, say on standard error."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = prepared.run(*torchrun, *program, cwd=folder, environ=environ(folder, result))
    assert done.returncode == 0, done.stderr
    return done.stderr


def alone(prepared: Prepared, folder: Path, result: str, program: str) -> None:
    """Two ranks without a launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {**environ(folder, result), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [prepared.start(program, cwd=folder, environ={**group, "RANK": str(rank)}) for rank in range(2)]
    for rank in ranks:
        done = rank.wait()
        assert done.returncode == 0, done.stderr


def results(folder: Path, name: str) -> list[str]:
    return [(folder / f"{name}{rank}").read_text() for rank in range(2)]


def test_ranks_of_a_launch_are_one_run_and_train_as_without(tmp_path: Path, prepared: Prepared) -> None:
    (tmp_path / "train.py").write_text(TRAINING)
    alone(prepared, tmp_path, "alone", "train.py")
    said = launched(prepared, tmp_path, "observed", "-m", "probe", "run", "-o", "run", "train.py")
    assert results(tmp_path, "observed") == results(tmp_path, "alone")
    run = load(tmp_path / "run")
    assert [part.rank for part in run.parts] == [0, 1] and run.world_size == 2 and run.warnings == ()
    for part in run.parts:
        assert part.status == "finished" and part.warnings == ()
        assert part.steps.total == 2 * STEPS - UNTOLD
    assert [rank for rank, _, _ in run.traces] == [0] and run.main.cycles[0].steps == 3
    assert run.main.collected["modules"] is True and said.count("3 steps recorded") == 1
    trace = gzip.decompress(run.traces[0][2].read_bytes())
    assert b"reduce_scatter" in trace and b"all_gather" in trace
