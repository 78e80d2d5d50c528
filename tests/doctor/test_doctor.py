"""Does `probe doctor` name what is wrong and the step that mends it, and never fail itself?"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_nvml
import pytest

from probe import doctor, store
from probe.doctor import gpu, host, rights, software, storage
from probe.doctor.check import Check
from probe.doctor.machine import Machine, look
from probe.machine import environment, nvml
from probe.machine.device import Cache, Ceilings, Device
from probe.schema import to_jsonable

CPU = Device("cpu", "Test CPU", cores=2, physical_cores=2, isa=("avx2",), caches=(Cache(1, 32768, 64, 1),))
STATUS = "CapEff:\t{:016x}\n"


def _machine(root: Path, **parts: Any) -> Machine:
    nothing: dict[str, Any] = {"nvml": nvml.System("no library"), "cpu": CPU, "environ": {}}
    return Machine(**(nothing | parts), root=root)


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def _one(checks: Iterator[Check]) -> Check:
    (check,) = checks
    return check


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = fake_nvml.build(tmp_path_factory.mktemp("nvml"))
    if built is None:
        pytest.skip("no C compiler to build the fake NVML with")
    return built


Pretend = Callable[..., Any]


@pytest.fixture
def pretend(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """NVML's answers for these GPUs, through the real nvidia-ml-py."""

    @contextmanager
    def pretending(*gpus: dict[str, Any], **more: Any) -> Iterator[nvml.System]:
        state = tmp_path / "state"
        state.write_text(fake_nvml.state(*gpus, **more))
        with fake_nvml.loaded(monkeypatch, library, state):
            yield nvml.examine()

    return pretending


# --- the whole command ---------------------------------------------------------------------------------------


def test_every_finding_that_is_not_well_has_a_step() -> None:
    found = doctor.examine()
    assert {check.name for check in found.checks} >= {"Python", "torch", "CPU", "NVML", "DCGM", "Cache directory"}
    for check in found.checks:
        assert check.found and check.means and check.group
        assert check.ok is True or check.remedy, check
        assert "this check itself failed" not in check.means, check
    assert json.loads(json.dumps(to_jsonable(found)))["schema"] == "probe.doctor/1"


def test_an_empty_machine_is_examined_whole(tmp_path: Path) -> None:
    machine = _machine(tmp_path, torch_error="not installed", cpu=Device("cpu", "unknown CPU"))
    checks = {check.name: check for check in doctor.examine(machine).checks}
    assert checks["torch"].remedy == "pip install torch"
    assert checks["NVIDIA driver"].ok is None
    assert [c for c in checks.values() if c.means == "this check itself failed"] == []


def test_a_check_that_fails_is_a_finding(tmp_path: Path) -> None:
    def fails(machine: Machine) -> Iterator[Check]:
        raise ValueError("two\nlines\x1b[31m")
        yield

    (check,) = doctor.guarded("CPU", "Model", fails, _machine(tmp_path))
    assert (check.ok, check.found, check.name, check.group) == (None, "ValueError: two lines [31m", "Model", "CPU")
    assert check.remedy


