"""Does the training loop wait for the GIL, or for a core? Sampled with the loop, by a heartbeat.

A thread that asks to be woken is late for two reasons: no core was free, which the kernel counts as its run-queue
delay, or another thread held the GIL. Lateness less that delay is the wait for the GIL. The run-queue delay of the
loop's own thread says what the neighbours on the machine cost.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterable
from typing import Any

from probe.collectors.sampling import NotAvailable, Row, Tick

HOST = "host"


class GcPauses:
    """How long the garbage collector stopped the process; added up by gc's own callbacks."""

    def __init__(self) -> None:
        self.total_ns = 0
        self.longest_ns = 0
        self.collections = 0
        self._begun = 0

    def install(self) -> None:
        """Begin to count."""
        gc.callbacks.append(self._told)

    def remove(self) -> None:
        """Leave gc as it was."""
        if self._told in gc.callbacks:
            gc.callbacks.remove(self._told)

    def _told(self, phase: str, info: dict[str, Any]) -> None:
        """Runs in whatever thread collects, in the midst of the training: no more than two clock readings."""
        if phase == "start":
            self._begun = time.perf_counter_ns()
        elif self._begun:
            took = time.perf_counter_ns() - self._begun
            self.total_ns += took
            self.collections += 1
            if took > self.longest_ns:
                self.longest_ns = took


class RunQueue:
    """Time that a thread of this process ran, and waited for a core, from /proc/…/schedstat."""

    def __init__(self, thread: int) -> None:
        """`thread` is a native thread id. Raises OSError where the kernel does not count."""
        self._file = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self.read()

    def read(self) -> tuple[int, int]:
        """Nanoseconds on a core, and runnable without one; since the thread began. Raises OSError once it has ended."""
        ran, waited, *_ = os.pread(self._file, 128, 0).split()
        return int(ran), int(waited)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)


class HostSource:
    """The heartbeat, the loop's thread, and the garbage collector."""

    name = "host"
    in_driver = False

    def __init__(self, loop_thread: int | None = None, pauses: GcPauses | None = None) -> None:
        """`loop_thread`: native id of the thread that runs the steps; by default the one that makes this."""
        self.via: str | None = "heartbeat"
        self.missing: dict[str, str] = {}
        self._loop_id = threading.get_native_id() if loop_thread is None else loop_thread
        self._pauses = pauses or GcPauses()
        self._own: RunQueue | None = None
        self._loop: RunQueue | None = None
        self._own_before = 0
        self._before: tuple[int, int, int] | None = None  # at, ran, waited of the loop's thread
        self._gc_before = (0, 0)

    def open(self) -> None:
        """Without schedstat (not Linux, or a kernel without it) lateness cannot be divided."""
        self._pauses.install()
        try:
            self._own = RunQueue(threading.get_native_id())
            self._loop = RunQueue(self._loop_id)
        except (OSError, ValueError, AttributeError) as error:  # Windows lacks even the flag to open it with
            self.missing["gil_wait_s, loop_run_queue_fraction"] = f"no schedstat of threads: {error}"

    def rest(self) -> None:
        """Waking is measured from here."""
        if self._own is not None:
            self._own_before = self._own.read()[1]

    def read(self, tick: Tick) -> Iterable[Row]:
        values = {"heartbeat_late_s": max(0, tick.at_ns - tick.due_ns) * 1e-9}
        if self._own is not None:
            queued = (self._own.read()[1] - self._own_before) * 1e-9
            values["gil_wait_s"] = max(0.0, values["heartbeat_late_s"] - queued)
        values |= self._of_loop(tick.at_ns)
        total, count = self._pauses.total_ns, self._pauses.collections
        values["gc_pause_s"] = (total - self._gc_before[0]) * 1e-9
        values["gc_collections"] = float(count - self._gc_before[1])
        self._gc_before = total, count
        yield HOST, values

    def _of_loop(self, at_ns: int) -> dict[str, float]:
        """Which part of the time since the last reading the loop's thread ran, or waited for a core."""
        if self._loop is None:
            return {}
        try:
            ran, waited = self._loop.read()
        except (OSError, ValueError):  # the thread has ended
            self._loop.close()
            self._loop = None
            return {}
        before, self._before = self._before, (at_ns, ran, waited)
        if before is None or at_ns <= before[0]:
            return {}
        span = at_ns - before[0]
        return {
            "loop_on_cpu_fraction": min(1.0, (ran - before[1]) / span),
            "loop_run_queue_fraction": min(1.0, (waited - before[2]) / span),
        }

    def close(self) -> None:
        self._pauses.remove()
        for file in (self._own, self._loop):
            if file is not None:
                file.close()
        self._own = self._loop = None

    def about(self) -> dict[str, Any]:
        return {"gc_longest_pause_s": self._pauses.longest_ns * 1e-9}

    def forget(self) -> None:
        self._pauses.remove()


