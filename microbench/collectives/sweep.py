"""What does each rank do, in step with the others? Sizes from small to large, the operations of a size in turn.

The ranks decide alike without a leader: all they decide by (times, the time spent, whether memory was there, whether
a result was right) is first agreed on as the worst of all ranks. No import of torch: the parent reads the messages.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from probe.microbench.collectives.operations import ELEMENT_BYTES
from probe.microbench.harness import Clock
from probe.units import format_bytes

SMALLEST_BYTES, LARGEST_BYTES = 8, 1 << 30
WINDOW_S = 1e-3  # of repeated calls between two meetings of the ranks
MOST_REPEATS = 64
LEAST_ROUNDS, MOST_ROUNDS, ROUNDS_AT_ONCE = 3, 64, 16
SHORT_S = 0.02  # one call of each operation: below this the first windows are repeated, they meet cold caches
CALLS_OF_A_SIZE = LEAST_ROUNDS + 4  # least rounds, the first window, the check with its passes over memory
RIGHT, WRONG, REFUSED = 0.0, 1.0, 2.0


@dataclass(frozen=True)
class Plan:
    """Which operations at which sizes (see `ladder`), in how many seconds."""

    operations: tuple[str, ...]
    coarse: bool
    budget_s: float


@dataclass(frozen=True)
class Group:
    """Who takes part: the number of ranks, on how many machines, over which backend."""

    ranks: int
    nodes: int
    backend: str


@dataclass(frozen=True)
class At:
    """The sweep has come to a size; `fraction` of the sizes are done."""

    size_bytes: int
    fraction: float


@dataclass(frozen=True)
class Point:
    """Seconds a call took on the slowest rank, a window each, and whether the result was right on every rank."""

    operation: str
    size_bytes: int
    seconds: tuple[float, ...]
    right: bool


@dataclass(frozen=True)
class Note:
    """Something a reader of the results must know."""

    text: str


@dataclass(frozen=True)
class Failed:
    """A rank cannot go on, and why."""

    text: str


@dataclass(frozen=True)
class Done:
    """The sweep is through."""


Message = Group | At | Point | Note | Failed | Done


class Prepared(Protocol):
    """One operation at one size."""

    def runs_right(self) -> bool:
        """Run it once on known inputs; raises RuntimeError where the backend has no such operation."""

    def window(self, calls: int) -> float:
        """Seconds that `calls` calls take on this rank, begun when all ranks have come."""


class Peers(Protocol):
    """This rank's side of the group."""

    group: Group

    def worst(self, values: Sequence[float]) -> list[float]:
        """The greatest of each value over all ranks; waits for them."""

    def most_bytes(self) -> float:
        """The size of the operations for which this rank has memory."""

    def prepare(self, operations: Sequence[str], size_bytes: int) -> Mapping[str, Prepared]:
        """The operations at this size; raises MemoryError where its buffers cannot be had."""


def ladder(ranks: int, *, coarse: bool) -> tuple[int, ...]:
    """Sizes in bytes from 8 B to 1 GiB, ascending, a factor of four apart; each a float32 or more for every rank.

    Coarse: five sizes up to 4 MiB.
    """
    wanted = [1 << e for e in range(3, 30, 2)] + [LARGEST_BYTES]
    if coarse:
        wanted = [SMALLEST_BYTES, 4 << 10, 64 << 10, 512 << 10, 4 << 20]
    unit = ELEMENT_BYTES * ranks
    return tuple(sorted({max(unit, size - size % unit) for size in wanted}))


def sweep(peers: Peers, plan: Plan, clock: Clock = time.perf_counter) -> Iterator[Message]:
    """Measure the plan; the same messages on every rank."""
    yield peers.group
    began = clock()
    budget_s, less_bytes = peers.worst([plan.budget_s, -peers.most_bytes()])
    operations = list(plan.operations)
    sizes = ladder(peers.group.ranks, coarse=plan.coarse)
    known: list[tuple[int, float]] = []
    for done, size in enumerate(sizes):
        yield At(size, done / len(sizes))
        left_s = budget_s - peers.worst([clock() - began])[0]
        reason = _reason_against(size, -less_bytes, expected_s(known, size) * CALLS_OF_A_SIZE, left_s)
        if reason is None:
            prepared, reason = _prepared(peers, operations, size)
        if reason is not None:
            yield Note(f"sizes from {format_bytes(size)} up are left out: {reason}")
            break
        outcomes = yield from _checked(peers, prepared, size)
        operations = [name for name in operations if outcomes[name] != REFUSED]
        if not operations:
            break
        kept = {name: prepared[name] for name in operations}
        samples = measure_size(peers, kept, max(0.0, left_s) / (len(sizes) - done), clock)
        for name, seconds in samples.items():
            yield Point(name, size, tuple(seconds), right=outcomes[name] == RIGHT)
        known.append((size, sum(min(seconds) for seconds in samples.values())))
        del prepared, kept  # the buffers, before those of the next size are made


