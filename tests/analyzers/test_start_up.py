"""What a process pays once is told apart from what every step pays."""

from pathlib import Path

import pytest
from builders import GPU, Event, kernel, launch, op, step, write

import probe

MS = 1000.0


def warnings(folder: Path, events: list[Event]) -> list[str]:
    found = probe.analyze(write(folder, events, deviceProperties=GPU)).warnings
    return [warning for warning in found if "start-up" in warning]


def launches(first: int, names: list[str], at: float, takes: float) -> list[Event]:
    """Kernels of 20 µs of these names, each launched by a call that takes so long; 50 µs apart beside it."""
    events = []
    for i, name in enumerate(names):
        start = at + i * (takes + 50)
        events += [op("aten::add", start, takes + 10), launch(first + i, start + 2, takes)]
        events.append(kernel(name, start + takes + 5, 20, first + i))
    return events


def test_the_drivers_start_memory_and_code(tmp_path: Path) -> None:
    """One step of 60 ms: the first call takes 20 ms, memory 10, five kernels are loaded in 2 ms each."""
    names = [f"kernel_{i}" for i in range(5)]
    events = [
        step(0, 0, 60 * MS), launch(900, 10, 20 * MS, name="cudaDeviceGetStreamPriorityRange"),
        launch(901, 21 * MS, 10 * MS, name="cudaMalloc"),
        *launches(0, names, 32 * MS, 2 * MS), *launches(10, names, 45 * MS, 5),
    ]  # fmt: skip
    (said,) = warnings(tmp_path, events)
    assert said.startswith("40.0 ms, 66.6 %")  # 40 ms less five launches of 5 µs
    assert "20.0 ms cudaDeviceGetStreamPriorityRange, 10.0 ms cudaMalloc, 9.9" in said


@pytest.mark.parametrize("takes", [5.0, 2 * MS])
def test_calls_that_are_as_slow_in_every_step(tmp_path: Path, takes: float) -> None:
    events = []
    for number in range(3):
        events += [
            step(number, number * 20 * MS, 19 * MS),
            *launches(number * 10, ["a", "b"] * 3, number * 20 * MS + 10, takes),
        ]
    assert not warnings(tmp_path, events)


def test_a_first_wait_for_the_device_is_no_start_up(tmp_path: Path) -> None:
    """The first synchronisation waits for the work; a first launch that blocks does so because the queue is full."""
    events = [
        step(0, 0, 50 * MS), op("aten::mm", 0, 30), launch(0, 2), kernel("gemm", 10, 45 * MS, 0),
        op("aten::add", 50, 10 * MS), launch(1, 60, 9 * MS), kernel("add", 45.1 * MS, 20, 1),
        launch(900, 11 * MS, 35 * MS, name="cudaStreamSynchronize"),
    ]  # fmt: skip
    assert not warnings(tmp_path, events)
