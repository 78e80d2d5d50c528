"""Ranks over links that were measured, and over those that are tabulated; each answer says which."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import Event, kernel, launch, op, shapes, step, write
from places import SAMPLES

import probe
from probe import cli, store
from probe.analyzers.projection.layout import Layout, Model
from probe.analyzers.projection.links import Link, among_cores, best_seconds, path, seconds, volume_bytes
from probe.errors import InputError, UsageError
from probe.machine.device import Ceilings, Device, Level
from probe.planning.measured import measured_link, nearest

H100 = "NVIDIA H100 80GB HBM3"
SAMPLE = SAMPLES / "transformer_step"
EIGHT = {"layout": Layout(8, 1), "model": Model(parameters=1e9, gradient_bytes=4)}


def trained(folder: Path) -> str:
    """A step of 20 ms on an H100."""
    events: list[Event] = [
        step(0, 0, 20_000),
        op("aten::mm", 10, 5, **shapes([4096, 4096], [4096, 4096])),
        launch(1, 11, 2),
        kernel("gemm", 20, 19_000, 1),
        op("Optimizer.step#SGD.step", 19_500, 100),
    ]
    device = [{"id": 0, "name": H100, "computeMajor": 9, "computeMinor": 0, "numSms": 132}]
    return str(write(folder, events, deviceProperties=device))


def kept(rates: dict[str, float]) -> None:
    ceilings = Ceilings(
        "measured", H100, 3e12, {"float32": 5e13, "bfloat16": 7e14}, 3e-6, {"L2": Level(50 << 20)}, rates
    )
    store.save(ceilings, Device("cuda", H100))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path


def test_links_measured_on_this_device_go_before_tabulated_ones(cache: Path) -> None:
    kept({"2": 9e10, "8": 4e10, "16": 1e9})
    found = probe.whatif(trained(cache), **EIGHT)  # type: ignore[arg-type]
    [data] = found.targets[0].communication
    assert data.link == "measured among 8" and data.link_measured
    assert data.time_s == pytest.approx(volume_bytes("all_reduce", 4e9, 8) / 4e10, rel=0.01)
    assert "link measured among 8 ranks, by the collectives suite" in found.assumptions


def test_without_measurements_links_are_tabulated_and_that_is_said(cache: Path) -> None:
    found = probe.whatif(trained(cache), **EIGHT)  # type: ignore[arg-type]
    [data] = found.targets[0].communication
    assert data.link == "NVLink 4" and not data.link_measured
    assert any(text.startswith("NVLink 4: as tabulated") for text in found.assumptions)


def test_another_device_has_not_the_links_of_this_one(cache: Path) -> None:
    kept({"8": 4e10})
    found = probe.whatif(trained(cache), onto="MI300X", **EIGHT)  # type: ignore[arg-type]
    assert found.targets[0].communication[0].link == "Infinity Fabric 3"


def measurements(folder: Path, *, kind: str = "cuda", cores: int | None = None, **more: Any) -> Path:
    rows = [
        {"suite": "collectives", "name": "all_reduce", "metric": metric, "value": value, "params": {"ranks": ranks}}
        for metric, value, ranks in (("busbw", 5e9, 2), ("busbw", 6e9, 2), ("busbw", 4e9, 4), ("latency", 60e-6, 4))
    ]
    content = {"schema": "probe.microbench/1", "device": {"kind": kind, "cores": cores}, "measurements": rows, **more}
    file = folder / "measured.json"
    file.write_text(json.dumps(content))
    return file


def test_a_file_of_measurements_gives_bandwidth_and_latency(cache: Path) -> None:
    file = measurements(cache)
    link = measured_link(str(file), 4)
    assert (link.busbw, link.ranks, link.cores) == (4e9, 4, None)
    assert link.hop_s == pytest.approx(60e-6 / 6)  # a ring of four passes on six times
    assert measured_link(str(file), 3).busbw == 6e9
    found = probe.whatif(trained(cache), link=str(file), **EIGHT)  # type: ignore[arg-type]
    assert found.targets[0].communication[0].link == "measured among 4"


@pytest.mark.parametrize(("ranks", "chosen"), [(1, 2), (2, 2), (3, 2), (4, 4), (64, 8)])
def test_the_nearest_number_of_ranks_that_was_measured(ranks: int, chosen: int) -> None:
    assert nearest([8, 2, 4], ranks) == chosen


def test_a_measured_link_without_latency_says_so(cache: Path) -> None:
    """Only the bandwidth lies with the ceilings; an unknown device has no tabulated link to take the latency of."""
    ceilings = replace(store.load(SAMPLE.parent / "ceilings.json"), link_bytes_per_s={"2": 1e9})
    file = store.save(ceilings, Device("cpu", ceilings.device, cores=2))
    found = probe.whatif(str(SAMPLE), layout=Layout(2, 1), model=Model(parameters=1e6), ceilings=str(file))
    assert found.targets[0].communication[0].link_measured
    assert any("no latency of it is known" in text for text in found.warnings)


def test_ranks_beyond_the_cores_wait_for_one_another() -> None:
    """Work of a rank × ranks over cores: by hand, at two ranks on two cores 1 GB/s, then four on the same."""
    way = among_cores("Gloo", 1e9, 1e-3, ranks=2, cores=2)
    two, four = (seconds("all_reduce", 1e9, ranks, way) for ranks in (2, 4))
    assert two == pytest.approx(2 * 1e-3 + 1.0)
    assert four == pytest.approx((6 * 1e-3 + 1.5) * 2)
    alone = among_cores("Gloo", 1e9, 0.0, ranks=2, cores=1)  # two took turns on one core when it was measured
    assert seconds("all_reduce", 1e9, 2, alone) == pytest.approx(1.0)
    assert seconds("all_reduce", 1e9, 3, alone) == pytest.approx(4 / 3 * 3 / 2)
    assert path(Link.NVLINK4).crowding(64) == 1.0


def test_a_collective_takes_what_was_measured_at_its_size() -> None:
    """Between two sizes on their line, beyond the largest at its rate; more hops of more ranks, and shared cores."""
    times = ((1e6, 1e-3), (2e6, 3e-3))
    way = among_cores("Gloo", 1.0, 1e-4, ranks=2, cores=2, times=times)
    assert seconds("all_reduce", 1.5e6, 2, way) == pytest.approx(2e-3)  # of two ranks each sends the whole
    assert seconds("all_reduce", 4e6, 2, way) == pytest.approx(6e-3)
    assert seconds("all_reduce", 1e3, 2, way) == pytest.approx(1e-3)
    assert seconds("all_gather", 3e6, 2, way) == pytest.approx(2e-3 - 1e-4)  # half as much, one hop less
    assert seconds("all_reduce", 1e6, 4, way) == pytest.approx((2e-3 + 4 * 1e-4) * 2)  # 1.5 MB sent, six hops for two
    assert best_seconds("all_reduce", 1.5e6, 2, way) == pytest.approx(2e-3)  # no tree betters what was measured
    alone = among_cores("Gloo", 1.0, 0.0, ranks=2, cores=1, times=times)  # two took turns when it was measured
    assert seconds("all_reduce", 1.5e6, 2, alone) == pytest.approx(2e-3)


def test_a_file_of_measurements_gives_the_times_of_each_size(cache: Path) -> None:
    file = measurements(cache)
    content = json.loads(file.read_text())
    rates = [row for row in content["measurements"] if row["metric"] == "busbw" and row["params"]["ranks"] == 2]
    for row, size in zip(rates, (4_000_000, 1_000_000), strict=True):
        row["params"] |= {"size_bytes": size, "time_s": {"min": size / 1e9, "median": size / 5e8}}
    file.write_text(json.dumps(content))
    assert measured_link(str(file), 2).times == ((1_000_000, 1e-3), (4_000_000, 4e-3))
    assert measured_link(str(file), 4).times == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "not JSON"), ("[]", "not a result of"), ('{"schema": "probe.microbench/1"}', "holds no all-reduce")],
)
def test_files_without_a_link_are_refused_in_a_line(cache: Path, content: str, said: str) -> None:
    file = cache / "bad.json"
    file.write_text(content)
    with pytest.raises(InputError, match=said):
        measured_link(str(file), 2)
    assert cli.main(["whatif", trained(cache), "--ranks", "8", "--parameters", "1e9", "--link", str(file)]) == 2


def test_a_cpu_without_measured_links_is_asked_for_them(cache: Path) -> None:
    with pytest.raises(UsageError, match="run microbench collectives"):
        probe.whatif(
            str(SAMPLE), layout=Layout(2, 1), model=Model(parameters=1e6), ceilings=str(SAMPLE.parent / "ceilings.json")
        )
