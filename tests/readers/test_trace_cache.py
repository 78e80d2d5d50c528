"""A trace that was read before is found by its content, and nothing else ever is."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import traces
from same_trace import same

from probe.readers import cache, columnar
from probe.trace import Trace

CONTENT = b"a trace, as far as its cache can tell"


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SMALLEST_BYTES", 1)
    monkeypatch.setattr(cache, "SMALLEST_GZIP_BYTES", 1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return recorded(tmp_path / "rank0.json")


def recorded(path: Path, content: bytes = CONTENT, age_s: float = 3600) -> Path:
    """A trace file that was written some time ago, as far as mtime tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    moment = time.time() - age_s
    os.utime(path, (moment, moment))
    return path


def read(path: Path, trace: Trace | None = None) -> str | None:
    """The first look at a trace: not known, read, kept."""
    assert cache.lookup(path) is None
    return cache.keep(path, trace or traces.busy())


def entries() -> list[Path]:
    return sorted(cache.directory().glob("*.trace"))


def hashed_bytes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths of the files that are hashed from now on."""
    seen: list[Path] = []
    original = cache._hashed

    def watched(path: Path) -> Any:
        seen.append(path)
        return original(path)

    monkeypatch.setattr(cache, "_hashed", watched)
    return seen


def test_the_second_look_finds_what_the_first_kept(source: Path) -> None:
    assert read(source) is None
    found = cache.lookup(source)
    assert found is not None
    assert same(found, dataclasses.replace(traces.busy(), path=str(source)))


def test_a_copy_elsewhere_is_found_under_its_own_path(source: Path, tmp_path: Path) -> None:
    read(source)
    copy = recorded(tmp_path / "elsewhere" / source.name)
    found = cache.lookup(copy)
    assert found is not None and found.path == str(copy)


def test_the_path_of_the_first_look_is_not_in_the_entry(tmp_path: Path) -> None:
    folder = tmp_path / "secret-project"
    path = recorded(folder / "rank0.json")
    read(path, traces.trace(path=str(path)))
    assert b"secret-project" not in entries()[0].read_bytes()


def test_another_file_name_may_be_another_rank(source: Path) -> None:
    read(source)
    assert cache.lookup(recorded(source.with_name("rank1.json"))) is None


def test_other_content_is_not_found_even_with_the_same_size_and_mtime(source: Path) -> None:
    read(source)
    stat = source.stat()
    source.write_bytes(CONTENT.replace(b"trace", b"ecart"))
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert source.stat().st_mtime_ns == stat.st_mtime_ns
    assert cache.lookup(source) is None


def test_a_changed_reader_finds_nothing_of_the_old_one(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(source)
    monkeypatch.setattr(cache, "_readers", lambda: b"of another version")
    assert cache.lookup(source) is None
    monkeypatch.undo()


def test_a_changed_trace_finds_nothing_of_the_old_one(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(source)
    monkeypatch.setattr(columnar, "layout", lambda: "of another version")
    assert cache.lookup(source) is None
    assert len(entries()) == 1  # whoever still runs the old version keeps its entry


def test_the_sources_of_the_readers_are_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "probe" / "readers"
    package.mkdir(parents=True)
    (package.parent / "machine").mkdir()
    for name in ("trace.py", "machine/device.py", "readers/kineto.py"):
        (package.parent / name).write_text("old")
    monkeypatch.setattr(cache, "__file__", str(package / "cache.py"))
    digests = []
    for name in ("", "trace.py", "machine/device.py", "readers/kineto.py"):
        if name:
            (package.parent / name).write_text("new")
        digests.append(cache._readers.__wrapped__())
    assert len(set(digests)) == 4


def test_the_memo_spares_hashing_a_file_left_alone(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_RACY_NS", -(10**12))  # ctime cannot be set back: let no file be too new
    read(source)
    hashed = hashed_bytes(monkeypatch)
    assert cache.lookup(source) is not None
    assert hashed == []


def test_a_file_changed_a_moment_ago_gets_no_memo(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(source)
    assert not list(cache.directory().glob("*.memo"))
    hashed = hashed_bytes(monkeypatch)
    assert cache.lookup(source) is not None
    assert hashed == [source]


def test_a_time_of_change_in_the_future_is_not_trusted() -> None:
    now = 10**18
    later = cache._Identity(1, 2, 3, mtime_ns=now + 10**12, ctime_ns=now - 10**12)
    assert not later.settled(now)
    assert dataclasses.replace(later, mtime_ns=now - 10**12).settled(now)


@pytest.mark.parametrize("memo", [b"", b"no digest", b"\xff" * 64, b"A" * 64, b"0" * 63])
def test_a_damaged_memo_is_not_believed(source: Path, monkeypatch: pytest.MonkeyPatch, memo: bytes) -> None:
    monkeypatch.setattr(cache, "_RACY_NS", -(10**12))
    read(source)
    (path,) = cache.directory().glob("*.memo")
    path.write_bytes(memo)
    assert cache.lookup(source) is not None
    assert len(path.read_bytes()) == 64  # mended


@pytest.mark.parametrize("racy_ns", [2_000_000_000, -(10**12)])
def test_a_file_that_changed_while_it_was_read_is_not_kept(
    source: Path, monkeypatch: pytest.MonkeyPatch, racy_ns: int
) -> None:
    monkeypatch.setattr(cache, "_RACY_NS", racy_ns)
    assert cache.lookup(source) is None
    recorded(source, CONTENT + b" and more")
    assert "changed while it was read" in str(cache.keep(source, traces.busy()))
    assert not entries()


def test_a_change_within_one_tick_of_the_clock_is_noticed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system gives both contents the same times and size; only the bytes tell."""
    frozen = time.time_ns()
    monkeypatch.setattr(cache._Identity, "of", lambda _: cache._Identity(1, 2, len(CONTENT), frozen, 0))
    assert cache.lookup(source) is None
    source.write_bytes(CONTENT.replace(b"trace", b"ecart"))
    assert "changed while it was read" in str(cache.keep(source, traces.busy()))


