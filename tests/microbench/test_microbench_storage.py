"""Are reads what they are called, is cold proven, and is nothing left behind however a run ends?"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import UnavailableError
from probe.machine.device import Device
from probe.microbench.storage import file as storage_file
from probe.microbench.storage import place as storage_place
from probe.microbench.storage import reads as storage_reads
from probe.microbench.storage import scratch as storage_scratch
from probe.microbench.storage import storage
from probe.microbench.storage.reads import BlockReads, FileReads, Hands
from probe.microbench.suite import Context
from probe.results.measurement import Measurement

MIB = 1 << 20
MOUNTS = r"""22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
23 22 0:21 / /proc rw - proc proc rw
24 22 0:40 / /data rw,relatime shared:3 - nfs4 user:secret@server:/export rw
25 22 0:41 / /my\040disk rw master:1 - xfs /dev/nvme0n1p2 rw
26 22 0:42 / /scratch rw - ext4 /dev/sdb1 rw
27 22 0:43 / /scratch rw - tmpfs tmpfs rw
28 22 0:44 / /home rw - fuse.encfs encfs rw
29 22 0:45 / /layer rw - overlay overlay rw,lowerdir=/a
"""
CLOCK_STEP_S = 1e-3


@pytest.fixture
def hands() -> Iterator[Hands]:
    with ThreadPoolExecutor(4) as pool:
        yield Hands(pool, time.perf_counter)


class Ticking:
    """A clock that moves on a millisecond each time it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.reads * CLOCK_STEP_S


class Recorder:
    """A target that remembers what was read of it, and how much of it would not be evicted."""

    def __init__(self, left: float = 0.0) -> None:
        self.blocks: list[tuple[int, int, int]] = []
        self.evictions = 0
        self.left = left

    def read(self, reader: int, block: int, offsets: Iterable[int]) -> None:
        self.blocks += [(reader, block, offset) for offset in offsets]

    def evict(self) -> float:
        self.evictions += 1
        return self.left


def context_at(path: Path, **more: Any) -> Context:
    context = Context(Device("cpu", "x", cores=2), 0.2, quick=True, **more)
    context.path = path  # type: ignore[attr-defined, unused-ignore]  # a field of the context by and by
    return context


@pytest.mark.parametrize(
    ("path", "type_", "device", "kind"),
    [
        ("/srv/x", "ext4", "/dev/sda1", "disk"),
        ("/data", "nfs4", None, "network"),
        ("/data/imagenet", "nfs4", None, "network"),
        ("/database", "ext4", "/dev/sda1", "disk"),
        ("/my disk/x", "xfs", "/dev/nvme0n1p2", "disk"),
        ("/scratch/x", "tmpfs", None, "memory"),
        ("/home/me", "fuse.encfs", None, "program"),
        ("/layer/x", "overlay", None, "overlay"),
    ],
)
def test_a_path_has_the_file_system_of_its_innermost_mount(
    path: str, type_: str, device: str | None, kind: storage_place.Kind
) -> None:
    place = storage_place.find(Path(path), MOUNTS)

    assert place == storage_place.Place(type_, device, kind)
    assert (place.warning(Path(path)) is None) == (kind == "disk")
    assert "secret" not in f"{place} {place.warning(Path(path))}"


@pytest.mark.parametrize("text", ["", "nonsense\n", "1 2 3\n4 - \n"])
def test_an_unknown_file_system_stays_unknown(text: str) -> None:
    assert storage_place.find(Path("/x"), text) == storage_place.UNKNOWN
    assert storage_place.UNKNOWN.warning(Path("/x")) is None


def test_the_directory_goes_with_its_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), storage_scratch.scratch(tmp_path) as directory:
        (directory / "small").mkdir()
        (directory / "small" / "x").write_bytes(b"x")
        assert directory.stat().st_mode & 0o077 == 0
        raise KeyboardInterrupt

    assert list(tmp_path.iterdir()) == []


ENDLESS = """
import signal, sys, time
from pathlib import Path
from probe.microbench.storage.scratch import scratch
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup makes the tests ignore it
with scratch(Path(sys.argv[1])) as directory:
    (directory / "x").write_bytes(b"x")
    print("ready", flush=True)
    time.sleep(60)
"""


