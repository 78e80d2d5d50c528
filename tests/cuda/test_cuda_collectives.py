"""Is a machine with one GPU told that collectives need two, before anything is started?"""

import pytest
import torch

from probe.errors import UnavailableError
from probe.machine.device import Device
from probe.microbench.collectives import collectives
from probe.microbench.suite import Context


def _context() -> Context:
    return Context(Device("cuda", "x", compute_capability="9.0"), 1.0, index=0)


def test_one_gpu_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: object) -> None:
        raise AssertionError("a rank was started")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(collectives, "RankProcesses", start)
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(UnavailableError, match=r"^one GPU is visible; NCCL needs two or more: start it .*Gloo$"):
        list(collectives.run(_context()))


def test_two_gpus_have_a_rank_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    assert collectives.ranks_of(_context()) == 2


@pytest.mark.gpu
def test_the_gpus_that_are_there_decide() -> None:
    if torch.cuda.device_count() == 1:
        with pytest.raises(UnavailableError, match="one GPU is visible"):
            list(collectives.run(_context()))
    else:
        assert collectives.ranks_of(_context()) == torch.cuda.device_count()
