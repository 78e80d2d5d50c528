"""Tiny traces, event by event, in the form Kineto writes them. Times are microseconds."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

Event = dict[str, Any]
_ids = itertools.count(1)


def event(cat: str, name: str, start: float, duration: float, tid: Any = 1, **args: Any) -> Event:
    return {"ph": "X", "cat": cat, "name": name, "pid": 7, "tid": tid, "ts": start, "dur": duration, "args": args}


def op(name: str, start: float, duration: float, tid: Any = 1, **args: Any) -> Event:
    return event("cpu_op", name, start, duration, tid, **{"External id": next(_ids), **args})


def step(number: int, start: float, duration: float) -> Event:
    return event("user_annotation", f"ProfilerStep#{number}", start, duration)


def launch(
    correlation: int, start: float, duration: float = 1.0, name: str = "cudaLaunchKernel", tid: Any = 1
) -> Event:
    return event("cuda_runtime", name, start, duration, tid, correlation=correlation)


def kernel(name: str, start: float, duration: float, correlation: int, stream: int = 7, **args: Any) -> Event:
    known = {"device": 0, "stream": stream, "correlation": correlation, "grid": [8, 1, 1], "block": [128, 1, 1]}
    return event("kernel", name, start, duration, stream, **{**known, **args})


def copy(name: str, start: float, duration: float, correlation: int, size: int) -> Event:
    return event("gpu_memcpy", name, start, duration, 7, device=0, stream=7, correlation=correlation, bytes=size)


def shapes(*dims: list[int], dtype: str = "float") -> dict[str, Any]:
    """The arguments that record_shapes adds for tensors of these sizes."""
    return {"Input Dims": list(dims), "Input type": [dtype] * len(dims)}


GPU = [{"id": 0, "name": "NVIDIA Test GPU", "computeMajor": 9, "computeMinor": 0, "numSms": 132}]


def document(events: list[Any], **head: Any) -> dict[str, Any]:
    return {"schemaVersion": 1, "deviceProperties": [], "baseTimeNanoseconds": 0, **head, "traceEvents": events}


def write(directory: Path, events: list[Any], name: str = "trace.json", **head: Any) -> Path:
    """A trace file; gzipped where the name says so."""
    text = json.dumps(document(events, **head)).encode()
    path = directory / name
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def gpu_step() -> list[Event]:
    """One step: a matrix product and an addition on a GPU, with a copy from the host; nested operators."""
    return [
        step(3, 0, 100),
        op("aten::linear", 5, 30, **shapes([4, 8], [8, 16])),
        op("aten::addmm", 10, 20, **shapes([16], [4, 8], [8, 16])),
        launch(1, 15),
        op("aten::add", 40, 10, **shapes([4, 16], [4, 16])),
        launch(2, 42),
        op("aten::copy_", 55, 10, **shapes([4, 16], [4, 16])),
        launch(3, 57, name="cudaMemcpyAsync"),
        kernel("sgemm", 20, 30, 1),
        kernel("void at::native::add<float>(int)", 52, 5, 2),
        copy("Memcpy HtoD (Pageable -> Device)", 60, 8, 3, 256),
    ]
