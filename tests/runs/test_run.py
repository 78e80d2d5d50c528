"""Is a run read as it was written, and is a damaged one refused in one line?"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import RunError
from probe.machine.device import Cache, Device
from probe.runs.run import (
    PHASES,
    Cycle,
    Metric,
    RankPart,
    StepTimes,
    decode,
    encode,
    is_run,
    load,
    part_name,
    trace_name,
    write_part,
)
from probe.session.launch import MARKER, STALE_S, Place, default_path, find_place, join_directory
from probe.session.snapshot import step_times
from probe.session.steps import StepLog


def some_steps(rows: int = 6) -> StepTimes:
    phases = np.resize(np.array([0, 0, 1, 3, 3, 4], np.uint8), rows)
    return StepTimes(
        np.arange(rows, dtype=np.int64) + 10, phases, total=rows, samples=np.where(phases == 0, np.nan, 8.0)
    )


def some_part(rank: int = 0, world_size: int = 1) -> RankPart:
    cycle = Cycle(0, trace_name(rank, 0), 3, (13, 14), 2, events=7, bytes=3, pause_s={"stop": 0.1, "export": 0.2})
    return RankPart(
        status="finished",
        rank=rank,
        world_size=world_size,
        environment={"torch": "2.9.0"},
        device=Device("cpu", "Some CPU", cores=8, isa=("avx2",), caches=(Cache(1, 32768, 64, 2),), clock_hz=3e9),
        tags={"team": "vision", "n": 3},
        metrics={"loss": Metric("nat", (0, 1), (1.0, None))},
        cycles=(cycle,),
        collected={"trace": True, "telemetry": "not collected"},
        warnings=("a <b>warning</b>\n",),
        steps=some_steps(),
    )


def assert_same(a: RankPart, b: RankPart) -> None:
    empty = some_steps(0)
    assert replace(a, steps=empty) == replace(b, steps=empty)
    for name in ("durations_ns", "phases", "samples", "tokens", "micro_batches", "data_wait_ns"):
        np.testing.assert_array_equal(getattr(a.steps, name), getattr(b.steps, name))
    assert (a.steps.stride, a.steps.total) == (b.steps.stride, b.steps.total)


def test_there_and_back(tmp_path: Path) -> None:
    part = some_part()
    write_part(tmp_path, part)
    (tmp_path / trace_name(0, 0)).write_bytes(b"x")
    run = load(tmp_path)
    assert_same(replace(part, steps=some_steps(0)), replace(run.main, steps=some_steps(0)))
    np.testing.assert_array_equal(run.main.steps.durations_ns, part.steps.durations_ns)
    assert run.warnings == ()
    assert [(rank, file.name) for rank, _, file in run.traces] == [(0, "trace.rank00000.cycle0.json.gz")]
    assert run.main.cycles[0].steps == 2
    assert run.main.cycles[0].end_pause_s == pytest.approx(0.3)
    assert load(tmp_path / "run.json").main.tags == {"team": "vision", "n": 3}


@given(
    st.lists(st.integers(0, 2**62), max_size=30),
    st.integers(0, 4),
    st.lists(st.one_of(st.floats(allow_nan=True, allow_infinity=False), st.just(np.nan)), max_size=30),
)
def test_any_steps_survive(durations: list[int], code: int, samples: list[float]) -> None:
    rows = min(len(durations), len(samples))
    steps = StepTimes(
        np.array(durations[:rows], np.int64),
        np.resize(np.array([code, 0, 0], np.uint8), rows),
        total=rows,
        samples=np.array(samples[:rows], np.float64),
    )
    part = RankPart(steps=steps)
    assert_same(decode(encode(part), "here"), part)


def test_bare_and_profiled_steps() -> None:
    steps = some_steps()
    assert [PHASES[code] for code in steps.phases] == ["wait", "wait", "calibrate", "active", "active", "after"]
    assert steps.bare_ns.tolist() == [11, 15]  # not the cold first, not the calibration step
    assert steps.profiled_ns.tolist() == [13, 14]
    assert len(some_steps(0).bare_ns) == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (encode(some_part())[:-40], "not whole JSON"),
        (b"\xff\xfe{}", "not whole JSON"),
        (b"[1, 2]", "not a run that probe wrote"),
        (b'{"schema": "probe.analysis/1"}', "probe.analysis/1"),
        (b'{"schema": 7}', "not a run"),
        (b'{"schema": "probe.run/2"}', "update torch-probe"),
        (b'{"schema": "probe.run/1"}', "damaged"),
        (encode(some_part()).replace(b'"rank":0', b'"rank":"zero"'), "damaged"),
        (b'{"a":' * 100_000, "not whole JSON"),
        (encode(some_part()).replace(b'"name":"Some CPU"', b'"label":"Some CPU"'), r"damaged.*`name`.*device"),
        (encode(some_part()).replace(b'"kind":"cpu"', b'"kind":"abacus"'), "damaged.*kind"),
        (encode(some_part()).replace(b'"level":1', b'"level":"one"'), "damaged.*caches"),
        (encode(some_part()).replace(b'"environment":{"torch":"2.9.0"}', b'"environment":["torch"]'), "damaged"),
        (encode(some_part()).replace(b'"trace.rank', b'"../trace.rank'), "damaged.*no trace of a run"),
        (encode(some_part()).replace(b'"trace.rank', b'"/tmp/trace.rank'), "damaged.*no trace of a run"),
        (encode(some_part()).replace(b'cycle0.json.gz"', b'cycle0.json.gz\\n"'), "damaged.*no trace of a run"),
        (encode(some_part()).replace(b'["wait",2]', b'["wait",9]'), "damaged"),
        (encode(some_part()).replace(b'["wait",2]', b'["party",2]'), "damaged"),
        (encode(some_part()).replace(b'["wait",2]', b'["wait",-2]'), "damaged"),
        (encode(some_part()).replace(b'"durations_ns":[10', b'"durations_ns":[99999999999999999999'), "damaged"),
    ],
)
def test_what_is_no_whole_run_is_refused_in_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=says) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "run.json") in str(caught.value)
    assert is_run(tmp_path)


def test_directories_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run\.json"):
        load(tmp_path)
    with pytest.raises(RunError, match="no such directory"):
        load(tmp_path / "nowhere")
    assert not is_run(tmp_path)
    assert not is_run(tmp_path / "nowhere")


def test_keys_of_a_later_writer_are_ignored() -> None:
    data = encode(some_part()).replace(b'"rank":0', b'"rank":0,"colour":"blue"')
    assert decode(data, "here").rank == 0


def test_the_device_is_an_object_again_and_its_later_fields_are_ignored() -> None:
    part = some_part()
    data = encode(part).replace(b'"cores":8', b'"cores":8,"colour":"blue"').replace(b'"level":1', b'"level":1,"ways":8')
    assert data.count(b"colour") == data.count(b"ways") == 1
    assert decode(data, "here").device == part.device
    assert decode(encode(RankPart()), "here").device is None


def test_ranks_are_merged_and_missing_or_damaged_ones_are_named(tmp_path: Path) -> None:
    for rank in (2, 0):
        write_part(tmp_path, some_part(rank, world_size=4))
    (tmp_path / part_name(3)).write_bytes(b"{")
    run = load(tmp_path)
    assert [part.rank for part in run.parts] == [0, 2]
    assert run.world_size == 4
    text = "\n".join(run.warnings)
    assert "2 of 4 ranks left no readable part: 1, 3" in text
    assert "run.rank3.json" in text
    assert text.count("the trace is missing") == 2


def test_a_run_without_rank_0_can_be_read(tmp_path: Path) -> None:
    write_part(tmp_path, replace(some_part(1, world_size=2), status="running"))
    run = load(tmp_path)
    assert run.main.rank == 1
    assert any("killed" in warning for warning in run.warnings)


# --- the log of steps


def test_the_log_stays_bounded_and_keeps_rows_and_phases_together() -> None:
    log = StepLog(capacity=8)
    log.add_phase("wait", 0)
    log.add_phase("active", 5)
    log.add_phase("after", 7)
    total = 100
    for step in range(total):
        if step % log.stride == 0:
            log.durations_ns.append(step)
        if step >= 10:
            log.note(step, samples=float(step))
        if step + 1 >= log.full_at:
            log.thin()
    times = step_times(log, total)
    assert len(times) < 8
    assert times.stride == 16
    assert times.durations_ns.tolist() == [k * 16 for k in range(len(times))]
    assert times.samples is not None
    np.testing.assert_array_equal(times.samples[1:], times.durations_ns[1:])
    assert np.isnan(times.samples[0])
    assert [PHASES[code] for code in times.phases] == ["wait"] + ["after"] * (len(times) - 1)


def test_columns_are_filled_where_a_step_said_nothing() -> None:
    log = StepLog()
    log.add_phase("wait", 0)
    for step in range(4):
        log.durations_ns.append(1)
        if step == 2:
            log.note(step, tokens=5.0, data_wait_ns=7.0, micro_batches=4.0)
    times = step_times(log, 4)
    np.testing.assert_array_equal(times.tokens, [np.nan, np.nan, 5.0, np.nan])
    np.testing.assert_array_equal(times.data_wait_ns, [0, 0, 7, 0])
    np.testing.assert_array_equal(times.micro_batches, [1, 1, 4, 1])
    assert times.samples is None


def test_metrics_are_bounded_too() -> None:
    log = StepLog(capacity=4)
    for step in range(50):
        log.add_metric("loss", step, 1.0, "")
    assert len(log.series["loss"].steps) < 4


# --- one directory for all ranks of a launch

TORCHRUN = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"}


def test_the_place_is_what_the_launcher_says() -> None:
    place = find_place({**TORCHRUN, "RANK": "3", "LOCAL_RANK": "1"})
    assert (place.rank, place.world_size, place.local_rank) == (3, 4, 1)
    slurm = find_place({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7"})
    assert (slurm.rank, slurm.world_size) == (5, 8)
    assert find_place({"SLURM_PROCID": "0"}).world_size == 1  # a plain process inside of a batch script
    assert find_place({"RANK": "x", "WORLD_SIZE": "2"}).world_size == 1
    assert find_place({"RANK": "4", "WORLD_SIZE": "4"}).world_size == 1


def test_launches_are_told_apart() -> None:
    one = find_place({**TORCHRUN, "RANK": "0"})
    assert one.launch == find_place({**TORCHRUN, "RANK": "1"}).launch
    assert one.launch != find_place({**TORCHRUN, "RANK": "0", "TORCHELASTIC_RESTART_COUNT": "1"}).launch
    assert one.launch != find_place({**TORCHRUN, "RANK": "0", "MASTER_PORT": "29501"}).launch
    assert find_place({}).launch != find_place({}).launch
    assert default_path(one) == default_path(find_place({**TORCHRUN, "RANK": "2"}))


def join(path: Path, rank: int, launch: str, world: int = 4) -> Path:
    """Join as a rank does, and leave a part."""
    directory, _ = join_directory(path, Place(rank, world, rank, launch), part_name(rank), is_run)
    write_part(directory, RankPart(rank=rank, world_size=world))
    return directory


def test_ranks_of_a_launch_share_a_directory_and_others_go_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "exp1"
    assert [join(path, rank, "a").name for rank in (1, 0, 2)] == ["exp1"] * 3
    assert [join(path, rank, "b").name for rank in (0, 1)] == ["exp1-2"] * 2
    assert join(path, 3, "a").name == "exp1"
    assert join(path, 0, "a").name == "exp1-3"  # the same launch's second session: its part is in exp1
    assert join(path, 1, "a").name == "exp1-3"


def test_an_old_marker_is_an_earlier_launch(tmp_path: Path) -> None:
    join(tmp_path / "exp1", 0, "a")
    old = time.time() - 2 * STALE_S
    os.utime(tmp_path / "exp1" / MARKER, (old, old))
    assert join(tmp_path / "exp1", 1, "a").name == "exp1-2"


def test_what_is_in_the_way_is_kept(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert join(tmp_path / "empty", 0, "a").name == "empty"
    (tmp_path / "file").write_text("mine")
    assert join(tmp_path / "file", 0, "a").name == "file-2"
    (tmp_path / "copied").mkdir()
    write_part(tmp_path / "copied", RankPart())  # a run whose hidden marker was not copied with it
    assert join(tmp_path / "copied", 0, "a").name == "copied-2"


def test_racing_ranks_of_two_launches_never_mix(tmp_path: Path) -> None:
    jobs = [(tmp_path / "exp1", rank, launch) for rank in range(6) for launch in "ab"]
    with ThreadPoolExecutor(len(jobs)) as pool:
        names = list(pool.map(lambda job: join(*job, world=6).name, jobs))
    by_launch = {launch: {name for name, job in zip(names, jobs, strict=True) if job[2] == launch} for launch in "ab"}
    assert {len(found) for found in by_launch.values()} == {1}
    assert by_launch["a"] != by_launch["b"]
    assert len(load(tmp_path / "exp1").parts) == len(load(tmp_path / "exp1-2").parts) == 6
