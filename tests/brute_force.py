"""What a trace file says of its device, computed the slow and obvious way: standard library only, nothing of probe.

Times are integer nanoseconds of the wall clock, read as decimals: no float is ever in between. Every figure comes from
one sweep over all starts and ends in order, counting what is active in between; there are no interval sets here.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

KERNELS = ("kernel", "concurrent_kernel")
COPIES = ("gpu_memcpy", "memcpy", "gpu_memset", "memset")
Span = tuple[int, int]


@dataclass(frozen=True)
class Work:
    """A kernel, copy or memset."""

    name: str
    is_kernel: bool
    start: int
    end: int
    device: Any
    stream: Any

    @property
    def communicates(self) -> bool:
        """Whether it is a kernel of NCCL or RCCL, which has kept NCCL's names."""
        return self.is_kernel and "nccl" in self.name.lower()


@dataclass(frozen=True)
class Step:
    """A step as the host marked it."""

    number: int
    start: int
    end: int


@dataclass(frozen=True)
class Recording:
    """Device work and steps in the order of their start."""

    work: tuple[Work, ...]
    steps: tuple[Step, ...]

    @property
    def span(self) -> Span:
        """From the first start to the last end of device work."""
        return min(w.start for w in self.work), max(w.end for w in self.work)


def read(path: Path) -> Recording:
    """The device work and the steps in a trace file."""
    text = path.read_bytes()
    text = gzip.decompress(text) if text[:2] == b"\x1f\x8b" else text
    content = json.loads(text, parse_float=Decimal)
    base_ns = content.get("baseTimeNanoseconds", 0)
    events = [e for e in content["traceEvents"] if e.get("ph") == "X"]
    work = [_work(e, base_ns) for e in events if e["cat"].lower() in KERNELS + COPIES]
    marks = [e for e in events if e["name"].startswith("ProfilerStep#") and not e["cat"].startswith("gpu_")]
    steps = [Step(int(e["name"].partition("#")[2]), *_span(e, base_ns)) for e in marks]
    return Recording(tuple(sorted(work, key=lambda w: (w.start, w.end))), tuple(sorted(steps, key=lambda s: s.start)))


def _work(event: dict[str, Any], base_ns: int) -> Work:
    is_kernel = event["cat"].lower() in KERNELS
    return Work(
        event["name"], is_kernel, *_span(event, base_ns), device=event["args"]["device"], stream=event["args"]["stream"]
    )


def _span(event: dict[str, Any], base_ns: int) -> Span:
    """Start and end; raises where the file has more digits than nanoseconds."""
    start, length = (Decimal(event[key]) * 1000 for key in ("ts", "dur"))
    assert start == int(start) and length == int(length), f"finer than a nanosecond: {event}"
    return base_ns + int(start), base_ns + int(start + length)


def sweep(work: Iterable[Work], window: Span) -> Iterator[tuple[int, int, int]]:
    """Pieces of the window with nothing starting or ending inside: length, active communication, other active work."""
    changes: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for w in work:
        start, end = max(w.start, window[0]), min(w.end, window[1])
        if start < end:
            changes[start][not w.communicates] += 1
            changes[end][not w.communicates] -= 1
    edges = sorted({*changes, *window})
    communication = other = 0
    for here, there in pairwise(edges):
        communication += changes[here][0]
        other += changes[here][1]
        yield there - here, communication, other


def total_ns(work: Iterable[Work], window: Span, wanted: Callable[[int, int], bool]) -> int:
    """Nanoseconds of the window in which the numbers of active communication and other work are as wanted."""
    return sum(length for length, communication, other in sweep(work, window) if wanted(communication, other))


def busy_ns(work: Iterable[Work], window: Span) -> int:
    """Time in which anything runs."""
    return total_ns(work, window, lambda communication, other: communication + other > 0)


def idle_ns(work: Iterable[Work], window: Span) -> int:
    """Time in which nothing runs."""
    return total_ns(work, window, lambda communication, other: communication + other == 0)


def communication_ns(work: Iterable[Work], window: Span) -> int:
    """Time in which a communication kernel runs."""
    return total_ns(work, window, lambda communication, other: communication > 0)


def exposed_ns(work: Iterable[Work], window: Span) -> int:
    """Time in which communication kernels run and nothing else."""
    return total_ns(work, window, lambda communication, other: communication > 0 and other == 0)


def by_kernel(work: Iterable[Work]) -> dict[str, tuple[int, int]]:
    """How many kernels of each name ran and how long they took together."""
    calls: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for w in work:
        if w.is_kernel:
            calls[w.name] += 1
            times[w.name] += w.end - w.start
    return {name: (calls[name], times[name]) for name in calls}


def overlaps_ns(work: Iterable[Work]) -> dict[tuple[int, int], int]:
    """For each device and stream, time counted again for each further thing that runs on it at once."""
    streams: dict[tuple[int, int], list[Work]] = defaultdict(list)
    for w in work:
        streams[int(w.device), int(w.stream)].append(w)
    return {key: sum(n * max(a + b - 1, 0) for n, a, b in sweep(own, _around(own))) for key, own in streams.items()}


def _around(work: list[Work]) -> Span:
    return min(w.start for w in work), max(w.end for w in work)


def overlapping(work: Iterable[Work]) -> int:
    """How many kernels began before an earlier kernel on their stream ended, and the same of copies."""
    found = 0
    last: dict[tuple[Any, Any, bool], int] = {}
    for w in sorted(work, key=lambda w: w.start):
        key = (w.device, w.stream, w.is_kernel)
        found += w.start < last.get(key, w.start)
        last[key] = max(w.end, last.get(key, w.end))
    return found


def rank_in(name: str) -> int:
    """The rank that a file's name states, 0 where it states none."""
    found = re.search(r"rank-?(\d+)", name)
    return int(found[1]) if found else 0
