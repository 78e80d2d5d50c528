"""Is what is sampled kept, bounded, whole on disk, and read back, whatever goes wrong with it?"""

import errno
import gc
import json
import math
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_telemetry import ABOUT, NS, Scripted, sampler, samples

from probe.collectors.host import GcPauses, HostSource, MachineSource, RunQueue
from probe.collectors.python_stacks import StackSource
from probe.collectors.sample_buffer import SampleBuffer
from probe.collectors.sampling import FAILURES, SLOWEST_S, NotAvailable, Place, Row, Sampler, Tick
from probe.errors import RunError
from probe.results.telemetry import Samples
from probe.runs import telemetry_files
from probe.runs.telemetry_files import has_parquet, pack, part_name, parts, read, read_part, write_part


def run_ticks(one: Sampler, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        one.tick(Tick(number * NS, number * NS))


# --- the buffer ---------------------------------------------------------------------------------------------------


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(allow_nan=False), max_size=3), max_size=30))
def test_a_row_keeps_what_was_said_and_knows_nothing_else(rows: list[dict[str, float]]) -> None:
    buffer = SampleBuffer("x")
    for number, values in enumerate(rows):
        buffer.add(number, -number, f"e{number % 2}", values)
    told = buffer.samples({})
    assert told.at_ns.tolist() == list(range(len(rows))) and (told.unix_ns == -told.at_ns).all()
    assert [told.entities[i] for i in told.entity] == [f"e{n % 2}" for n in range(len(rows))]
    for number, values in enumerate(rows):
        for name, column in told.columns.items():
            assert column[number] == values[name] if name in values else math.isnan(column[number])


def test_a_buffer_that_cannot_be_written_forgets_the_oldest() -> None:
    buffer = SampleBuffer("x", capacity=10)
    for number in range(1000):
        buffer.add(number, number, "e", {"a": number} if number % 2 else {"b": number})
    told = buffer.samples({})
    assert len(buffer) <= 20 and buffer.dropped + len(buffer) == 1000
    assert told.at_ns.tolist() == list(range(buffer.dropped, 1000))
    said = np.where(told.at_ns % 2 == 1, told.columns["a"], told.columns["b"])
    assert (said == told.at_ns).all()


# --- files --------------------------------------------------------------------------------------------------------


def test_parts_of_both_forms_are_read_as_they_were(tmp_path: Path) -> None:
    for ending in ("npz", "parquet") if has_parquet() else ("npz",):
        path = tmp_path / part_name(3, "nvml", 0, ending)
        size = write_part(path, samples(power_w=1.5, temperature_c=70), {"rank": 3, "launch": "l", "host": "h"})
        told = read_part(path, "l")
        assert size == path.stat().st_size and len(told) == 5
        assert told.entities == ("GPU-a",) and told.about == ABOUT and told.source == "nvml"
        assert told.columns["power_w"].tolist() == [1.5] * 5 and told.at_ns.tolist() == [n * NS for n in range(5)]
        path.unlink()