def test_a_trace_that_was_not_looked_up_is_not_kept(source: Path) -> None:
    assert "not looked up" in str(cache.keep(source, traces.busy()))
    assert not entries()


def damaged(content: bytes) -> list[bytes]:
    middle = len(content.rstrip(b"\0")) - 1  # of a column: behind the last that has rows is nothing but padding
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return [content[:-1], content[:50], b"", content + b"\0", b"{}" * 999, flipped]


@pytest.mark.parametrize("case", range(6))
def test_a_damaged_entry_is_ignored_and_deleted(source: Path, case: int) -> None:
    read(source)
    (entry,) = entries()
    entry.write_bytes(damaged(entry.read_bytes())[case])
    assert cache.lookup(source) is None
    assert not entries()
    assert cache.keep(source, traces.busy()) is None
    assert cache.lookup(source) is not None


@pytest.mark.parametrize("text", ["off", "OFF", "0", "no"])
def test_it_can_be_switched_off(source: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    read(source)
    monkeypatch.setenv(cache.SWITCH_VARIABLE, text)
    assert cache.lookup(source) is None
    assert cache.keep(source, traces.busy()) is None


def test_a_limit_of_nothing_is_off(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SIZE_VARIABLE, "0")
    assert read(source) is None
    assert not cache.directory().exists()


def test_a_limit_that_is_no_size_is_told(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SIZE_VARIABLE, "plenty")
    assert cache.lookup(source) is None
    told = str(cache.keep(source, traces.busy()))
    assert cache.SIZE_VARIABLE in told and "'plenty' is not a size" in told and "\n" not in told


def test_an_entry_larger_than_the_limit_is_not_kept_and_displaces_nothing(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(source)
    monkeypatch.setenv(cache.SIZE_VARIABLE, "1KiB")
    other = recorded(source.with_name("other.json"), b"other")
    assert f"of 1 KiB; set {cache.SIZE_VARIABLE} to more" in str(read(other))
    assert len(entries()) == 1


def test_the_least_recently_used_entries_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = columnar.pack(traces.trace(path="")).length
    monkeypatch.setenv(cache.SIZE_VARIABLE, str(3 * size + 10))
    sources = [recorded(tmp_path / f"{i}.json", bytes([i])) for i in range(4)]
    for age, path in zip((300, 200, 100), sources, strict=False):
        before = set(entries())
        read(path, traces.trace())
        (new,) = set(entries()) - before
        os.utime(new, (time.time() - age, time.time() - age))
    assert cache.lookup(sources[0]) is not None  # used: now the second is the longest unused
    read(sources[3], traces.trace())
    assert [cache.lookup(path) is not None for path in sources] == [True, False, True, True]


def test_the_limit_holds_and_the_entry_just_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = columnar.pack(traces.trace(path="")).length
    monkeypatch.setenv(cache.SIZE_VARIABLE, str(2 * size))
    for number in range(5):
        path = recorded(tmp_path / f"{number}.json", bytes([number]))
        read(path, traces.trace())
        assert sum(entry.stat().st_size for entry in entries()) <= 2 * size
        assert cache.lookup(path) is not None


def test_keeping_again_what_fills_the_limit_evicts_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SIZE_VARIABLE, str(2 * columnar.pack(traces.trace(path="")).length))
    other = recorded(source.with_name("other.json"), b"other")
    read(other, traces.trace())
    read(source, traces.trace())
    cache.lookup(source)
    assert cache.keep(source, traces.trace()) is None
    assert cache.lookup(source) is not None and cache.lookup(other) is not None


def test_an_entry_in_use_outlives_its_eviction(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(source)
    used = cache.lookup(source)
    monkeypatch.setenv(cache.SIZE_VARIABLE, str(columnar.pack(traces.busy()).length))
    read(recorded(source.with_name("other.json"), b"other"))
    assert len(entries()) == 1 and cache.lookup(source) is None
    assert used is not None
    assert same(used, dataclasses.replace(traces.busy(), path=str(source)))


def test_what_killed_processes_left_is_swept(source: Path) -> None:
    folder = cache.directory()
    folder.mkdir(parents=True)
    old, new = folder / ".a.x.part", folder / ".b.y.part"
    memo = folder / "a.memo"
    for path, age in ((old, 3700), (new, 60), (memo, 31 * 86400)):
        recorded(path, age_s=age)
    read(source)
    assert not old.exists() and new.exists() and not memo.exists()


def test_an_error_in_writing_is_told_and_leaves_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(columnar.Packed, "write", full)
    told = str(read(source))
    assert "No space left on device; set PROBE_CACHE_DIR" in told and str(source) in told and "\n" not in told
    assert [path for path in cache.directory().iterdir() if path.suffix != ".memo"] == []


def test_where_there_is_no_place_for_a_cache_the_reason_is_told(
    source: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_cache.write_text("a file where the folder should be")
    told = str(read(source))
    assert str(own_cache) in told and "PROBE_CACHE_DIR" in told
    monkeypatch.setenv("PROBE_CACHE_DIR", "~/nowhere")  # what platformdirs gives where there is no home
    assert "no home directory" in str(read(source))
    assert not Path("~").exists()


def test_a_read_only_cache_is_told_and_still_read(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    read(source)
    other = recorded(source.with_name("other.json"), b"other")
    monkeypatch.setattr(tempfile, "mkstemp", forbidden)
    monkeypatch.setattr(os, "utime", forbidden)
    assert cache.lookup(source) is not None
    assert "Permission denied" in str(read(other))


def test_what_cannot_be_written_is_told(source: Path) -> None:
    told = str(read(source, traces.trace(names=("\ud800",))))
    assert str(source) in told and not entries()


def test_nobody_else_can_look_into_it(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_RACY_NS", -(10**12))
    old = os.umask(0o000)
    try:
        cache.directory().mkdir(parents=True)
        read(source)
    finally:
        os.umask(old)
    assert cache.directory().stat().st_mode & 0o777 == 0o700
    files = list(cache.directory().iterdir())
    assert {path.suffix for path in files} == {".trace", ".memo"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


@pytest.mark.parametrize(("name", "size", "kept"), [("a.json", 199, 0), ("a.json", 200, 1), ("a.json.gz", 100, 1)])
def test_small_traces_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: int, kept: int
) -> None:
    monkeypatch.setattr(cache, "SMALLEST_BYTES", 200)
    monkeypatch.setattr(cache, "SMALLEST_GZIP_BYTES", 100)
    path = recorded(tmp_path / name, bytes(size))
    assert read(path) is None
    assert len(entries()) == kept


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_what_is_no_file_is_not_found(tmp_path: Path, name: str) -> None:
    assert cache.lookup(tmp_path / name) is None
    assert cache.keep(tmp_path / name, traces.busy()) is None


_LOOK_AND_KEEP = """
import sys, traces
from pathlib import Path
from dataclasses import replace
from probe.readers import cache
from same_trace import same
cache.SMALLEST_BYTES = 1
path = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(30):
    found = cache.lookup(path)
    assert found is None or same(found, replace(traces.busy(), path=str(path)))
    told = cache.keep(path, traces.busy())
    assert told is None, told
"""


def test_processes_that_keep_the_same_trace_at_once_all_succeed(source: Path) -> None:
    command = [sys.executable, "-c", _LOOK_AND_KEEP, str(source)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    workers = [subprocess.Popen(command, env=environment, text=True, **pipes) for _ in range(2)]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    told = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [(worker.returncode, text) for worker, text in zip(workers, told, strict=True)] == [(0, "")] * 2
    assert len(entries()) == 1 and not list(cache.directory().glob(".*.part"))


def test_looking_needs_nothing_heavy() -> None:
    code = "import sys, probe.readers.cache; print({'torch', 'pandas', 'dash', 'rich'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