class MachineSource:
    """The whole machine and this process, once a second: cores, faults, disk, network, threads."""

    name = "machine"
    in_driver = False

    def __init__(self) -> None:
        self.via: str | None = "psutil"
        self.missing: dict[str, str] = {}
        self._psutil: Any = None
        self._process: Any = None
        self._before: tuple[int, dict[str, float]] | None = None
        self._cores_before: list[Any] = []

    def open(self) -> None:
        try:
            import psutil
        except ImportError as error:
            raise NotAvailable("the package psutil is missing; pip install psutil") from error
        self._psutil = psutil
        self._process = psutil.Process()

    def rest(self) -> None:
        return None

    def read(self, tick: Tick) -> Iterable[Row]:
        totals = self._totals()
        before, self._before = self._before, (tick.at_ns, totals)
        values = self._levels() | self._cores()
        if before is not None and tick.at_ns > before[0]:
            span_s = (tick.at_ns - before[0]) * 1e-9
            grown = {name: totals[name] - old for name, old in before[1].items() if name in totals}
            values |= {name: more / span_s for name, more in grown.items() if more >= 0}  # less: a thread has ended
        yield HOST, values

    def _ask(self, what: str, question: Any) -> Any:
        """One answer; None, with its reason kept, where this system has none. It is not asked again."""
        if what in self.missing:
            return None
        try:
            answer = question()
        except Exception as error:  # psutil raises what the system's files make of it
            self.missing[what] = f"{type(error).__name__}: {error}"
            return None
        if answer is None:
            self.missing[what] = "the system does not say"
        return answer

    def _totals(self) -> dict[str, float]:
        """What is counted since the beginning; its difference over time is the rate of that name."""
        totals: dict[str, float] = {}
        times = self._ask("process_cpu_cores", self._process.cpu_times)
        if times is not None:
            totals["process_cpu_cores"] = times.user + times.system
        faults = self._ask("page faults", _faults)
        if faults is not None:
            totals["minor_faults_per_s"], totals["major_faults_per_s"] = faults
        disk = self._ask("disk", self._psutil.disk_io_counters)
        if disk is not None:
            totals["disk_read_bytes_per_s"], totals["disk_write_bytes_per_s"] = disk.read_bytes, disk.write_bytes
        net = self._ask("network", self._psutil.net_io_counters)
        if net is not None:
            totals["network_receive_bytes_per_s"], totals["network_send_bytes_per_s"] = net.bytes_recv, net.bytes_sent
        queued = self._ask("run_queue_threads", _queued_s)
        if queued is not None:
            totals["run_queue_threads"] = queued  # seconds waited in a second: threads waiting on average
        throttled = self._ask("cgroup_throttled_fraction", _throttled_s)
        if throttled is not None:
            totals["cgroup_throttled_fraction"] = throttled
        return totals

    def _levels(self) -> dict[str, float]:
        values: dict[str, float] = {}
        threads = self._ask("threads", self._process.num_threads)
        if threads is not None:
            values["threads"] = float(threads)
        memory = self._ask("resident_bytes", self._process.memory_info)
        if memory is not None:
            values["resident_bytes"] = float(memory.rss)
        processes = self._ask("processes", self._psutil.pids)
        if processes is not None:
            values["processes"] = float(len(processes))
        load = self._ask("runnable", _runnable)
        if load is not None:
            values["runnable"] = load
        return values

    def _cores(self) -> dict[str, float]:
        """Busy share of each core since the last reading, and their sum in cores."""
        cores = self._ask("cores", lambda: self._psutil.cpu_times(percpu=True))
        before, self._cores_before = self._cores_before, cores or []
        values: dict[str, float] = {}
        for index, (old, new) in enumerate(zip(before, self._cores_before, strict=False)):
            total = sum(new) - sum(old)
            idle = new.idle - old.idle + getattr(new, "iowait", 0.0) - getattr(old, "iowait", 0.0)
            if total > 0:
                values[f"cpu{index}_busy_fraction"] = min(1.0, max(0.0, 1 - idle / total))
        if values:
            values["machine_busy_cores"] = sum(values.values())
        return values

    def about(self) -> dict[str, Any]:
        return {"cores": len(self._cores_before)}

    def close(self) -> None:
        return None

    def forget(self) -> None:
        return None


def _faults() -> tuple[float, float]:
    """Minor and major page faults of this process."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    return float(used.ru_minflt), float(used.ru_majflt)


def _queued_s() -> float:
    """Seconds that the threads of this process, as far as they still run, waited for a core."""
    waited = 0
    for thread in os.listdir("/proc/self/task")[:512]:  # noqa: PTH208 - names are all that is needed
        try:
            with open(f"/proc/self/task/{thread}/schedstat", "rb") as file:  # noqa: PTH123 - a pathlib object a thread
                waited += int(file.read().split()[1])
        except OSError:  # it ended meanwhile
            continue
    return waited * 1e-9


def _throttled_s() -> float | None:
    """Seconds for which the container's quota stopped this process's cgroup; None without one."""
    try:
        with open("/sys/fs/cgroup/cpu.stat", "rb") as file:  # noqa: PTH123
            rows = dict(row.split(None, 1) for row in file.read().splitlines())
    except FileNotFoundError:
        return None
    return int(rows[b"throttled_usec"]) * 1e-6 if b"throttled_usec" in rows else None


def _runnable() -> float:
    """Threads on the whole machine that run or want to."""
    with open("/proc/loadavg", "rb") as file:  # noqa: PTH123
        return float(file.read().split()[3].split(b"/")[0])
