"""A Trace in one file comes back as it was, or not at all."""

from __future__ import annotations

import dataclasses
import gc
import io
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import traces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_traces import trace_in
from same_trace import same

from probe.errors import TraceError
from probe.readers import columnar
from probe.trace import Steps, Table, Trace


def written(trace: Trace) -> bytes:
    file = io.BytesIO()
    columnar.write(trace, file)
    return file.getvalue()


def back(folder: Path, content: bytes) -> Trace:
    path = folder / "trace"
    path.write_bytes(content)
    return columnar.read(path)


def test_everything_comes_back(tmp_path: Path) -> None:
    trace = traces.busy()
    again = back(tmp_path, written(trace))
    assert same(trace, again)
    again.check()


def test_real_traces_come_back(tmp_path: Path, foreign_traces: Path) -> None:
    paths = sorted(foreign_traces.glob("*.json.gz"))
    assert paths
    for path in paths:
        trace = trace_in(path)
        again = back(tmp_path, written(trace))
        assert same(trace, again), path.name
        again.check()


def test_the_oracle_of_these_tests_sees_every_field() -> None:
    trace = traces.busy()
    for f in dataclasses.fields(trace):
        assert not same(trace, dataclasses.replace(trace, **{f.name: "something else"})), f.name
    later = dataclasses.replace(trace.steps, end_ns=trace.steps.end_ns + 1)
    assert not same(trace, dataclasses.replace(trace, steps=later))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(trace=traces.drawn())
def test_any_trace_comes_back(tmp_path: Path, trace: Trace) -> None:
    assert same(trace, back(tmp_path, written(trace)))


_values = st.recursive(st.integers(-(2**63), 2**64 - 1), lambda inner: st.lists(inner, max_size=3).map(tuple))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(dims=st.lists(st.lists(_values, max_size=3).map(tuple), max_size=3).map(tuple), text=st.text())
def test_any_signature_and_name_comes_back(tmp_path: Path, dims: tuple[Any, ...], text: str) -> None:
    trace = traces.trace(names=(text,))
    signature = dataclasses.replace(trace.signatures[0], dims=dims, scalars=(text,))
    trace = dataclasses.replace(trace, signatures=(signature,))
    assert same(trace, back(tmp_path, written(trace)))


def test_what_is_not_finite_stays_so(tmp_path: Path) -> None:
    trace = traces.trace()
    trace = dataclasses.replace(trace, device=dataclasses.replace(trace.device, clock_hz=float("nan")))
    clock = back(tmp_path, written(trace)).device.clock_hz
    assert clock is not None and np.isnan(clock)


def test_columns_are_read_only_views_of_the_file_at_multiples_of_64(tmp_path: Path) -> None:
    again = back(tmp_path, written(traces.busy()))
    for table in (again.host_ops, again.kernels, again.steps):
        for name, column in table.columns():
            assert not column.flags.writeable and not column.flags.owndata, name
            assert column.ctypes.data % 64 == 0, name
    with pytest.raises(ValueError, match="read-only"):
        again.host_ops.start_ns[0] = 1


def test_columns_outlive_the_file_and_the_trace(tmp_path: Path) -> None:
    start = back(tmp_path, written(traces.busy())).host_ops.start_ns
    (tmp_path / "trace").unlink()
    gc.collect()
    assert start.tolist() == traces.busy().host_ops.start_ns.tolist()


def test_slices_of_other_byte_order_are_written_as_their_values(tmp_path: Path) -> None:
    trace = traces.busy()
    odd = Steps(
        number=np.array([3, 99, 4, 99, 7, 99])[::2],
        start_ns=trace.steps.start_ns.astype(">i8"),
        end_ns=trace.steps.end_ns,
    )
    assert same(trace, back(tmp_path, written(dataclasses.replace(trace, steps=odd))))


@pytest.mark.parametrize("end", [0, 1, 40, 63, 64, 100, -64, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, end: int) -> None:
    with pytest.raises(TraceError, match="delete it"):
        back(tmp_path, written(traces.busy())[:end])


def test_a_file_with_something_behind_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="bytes where"):
        back(tmp_path, written(traces.busy()) + b"\0")


@pytest.mark.parametrize("content", [b'{"traceEvents": []}' * 99, b"SQLite format 3\0" * 99, bytes(9999)])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(TraceError, match="another kind"):
        back(tmp_path, content)


