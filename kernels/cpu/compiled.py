"""How are the measuring loops made where executable memory is refused? `cc` builds cpu_loops.c, once per content.

The library lies in the user's cache directory under the hash of the source, the compiler and its flags; it is built
beside and renamed into place, so that two processes never see half of it.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from pathlib import Path

from probe.errors import UnavailableError
from probe.files import atomic_path, cache_directory
from probe.kernels.cpu.loops import (
    ADDS_TYPE,
    ALL_STREAMS,
    CHASE_TYPE,
    LOAD_WIDTHS,
    READ,
    LoadLoop,
    Loops,
    load_symbol,
    stream_type,
)

SOURCE = Path(__file__).with_name("cpu_loops.c")
# No loop-distribute-patterns: it would turn the copy loop into a call of memcpy.
FLAGS = ("-O3", "-march=native", "-fno-tree-loop-distribute-patterns", "-shared", "-fPIC")
BUILD_TIMEOUT_S = 60


def load(directory: Path | None = None) -> Loops:
    """The measuring loops compiled by `cc`; UnavailableError where there is no compiler or it fails.

    Loops that the processor has no instructions for (wide loads, non-temporal stores) are not in the library.
    """
    library = ctypes.CDLL(str(build(directory)))
    return Loops(
        origin="compiled",
        instruction_set="compiler",
        chase=CHASE_TYPE(("probe_chase", library)),
        adds=ADDS_TYPE(("probe_adds", library)),
        stream={
            kind: stream_type(kind)((kind.symbol, library)) for kind in ALL_STREAMS if hasattr(library, kind.symbol)
        },
        loads=tuple(
            LoadLoop(width, stream_type(READ)((load_symbol(width), library)))
            for width in LOAD_WIDTHS
            if hasattr(library, load_symbol(width))
        ),
    )


def build(directory: Path | None = None) -> Path:
    """The shared library's path, built if it is not there yet."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise UnavailableError("there is no C compiler either: install one (cc) to measure caches here")
    directory = directory or cache_directory() / "kernels"
    recipe = SOURCE.read_bytes() + " ".join((compiler, *FLAGS, _cpu())).encode()
    path = directory / f"cpu_loops-{hashlib.sha256(recipe).hexdigest()[:16]}.so"
    if not path.exists():
        _compile(compiler, path)
    return path


def _cpu() -> str:
    """What -march=native depends on, so that a cache shared between machines stays right."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = text.split("\n\n")[0].splitlines()
    return "".join(line for line in lines if line.startswith(("model", "cpu family", "flags", "Features")))


def _compile(compiler: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as part:
            command = [compiler, *FLAGS, "-o", str(part), str(SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=BUILD_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as failed:
        raise UnavailableError(f"{compiler} could not build {SOURCE.name}: {failed}") from None
