"""Ranks of a simulated job, whose clocks are wrong by known amounts, and one rank's trace by hand; nanoseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from probe.analyzers.ranks.kinds import KINDS
from probe.machine.device import Device
from probe.results.multirank import CollectiveTimes, Group, RankSteps, RankSummary
from probe.trace import Annotations, CollectiveCall, Collectives, DeviceWork, HostOps, RuntimeCalls, Steps, Trace

Times = npt.NDArray[np.float64]
WORLD = Group("0", None, None)


@dataclass(frozen=True)
class Simulation:
    """What happened, on one true clock, and what each rank's clock showed; [collectives, ranks], nanoseconds."""

    starts: Times
    ends: Times
    offset_ns: Times  # of each clock in the middle of the recording, against rank 0's
    drift: Times
    seen_starts: npt.NDArray[np.int64]
    seen_ends: npt.NDArray[np.int64]

    @property
    def true_late_ns(self) -> Times:
        """Mean start of each rank after the median of the others, [ranks]."""
        others = [np.median(np.delete(self.starts, r, axis=1), axis=1) for r in range(self.starts.shape[1])]
        return np.array([(self.starts[:, r] - others[r]).mean() for r in range(self.starts.shape[1])])


def simulate(
    seed: int, ranks: int = 64, collectives: int = 400, node: int = 8, *, offset_sd_ns: float = 1.7e6,
    drift_ppm: float = 0.0, jitter_ns: float = 15e3, late: dict[int, float] | None = None, pause_ns: float = 3e6,
) -> Simulation:  # fmt: skip
    """Blocking collectives of all ranks; ranks of a node share a clock; `late`: nanoseconds some come late by."""
    rng = np.random.default_rng(seed)
    start = 2e5 * rng.gamma(4, 0.25, (collectives, ranks))
    for rank, more in (late or {}).items():
        start[:, rank] += more
    length = rng.choice([120e3, 800e3, 4000e3], collectives)
    pause = rng.gamma(3, pause_ns / 3, collectives)
    end = start.max(axis=1) + length
    begin = np.concatenate([[0.0], np.cumsum(end + pause)[:-1]])
    starts = begin[:, None] + start
    ends = (begin + end)[:, None] + np.abs(rng.normal(0, jitter_ns, (collectives, ranks)))
    nodes = -(-ranks // node)
    offset = np.repeat(rng.normal(0, offset_sd_ns, nodes), node)[:ranks]
    drift = np.repeat(rng.normal(0, drift_ppm * 1e-6, nodes), node)[:ranks]
    offset, drift = offset - offset[0], drift - drift[0]
    middle = np.median(ends)
    clock = [t + offset + drift * (t - middle) for t in (starts, ends)]
    seen = [np.rint(t).astype(np.int64) + 1_700_000_000_000_000_000 for t in clock]
    return Simulation(starts, ends, offset, drift, seen[0], seen[1])


def summaries(
    found: Simulation, *, kind: str = "all_reduce", per_step: int = 10, group: Group | None = None,
    sequence: bool = True, step_s: float = 0.05, size: int = 4_000_000,
) -> list[RankSummary]:  # fmt: skip
    """One summary a rank; steps of equal length, `per_step` collectives each."""
    count, ranks = found.starts.shape
    whole = replace(group or WORLD, size=(group or WORLD).size or ranks)
    return [
        summary(
            rank, ranks, found.seen_starts[:, rank], found.seen_ends[:, rank], kind=kind, group=whole, size=size,
            step=np.arange(count) // per_step, sequence=np.arange(count) if sequence else None, step_s=step_s,
        )
        for rank in range(ranks)
    ]  # fmt: skip


def summary(
    rank: int, world: int | None, starts: Sequence[int] | npt.NDArray[np.int64],
    ends: Sequence[int] | npt.NDArray[np.int64], *, kind: str | Sequence[str] = "all_reduce", group: Group = WORLD,
    groups: Sequence[Group] | None = None, of: Sequence[int] | None = None,
    step: Sequence[int] | npt.NDArray[np.int64] | None = None,
    sequence: Sequence[int] | npt.NDArray[np.int64] | None = None, step_s: float = 0.05, size: int = 4_000_000,
    path: str | None = None,
) -> RankSummary:  # fmt: skip
    """A summary of collectives at these times; all in step 0 unless told, without marked steps where step is None."""
    n = len(starts)
    kinds = [kind] * n if isinstance(kind, str) else list(kind)
    numbers = np.unique(np.zeros(1, np.int64) if step is None else np.asarray(step, np.int64))
    numbers = numbers[numbers >= 0]
    length = round(step_s * 1e9)
    begin = numbers * length
    table = CollectiveTimes(
        group=np.zeros(n, np.int32) if of is None else np.asarray(of, np.int32),
        kind=np.array([KINDS.index(k) for k in kinds], np.int32),
        sequence=np.full(n, -1, np.int64) if sequence is None else np.asarray(sequence, np.int64),
        step=np.full(n, -1, np.int64) if step is None else np.asarray(step, np.int64),
        in_bytes=np.full(n, size, np.int64),
        out_bytes=np.full(n, size, np.int64),
        in_switch=np.zeros(n, bool),
        start_ns=np.asarray(starts, np.int64),
        end_ns=np.asarray(ends, np.int64),
    )
    zeros = np.zeros(len(numbers), np.int64)
    steps = RankSteps(numbers, begin, begin + length, zeros, zeros, zeros, zeros + length)
    return RankSummary(
        rank, world, path or f"rank{rank}.json", "GPU", "cuda", steps, step is not None, tuple(groups or [group]), table
    )


def trace(
    *, kernels: Sequence[tuple[str, int, int, int]] = (), copies: Sequence[tuple[int, int]] = (),
    ops: Sequence[tuple[str, int, int, int, int]] = (), marks: Sequence[tuple[str, int, int]] = (),
    steps: Sequence[tuple[int, int, int]] = (), calls: Sequence[CollectiveCall] = (),
    collectives: Sequence[tuple[int, int, int, int]] = (), launches: Sequence[tuple[int, int, int]] = (),
    kernel_ops: Sequence[int] = (), start_unix_ns: int = 0, kind: str = "cuda",
) -> Trace:  # fmt: skip
    """A trace by hand. kernels: (name, start, end, stream); ops: (name, thread, start, end, parent);
    collectives: (call, op, kernel, sequence); launches: (kernel, start, end)."""
    names = tuple(dict.fromkeys([k[0] for k in kernels] + [o[0] for o in ops] + [m[0] for m in marks] + ["copy"]))
    number = {name: at for at, name in enumerate(names)}
    work = _work([number[k[0]] for k in kernels], [k[1:3] for k in kernels], [k[3] for k in kernels])
    launch = work.launch.copy()
    for row, (kernel, _, _) in enumerate(launches):
        launch[kernel] = row
    of_op = np.asarray(kernel_ops, np.int32) if kernel_ops else work.op
    return Trace(
        path="built",
        device=Device(kind=kind, name="Test"),  # type: ignore[arg-type]
        names=names,
        signatures=(),
        threads=(),
        launch_shapes=(),
        host_ops=_ops(ops, number),
        runtime_calls=_launches(launches),
        kernels=replace(work, launch=launch, op=of_op),
        copies=_work([number["copy"]] * len(copies), list(copies), [0] * len(copies)),
        annotations=Annotations(
            _column([number[m[0]] for m in marks], np.int32), _column([0] * len(marks), np.int32),
            _column([m[1] for m in marks]), _column([m[2] for m in marks]), np.zeros(len(marks), bool),
        ),
        collective_calls=tuple(calls),
        collectives=Collectives(
            *(_column([c[i] for c in collectives], np.int32) for i in range(3)), _column([c[3] for c in collectives])
        ),
        steps=Steps(*(_column([s[i] for s in steps]) for i in range(3))),
        start_unix_ns=start_unix_ns,
    )  # fmt: skip


def _column(values: Sequence[int], dtype: type = np.int64) -> npt.NDArray[np.int64]:
    return np.array(values, dtype)


def _work(names: Sequence[int], spans: Sequence[tuple[int, ...]], streams: Sequence[int]) -> DeviceWork:
    n = len(names)
    none = np.full(n, -1, np.int32)
    return DeviceWork(
        name=_column(names, np.int32), start_ns=_column([s[0] for s in spans]), end_ns=_column([s[1] for s in spans]),
        device=np.zeros(n, np.int32), stream=_column(streams), correlation=np.arange(n), launch=none, op=none,
        bytes=np.full(n, -1), launch_shape=none, crosses_bus=np.zeros(n, bool), graph=np.full(n, -1),
    )  # fmt: skip


def _ops(ops: Sequence[tuple[str, int, int, int, int]], number: dict[str, int]) -> HostOps:
    n = len(ops)
    none = np.full(n, -1, np.int64)
    return HostOps(
        name=_column([number[o[0]] for o in ops], np.int32), thread=_column([o[1] for o in ops], np.int32),
        start_ns=_column([o[2] for o in ops]), end_ns=_column([o[3] for o in ops]),
        parent=_column([o[4] for o in ops], np.int32), self_ns=np.zeros(n, np.int64), signature=none.astype(np.int32),
        external_id=none, sequence=none, record_function=none, forward_thread=none,
    )  # fmt: skip


def _launches(launches: Sequence[tuple[int, int, int]]) -> RuntimeCalls:
    n = len(launches)
    return RuntimeCalls(
        name=np.zeros(n, np.int32), thread=np.zeros(n, np.int32), start_ns=_column([one[1] for one in launches]),
        end_ns=_column([one[2] for one in launches]), correlation=np.arange(n), op=np.full(n, -1, np.int32),
    )  # fmt: skip
