"""Read what torch.cuda.memory._dump_snapshot writes (a pickle, or the same as JSON): segments, blocks, and the history.

A pickle can run any code when it is read. This one consists of dictionaries, lists, texts and numbers; whatever asks
for anything else is refused, and nothing of it is made.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from probe.errors import TraceError
from probe.trace import Int64s, Table

LARGEST_BYTES = 4 << 30
_LIVE = frozenset({"active_allocated", "active_awaiting_free", "active_pending_free"})
_TAKEN, _FREED = "alloc", "free_completed"
_FROM_DRIVER = {"segment_alloc": 1, "segment_map": 1, "segment_free": -1, "segment_unmap": -1}
_LIBRARY = ("/torch/", "/site-packages/", "<frozen", "??")  # frames that say nothing of the program


@dataclass(frozen=True, eq=False)
class History(Table):
    """What one device's allocator did, in order: blocks handed out or back, segments taken or given back."""

    at_ns: Int64s  # the host's clock; 0 throughout in old snapshots
    address: Int64s
    bytes: Int64s  # negative for what was given back
    of_driver: Int64s  # 1 for segments, 0 for blocks
    site: Int64s  # into Snapshot.sites


@dataclass(frozen=True, eq=False)
class LiveBlocks(Table):
    """Blocks that were handed out when the snapshot was taken."""

    address: Int64s
    bytes: Int64s
    site: Int64s  # into Snapshot.sites


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One device's allocator; the sizes are those when the snapshot was taken.

    used_bytes: handed out, rounded up as the allocator does; the blocks themselves are as large as they were asked for.
    """

    path: str
    device: int
    history: History
    live: LiveBlocks
    sites: tuple[str, ...]  # "train.py:12 forward"; "" where no stack was recorded
    reserved_bytes: int
    used_bytes: int
    largest_free_bytes: int


class _PlainUnpickler(pickle.Unpickler):
    """Makes builtin containers, texts and numbers, for which a pickle needs to name no class."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module!a:.100}.{name!a:.100}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to objects outside of it")


def recognises(name: str, first: bytes) -> bool:
    """Whether a file of this name and beginning may be a snapshot."""
    return first.startswith(b"\x80") or name.endswith((".pickle", ".pkl"))


def read(path: Path | str) -> tuple[Snapshot, ...]:
    """A snapshot for each device that has segments or a history. Raises TraceError."""
    path = Path(path)
    raw = _content(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("segments"), list):
        raise TraceError(f"{path}: no segments in it; write one with torch.cuda.memory._dump_snapshot(file)")
    traces = raw.get("device_traces")
    histories = traces if isinstance(traces, list) else []
    try:
        devices = {int(segment["device"]) for segment in raw["segments"]}
        devices |= {device for device, history in enumerate(histories) if history}
        return tuple(_snapshot(path, raw["segments"], histories, device) for device in sorted(devices))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as wrong:
        raise TraceError(f"{path}: not an allocator snapshot of a version that probe reads ({wrong!r})") from None


def _content(path: Path) -> Any:
    """The object in the file, made of builtin containers only."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise TraceError(f"{path}: larger than 4 GiB; record a shorter history (max_entries)")
        with path.open("rb") as file:
            return _json(file) if file.peek(1)[:1] == b"{" else _PlainUnpickler(file).load()
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError as wrong:
        raise TraceError(f"{path}: not a plain allocator snapshot: {wrong}; nothing of it was run") from None
    except (ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, MemoryError, RecursionError,
            OverflowError, ImportError) as wrong:  # fmt: skip  # what a damaged pickle raises
        raise TraceError(f"{path}: damaged or no allocator snapshot: {type(wrong).__name__}") from None


def _json(file: BinaryIO) -> Any:
    return json.loads(file.read())


def _snapshot(path: Path, segments: list[Any], histories: list[Any], device: int) -> Snapshot:
    sites: dict[str, int] = {"": 0}
    own = [segment for segment in segments if int(segment["device"]) == device]
    blocks = [(address, block) for segment in own for address, block in _placed(segment)]
    history = list(_events(histories[device] if device < len(histories) else [], sites))
    live = [
        (address, int(block.get("requested_size", block["size"])), _site(block.get("frames"), sites))
        for address, block in blocks
        if block["state"] in _LIVE
    ]
    return Snapshot(
        path=str(path),
        device=device,
        history=History(*np.array(history, np.int64).reshape(-1, 5).T),
        live=LiveBlocks(*np.array(live, np.int64).reshape(-1, 3).T),
        sites=tuple(sites),
        reserved_bytes=sum(int(segment["total_size"]) for segment in own),
        used_bytes=sum(int(block["size"]) for _, block in blocks if block["state"] in _LIVE),
        largest_free_bytes=max((int(b["size"]) for _, b in blocks if b["state"] == "inactive"), default=0),
    )


def _placed(segment: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The blocks of a segment with their addresses, which old snapshots do not tell: they lie one behind the other."""
    address = int(segment["address"])
    for block in segment["blocks"]:
        yield int(block.get("address", address)), block
        address += int(block["size"])


def _events(history: list[Any], sites: dict[str, int]) -> Iterator[tuple[int, int, int, int, int]]:
    """The rows of a history; what changes no size (requests, snapshots, failures) is left out."""
    for event in history:
        action = event["action"]
        sign = _FROM_DRIVER.get(action, 1 if action == _TAKEN else -1 if action == _FREED else 0)
        if sign:
            at_ns = 1000 * int(event.get("time_us", 0))
            site = _site(event.get("frames"), sites)
            yield at_ns, int(event["addr"]), sign * int(event["size"]), int(action in _FROM_DRIVER), site


def _site(frames: Any, sites: dict[str, int]) -> int:
    """The number of the innermost line of the program, or of any line where all are a library's."""
    told = [frame for frame in frames or () if isinstance(frame, dict)]
    own = [f for f in told if not any(word in str(f.get("filename", "")) for word in _LIBRARY)]
    frame = next(iter(own or told), None)
    if frame is None:
        return 0
    text = f"{Path(str(frame.get('filename', ''))).name}:{frame.get('line', 0)} {frame.get('name', '')}"
    return sites.setdefault(text, len(sites))
