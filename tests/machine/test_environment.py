"""Is the machine described as it is? Recorded /proc and /sys texts, and this machine itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import UnavailableError
from probe.machine import cpu_info, environment, nvml
from probe.machine.device import Cache

INTEL = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8488C
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse2 sse4_2 avx f16c fma avx2 avx512f avx512bw avx512vl avx_vnni avx512_bf16 avx512_vnni \
amx_bf16 avx512_fp16 amx_tile amx_int8

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8488C
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse2
"""
AMD = """processor\t: 0
model name\t: AMD EPYC 7B13   64-Core Processor
physical id\t: 0
core id\t\t: 3
flags\t\t: fpu sse2 fma sse4_2 f16c avx avx2 vaes
"""
GRAVITON = """processor\t: 0
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp asimddp sve asimdfhm svei8mm svebf16 i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd40

processor\t: 1
Features\t: fp asimd
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


def test_intel() -> None:
    info = cpu_info.parse_cpuinfo(INTEL)
    assert info.model == "Intel(R) Xeon(R) Platinum 8488C"
    assert info.isa[:5] == ("sse4_2", "avx", "avx2", "fma", "f16c")
    assert info.isa[-4:] == ("avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")
    assert "avx_vnni" in info.isa and "sse2" not in info.isa
    assert info.physical_cores == 1


def test_amd() -> None:
    info = cpu_info.parse_cpuinfo(AMD)
    assert info.model == "AMD EPYC 7B13 64-Core Processor"
    assert info.isa == ("sse4_2", "avx", "avx2", "fma", "f16c")


def test_aarch64_has_a_name_and_an_isa() -> None:
    info = cpu_info.parse_cpuinfo(GRAVITON)
    assert info.model == "Neoverse V1"
    assert info.isa == ("neon", "fp16", "dotprod", "bf16", "i8mm", "sve", "svebf16", "svei8mm")


def test_unknown_arm_part_is_named_by_its_numbers() -> None:
    text = "CPU implementer : 0x99\nCPU part : 0x123\n"
    assert cpu_info.parse_cpuinfo(text).model == "ARM implementer 0x99 part 0x123"


@pytest.mark.parametrize("text", ["", "\n\n", "nonsense", "flags\t:\n"])
def test_cpuinfo_without_content(text: str) -> None:
    assert cpu_info.parse_cpuinfo(text) == cpu_info.CpuInfo()


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def _cache_files(cpu: int, index: int, kind: str, level: int, size: str, shared: str) -> dict[str, str]:
    at = f"cpu{cpu}/cache/index{index}"
    line = {} if kind == "Instruction" else {f"{at}/coherency_line_size": "64"}
    return {f"{at}/type": kind, f"{at}/level": str(level), f"{at}/size": size, f"{at}/shared_cpu_list": shared} | line


def test_caches_are_data_and_unified_innermost_first(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        _cache_files(3, 3, "Unified", 3, "36608K", "0-47,96-143")
        | _cache_files(3, 0, "Data", 1, "48K", "3,99")
        | _cache_files(3, 1, "Instruction", 1, "32K", "3,99")
        | _cache_files(3, 2, "Unified", 2, "2M", "3,99"),
    )
    assert cpu_info.caches(3, root) == (
        Cache(1, 48 << 10, 64, 2),
        Cache(2, 2 << 20, 64, 2),
        Cache(3, 36608 << 10, 64, 96),
    )


def test_vm_without_caches_or_topology(tmp_path: Path) -> None:
    assert cpu_info.caches(0, tmp_path) == ()
    assert cpu_info.physical_cores((0, 1), tmp_path) is None


def test_physical_cores_are_those_of_the_cpus_asked_for(tmp_path: Path) -> None:
    siblings = {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}
    root = _write(tmp_path, {f"cpu{c}/topology/thread_siblings_list": s for c, s in siblings.items()})
    assert cpu_info.physical_cores((0, 1, 4, 5), root) == 2
    assert cpu_info.physical_cores((0, 4), root) == 1


def test_quota_v2_is_the_tightest_ancestor(tmp_path: Path) -> None:
    files = {"pod/cpu.max": "150000 100000", "pod/a/cpu.max": "max 100000", "pod/b/cpu.max": "400000 100000"}
    root = _write(tmp_path, files)
    assert cpu_info.cpu_quota("0::/pod/a", root) == 1.5
    assert cpu_info.cpu_quota("0::/pod/b", root) == 1.5
    assert cpu_info.cpu_quota("0::/other", root) is None


def test_quota_v2_in_a_container_whose_path_is_the_hosts(tmp_path: Path) -> None:
    root = _write(tmp_path, {"cpu.max": "200000 100000"})
    assert cpu_info.cpu_quota("0::/docker/0123456789", root) == 2


@pytest.mark.parametrize(("quota", "expected"), [("50000", 0.5), ("-1", None)])
def test_quota_v1(tmp_path: Path, quota: str, expected: float | None) -> None:
    files = {"cpu,cpuacct/box/cpu.cfs_quota_us": quota, "cpu,cpuacct/box/cpu.cfs_period_us": "100000"}
    root = _write(tmp_path, files)
    assert cpu_info.cpu_quota("5:memory:/box\n4:cpu,cpuacct:/box\n0::/", root) == expected


def test_quota_v1_mounted_under_its_own_name(tmp_path: Path) -> None:
    root = _write(tmp_path, {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"})
    assert cpu_info.cpu_quota("4:cpu,cpuacct:/docker/abc", root) == 3


def test_memory_limits(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {"memory/box/memory.limit_in_bytes": "1073741824", "memory/memory.limit_in_bytes": "9223372036854771712"},
    )
    assert cpu_info.memory_limit_bytes("5:memory:/box", root) == 1 << 30
    assert cpu_info.memory_limit_bytes("5:memory:/", root) is None


@pytest.mark.parametrize("text", ["", "garbage", "0:", "::", "0::/../.."])
def test_odd_cgroup_files(tmp_path: Path, text: str) -> None:
    assert cpu_info.cpu_quota(text, tmp_path) is None


@given(st.sets(st.integers(0, 300), min_size=1))
def test_cpu_lists_read_back(cpus: set[int]) -> None:
    assert cpu_info.parse_cpu_list(cpu_info.format_cpu_list(cpus)) == tuple(sorted(cpus))


def test_meminfo() -> None:
    text = "MemTotal:       24682416 kB\nMemAvailable:   24404088 kB\nHugePages_Total:       0\n"
    assert cpu_info.parse_meminfo(text) == {"MemTotal": 24682416 * 1024, "MemAvailable": 24404088 * 1024}


def test_this_cpu() -> None:
    device = environment.cpu_device()
    assert device.kind == "cpu" and device.name
    assert device.cores == len(cpu_info.affinity())
    assert device.physical_cores is None or 1 <= device.physical_cores <= device.cores
    assert list(device.caches) == sorted(device.caches, key=lambda c: c.level)


def test_git_status() -> None:
    head = "# branch.oid 0cfa03214b93b3fd81566da2ba4eeae21c61529e\n# branch.head main\n"
    commit = "0cfa03214b93b3fd81566da2ba4eeae21c61529e"
    assert environment.parse_git_status(head) == {"commit": commit, "dirty": False}
    changed = "1 .M N... 100644 100644 100644 abc abc probe/x.py\n"
    assert environment.parse_git_status(head + changed) == {"commit": commit, "dirty": True}
    assert environment.parse_git_status("# branch.oid (initial)\n") is None


def test_git_outside_of_a_repository_or_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment.git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.git_state() is None


def test_description_has_the_keys_of_the_contract_and_is_json() -> None:
    described = environment.describe()
    assert {"torch", "cuda", "python", "os", "git", "clocks_event_reasons"} <= set(described)
    assert "hostname" not in described
    assert json.loads(json.dumps(described)) == described
    assert environment.describe(hostname=True)["hostname"]


def test_no_gpu_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_build = SimpleNamespace(__version__="2.13.0+cpu", version=SimpleNamespace(cuda=None, hip=None))
    monkeypatch.setattr(environment, "load_torch", lambda: (cpu_build, None))
    with pytest.raises(UnavailableError, match="install a CUDA build") as caught:
        environment.cuda_device(0)
    assert "\n" not in str(caught.value)


def _cuda_torch(count: int, **properties: object) -> SimpleNamespace:
    """A torch with GPUs, as far as `cuda_device` looks."""
    h100 = {"name": "H100", "major": 9, "minor": 0, "multi_processor_count": 132, "total_memory": 80 << 30}
    cuda = SimpleNamespace(
        is_available=lambda: count > 0,
        device_count=lambda: count,
        get_device_properties=lambda index: SimpleNamespace(**h100 | properties),
    )
    return SimpleNamespace(__version__="2.13.0", version=SimpleNamespace(cuda="13.0", hip=None), cuda=cuda)


def test_cuda_device_is_joined_with_nvml_by_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, str | None] = {}

    def find(**wanted: str | None) -> nvml.Gpu:
        asked.update(wanted)
        return nvml.Gpu(5, driver="580.65.06", max_sm_clock_hz=1.98e9)

    torch = _cuda_torch(1, uuid="abc", pci_bus_id=0x1A, pci_domain_id=0, pci_device_id=0)
    monkeypatch.setattr(environment, "load_torch", lambda: (torch, None))
    monkeypatch.setattr(nvml, "find", find)
    device = environment.cuda_device(0)
    assert asked == {"uuid": "abc", "bus_id": "00000000:1A:00.0"}
    assert (device.kind, device.driver, device.clock_hz) == ("cuda", "580.65.06", 1.98e9)
    assert (device.compute_capability, device.sm_count) == ("9.0", 132)


def test_cuda_device_without_nvml_keeps_what_torch_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "load_torch", lambda: (_cuda_torch(1, clock_rate=1980000), None))
    monkeypatch.setattr(nvml, "find", lambda **_: None)
    device = environment.cuda_device(0)
    assert (device.clock_hz, device.driver, device.l2_bytes) == (1.98e9, None, None)


@pytest.mark.parametrize("index", [-1, 2])
def test_a_gpu_number_that_is_not_there(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    monkeypatch.setattr(environment, "load_torch", lambda: (_cuda_torch(2), None))
    with pytest.raises(UnavailableError, match=f"no cuda:{index}"):
        environment.cuda_device(index)


def test_importing_costs_no_torch_and_no_nvml() -> None:
    code = "import sys, probe.machine.environment; print(sorted({'torch', 'pynvml', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