def ended_by(number: int, path: Path) -> int:
    """The exit status of a process that `number` ends while it has its directory."""
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    process.communicate(timeout=30)
    return process.returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_process_leaves_nothing(number: int, tmp_path: Path) -> None:
    assert ended_by(number, tmp_path) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    assert ended_by(signal.SIGKILL, tmp_path) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()

    assert storage_scratch.sweep(tmp_path, time.time()) == []
    assert left.exists()
    assert storage_scratch.sweep(tmp_path, time.time() + 3700) == [left]
    assert not left.exists()


def test_only_our_own_directories_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("x")
    (tmp_path / f"{storage_scratch.PREFIX}link").symlink_to(elsewhere)
    (tmp_path / f"{storage_scratch.PREFIX}file").write_text("x")
    foreign = tmp_path / f"{storage_scratch.PREFIX}foreign"
    foreign.mkdir()
    later = time.time() + 3700
    monkeypatch.setattr(os, "getuid", lambda: 4242)

    assert storage_scratch.sweep(tmp_path, later) == []
    assert foreign.exists()
    assert (elsewhere / "kept").exists()
    monkeypatch.undo()
    assert storage_scratch.sweep(tmp_path, later) == [foreign]
    assert (elsewhere / "kept").exists()
    assert (tmp_path / f"{storage_scratch.PREFIX}file").exists()


@pytest.mark.parametrize(
    ("free", "quick", "allowed"),
    [
        (100 << 30, False, 1 << 30),
        (100 << 30, True, 64 * MIB),
        (2000 * MIB, False, 100 * MIB),
        (1000 * MIB, True, 50 * MIB),
    ],
)
def test_a_twentieth_of_the_free_space_is_used(
    free: int, quick: bool, allowed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free // 4096, f_frsize=4096))

    assert storage_scratch.allowed_bytes(tmp_path, quick=quick) == pytest.approx(allowed, abs=4096)


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=1000, f_frsize=4096))
    with pytest.raises(UnavailableError, match=r"3\.91 MiB are free.*another directory") as caught:
        list(storage.run(context_at(tmp_path)))

    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_file", full)
    with pytest.raises(UnavailableError, match="No space left on device; name another directory"):
        list(storage.run(context_at(tmp_path)))

    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UnavailableError, match="file is a file; name a directory"):
        list(storage.run(context_at(file)))
    with pytest.raises(UnavailableError, match="nowhere does not exist; name a directory"):
        list(storage.run(context_at(tmp_path / "nowhere")))

    def refuse(**options: object) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(UnavailableError, match="Read-only file system; name a directory"):
        list(storage.run(context_at(tmp_path)))


@given(
    region=st.integers(1, 64),
    readers=st.integers(1, 4),
    windows=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    order=st.sampled_from(["sequential", "random"]),
)
def test_a_cold_window_reads_no_block_twice(
    region: int, readers: int, windows: list[int], order: storage_reads.Order
) -> None:
    block = 4096
    region = max(region, readers) * block
    with ThreadPoolExecutor(4) as pool:
        target = Recorder()
        reads = BlockReads(Hands(pool, Ticking()), target, order, "cold", block, readers, region)  # type: ignore[arg-type]  # a stand-in
        for n in windows:
            target.blocks.clear()
            reads.window(n)
            offsets = [offset for _, _, offset in target.blocks]
            assert len(offsets) == len(set(offsets)) == min(n, reads.most) * readers
            assert all(0 <= offset <= region - block and offset % block == 0 for offset in offsets)
        assert target.evictions == len(windows)


def test_sequential_readers_each_have_their_part_and_go_on(hands: Hands) -> None:
    target = Recorder()
    reads = BlockReads(hands, target, "sequential", "cold", 10, 2, 80)  # type: ignore[arg-type]  # a stand-in
    reads.window(2)
    reads.window(2)

    assert [o for r, _, o in target.blocks if r == 0] == [0, 10, 20, 30]
    assert [o for r, _, o in target.blocks if r == 1] == [40, 50, 60, 70]


def test_warm_reads_may_go_round_and_evict_nothing(hands: Hands) -> None:
    target = Recorder()
    reads = BlockReads(hands, target, "sequential", "warm", 10, 1, 30)  # type: ignore[arg-type]  # a stand-in
    reads.window(7)

    assert [offset for _, _, offset in target.blocks] == [0, 10, 20, 0, 10, 20, 0]
    assert target.evictions == 0


