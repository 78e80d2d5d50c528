"""Are published values found for the right processor, and none for one that was not looked up?"""

import pytest

from probe.device import Device
from probe.measurement import Measurement
from probe.microbench import references

CPUINFO = "processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nstepping\t: {stepping}\n"


def _cpuinfo(vendor: str, family: int, model: int, stepping: int = 1) -> str:
    return CPUINFO.format(vendor=vendor, family=family, model=model, stepping=stepping)


@pytest.mark.parametrize(
    ("vendor", "family", "model", "stepping", "expected"),
    [
        ("AuthenticAMD", 0x17, 0x01, 2, references.ZEN1),
        ("AuthenticAMD", 0x17, 0x31, 0, references.ZEN2),
        ("AuthenticAMD", 0x19, 0x01, 1, references.ZEN3),
        ("AuthenticAMD", 0x19, 0x11, 1, references.ZEN4),
        ("AuthenticAMD", 0x1A, 0x02, 1, None),
        ("GenuineIntel", 6, 0x55, 4, references.SKYLAKE_SP),
        ("GenuineIntel", 6, 0x55, 7, references.CASCADE_LAKE),
        ("GenuineIntel", 6, 0x8F, 8, references.SAPPHIRE),
        ("GenuineIntel", 6, 0x6A, 6, None),
        ("HygonGenuine", 0x18, 0, 1, None),
    ],
)
def test_families(vendor: str, family: int, model: int, stepping: int, expected: object) -> None:
    assert references.family(_cpuinfo(vendor, family, model, stepping)) is expected


def test_no_family_without_the_fields() -> None:
    assert references.family("") is None
    assert references.family("CPU implementer\t: 0x41\n") is None


def _measurement(suite: str, **params: object) -> Measurement:
    return Measurement(suite, "x", "m", "u", 1.0, 1.0, 1.0, (1.0, 1.0), 8, dict(params))


def test_cycles_become_seconds_and_rates_of_all_cores() -> None:
    device = Device("cpu", "x", cores=4, physical_cores=2)
    measured = [
        _measurement("cache_latency", level="L2"),
        _measurement("matmul", dtype="float64"),
        _measurement("matmul", dtype="bfloat16"),
        _measurement("memory_bandwidth", kernel="triad", level="L1", threads=1),
        _measurement("memory_bandwidth", kernel="triad", level="DRAM", threads=1),
    ]
    found = references.annotate(measured, device, references.ZEN2, 2e9)
    values = [m.reference.high if m.reference else None for m in found]

    assert values == [pytest.approx(6.5e-9), pytest.approx(64e9), None, pytest.approx(192e9), None]
    assert found[0].reference is not None
    assert "AnandTech" in found[0].reference.source


def test_gpus_by_the_longest_name() -> None:
    found = references.annotate(
        [_measurement("matmul", dtype="bfloat16")], Device("cuda", "NVIDIA GH200 480GB"), None, None
    )

    assert found[0].reference is not None
    assert found[0].reference.high == 828.6e12


def test_an_unknown_core_has_no_references() -> None:
    measured = (_measurement("cache_latency", level="L1"),)

    assert references.annotate(measured, Device("cpu", "x"), None, 2e9) == measured
