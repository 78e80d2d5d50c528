"""Is DCGM understood in both vocabularies and both sets of units, by every way, and when it hangs or lies?"""

import os
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from probe.collectors import dcgm
from probe.collectors.dcgm import WATCHED, DcgmSource, Dmon, discovered, entity_of
from probe.collectors.dcgm_fields import FIELDS, blank_reason, field_named, read_named, read_numbered
from probe.collectors.prometheus import PageError, fetch, parse
from probe.collectors.sampling import NotAvailable, Tick

# Written by hand after the exporters' default counters: before 4.9, and since.
OLD = """\
# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100",Hostname="node1",pod="x"} 1755
DCGM_FI_DEV_SM_CLOCK{gpu="1",UUID="GPU-b",device="nvidia1",modelName="NVIDIA H100",Hostname="node1",pod=""} 345
# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",Hostname="node1"} 37
# HELP DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION Total energy consumption since boot (in mJ).
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a",Hostname="node1"} 123456789
# HELP DCGM_FI_DEV_FB_USED Framebuffer memory used (in MiB).
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",Hostname="node1"} 1024
# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a",Hostname="node1"} 512.5
# HELP DCGM_FI_PROF_DRAM_ACTIVE Ratio of cycles the device memory interface is active sending or receiving data.
DCGM_FI_PROF_DRAM_ACTIVE{gpu="0",UUID="GPU-a",Hostname="node1"} 0.625000
DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{gpu="0",UUID="GPU-a",Hostname="node1"} 0.5
DCGM_FI_DEV_MEMORY_TEMP{gpu="0",UUID="GPU-a",Hostname="node1"} 9223372036854775794
DCGM_FI_PROF_SM_ACTIVE{gpu="0",UUID="GPU-a",GPU_I_ID="7",GPU_I_PROFILE="1g.10gb",Hostname="node1"} 0.25
DCGM_EXP_CLOCK_EVENTS_COUNT{gpu="0",UUID="GPU-a"} 3
"""
NEW = """\
# HELP DCGM_FI_DEV_SM_CLOCK_HZ SM clock frequency in Hz.
DCGM_FI_DEV_SM_CLOCK_HZ{gpu="0",UUID="GPU-a",hostname="node1"} 1.755e+09
DCGM_FI_DEV_SM_CLOCK_HZ{gpu="1",UUID="GPU-b",hostname="node1"} 345000000
# HELP DCGM_FI_DEV_GPU_UTIL_RATIO GPU utilization as a ratio, 0 to 1.
DCGM_FI_DEV_GPU_UTIL_RATIO{gpu="0",UUID="GPU-a",hostname="node1"} 0.37
# HELP DCGM_FI_DEV_TOTAL_ENERGY_JOULES Total energy in joules.
DCGM_FI_DEV_TOTAL_ENERGY_JOULES{gpu="0",UUID="GPU-a",hostname="node1"} 123456.789
# HELP DCGM_FI_DEV_FB_USED_BYTES Framebuffer memory used in bytes.
DCGM_FI_DEV_FB_USED_BYTES{gpu="0",UUID="GPU-a",hostname="node1"} 1073741824
# HELP DCGM_FI_DEV_BOARD_POWER_WATTS Power draw in watts.
DCGM_FI_DEV_BOARD_POWER_WATTS{gpu="0",UUID="GPU-a",hostname="node1"} 512.5
DCGM_FI_PROF_DRAM_UTIL_RATIO{gpu="0",UUID="GPU-a",hostname="node1"} 0.625
DCGM_FI_PROF_TENSOR_UTIL_RATIO{gpu="0",UUID="GPU-a",hostname="node1"} 0.5
DCGM_FI_DEV_MEMORY_TEMP_CELSIUS{gpu="0",UUID="GPU-a",hostname="node1"} 2147483634
DCGM_FI_PROF_SM_UTIL_RATIO{gpu="0",UUID="GPU-a",GPU_I_ID="7",hostname="node1"} 0.25
"""
SAID = {
    "GPU-a": {
        "sm_clock_hz": 1.755e9, "gpu_utilisation_fraction": 0.37, "energy_j": 123456.789,
        "memory_used_bytes": float(1 << 30), "power_w": 512.5, "dram_active_fraction": 0.625,
        "tensor_active_fraction": 0.5,
    },
    "GPU-b": {"sm_clock_hz": 345e6},
    "GPU-a/7": {"sm_active_fraction": 0.25},
}  # fmt: skip
TICK = Tick(0, 0)


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server on loopback that answers so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def page(text: str, status: int = 200) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(text.encode())

    return answer


def rows(source: DcgmSource) -> dict[str, dict[str, float]]:
    return {entity: dict(values) for entity, values in source.read(TICK)}


