"""An allocator's snapshot: read without running anything in it, and its peak, holders and pieces."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import probe
from probe.analyzers.memory.snapshot import snapshot_memory
from probe.cli.conditions import parse
from probe.errors import GateFailed, ProbeError, TraceError
from probe.readers.allocator_snapshot import read

MIB = 1 << 20


def frames(name: str, line: int) -> list[dict[str, Any]]:
    own = {"filename": "/home/someone/train.py", "line": line, "name": name}
    return [{"filename": "/env/lib/torch/nn/linear.py", "line": 1, "name": "forward"}, own]


def event(action: str, address: int, size: int, stack: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"action": action, "addr": address, "size": size, "stream": 0, "time_us": 10, "frames": stack or []}


def block(address: int, size: int, state: str, stack: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"address": address, "size": size, "requested_size": size, "state": state, "frames": stack or []}


def content() -> dict[str, Any]:
    """4 MiB that stay, 8 MiB that come and go, 1 MiB from before that goes, 1 MiB from before that stays."""
    history = [
        event("segment_alloc", 0, 20 * MIB),
        event("alloc", 0, 4 * MIB, frames("forward", 12)),
        event("alloc", 4 * MIB, 8 * MIB, frames("loss", 20)),
        event("free_requested", 4 * MIB, 8 * MIB),
        event("free_completed", 4 * MIB, 8 * MIB),
        event("free_completed", 90 * MIB, 1 * MIB),
    ]
    large = [block(0, 4 * MIB, "active_allocated", frames("forward", 12)), block(4 * MIB, 16 * MIB, "inactive")]
    small = [block(90 * MIB, MIB, "inactive"), block(91 * MIB, MIB, "active_allocated", frames("setup", 3))]
    segments = [
        {"device": 0, "address": 0, "total_size": 20 * MIB, "blocks": large},
        {"device": 0, "address": 90 * MIB, "total_size": 2 * MIB, "blocks": small},
    ]
    return {"segments": segments, "device_traces": [history], "allocator_settings": {"roundup": True}}


def pickled(folder: Path, value: Any) -> Path:
    path = folder / "snapshot.pickle"
    path.write_bytes(pickle.dumps(value))
    return path


def as_json(folder: Path, value: Any) -> Path:
    path = folder / "snapshot.pkl"
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("written", [pickled, as_json])
def test_peak_holders_and_pieces(tmp_path: Path, written: Any) -> None:
    (snapshot,) = read(written(tmp_path, content()))
    memory = snapshot_memory(snapshot)
    assert memory.peak_bytes == 14 * MIB and memory.peak_at == "event 2 of 4, train.py:20 loss"
    held = {holder.operator: holder.bytes for holder in memory.holders}
    assert held == {
        "train.py:20 loss": 8 * MIB,
        "train.py:12 forward": 4 * MIB,
        "train.py:3 setup": MIB,
        None: MIB,
    }
    assert sum(held.values()) == memory.peak_bytes
    assert memory.reserved_peak_bytes == 22 * MIB and snapshot.largest_free_bytes == 16 * MIB
    assert memory.fragmentation is not None and memory.fragmentation.ratio == 22 / 5
    assert memory.by_category["activations"] is None


def test_a_snapshot_without_history_tells_what_is_there(tmp_path: Path) -> None:
    (snapshot,) = read(pickled(tmp_path, content() | {"device_traces": []}))
    memory = snapshot_memory(snapshot)
    assert memory.peak_bytes == 5 * MIB and any("no history" in note for note in memory.notes)


def test_analyze_reads_it_and_fails_on_its_peak(tmp_path: Path) -> None:
    analysis = probe.analyze(pickled(tmp_path, content()))
    assert analysis.source.kind == "snapshot" and analysis.memory is not None
    assert analysis.to_json()["memory"]["peak_bytes"] == 14 * MIB
    (small, large) = parse("peak_memory>20MiB,peak_memory>10MiB")
    small.check(analysis)
    with pytest.raises(GateFailed, match="14 MiB"):
        large.check(analysis)


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_something_is_refused_in_one_line(tmp_path: Path) -> None:
    path = pickled(tmp_path, {"segments": [_Harmful(tmp_path / "made")]})
    with pytest.raises(TraceError, match="asks for") as caught:
        read(path)
    assert not (tmp_path / "made").exists()
    assert str(caught.value).isprintable() and str(path) in str(caught.value)


@pytest.mark.parametrize("value", [3, [], {}, {"segments": 1}, {"segments": [{}]}, {"segments": [{"device": "x"}]}])
def test_other_plain_pickles_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TraceError):
        read(pickled(tmp_path, value))


@given(st.integers(0, 2000), st.binary(max_size=4))
def test_damaged_bytes_end_in_one_line(tmp_path_factory: pytest.TempPathFactory, at: int, other: bytes) -> None:
    data = pickle.dumps(content())
    at %= len(data)
    path = tmp_path_factory.mktemp("damaged") / "s.pickle"
    path.write_bytes(data[:at] + other)
    try:
        read(path)
    except ProbeError as error:
        assert str(error).isprintable() and str(path) in str(error)
