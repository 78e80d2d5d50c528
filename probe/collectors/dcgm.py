"""What do the GPUs do, by DCGM? Through its exporter, else `dcgmi dmon`, else the installed bindings.

Nothing is started but a `dcgmi` that reads, and nothing is set: a host engine that does not run stays so. Which way was
taken, and why the ways before it were not, is told.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from probe.collectors.dcgm_fields import PREFIX, Reading, read_named, read_numbered
from probe.collectors.prometheus import PageError, fetch, parse
from probe.collectors.sampling import NotAvailable, Row, Tick
from probe.errors import UnavailableError
from probe.machine import nvml

URL_VARIABLE = "PROBE_DCGM_URL"
EXPORTER = "http://127.0.0.1:9400/metrics"  # dcgm-exporter's default
WATCHED = (*range(1001, 1017), 100, 101, 112, 140, 150, 155, 156, 203, 204, 252)
BINDINGS = ("/usr/share/datacenter-gpu-manager-4/bindings/python3", "/usr/local/dcgm/bindings/python3")
COMMAND_TIMEOUT_S = 5.0
MOST_PENDING = 1 << 20  # bytes of a dcgmi that prints without ending a line

_ROW = re.compile(r"\s*((?:GPU|GPU-I|GPU-CI)\s+\S+)\s+(.*)")
_DISCOVERED = re.compile(r"\|\s*(\d+)\s*\|")
_UUID = re.compile(r"Device UUID:\s*(GPU-[0-9A-Za-z-]+)")


class Way(Protocol):
    """One way to DCGM."""

    via: str

    def rows(self) -> Iterable[tuple[str, list[Reading]]]:
        """What each device says now. Raises PageError or OSError."""

    def close(self) -> None:
        """Leave everything as it was."""


class DcgmSource:
    """The first way that answers."""

    name = "dcgm"
    in_driver = False

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.via: str | None = None
        self.missing: dict[str, str] = {}
        self.unused: dict[str, str] = {}
        self._environ = environ
        self._way: Way | None = None

    def open(self) -> None:
        if not self._environ.get(URL_VARIABLE) and not _has_gpu():
            raise NotAvailable("no NVIDIA GPU here")
        ways: tuple[tuple[str, Callable[[], Way]], ...] = (
            ("exporter", lambda: Exporter(self._environ.get(URL_VARIABLE) or EXPORTER)),
            ("dcgmi", lambda: Dmon(self._environ.get("PATH", os.defpath))),
            ("bindings", lambda: Bindings(BINDINGS)),
        )
        for name, make in ways:
            if self._way is not None:
                self.unused[name] = f"{self._way.via} was used"
                continue
            try:
                self._way = make()
            except (PageError, OSError, subprocess.SubprocessError) as error:
                self.unused[name] = " ".join(str(error).split())[:300]
        if self._way is None:
            raise NotAvailable("; ".join(f"{name}: {reason}" for name, reason in self.unused.items()))
        self.via = self._way.via

    def rest(self) -> None:
        return None

    def read(self, tick: Tick) -> Iterable[Row]:
        assert self._way is not None
        for entity, readings in self._way.rows():
            values = {}
            for reading in readings:
                if reading.value is not None:
                    values[reading.quantity] = reading.value
                elif len(self.missing) < 200:
                    self.missing[f"{entity}: {reading.quantity}"] = reading.reason or "no value"
            yield entity, values

    def about(self) -> dict[str, Any]:
        return {"unused": dict(self.unused)}

    def close(self) -> None:
        if self._way is not None:
            self._way.close()

    def forget(self) -> None:
        if isinstance(self._way, Dmon):
            self._way.forget()


def _has_gpu() -> bool:
    try:
        with nvml.opened() as lib:
            return bool(nvml.handles(lib))
    except UnavailableError:
        return False


class Exporter:
    """A dcgm-exporter that runs already."""

    def __init__(self, url: str) -> None:
        """Raises PageError where it does not answer with DCGM's metrics."""
        self.via = url
        self._labels: dict[str, dict[str, str]] = {}
        if not any(True for _ in self.rows()):
            raise PageError(f"{url} answers, but not with DCGM metrics")

    def rows(self) -> Iterable[tuple[str, list[Reading]]]:
        page = parse(fetch(self.via), self._labels)
        found: dict[str, list[Reading]] = {}
        for metric in page.metrics:
            if not metric.name.startswith(PREFIX):
                continue
            reading = read_named(metric.name, metric.text, page.help.get(metric.name, ""))
            if reading is not None:
                found.setdefault(entity_of(metric.labels), []).append(reading)
        return list(found.items())

    def close(self) -> None:
        return None


def entity_of(labels: Mapping[str, str]) -> str:
    """UUID, and the instance of a MIG slice; of a page without UUIDs the host's number of the GPU."""
    uuid = labels.get("UUID") or labels.get("uuid")
    host = labels.get("hostname") or labels.get("Hostname") or ""
    device = uuid or f"{host} GPU {labels.get('gpu', '?')}".strip()
    instance = labels.get("GPU_I_ID")
    return f"{device}/{instance}" if instance else device


