"""Is a GPU read as NVML tells it: rates, GPM, MIG slices, refusals asked once, errors that pass, a lost GPU?"""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_nvml
import pytest

from probe.collectors.gpu import NvmlSource
from probe.collectors.sampling import NotAvailable, Place, Sampler, Tick
from probe.machine import nvml
from probe.machine.nvml_meter import Meter
from probe.runs.telemetry_files import read

NS = 1_000_000_000
BUSY: dict[str, Any] = {
    "utilisation_percent": 97, "memory_utilisation_percent": 60, "sm_clock_mhz": 1800, "memory_clock_mhz": 2619,
    "clocks_event_reasons": 0x4, "power_mw": 690_000, "energy_mj": 5_000_000, "temperature_c": 71,
    "memory_used_bytes": 1 << 30, "pcie_replays": 2, "ecc_corrected": 3, "ecc_uncorrected": 0,
    "field.197": 1000, "field.198": 2000, "field.138": 10, "field.139": 20, "field.186": 695_000, "field.82": 80,
    "gpm": 1, "gpm.2": 91.5, "gpm.3": 40, "gpm.5": 62.5, "gpm.10": 88, "gpm.20": 2, "gpm.61": 3,
    "pids": "11,12", "busy_pids": "12",
}  # fmt: skip


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = fake_nvml.build(tmp_path_factory.mktemp("nvml"))
    if built is None:
        pytest.skip("no C compiler to build the fake NVML with")
    return built


class Machine:
    """The GPUs that NVML shows; `set` changes them while they are read."""

    def __init__(self, state: Path, gpus: tuple[dict[str, Any], ...]) -> None:
        self._state, self._gpus = state, [dict(gpu) for gpu in gpus]
        self._write()

    def set(self, gpu: int, **changes: Any) -> None:
        self._gpus[gpu] |= {key.replace("__", "."): value for key, value in changes.items()}
        self._write()

    def _write(self) -> None:
        part = self._state.with_suffix(".part")
        part.write_text(fake_nvml.state(*self._gpus))
        part.replace(self._state)


Pretend = Callable[..., Any]


@pytest.fixture
def pretend(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    @contextmanager
    def pretending(*gpus: dict[str, Any]) -> Iterator[Machine]:
        machine = Machine(tmp_path / "state", gpus)
        with fake_nvml.loaded(monkeypatch, library, tmp_path / "state"):
            yield machine

    return pretending


def tick(seconds: float) -> Tick:
    return Tick(int(seconds * NS), int(seconds * NS))


def rows(source: NvmlSource, seconds: float) -> dict[str, dict[str, float]]:
    return {entity: dict(values) for entity, values in source.read(tick(seconds))}


def test_everything_that_a_busy_hopper_says_is_read_in_si_units(pretend: Pretend) -> None:
    with pretend(BUSY) as machine:
        source = NvmlSource()
        source.open()
        first = rows(source, 10.0)["GPU-00000000-0000"]
        machine.set(0, field__197=1500, field__198=2000, field__138=30, energy_mj=5_070_000)
        second = rows(source, 10.5)["GPU-00000000-0000"]
        source.close()
    assert first["gpu_utilisation_fraction"] == 0.97 and first["memory_utilisation_fraction"] == 0.6
    assert (first["sm_clock_hz"], first["memory_clock_hz"]) == (1.8e9, 2.619e9)
    assert nvml.event_reasons(int(first["clocks_event_reasons"])) == ("sw_power_cap",)
    assert first["power_w"] == 695.0  # what is drawn now, where NVML says it; the other figure is a mean over a second
    assert (first["temperature_c"], first["memory_temperature_c"]) == (71, 80)
    assert (first["memory_used_bytes"], first["pcie_replays"]) == (1 << 30, 2)
    assert (first["ecc_corrected_errors"], first["ecc_uncorrected_errors"]) == (3, 0)
    assert first["power_limit_w"] == 700 and first["other_processes"] == 1 and first["busy_other_processes"] == 0
    assert "pcie_receive_bytes_per_s" not in first and "sm_active_fraction" not in first  # nothing to compare with yet
    assert second["energy_j"] - first["energy_j"] == pytest.approx(70)
    assert second["nvlink_send_bytes_per_s"] == 3 * 2**20  # GPM's own figure comes after the counters'
    assert second["nvlink_receive_bytes_per_s"] == 0 and second["pcie_receive_bytes_per_s"] == 0
    assert second["pcie_send_bytes_per_s"] == 2 * 2**20
    assert second["sm_active_fraction"] == 0.915 and second["sm_occupancy_fraction"] == 0.4
    assert second["tensor_active_fraction"] == 0.625 and second["dram_active_fraction"] == 0.88
    assert "ecc_corrected_errors" not in second  # asked once a second


def test_counters_become_rates_and_one_that_was_set_back_says_nothing(pretend: Pretend) -> None:
    with pretend(BUSY | {"gpm": 0}) as machine, nvml.opened() as lib:
        meter = Meter(lib, lib.nvmlDeviceGetHandleByIndex(0))
        meter.state(1 * NS)
        machine.set(0, field__197=5000, field__138=18)
        forward = meter.state(3 * NS)
        machine.set(0, field__197=100)
        back = meter.state(4 * NS)
    assert forward["pcie_send_bytes_per_s"] == 2000 and forward["nvlink_send_bytes_per_s"] == 4 * 1024
    assert "pcie_send_bytes_per_s" not in back


class Counting:
    """A pynvml that counts its calls."""

    def __init__(self, lib: Any) -> None:
        self.lib, self.calls = lib, {}  # type: Any, dict[str, int]

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("nvmlDevice", "nvmlGpm")):
            self.calls[name] = self.calls.get(name, 0) + 1
        return getattr(self.lib, name)