def test_cold_work_is_what_is_read(hands: Hands) -> None:
    """However fast: a window never claims blocks beyond those there are."""
    target = Recorder()
    reads = BlockReads(hands, target, "random", "cold", 10, 2, 80)  # type: ignore[arg-type]  # a stand-in
    variant = storage_reads.variant(reads, "x", 0.05, 0.05, in_bytes=True)
    target.blocks.clear()
    variant.window()

    assert variant.work == 10 * len(target.blocks) == 80


@pytest.mark.parametrize(("longest_s", "blocks"), [(1.0, 32), (16e-3, 16), (2e-3, 4)])
def test_cold_sequential_windows_outlast_the_start_of_reading_ahead(
    longest_s: float, blocks: int, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless they would take too long: here a block takes a millisecond, and a window should take four."""
    target = Recorder()
    reads = BlockReads(hands, target, "sequential", "cold", MIB, 1, 64 * MIB)  # type: ignore[arg-type]  # a stand-in
    monkeypatch.setattr(BlockReads, "window", lambda self, n: n * 1e-3)

    assert storage_reads.variant(reads, "x", 4e-3, longest_s, in_bytes=True).work == blocks * MIB
    warm = BlockReads(hands, target, "sequential", "warm", MIB, 1, 64 * MIB)  # type: ignore[arg-type]  # a stand-in
    assert storage_reads.variant(warm, "x", 4e-3, longest_s, in_bytes=True).work == 4 * MIB


@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_small_files_are_read_whole(
    cache: storage_reads.Cache, hands: Hands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    evicted: list[Path] = []
    paths = [tmp_path / str(i) for i in range(10)]
    monkeypatch.setattr(storage_reads, "read_files", seen.extend)
    monkeypatch.setattr(storage_file, "evict_path", lambda path: evicted.append(path) or 0.0)
    FileReads(hands, paths, 100, cache, 2).window(4)

    assert len(seen) == 8
    assert set(seen) <= set(paths)
    assert sorted(evicted) == (sorted(seen) if cache == "cold" else [])
    assert len(set(seen)) == 8 or cache == "warm"


def test_what_is_written_is_synchronised_and_can_be_evicted(tmp_path: Path) -> None:
    path = tmp_path / "x"
    written = storage_file.write_file(path, 3 * MIB, 10.0, time.perf_counter)
    with storage_file.Target(path, 2, MIB) as target:
        assert written == target.size == path.stat().st_size == 3 * MIB
        if target.evict() > storage_file.COLD_FRACTION:
            pytest.skip("this file system keeps files in memory")
        assert target.cached(3 * MIB) == 0
        target.read(1, MIB, (0,))
        assert target.cached(MIB) == 1
        target.read(0, MIB, (MIB, 2 * MIB))
        assert target.cached(3 * MIB) == 1
        assert storage_file.evict_path(path) == 0
        assert target.cached(3 * MIB) == 0


def test_a_slow_disk_gets_a_smaller_file(tmp_path: Path) -> None:
    written = storage_file.write_file(tmp_path / "x", 64 * MIB, CLOCK_STEP_S / 2, Ticking())

    assert written == storage_file.CHUNK_BYTES


def test_small_files_differ_and_are_bounded_by_the_budget(
    tmp_path: Path, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "fdatasync", raising=False)  # macOS has none
    paths = storage_file.write_files(tmp_path / "small", 40, 5000, 60.0, time.perf_counter, hands.pool)
    few = storage_file.write_files(tmp_path / "few", 40, 5000, CLOCK_STEP_S / 2, Ticking(), hands.pool)

    assert len(paths) == 40
    assert len(few) == 32  # one batch
    assert {path.stat().st_size for path in paths} == {5000}
    assert len({path.read_bytes() for path in paths}) == 40


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(2 * MIB))
    with storage_file.Target(path, 1, MIB) as target:
        os.truncate(path, MIB)
        with pytest.raises(UnavailableError, match="shorter"):
            target.read(0, MIB, (MIB,))


def test_a_checkpoint_is_whole_and_its_parts_are_timed(tmp_path: Path) -> None:
    checkpoint = storage.Checkpoint(tmp_path, 2, context_at(tmp_path, clock=Ticking()))
    first = checkpoint.window()
    before = (tmp_path / "checkpoint").read_bytes()
    checkpoint.window()
    after = (tmp_path / "checkpoint").read_bytes()

    assert first == pytest.approx(2 * CLOCK_STEP_S)
    assert checkpoint.fsync_fractions == pytest.approx([0.5, 0.5])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert len(before) == len(after) == 2 * storage.CHECKPOINT_STEP_BYTES
    assert all(before[at : at + 4096] != after[at : at + 4096] for at in range(0, len(after), 4096))


def test_nothing_is_named_before_it_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def note_sync(fd: int) -> None:
        done.append(f"fsync {Path(f'/proc/self/fd/{fd}').readlink().name}")
        sync(fd)

    def note_replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    storage.Checkpoint(tmp_path, 1, context_at(tmp_path)).window()
    storage_file.write_file(tmp_path / "large", MIB, 1.0, time.perf_counter)

    assert done == ["fsync checkpoint.new", "rename", f"fsync {tmp_path.name}", "fsync large"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little to write: 32 MiB altogether."""
    monkeypatch.setattr(storage, "allowed_bytes", lambda path, quick: 32 * MIB)


def by_pattern(found: list[Measurement]) -> dict[tuple[Any, ...], Measurement]:
    keys = ("pattern", "block_bytes", "cache", "readers")
    return {tuple(m.params.get(key) for key in keys): m for m in found}


@pytest.mark.usefixtures("small")
def test_everything_is_measured_and_removed(tmp_path: Path) -> None:
    found = list(storage.run(context_at(tmp_path)))
    table = by_pattern(found)
    kinds = {m.params["pattern"] for m in found}

    assert kinds == {"checkpoint", "sequential", "random", "files", "listing"}
    assert list(tmp_path.iterdir()) == []
    assert all(0 < m.min <= max(m.value, m.median) and m.n >= 1 for m in found)
    one = table["files", None, "warm", 1]
    assert one.params["images_per_s"] == pytest.approx(1 / one.median)
    assert one.params["bytes_per_s"] == pytest.approx(storage.FILE_BYTES / one.median)
    assert (one.metric, one.unit) == ("latency", "s")
    random = table["random", 4096, "warm", storage.FEWEST_READERS]
    assert random.metric == "time"
    assert random.params["reads_per_s"] == pytest.approx(1 / random.median)
    written = table["checkpoint", None, None, None]
    assert written.params["checkpoint_s_per_gib"] == pytest.approx((1 << 30) / written.median)
    assert 0 <= written.params["fsync_fraction"] <= 1


@pytest.mark.usefixtures("small")
def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    running = storage.run(context_at(tmp_path))
    next(running)
    assert len(list(tmp_path.iterdir())) == 1
    running.close()  # type: ignore[attr-defined]  # a generator, which is what is tested

    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small")
def test_no_cold_reads_where_files_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_file.Target, "evict", lambda self: 1.0)
    context = context_at(tmp_path)
    found = list(storage.run(context))

    assert {m.params.get("cache", "warm") for m in found} == {"warm"}
    assert [w for w in context.warnings if "no cold reads: 100%" in w]


