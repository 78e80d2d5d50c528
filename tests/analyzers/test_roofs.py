"""The ceilings of an analysis: measured, else from a datasheet, else assumed; and the others are said so."""

from pathlib import Path

import pytest

from probe import store
from probe.errors import CeilingsError, UsageError
from probe.examine.roofs import choose_ceilings
from probe.machine import environment
from probe.machine.datasheets import DATASHEETS, find
from probe.machine.device import Ceilings, Device

H100 = Device(kind="cuda", name="NVIDIA H100 80GB HBM3")
MEASURED = Ceilings("measured", "NVIDIA H100 80GB HBM3", 3.0e12, {"float32": 50e12}, 2e-6)


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("Tesla V100-SXM2-32GB", "V100 SXM2"),
        ("Tesla V100-DGXS-32GB", "V100 SXM2"),
        ("Tesla V100-PCIE-16GB", "V100 PCIe"),
        ("Tesla T4", "T4"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", None),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA B200", "B200"),
        ("AMD Instinct MI250X", "MI250X (one of two dies)"),
        ("AMD Instinct MI300X VF", "MI300X"),
        ("h100 sxm", "H100 SXM"),
        ("", None),
    ],
)
def test_datasheets_are_found_by_torchs_name(name: str, device: str | None) -> None:
    sheet = find(name)
    assert (sheet.device if sheet else None) == device


def test_every_datasheet_is_dense_and_has_its_source() -> None:
    for sheet in DATASHEETS:
        assert sheet.source
        assert sheet.tera["float16"] >= sheet.tera["float32"], sheet.device
        # A sparse rate by mistake would be twice too high: dense tf32 is at most half of dense float16 everywhere.
        assert sheet.tera.get("tf32", 0) <= sheet.tera["float16"] / 2 * 1.02, sheet.device


def test_measured_before_datasheet() -> None:
    assert choose_ceilings(H100).ceilings.origin == "datasheet"
    store.save(MEASURED, H100)
    found = choose_ceilings(H100)
    assert found.ceilings == MEASURED
    assert found.datasheet is not None


def test_an_unknown_gpu_has_no_roofs_and_is_not_guessed() -> None:
    found = choose_ceilings(Device(kind="cuda", name="NVIDIA Something New"))
    assert found.ceilings.origin == "assumed"
    assert found.ceilings.dram_bytes_per_s is None
    assert not found.ceilings.flops_per_s


def test_a_cpu_without_measurements_has_assumed_roofs() -> None:
    found = choose_ceilings(Device(kind="cpu", name="CPU"))
    assert found.ceilings.origin == "assumed"
    assert found.ceilings.flops_per_s["float32"] > 0


def test_a_cpu_trace_without_a_name_takes_this_machines_and_says_so() -> None:
    here = environment.cpu_device()
    store.save(Ceilings("measured", here.name, 1e10, {"float32": 1e11}, 1e-6), here)
    found = choose_ceilings(Device(kind="cpu", name="CPU"))
    assert found.ceilings.origin == "measured"
    assert "does not name its CPU" in found.warnings[0]


def test_ceilings_of_another_device_are_used_and_said(tmp_path: Path) -> None:
    path = store.save(MEASURED, H100)
    found = choose_ceilings(Device(kind="cuda", name="NVIDIA H200"), file=path)
    assert found.ceilings == MEASURED
    assert "NVIDIA H200" in found.warnings[0]


def test_damaged_stored_ceilings_are_left_aside() -> None:
    path = store.save(MEASURED, H100)
    path.write_text("{")
    found = choose_ceilings(H100)
    assert found.ceilings.origin == "datasheet"
    assert "left aside" in found.warnings[0]


def test_damaged_named_ceilings_are_an_error(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"schema": "probe.ceilings/0"}')
    with pytest.raises(CeilingsError, match="measure again"):
        choose_ceilings(H100, file=bad)


def test_a_device_by_name() -> None:
    assert choose_ceilings(Device(kind="cuda", name="unknown device"), name="H200").ceilings.device == "H200"
    with pytest.raises(UsageError, match="H100 SXM"):
        choose_ceilings(H100, name="H9000")


def test_what_a_run_of_some_suites_lacks_comes_from_elsewhere_and_is_said() -> None:
    store.save(Ceilings("measured", H100.name, launch_s=3e-6), H100)
    found = choose_ceilings(H100)
    assert found.ceilings.launch_s == 3e-6
    assert found.ceilings.origin == "datasheet"
    assert found.ceilings.flops_per_s["bfloat16"] > 9e14
    assert "not both measured" in found.warnings[0]


def test_host_operators_are_not_judged_by_a_gpus_roofs() -> None:
    found = choose_ceilings(H100, on_device=False)
    assert not found.ceilings.flops_per_s
    assert found.datasheet is None
    with pytest.raises(UsageError, match="no device work"):
        choose_ceilings(Device(kind="cpu", name="CPU"), name="H200")