class Dmon:
    """A `dcgmi dmon` child, which prints a row for each GPU and second. It ends with us: nobody reads its pipe."""

    def __init__(self, path: str = os.defpath, delay_ms: int = 1000) -> None:
        """Raises PageError without the command, OSError where it cannot be run."""
        command = shutil.which("dcgmi", path=path)
        if command is None:
            raise PageError("no dcgmi on the PATH")
        self.via = f"{command} dmon"
        self._uuids = discovered(command)
        self._pending = b""
        words = [command, "dmon", "-e", ",".join(map(str, WATCHED)), "-d", str(delay_ms)]
        self._child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert self._child.stdout is not None
        self._out = self._child.stdout.fileno()
        os.set_blocking(self._out, False)

    def rows(self) -> Iterable[tuple[str, list[Reading]]]:
        """The rows that were printed since the last time; the newest of each device."""
        lines = self._lines()
        found = {}
        for line in lines:
            match = _ROW.match(line)
            if match is None:
                continue
            values = match[2].split()
            if len(values) == len(WATCHED):
                readings = [read_numbered(number, text) for number, text in zip(WATCHED, values, strict=True)]
                entity = " ".join(match[1].split())
                found[self._uuids.get(entity, f"DCGM's {entity}")] = [r for r in readings if r is not None]
        if not found and self._child.poll() is not None:
            raise PageError(f"{self.via} ended with {self._child.returncode}: {' '.join(lines)[:200]}")
        return list(found.items())

    def _lines(self) -> list[str]:
        data = self._pending
        while len(data) < MOST_PENDING:
            try:
                piece = os.read(self._out, 1 << 16)
            except BlockingIOError:
                break
            if not piece:
                break
            data += piece
        *lines, self._pending = data.split(b"\n")
        if len(self._pending) >= MOST_PENDING:
            self._pending = b""
        return [line.decode("utf-8", "replace") for line in lines]

    def close(self) -> None:
        self._child.terminate()
        try:
            self._child.wait(1.0)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(1.0)
        if self._child.stdout is not None:
            self._child.stdout.close()

    def forget(self) -> None:
        """In a forked child: the process is not ours to wait for."""
        self._child.returncode = 0


def discovered(command: str) -> dict[str, str]:
    """`GPU 0` of dcgmi -> UUID, by `dcgmi discovery -l`; empty where that says nothing."""
    try:
        told = subprocess.run(
            [command, "discovery", "-l"], stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    uuids: dict[str, str] = {}
    number = ""
    for line in told.stdout.decode("utf-8", "replace").splitlines():
        begun, uuid = _DISCOVERED.match(line), _UUID.search(line)
        number = begun[1] if begun is not None else number
        if uuid is not None and number:
            uuids[f"GPU {number}"] = uuid[1]
    return uuids


class Bindings:
    """DCGM's own Python files, as its package installs them; connects to a host engine that runs, never embeds one."""

    def __init__(self, directories: tuple[str, ...]) -> None:
        """Raises PageError where they are not there, or no host engine answers."""
        directory = next((one for one in directories if (Path(one) / "pydcgm.py").is_file()), None)
        if directory is None:
            raise PageError("no pydcgm in " + " or ".join(directories))
        self.via = f"pydcgm of {directory}"
        pydcgm = _imported(directory)
        try:
            self._handle = pydcgm.DcgmHandle(ipAddress="127.0.0.1")
            system = self._handle.GetSystem()
            self._group = system.GetDefaultGroup()
            self._fields = pydcgm.DcgmFieldGroup(self._handle, f"probe-{os.getpid()}", list(WATCHED))
            self._group.samples.WatchFields(self._fields, 1_000_000, 60.0, 0)
        except Exception as error:  # DCGM's errors derive from Exception alone, in modules only these files have
            raise PageError(f"{self.via}: {type(error).__name__}: {error}") from error
        self._uuids = dict(_uuids_of(system))

    def rows(self) -> Iterable[tuple[str, list[Reading]]]:
        latest = self._group.samples.GetLatest_v2(self._fields).values
        found = []
        for entities in latest.values():
            for entity, series in entities.items():
                readings = [read_numbered(n, str(s.values[-1].value)) for n, s in series.items() if len(s.values)]
                found.append((self._uuids.get(entity, f"DCGM's GPU {entity}"), [r for r in readings if r is not None]))
        return found

    def close(self) -> None:
        self._fields.Delete()
        self._handle.Shutdown()


def _imported(directory: str) -> Any:
    """pydcgm, with its directory on the path while it is imported and no longer."""
    sys.path.insert(0, directory)
    try:
        return importlib.import_module("pydcgm")
    except Exception as error:
        raise PageError(f"pydcgm of {directory}: {type(error).__name__}: {error}") from error
    finally:
        if directory in sys.path:
            sys.path.remove(directory)


def _uuids_of(system: Any) -> Iterable[tuple[int, str]]:
    for number in system.discovery.GetAllGpuIds():
        attributes = system.discovery.GetGpuAttributes(number)
        uuid = attributes.identifiers.uuid
        yield number, uuid.decode() if isinstance(uuid, bytes) else str(uuid)
