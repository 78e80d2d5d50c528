"""Is what held during a measurement told as it was: clocks, reasons, processes, and nothing where NVML is silent?"""

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_nvml
import pytest

from probe.machine import nvml
from probe.microbench.cuda.watch import Conditions, NvmlMeter, Reading, Watch, meter_of, summarised


class Meter:
    """Tells the readings in turn, the last for ever."""

    def __init__(self, *readings: Reading, others: int | None = 0, busy: int | None = 0) -> None:
        self.max_sm_clock_hz: float | None = 2e9
        self.readings, self.told = list(readings), 0
        self._others, self._busy = others, busy
        self.three_told = threading.Event()

    def read(self) -> Reading:
        self.told += 1
        if self.told >= 3:
            self.three_told.set()
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]

    def others(self) -> int | None:
        return self._others

    def busy_others(self, since: float) -> int | None:
        assert since == 100.0
        return self._busy


def _conditions(*readings: Reading, **more: Any) -> Conditions:
    return summarised(readings, Meter(*readings, **more), 100.0)


def test_medians_and_the_least_clock() -> None:
    readings = [Reading(clock, (), power, 50.0) for clock, power in ((1.9e9, 300.0), (1.2e9, 500.0), (1.8e9, 400.0))]
    found = _conditions(*readings)

    assert (found.sm_clock_hz, found.least_sm_clock_hz, found.power_w, found.temperature_c) == (1.8e9, 1.2e9, 400, 50)
    assert found.flags == ()
    assert found.params == {
        "sm_clock_hz": 1.8e9,
        "clocks_event_reasons": [],
        "power_w": 400.0,
        "temperature_c": 50.0,
        "other_processes": 0,
    }


@pytest.mark.parametrize(
    ("reading", "flags"),
    [
        (Reading(1.9e9, ("sw_power_cap",)), ("throttled",)),
        (Reading(1.9e9, ("gpu_idle", "applications_clocks_setting")), ()),
        (Reading(1.4e9, ()), ("throttled",)),  # 70 % of the maximum
        (Reading(1.6e9, ()), ()),
        (Reading(None, None), ()),
    ],
)
def test_a_lowered_clock_is_flagged(reading: Reading, flags: tuple[str, ...]) -> None:
    assert _conditions(reading).flags == flags


def test_a_reason_given_once_in_many_readings_explains_nothing() -> None:
    readings = [Reading(1.9e9, ())] * 49 + [Reading(1.9e9, ("hw_slowdown",))]

    assert _conditions(*readings).clocks_event_reasons == ()
    assert _conditions(*readings[-9:]).clocks_event_reasons == ("hw_slowdown",)


def test_others_that_ran_contend_and_others_that_only_wait_do_not() -> None:
    assert _conditions(Reading(1.9e9, ()), others=2, busy=0).flags == ()
    assert _conditions(Reading(1.9e9, ()), others=2, busy=1).flags == ("contended",)
    assert _conditions(Reading(1.9e9, ()), others=2, busy=0).params["other_processes"] == 2
    assert _conditions(Reading(1.0e9, ()), others=2, busy=1).flags == ("throttled", "contended")


def test_what_nvml_does_not_say_is_not_in_the_params() -> None:
    found = _conditions(Reading(), others=None, busy=None)

    assert found.params == {}
    assert found.flags == ()


def test_readings_are_taken_by_a_thread_while_the_block_runs() -> None:
    meter = Meter(Reading(1.5e9, ()))
    with Watch(meter, period_s=1e-4, now=lambda: 100.0) as watch:
        assert meter.three_told.wait(30)
    told = meter.told

    assert watch.conditions.readings == told >= 3
    assert watch.conditions.sm_clock_hz == 1.5e9
    assert threading.current_thread() is threading.main_thread()
    assert "probe-watch" not in {thread.name for thread in threading.enumerate()}


