"""Is the energy of a step what the counters say, and its cost what the price says?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_builders

from probe.analyzers.telemetry.energy import StepFacts, cost, energy
from probe.api import analyze
from probe.collectors.rapl import RaplSource
from probe.collectors.sampling import NotAvailable, Place, Sampler, Tick
from probe.machine.device import Device
from probe.price import Price
from probe.report.conditions import spending
from probe.results.telemetry import Samples, Telemetry, Window
from probe.runs import telemetry_files
from probe.runs.run import Cycle, RankPart, trace_name, write_part

NS = 1_000_000_000
WINDOWS = (
    Window("wait", 0, 0, 10 * NS), Window("active", 5, 10 * NS, 12 * NS), Window("after", 7, 12 * NS, 30 * NS),
)  # fmt: skip


def counter(
    watts: Any, source: str = "nvml", entity: str = "GPU-a", windows: tuple[Window, ...] = WINDOWS
) -> Telemetry:
    """A reading a second; `watts` holds in the second after it."""
    at = np.arange(30, dtype=np.int64) * NS
    used = np.concatenate([[0.0], np.cumsum(np.broadcast_to(np.asarray(watts, float), 30))[:-1]])
    samples = Samples("nvml", at, at, np.zeros(30, np.int32), (entity,), {"energy_j": used})
    return Telemetry((samples,), windows)


FACTS = StepFacts(0.5, samples=8.0, tokens=1000.0, idle_s=0.1, recoverable_s=0.25)


def test_only_bare_steps_count_and_ranks_add_up() -> None:
    watts = np.full(30, 400.0)
    watts[9:13] = 9000.0  # from the last reading before the recorded steps to the first after them
    used, why = energy([counter(watts), counter(100.0, entity="GPU-b")], FACTS, on_gpu=True)
    assert why == "" and used is not None and used.devices == ("GPU-a", "GPU-b")
    expected = 100 + 400 * (9 + 16) / 26 + 9000 * 1 / 26  # its first reading after is within: a second of 9000 W
    assert used.mean_w == pytest.approx(expected)
    assert used.j_per_step == pytest.approx(expected * 0.5)
    assert used.j_per_sample == pytest.approx(expected * 0.5 / 8) and used.j_per_token == pytest.approx(expected / 2000)


def test_a_device_that_two_ranks_read_counts_once_and_a_reset_is_left_out() -> None:
    used, _ = energy([counter(300.0), counter(300.0)], FACTS, on_gpu=True)
    assert used is not None and used.mean_w == pytest.approx(300) and used.measured_s == 9 + 17
    told = counter(300.0)
    told.samples[0].columns["energy_j"][20:] -= 5000.0  # the driver was loaded anew
    again, _ = energy([told], FACTS, on_gpu=True)
    assert again is not None and again.mean_w == pytest.approx(300) and again.measured_s == 9 + 16


def test_what_is_not_known_has_its_reason() -> None:
    assert energy([], FACTS, on_gpu=True) == (None, "no telemetry was recorded")
    assert energy([Telemetry()], FACTS, on_gpu=False)[1].startswith("the processor's counters (RAPL)")
    assert energy([counter(1.0)], FACTS, on_gpu=False)[0] is None  # a GPU's counter is no CPU's
    short = (Window("wait", 0, 0, 2 * NS),)
    assert "run longer" in energy([counter(1.0, windows=short)], FACTS, on_gpu=True)[1]
    found = cost(None, "no telemetry was recorded", FACTS, 1, None)
    assert set(found.reasons) == {"energy", "price"} and found.usd_per_step is None and spending(found) == ""


def test_the_price_is_of_every_device() -> None:
    used, _ = energy([counter(400.0)], FACTS, on_gpu=True)
    found = cost(used, "", FACTS, 8, Price(2.25, "--price"))
    assert found.usd_per_step == pytest.approx(8 * 2.25 * 0.5 / 3600) == pytest.approx(0.0025)
    assert found.usd_per_1000_steps == pytest.approx(2.5)
    assert found.usd_per_million_samples == pytest.approx(2500 / 8)
    assert found.usd_per_million_tokens == pytest.approx(2.5)
    assert found.idle_usd_per_1000_steps == pytest.approx(0.5)
    assert found.recoverable_usd_per_1000_steps == pytest.approx(1.25)
    assert spending(found) == (
        "200 J a step, 25.0 J a sample, 0.200 J a token (mean 400 W by NVML) · $2.50 for 1000 steps at $2.25 an hour · "
        "$0.500 of it idle · $1.25 of it recoverable"
    )


def powercap(root: Path, **counters: int) -> Path:
    zones = {"package-0": "intel-rapl:0", "core": "intel-rapl:0:0", "dram": "intel-rapl:0:1", "psys": "intel-rapl:1"}
    for name, zone in zones.items():
        folder = root / zone
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{counters.get(name.split('-')[0], 0)}\n")
        (folder / "max_energy_range_uj").write_text("1000000000\n")
    return root


def test_rapl_reads_packages_and_dram_and_does_not_wrap(tmp_path: Path) -> None:
    source = RaplSource(powercap(tmp_path, package=999_000_000, dram=5))
    source.open()
    powercap(tmp_path, package=2_000_000, dram=7_000_005)
    found = {name: values["energy_j"] for name, values in source.read(Tick(0, 0))}
    assert found == {"package-0": pytest.approx(3.0), "0-dram": pytest.approx(7.0)}


def test_rapl_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="no RAPL"):
        RaplSource(tmp_path / "nowhere").open()
    root = powercap(tmp_path)
    for zone in ("intel-rapl:0", "intel-rapl:0:1"):
        (root / zone / "energy_uj").write_text("much")
    with pytest.raises(NotAvailable, match="package-0: invalid literal"):
        RaplSource(root).open()


def test_a_sampler_adds_up_what_each_device_used(tmp_path: Path) -> None:
    source = RaplSource(powercap(tmp_path, package=1_000_000))
    source.open()
    sampler = Sampler(source, 1.0, Place(tmp_path, 0))
    for microjoules in (2_000_000, 5_000_000):
        powercap(tmp_path, package=microjoules)
        sampler.tick(Tick(0, 0))
    assert sampler.about()["energy_used_j"] == {"package-0": pytest.approx(3.0), "0-dram": 0.0}


def test_a_runs_own_energy_and_reasons_are_in_its_analysis(tmp_path: Path) -> None:
    def part(**telemetry: Any) -> RankPart:
        cycles = (Cycle(0, trace_name(0, 0), 6, (100_000,), 1),)
        device = Device("cuda", "NVIDIA Test GPU")
        steps = run_builders.steps_of(0)
        return RankPart(status="finished", device=device, cycles=cycles, steps=steps, launch="x", telemetry=telemetry)

    directory = run_builders.record(tmp_path / "r", world_size=1)
    windows = [{"phase": "wait", "first_step": 0, "begin_ns": 0, "end_ns": 30 * NS}]
    write_part(directory, part(windows=windows, sources={"nvml": {"reason": "no driver"}}))
    found = analyze(directory).cost
    assert found is not None and found.energy is None and found.reasons["energy"] == "nvml: no driver"
    telemetry_files.write_part(
        directory / telemetry_files.part_name(0, "nvml", 0), counter(400.0).samples[0], {"rank": 0, "launch": "x"}
    )
    write_part(directory, part(windows=windows, sources={"nvml": {"via": "nvidia-ml-py"}}))
    analysis = analyze(directory, price=2.0)
    found, step_s = analysis.cost, analysis.steps.bare_mean_s
    assert found is not None and found.energy is not None and step_s is not None
    assert found.energy.mean_w == pytest.approx(400) and found.energy.devices == ("GPU-a",)
    assert found.energy.j_per_step == pytest.approx(400 * step_s)
    assert found.energy.j_per_sample == pytest.approx(400 * step_s / 8)
    assert "J a step" in str(analysis) and analysis.to_json()["cost"]["usd_per_1000_steps"] == found.usd_per_1000_steps
