"""The ways to read a trace that are compared, each to be run alone in a fresh process.

    python -m benchmarks.traces.candidates orjson FILE [STEPS]

What a candidate needs is imported inside it, so that a process pays for its own modules only. Those that consist of
parts say at the end what each part took: {"stages": {"load": 1.2, …}}, CPU seconds.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.traces.stages import Stages

BLOCK_BYTES = 1 << 20


def start(path: Path) -> None:
    """An interpreter that does nothing: part of every figure."""


def imports(path: Path) -> None:
    """Everything an analysis imports."""
    import probe.api  # noqa: F401


def read(path: Path) -> None:
    """The bytes, and nothing done with them."""
    path.read_bytes()


def orjson_loads(path: Path) -> None:
    """The whole file as Python objects, the garbage collector off: what a reader in pure Python starts from."""
    import orjson

    gc.disable()
    orjson.loads(path.read_bytes())


def msgspec_typed(path: Path) -> None:
    """The fields that most analyses need as typed structs: the floor of whole-file decoding."""
    import msgspec

    from benchmarks.traces.structs import File

    gc.disable()
    msgspec.json.decode(path.read_bytes(), type=File)


def gunzip_zlib(path: Path) -> None:
    """Unzip in blocks with the standard library's zlib."""
    import zlib

    unzip = zlib.decompressobj(wbits=31)
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            unzip.decompress(block)


def gunzip_isal(path: Path) -> None:
    """Unzip in blocks with ISA-L."""
    from isal import isal_zlib

    unzip = isal_zlib.decompressobj(wbits=31)
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            unzip.decompress(block)


def load(path: Path) -> None:
    """`probe.load(path)`."""
    import probe

    probe.load(path)


def load_one_step(path: Path, steps: str) -> None:
    """`probe.load(path, steps=(a, b))`."""
    import probe

    first, last = steps.split(":")
    read: Any = probe.load
    read(path, steps=(int(first), int(last)))


def analyze(path: Path) -> None:
    """`probe.analyze(path).to_json()`, told apart into importing and the rest."""
    stages = Stages()
    import probe.api

    stages.mark("start and import")
    probe.analyze(path).to_json()
    stages.mark("load and analyse")
    stages.print()


CANDIDATES: dict[str, Callable[..., None]] = {
    "start": start,
    "imports": imports,
    "read": read,
    "orjson": orjson_loads,
    "msgspec": msgspec_typed,
    "zlib": gunzip_zlib,
    "isal": gunzip_isal,
    "load": load,
    "load_one_step": load_one_step,
    "analyze": analyze,
}

if __name__ == "__main__":
    CANDIDATES[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