def test_a_block_shorter_than_a_period_is_read_once() -> None:
    with Watch(Meter(Reading(1.5e9, ())), period_s=60, now=lambda: 100.0) as watch:
        pass

    assert watch.conditions.readings == 1


def test_the_thread_ends_with_an_error_in_the_block() -> None:
    with pytest.raises(KeyboardInterrupt), Watch(Meter(Reading()), period_s=60, now=lambda: 100.0):
        raise KeyboardInterrupt

    assert "probe-watch" not in {thread.name for thread in threading.enumerate()}


def test_without_a_meter_nothing_is_known() -> None:
    with Watch(None) as watch:
        pass

    assert watch.conditions == Conditions()


class Refusal(Exception):  # noqa: N818 (stands for NVMLError)
    """What a function that is not supported raises."""


def _nvml(contexts: list[int], busy: dict[int, int] | None) -> Any:
    """A pynvml with these compute processes, and the SM use of each (None: not supported)."""

    def running(handle: object) -> list[Any]:
        return [SimpleNamespace(pid=pid) for pid in contexts]

    def utilisation(handle: object, since_us: int) -> list[Any]:
        assert since_us == 5_000_000
        if busy is None:
            raise Refusal
        return [SimpleNamespace(pid=pid, smUtil=use) for pid, use in busy.items()]

    return SimpleNamespace(
        NVMLError=Refusal,
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetMaxClockInfo=lambda handle, kind: 1980,
        nvmlDeviceGetComputeRunningProcesses=running,
        nvmlDeviceGetProcessUtilization=utilisation,
    )


OWN, FOREIGN, OUTSIDE = os.getpid(), 2**22 + 1, 2**22 + 2  # above the largest number of a process


@pytest.mark.parametrize(
    ("contexts", "busy", "others", "busy_others"),
    [
        ([OWN], {OWN: 90}, 0, 0),
        ([OWN, FOREIGN], {OWN: 90, FOREIGN: 0}, 1, 0),
        ([OWN, FOREIGN], {OWN: 90, FOREIGN: 5}, 1, 1),
        ([OWN, FOREIGN], {FOREIGN: 5}, 1, 1),  # this process ran too shortly to be sampled
        ([OUTSIDE], {OUTSIDE: 90}, 0, 0),  # in a container: this process by another number
        ([OUTSIDE, FOREIGN], {OUTSIDE: 90, FOREIGN: 90}, 1, 1),
        ([OWN], None, 0, None),
        ([], {}, None, 0),
    ],
)
def test_other_processes_are_counted_without_this_one(
    contexts: list[int], busy: dict[int, int] | None, others: int | None, busy_others: int | None
) -> None:
    meter = NvmlMeter(_nvml(contexts, busy), "gpu")

    assert meter.others() == others
    assert meter.busy_others(5.0) == busy_others
    assert meter.max_sm_clock_hz == 1.98e9
    assert meter.read() == Reading()  # this library has none of the functions


def test_nvml_is_read_as_it_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = fake_nvml.build(tmp_path)
    if library is None:
        pytest.skip("no C compiler to build the fake NVML with")
    state = tmp_path / "state"
    state.write_text(fake_nvml.state({"sm_clock_mhz": 1500, "clocks_event_reasons": 0x4, "power_mw": 650_000}))
    with fake_nvml.loaded(monkeypatch, library, state), nvml.opened() as lib:
        meter = NvmlMeter(lib, lib.nvmlDeviceGetHandleByIndex(0))
        reading = meter.read()

    assert (reading.sm_clock_hz, reading.clocks_event_reasons, reading.power_w) == (1.5e9, ("sw_power_cap",), 650.0)
    assert meter.max_sm_clock_hz == 1.98e9
    assert meter.others() is None  # the fake lists no processes


def test_there_is_no_meter_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.microbench.cuda.watch.environment.nvml_gpu", lambda index: None)
    with meter_of(0) as meter:
        assert meter is None
    with meter_of(None) as meter:
        assert meter is None