def test_what_a_gpu_does_not_support_is_asked_once_and_the_reason_kept(pretend: Pretend) -> None:
    with pretend({"sm_clock_mhz": 1000}) as machine, nvml.opened() as lib:
        counting = Counting(lib)
        meter = Meter(counting, lib.nvmlDeviceGetHandleByIndex(0))
        for second in range(5):
            values = meter.state(second * NS) | meter.health()
        machine.set(0, utilisation_percent=50)
        assert "gpu_utilisation_fraction" not in meter.state(9 * NS)
    assert counting.calls["nvmlDeviceGetUtilizationRates"] == 1
    assert counting.calls["nvmlDeviceGetFieldValues"] == 1  # none of its fields is supported
    assert counting.calls["nvmlDeviceGetTotalEnergyConsumption"] == 1
    assert counting.calls["nvmlGpmQueryDeviceSupport"] == 1 and "nvmlGpmSampleGet" not in counting.calls
    assert meter.missing["nvmlDeviceGetUtilizationRates"] == "Not Supported"
    assert meter.missing["GPM"].startswith("this GPU has none")
    assert meter.missing["pcie_send_bytes_per_s (field 197)"] == "Not Supported"
    assert values["sm_clock_hz"] == 1e9 and values["power_w"] == 70 and meter.failures == {}


def test_a_gpm_metric_that_is_refused_leaves_the_others(pretend: Pretend) -> None:
    with pretend(BUSY) as machine, nvml.opened() as lib:
        meter = Meter(lib, lib.nvmlDeviceGetHandleByIndex(0))
        meter.state(1 * NS)
        assert "dram_active_fraction" not in meter.state(1 * NS + 50_000_000)  # samples too near to each other
        values = meter.state(2 * NS)
        machine.set(0, gpm__10="nan")
        meter.state(3 * NS)
        assert "dram_active_fraction" not in meter.state(4 * NS)
    assert "fp64_active_fraction" not in values and "fp64_active_fraction (GPM 11)" in meter.missing
    assert "dram_active_fraction" in values and all(math.isfinite(value) for value in values.values())


def test_a_lost_gpu_is_told_and_read_again_when_it_is_back(pretend: Pretend) -> None:
    with pretend(BUSY, BUSY) as machine:
        source = NvmlSource()
        source.open()
        before = rows(source, 1.0)
        lost = {f"fail__{name}": 15 for name in dir(__import__("pynvml")) if name.startswith("nvmlDeviceGet")}
        lost |= {"fail__nvmlDeviceGetComputeRunningProcesses_v3": 15, "fail__nvmlGpmSampleGet": 15}
        machine.set(0, **lost)
        meanwhile = rows(source, 2.5)
        refused = source.about()["refused"]["GPU-00000000-0000"]
        machine.set(0, **dict.fromkeys(lost))
        after = rows(source, 4.0)
        source.close()
    assert before["GPU-00000000-0000"]["refused_questions"] == 0
    assert set(meanwhile["GPU-00000000-0000"]) == {"refused_questions"}
    assert meanwhile["GPU-00000000-0000"]["refused_questions"] > 8
    assert refused["nvmlDeviceGetUtilizationRates"] == "GPU is lost"
    assert meanwhile["GPU-00000001-0000"]["gpu_utilisation_fraction"] == 0.97
    assert after["GPU-00000000-0000"]["gpu_utilisation_fraction"] == 0.97
    assert after["GPU-00000000-0000"]["refused_questions"] == 0


