"""What does a command cost? CPU seconds and peak memory of its whole process tree, each in a fresh process."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SAMPLE_S = 0.01
_KEPT = {"PYTHONDONTWRITEBYTECODE": ""}  # modules are compiled once, as for everybody whose settings do not forbid it
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Cost:
    """What one run of a command took."""

    cpu_s: float  # user and system, of the command and all processes it waited for
    system_s: float  # the system's part of that: mapping memory, which varies most between runs
    wall_s: float
    peak_bytes: int  # resident, summed over the processes that live at once; a shared page counts for each
    exit_code: int
    error: str | None  # the last line it complained with, where it failed
    stages: dict[str, float] = field(default_factory=dict)  # CPU seconds of its parts, where it says them
    failed: dict[str, str] = field(default_factory=dict)  # parts that failed, and how


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None, limit_s: float = 3600.0) -> Cost:
    """Run a command and measure it; its output is thrown away but for a last line that starts with {"stages"."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        begin = time.perf_counter()
        child = subprocess.Popen(
            [str(word) for word in command], stdout=output, stderr=errors, env={**os.environ, **_KEPT, **(env or {})}
        )
        watch = _Watch(child.pid)
        killer = threading.Timer(limit_s, child.kill)
        killer.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - begin
        killer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)  # subprocess must not wait for it again
        complaint = None if child.returncode == 0 else _last_line(errors) or f"exit code {child.returncode}"
        return Cost(
            cpu_s=usage.ru_utime + usage.ru_stime,
            system_s=usage.ru_stime,
            wall_s=wall_s,
            peak_bytes=watch.stop(),  # not ru_maxrss: that starts at what this process held when it forked
            exit_code=child.returncode,
            error=complaint,
            **_report(_last_line(output)),
        )


class _Watch:
    """Sum of the resident memory of a process and its descendants, sampled until stopped."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(_SAMPLE_S):
            now = sum(_resident_bytes(pid) for pid in _tree(self._pid))
            self._peak = max(self._peak, now, _highest_bytes(self._pid))

    def stop(self) -> int:
        """The highest sum seen, bytes."""
        self._done.set()
        self._thread.join()
        return self._peak


def _tree(pid: int) -> list[int]:
    """The process and its living descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):  # it ended while we looked
            for task in Path(f"/proc/{parent}/task").iterdir():
                found.extend(int(child) for child in (task / "children").read_text().split())
    return found


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):  # it ended while we looked
        return 0


def _highest_bytes(pid: int) -> int:
    """The most that one process held so far, samples or not."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:  # it ended while we looked
        return 0
    return int(found[1]) * 1024 if found else 0


def _last_line(file: Any) -> str:
    """The last line of what was written to an open file."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
    text = (
        file.read().decode(errors="replace").replace(f"{Path.cwd()}/", "")
    )  # results are kept: no one's paths in them
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def _report(line: str) -> dict[str, dict[str, Any]]:
    """What a command says of its parts on its last line, as `stages.Stages` prints it."""
    report: dict[str, dict[str, Any]] = json.loads(line) if line.startswith('{"stages"') else {}
    return report


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