def test_whole_command_finds_the_library_by_its_soname(library: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text(fake_nvml.state({}, {"pcie_width": 4}))
    code = (
        "import json; from probe.machine import nvml; "
        "print(json.dumps([gpu.pcie_width for gpu in nvml.examine().gpus]))"
    )
    environ = {"LD_LIBRARY_PATH": str(library.parent), "FAKE_NVML_STATE": str(state)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert json.loads(done.stdout) == [16, 4]


# --- NVML ----------------------------------------------------------------------------------------------------


def test_two_gpus_in_si_units(pretend: Pretend) -> None:
    with pretend({"power_limit_mw": 500000}, {"clocks_event_reasons": 0x44}) as system:
        first, second = system.gpus
    assert (system.unavailable, system.driver, system.cuda) == (None, "580.65.06", "13.0")
    assert (first.power_limit_w, first.power_default_w, first.max_sm_clock_hz) == (500, 700, 1.98e9)
    assert (first.uuid, first.bus_id, first.compute_capability) == ("GPU-00000000-0000", "00000000:1A:00.0", "9.0")
    assert (first.nvlinks_active, set(first.nvlinks)) == (18, {"switch"})
    assert second.clocks_event_reasons == ("sw_power_cap", "hw_thermal_slowdown")
    assert system.pairs == (nvml.Pair(0, 1, "ok", "ok", "SYS"),)


def test_a_gpu_is_found_by_uuid_or_bus_id_not_by_index(pretend: Pretend) -> None:
    with pretend({}, {}, {}):
        found = [nvml.find(uuid="GPU-00000002-0000"), nvml.find(uuid="00000001-0000"), nvml.find(uuid="other")]
        by_bus = nvml.find(uuid="other", bus_id="00000000:1B:00.0")
    assert [g and g.index for g in [*found, by_bus]] == [2, 1, None, 1]


def test_a_slice_of_a_gpu_is_found_by_its_own_uuid(pretend: Pretend) -> None:
    with pretend({"uuid": "MIG-abc", "mig": 1}):
        found = nvml.find(uuid="abc")
    assert found is not None and found.mig is True


def test_what_a_gpu_does_not_support_is_none_and_no_failure(pretend: Pretend) -> None:
    missing = dict.fromkeys(("power_limit_mw", "nvlinks", "pcie_width", "mig", "clocks_event_reasons"))
    with pretend(missing) as system:
        (only,) = system.gpus
    assert (only.power_limit_w, only.nvlinks, only.pcie_width, only.mig) == (None, (), None, None)
    assert only.clocks_event_reasons is None and only.failures == {}


def test_unnamed_event_reason_is_kept() -> None:
    assert nvml.event_reasons(0x201) == ("gpu_idle", "0x200")
    assert nvml.event_reasons(0) == ()


def test_without_a_driver_nvml_says_why(pretend: Pretend) -> None:
    with pretend(fail__nvmlInitWithFlags=9) as system:
        assert system.unavailable is not None and "Driver Not Loaded" in system.unavailable
        assert nvml.find(uuid="GPU-00000000-0000") is None


# --- GPUs ----------------------------------------------------------------------------------------------------


def _named(checks: Iterator[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_healthy_gpus_are_all_well(pretend: Pretend, tmp_path: Path) -> None:
    with pretend({}, {}) as system:
        machine = _machine(tmp_path, nvml=system)
    for run in (gpu.driver, gpu.nvml, gpu.pcie, gpu.power, doctor.links.peer_to_peer, doctor.links.nvlink):
        for check in run(machine):
            assert check.ok is True, check


def test_a_lost_gpu_is_named_and_the_other_is_not(pretend: Pretend, tmp_path: Path) -> None:
    with pretend({}, {"fail.nvmlDeviceGetName": 15}, {"fail.nvmlDeviceGetHandleByIndex_v2": 15}) as system:
        checks = _named(gpu.gpus(_machine(tmp_path, nvml=system)))
    assert checks["GPU 0"].ok is None  # no torch here to use it
    for name in ("GPU 1", "GPU 2"):
        assert checks[name].ok is False and "lost" in checks[name].found
        assert checks[name].remedy is not None and checks[name].remedy.startswith("reboot")


@pytest.mark.parametrize(
    ("changed", "ok", "words"),
    [
        ({"power_limit_mw": 500000}, False, "nvidia-smi -i 0 -pl 700"),
        ({"clocks_event_reasons": 0x48}, False, "cooling"),
        ({"clocks_event_reasons": 0x2}, False, "-rac"),
        ({"clocks_event_reasons": 0x4}, True, ""),
        ({"clocks_event_reasons": 0x0}, True, ""),
    ],
)
def test_power_and_clocks(pretend: Pretend, tmp_path: Path, changed: Any, ok: bool, words: str) -> None:
    with pretend(changed) as system:
        check = _one(gpu.power(_machine(tmp_path, nvml=system)))
    assert check.ok is ok and words in (check.remedy or "")


@pytest.mark.parametrize(
    ("changed", "ok"),
    [
        ({"pcie_width": 8}, False),
        ({"pcie_generation": 1}, True),  # idle: the link has slowed down to save power
        ({"pcie_generation": 3, "clocks_event_reasons": 0}, False),
        ({"pcie_generation_max": None}, None),
    ],
)
def test_pcie(pretend: Pretend, tmp_path: Path, changed: Any, ok: bool | None) -> None:
    with pretend(changed) as system:
        assert _one(gpu.pcie(_machine(tmp_path, nvml=system))).ok is ok


@pytest.mark.parametrize(
    ("pair", "ok", "words"),
    [
        ({"read": 0, "nvlink": 5, "path": 10}, True, "PIX 1"),
        ({"read": 1, "nvlink": 5, "path": 30}, False, "chipset"),
        ({"read": 2, "nvlink": 5, "path": 30}, None, "GPU not supported"),
        ({"read": 4, "nvlink": 5, "path": 30}, False, "registry"),
        ({}, None, "does not say"),
    ],
)
def test_peer_to_peer(pretend: Pretend, tmp_path: Path, pair: Any, ok: bool | None, words: str) -> None:
    with pretend({}, {}, pair=pair) as system:
        check = _one(doctor.links.peer_to_peer(_machine(tmp_path, nvml=system)))
    assert check.ok is ok and words in check.found


def test_nvlinks_that_are_down(pretend: Pretend, tmp_path: Path) -> None:
    with pretend({}, {"nvlinks_up": 15}) as system:
        check = _one(doctor.links.nvlink(_machine(tmp_path, nvml=system)))
    assert check.ok is False and "33 of 36" in check.found and "GPU 1" in check.means
    assert check.remedy is not None and "fabricmanager" in check.remedy


@pytest.mark.parametrize(
    ("files", "reason", "ok", "remedy"),
    [
        ({}, "NVML: NVML Shared Library Not Found", None, "nothing"),
        ({"proc/driver/nvidia/version": "x"}, "NVML: NVML Shared Library Not Found", False, "--gpus all"),
        ({"proc/driver/nvidia/version": "x"}, "NVML: Driver/library version mismatch", False, "reboot"),
        ({"proc/driver/nvidia/version": "x"}, "the package nvidia-ml-py is missing", False, "pip install"),
    ],
)
def test_why_nvml_is_silent(tmp_path: Path, files: Any, reason: str, ok: bool | None, remedy: str) -> None:
    machine = _machine(_write(tmp_path, files), nvml=nvml.System(reason))
    check = _one(gpu.nvml(machine))
    assert check.ok is ok and remedy in (check.remedy or "")


def test_a_gpu_on_the_bus_without_a_driver(tmp_path: Path) -> None:
    at = "sys/bus/pci/devices"
    files = {f"{at}/0000:1a:00.0/vendor": "0x10de", f"{at}/0000:1a:00.0/class": "0x030200"}
    files |= {f"{at}/0000:1a:00.1/vendor": "0x10de", f"{at}/0000:1a:00.1/class": "0x040300"}  # its sound
    machine = _machine(_write(tmp_path, files))
    check = _one(gpu.driver(machine))
    assert check.ok is False and check.found.endswith("1") and "install the NVIDIA driver" in (check.remedy or "")


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (["sm_80", "sm_90"], "8.6", True),
        (["sm_80", "sm_90a"], "9.0", True),
        (["sm_80", "sm_90"], "7.5", False),
        (["sm_80"], "10.0", False),
        (["sm_80", "compute_80"], "10.0", True),
        (["sm_86"], "8.0", False),
        (["sm_120"], "12.0", True),
        ([], "9.0", True),
        (["sm_80"], None, True),
    ],
)
def test_which_gpus_a_build_runs_on(architectures: list[str], capability: str | None, runs: bool) -> None:
    assert gpu.runs_on(architectures, capability) is runs


# --- torch against the driver --------------------------------------------------------------------------------


def _torch(cuda: str | None, version: str = "2.13.0") -> Any:
    lists = SimpleNamespace(get_arch_list=lambda: ["sm_90"])
    return SimpleNamespace(__version__=version, version=SimpleNamespace(cuda=cuda, hip=None), cuda=lists)


H100 = nvml.Gpu(0, "H100", "GPU-0", compute_capability="9.0", memory_bytes=80 << 30)


@pytest.mark.parametrize(
    ("torch", "driver_cuda", "cuda_error", "ok", "words"),
    [
        (_torch("13.0"), "13.0", None, True, ""),
        (_torch("12.8"), "12.4", None, True, ""),  # any driver of the same major version runs it
        (_torch("13.0"), "12.4", "too old", False, "CUDA 12.4 at most"),
        (_torch(None), "12.4", "CPU only", False, "cannot use it"),
        (_torch("13.0"), "13.0", "no GPU is visible", False, "no GPU is visible"),
        (_torch("13.0", "2.1.0"), "13.0", None, False, "older than 2.4"),
    ],
)
def test_torch_build(tmp_path: Path, torch: Any, driver_cuda: str, cuda_error: Any, ok: bool, words: str) -> None:
    system = nvml.System(cuda=driver_cuda, gpus=(H100,))
    check = _one(software.torch_build(_machine(tmp_path, torch=torch, nvml=system, cuda_error=cuda_error)))
    assert check.ok is ok and (ok or words in check.means)


def test_hidden_gpus_are_no_defect(tmp_path: Path) -> None:
    system = nvml.System(cuda="13.0", gpus=(H100,))
    hidden = _machine(
        tmp_path, torch=_torch("13.0"), nvml=system, cuda_error="none", environ={"CUDA_VISIBLE_DEVICES": ""}
    )
    assert _one(software.torch_build(hidden)).ok is True
    check = _one(gpu.gpus(hidden))
    assert check.ok is None and "unset CUDA_VISIBLE_DEVICES" in (check.remedy or "")


def test_a_gpu_is_well_where_torch_has_kernels_for_it(tmp_path: Path) -> None:
    system = nvml.System(cuda="13.0", gpus=(H100, replace(H100, index=1, uuid="GPU-1", compute_capability="7.0")))
    machine = _machine(tmp_path, torch=_torch("13.0"), nvml=system, visible={"GPU-0": 1, "GPU-1": 0}, cuda=(CPU, CPU))
    well, old = gpu.gpus(machine)
    assert well.ok is True and well.means == "torch calls it cuda:1"
    assert old.ok is False and "sm_90" in old.means


def test_look_finds_no_gpu_on_a_cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "load_torch", lambda: (_torch(None), None))
    machine = look()
    assert machine.cuda == () and "CPU only" in (machine.cuda_error or "")


# --- permissions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "capabilities", "ok"),
    [
        ("RmProfilingAdminOnly: 1", 0, False),
        ("RmProfilingAdminOnly: 1", 1 << 21, True),
        ("RmProfilingAdminOnly: 0", 0, True),
        ("EnableMSI: 1", 0, None),
    ],
)
def test_gpu_counters(tmp_path: Path, params: str, capabilities: int, ok: bool | None) -> None:
    files = {"proc/driver/nvidia/params": params, "proc/self/status": STATUS.format(capabilities)}
    check = _one(rights.gpu_counters(_machine(_write(tmp_path, files))))
    assert check.ok is ok
    assert ok is not False or "NVreg_RestrictProfilingToAdminUsers=0" in (check.remedy or "")