def test_slices_of_a_gpu_are_read_each_by_its_instance(pretend: Pretend) -> None:
    slices = {"mig": 1, "slices": 2, "gpm": 1, "utilisation_percent": None}
    own = {f"gpu0/{i}.{key}": value for i in range(2) for key, value in (("memory_bytes", 1 << 33), ("gpm.2", 20 + i))}
    with pretend(slices) as machine:
        state = machine._state
        state.write_text(state.read_text() + "".join(f"{key} {value}\n" for key, value in own.items()))
        source = NvmlSource()
        source.open()
        rows(source, 1.0)
        read_ = rows(source, 2.0)
        source.close()
    assert list(read_) == ["GPU-00000000-0000", "GPU-00000000-0000/7", "GPU-00000000-0000/8"]
    assert [read_[f"GPU-00000000-0000/{i}"]["sm_active_fraction"] for i in (7, 8)] == [0.20, 0.21]
    assert read_["GPU-00000000-0000/7"]["memory_used_bytes"] == 0
    assert source.about()["gpus"]["GPU-00000000-0000"]["mig"] is True


def test_an_xid_is_told_once(pretend: Pretend) -> None:
    with pretend(BUSY, BUSY) as machine:
        source = NvmlSource()
        source.open()
        quiet = rows(source, 1.0)
        machine.set(1, xid=79)
        told, again = rows(source, 2.5), rows(source, 4.0)
        source.close()
    assert [("xid" in row) for row in (*quiet.values(), *again.values())] == [False] * 4
    assert "xid" not in told["GPU-00000000-0000"] and told["GPU-00000001-0000"]["xid"] == 79


def test_without_nvml_or_without_gpus_the_reason_is_told(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend(), pytest.raises(NotAvailable, match="no GPU"):
        NvmlSource().open()
    import pynvml

    def refuse() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    with pytest.raises(NotAvailable, match="Not Found"):
        NvmlSource().open()


def test_only_the_named_gpus_are_read(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend(BUSY, BUSY):
        monkeypatch.setattr(
            "probe.machine.environment.nvml_gpu",
            lambda index: nvml.Gpu(0, uuid="GPU-00000001-0000") if index == 0 else None,  # the other way round in torch
        )
        source = NvmlSource((0, 5))
        source.open()
        assert list(rows(source, 1.0)) == ["GPU-00000001-0000"]
        assert source.missing == {"cuda:5": "NVML does not know it"}
        source.close()


def test_two_gpus_are_sampled_by_a_thread_and_lie_on_disk(pretend: Pretend, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with pretend(BUSY, BUSY) as machine:
        sampler = Sampler(NvmlSource(), 0.01, Place(run, 0))
        sampler.start()
        deadline = time.monotonic() + 20
        while len(sampler.buffer) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        machine.set(0, fail__nvmlDeviceGetUtilizationRates=999)
        seen = len(sampler.buffer)
        while len(sampler.buffer) < seen + 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        sampler.ask_to_stop()
        assert sampler.join(20)
    (samples,), warnings = read(run, 0)
    assert warnings == () and samples.entities == ("GPU-00000000-0000", "GPU-00000001-0000")
    first, second = (samples.columns["gpu_utilisation_fraction"][samples.entity == i] for i in (0, 1))
    assert first[0] == 0.97 and math.isnan(first[-1]) and (second == 0.97).all()
    assert "Unknown Error" in samples.about["refused"]["GPU-00000000-0000"]["nvmlDeviceGetUtilizationRates"]
    assert os.listdir(run) == ["telemetry.rank00000.nvml.0000.npz"]  # noqa: PTH208


@pytest.mark.flaky(reruns=2)
def test_a_throttled_gpu_reaches_the_report(pretend: Pretend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import probe

    hot = BUSY | {"clocks_event_reasons": 0x40, "sm_clock_mhz": 900}
    with pretend(hot), probe.profile(
        tmp_path / "r", wait=3, warmup=1, active=2, telemetry={"nvml_hz": 100, "dcgm_hz": 0}
    ) as prof:  # fmt: skip
        for _ in range(20):
            torch.add(torch.ones(16), 1)
            time.sleep(0.02)
            prof.step()
    analysis = probe.analyze(tmp_path / "r")
    assert analysis.telemetry is not None
    assert any("slowed down by hw thermal slowdown" in warning for warning in analysis.warnings)
    (judgement,) = (one for one in analysis.telemetry.judgements if one.code == "throttled")
    assert judgement.entity == "GPU-00000000-0000" and "900 MHz of 1.98 GHz" in judgement.evidence[0]
    via = {one.source: one.via for one in analysis.telemetry.sources}
    assert via["nvml"] == "nvidia-ml-py, driver 580.65.06"