@pytest.mark.parametrize(("text", "code"), [(OLD, "not supported"), (NEW, "not supported")])
def test_both_vocabularies_say_the_same(text: str, code: str) -> None:
    with serving(page(text)) as url:
        source = DcgmSource({"PROBE_DCGM_URL": url})
        source.open()
        said = rows(source)
        source.close()
    assert {entity: {k: pytest.approx(v) for k, v in values.items()} for entity, values in SAID.items()} == said
    assert source.missing == {"GPU-a: memory_temperature_c": code}
    assert source.via == url
    assert source.about()["unused"] == {"dcgmi": f"{url} was used", "bindings": f"{url} was used"}


@pytest.mark.parametrize(
    ("name", "text", "told", "value"),
    [
        ("DCGM_FI_DEV_GPU_UTIL", "37", "", 0.37),  # the name's old meaning
        ("DCGM_FI_DEV_GPU_UTIL", "0.5", "utilization as a ratio", 0.5),  # an operator who kept the old name
        ("DCGM_FI_DEV_GPU_UTIL_RATIO", "37", "GPU utilization (in %).", 0.37),  # DCGM 4.6's alias: only percent can be
        ("DCGM_FI_DEV_GPU_UTIL_RATIO", "0", "GPU utilization (in %).", 0.0),  # nothing is nothing in every unit
        ("DCGM_FI_DEV_SM_CLOCK", "1755", "clock in MHz", 1.755e9),
        ("DCGM_FI_DEV_SM_CLOCK", "1755000000", "clock in Hz", 1.755e9),
        ("DCGM_FI_PROF_PCIE_TX_BYTES", "1e9", "", 1e9),
        ("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "250", "", 250e6),
        ("DCGM_FI_DEV_NVLINK_THROUGHPUT_TOTAL_BYTES_PER_SECOND", "250", "bytes per second", 250.0),
        ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "2", "", 2.0),
        ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "4", "", 4.0),
    ],
)
def test_units_are_believed_where_name_and_help_allow_it(name: str, text: str, told: str, value: float) -> None:
    reading = read_named(name, text, told)
    assert reading is not None and reading.reason is None and reading.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "text", "told", "said"),
    [
        ("DCGM_FI_DEV_GPU_UTIL_RATIO", "0.5", "GPU utilization (in %).", ["contradict", "as % 0.005", "as ratio 0.5"]),
        ("DCGM_FI_DEV_GPU_UTIL_RATIO", "37", "a ratio", ["impossible", "as ratio 37", "as % 0.37"]),
        ("DCGM_FI_DEV_SM_CLOCK", "1755000000", "", ["impossible", "as MHz 1.755e+15", "as Hz 1.755e+09"]),
        ("DCGM_FI_PROF_SM_ACTIVE", "-1", "", ["impossible"]),
        ("DCGM_FI_DEV_GPU_TEMP", "9999", "", ["impossible"]),
    ],
)
def test_a_contradiction_is_refused_with_both_readings(name: str, text: str, told: str, said: list[str]) -> None:
    reading = read_named(name, text, told)
    assert reading is not None and reading.value is None
    assert all(words in (reading.reason or "") for words in said), reading.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("9223372036854775792", "no value yet"), ("9223372036854775793", "not found"),
        ("9223372036854775794", "not supported"), ("9223372036854775795", "no permission"),
        ("9.223372036854775807e+18", "lost in a float"), ("140737488355328.0", "no value yet"),
        ("140737488355330", "not supported"), ("2147483635", "no permission"), ("NaN", "no value"),
        ("+Inf", "no value"), ("fast", "no number"), ("0", None), ("1755", None), ("0.5", None),
    ],
)  # fmt: skip
def test_blanks_of_all_three_types_keep_their_reason(text: str, reason: str | None) -> None:
    found = blank_reason(text)
    assert found is None if reason is None else reason in (found or "")


def test_every_field_has_its_names_and_profiling_is_complete() -> None:
    assert {field.number for field in FIELDS} >= set(range(1001, 1017))
    for field in FIELDS:
        for stem in field.stems:
            assert field_named(f"DCGM_FI_{stem}")[0] is field
    assert field_named("DCGM_FI_PROF_SM_OCCUPANCY_RATIO")[1] == "ratio"
    assert field_named("DCGM_FI_DEV_SOMETHING_ELSE") == (None, "")
    assert read_numbered(1002, "N/A") is not None and read_numbered(4711, "1") is None


def test_a_gpu_without_uuid_is_the_hosts_number() -> None:
    assert entity_of({"gpu": "3", "Hostname": "n"}) == entity_of({"gpu": "3", "hostname": "n"}) == "n GPU 3"


