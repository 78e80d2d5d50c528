"""Read a Kineto/Chrome trace (.json, .json.gz; a path or an fsspec URL) into a Trace."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from probe.errors import TraceError
from probe.machine.device import Device, DeviceKind
from probe.readers import assemble
from probe.readers.events import NONE, About, Events
from probe.readers.garbage_collection import without_garbage_collection
from probe.readers.kineto_args import integer, positive
from probe.readers.kineto_columns import Columns
from probe.readers.kineto_json import STACKS, Head
from probe.readers.kineto_text import Text
from probe.readers.kineto_window import survey
from probe.readers.narrow import Selection, narrow
from probe.readers.opening import Stream, open_stream, shown
from probe.readers.rank_names import rank_of
from probe.trace import Trace

Progress = Callable[[int, int | None], None]  # bytes read so far, and in all where that is known


def read(source: str | Path, selection: Selection | None = None, progress: Progress | None = None) -> Trace:
    """The trace in a file, or the selected part; TraceError says what is wrong with it where nothing can be kept."""
    with without_garbage_collection():
        if selection is None or (selection.steps is None and selection.window_ns is None):
            whole = _read(source, None, progress)
            return narrow(whole, selection) if selection is not None else whole
        with open_stream(source) as stream:
            found = survey(Text(shown(source), _watched(stream, progress)))
        wanted = found.pieces(shown(source), selection)
        if all(number in wanted for number in range(len(found.reach))):
            return narrow(_read(source, None, progress), selection)
        return narrow(_read(source, wanted, progress), selection, whole=False)


def _read(source: str | Path, wanted: Container[int] | None, progress: Progress | None) -> Trace:
    """The trace that the wanted pieces of text make, None for all."""
    path = shown(source)
    columns = Columns()
    with open_stream(source) as stream:
        text = Text(path, _watched(stream, progress))
        for piece in text.pieces(wanted):
            columns.add(piece)
            piece.events.clear()  # the next events take their place, in memory that the core's cache still holds
    if columns.events == columns.dropped:
        raise TraceError(f"{path}: {_no_events(text.cut, columns.dropped)}")
    events = columns.finished()
    about = _about(path, text, columns, events, tuple(_warnings(columns, whole=wanted is None)))
    del columns
    return assemble.trace(events, about)


class _Watched:
    """A stream that tells how far it was read."""

    def __init__(self, stream: Stream, progress: Progress) -> None:
        self.stream = stream
        self.progress = progress

    @property
    def truncated(self) -> bool:
        """Whether a zipped stream broke off."""
        return self.stream.truncated

    def read(self, size: int) -> bytes:
        """As the stream's own."""
        data = self.stream.read(size)
        self.progress(self.stream.raw_bytes, self.stream.size)
        return data


def _watched(stream: Stream, progress: Progress | None) -> Stream | _Watched:
    return stream if progress is None else _Watched(stream, progress)


def _no_events(cut: bool, dropped: int) -> str:
    if cut or dropped:
        return "cut or damaged before the first whole event; record it again"
    return "the trace holds no events; record with torch.profiler or probe.profile"


def _about(path: str, text: Text, columns: Columns, events: Events, warnings: tuple[str, ...]) -> About:
    """What the file says beside its events."""
    rank, world_size = _rank(path, text.head)
    categories = {category.lower() for category in columns.kinds}
    return About(
        path=path,
        device=_device(text.head, events, sorted(set(columns.kinds.unknown_devices.values())), cut=text.cut),
        base_unix_ns=max(integer(text.head.base_ns), 0),
        rank=rank,
        world_size=world_size,
        with_shapes=bool(events.signatures),
        with_memory=columns.with_memory,
        with_stacks=STACKS in categories,
        events=columns.events,
        dropped=columns.dropped,
        unknown_devices=columns.unknown_devices,
        truncated=text.cut,
        warnings=warnings,
    )


def _warnings(columns: Columns, *, whole: bool) -> Iterator[str]:
    """What must be known of the events; how many lie in the pieces that were read for a part is chance."""

    def some(count: int, what: str) -> str:
        return f"{count} {what}" if whole else f"some {what} in or near the part that was read"

    if columns.unreadable:
        yield f"{some(columns.unreadable, 'operators')} have arguments that cannot be read; they count as not recorded"
    if devices := ", ".join(sorted(set(columns.kinds.unknown_devices.values()))):
        events = some(columns.unknown_devices, "events")
        yield f"{events} are those of a device ({devices}) that probe does not know: no roofs"


def _rank(path: str, head: Head) -> tuple[int | None, int | None]:
    """Rank and world size from the file, else the rank from its name."""
    info = head.distributed
    if info is not None and integer(info.rank) >= 0:
        return integer(info.rank), positive(info.world_size)
    return rank_of((PurePosixPath(path).name,)), None


def _device(head: Head, events: Events, unknown: list[str], *, cut: bool) -> Device:
    """The device whose work was recorded, as far as the file names it."""
    called = [events.names[n] for n in np.unique(events.runtime.name)]
    hip = any(name.startswith("hip") for name in called)
    devices = head.devices or []
    if unknown:
        return Device(kind="unknown", name=", ".join(unknown))
    if not devices:
        active = len(events.kernels) + len(events.copies) > 0
        kind: DeviceKind = ("rocm" if hip else "cuda") if called else ("unknown" if active else "cpu")
        if kind == "cpu" and cut:  # its device work may have stood behind the cut
            kind = "unknown"
        return Device(kind=kind, name="CPU" if kind == "cpu" else "unknown device")
    used = set(np.concatenate([events.kernels.device, events.copies.device]).tolist()) - {NONE}
    chosen = next((d for d in devices if integer(d.id) in used), devices[0])
    name = str(chosen.name or "unknown device")
    version = (chosen.major, chosen.minor)
    return Device(
        kind="rocm" if hip or "AMD" in name else "cuda",
        name=name,
        compute_capability="{}.{}".format(*version) if all(type(n) is int for n in version) else None,
        sm_count=positive(chosen.sm_count),
        memory_bytes=positive(chosen.memory_bytes),
    )