def test_parts_are_joined_in_order_with_all_their_columns(tmp_path: Path) -> None:
    write_part(tmp_path / part_name(0, "nvml", 1), samples(2, 5, b=2.0), {})
    write_part(tmp_path / part_name(0, "nvml", 0), samples(3, 0, a=1.0), {})
    write_part(tmp_path / part_name(0, "host", 0), samples(1, 0, "host"), {})
    write_part(tmp_path / part_name(1, "nvml", 0), samples(9), {})
    told, warnings = read(tmp_path, 0)
    assert [one.source for one in told] == ["host", "nvml"] and warnings == ()
    assert (told[1].at_ns // NS).tolist() == [0, 1, 2, 5, 6]
    assert told[1].columns["a"].tolist()[:3] == [1.0] * 3 and np.isnan(told[1].columns["a"][3:]).all()
    assert np.isnan(told[1].columns["b"][:3]).all()


@pytest.mark.skipif(not has_parquet(), reason="pyarrow is not installed")
def test_a_run_that_ends_leaves_parquet_that_anything_reads(tmp_path: Path) -> None:
    import pandas as pd

    for number in range(3):
        write_part(tmp_path / part_name(0, "nvml", number), samples(2, 2 * number), {"launch": "l"})
    before = read(tmp_path, 0)[0][0]
    pack(tmp_path, 0, "l", {"launch": "l"})
    assert [path.name for path in tmp_path.iterdir()] == ["telemetry.rank00000.nvml.0002.parquet"]
    (after,), warnings = read(tmp_path, 0, "l")
    assert warnings == () and after.at_ns.tolist() == before.at_ns.tolist() and after.about == ABOUT
    frame = pd.read_parquet(tmp_path / "telemetry.rank00000.nvml.0002.parquet")
    assert list(frame.columns) == ["at_ns", "unix_ns", "entity", "power_w"] and len(frame) == 6


@pytest.mark.skipif(not has_parquet(), reason="pyarrow is not installed")
def test_a_kill_between_parquet_and_the_removal_of_archives_counts_nothing_twice(tmp_path: Path) -> None:
    write_part(tmp_path / part_name(0, "nvml", 0), samples(2), {})
    pack(tmp_path, 0, "", {})
    write_part(tmp_path / part_name(0, "nvml", 0), samples(2), {})
    write_part(tmp_path / part_name(0, "nvml", 1), samples(2, 2), {})
    ((told,), _) = read(tmp_path, 0)
    assert (told.at_ns // NS).tolist() == [0, 1, 2, 3]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / part_name(0, "nvml", 0, "parquet")).write_bytes(b"PAR1")
    monkeypatch.setattr(telemetry_files.importlib.util, "find_spec", lambda name: None)
    told, (warning,) = read(tmp_path, 0)
    assert told == () and "torch-probe[export]" in warning
    assert not has_parquet()


def test_damaged_newer_and_foreign_parts_are_left_out_and_the_rest_stands(tmp_path: Path) -> None:
    whole = tmp_path / part_name(0, "nvml", 0)
    write_part(whole, samples(), {"launch": "mine", "host": "here"})
    write_part(tmp_path / part_name(0, "nvml", 1), samples(), {"launch": "other", "host": "there"})
    (tmp_path / part_name(0, "nvml", 2)).write_bytes(whole.read_bytes()[:-200])
    (tmp_path / part_name(0, "nvml", 3)).write_bytes(b"")
    (tmp_path / part_name(0, "nvml", 4, "parquet")).write_bytes(b"PAR1 nonsense PAR1")
    _archive(tmp_path / part_name(0, "nvml", 5), {"schema": "probe.telemetry/2"})
    _archive(tmp_path / part_name(0, "nvml", 6), {"schema": "something"})
    _archive(tmp_path / part_name(0, "nvml", 7), {"schema": "probe.telemetry/1", "source": "nvml", "entities": []})
    (tmp_path / "telemetry.rank00000.nvml.x.npz").write_bytes(b"not a part")
    (told,), warnings = read(tmp_path, 0, "mine")
    assert len(told) == 5 and len(warnings) == 7
    for words in (
        "another launch, on host there",
        "damaged",
        "update torch-probe",
        "not telemetry",
        "an entity beyond",
    ):
        assert any(words in warning for warning in warnings), (words, warnings)
    assert all("\n" not in warning for warning in warnings)


@pytest.mark.parametrize(
    ("head", "said"),
    [({"rank": 3, "host": "b"}, "telemetry of rank 3 on b, named as rank 0's"), ({"rank": 0, "clock": [5, 6]}, None),
     ({"rank": 0, "clock": [5, 7], "host": "b"}, "another process, on b"), ({"rank": 0}, None),
     ({"clock": [1, 6]}, "another process, on an unknown host")],
)  # fmt: skip
def test_telemetry_of_another_host_or_rank_is_refused(tmp_path: Path, head: dict[str, Any], said: str | None) -> None:
    write_part(tmp_path / part_name(0, "nvml", 0), samples(), {"launch": "l", **head})
    told, warnings = read(tmp_path, 0, "l", (5, 6))
    assert [len(one) for one in told] == ([] if said else [5]) and len(warnings) == bool(said)
    assert said is None or said in warnings[0]


def _archive(path: Path, head: dict[str, Any], **columns: Any) -> None:
    text = np.frombuffer(json.dumps(head).encode(), np.uint8)
    base = {"at_ns": np.arange(2), "unix_ns": np.arange(2), "entity": np.zeros(2, np.int32)}
    with path.open("wb") as file:
        np.savez(file, **{"probe": text, **base, **columns})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "columns",
    [{"power_w": np.arange(3)}, {"at_ns": np.array([0.5, 1.5])}, {"power_w": np.array(["a", "b"])},
     {"power_w": np.array([None, {}], object)}, {"entity": np.array([0, -1], np.int32)}],
)  # fmt: skip
def test_columns_that_cannot_be_are_refused(tmp_path: Path, columns: dict[str, Any]) -> None:
    path = tmp_path / part_name(0, "nvml", 0)
    _archive(path, {"schema": "probe.telemetry/1", "source": "nvml", "entities": ["e"]}, **columns)
    with pytest.raises(RunError, match="damaged"):
        read_part(path)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / part_name(0, "nvml", 0)
    write_part(path, samples(), {})
    monkeypatch.setattr(telemetry_files, "MOST_BYTES", 100)
    with pytest.raises(RunError, match="bytes unpacked"):
        read_part(path)


@given(data=st.binary(max_size=60), place=st.integers(0, 900))
def test_any_damage_is_one_error(tmp_path_factory: pytest.TempPathFactory, data: bytes, place: int) -> None:
    directory = tmp_path_factory.mktemp("damage")
    path = directory / part_name(0, "nvml", 0)
    write_part(path, samples(), {})
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + data + whole[place + len(data) :])
    try:
        read_part(path)
    except RunError as error:
        assert "\n" not in str(error)