def test_the_format_is_read_as_it_is_defined() -> None:
    read = parse(
        '# HELP a what it is\n# TYPE a counter\n# a comment\n\na 1\na{x="1",y="q\\"}\\\\ \\n"} 2.5 1700000000\n'
        'b_bucket{le="+Inf"} 7 # {trace_id="x"} 0.5\nc{} NaN\nd{x="1", } +Inf\r\n'
        'not a line\n{="1"} 2\ne{x="1} 3\nf one\n'
    )
    assert [(m.name, m.labels, m.text) for m in read.metrics] == [
        ("a", {}, "1"), ("a", {"x": "1", "y": 'q"}\\ \n'}, "2.5"), ("b_bucket", {"le": "+Inf"}, "7"), ("c", {}, "NaN"),
        ("d", {"x": "1"}, "+Inf"),
    ]  # fmt: skip
    assert (read.help, read.type, read.skipped) == ({"a": "what it is"}, {"a": "counter"}, 4)


def test_labels_are_read_once_for_a_server() -> None:
    known: dict[str, dict[str, str]] = {}
    first = parse('a{x="1"} 1\nb{x="1"} 2', known)
    second = parse('a{x="1"} 3', known)
    assert first.metrics[0].labels is first.metrics[1].labels is second.metrics[0].labels


def _hang(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.settimeout(10)
    handler.rfile.read(1)  # until the client goes


def _drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    stopped = threading.Event()
    for _ in range(200):
        try:
            handler.wfile.write(b"DCGM_FI_DEV_GPU_TEMP 50\n")
            handler.wfile.flush()
        except OSError:
            return
        stopped.wait(0.05)


def _huge(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(100):
            handler.wfile.write(b"x" * 100_000)
    except OSError:
        return


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (_hang, "timed out"), (_drip, "too slow|timed out"), (_huge, "more than"), (page("no", 503), "503"),
        (page("up 1\n"), "not with DCGM metrics"), (page(""), "not with DCGM metrics"),
        (page("\x00\xff\n" * 99), "not with DCGM metrics"),
    ],
)  # fmt: skip
def test_an_exporter_that_hangs_or_lies_is_left(
    answer: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dcgm, "BINDINGS", (str(tmp_path),))
    with serving(answer) as url:
        source = DcgmSource({"PROBE_DCGM_URL": url, "PATH": str(tmp_path)})
        with pytest.raises(NotAvailable, match=said):
            source.open()
    assert set(source.unused) == {"exporter", "dcgmi", "bindings"}


def test_an_exporter_that_dies_later_is_told_at_each_reading() -> None:
    with serving(page(OLD)) as url:
        source = DcgmSource({"PROBE_DCGM_URL": url})
        source.open()
    with pytest.raises(PageError, match="refused"):
        rows(source)


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://[::1", "http://h:port/", "nonsense"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(PageError, match="not an http"):
        fetch(url)


def test_nobody_at_an_address_is_a_reason() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(PageError, match="refused"):
        fetch(f"http://127.0.0.1:{port}/metrics")


def test_without_a_gpu_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcgm, "_has_gpu", lambda: False)
    monkeypatch.setattr(dcgm, "fetch", lambda url: pytest.fail("asked"))
    with pytest.raises(NotAvailable, match="no NVIDIA GPU"):
        DcgmSource({}).open()


def stand_in(directory: Path, dmon: str, discovery: str = "") -> None:
    """A `dcgmi` on the PATH that prints these."""
    script = directory / "dcgmi"
    script.write_text(f"#!{sys.executable}\n" + textwrap.dedent(f"""\
        import sys, time
        if sys.argv[1] == "discovery":
            print({discovery!r})
            sys.exit(0)
        assert sys.argv[1:3] == ["dmon", "-e"], sys.argv
        {dmon}
        """))  # fmt: skip
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


DISCOVERY = """\
2 GPUs found.
+--------+----------------------------------------------------------------------+
| GPU ID | Device Information                                                   |
+--------+----------------------------------------------------------------------+
| 0      | Name: NVIDIA H100 80GB HBM3                                          |
|        | PCI Bus ID: 00000000:1A:00.0                                         |
|        | Device UUID: GPU-a                                                   |
+--------+----------------------------------------------------------------------+
| 1      | Name: NVIDIA H100 80GB HBM3                                          |
|        | Device UUID: GPU-b                                                   |
+--------+----------------------------------------------------------------------+
"""
TABLE = """
        n = len(sys.argv[3].split(","))
        values = dict(zip(sys.argv[3].split(","), ["0.000"] * n))
        values |= {"1002": "0.875", "1005": "0.500", "100": "1755", "203": "37", "140": "N/A", "156": "5000"}
        for entity in ("GPU 0", "GPU 1", "GPU-I 0"):
            print("#Entity   " + "  ".join("C%d" % i for i in range(n)))
            print("ID")
            print(entity + "      " + "   ".join(values.values()))
        print("GPU 0   1 2 3")
        print("Error: something", flush=True)
        print("GPU 0   half a li", end="", flush=True)
        time.sleep(60)
"""


