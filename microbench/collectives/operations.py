"""Which operations are measured, what does each move, and did it move the right thing?

An operation's size is nccl-tests': the bytes of the largest buffer of a rank (what all_gather receives in all, what
reduce_scatter and all_to_all send in all). send_recv is a ring: each rank sends to the next and receives from the
previous one. Inputs are whole numbers in float32 whose sums are exact in any order, so that outputs are compared for
equality: element i of rank r is (i mod 61) + r. 61 is prime: parts that are exchanged, shifted or left out show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send_recv")
ELEMENT_BYTES = 4  # float32
PERIOD = 61
BLOCK = PERIOD << 10  # elements written and compared at once
DISTINCT_RANKS = 1024  # ranks beyond look like the first again: sums stay below 2^24, exact, up to 15 000 ranks
UNWRITTEN = -1.0  # no output has it
Call = Callable[[], object]


@dataclass(frozen=True)
class Buffers:
    """What one rank sends from and receives into: two float32 tensors of the operation's size."""

    rank: int
    ranks: int
    source: Any
    target: Any

    @property
    def part(self) -> int:
        """Elements of one rank's part."""
        return int(self.source.numel()) // self.ranks


@dataclass(frozen=True)
class Content:
    """Elements `scale` × ((start + i) mod 61) + `shift` of a tensor."""

    tensor: Any
    start: int = 0
    scale: int = 1
    shift: int = 0

    def write(self) -> None:
        """Fill the tensor."""
        block, whole = self._block()
        self.tensor[:whole].view(-1, len(block)).copy_(block)
        self.tensor[whole:].copy_(block[: self.tensor.numel() - whole])

    def is_there(self) -> bool:
        """Whether the tensor holds exactly this."""
        block, whole = self._block()
        rest = self.tensor[whole:]
        return bool((self.tensor[:whole].view(-1, len(block)) == block).all()) and bool(
            (rest == block[: rest.numel()]).all()
        )

    def _block(self) -> tuple[Any, int]:
        """A whole number of periods (or all of a small tensor), and how many elements are whole blocks of it."""
        import torch

        length = min(BLOCK, self.tensor.numel())
        at = self.start % PERIOD
        ramp = torch.arange(at, at + length, dtype=torch.float32, device=self.tensor.device)
        return ramp % PERIOD * self.scale + self.shift, self.tensor.numel() // length * length


def shift_of(rank: int) -> int:
    """What a rank adds to its elements."""
    return rank % DISTINCT_RANKS


def written(name: str, buffers: Buffers) -> Content:
    """What a rank puts in before the operation."""
    tensor = {
        "all_reduce": buffers.target,
        "broadcast": buffers.target,
        "all_gather": buffers.source[: buffers.part],
    }.get(name, buffers.source)
    return Content(tensor, shift=shift_of(buffers.rank))


def expected(name: str, buffers: Buffers) -> Iterator[Content]:
    """What must be in a rank's target after the operation, by its definition."""
    ranks, part, target = buffers.ranks, buffers.part, buffers.target
    own = buffers.rank * part
    total = sum(shift_of(rank) for rank in range(ranks))
    if name == "all_reduce":
        yield Content(target, scale=ranks, shift=total)
    elif name == "reduce_scatter":
        yield Content(target[:part], own, ranks, total)
    elif name == "broadcast":
        yield Content(target, shift=shift_of(0))
    elif name == "send_recv":
        yield Content(target, shift=shift_of((buffers.rank - 1) % ranks))
    else:
        start = own if name == "all_to_all" else 0
        for rank in range(ranks):
            yield Content(target[rank * part : (rank + 1) * part], start, shift=shift_of(rank))


def runs_right(name: str, buffers: Buffers, call: Call) -> bool:
    """Run the operation once on known inputs; whether every element of the output is what it must be."""
    buffers.target.fill_(UNWRITTEN)
    written(name, buffers).write()
    call()
    return all(content.is_there() for content in expected(name, buffers))


def call_of(name: str, buffers: Buffers) -> Call:
    """The operation on the default process group; repeated sums grow to infinity, which costs no more than others."""
    import torch.distributed as dist

    source, target, part = buffers.source, buffers.target, buffers.part
    gather, scatter = _gather_and_scatter(dist)
    calls: dict[str, Call] = {
        "all_reduce": lambda: dist.all_reduce(target),
        "all_gather": lambda: gather(target, source[:part]),
        "reduce_scatter": lambda: scatter(target[:part], source),
        "broadcast": lambda: dist.broadcast(target, 0),
        "all_to_all": lambda: dist.all_to_all_single(target, source),
        "send_recv": lambda: _ring(dist, buffers),
    }
    return calls[name]


def _gather_and_scatter(dist: Any) -> tuple[Any, Any]:
    """all_gather and reduce_scatter on one tensor: torch 2.13 renames them and warns of the old names."""
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    return gather, scatter


def _ring(dist: Any, buffers: Buffers) -> None:
    """Send to the next rank while receiving from the previous one."""
    following, previous = (buffers.rank + 1) % buffers.ranks, (buffers.rank - 1) % buffers.ranks
    pair = [dist.P2POp(dist.isend, buffers.source, following), dist.P2POp(dist.irecv, buffers.target, previous)]
    for work in dist.batch_isend_irecv(pair):
        work.wait()