def test_every_flipped_bit_is_refused_or_harmless(tmp_path: Path) -> None:
    """One bit in every eleventh byte of the file: either it is noticed or it lies in the padding."""
    trace = traces.busy()
    content = written(trace)
    noticed = 0
    for at in range(0, len(content), 11):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        try:
            again = back(tmp_path, bytes(damaged))
        except TraceError:
            noticed += 1
        else:
            assert same(trace, again), at
    assert noticed > len(content) // 11 // 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(data=st.data())
def test_random_damage_never_gives_wrong_numbers(tmp_path: Path, data: st.DataObject) -> None:
    trace = traces.busy()
    content = bytearray(written(trace))
    at = data.draw(st.integers(0, len(content) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=200))
    content[at : at + len(junk)] = junk
    try:
        again = back(tmp_path, bytes(content))
    except TraceError:
        return
    assert same(trace, again)


def test_tables_whose_columns_differ_in_length_are_refused(tmp_path: Path) -> None:
    trace = traces.busy()
    uneven = dataclasses.replace(trace.steps, end_ns=trace.steps.end_ns[:-1])
    with pytest.raises(TraceError, match="Steps differ in length"):
        back(tmp_path, written(dataclasses.replace(trace, steps=uneven)))


def test_a_changed_trace_makes_old_files_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = written(traces.busy())
    monkeypatch.setattr(columnar, "layout", lambda: "of another version")
    with pytest.raises(TraceError, match="another version of probe"):
        back(tmp_path, content)


@pytest.mark.parametrize(
    "value",
    [np.zeros((2, 2), np.int64), np.array(["text"]), np.array([object()]), object(), np.zeros(2, complex)],
)
def test_what_it_cannot_hold_is_refused_when_writing(value: Any) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        columnar.pack(traces.trace(steps=value))


def test_text_that_is_not_unicode_is_refused_when_writing() -> None:
    with pytest.raises(ValueError):
        columnar.pack(traces.trace(names=("\ud800",)))


@dataclasses.dataclass(frozen=True, eq=False)
class Newer(Steps):
    loss: np.ndarray[Any, np.dtype[np.float32]]


@dataclasses.dataclass(frozen=True)
class Inner:
    memory: Steps
    by_rank: dict[int, tuple[str, ...]]


@dataclasses.dataclass(frozen=True, eq=False)
class NewerTrace(Trace):
    extra: Newer | None = None
    inner: Inner | None = None


def test_a_new_field_or_table_needs_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = traces.busy()
    extra = Newer(**dict(old.steps.columns()), loss=np.array([1.5, 2, 3], np.float32))
    inner = Inner(old.steps, {3: ("a", "b")})
    known = {f.name: getattr(old, f.name) for f in dataclasses.fields(old)}
    trace = NewerTrace(**known, extra=extra, inner=inner)
    monkeypatch.setattr(columnar, "Trace", NewerTrace)
    assert same(trace, back(tmp_path, written(trace)))


def described(hint: Any) -> list[str]:
    lines: dict[type, str] = {}
    columnar._describe(hint, lines)
    return list(lines.values())


def test_the_layout_names_every_dataclass_field_and_dtype() -> None:
    text = "\n".join(described(Trace))
    for name in ("HostOps(", "Signature(", "GeneratedKernel(", "Cache(", "Quality(", "CollectiveCall("):
        assert name in text
    for table in (t for t in typing.get_type_hints(Trace).values() if isinstance(t, type) and issubclass(t, Table)):
        for f in dataclasses.fields(table):
            assert f"{f.name}: " in text
    assert "int32" in text and "int64" in text and "bool" in text


def test_the_layout_changes_with_a_dtype_and_with_a_field() -> None:
    fields = [("a", np.ndarray[Any, np.dtype[np.int32]])]
    other = [("a", np.ndarray[Any, np.dtype[np.int64]])]
    made = [described(dataclasses.make_dataclass("T", f)) for f in (fields, other, [*fields, ("b", int)])]
    assert made[0] != made[1] != made[2] != made[0]


def test_the_layout_is_the_same_in_another_process() -> None:
    code = "from probe.readers import columnar; print(columnar.layout())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == columnar.layout()