def expected_s(known: Sequence[tuple[int, float]], size: int) -> float:
    """Seconds that one call of each operation will take at `size`: along the line through the last two known sizes."""
    if len(known) < 2:
        return known[0][1] if known else 0.0
    (smaller, shorter_s), (larger, longer_s) = known[-2:]
    return longer_s + max(0.0, longer_s - shorter_s) / (larger - smaller) * (size - larger)


def _reason_against(size: int, most_bytes: float, needed_s: float, left_s: float) -> str | None:
    """Why the sweep must end below `size`; None if it can go on."""
    if size > most_bytes:
        return "their buffers would take more than a safe share of the free memory"
    if needed_s > left_s:
        return f"they would take about {needed_s:.1f} s and {max(0.0, left_s):.1f} s of the suite's time are left"
    return None


def _prepared(peers: Peers, operations: Sequence[str], size: int) -> tuple[Mapping[str, Prepared], str | None]:
    """The operations at `size`, or why there are none: every rank must have had the memory."""
    prepared: Mapping[str, Prepared] = {}
    lacking = 0.0
    try:
        prepared = peers.prepare(operations, size)
    except MemoryError:
        lacking = 1.0
    if peers.worst([lacking])[0]:
        return {}, "a rank ran out of memory for the buffers"
    return prepared, None


def _checked(peers: Peers, prepared: Mapping[str, Prepared], size: int) -> Generator[Message, None, dict[str, float]]:
    """Run each operation once and compare; returns the outcome of each, agreed on."""
    own: list[float] = []
    said: dict[str, str] = {}
    for name, operation in prepared.items():
        try:
            own.append(RIGHT if operation.runs_right() else WRONG)
        except RuntimeError as error:  # torch's for what a backend does not implement, and for memory of its own
            said[name] = (str(error).strip().splitlines() or [type(error).__name__])[0]
            own.append(REFUSED)
    outcomes = dict(zip(prepared, peers.worst(own), strict=True))
    for name, outcome in outcomes.items():
        if outcome == REFUSED:
            why = said.get(name, "another rank refused it")
            yield Note(f"{name} is left out from {format_bytes(size)} up: {why}")
        elif outcome == WRONG:
            yield Note(f"{name} of {format_bytes(size)} gave a wrong result: do not use this backend on this machine")
    return outcomes


def measure_size(
    peers: Peers, prepared: Mapping[str, Prepared], budget_s: float, clock: Clock
) -> dict[str, list[float]]:
    """Seconds of one call of each operation on the slowest rank, a window each; the operations in turn."""
    began = clock()
    repeats = _repeats(peers, prepared)
    samples: dict[str, list[float]] = {name: [] for name in prepared}
    rounds, measured = LEAST_ROUNDS, 0
    while rounds:
        own = [
            operation.window(repeats[name]) / repeats[name]
            for _ in range(rounds)
            for name, operation in prepared.items()
        ]
        spent_s, *slowest = peers.worst([clock() - began, *own])
        for index, name in enumerate(prepared):
            samples[name] += slowest[index :: len(prepared)]
        measured += rounds
        affordable = int((budget_s - spent_s) / (spent_s / measured)) if spent_s > 0 else ROUNDS_AT_ONCE
        rounds = max(0, min(affordable, ROUNDS_AT_ONCE, MOST_ROUNDS - measured))
    return samples


def _repeats(peers: Peers, prepared: Mapping[str, Prepared]) -> dict[str, int]:
    """How often to call each operation in one window, by the fastest of up to three first calls."""
    first = peers.worst([operation.window(1) for operation in prepared.values()])
    if sum(first) < SHORT_S:
        for _ in range(2):
            again = peers.worst([operation.window(1) for operation in prepared.values()])
            first = [min(pair) for pair in zip(first, again, strict=True)]
    counts = [round(WINDOW_S / seconds) if seconds > 0 else MOST_REPEATS for seconds in first]
    return {name: max(1, min(MOST_REPEATS, count)) for name, count in zip(prepared, counts, strict=True)}
