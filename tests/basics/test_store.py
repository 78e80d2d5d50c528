"""Are ceilings kept whole, found again, and refused with one line when damaged?"""

import json
import os
from pathlib import Path

import pytest

from probe import store
from probe.errors import CeilingsError
from probe.machine.device import Ceilings, Device, Level
from probe.results.measurement import MicrobenchResult
from probe.schema import to_jsonable

DEVICE = Device("cpu", "Some CPU @ 2.0GHz", cores=4)
FULL = Ceilings("measured", DEVICE.name, 50e9, {"float32": 2e11}, 1.5e-6, {"DRAM": Level(None, 1e-7, 50e9)})
QUICK = Ceilings("measured", DEVICE.name, 40e9, {"float32": 1e11}, 1.6e-6, {}, quick=True)


def test_what_is_saved_is_found() -> None:
    path = store.save(FULL, DEVICE)

    assert path.name == "some-cpu-2-0ghz-4-cpus.json"
    assert store.find(DEVICE.key) == FULL
    assert store.load(path) == FULL
    assert store.find("another") is None


def test_quick_never_replaces_full_but_full_replaces_quick() -> None:
    store.save(QUICK, DEVICE)
    assert store.find(DEVICE.key) == QUICK
    store.save(FULL, DEVICE)
    store.save(QUICK, DEVICE)

    assert store.find(DEVICE.key) == FULL


def test_a_run_of_one_suite_replaces_only_what_it_measured() -> None:
    store.save(FULL, DEVICE)
    store.save(Ceilings("measured", DEVICE.name, levels={"DRAM": Level(latency_s=9e-8)}, launch_s=1e-6), DEVICE)
    kept = store.find(DEVICE.key)

    assert kept is not None
    assert (kept.launch_s, kept.dram_bytes_per_s, kept.flops_per_s) == (1e-6, 50e9, {"float32": 2e11})
    assert kept.levels["DRAM"] == Level(None, 9e-8, 50e9)


def test_the_whole_json_of_a_run_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(to_jsonable(MicrobenchResult(DEVICE, {}, (), FULL))))

    assert store.load(path) == FULL


def test_an_interrupted_write_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.save(QUICK, DEVICE)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(CeilingsError, match="No space left on device"):
        store.save(FULL, DEVICE)

    assert store.find(DEVICE.key) == QUICK
    assert list(path.parent.iterdir()) == [path]


def test_an_unwritable_directory_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROBE_CACHE_DIR", str(tmp_path / "file"))
    warning = store.keep(FULL, DEVICE)

    assert warning is not None
    assert "could not be kept" in warning
    assert "PROBE_CACHE_DIR" in warning


def test_keeping_says_nothing_when_it_works() -> None:
    assert store.keep(FULL, DEVICE) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b'{"schema": "probe.ceilings/1", "ceil', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[1, 2]", "holds no ceilings"),
        (b"{}", "schema is None"),
        (b'{"schema": "probe.ceilings/0"}', "schema is 'probe.ceilings/0'"),
        (b'{"schema": "probe.ceilings/1"}', "damaged"),
        (b'{"schema": "probe.ceilings/1", "ceilings": {"origin": "guess", "device": "x"}}', "damaged"),
        (
            b'{"schema": "probe.ceilings/1", "ceilings": {"origin": "measured", "device": "x", "launch_s": -1}}',
            "damaged",
        ),
        (b'{"schema": "probe.ceilings/1", "ceilings": {"origin": "measured", "device": "x", "launch_s": NaN}}', "JSON"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)

    with pytest.raises(CeilingsError, match=reason) as raised:
        store.load(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(CeilingsError, match="no such file"):
        store.load(tmp_path / "absent.json")
    with pytest.raises(CeilingsError, match="cannot be read"):
        store.load(tmp_path)


def test_a_damaged_file_is_replaced() -> None:
    path = store.save(FULL, DEVICE)
    path.write_text("{")
    store.save(QUICK, DEVICE)

    assert store.find(DEVICE.key) == QUICK