# --- the sampler --------------------------------------------------------------------------------------------------


def test_a_part_is_rewritten_until_it_is_full_and_the_oldest_make_room(tmp_path: Path) -> None:
    one = sampler(tmp_path, most_bytes=6000)
    one.buffer.capacity = 10
    for number in range(20):
        run_ticks(one, 5, 5 * number)
        one.flush()
    names = [path.name for path in parts(tmp_path, 0)]
    assert len(names) < 10 and names[-1] == part_name(0, "nvml", 9)
    assert one.removed == 10 - len(names) and sum(p.stat().st_size for p in tmp_path.iterdir()) <= 6000
    ((told,), _) = read(tmp_path, 0)
    assert (told.at_ns // NS).tolist() == list(range(10 * one.removed, 100))


def test_a_full_disk_loses_nothing_that_fits_into_the_buffer(tmp_path: Path) -> None:
    full = [True]

    def writer(path: Path, content: Samples, identity: Any) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_part(path, content, identity)

    one = sampler(tmp_path, writer=writer)
    for number in range(3):
        run_ticks(one, 2, 2 * number)
        one.flush()
    assert list(tmp_path.iterdir()) == [] and "No space left" in (one.unwritten or "")
    assert sum("No space left" in trouble for trouble in one.troubles) == 1
    full[0] = False
    one.flush()
    assert one.unwritten is None and len(read(tmp_path, 0)[0][0]) == 6


def test_a_directory_that_was_removed_is_not_made_again(tmp_path: Path) -> None:
    one = sampler(tmp_path / "gone")
    run_ticks(one, 3)
    one.flush()
    assert not (tmp_path / "gone").exists() and "FileNotFoundError" in (one.unwritten or "")


def test_errors_of_a_source_are_told_and_the_next_reading_is_tried(tmp_path: Path) -> None:
    one = sampler(tmp_path, {"a": 1.0}, RuntimeError("GPU is\nlost"), RuntimeError("GPU is\nlost"), {"a": 2.0})
    run_ticks(one, 5)
    assert one.buffer.samples({}).columns["a"].tolist() == [1.0, 2.0, 2.0]
    assert one.troubles == ["RuntimeError: GPU is lost"] and one.period_s == 1.0


def test_a_source_that_only_fails_is_asked_less_often_until_it_answers(tmp_path: Path) -> None:
    one = sampler(tmp_path, *[RuntimeError("x")] * (FAILURES + 5), {"a": 1.0}, period_s=0.1)
    run_ticks(one, FAILURES + 2)
    assert one.period_s == SLOWEST_S
    run_ticks(one, 5)
    assert one.period_s == 0.1 and len(one.buffer) == 2


def test_a_source_that_costs_too_much_slows_down(tmp_path: Path) -> None:
    one = sampler(tmp_path, period_s=0.1)
    one.limit(0.001)
    assert one.period_s == 0.1
    for _ in range(20):
        one.limit(0.5)
    assert one.period_s == SLOWEST_S and one.about()["asked_period_s"] == 0.1
    assert any("50.0% of a core" in trouble for trouble in one.troubles)


def test_a_driver_may_take_longer_and_a_failure_does_not_undo_the_slowing(tmp_path: Path) -> None:
    source = Scripted(*[RuntimeError("x")] * FAILURES, {"a": 1.0})
    source.in_driver = True
    one = Sampler(source, 0.1, Place(tmp_path, 0))
    one.limit(0.04)
    assert one.period_s == 0.1
    one.limit(0.06)
    run_ticks(one, FAILURES)
    assert one.period_s == SLOWEST_S
    run_ticks(one, 1)
    assert one.period_s == 0.2


def test_readings_keep_their_rhythm_and_one_that_takes_long_is_followed_by_rest(tmp_path: Path) -> None:
    one = sampler(tmp_path, period_s=1.0)
    assert one.next_due(10 * NS, 10 * NS + 5) == 11 * NS
    assert one.next_due(10 * NS, 13 * NS) == 14 * NS


@pytest.mark.parametrize("error", [NotAvailable("no GPU here"), OSError("broken")])
def test_a_source_that_is_not_there_says_why(tmp_path: Path, error: Exception) -> None:
    one = sampler(tmp_path)
    one.source.opening = error  # type: ignore[attr-defined]
    one.start()
    one.ask_to_stop()
    assert one.join(20) and str(error) in (one.reason or "") and list(tmp_path.iterdir()) == []


def test_the_thread_writes_while_it_runs_and_when_it_ends(tmp_path: Path) -> None:
    one = sampler(tmp_path, period_s=0.005, flush_s=0.05)
    one.start()
    deadline = time.monotonic() + 20
    while not parts(tmp_path, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    seen = len(read(tmp_path, 0)[0][0])
    while len(one.buffer) <= seen and time.monotonic() < deadline:
        time.sleep(0.01)
    one.ask_to_stop()
    assert one.join(20)
    ((told,), _) = read(tmp_path, 0)
    assert len(told) == len(one.buffer) > seen >= 1 and (np.diff(told.at_ns) > 0).all()
    assert one.source.closed == 1  # type: ignore[attr-defined]


def test_a_source_that_hangs_is_left_to_itself(tmp_path: Path) -> None:
    one = sampler(tmp_path, period_s=0.001)
    release, entered = threading.Event(), threading.Event()

    def hang(tick: Tick) -> Iterable[Row]:
        entered.set()
        release.wait(30)
        return []

    one.source.read = hang  # type: ignore[method-assign]
    one.start()
    assert entered.wait(20)
    one.ask_to_stop()
    assert one.join(0.01) is False
    release.set()
    assert one.join(20)


def test_a_wall_clock_that_is_set_back_is_seen_and_order_is_kept(tmp_path: Path) -> None:
    wall = iter([100 * NS, 101 * NS, 42 * NS, 43 * NS])
    one = sampler(tmp_path, unix_ns=lambda: next(wall))
    run_ticks(one, 4)
    one.flush()
    ((told,), _) = read(tmp_path, 0)
    assert (told.at_ns // NS).tolist() == [0, 1, 2, 3]
    assert told.clock_steps_ns == (-60 * NS,)


# --- the host -----------------------------------------------------------------------------------------------------

linux = pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="the kernel counts no run queues")


@linux
def test_lateness_less_the_run_queue_is_the_wait_for_the_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    class Queue:
        def __init__(self, thread: int) -> None:
            self.told = iter([(0, 0), (0, 3_000_000)] if thread == threading.get_native_id() else [(0, 0), (60, 20)])

        def read(self) -> tuple[int, int]:
            return next(self.told)

        def close(self) -> None:
            return None

    monkeypatch.setattr("probe.collectors.host.RunQueue", Queue)
    source = HostSource(-1)
    source.open()
    source.rest()
    ((_, values),) = source.read(Tick(0, 10_000_000))
    assert values["heartbeat_late_s"] == 0.01 and values["gil_wait_s"] == pytest.approx(0.007)
    source._own = None
    ((_, values),) = source.read(Tick(10_000_100, 10_000_100))
    assert (values["loop_on_cpu_fraction"], values["loop_run_queue_fraction"]) == (0.6, 0.2)
    source.close()
    assert not any("GcPauses" in repr(callback) for callback in gc.callbacks)


@linux
def test_a_threads_run_queue_is_counted_and_its_end_is_no_error() -> None:
    tell, end, ids = threading.Event(), threading.Event(), []

    def live() -> None:
        ids.append(threading.get_native_id())
        tell.set()
        end.wait(20)

    thread = threading.Thread(target=live)
    thread.start()
    assert tell.wait(20)
    source = HostSource(ids[0])
    source.open()
    source.rest()
    list(source.read(Tick(0, 1)))
    end.set()
    thread.join()
    gone = time.monotonic() + 20
    while Path(f"/proc/self/task/{ids[0]}").exists() and time.monotonic() < gone:
        time.sleep(0.01)
    ((_, values),) = source.read(Tick(2, 3))
    assert "loop_run_queue_fraction" not in values and "gil_wait_s" in values
    source.close()
    with pytest.raises(OSError):
        RunQueue(2**30)


def test_without_schedstat_lateness_is_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(thread: int) -> None:
        raise FileNotFoundError("no schedstat")

    monkeypatch.setattr("probe.collectors.host.RunQueue", missing)
    source = HostSource()
    source.open()
    source.rest()
    ((_, values),) = source.read(Tick(0, 1000))
    assert "gil_wait_s" not in values and values["heartbeat_late_s"] == pytest.approx(1e-6)
    assert "no schedstat" in str(source.missing)
    source.close()


def test_collections_are_counted_and_gc_is_left_as_it_was() -> None:
    before = list(gc.callbacks)
    pauses = GcPauses()
    pauses.install()
    gc.collect()
    gc.collect()
    assert pauses.collections >= 2 and 0 < pauses.longest_ns <= pauses.total_ns
    pauses.remove()
    pauses.remove()
    assert gc.callbacks == before


def test_the_machine_is_read_in_rates_and_what_it_does_not_say_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    source = MachineSource()
    source.open()
    asked = []

    def no_disk() -> None:
        asked.append(1)

    monkeypatch.setattr(source._psutil, "disk_io_counters", no_disk)
    ((_, first),) = source.read(Tick(0, 0))
    sum(range(200_000))
    ((_, second),) = source.read(Tick(NS, NS))
    list(source.read(Tick(2 * NS, 2 * NS)))
    assert asked == [1] and source.missing["disk"] == "the system does not say"
    assert first["threads"] >= 1 and first["resident_bytes"] > 1e6 and "process_cpu_cores" not in first
    assert second["process_cpu_cores"] >= 0 and "disk_read_bytes_per_s" not in second


def test_stacks_of_the_loops_thread_are_counted() -> None:
    source = StackSource(threading.get_ident())
    for _ in range(3):
        list(source.read(Tick(0, 0)))
    (stack, count), *_ = source.about()["stacks"].items()
    assert count == 3 and "test_stacks_of_the_loops_thread_are_counted (test_telemetry.py:" in stack
    assert list(StackSource(-1).read(Tick(0, 0))) == []