@pytest.mark.parametrize(("level", "capabilities", "ok"), [(2, 0, True), (4, 0, False), (4, 1 << 38, True)])
def test_cpu_counters(tmp_path: Path, level: int, capabilities: int, ok: bool) -> None:
    status = STATUS.format(capabilities)
    files = {"proc/sys/kernel/perf_event_paranoid": str(level), "proc/self/status": status}
    assert _one(rights.cpu_counters(_machine(_write(tmp_path, files)))).ok is ok


@pytest.mark.parametrize(("scope", "ok"), [("0", True), ("1", None), ("3", None)])
def test_attaching(tmp_path: Path, scope: str, ok: bool | None) -> None:
    machine = _machine(_write(tmp_path, {"proc/sys/kernel/yama/ptrace_scope": scope}))
    assert _one(rights.attaching(machine)).ok is ok


@contextmanager
def _serving(body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_dcgm_exporter_is_recognised_by_what_it_serves(tmp_path: Path) -> None:
    for body, ok in ((b"# HELP DCGM_FI_DEV_GPU_UTIL x\n", True), (b"<html>", False)):
        with _serving(body) as url:
            check = _one(rights.dcgm(_machine(tmp_path, environ={"PROBE_DCGM_URL": url})))
        assert check.ok is ok, check


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/metrics", "ftp://x", "nonsense", "http://127.0.0.1:99999/"])
def test_dcgm_that_does_not_answer(tmp_path: Path, url: str) -> None:
    check = _one(rights.dcgm(_machine(tmp_path, environ={"PROBE_DCGM_URL": url})))
    assert check.ok is False and "PROBE_DCGM_URL" in (check.remedy or "")


# --- CPU and storage -----------------------------------------------------------------------------------------


def test_a_quota_below_the_threads_is_a_finding(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}
    torch = SimpleNamespace(get_num_threads=lambda: 2)
    check = _one(host.limits(_machine(_write(tmp_path, files), torch=torch)))
    assert check.ok is False and "OMP_NUM_THREADS=1" in (check.remedy or "")


@pytest.mark.parametrize(
    ("governor", "driver", "ok"),
    [
        ("performance", "acpi-cpufreq", True),
        ("powersave", "intel_pstate", True),
        ("powersave", "acpi-cpufreq", False),
        (None, "", None),
    ],
)
def test_governor(tmp_path: Path, governor: str | None, driver: str, ok: bool | None) -> None:
    at = "sys/devices/system/cpu"
    files = {f"{at}/cpu0/cpufreq/scaling_governor": governor, f"{at}/cpu0/cpufreq/scaling_driver": driver}
    root = _write(tmp_path, {name: text for name, text in files.items() if text})
    _write(root, {f"{at}/intel_pstate/no_turbo": "1"})
    check = _one(host.frequency(_machine(root)))
    assert check.ok is ok and (ok is None or check.found.endswith("turbo off"))


@pytest.mark.parametrize(
    ("text", "ok"), [("always [madvise] never", True), ("always madvise [never]", False), (None, None)]
)
def test_huge_pages(tmp_path: Path, text: str | None, ok: bool | None) -> None:
    root = _write(tmp_path, {"sys/kernel/mm/transparent_hugepage/enabled": text} if text else {})
    assert _one(host.huge_pages(_machine(root))).ok is ok


def test_executable_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked as the microbenchmarks do, written first and then executable: Macs refuse both at once, and need not."""
    assert _one(host.executable_memory(_machine(tmp_path))).ok

    def refused(*_: object) -> None:
        raise OSError(errno.EACCES, "this system refuses executable memory")

    monkeypatch.setattr(host.machine_code, "function", refused)
    check = _one(host.executable_memory(_machine(tmp_path)))
    assert check.ok is False and check.found == "refused: Permission denied"


def test_several_numa_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = "sys/devices/system/node"
    root = _write(tmp_path, {f"{at}/node0/cpulist": "0-1", f"{at}/node1/cpulist": "2-3"})
    for cpus, ok in (((0, 1), True), ((1, 2), None)):
        monkeypatch.setattr(host.cpu_info, "affinity", lambda cpus=cpus: cpus)
        assert _one(host.numa(_machine(root))).ok is ok


def test_little_memory(tmp_path: Path) -> None:
    text = "MemTotal: 4194304 kB\nMemAvailable: 524288 kB\n"
    check = _one(host.memory(_machine(_write(tmp_path, {"proc/meminfo": text}))))
    assert check.ok is False and check.found == "4 GiB, 512 MiB available"


def test_ceilings_are_looked_for_by_the_devices_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_CACHE_DIR", str(tmp_path))
    machine = _machine(tmp_path)
    missing = _one(storage.ceilings(machine))
    assert missing.ok is False and missing.remedy == "probe run microbench --device cpu"
    store.save(Ceilings("measured", CPU.name, measured_at="2026-05-04T10:00:00+00:00"), CPU)
    found = _one(storage.ceilings(machine))
    assert found.ok is True and found.found == "measured, 2026-05-04"
    store.path_for(CPU.key).write_text("{")
    assert _one(storage.ceilings(machine)).ok is False


def test_cache_directory_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROBE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    check = _one(storage.cache(_machine(tmp_path)))
    assert check.ok is False and "PROBE_CACHE_DIR" in (check.remedy or "")
    assert not list(tmp_path.glob("cache*"))


def test_a_chosen_compiler_that_is_missing(tmp_path: Path) -> None:
    root = _write(tmp_path, {"etc/os-release": "ID=ubuntu\nID_LIKE=debian"})
    check = _one(software.compiler(_machine(root, environ={"CXX": "no-such-compiler"})))
    assert (check.ok, check.remedy) == (False, "sudo apt-get install g++")
