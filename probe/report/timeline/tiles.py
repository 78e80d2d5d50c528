"""What of the timeline can a screen show? At most about one mark a pixel and lane; exact where events are wider.

A tile is a binary message, little-endian: 16 bytes of head (marks, CODES, zeros), then a column after the other, each
of `marks` values: start and width in nanoseconds from the tile's begin (float32), number of events, name, operator
(-1: none) (int32), lane (uint16), code of the class and how busy the mark is, of 255 (uint8).
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt

from probe.report.timeline.index import CODES, Index, Lane

PIXELS_PER_BIN = 1.5
HELD_TILES = 24


@dataclass(frozen=True)
class Window:
    """What is asked for: a stretch of time, how many pixels show it, and which lanes."""

    begin_ns: float
    end_ns: float
    pixels: int
    first_lane: int
    last_lane: int  # not included


class Tiles:
    """The tiles of one timeline; those asked for last are kept, ten tabs want the same first one."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._held: OrderedDict[Window, bytes] = OrderedDict()
        self._lock = Lock()

    def of(self, window: Window) -> bytes:
        """The tile of a window."""
        with self._lock:
            if window in self._held:
                self._held.move_to_end(window)
                return self._held[window]
        made = tile(self._index, window)
        with self._lock:
            self._held[window] = made
            while len(self._held) > HELD_TILES:
                self._held.popitem(last=False)
        return made


@dataclass(frozen=True, eq=False)
class Marks:
    """What is drawn in a lane, [n]; `start_ns` and `width_ns` are of the timeline."""

    start_ns: npt.NDArray[np.float64]
    width_ns: npt.NDArray[np.float64]
    count: npt.NDArray[np.int32]
    name: npt.NDArray[np.int32]
    op: npt.NDArray[np.int32]
    code: npt.NDArray[np.uint8]
    busy: npt.NDArray[np.uint8]


def tile(index: Index, window: Window) -> bytes:
    """The marks of the window's lanes as a message."""
    numbers = range(window.first_lane, min(window.last_lane, len(index.lanes)))
    return message([(number, marks(index.lanes[number], window)) for number in numbers], window.begin_ns)


def message(drawn: Sequence[tuple[int, Marks]], begin_ns: float) -> bytes:
    """Marks of lanes, each with its lane's number, as a message; starts count from `begin_ns`."""
    total = sum(len(found.count) for _, found in drawn)

    def column(name: str, kind: str) -> bytes:
        parts = [getattr(found, name) for _, found in drawn]
        return (np.concatenate(parts) if parts else np.empty(0)).astype(kind).tobytes()

    start = [found.start_ns - begin_ns for _, found in drawn]
    lanes = [np.full(len(found.count), number) for number, found in drawn]
    return b"".join(
        (
            struct.pack("<IIII", total, CODES, 0, 0),
            (np.concatenate(start) if start else np.empty(0)).astype("<f4").tobytes(),
            *(column(name, kind) for name, kind in (("width_ns", "<f4"), ("count", "<i4"), ("name", "<i4"))),
            column("op", "<i4"),
            (np.concatenate(lanes) if lanes else np.empty(0)).astype("<u2").tobytes(),
            column("code", "<u1"),
            column("busy", "<u1"),
        )
    )


def marks(lane: Lane, window: Window) -> Marks:
    """What is drawn of a lane: wide events as they are, those narrower than a bin together."""
    first = int(np.searchsorted(lane.until_ns, window.begin_ns, "right"))
    last = int(np.searchsorted(lane.start_ns, window.end_ns, "left"))
    rows = slice(first, max(first, last))
    start, end = lane.start_ns[rows], lane.end_ns[rows]
    bin_ns = (window.end_ns - window.begin_ns) / window.pixels * PIXELS_PER_BIN
    wide = np.ones(len(start), bool) if len(start) <= window.pixels else end - start >= bin_ns
    exact = _exact(lane, rows, wide)
    if wide.all():
        return exact
    return _joined(exact, _binned(lane, rows, ~wide, window.begin_ns, bin_ns))


def _exact(lane: Lane, rows: slice, which: npt.NDArray[np.bool_]) -> Marks:
    start = lane.start_ns[rows][which].astype(np.float64)
    ones = np.ones(len(start), np.int32)
    return Marks(
        start, (lane.end_ns - lane.start_ns)[rows][which].astype(np.float64), ones, lane.name[rows][which],
        lane.op[rows][which], lane.code[rows][which], np.full(len(start), 255, np.uint8),
    )  # fmt: skip


def _binned(lane: Lane, rows: slice, which: npt.NDArray[np.bool_], begin_ns: float, bin_ns: float) -> Marks:
    """Narrow events of one bin as one mark: how many, how busy, and the class that takes most of their time."""
    start = lane.start_ns[rows][which]
    width = (lane.end_ns[rows] - lane.start_ns[rows])[which]
    place = np.floor((start - begin_ns) / bin_ns).astype(np.int64)
    heads = np.flatnonzero(np.r_[True, place[1:] != place[:-1]])
    of_bin = np.repeat(np.arange(len(heads)), np.diff(np.r_[heads, len(place)]))
    time = np.bincount(of_bin * CODES + lane.code[rows][which], width + 1, len(heads) * CODES).reshape(-1, CODES)
    count = np.bincount(of_bin, minlength=len(heads)).astype(np.int32)
    alone = count == 1
    busy = np.add.reduceat(width, heads) / bin_ns
    return Marks(
        start_ns=np.where(alone, start[heads], begin_ns + place[heads] * bin_ns),
        width_ns=np.where(alone, width[heads], bin_ns),
        count=count,
        name=lane.name[rows][which][heads],
        op=np.where(alone, lane.op[rows][which][heads], -1).astype(np.int32),
        code=time.argmax(1).astype(np.uint8),
        busy=np.where(alone, 255, np.clip(busy * 255, 12, 255)).astype(np.uint8),
    )


def _joined(one: Marks, other: Marks) -> Marks:
    columns = Marks.__dataclass_fields__
    return Marks(**{name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in columns})