@pytest.mark.usefixtures("small")
def test_cold_reads_that_were_partly_cached_are_flagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_file.Target, "evict", lambda self: 0.1)
    found = list(storage.run(context_at(tmp_path)))
    cold = [m for m in found if m.params.get("cache") == "cold" and m.params["pattern"] != "files"]

    assert cold
    assert all("cached" in m.flags for m in cold)
    assert not [m for m in found if m.params.get("cache") == "warm" and "cached" in m.flags]


@pytest.mark.usefixtures("small")
def test_a_file_system_without_direct_reads_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = storage_file.Target.__init__

    def refuse(self: storage_file.Target, path: Path, readers: int, largest: int, *, direct: bool = False) -> None:
        if direct:
            raise OSError(22, "Invalid argument")
        real(self, path, readers, largest)

    monkeypatch.setattr(storage_file.Target, "__init__", refuse)
    monkeypatch.setattr(storage_file.Target, "evict", lambda self: 0.0)
    context = context_at(tmp_path)
    found = list(storage.run(context))

    assert not [m for m in found if m.params.get("cache") == "direct"]
    assert len([w for w in context.warnings if "no direct reads" in w]) == 1


@pytest.mark.usefixtures("small")
def test_memory_is_called_memory_and_has_no_direct_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_place, "find", lambda path, mounts: storage_place.Place("tmpfs", None, "memory"))
    context = context_at(tmp_path)
    found = list(storage.run(context))

    assert not [m for m in found if m.params.get("cache") == "direct"]
    assert {m.params["filesystem"] for m in found} == {"tmpfs"}
    assert [w for w in context.warnings if "lies in memory (tmpfs)" in w]