def until_rows(way: Dmon) -> dict[str, dict[str, Any]]:
    waiting = threading.Event()
    for _ in range(2000):
        found = list(way.rows())
        if found:
            return {entity: {r.quantity: r.value for r in readings} for entity, readings in found}
        waiting.wait(0.01)
    raise AssertionError("dcgmi printed nothing")


def test_dmon_is_read_by_position_and_joined_by_uuid(tmp_path: Path) -> None:
    stand_in(tmp_path, TABLE, DISCOVERY)
    way = Dmon(str(tmp_path))
    child = way._child
    said = until_rows(way)
    assert set(said) == {"GPU-a", "GPU-b", "DCGM's GPU-I 0"}
    first = said["GPU-a"]
    assert (first["sm_active_fraction"], first["dram_active_fraction"], first["sm_clock_hz"]) == (0.875, 0.5, 1.755e9)
    assert (first["gpu_utilisation_fraction"], first["energy_j"]) == (0.37, 5.0)
    assert first["memory_temperature_c"] is None and len(first) == len(WATCHED)
    assert list(way.rows()) == []
    way.close()
    assert child.returncode is not None


def test_a_dcgmi_that_finds_no_host_engine_is_told(tmp_path: Path) -> None:
    stand_in(tmp_path, 'print("Error: unable to establish a connection to the specified host"); sys.exit(255)')
    way = Dmon(str(tmp_path))
    way._child.wait(20)
    with pytest.raises(PageError, match="ended with 255: Error: unable"):
        list(way.rows())
    way.close()


def test_a_dcgmi_that_does_not_answer_is_killed(tmp_path: Path) -> None:
    stand_in(tmp_path, "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)")
    way = Dmon(str(tmp_path))
    os.set_blocking(way._out, True)
    assert os.read(way._out, 2) == b"up"
    way.close()
    assert way._child.returncode == -9


def test_discovery_that_fails_leaves_dcgms_own_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert discovered(str(tmp_path / "none")) == {}

    def slow(*args: Any, **kwargs: Any) -> None:
        raise subprocess.TimeoutExpired("dcgmi", 5)

    monkeypatch.setattr(subprocess, "run", slow)
    assert discovered("dcgmi") == {}


def test_dcgmi_comes_after_an_exporter_that_is_not_there(tmp_path: Path) -> None:
    stand_in(tmp_path, TABLE, DISCOVERY)
    source = DcgmSource({"PROBE_DCGM_URL": "http://127.0.0.1:1/metrics", "PATH": str(tmp_path)})
    source.open()
    assert source.via == f"{tmp_path / 'dcgmi'} dmon" and "refused" in source.about()["unused"]["exporter"]
    source.close()


PYDCGM = """
class _Value:
    def __init__(self, value): self.value = value
class _Series:
    def __init__(self, value): self.values = [_Value(value)]
class _Samples:
    def WatchFields(self, group, period_us, age_s, count): assert group.ids and period_us == 1000000
    def GetLatest_v2(self, group):
        class Found: values = {1: {0: {1005: _Series(0.5), 100: _Series(1755), 140: _Series(2147483634)}}}
        return Found
class _Group: samples = _Samples()
class _Discovery:
    def GetAllGpuIds(self): return [0]
    def GetGpuAttributes(self, number):
        class Attributes:
            class identifiers: uuid = b"GPU-a"
        return Attributes
class _System:
    discovery = _Discovery()
    def GetDefaultGroup(self): return _Group()
class DcgmHandle:
    def __init__(self, ipAddress):
        if not ipAddress: raise AssertionError("would embed a host engine")
    def GetSystem(self): return _System()
    def Shutdown(self): pass
class DcgmFieldGroup:
    def __init__(self, handle, name, ids): self.ids = ids
    def Delete(self): pass
"""


def test_bindings_are_the_last_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pydcgm.py").write_text(PYDCGM)
    monkeypatch.setattr(dcgm, "BINDINGS", (str(tmp_path / "none"), str(tmp_path)))
    monkeypatch.delitem(sys.modules, "pydcgm", raising=False)
    source = DcgmSource({"PROBE_DCGM_URL": "http://127.0.0.1:1/metrics", "PATH": str(tmp_path / "none")})
    source.open()
    assert rows(source) == {"GPU-a": {"dram_active_fraction": 0.5, "sm_clock_hz": 1.755e9}}
    assert source.missing == {"GPU-a: memory_temperature_c": "not supported"}
    assert str(tmp_path) not in sys.path and source.via == f"pydcgm of {tmp_path}"
    source.close()
    sys.modules.pop("pydcgm")
